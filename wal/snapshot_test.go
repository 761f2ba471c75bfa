package wal

import (
	"context"
	"errors"
	"io/fs"
	"maps"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/mtawal/mtawal/internal/disk"
	"github.com/mtawal/mtawal/internal/disk/memdisk"
	"github.com/mtawal/mtawal/mailq"
	"github.com/mtawal/mtawal/segment"
)

const copied = "/copy"

// allOf is every recipient that is not used, by token and index.
func allOf(t *testing.T, s *Store) map[string]Entry {
	t.Helper()
	all := make(map[string]Entry)
	for e, err := range s.Entries(t.Context(), Filter{}) {
		if err != nil {
			t.Fatal(err)
		}
		all[e.Token+"/"+string(rune('0'+e.Recipient))] = e
	}
	return all
}

// verified fails if Verify finds anything.
func verified(t *testing.T, dir string, o Options) {
	t.Helper()
	if found, err := Verify(dir, o); err != nil || len(found) > 0 {
		t.Fatalf("verify %s: %v, %v", dir, found, err)
	}
}

// variety puts mail in all its states into a store, over several segments: pending, deferred,
// held, in doubt, used in part, claimed, with a key, with a body in chunks, and a queue with a
// policy of its own.
func variety(t *testing.T, s *Store) (out *Delivery) {
	t.Helper()
	ctx := t.Context()
	for i := range 40 {
		posted(t, s, "plain "+string(rune('A'+i))+strings.Repeat(" long", 500))
	}
	for range 20 { // so that segments are sparse, and some dead
		if err := taken(t, s).SettleAll(ctx, Delivered); err != nil {
			t.Fatal(err)
		}
	}
	if err := s.Checkpoint(ctx); err != nil {
		t.Fatal(err)
	}
	enqueue := func(queue, text string, rcpts int, o ...Outcome) {
		m := Message{Key: "key of " + queue, Envelope: []byte("from " + queue), Body: []byte(text), Priority: 3}
		for range rcpts {
			m.Recipients = append(m.Recipients, Recipient{Queue: queue, Address: "a@" + queue, Note: []byte("note")})
		}
		id, err := s.Enqueue(ctx, m)
		if err == nil && len(o) > 0 {
			_, err = s.Commit(ctx, Batch{Edit: []Edit{{ID: id, Outcomes: o}}})
		}
		if err != nil {
			t.Fatal(err)
		}
	}
	tomorrow := time.Now().Add(24 * time.Hour)
	enqueue("deferred", "later", 2, Outcome{Recipient: 1, Result: Deferred, Until: tomorrow, Note: []byte("451 try again")})
	enqueue("held", "on hold", 1, Outcome{Result: Held})
	enqueue("doubt", "perhaps", 3, Outcome{Recipient: 2, Result: Uncertain}, Outcome{Recipient: 0, Result: Delivered})
	enqueue("long", strings.Repeat("a body in many pieces ", 20_000), 1)
	enqueue("policy", "with a policy", 1, Outcome{Result: Deferred, Until: tomorrow})
	if err := s.SetQueue(ctx, "policy", QueueState{Doubt: mailq.DeferDoubt, DoubtDelay: time.Hour}); err != nil {
		t.Fatal(err)
	}
	return taken(t, s)
}

