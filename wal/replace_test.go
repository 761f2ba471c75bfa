package wal

import (
	"fmt"
	"testing"

	"github.com/mtawal/mtawal/internal/disk/memdisk"
)

// A list of 100,000 takes the place of its one address, in one commit and with the body
// where it is, and is handed out to all, each once; a crash on the way leaves all or nothing.
func TestReplacedByALargeList(t *testing.T) {
	t.Parallel()
	scenario(t, func(t *testing.T) {
		members := 100_000
		if testing.Short() {
			members = 10_000
		}
		fs := memdisk.New(memdisk.Config{})
		o := Options{SegmentSize: 32 << 20, fs: fs}
		s := started(t, o)
		posted(t, s, "to all")
		list := make([]Recipient, members)
		for i := range list {
			list[i] = Recipient{Queue: fmt.Sprint("to ", i%100), Address: fmt.Sprint("member ", i)}
		}
		before := s.log.Appended()
		d := taken(t, s)
		if err := d.Settle(t.Context(), []Outcome{{Recipient: 0, Result: Replaced, Replace: list}}); err != nil {
			t.Fatal(err)
		}
		if grown := s.log.Appended() - before; grown > int64(members)*64 {
			t.Errorf("the log grew by %d bytes", grown)
		}
		killed := fs.Clone()
		killed.Kill()
		ended(t, s)
		for _, fs := range []*memdisk.FS{fs, killed} {
			o.fs = fs
			s := started(t, o)
			if st := s.Stats(); st.Pending != int64(members) || st.Messages != 1 || st.Used.Replaced != 1 {
				t.Fatalf("after reopening: %+v", st)
			}
			c, err := s.Consumer(ConsumerOptions{MaxRecipients: 1000, InFlight: InFlightMax})
			if err != nil {
				t.Fatal(err)
			}
			seen := make([]bool, members)
			for n := 0; n < members; {
				d, err := c.Next(t.Context())
				if err != nil {
					t.Fatal(err)
				}
				if text, err := textOf(d); text != "to all" {
					t.Fatalf("the body is %q: %v", text, err)
				}
				for _, r := range d.Recipients {
					i := r.Index - 1
					if r.Address != list[i].Address || d.Queue != list[i].Queue || seen[i] {
						t.Fatalf("recipient %d is %q in %q, seen %v", r.Index, r.Address, d.Queue, seen[i])
					}
					seen[i] = true
					n++
				}
				if err := d.SettleAll(t.Context(), Delivered); err != nil {
					t.Fatal(err)
				}
			}
			if st := s.Stats(); st.WorkQueueLength != 0 || st.LiveBytes != 0 {
				t.Errorf("at the end: %+v", st)
			}
			ended(t, s)
		}
	})
}
