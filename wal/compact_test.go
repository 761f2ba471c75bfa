package wal

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/mtawal/mtawal/internal/disk/memdisk"
	"github.com/mtawal/mtawal/segment"
)

// thin posts messages, a few of them in chunks and a few to recipients that came later, and
// uses all but every keep-th.
func (a *account) thin(s *Store, round string, n, keep int) error {
	for i := range n {
		text := fmt.Sprint(round, " mail ", i, strings.Repeat(" long", 300))
		if i%11 == 0 {
			text += strings.Repeat(" longer", 4000)
		}
		if err := a.post(s, text); err != nil {
			return err
		}
	}
	c, err := s.Consumer(ConsumerOptions{Queues: []string{"q"}, InFlight: InFlightMax, ManualStart: true})
	if err != nil {
		return err
	}
	defer c.Close()
	var kept []*Delivery
	for {
		d, ok := c.TryNext("q")
		if !ok {
			break
		}
		text, err := textOf(d)
		if err != nil {
			return err
		}
		var i int
		var of string
		_, err = fmt.Sscan(strings.Replace(text, "mail", "", 1), &of, &i)
		if err != nil || i%keep == 0 {
			if of == round && i%2 == 0 && d.Recipients[0].Index == 0 {
				err := d.Settle(context.Background(), []Outcome{{Recipient: 0, Result: Replaced, Replace: []Recipient{{Queue: "q", Address: "another"}}}})
				if err != nil {
					return err
				}
				continue
			}
			kept = append(kept, d)
			continue
		}
		a.note(a.using, text)
		if err := d.SettleAll(context.Background(), Delivered); err != nil {
			return err
		}
		a.note(a.used, text)
	}
	for _, d := range kept {
		d.Release()
	}
	return nil
}

// auditCrashes audits what a kill and power cuts leave of a store now, and verifies it.
func (a *account) auditCrashes(t *testing.T, fs *memdisk.FS) {
	t.Helper()
	for how, cut := range map[string]func(*memdisk.FS){
		"kill":             func(fs *memdisk.FS) { fs.Kill() },
		"power cut, least": func(fs *memdisk.FS) { fs.PowerCutWith(nothingMore) },
		"power cut, most":  func(fs *memdisk.FS) { fs.PowerCutWith(allOfIt) },
	} {
		left := fs.Clone()
		cut(left)
		if err := a.audit(left); err != nil {
			t.Errorf("%s: %v", how, err)
		}
	}
	if found, err := Verify(spool, tiny(fs.Clone())); err != nil || len(found) > 0 {
		t.Errorf("verify: %v, %v", found, err)
	}
}

// sealedOnes are the numbers of segments that are sealed.
func sealedOnes(s *Store) map[uint32]bool {
	numbers := make(map[uint32]bool)
	for _, i := range s.segmentUses() {
		if i.Sealed {
			numbers[i.Number] = true
		}
	}
	return numbers
}

// What lives is copied together, and its segments come back: disk use is in proportion to
// what lives, and every byte of that is as it was, after crashes too.
func TestCompactEmptiesSparseSegments(t *testing.T) {
	scenario(t, func(t *testing.T) {
		fs := memdisk.New(memdisk.Config{})
		s := started(t, tiny(fs))
		a := newAccount()
		if err := a.thin(s, "a", 400, 10); err != nil {
			t.Fatal(err)
		}
		before := len(s.Segments())
		if err := s.Compact(t.Context()); err != nil {
			t.Fatal(err)
		}
		st := s.Stats()
		if after := len(s.Segments()); before < 15 || int64(after)*segment.SizeMin > 2*st.LiveBytes+4*segment.SizeMin {
			t.Errorf("%d segments, %d before, for %d live bytes", after, before, st.LiveBytes)
		}
		a.auditCrashes(t, fs)
		// And again: a copy is moved as an original is.
		if err := a.thin(s, "b", 400, 13); err != nil {
			t.Fatal(err)
		}
		if err := s.Compact(t.Context()); err != nil {
			t.Fatal(err)
		}
		ended(t, s)
		if err := a.audit(fs); err != nil {
			t.Error(err)
		}
	})
}

// Rule 5.4. A crash at every step of emptying segments: of copying, of the checkpoints, of
// recycling.
func TestCase16_CrashAtEveryStepOfEmptyingSegments(t *testing.T) {
	t.Parallel()
	everyStep(t, func(s *Store, a *account) error {
		if err := a.thin(s, "a", 40, 7); err != nil {
			return err
		}
		first := s.Segments()[0].Number
		if err := s.Compact(context.Background()); err != nil {
			return err
		}
		if s.Segments()[0].Number == first {
			return errors.New("nothing was given back")
		}
		if err := a.thin(s, "b", 20, 9); err != nil {
			return err
		}
		return s.Compact(context.Background())
	}, func(*testing.T, *Store) {})
}

