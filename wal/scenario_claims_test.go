package wal

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"os"
	"path/filepath"
	"slices"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/mtawal/mtawal/internal/disk"
	"github.com/mtawal/mtawal/internal/disk/faultdisk"
	"github.com/mtawal/mtawal/internal/disk/memdisk"
	"github.com/mtawal/mtawal/mailq"
	"github.com/mtawal/mtawal/segment"
)

// fanout is a message to n recipients in queue q.
func fanout(text string, n int) Message {
	m := mailing(text)
	for i := 1; i < n; i++ {
		m.Recipients = append(m.Recipients, Recipient{Queue: "q", Address: fmt.Sprint(i)})
	}
	return m
}

// doubts fails unless the message waits with exactly these recipients in doubt.
func doubts(t *testing.T, s *Store, text string, want ...int) {
	t.Helper()
	found, err := waiting(s)
	if err != nil {
		t.Fatal(err)
	}
	have, ok := found[text]
	if !ok || !slices.Equal(have, want) {
		t.Fatalf("%q is there: %t; in doubt are %v, want %v", text, ok, have, want)
	}
	if n := s.Stats().InDoubt; n != int64(len(want)) {
		t.Fatalf("%d in doubt in all, want %d", n, len(want))
	}
}

// underWay makes a store with a message to 5, of which a consumer has started recipients 1, 2
// and 4 and settled 2 since.
func underWay(t *testing.T, fs disk.FS) (*Store, *Delivery) {
	t.Helper()
	s := started(t, tiny(fs))
	if _, err := s.Enqueue(t.Context(), fanout("five", 5)); err != nil {
		t.Fatal(err)
	}
	c, err := s.Consumer(ConsumerOptions{ManualStart: true})
	if err != nil {
		t.Fatal(err)
	}
	d, err := c.Next(t.Context())
	if err == nil {
		err = d.Start(t.Context(), 1, 2, 4)
	}
	if err == nil {
		err = d.Settle(t.Context(), []Outcome{{Recipient: 2, Result: Deferred, Until: time.Now()}})
	}
	if err != nil {
		t.Fatal(err)
	}
	return s, d
}

// Rule 6.2. "After SIGKILL exactly the started and unsettled recipients are in doubt", at once,
// with no commit in between; on file systems that copy on write too.
func TestScenario_KilledWithDeliveriesUnderWay(t *testing.T) {
	for _, cow := range []bool{false, true} {
		scenario(t, func(t *testing.T) {
			fs := memdisk.New(memdisk.Config{CopyOnWrite: cow})
			underWay(t, fs)
			fs.Kill()
			s := started(t, tiny(fs))
			doubts(t, s, "five", 1, 4)
			ended(t, s)
		})
	}
}

// Rule 6.2. "The set is durable in the Open frame before any slot is cleared, and stays a state
// of the recipient, in checkpoints too, until settled. A second kill forgets." The second
// crash comes at each step of the opening.
func TestScenario_SecondKillForgetsNothing(t *testing.T) {
	scenario(t, func(t *testing.T) {
		fs := memdisk.New(memdisk.Config{})
		underWay(t, fs)
		fs.Kill()
		shots := newAccount().shots(fs, func() { ended(t, started(t, tiny(fs))) })
		for _, shot := range shots {
			s := started(t, tiny(shot.image))
			doubts(t, s, "five", 1, 4)
			// And a third, a checkpoint and a power cut later.
			if err := s.Checkpoint(t.Context()); err != nil {
				t.Fatal(err)
			}
			shot.image.PowerCutWith(nothingMore)
			s = started(t, tiny(shot.image))
			doubts(t, s, "five", 1, 4)
			// Until settled.
			d := taken(t, s)
			if err := d.SettleAll(t.Context(), Delivered); err != nil {
				t.Fatal(err)
			}
			if n := s.Stats().InDoubt; n != 0 {
				t.Fatalf("%d in doubt in an empty store", n)
			}
			ended(t, s)
		}
		if len(shots) < 5 {
			t.Errorf("an opening of %d steps", len(shots))
		}
	})
}

