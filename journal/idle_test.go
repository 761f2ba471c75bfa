package journal

import (
	"errors"
	"testing"
	"testing/synctest"

	"github.com/mtawal/mtawal/internal/disk"
	"github.com/mtawal/mtawal/internal/disk/faultdisk"
	"github.com/mtawal/mtawal/internal/disk/memdisk"
	"github.com/mtawal/mtawal/segment"
)

// largeRig is a log of segments that are not the smallest, over a disk of which operations fail.
func largeRig(t *testing.T) (*rig, *faultdisk.FS) {
	t.Helper()
	m := memdisk.New(memdisk.Config{})
	d := faultdisk.New(m)
	r := rigOver(t, m, d)
	r.opt.SegmentSize = 2 * segment.SizeMin
	r.ok(MakeFirst(r.dir, testUUID, r.opt))
	r.open()
	r.put(1)
	r.settled()
	return r, d
}

// The disk has no room for the Seal that a Shrink needs, as may be where writes copy. When it has
// there is one, and the log goes on: what else is to be appended has waited for it.
func TestShrinkIsRefused(t *testing.T) {
	for _, after := range []bool{false, true} {
		synctest.Test(t, func(t *testing.T) {
			r, d := largeRig(t)
			r.log.Idle(segment.SizeMin)
			synctest.Wait()
			if !r.log.Shrinks() {
				t.Fatal("no small segment stands ready")
			}
			d.Set(faultdisk.Plan{N: 1, Forever: true, After: after, Err: disk.ErrNoSpace, Only: []disk.Op{disk.OpWriteDurable}})
			f := marker()
			f.Spare, f.Shrink = true, true
			for range 3 {
				if _, err := r.log.Append(f); !errors.Is(err, disk.ErrNoSpace) {
					t.Fatal(err)
				}
				r.crash().replays("no room", r.frames)
			}
			d.Set(faultdisk.Plan{})
			r.append(f)
			if n := r.log.End().Segment(); n != 2 {
				t.Errorf("the log goes on in segment %d", n)
			}
			r.put(1)
			r.crash().replays("room again", r.frames)
		})
	}
}

// A Seal for which there was no room may be on the disk all the same. So the segment that it names stays,
// also when the log comes to be idle and would rather have a small one.
func TestIdleKeepsWhatASealMayName(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r, d := largeRig(t)
		r.fill(0)
		d.Set(faultdisk.Plan{N: 1, Forever: true, After: true, Err: disk.ErrNoSpace, Only: []disk.Op{disk.OpWriteDurable}})
		f := message(r.next, 10)
		r.next++
		if _, err := r.log.Append(f); !errors.Is(err, disk.ErrNoSpace) {
			t.Fatal(err)
		}
		r.log.Idle(segment.SizeMin)
		synctest.Wait()
		r.crash().replays("idle, with a Seal that was refused", r.frames)
		d.Set(faultdisk.Plan{})
		r.append(f)
		r.crash().replays("room again", r.frames)
	})
}
