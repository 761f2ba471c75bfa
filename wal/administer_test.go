package wal

import (
	"errors"
	"fmt"
	"io/fs"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/mtawal/mtawal/internal/disk/memdisk"
	"github.com/mtawal/mtawal/mailq"
)

// administered opens a store to administer it, on the disk that an owner left.
func administered(o Options) Options {
	return Options{Administer: true, SegmentSize: o.SegmentSize, claims: o.claims, fs: o.fs}
}

// What was being delivered when the owner died gets the owner's policy at the owner's next opening, however many
// administer the store in between, and however they or the machine end at any step. Nothing else is in doubt.
func TestAdministeredStoreKeepsDoubtForItsOwner(t *testing.T) {
	ends := map[string]func(*memdisk.FS){
		"kill":             func(fs *memdisk.FS) { fs.Kill() },
		"power cut, least": func(fs *memdisk.FS) { fs.PowerCutWith(nothingMore) },
		"power cut, most":  func(fs *memdisk.FS) { fs.PowerCutWith(allOfIt) },
	}
	for name, end := range ends {
		t.Run(name, func(t *testing.T) {
			scenario(t, func(t *testing.T) {
				fs := memdisk.New(memdisk.Config{})
				o := tiny(fs)
				o.Doubt = mailq.HoldDoubt
				s := started(t, o)
				m := Message{Body: []byte("x")}
				for range 6 {
					m.Recipients = append(m.Recipients, Recipient{Queue: "q", Address: "a"})
				}
				id := must(s.Enqueue(t.Context(), m))(t)
				must(s.Enqueue(t.Context(), m))(t)
				c := must(s.Consumer(ConsumerOptions{ManualStart: true}))(t)
				d, ok := c.TryNext("q")
				if !ok || d.ID != id {
					t.Fatalf("claimed %v", d)
				}
				if err := d.Start(t.Context(), 1, 2, 4, 5); err != nil {
					t.Fatal(err)
				}
				if err := d.Settle(t.Context(), []Outcome{{Recipient: 2, Result: Delivered}}); err != nil {
					t.Fatal(err)
				}
				time.Sleep(2 * markerAfter) // the attempts ride with the Marker
				fs.Kill()

				var list []audited
				note := newAccount()
				for range 3 { // the third finds a checkpoint of the second and no more
					list = append(list, note.shots(fs, func() {
						s := started(t, administered(o))
						time.Sleep(2 * markerAfter)
						if err := s.Checkpoint(t.Context()); err != nil {
							t.Fatal(err)
						}
						ended(t, s)
					})...)
				}
				list = append(list, audited{note, fs.Clone(), "when all was done"})
				if len(list) < 30 {
					t.Fatalf("%d operations", len(list))
				}
				for _, image := range list {
					o.fs = image.image
					end(image.image)
					s := started(t, o)
					found := entriesOf(t, s, Filter{InDoubt: true})
					for i := range 6 {
						e, ok := found[i]
						if want := i == 1 || i == 4 || i == 5; ok != want || ok && (e.ID != id || e.State != mailq.OnHold || e.Attempts != 1) {
							t.Fatalf("%s: %v, in doubt are %v", image.what, name, found)
						}
					}
					if st := s.Stats(); st.WorkQueueLength != 11 || st.Held != 3 {
						t.Fatalf("%s: %+v", image.what, st)
					}
					ended(t, s)
				}
			})
		})
	}
}

// What an operator does meanwhile with mail of which the delivery is undecided stands: what is removed does not come back,
// what is held stays held, though the owner's policy is to redeliver it.
func TestAdministeredDoubtAndEdits(t *testing.T) {
	scenario(t, func(t *testing.T) {
		o := tiny(memdisk.New(memdisk.Config{}))
		s := started(t, o)
		var ids []ID
		for range 3 {
			ids = append(ids, posted(t, s, "x"))
		}
		for range 3 {
			taken(t, s)
		}
		o.fs.(*memdisk.FS).Kill()
		s = started(t, administered(o))
		for i, r := range []Result{Removed, Held} {
			must(s.Commit(t.Context(), Batch{Edit: []Edit{{ID: ids[i], Outcomes: []Outcome{{Recipient: All, Result: r}}}}}))(t)
		}
		o.fs.(*memdisk.FS).Kill()
		s = started(t, o)
		got := ""
		for e, err := range s.Entries(t.Context(), Filter{}) {
			if err != nil {
				t.Fatal(err)
			}
			got += fmt.Sprint(e.ID == ids[1], e.ID == ids[2], e.State, e.InDoubt, e.Attempts, "; ")
		}
		if want := fmt.Sprint(true, false, mailq.OnHold, true, 1, "; ", false, true, mailq.Pending, true, 1, "; "); got != want {
			t.Errorf("left are %s, want %s", got, want)
		}
		ended(t, s)
	})
}

