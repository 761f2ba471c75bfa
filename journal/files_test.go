package journal

import (
	"fmt"
	"slices"
	"sync"
	"testing"
	"time"

	"github.com/mtawal/mtawal/internal/disk"
	"github.com/mtawal/mtawal/internal/disk/faultdisk"
	"github.com/mtawal/mtawal/internal/disk/memdisk"
)

// Bytes count before they are taken and until it is durable that they were given back: whatever a power cut
// leaves at any moment takes no more than was counted then.
func TestBytesCountUntilTheyAreDurablyGone(t *testing.T) {
	for _, c := range []struct{ scrub, full bool }{{}, {scrub: true}, {full: true}, {scrub: true, full: true}} {
		t.Run(fmt.Sprintf("%+v", c), func(t *testing.T) {
			m := memdisk.New(memdisk.Config{})
			d := faultdisk.New(m)
			r := rigOver(t, m, d)
			r.opt.Scrub = c.scrub
			r.ok(MakeFirst(r.dir, testUUID, r.opt))
			r.open()
			var mu sync.Mutex
			images, log := 0, r.log // which the rig forgets before it has ended
			r.fs.OnOp(func(op disk.Op, name string) {
				if !slices.Contains([]disk.Op{disk.OpCreate, disk.OpRename, disk.OpRemove, disk.OpDirSync, disk.OpAllocate, disk.OpWriteDurable, disk.OpSync}, op) {
					return
				}
				mu.Lock()
				defer mu.Unlock()
				counted := log.Files().Bytes
				none := r.fs.Clone()
				counted = max(counted, log.Files().Bytes)
				all := none.Clone()
				none.PowerCutWith(func(int) int { return 0 })
				all.PowerCutWith(func(n int) int { return n - 1 })
				for what, image := range map[string]interface {
					OpenDir(string, bool) (disk.Dir, error)
				}{"nothing more": none, "all of it": all} {
					d, err := image.OpenDir(logDir, false)
					if err != nil {
						t.Error(err)
						return
					}
					s, err := d.Space()
					if err != nil {
						t.Error(err)
					}
					images++
					if taken := s.Total - s.Free; taken > counted {
						t.Errorf("before %v %s a power cut that keeps %s leaves %d bytes, %d were counted", op, name, what, taken, counted)
					}
					_ = d.Close()
				}
			})
			defer r.fs.OnOp(nil)
			for round := range 6 {
				for range 6 * perSegment {
					r.put(1)
				}
				r.reserve(6)
				var dead []uint32
				for _, n := range r.log.Numbers() {
					if n < r.log.tail.Number {
						dead = append(dead, n)
					}
				}
				r.settled()
				if c.full && round%2 == 0 {
					d.Set(faultdisk.Plan{N: 1, Err: disk.ErrNoSpace, Only: []disk.Op{disk.OpDirSync}})
				}
				r.ok(r.log.Recycle(dead)) // more than the pool takes
				r.log.Collected(nil)
				if c.full && round%2 == 0 && d.Failed() == 0 {
					t.Error("there was room for the names")
				}
				d.Set(faultdisk.Plan{})
				r.log.Reserve(1) // most are given back
			}
			r.settled()
			for tries := 0; ; tries++ { // it still drops spare files
				s, err := r.dir.Space()
				r.ok(err)
				counted, taken := log.Files().Bytes, s.Total-s.Free
				if counted == taken {
					break
				}
				if tries == 5000 {
					t.Fatalf("in the end %d bytes are counted and %d taken", counted, taken)
				}
				time.Sleep(time.Millisecond)
			}
			mu.Lock()
			defer mu.Unlock()
			if images < 100 {
				t.Errorf("only %d images", images)
			}
		})
	}
}
