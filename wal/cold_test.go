package wal

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/mtawal/mtawal/internal/disk"
	"github.com/mtawal/mtawal/internal/disk/memdisk"
	"github.com/mtawal/mtawal/segment"
)

// uncompacted is a store of small segments that empties nothing of its own accord.
func uncompacted(fs disk.FS) Options {
	return Options{SegmentSize: 2 * segment.SizeMin, claims: 1024, CompactMin: 1 << 60, fs: fs}
}

// toCold copies what lives in sealed segments into a cold one, as much as one takes and without waiting until the tail is full. It
// reports how much that was.
func toCold(s *Store) (moved int64, err error) {
	numbers := make(map[uint32]bool)
	for _, i := range s.segmentUses() {
		if i.Sealed {
			numbers[i.Number] = true
		}
	}
	pieces, err := s.heldIn(bgCtx, numbers)
	if err != nil {
		return 0, err
	}
	return s.moveCold(bgCtx, pieces, 0, &CompactInfo{}, true)
}

// inSegments says which segments hold live bytes, and how many.
func inSegments(t *testing.T, s *Store) map[uint32]int64 {
	t.Helper()
	if err := s.Checkpoint(t.Context()); err != nil {
		t.Fatal(err)
	}
	live := make(map[uint32]int64)
	for _, u := range s.segmentUses() {
		if u.Live > 0 {
			live[u.Number] = u.Live
		}
	}
	return live
}

// What is copied lies in a segment of its own, which nothing else is written into, and is as it was, after crashes too.
func TestColdSegmentHoldsCopiesAlone(t *testing.T) {
	scenario(t, func(t *testing.T) {
		fs := memdisk.New(memdisk.Config{})
		s := started(t, uncompacted(fs))
		a := newAccount()
		if err := a.thin(s, "a", 60, 20); err != nil {
			t.Fatal(err)
		}
		tail := s.log.End().Segment()
		moved, err := toCold(s)
		if err != nil || moved == 0 {
			t.Fatalf("%d bytes copied: %v", moved, err)
		}
		if at := s.log.End().Segment(); at != tail+1 {
			t.Errorf("the log ends in segment %d, and the cold one is %d", at, tail+1)
		}
		if err := a.thin(s, "b", 20, 20); err != nil {
			t.Fatal(err)
		}
		if live := inSegments(t, s); live[tail+1] < moved {
			t.Errorf("%d bytes live in the cold segment, want all %d: %v", live[tail+1], moved, live)
		}
		for _, i := range s.log.Segments() {
			if i.Number == tail+1 && !i.Sealed {
				t.Error("the cold segment is not sealed")
			}
		}
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
		if found, err := Verify(spool, uncompacted(fs.Clone())); err != nil || len(found) > 0 {
			t.Errorf("verify: %v, %v", found, err)
		}
		ended(t, s)
		if err := a.audit(fs); err != nil {
			t.Error(err)
		}
	})
}

// What lives in sparse segments is copied into cold ones, at once and when the tail is full; one is used before its copy is. Rule 5.4.
func TestScenario_CrashAtEveryStepOfFillingAColdSegment(t *testing.T) {
	t.Parallel()
	l := longHistory{
		opt: Options{SegmentSize: 2 * segment.SizeMin, claims: 256, CompactMin: 1 << 60, fold: segment.SizeMin},
		before: func(b *branch) {
			for range 40 {
				b.enqueue(600, "a")
			}
			b.enqueue(20_000, "a")
			for range 20 {
				b.enqueue(600, "a", "b")
			}
			var used []ID
			for i, id := range b.live() {
				if i%8 != 0 {
					used = append(used, id)
				}
			}
			b.use(used...)
			b.must("checkpoint", b.s.Checkpoint(bgCtx))
		},
		do: func(b *branch) {
			moved, err := toCold(b.s)
			if b.must("copying", err); moved == 0 {
				b.fail("nothing was copied")
			}
			b.must("checkpoints", b.s.settleFolds())
			b.use(b.live()[:2]...)
			end := b.s.log.End().Segment()
			done := make(chan error, 1)
			go func() {
				pieces, err := b.s.heldIn(bgCtx, map[uint32]bool{end: true, end - 1: true, end - 2: true})
				if err == nil {
					_, err = b.s.moveCold(bgCtx, pieces, 0, &CompactInfo{}, false)
				}
				done <- err
			}()
			synctest.Wait()
			b.use(b.live()[:1]...)
			for b.s.log.End().Segment() < end+2 {
				b.enqueue(2000, "a")
			}
			b.must("copying", <-done)
			b.must("checkpoints", b.s.settleFolds())
			b.use(b.live()[:3]...)
		},
		ops:    []string{"Create free-cold", "Allocate free-cold", "WriteDurable free-cold", "Sync free-cold", "Rename free-cold"},
		always: named,
	}
	l.run(t)
}

