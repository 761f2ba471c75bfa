package journal

import (
	"errors"
	"fmt"
	"slices"
	"sync"
	"syscall"
	"testing"
	"testing/synctest"

	"github.com/mtawal/mtawal/internal/disk"
	"github.com/mtawal/mtawal/internal/disk/faultdisk"
	"github.com/mtawal/mtawal/internal/disk/memdisk"
	"github.com/mtawal/mtawal/segment"
)

// flown places a message whose frame takes so many blocks.
func (r *rig) flown(blocks int) *Flight {
	r.Helper()
	f := new(Flight)
	r.ok(r.log.Place(message(r.next, blocks*block-512), f))
	r.next++
	return f
}

func (r *rig) land(f *Flight) {
	r.Helper()
	r.ok(r.log.Land(f))
	r.frames = append(r.frames, f.Header())
}

// Two frames in flight, written in either order or beside each other, and every power cut at every operation of
// it: what has landed is there, behind it no frame without the one before it. The next life goes on
// at the end, and a frame of it as long as one that was cut does not bring back the one behind.
func TestCrashWithTwoFramesInFlight(t *testing.T) {
	states := 0
	for first := range 2 {
		for _, beside := range []bool{false, true} {
			states += crashFlown(t, first, beside)
		}
	}
	if states < 80 {
		t.Errorf("%d states were tried", states)
	}
}

func crashFlown(t *testing.T, first int, beside bool) (states int) {
	r := newRigOn(t, memdisk.New(memdisk.Config{WholePages: true, OldOrNew: true}))
	r.put(1)
	r.settled()
	flights := []*Flight{r.flown(2), r.flown(2)}
	for _, f := range flights {
		if h := f.Header(); h.Promise != flights[0].Header().Pos {
			t.Fatalf("in flight at %v, it promises %v", h.Pos, h.Promise)
		}
	}
	type moment struct {
		fs     *memdisk.FS
		landed int
	}
	var moments []moment
	look := func() { moments = append(moments, moment{r.fs.Clone(), len(r.frames)}) }
	written := 0
	write := func(f *Flight) {
		written++
		r.ok(r.log.Write(f))
		look()
	}
	r.fs.OnOp(func(op disk.Op, _ string) {
		if op != disk.OpWriteDurable && op != disk.OpFlush {
			return
		}
		look()
		if beside && op == disk.OpFlush && written == 1 { // the other one, from its beginning to its end
			write(flights[1-first])
		}
	})
	write(flights[first])
	if first == 0 {
		r.land(flights[0])
		look()
	}
	if !beside {
		write(flights[1-first])
	}
	if first == 1 {
		r.land(flights[0])
		look()
	}
	r.land(flights[1])
	look()
	r.fs.OnOp(nil)
	for k, m := range moments {
		what := fmt.Sprintf("frame %d first, beside each other %v, moment %d", first, beside, k)
		for c := new(memdisk.Choices); ; {
			fs := m.fs.Clone()
			fs.PowerCutWith(c.Choose)
			states++
			checkFlown(t, fmt.Sprintf("%s, choices %v", what, c.Path()), fs, m.landed, r.frames)
			if !c.Next() {
				break
			}
		}
		checkFlown(t, what+", a kill", m.fs.Clone(), m.landed, r.frames)
	}
	return states
}

// checkFlown recovers twice, with frames of equal length put in between.
func checkFlown(t *testing.T, what string, fs *memdisk.FS, landed int, all []segment.FrameHeader) {
	t.Helper()
	n := on(t, fs)
	rec, err := n.recover(Start{}, 1, 0)
	if err != nil {
		t.Errorf("%s: %v", what, err)
		return
	}
	got := withoutSeals(rec.headers)
	if len(got) < landed || len(got) > len(all) || !slices.Equal(got, all[:len(got)]) {
		t.Errorf("%s: %s recovered of %s, and %d had landed", what, places(got), places(all), landed)
		n.ok(rec.Close())
		return
	}
	n.resume(rec)
	for range 2 { // over what was cut, or behind it
		n.put(2)
		n.replaysNow(what + ", gone on")
	}
	n.put(1)
	n.replaysNow(what + ", gone on further")
	n.close()
}

// Frames land in their order alone.
func TestLandingOutOfTurn(t *testing.T) {
	r := newRig(t)
	a, b := r.flown(1), r.flown(1)
	r.ok(r.log.Write(b))
	end := r.log.End()
	if err := r.log.Land(b); err == nil || r.log.End() != end {
		t.Errorf("the second landed first: %v, and the log ends at %v, was %v", err, r.log.End(), end)
	}
	r.ok(r.log.Write(a))
	r.land(a)
	r.land(b)
	r.replaysNow("both landed")
}

// The Seal promises all that is before it, so the segment is not changed while frames are in flight.
func TestRotationWaitsForWhatIsInFlight(t *testing.T) {
	for _, end := range []string{"landed", "abandoned"} {
		t.Run(end, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				r := newRig(t)
				r.fill(1)
				r.settled()
				first := r.flown(1)
				next := new(Flight)
				placed := make(chan error, 1)
				go func() { placed <- r.log.Place(message(r.next, block-512), next) }()
				synctest.Wait()
				select {
				case err := <-placed:
					t.Fatalf("placed in the next segment while a frame is in flight: %v", err)
				default:
				}
				if end == "abandoned" {
					r.log.Abandon(syscall.EIO)
					if err := <-placed; !errors.Is(err, syscall.EIO) {
						t.Errorf("behind a frame that never lands: %v", err)
					}
					if err := r.log.Place(message(r.next, 10), new(Flight)); !errors.Is(err, syscall.EIO) {
						t.Errorf("and another: %v", err)
					}
					return
				}
				r.ok(r.log.Write(first))
				r.land(first)
				r.ok(<-placed)
				if pos := next.Header().Pos; pos.Segment() != first.Header().Pos.Segment()+1 {
					t.Errorf("placed at %v", pos)
				}
				r.ok(r.log.Write(next))
				r.land(next)
				r.replaysNow("in the next segment")
			})
		})
	}
}

// Writes that go on at the same time, for the race detector.
func TestWritesBesideEachOther(t *testing.T) {
	r := newRig(t)
	for range perSegment {
		a, b := r.flown(1), r.flown(2)
		var wg sync.WaitGroup
		errs := make([]error, 2)
		wg.Go(func() { errs[0] = r.log.Write(a) })
		wg.Go(func() { errs[1] = r.log.Write(b) })
		wg.Wait()
		r.ok(errors.Join(errs...))
		r.land(a)
		r.land(b)
		if r.log.tail.Size-r.log.off < 6*block { // the next ones would wait for each other
			r.put(4)
		}
	}
	r.replaysNow("written in pairs")
}

// A write that finds no room is tried again, with the same bytes, while the one behind it is done.
func TestNoRoomForTheFirstOfTwo(t *testing.T) {
	m := memdisk.New(memdisk.Config{})
	d := faultdisk.New(m)
	newRigOn(t, m).close()
	r := rigOver(t, m, d)
	r.open()
	r.settled()
	a, b := r.flown(1), r.flown(1)
	d.Set(faultdisk.Plan{N: 1, Err: syscall.ENOSPC, Only: []disk.Op{disk.OpWriteDurable}, Name: "seg-"})
	if err := r.log.Write(a); !errors.Is(err, disk.ErrNoSpace) {
		t.Fatalf("on a full disk: %v", err)
	}
	r.ok(r.log.Write(b))
	r.ok(r.log.Write(a))
	r.land(a)
	r.land(b)
	r.replaysNow("after a full disk")
}
