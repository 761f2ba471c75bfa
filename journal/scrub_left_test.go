package journal

import (
	"bytes"
	"strings"
	"testing"

	"github.com/mtawal/mtawal/internal/disk"
	"github.com/mtawal/mtawal/internal/disk/memdisk"
)

// What a crash left of dead segments is wiped before it is removed: nothing can be read of its blocks
// then, whoever gets them.
func TestScrubWipesWhatACrashLeft(t *testing.T) {
	r := newRigOn(t, memdisk.New(memdisk.Config{}))
	r.close()
	body := bytes.Repeat([]byte("a body that was delivered "), 4000)
	f, err := r.dir.Create(freePrefix + "left")
	r.ok(err)
	_, err = f.WriteAt(body, 0)
	r.ok(err)
	r.ok(f.Sync())
	r.ok(f.Close())
	removed := false
	r.fs.OnOp(func(op disk.Op, name string) {
		if op != disk.OpRemove || !strings.HasSuffix(name, freePrefix+"left") {
			return
		}
		removed = true
		crash := r.fs.Clone()
		crash.PowerCutWith(func(int) int { return 0 }) // what is on the device
		left, err := crash.Device(logDir + "/" + freePrefix + "left")
		if err != nil {
			t.Error(err)
		}
		if bytes.Contains(left, []byte("delivered")) {
			t.Error("it is removed, and its blocks hold the body")
		}
	})
	r.opt.Scrub = true
	r.open()
	r.fs.OnOp(nil)
	if !removed {
		t.Error("it was not removed")
	}
}