// Rule 5.4. "The mover read pending, the mark went first, the copy brought the message
// back." A used-mark comes at each step of a move; the message is used, also for who opens the
// store after a crash.
func TestScenario_UsedWhileItIsMoved(t *testing.T) {
	steps := []string{"before it is looked for", "before it is copied", "before the copy is placed", "in the frame before the copy",
		"in the frame behind the copy", "when the copy is applied", "when the segment is given back"}
	for at, what := range steps {
		t.Run(what, func(t *testing.T) {
			scenario(t, func(t *testing.T) {
				fs := memdisk.New(memdisk.Config{})
				s := started(t, tiny(fs))
				a := newAccount()
				if err := a.thin(s, "a", 60, 20); err != nil {
					t.Fatal(err)
				}
				text := fmt.Sprint("the one", strings.Repeat(" long", 4000))
				if err := a.post(s, text); err != nil {
					t.Fatal(err)
				}
				var id ID
				for e, err := range s.Entries(t.Context(), Filter{}) {
					if err != nil {
						t.Fatal(err)
					}
					id = max(id, e.ID)
				}
				if err := a.thin(s, "b", 60, 20); err != nil { // "the one" is behind them, and is kept by its name
					t.Fatal(err)
				}
				use := func(step int) {
					t.Helper()
					if step != at {
						return
					}
					if err := s.MarkUsed(t.Context(), id, All); err != nil {
						t.Fatal(err)
					}
				}
				use(0)
				pieces, err := s.heldIn(t.Context(), sealedOnes(s))
				if err != nil {
					t.Fatal(err)
				}
				use(1)
				move := newTicket(s)
				for i := range pieces {
					if pieces[i].id != uint64(id) {
						continue
					}
					w, _, err := s.copyPiece(&pieces[i], nil)
					if err != nil {
						t.Fatal(err)
					}
					if w.record != nil {
						move.moves = append(move.moves, w)
					}
				}
				if found := len(move.moves) > 0; found != (at > 1) {
					t.Fatalf("%d pieces to move", len(move.moves))
				}
				use(2)
				if at > 1 {
					var used Ticket
					submit := func(step int) {
						if step == at {
							used = s.Submit(Batch{Edit: []Edit{{ID: id, Outcomes: []Outcome{{Recipient: All, Result: Delivered}}}}})
						}
					}
					submit(3)
					if err := s.submit(t.Context(), move); err != nil {
						t.Fatal(err)
					}
					submit(4)
					<-move.done
					if move.err != nil {
						t.Fatal(move.err)
					}
					if used != nil {
						if _, err := used.Wait(t.Context()); err != nil {
							t.Fatal(err)
						}
					}
				}
				use(5)
				if err := s.settleFolds(); err != nil {
					t.Fatal(err)
				}
				use(6)
				a.note(a.using, text)
				a.note(a.used, text)
				killed, cut := fs.Clone(), fs.Clone()
				cut.PowerCutWith(nothingMore)
				ended(t, s)
				for _, fs := range []*memdisk.FS{killed, cut, fs} {
					if err := a.audit(fs); err != nil {
						t.Error(err)
					}
				}
			})
		})
	}
}

// A message whose bytes have decayed is set aside and keeps its segment; the others leave.
func TestCompactSetsDamageAside(t *testing.T) {
	for _, what := range []string{"record", "body"} {
		t.Run(what, func(t *testing.T) {
			scenario(t, func(t *testing.T) {
				fs := memdisk.New(memdisk.Config{})
				o := tiny(fs)
				o.CompactMin = 1 << 40 // it is left to Compact
				s := started(t, o)
				a := newAccount()
				if err := a.thin(s, "a", 60, 20); err != nil {
					t.Fatal(err)
				}
				if err := s.Checkpoint(t.Context()); err != nil { // or a fold would read what is damaged
					t.Fatal(err)
				}
				s.mu.Lock()
				slot, _ := s.table.Find(2) // 1 is the stream of its chunks
				at := s.table.Msg(slot).Loc
				if what == "body" {
					at = s.table.Extents(s.table.Msg(slot))[0].Pos
				}
				s.mu.Unlock()
				off := at.Offset() + 20
				if what == "body" {
					seg, err := s.log.Acquire(at.Segment())
					if err != nil {
						t.Fatal(err)
					}
					if _, off, err = seg.AnyRecord(at.Offset(), segment.KindChunk); err != nil {
						t.Fatal(err)
					}
					release([]*segment.Segment{seg})
				}
				if err := fs.Damage(segmentPath(at.Segment()), off, []byte{0xff, 0xff}); err != nil {
					t.Fatal(err)
				}
				if err := s.Compact(t.Context()); err != nil {
					t.Fatal(err)
				}
				if st := s.Stats(); st.Damaged != 1 || st.WorkQueueLength != 3 {
					t.Errorf("%d damaged of %d", st.Damaged, st.WorkQueueLength)
				}
				if n := s.Segments()[0].Number; n != at.Segment() {
					t.Errorf("the first segment is %d, the damage is in %d", n, at.Segment())
				}
				ended(t, s)
			})
		})
	}
}

