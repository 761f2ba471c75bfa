package wal

import (
	"errors"
	"fmt"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/mtawal/mtawal/internal/disk"
	"github.com/mtawal/mtawal/internal/disk/faultdisk"
	"github.com/mtawal/mtawal/internal/disk/memdisk"
	"github.com/mtawal/mtawal/segment"
)

// uncompacted is a store of small segments that empties nothing of its own accord.
func uncompacted(fs disk.FS) Options {
	return Options{SegmentSize: 2 * segment.SizeMin, claims: 1024, CompactMin: 1 << 60, fs: fs}
}

// thinned is such a store in which little lives in each of many segments.
func thinned(t *testing.T, fs disk.FS) (*Store, *account) {
	t.Helper()
	s := started(t, uncompacted(fs))
	a := newAccount()
	if err := a.thin(s, "a", 60, 20); err != nil {
		t.Fatal(err)
	}
	return s, a
}

// copies starts to copy what lives in sealed segments into a cold one.
func copies(s *Store) (done chan error) {
	done = make(chan error, 1)
	numbers := sealedOnes(s)
	go func() {
		pieces, err := s.heldIn(bgCtx, numbers)
		if err == nil {
			_, _, err = s.moveCold(bgCtx, pieces, 0, &CompactInfo{})
		}
		done <- err
	}()
	return done
}

// copiesWait does so, and returns when they wait for the tail to be full.
func copiesWait(t *testing.T, s *Store) (done chan error) {
	t.Helper()
	done = copies(s)
	for range 100 {
		synctest.Wait()
		s.mu.Lock()
		waits := s.cold != nil
		s.mu.Unlock()
		if waits {
			return done
		}
		time.Sleep(time.Millisecond)
	}
	t.Fatal("no copies wait")
	return nil
}

// coldOnes are the segments of the log that are smaller than it makes them by itself.
func coldOnes(s *Store) (list []uint32) {
	for _, i := range s.log.Segments() {
		if i.Size < s.opt.SegmentSize {
			list = append(list, i.Number)
		}
	}
	return list
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
		s, a := thinned(t, fs)
		before := inSegments(t, s)
		tail := s.log.End().Segment()
		delete(before, tail)
		var want int64
		for _, n := range before {
			want += n
		}
		done := copiesWait(t, s)
		if err := a.post(s, strings.Repeat("too long for the tail ", 4500)); err != nil {
			t.Fatal(err)
		}
		if err := <-done; err != nil {
			t.Fatal(err)
		}
		if live := inSegments(t, s); want == 0 || live[tail+1] != want {
			t.Errorf("%d bytes live in the cold segment, want all %d: %v, before %v", live[tail+1], want, live, before)
		}
		if at := s.log.End().Segment(); at != tail+2 {
			t.Errorf("the log ends in segment %d, and the cold one is %d", at, tail+1)
		}
		a.auditCrashes(t, fs)
		ended(t, s)
		if err := a.audit(fs); err != nil {
			t.Error(err)
		}
	})
}

// What lives in sparse segments is copied into cold ones, before a message that finds no place in the tail and when that is full; one is used before its copy is. Rule 5.4.
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
			done := copies(b.s)
			synctest.Wait()
			b.enqueue(90_000, "a") // too long for the tail
			if b.must("copying", <-done); len(coldOnes(b.s)) != 1 {
				b.fail("nothing was copied: %v", b.s.Segments())
			}
			b.must("checkpoints", b.s.settleFolds())
			b.use(b.live()[:2]...)
			end := b.s.log.End().Segment()
			done = copies(b.s)
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