// TestSnapshot: a copy is a store of its own with all that the store held, in doubt and under
// the tokens that it had.
func TestSnapshot(t *testing.T) {
	for _, how := range []string{"open", "closed", "killed", "cut"} {
		t.Run(how, func(t *testing.T) {
			scenario(t, func(t *testing.T) {
				m := memdisk.New(memdisk.Config{})
				o := tiny(m)
				s := started(t, o)
				out := variety(t, s)
				st, err := s.Stage(t.Context(), 0)
				if err != nil {
					t.Fatal(err)
				}
				if _, err := st.Write(make([]byte, 100_000)); err != nil {
					t.Fatal(err)
				}
				want := allOf(t, s)
				if how == "open" {
					if err := s.Snapshot(t.Context(), copied); err != nil {
						t.Fatal(err)
					}
					if err := s.Snapshot(t.Context(), copied); !errors.Is(err, ErrNotStore) {
						t.Fatalf("a second one into the same directory: %v", err)
					}
					// The store has gone on as if nothing were.
					if err := out.SettleAll(t.Context(), Delivered); err != nil {
						t.Fatal(err)
					}
				} else {
					if err := Snapshot(t.Context(), spool, copied, o); !errors.Is(err, ErrLocked) {
						t.Fatalf("beside the owner: %v", err)
					}
					switch how {
					case "closed":
						ended(t, s)
					case "killed":
						m.Kill()
					case "cut":
						m.PowerCutWith(nothingMore)
					}
					before := files(t, m)
					if err := Snapshot(t.Context(), spool, copied, o); err != nil {
						t.Fatal(err)
					}
					before[lockName] = files(t, m)[lockName] // says who was the last
					untouched(t, m, before)
				}
				in, err := Inspect(copied, o)
				if err != nil {
					t.Fatal(err)
				}
				original, err := Inspect(spool, o)
				if err != nil {
					t.Fatal(err)
				}
				if !in.Copied || in.Origin == nil || in.Origin.UUID != original.UUID || in.UUID == original.UUID || in.InDoubt != int64(len(want)) || in.InDoubt != in.WorkQueueLength {
					t.Errorf("the copy says of itself: %+v", in)
				}
				verified(t, copied, o)
				c, err := Open(copied, o)
				if err != nil {
					t.Fatal(err)
				}
				if from, ok := c.Origin(); !ok || from != *in.Origin {
					t.Errorf("the open copy says that it comes from %+v, %v", from, ok)
				}
				sameMail(t, allOf(t, c), want)
				if q := queueOf(t, c, "policy"); q.State.Doubt != mailq.DeferDoubt {
					t.Errorf("the state of a queue did not come along: %+v", q)
				}
				if st := c.Stats(); st.InDoubt != int64(len(want)) || st.Staged != 0 || st.TailCut != 0 {
					t.Errorf("%+v", st)
				}
				ownMail(t, c, want)
				if err := c.Close(); err != nil {
					t.Fatal(err)
				}
				verified(t, copied, o)
				if in, err = Inspect(copied, o); err != nil || in.Copied || in.Origin == nil {
					t.Errorf("a copy that was opened: %+v, %v", in, err)
				}
			})
		})
	}
}

func queueOf(t *testing.T, s *Store, name string) (info QueueInfo) {
	t.Helper()
	for q, err := range s.Queues(t.Context()) {
		if err != nil {
			t.Fatal(err)
		}
		if q.Name == name {
			return q
		}
	}
	t.Fatalf("no queue %q", name)
	return info
}

// sameMail compares a copy that was just opened with what the store had.
func sameMail(t *testing.T, have, want map[string]Entry) {
	t.Helper()
	if a, b := slices.Sorted(maps.Keys(have)), slices.Sorted(maps.Keys(want)); !slices.Equal(a, b) {
		t.Fatalf("the copy holds %v, the store held %v", a, b)
	}
	for token, w := range want {
		h := have[token]
		if !h.InDoubt {
			t.Errorf("%s is not in doubt: %+v", token, h)
		}
		if w.State == mailq.Claimed { // nobody has it here, and the attempt counts
			w.State = mailq.Pending
			w.Attempts++
		}
		if h.State != w.State || h.Attempts < w.Attempts || h.Attempts > w.Attempts+1 || h.Queue != w.Queue || h.Address != w.Address || string(h.Note) != string(w.Note) ||
			!h.NotBefore.Equal(w.NotBefore) || h.ID != w.ID || h.Priority != w.Priority || h.Size != w.Size || !h.EnqueuedAt.Equal(w.EnqueuedAt) {
			t.Errorf("the copy has %+v\nthe store had %+v", h, w)
		}
	}
}

// ownMail checks what the copy does as a store of its own.
func ownMail(t *testing.T, c *Store, before map[string]Entry) {
	t.Helper()
	id, err := c.Enqueue(t.Context(), Message{Key: "key of held", Recipients: []Recipient{{Queue: "held"}}})
	if err != nil {
		t.Fatal(err)
	}
	first := ID(0)
	for _, e := range before {
		first = max(first, e.ID)
		if e.Queue == "held" && e.ID != id {
			t.Errorf("a key that came along gives %v, want %v", id, e.ID)
		}
	}
	next := posted(t, c, "of its own")
	if next <= first {
		t.Errorf("the copy gives ID %v, which the store has given", next)
	}
	for token, e := range allOf(t, c) {
		if own := strings.HasPrefix(token, c.token); own != (e.ID == next) {
			t.Errorf("%v has the token %s", e.ID, token)
		}
	}
	// All of it can be delivered, long body and all.
	if _, err := waiting(c); err != nil {
		t.Fatal(err)
	}
}