// Segments are emptied without being asked when enough of the log is dead.
func TestSparseSegmentsAreEmptiedInTheBackground(t *testing.T) {
	scenario(t, func(t *testing.T) {
		fs := memdisk.New(memdisk.Config{})
		s := started(t, tiny(fs))
		a := newAccount()
		for round := range 20 {
			if err := a.thin(s, fmt.Sprint("r", round), 60, 30); err != nil {
				t.Fatal(err)
			}
			time.Sleep(time.Second)
		}
		st := s.Stats()
		if most := 2*st.LiveBytes + 20*segment.SizeMin; st.DiskBytes > most {
			t.Errorf("%d bytes on disk for %d live ones", st.DiskBytes, st.LiveBytes)
		}
		ended(t, s)
		if err := a.audit(fs); err != nil {
			t.Error(err)
		}
	})
}

// What lives may stand behind slots of the table that are gone.
func TestCompactBehindWhatIsGone(t *testing.T) {
	t.Parallel()
	scenario(t, func(t *testing.T) {
		const before = 8000 // many more than the table keeps free
		fs := memdisk.New(memdisk.Config{})
		s := started(t, tiny(fs))
		a := newAccount()
		for i := range before {
			if err := a.post(s, fmt.Sprint("first-", i)); err != nil {
				t.Fatal(err)
			}
		}
		if err := a.thin(s, "a", 60, 20); err != nil {
			t.Fatal(err)
		}
		for range before {
			if err := a.deliver(s, Delivered); err != nil {
				t.Fatal(err)
			}
		}
		if err := s.Compact(t.Context()); err != nil {
			t.Fatal(err)
		}
		ended(t, s)
		if err := a.audit(fs); err != nil {
			t.Error(err)
		}
	})
}

// A message of larger segments than the store's owner now makes stays where it is; what can be copied is.
func TestCompactAfterSmallerSegments(t *testing.T) {
	scenario(t, func(t *testing.T) {
		fs := memdisk.New(memdisk.Config{})
		o := roomy(fs)
		o.CompactMin = 1 << 40 // it is left to Compact
		s := started(t, o)
		long, short := strings.Repeat("long ", 40_000), "short"
		filler := strings.Repeat("used ", 40_000)
		for _, text := range []string{long, short} {
			posted(t, s, text)
			for range 12 { // two segments
				id := posted(t, s, filler)
				if err := s.MarkUsed(t.Context(), id, 0); err != nil {
					t.Fatal(err)
				}
			}
		}
		ended(t, s)
		s = started(t, tiny(fs))
		tail := s.log.End().Segment()
		posted(t, s, "new")
		if err := s.Compact(t.Context()); err != nil {
			t.Fatal(err)
		}
		old := 0
		for _, i := range s.Segments() {
			if i.Number < tail {
				old++
			}
		}
		if old != 1 {
			t.Errorf("%d of the larger segments are left, one holds what can't be copied: %+v", old, s.Segments())
		}
		ended(t, s)
		s = started(t, tiny(fs))
		holds(t, s, long, short, "new")
		ended(t, s)
	})
}

// Where frames are nearly as long as segments, copies lie no closer together than what was copied, and all of it is sparse again: it
// is left as it is until something else is written.
func TestCopiesThatGiveNothingBackEnd(t *testing.T) {
	scenario(t, func(t *testing.T) {
		o := tiny(memdisk.New(memdisk.Config{Block: 8 << 10}))
		o.CompactRate = 64 << 10
		s := started(t, o)
		for range 40 {
			posted(t, s, strings.Repeat("mail ", 2000))
		}
		time.Sleep(time.Hour)
		was := s.log.Appended()
		time.Sleep(time.Hour)
		if n := s.log.Appended() - was; n > 0 {
			t.Errorf("%d bytes were appended in an hour in which nobody has written: %+v", n, s.Segments())
		}
	})
}