// Rule 6.1. "A slot older than a record that settled its recipient is void. Slots are cleared by
// the committer after the commit is durable." Killed before the outcome is durable, the
// delivery is in doubt; killed after, with the slot still there, it is not.
func TestScenario_SlotOlderThanItsSettle(t *testing.T) {
	scenario(t, func(t *testing.T) {
		fs := memdisk.New(memdisk.Config{})
		var written, applied *memdisk.FS
		var armed atomic.Bool
		o := tiny(fs)
		o.Trace = &Trace{Durable: func(CommitInfo) {
			if armed.Load() && applied == nil {
				applied = fs.Clone()
			}
		}}
		s := started(t, o)
		posted(t, s, "mail")
		d := taken(t, s)
		armed.Store(true)
		fs.OnOp(func(op disk.Op, name string) {
			if op == disk.OpWriteDurable && written == nil {
				written = fs.Clone()
			}
		})
		if err := d.Settle(t.Context(), []Outcome{{Recipient: All, Result: Deferred, Until: time.Now()}}); err != nil {
			t.Fatal(err)
		}
		fs.OnOp(nil)
		ended(t, s)
		s = started(t, tiny(written))
		doubts(t, s, "mail", 0)
		ended(t, s)
		s = started(t, tiny(applied))
		doubts(t, s, "mail")
		ended(t, s)
	})
}

// elsewhere is a disk whose boot and mount IDs the test sets.
type elsewhere struct {
	*memdisk.FS
	who disk.Identity
}

type elsewhereDir struct {
	disk.Dir
	who disk.Identity
}

func (e *elsewhere) OpenDir(path string, create bool) (disk.Dir, error) {
	d, err := e.FS.OpenDir(path, create)
	if err != nil {
		return nil, err
	}
	return elsewhereDir{d, e.who}, nil
}

func (d elsewhereDir) Identity() (disk.Identity, error) { return d.who, nil }

// Rule 6.3 and section 9. "The table is trusted only if boot ID, mount ID and synced position all
// match; else it is a hint and this was a power cut." The file system was shut down by force
// and mounted again at the same boot, or rebooted to the same mount number: what the table
// had in the cache is gone, and the Attempt record in the log tells.
func TestScenario_UnmountAtTheSameBoot(t *testing.T) {
	boots := []disk.Identity{{Boot: [16]byte{1}, Mount: 1}, {Boot: [16]byte{1}, Mount: 2}, {Boot: [16]byte{2}, Mount: 1}}
	for _, again := range boots[1:] {
		scenario(t, func(t *testing.T) {
			fs := memdisk.New(memdisk.Config{})
			s := started(t, tiny(&elsewhere{fs, boots[0]}))
			posted(t, s, "mail")
			empty := files(t, fs)[claimsName]
			taken(t, s)
			time.Sleep(2 * markerAfter) // the Attempt rides in the Marker
			fs.PowerCutWith(nothingMore)
			// The table is as it was, whole and of the boot before, without the claim.
			if err := fs.Put(spool+"/"+claimsName, []byte(empty)); err != nil {
				t.Fatal(err)
			}
			s = started(t, tiny(&elsewhere{fs, again}))
			doubts(t, s, "mail", 0)
			ended(t, s)
		})
	}
	// A plain unmount loses nothing.
	scenario(t, func(t *testing.T) {
		fs := memdisk.New(memdisk.Config{})
		underWay(t, fs)
		fs.Remount()
		s := started(t, tiny(fs))
		doubts(t, s, "five", 1, 4)
		ended(t, s)
	})
}