// The copies have their turn when the tail is full, and not before.
func TestColdSegmentComesBetweenTwoOthers(t *testing.T) {
	scenario(t, func(t *testing.T) {
		fs := memdisk.New(memdisk.Config{})
		s, a := thinned(t, fs)
		roomInTail(t, s, a)
		tail := s.log.End()
		done := copiesWait(t, s)
		for n := 0; s.log.End().Segment() <= tail.Segment()+1; n++ {
			if err := a.post(s, fmt.Sprint("meanwhile ", n, strings.Repeat(" long", 300))); err != nil {
				t.Fatal(err)
			}
		}
		if err := <-done; err != nil || len(coldOnes(s)) != 1 {
			t.Errorf("%v are cold: %v", coldOnes(s), err)
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
		"Compact": func(t *testing.T, s *Store) {
			if err := s.Compact(t.Context()); err != nil {
				t.Error(err)
			}
		},
		"Close":     func(t *testing.T, s *Store) { ended(t, s) },
		"a failure": func(_ *testing.T, s *Store) { s.fail(errors.New("a disk that is gone")) },
	} {
		t.Run(what, func(t *testing.T) {
			scenario(t, func(t *testing.T) {
				fs := memdisk.New(memdisk.Config{})
				s, a := thinned(t, fs)
				roomInTail(t, s, a)
				done := copiesWait(t, s)
				end(t, s)
				want := map[string]error{"Close": ErrClosed, "a failure": ErrFailed}[what]
				if err := <-done; !errors.Is(err, want) {
					t.Errorf("%v, want %v", err, want)
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

// The disk has no room for the change of segment that the copies would go with, once: they go to the end of the log then, and the store goes on.
func TestColdSegmentOnADiskThatIsFull(t *testing.T) {
	for _, nudged := range []bool{false, true} {
		scenario(t, func(t *testing.T) {
			m := memdisk.New(memdisk.Config{})
			fs := faultdisk.New(m)
			s, a := thinned(t, fs)
			roomInTail(t, s, a)
			tail := s.log.End().Segment()
			done := copiesWait(t, s)
			for n := 0; s.log.End().Offset() < s.opt.SegmentSize-2*4096; n++ {
				if err := a.post(s, fmt.Sprint("short ", n)); err != nil {
					t.Fatal(err)
				}
			}
			fs.Set(faultdisk.Plan{N: 1, Err: disk.ErrNoSpace, Only: []disk.Op{disk.OpWriteDurable}, Name: segment.Name(tail)})
			if nudged { // a checkpoint waits for a position of its own
				if err := s.nudge(); err != nil {
					t.Error(err)
				}
			}
			if err := a.post(s, "another"); err != nil {
				t.Error(err)
			}
			if fs.Failed() != 1 {
				t.Errorf("the disk was full %d times", fs.Failed())
			}
			if err := <-done; err != nil {
				t.Error(err)
			}
			s.mu.Lock()
			if s.placed != 0 || s.adding != 0 || s.leasing != s.leased || s.nudging {
				t.Errorf("placed %d, adding %d, leasing %d of %d, nudging %v", s.placed, s.adding, s.leasing, s.leased, s.nudging)
			}
			s.mu.Unlock()
			for range 30 {
				if err := a.post(s, "and another"); err != nil {
					t.Fatal(err)
				}
			}
			ended(t, s)
			if err := a.audit(m); err != nil {
				t.Error(err)
			}
		})
	}
}

// What one cold segment has no room for is not taken for what can't be copied.
func TestWhatOneColdSegmentDoesNotTake(t *testing.T) {
	scenario(t, func(t *testing.T) {
		fs := memdisk.New(memdisk.Config{})
		o := uncompacted(fs)
		o.SegmentSize = 2 << 20
		s := started(t, o)
		for range 14 {
			var b Batch
			for range 500 {
				b.Enqueue = append(b.Enqueue, mailing("held"))
			}
			if _, err := s.Commit(bgCtx, b); err != nil {
				t.Fatal(err)
			}
		}
		for n := 0; s.log.End().Segment() < 2; n++ {
			posted(t, s, fmt.Sprint(n, strings.Repeat(" long", 10_000)))
		}
		for pass := 1; ; pass++ {
			live := inSegments(t, s)
			if live[1] == 0 {
				if pass < 3 {
					t.Errorf("%d passes, of which none was one part", pass-1)
				}
				break
			}
			if pass > 10 {
				t.Fatalf("there is %v left", live)
			}
			over := make(chan error, 1)
			go func() {
				_, all, err := s.compactThese(bgCtx, map[uint32]bool{1: true}, live[1], true)
				if all && pass == 1 {
					t.Error("one took all")
				}
				over <- err
			}()
			for waits := true; waits; {
				posted(t, s, strings.Repeat(" long", 10_000))
				time.Sleep(5 * time.Millisecond)
				select {
				case err := <-over:
					waits = false
					if err != nil {
						t.Fatal(err)
					}
				default:
				}
			}
		}
	})
}
