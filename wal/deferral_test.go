package wal

import (
	"context"
	"sync/atomic"
	"testing"
	"time"

	"github.com/mtawal/mtawal/internal/disk/memdisk"
	"github.com/mtawal/mtawal/segment"
)

// Forty tries over five days are forty small records: the body is not written again, nor
// is the message.
func TestRetriesAreSmall(t *testing.T) {
	t.Parallel()
	scenario(t, func(t *testing.T) {
		const tries, body = 40, 600 << 10
		fs := memdisk.New(memdisk.Config{})
		o := roomy(fs)
		s := started(t, o)
		posted(t, s, string(make([]byte, body)))
		time.Sleep(time.Second)
		size := func() int64 { st := s.Stats(); return st.LiveBytes + st.DeadBytes }
		before, live := size(), s.Stats().LiveBytes
		for try := range tries {
			d := taken(t, s)
			if d.Recipients[0].Attempts != try || try > 0 && len(d.Recipients[0].Note) != 500 {
				t.Fatalf("try %d: %+v", try, d.Recipients[0])
			}
			err := d.Settle(t.Context(), []Outcome{{Recipient: 0, Result: Deferred, Until: time.Now().Add(3 * time.Hour), Note: make([]byte, 500)}})
			if err != nil {
				t.Fatal(err)
			}
			time.Sleep(time.Second)
			if s.Stats().Deferred != 1 {
				t.Fatalf("%+v", s.Stats())
			}
		}
		// A frame for the attempt, one for the outcome, one for the Marker, and what the end of a
		// segment takes.
		const frames = 3
		if grown := size() - before; grown > tries*frames*segment.AlignmentMin+16*segment.AlignmentMin {
			t.Errorf("%d tries took %d bytes of log", tries, grown)
		}
		if s.Stats().LiveBytes != live {
			t.Errorf("the message held %d bytes, now %d", live, s.Stats().LiveBytes)
		}
		ended(t, s)
		records := map[string]int{}
		if err := Dump(spool, o, false, func(r *DumpRecord) error { records[r.Kind]++; return nil }); err != nil {
			t.Fatal(err)
		}
		if records["enqueue"] != 1 || records["settle"] != tries {
			t.Errorf("the log holds %v", records)
		}
	})
}

// The clock of the machine is set while mail waits. Forward: what it has passed is due, at
// the pace of those who claim. Back: what was due stays due, what waits comes when the clock
// shows its time, and no sooner; nothing is lost.
func TestClockIsSet(t *testing.T) {
	scenario(t, func(t *testing.T) {
		var offset atomic.Int64
		now := func() time.Time { return time.Now().Add(time.Duration(offset.Load())) }
		set := func(d time.Duration) { offset.Add(int64(d)) }
		o := tiny(memdisk.New(memdisk.Config{}))
		o.now = now
		s := started(t, o)
		c := must(s.Consumer(ConsumerOptions{InFlight: 2}))(t)
		soon := func() int { // how many come within what the clock may sleep
			n := 0
			for {
				ctx, cancel := context.WithTimeout(t.Context(), clockMax)
				d, err := c.Next(ctx)
				cancel()
				if err != nil {
					return n
				}
				n++
				defer d.Release()
			}
		}
		putOff := func(n int, until time.Time) {
			for range n {
				posted(t, s, "x")
			}
			for range n {
				d, ok := c.TryNext("q")
				if !ok {
					t.Fatal("nothing is due")
				}
				if err := d.Settle(t.Context(), []Outcome{{Recipient: All, Result: Deferred, Until: until}}); err != nil {
					t.Fatal(err)
				}
			}
		}
		none := func(what string) {
			t.Helper()
			if n := soon(); n != 0 {
				t.Fatalf("%s: %d came", what, n)
			}
		}

		putOff(3, now().Add(time.Hour))
		none("before its time")
		set(-24 * time.Hour)
		none("a day back")
		time.Sleep(2 * time.Hour)
		none("an hour later by another clock")
		set(30 * time.Hour)
		if n := soon(); n != 2 { // no more than its InFlight
			t.Fatalf("a day forward again: %d came", n)
		}
		time.Sleep(time.Second) // for those that were released
		if st := s.Stats(); st.Pending != 3 || st.Deferred != 0 {
			t.Fatalf("%+v", st)
		}
		set(-48 * time.Hour)
		if n := soon(); n != 2 {
			t.Fatalf("what was due is not any more when the clock is set back: %d came", n)
		}
		time.Sleep(time.Second)
		if st := s.Stats(); st.Pending+st.Deferred != 3 { // what came back is judged by the clock again
			t.Fatalf("%+v", st)
		}
		if _, err := s.Commit(t.Context(), Batch{Edit: []Edit{{ID: 1, Outcomes: removed}, {ID: 2, Outcomes: removed}, {ID: 3, Outcomes: removed}}}); err != nil {
			t.Fatal(err)
		}

		// A pause lasts until the clock shows its end.
		posted(t, s, "y")
		c.Pause("q", now().Add(time.Hour))
		none("paused")
		set(2 * time.Hour)
		if n := soon(); n != 1 {
			t.Fatalf("behind the pause: %d", n)
		}
		time.Sleep(time.Second)

		// What expired by a clock that was wrong is fresh again when it is right, unless it was
		// settled meanwhile.
		m := mailing("z")
		m.ExpiresAt = now().Add(time.Hour)
		must(s.Commit(t.Context(), Batch{Enqueue: []Message{m}, Edit: []Edit{{ID: 4, Outcomes: removed}}}))(t)
		set(24 * time.Hour)
		d := must(c.Next(t.Context()))(t)
		d.Release()
		time.Sleep(time.Second)
		if !d.Expired {
			t.Error("not expired by a clock a day ahead")
		}
		set(-24 * time.Hour)
		if d = must(c.Next(t.Context()))(t); d.Expired {
			t.Error("still expired by a clock set right")
		}
		d.Release()
		ended(t, s)
	})
}

var removed = []Outcome{{Recipient: All, Result: Removed}}