// TestSnapshot_CopyOfACopy: mail keeps the token of the store that it was enqueued in, however
// often it is copied, and a copy that was never opened can be copied.
func TestSnapshot_CopyOfACopy(t *testing.T) {
	scenario(t, func(t *testing.T) {
		o := tiny(memdisk.New(memdisk.Config{}))
		s := started(t, o)
		want := make(map[string]string)
		from, dir := s, spool
		for i := range 4 {
			text := string(rune('a' + i))
			posted(t, from, text)
			for _, e := range allOf(t, from) {
				if want[e.Token] == "" {
					want[e.Token] = text
				}
			}
			next := dir + "-"
			if i == 2 { // the one in between is never opened
				if err := from.Snapshot(t.Context(), next); err != nil {
					t.Fatal(err)
				}
				dir, next = next, next+"-"
				if err := Snapshot(t.Context(), dir, next, o); err != nil {
					t.Fatal(err)
				}
			} else if err := from.Snapshot(t.Context(), next); err != nil {
				t.Fatal(err)
			}
			if i > 0 {
				if err := from.Close(); err != nil {
					t.Fatal(err)
				}
			}
			var err error
			if from, err = Open(next, o); err != nil {
				t.Fatal(err)
			}
			dir = next
		}
		have := allOf(t, from)
		if len(have) != len(want) {
			t.Errorf("%d messages, want %d", len(have), len(want))
		}
		for _, e := range have {
			if want[e.Token] == "" {
				t.Errorf("token %s is none that was seen before", e.Token)
			}
		}
		// The stores that nothing is left of are forgotten, the one that was copied is not.
		for range len(want) {
			d := taken(t, from)
			if err := d.SettleAll(t.Context(), Delivered); err != nil {
				t.Fatal(err)
			}
		}
		if err := errors.Join(from.Snapshot(t.Context(), "/last"), from.Close()); err != nil {
			t.Fatal(err)
		}
		d, err := o.fs.OpenDir("/last", false)
		if err != nil {
			t.Fatal(err)
		}
		m, err := readMeta(d)
		if err := errors.Join(err, d.Close()); err != nil {
			t.Fatal(err)
		}
		if len(m.origins) != 1 || m.origins[0].uuid != from.uuid {
			t.Errorf("an empty copy knows of %d stores", len(m.origins))
		}
	})
}

// TestSnapshot_Young: stores in which next to nothing is.
func TestSnapshot_Young(t *testing.T) {
	scenario(t, func(t *testing.T) {
		m := memdisk.New(memdisk.Config{})
		o := tiny(m)
		// META is ready and the first Open frame is not written.
		m.OnOp(func(op disk.Op, name string) {
			if op == disk.OpWriteDurable && strings.HasPrefix(name, "seg-") {
				m.Kill()
			}
		})
		if _, err := Open(spool, o); err == nil {
			t.Fatal("it opened without a frame")
		}
		m.OnOp(nil)
		if err := Snapshot(t.Context(), spool, "/empty", o); err != nil {
			t.Fatal(err)
		}
		s := started(t, o)
		if err := s.Snapshot(t.Context(), copied); err != nil {
			t.Fatal(err)
		}
		for _, dir := range []string{"/empty", copied} {
			c, err := Open(dir, o)
			if err != nil {
				t.Fatal(err)
			}
			posted(t, c, "mail")
			if _, ok := c.Origin(); !ok || c.Stats().WorkQueueLength != 1 {
				t.Errorf("%s: %+v", dir, c.Stats())
			}
			if err := c.Close(); err != nil {
				t.Fatal(err)
			}
			verified(t, dir, o)
		}
	})
}

// TestSnapshot_BehindASeal: a log that ends with a Seal is copied up to the frame before.
func TestSnapshot_BehindASeal(t *testing.T) {
	scenario(t, func(t *testing.T) {
		m := memdisk.New(memdisk.Config{})
		o := tiny(m)
		s := started(t, o)
		n := 0
		m.OnOp(func(op disk.Op, name string) { // the first frame of the second segment never comes
			if op == disk.OpWriteDurable && name == segment.Name(2) {
				m.Kill()
			}
		})
		for ; n < 100; n++ {
			if _, err := s.Enqueue(t.Context(), mailing(strings.Repeat("x", 5000+n))); err != nil {
				break
			}
		}
		m.OnOp(nil)
		if w := lookInto(t, m); w.last.Kind != segment.Seal || w.end.Segment() != 2 {
			t.Fatalf("the log ends with %v at %v", w.last.Kind, w.end)
		}
		if err := Snapshot(t.Context(), spool, copied, o); err != nil {
			t.Fatal(err)
		}
		verified(t, copied, o)
		c, err := Open(copied, o)
		if err != nil {
			t.Fatal(err)
		}
		if st := c.Stats(); st.Pending != int64(n) {
			t.Errorf("%d pending, want %d", st.Pending, n)
		}
		if err := c.Close(); err != nil {
			t.Fatal(err)
		}
	})
}

