package wal

import (
	"slices"
	"testing"

	"github.com/mtawal/mtawal/internal/disk"
	"github.com/mtawal/mtawal/internal/disk/memdisk"
)

// Rules 3.1 and 3.4. A store exists when META says so. Whatever a crash leaves of the making
// of one, with any of its names there, the next opening makes it.
func TestScenario_CrashWhileAStoreIsMade(t *testing.T) {
	scenario(t, func(t *testing.T) {
		fs := memdisk.New(memdisk.Config{WholePages: true, OldOrNew: true, Names: memdisk.NamesSubset})
		var images []*memdisk.FS
		fs.OnOp(func(op disk.Op, _ string) {
			if slices.Contains(changing, op) {
				images = append(images, fs.Clone())
			}
		})
		// As far as the lock: behind it others write too.
		d, err := fs.OpenDir(spool, true)
		if err != nil {
			t.Fatal(err)
		}
		o, err := tiny(fs).withDefaults()
		if err != nil {
			t.Fatal(err)
		}
		if _, err := ensureStore(d, &o); err != nil {
			t.Fatal(err)
		}
		fs.OnOp(nil)
		if len(images) < 10 {
			t.Fatalf("only %d images", len(images))
		}
		n := 0
		for i, image := range append(images, fs) {
			cuts(image, func(c *memdisk.FS, path []int) {
				n++
				s := started(t, tiny(c))
				posted(t, s, "first")
				ended(t, s)
				s = started(t, tiny(c))
				holds(t, s, "first")
				ended(t, s)
				if t.Failed() {
					t.Fatalf("image %d, power cut %v", i, path)
				}
			})
		}
		t.Logf("%d power cuts", n)
	})
}