// Rule 6.3. "Promise: unannounced repeats after a power cut only for deliveries started in its
// last 20 ms, none with DurableStart."
func TestScenario_PowerCutWithDeliveriesUnderWay(t *testing.T) {
	for _, durable := range []bool{false, true} {
		for _, manual := range []bool{false, true} {
			for _, idle := range []bool{false, true} {
				scenario(t, func(t *testing.T) {
					fs := memdisk.New(memdisk.Config{})
					o := tiny(fs)
					o.DurableStart = durable
					s := started(t, o)
					posted(t, s, "mail")
					c, err := s.Consumer(ConsumerOptions{ManualStart: manual})
					if err != nil {
						t.Fatal(err)
					}
					d, err := c.Next(t.Context())
					if err == nil && manual {
						err = d.Start(t.Context())
					}
					if err != nil {
						t.Fatal(err)
					}
					if idle {
						time.Sleep(2 * markerAfter)
					}
					fs.PowerCutWith(nothingMore)
					s = started(t, tiny(fs))
					found, err := waiting(s)
					if err != nil {
						t.Fatal(err)
					}
					if (durable || idle) && len(found["mail"]) != 1 {
						t.Errorf("DurableStart %t, ManualStart %t, idle %t: handed out again without notice", durable, manual, idle)
					}
					ended(t, s)
				})
			}
		}
	}
}