// roomInTail has the tail begin anew, so that a Marker finds place.
func roomInTail(t *testing.T, s *Store, a *account) {
	t.Helper()
	for n := 0; s.log.End().Offset() > segment.SizeMin/4; n++ {
		if err := a.post(s, fmt.Sprint("fills ", n, strings.Repeat(" long", 300))); err != nil {
			t.Fatal(err)
		}
	}
}

// coldWaits starts to copy what lives in sealed segments, and returns when the copies wait for the tail to be full.
func coldWaits(t *testing.T, s *Store) (done chan int64) {
	t.Helper()
	numbers := make(map[uint32]bool)
	for _, i := range s.segmentUses() {
		if i.Sealed {
			numbers[i.Number] = true
		}
	}
	pieces, err := s.heldIn(bgCtx, numbers)
	if err != nil {
		t.Fatal(err)
	}
	done = make(chan int64, 1)
	go func() {
		if err := s.compaction.begin(bgCtx); err != nil {
			t.Error(err)
		}
		defer s.compaction.end()
		moved, err := s.moveCold(bgCtx, pieces, 0, &CompactInfo{}, false)
		if err != nil {
			t.Error(err)
		}
		done <- moved
	}()
	for range 100 {
		synctest.Wait()
		s.mu.Lock()
		waits := s.cold.group != nil
		s.mu.Unlock()
		if waits {
			return done
		}
		time.Sleep(time.Millisecond)
	}
	t.Fatal("no copies wait")
	return nil
}

// The copies have their turn when the tail is full, and not before.
func TestColdSegmentComesBetweenTwoOthers(t *testing.T) {
	scenario(t, func(t *testing.T) {
		fs := memdisk.New(memdisk.Config{})
		s := started(t, uncompacted(fs))
		a := newAccount()
		if err := a.thin(s, "a", 60, 20); err != nil {
			t.Fatal(err)
		}
		roomInTail(t, s, a)
		tail := s.log.End()
		done := coldWaits(t, s)
		for n := 0; s.log.End().Segment() <= tail.Segment()+1; n++ {
			if err := a.post(s, fmt.Sprint("meanwhile ", n, strings.Repeat(" long", 300))); err != nil {
				t.Fatal(err)
			}
		}
		if moved := <-done; moved == 0 {
			t.Error("nothing was copied")
		}
		for _, i := range s.log.Segments() {
			if i.Number == tail.Segment() && i.Size-i.End > 4*4096 {
				t.Errorf("%d bytes of the segment before are not used", i.Size-i.End)
			}
		}
		ended(t, s)
		if err := a.audit(fs); err != nil {
			t.Error(err)
		}
	})
}

// Copies that wait for a tail which nobody fills go to its end after all; nor do they keep others waiting that want to compact, or a
// store from closing. Their segment is passed by, also by the next opening.
func TestColdSegmentThatIsNotUsed(t *testing.T) {
	for what, end := range map[string]func(*testing.T, *Store){
		"nothing comes": func(*testing.T, *Store) { time.Sleep(2 * coldLook) },
		"Compact":       func(t *testing.T, s *Store) { must(t, s.Compact(t.Context())) },
		"Close":         func(t *testing.T, s *Store) { ended(t, s) },
		"a failure":     func(_ *testing.T, s *Store) { s.fail(errors.New("a disk that is gone")) },
	} {
		t.Run(what, func(t *testing.T) {
			scenario(t, func(t *testing.T) {
				fs := memdisk.New(memdisk.Config{})
				s := started(t, uncompacted(fs))
				a := newAccount()
				if err := a.thin(s, "a", 60, 20); err != nil {
					t.Fatal(err)
				}
				roomInTail(t, s, a)
				var done chan int64
				if what == "a failure" {
					done = coldFails(t, s)
				} else {
					done = coldWaits(t, s)
				}
				end(t, s)
				if moved := <-done; moved != 0 {
					t.Errorf("%d bytes were copied", moved)
				}
				if what == "nothing comes" || what == "Compact" {
					for _, round := range []string{"b", "c"} {
						if err := a.thin(s, round, 30, 100); err != nil {
							t.Fatal(err)
						}
					}
					s.mu.Lock()
					if s.placed != 0 || s.adding != 0 {
						t.Errorf("%d bytes are on their way, which add %d to the next checkpoint", s.placed, s.adding)
					}
					s.mu.Unlock()
					ended(t, s)
				}
				_ = s.Close()
				if err := a.audit(fs); err != nil {
					t.Error(err)
				}
			})
		})
	}
}

// coldFails does what coldWaits does, for a store that fails meanwhile.
func coldFails(t *testing.T, s *Store) (done chan int64) {
	t.Helper()
	pieces, err := s.heldIn(bgCtx, map[uint32]bool{1: true, 2: true})
	if err != nil {
		t.Fatal(err)
	}
	done = make(chan int64, 1)
	go func() {
		moved, err := s.moveCold(context.Background(), pieces, 0, &CompactInfo{}, false)
		if !errors.Is(err, ErrFailed) {
			t.Errorf("copies that wait for a store that fails: %v", err)
		}
		if err != nil {
			moved = 0
		}
		done <- moved
	}()
	synctest.Wait()
	return done
}