// A copy that was administered before its first opening is one that was not opened yet.
func TestAdministeredCopyIsInDoubt(t *testing.T) {
	scenario(t, func(t *testing.T) {
		o := tiny(memdisk.New(memdisk.Config{}))
		s := started(t, o)
		id := posted(t, s, "x")
		if err := s.Snapshot(t.Context(), "/copy"); err != nil {
			t.Fatal(err)
		}
		ended(t, s)
		a := must(Open("/copy", administered(o)))(t)
		if err := a.Checkpoint(t.Context()); err != nil {
			t.Fatal(err)
		}
		ended(t, a)
		o.Doubt = mailq.HoldDoubt
		c := must(Open("/copy", o))(t)
		if list := entriesOf(t, c, Filter{ID: id}); len(list) != 1 || list[0].State != mailq.OnHold || !list[0].InDoubt || list[0].Attempts != 0 {
			t.Errorf("%+v", list)
		}
		ended(t, c)
	})
}

// Who administers a store forgets no key of it: neither one that is older than a window of its own, nor more than
// a number of its own. On real files.
func TestAdministeredStoreKeepsKeys(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "store")
	o := Options{SegmentSize: 64 << 10, KeyWindow: 1000 * time.Hour, now: func() time.Time { return time.Now().Add(-900 * time.Hour) }}
	s := must(Open(dir, o))(t)
	ids := map[string]ID{}
	for i := range 5 {
		key := fmt.Sprint("key ", i)
		ids[key] = keyed(t, s, key)
	}
	ended(t, s)
	s = must(Open(dir, Options{Administer: true, SegmentSize: 64 << 10, KeyMax: 1}))(t)
	for range 3 {
		if err := s.SetQueue(t.Context(), "q", QueueState{Mode: mailq.HoldQueue}); err != nil {
			t.Fatal(err)
		}
	}
	if err := s.Checkpoint(t.Context()); err != nil {
		t.Fatal(err)
	}
	ended(t, s)
	o.now = nil
	s = must(Open(dir, o))(t)
	for key, id := range ids {
		if got := keyed(t, s, key); got != id {
			t.Errorf("%s gives %v, the first was %v", key, got, id)
		}
	}
	ended(t, s)
}

// A bound that who administers the store does not know holds again for its owner: the mail drains to nothing, the files are
// within MaxBytes then, and mail is taken. On real files.
func TestAdministeredStoreOfABound(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "store")
	o := Options{SegmentSize: 64 << 10, MaxBytes: 3 << 20}
	s := must(Open(dir, o))(t)
	n := 0
	for ; ; n++ {
		_, err := s.Enqueue(t.Context(), mailing(strings.Repeat("full ", 2000)))
		if errors.Is(err, ErrFull) {
			break
		}
		if err != nil {
			t.Fatal(err)
		}
	}
	for range n / 3 {
		if err := taken(t, s).SettleAll(t.Context(), Delivered); err != nil {
			t.Fatal(err)
		}
	}
	ended(t, s)
	s = must(Open(dir, Options{Administer: true, SegmentSize: 64 << 10}))(t)
	if err := s.Compact(t.Context()); err != nil {
		t.Fatal(err)
	}
	var all Batch
	for e, err := range s.Entries(t.Context(), Filter{}) {
		if err != nil {
			t.Fatal(err)
		}
		all.Edit = append(all.Edit, Edit{ID: e.ID, Outcomes: []Outcome{{Recipient: All, Result: Held}}})
	}
	must(s.Commit(t.Context(), all))(t)
	ended(t, s)
	s = must(Open(dir, o))(t)
	for i := range all.Edit {
		all.Edit[i].Outcomes = []Outcome{{Recipient: All, Result: Released}}
	}
	must(s.Commit(t.Context(), all))(t)
	for s.Stats().WorkQueueLength > 0 {
		if err := taken(t, s).SettleAll(t.Context(), Delivered); err != nil {
			t.Fatal(err)
		}
	}
	if err := s.Compact(t.Context()); err != nil {
		t.Fatal(err)
	}
	posted(t, s, "one more")
	for range 500 { // files are given back in the background
		if s.Stats().DiskBytes <= o.MaxBytes {
			break
		}
		time.Sleep(10 * time.Millisecond)
	}
	if st := s.Stats(); st.DiskBytes > o.MaxBytes || st.Pending != 1 {
		t.Errorf("%+v", st)
	}
	ended(t, s)
}

// A store that is administered takes no mail and hands out none, and is not made.
func TestAdministerTakesAndHandsOutNothing(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "store")
	o := Options{Administer: true, SegmentSize: 64 << 10}
	if _, err := Open(dir, o); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("opened what is not there: %v", err)
	}
	if _, err := Open(t.TempDir(), o); !errors.Is(err, ErrNotStore) {
		t.Errorf("opened an empty directory: %v", err)
	}
	ended(t, must(Open(dir, Options{SegmentSize: 64 << 10}))(t))
	s := must(Open(dir, o))(t)
	calls := map[string]func() error{
		"Enqueue":  func() error { _, err := s.Enqueue(t.Context(), mailing("x")); return err },
		"Commit":   func() error { _, err := s.Commit(t.Context(), Batch{Enqueue: []Message{mailing("x")}}); return err },
		"Stage":    func() error { _, err := s.Stage(t.Context(), 0); return err },
		"Admit":    func() error { return s.Admit(1) },
		"Claim":    func() error { _, err := s.Claim(t.Context(), "q"); return err },
		"Consumer": func() error { _, err := s.Consumer(ConsumerOptions{}); return err },
	}
	for name, call := range calls {
		if err := call(); !errors.Is(err, ErrInvalid) {
			t.Errorf("%s: %v", name, err)
		}
	}
	ended(t, s)
}