// Rule 6.2. A claim that was not started, of a consumer that says when it starts, leaves no
// doubt; nor does one that a Close ended after its outcome.
func TestScenario_NoDoubtWithoutAStart(t *testing.T) {
	scenario(t, func(t *testing.T) {
		fs := memdisk.New(memdisk.Config{})
		s := started(t, tiny(fs))
		posted(t, s, "mail")
		c, err := s.Consumer(ConsumerOptions{ManualStart: true})
		if err != nil {
			t.Fatal(err)
		}
		d, err := c.Next(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		time.Sleep(2 * markerAfter)
		killed := fs.Clone()
		cut := fs.Clone()
		cut.PowerCutWith(allOfIt)
		if err := d.Start(t.Context()); err != nil {
			t.Fatal(err)
		}
		if err := d.Settle(t.Context(), []Outcome{{Recipient: All, Result: Deferred, Until: time.Now()}}); err != nil {
			t.Fatal(err)
		}
		ended(t, s)
		for _, fs := range []*memdisk.FS{killed, cut, fs} {
			s := started(t, tiny(fs))
			doubts(t, s, "mail")
			ended(t, s)
		}
	})
}

// Rule 6.3. A table that is not as long as it says it is is none: nobody knows what stood in
// the rest of it.
func TestScenario_ClaimTableCutShort(t *testing.T) {
	scenario(t, func(t *testing.T) {
		fs := memdisk.New(memdisk.Config{})
		s := started(t, tiny(fs))
		posted(t, s, "mail")
		taken(t, s)
		left := fs.Clone()
		table := files(t, left)[claimsName]
		for _, n := range []int{len(table), len(table) - claimSlotSize, len(table) - 1, claimsHeader, 100, 0, len(table) + claimSlotSize} {
			if err := left.Put(spool+"/"+claimsName, append([]byte(table), make([]byte, claimSlotSize)...)[:n]); err != nil {
				t.Fatal(err)
			}
			d, err := left.OpenDir(spool, false)
			if err != nil {
				t.Fatal(err)
			}
			found, err := readClaims(d, s.uuid)
			if whole := n == len(table); err != nil || found.exact != whole || len(found.runs) != b2i(whole) {
				t.Errorf("%d of %d bytes: exact %t, %d runs, %v", n, len(table), found.exact, len(found.runs), err)
			}
		}
		ended(t, s)
	})
}

// Section 6. "Full: Claim waits." The table takes 32,768 runs of recipients.
func TestScenario_ClaimTableFull(t *testing.T) {
	scenario(t, func(t *testing.T) {
		fs := memdisk.New(memdisk.Config{})
		o := roomy(fs)
		o.NoSync = true
		s := started(t, o)
		c, err := s.Consumer(ConsumerOptions{InFlight: InFlightMax, MaxRecipients: 1})
		if err != nil {
			t.Fatal(err)
		}
		for i := 0; i <= claimSlots; i += 8 {
			var b Batch
			for range 8 {
				b.Enqueue = append(b.Enqueue, mailing("mail"))
			}
			if _, err := s.Commit(t.Context(), b); err != nil {
				t.Fatal(err)
			}
		}
		var first *Delivery
		for range claimSlots {
			d, ok := c.TryNext("q")
			if !ok {
				t.Fatal("nothing more, with slots left")
			}
			first = d
		}
		// Another consumer has room of its own, but the table has none.
		other, err := s.Consumer(ConsumerOptions{})
		if err != nil {
			t.Fatal(err)
		}
		if d, ok := other.TryNext("q"); ok {
			t.Fatalf("%v was handed out with no slot to take note of it", d.ID)
		}
		got := make(chan error, 1)
		go func() {
			ctx, cancel := context.WithTimeout(context.Background(), time.Hour)
			defer cancel()
			d, err := c.Next(ctx)
			if err == nil {
				err = d.SettleAll(ctx, Delivered)
			}
			got <- err
		}()
		synctest.Wait()
		select {
		case err := <-got:
			t.Fatalf("Next did not wait for a slot: %v", err)
		default:
		}
		if err := first.SettleAll(t.Context(), Delivered); err != nil {
			t.Fatal(err)
		}
		if err := <-got; err != nil {
			t.Errorf("Next with a slot free again: %v", err)
		}
		fs.Kill()
		s = started(t, roomy(fs))
		if n := s.Stats().InDoubt; n != claimSlots-1 {
			t.Errorf("%d in doubt after a kill, want %d", n, claimSlots-1)
		}
		ended(t, s)
	})
}

// Rule 6.1 on a file system that copies on write: a slot that can't be written means that no
// claim is handed out, rather than one that a kill would forget.
func TestScenario_ClaimTableCantBeWritten(t *testing.T) {
	scenario(t, func(t *testing.T) {
		inner := memdisk.New(memdisk.Config{CopyOnWrite: true})
		fs := faultdisk.New(inner)
		s := started(t, tiny(fs))
		posted(t, s, "one")
		posted(t, s, "two")
		fs.Set(faultdisk.Plan{N: 1, Forever: true, Only: []disk.Op{disk.OpWriteAt}, Name: claimsName})
		c, err := s.Consumer(ConsumerOptions{})
		if err != nil {
			t.Fatal(err)
		}
		if d, err := c.Next(t.Context()); !errors.Is(err, ErrFailed) {
			t.Errorf("Next returned %v, %v, and its slot could not be written", d, err)
		}
		if _, err := c.Next(t.Context()); !errors.Is(err, ErrFailed) {
			t.Errorf("the next one: %v", err)
		}
	})
}

// A file system that was shut down answers a store into a mapping with a fault; so does a file
// that someone cut. The process lives, no claim is handed out that a kill would forget, and
// what was acknowledged is there.
func TestScenario_ClaimTableFaults(t *testing.T) {
	dir := t.TempDir()
	open := func() *Store {
		t.Helper()
		s, err := Open(dir, Options{SegmentSize: segment.SizeMin})
		if err != nil {
			t.Fatal(err)
		}
		return s
	}
	s := open()
	defer func() { s.Close() }()
	if s.claims.mapping == nil {
		t.Skip("this file system copies on write: its claim table is not mapped")
	}
	posted(t, s, "one")
	c, err := s.Consumer(ConsumerOptions{})
	if err != nil {
		t.Fatal(err)
	}
	if err := os.Truncate(filepath.Join(dir, claimsName), 0); err != nil {
		t.Fatal(err)
	}
	if d, err := c.Next(t.Context()); !errors.Is(err, ErrFailed) {
		t.Errorf("Next returned %v, %v, and its slot could not be written", d, err)
	}
	posted(t, s, "two")
	if err := s.Close(); err == nil {
		t.Error("Close says nothing of the claim table")
	}
	s = open()
	if st := s.Stats(); st.Pending != 2 {
		t.Errorf("pending after reopening: %d, want 2", st.Pending)
	}
}

// Rule 6.4. "One recipient is claimed once at a time, whatever queue it is routed to meanwhile."
func TestScenario_ReroutedWhileClaimed(t *testing.T) {
	scenario(t, func(t *testing.T) {
		fs := memdisk.New(memdisk.Config{})
		s := started(t, tiny(fs))
		id := posted(t, s, "mail")
		d := taken(t, s)
		// The operator routes it elsewhere: a used-mark, so the worker's claim is lost.
		_, err := s.Commit(t.Context(), Batch{Edit: []Edit{{ID: id, Outcomes: []Outcome{{Recipient: 0, Result: Replaced,
			Replace: []Recipient{{Queue: "elsewhere"}}}}}}})
		if err != nil {
			t.Fatal(err)
		}
		if err := d.SettleAll(t.Context(), Delivered); !errors.Is(err, ErrUsed) {
			t.Errorf("the worker, whose recipient was replaced, is told %v", err)
		}
		if d.Context().Err() == nil {
			t.Error("its context goes on")
		}
		// Held while claimed: it is not handed out twice, and held when it comes back.
		e, err := s.Claim(t.Context(), "elsewhere")
		if err != nil {
			t.Fatal(err)
		}
		if _, err := s.Commit(t.Context(), Batch{Edit: []Edit{{ID: id, Outcomes: []Outcome{{Recipient: 1, Result: Held}}}}}); err != nil {
			t.Fatal(err)
		}
		if _, err := s.Commit(t.Context(), Batch{Edit: []Edit{{ID: id, Outcomes: []Outcome{{Recipient: 1, Result: Released}}}}}); err != nil {
			t.Fatal(err)
		}
		holds(t, s)
		if st := s.Stats(); st.Claimed != 1 {
			t.Errorf("%d claimed, want 1", st.Claimed)
		}
		if err := e.SettleAll(t.Context(), mailq.Delivered); err != nil {
			t.Error(err)
		}
		ended(t, s)
	})
}

// A claim table that was emptied comes back with a power cut. What an opening has put in doubt by
// its word, and a checkpoint holds since, is not put in doubt by it again: that would be an
// attempt that nobody made.
func TestScenario_ClaimTableThatComesBack(t *testing.T) {
	back := 0
	for seed := range uint64(30) {
		scenario(t, func(t *testing.T) {
			fs := memdisk.New(memdisk.Config{})
			attempts := func(s *Store) (list []int) {
				for e, err := range s.Entries(t.Context(), Filter{}) {
					if err != nil {
						t.Fatal(err)
					}
					list = append(list, e.Attempts)
				}
				return list
			}
			underWay(t, fs)
			fs.Kill()
			s := started(t, tiny(fs))
			before := attempts(s)
			for range 2 {
				posted(t, s, "more")
				if err := s.Checkpoint(t.Context()); err != nil {
					t.Fatal(err)
				}
			}
			fs.PowerCut(rand.New(rand.NewPCG(seed, 2)))
			dir, err := fs.OpenDir(spool, false)
			if err != nil {
				t.Fatal(err)
			}
			m, err := readMeta(dir)
			if err != nil {
				t.Fatal(err)
			}
			found, err := readClaims(dir, m.uuid)
			if err != nil {
				t.Fatal(err)
			}
			if err := dir.Close(); err != nil {
				t.Fatal(err)
			}
			back += len(found.runs)
			s = started(t, tiny(fs))
			if after := attempts(s); !slices.Equal(after[:5], before) {
				t.Errorf("seed %d: attempts were %v and are %v", seed, before, after[:5])
			}
			ended(t, s)
		})
	}
	if back == 0 {
		t.Error("the table never came back")
	}
}