// TestSnapshot_Targets: a directory in which something is, or that somebody uses, is refused
// and not touched.
func TestSnapshot_Targets(t *testing.T) {
	scenario(t, func(t *testing.T) {
		m := memdisk.New(memdisk.Config{})
		o := tiny(m)
		s := started(t, o)
		posted(t, s, "mail")
		try := func(what, dir string, want error) {
			t.Helper()
			err := s.Snapshot(t.Context(), dir)
			if !errors.Is(err, want) {
				t.Errorf("into %s: %v", what, err)
			}
		}
		try("its own directory", spool, ErrLocked)
		try("no directory", "", ErrInvalid)
		try("one in its own", spool+"/copies/1", ErrInvalid)
		if d, err := m.OpenDir(spool+"/copies", false); err == nil {
			t.Errorf("%s was made", d.Path())
		}
		d, err := m.OpenDir("/used", true)
		if err != nil {
			t.Fatal(err)
		}
		lock, err := d.Lock(lockName)
		if err != nil {
			t.Fatal(err)
		}
		try("one that somebody uses", "/used", ErrLocked)
		if err := lock.Close(); err != nil {
			t.Fatal(err)
		}
		if err := m.Put("/used/copy-seg-00000001", nil); err != nil {
			t.Fatal(err)
		}
		try("one with half a copy", "/used", ErrNotStore)
		letters, err := m.OpenDir("/letters", true)
		if err != nil {
			t.Fatal(err)
		}
		if err := errors.Join(letters.Close(), m.Put("/letters/1.txt", nil)); err != nil {
			t.Fatal(err)
		}
		try("one with something in it", "/letters", ErrNotStore)
		if err := s.Snapshot(t.Context(), "/letters"); !strings.HasSuffix(err.Error(), `/letters is not empty: it holds "1.txt"`) {
			t.Error(err)
		}
		if _, err := Open("/used", o); !errors.Is(err, ErrNotStore) {
			t.Errorf("half a copy was opened: %v", err)
		}
		if err := d.Close(); err != nil {
			t.Fatal(err)
		}
		if err := Snapshot(t.Context(), "/nowhere", copied, o); !errors.Is(err, fs.ErrNotExist) {
			t.Errorf("of what is not there: %v", err)
		}
		if err := Snapshot(t.Context(), "/used", copied, o); !errors.Is(err, ErrNotStore) {
			t.Errorf("of what is no store: %v", err)
		}
		ended(t, s)
		if err := Snapshot(t.Context(), spool, spool+"/copy", o); !errors.Is(err, ErrInvalid) {
			t.Errorf("of a store that nobody has open, into its own directory: %v", err)
		}
		if err := s.Snapshot(t.Context(), copied); !errors.Is(err, ErrClosed) {
			t.Errorf("of a closed store: %v", err)
		}
		if _, err := m.OpenDir(copied, false); !errors.Is(err, fs.ErrNotExist) {
			t.Errorf("a directory was made: %v", err)
		}
		ctx, cancel := context.WithCancel(t.Context())
		cancel()
		if err := Snapshot(ctx, spool, copied, o); !errors.Is(err, context.Canceled) {
			t.Errorf("with a context that has ended: %v", err)
		}
		nothingIn(t, m, copied)
	})
}

// nothingIn fails if there is anything in a directory but the file of a lock.
func nothingIn(t *testing.T, fs disk.FS, dir string) {
	t.Helper()
	d, err := fs.OpenDir(dir, false)
	if err != nil {
		t.Fatal(err)
	}
	defer d.Close()
	list, err := d.List()
	if err != nil {
		t.Fatal(err)
	}
	for _, f := range list {
		if f.Name != lockName {
			t.Errorf("%s was left in %s", f.Name, dir)
		}
	}
}
