package journal

import (
	"fmt"
	"slices"
	"sync"
	"testing"

	"github.com/mtawal/mtawal/internal/disk"
)

// Bytes count before they are taken and until it is durable that they were given back: whatever a power cut
// leaves at any moment takes no more than was counted then.
func TestBytesCountUntilTheyAreDurablyGone(t *testing.T) {
	for _, scrub := range []bool{false, true} {
		t.Run(fmt.Sprint("scrub ", scrub), func(t *testing.T) {
			r := newRig(t)
			r.close()
			r.opt.Scrub = scrub
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
			for range 6 {
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
				r.ok(r.log.Recycle(dead)) // more than the pool takes
				r.settled()
				r.log.Reserve(1) // most are given back
			}
			r.settled()
			mu.Lock()
			defer mu.Unlock()
			if images < 100 {
				t.Errorf("only %d images", images)
			}
		})
	}
}
