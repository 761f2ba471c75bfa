package journal

import (
	"bytes"
	"fmt"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/mtawal/mtawal/internal/disk"
	"github.com/mtawal/mtawal/internal/disk/memdisk"
	"github.com/mtawal/mtawal/segment"
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

// A log that ends waits for the file that is being wiped, not for all that are dead: the others
// are left to the next opening.
func TestScrubEndsWithTheLog(t *testing.T) {
	r := newRigOn(t, memdisk.New(memdisk.Config{}))
	r.close()
	r.opt.Scrub = true
	r.open()
	const n = 5
	for range n {
		r.fill(0)
		r.put(1)
	}
	log := r.log
	var dead []uint32
	for _, i := range log.Segments() {
		if i.Sealed {
			dead = append(dead, i.Number)
		}
	}
	freed := func(n uint32) string { return fmt.Sprintf("%s%08x", freePrefix, n) }
	begun := make(chan struct{})
	var once sync.Once
	r.fs.OnOp(func(op disk.Op, name string) {
		// A successor that is being filled has a free name too.
		if op != disk.OpWriteDurable || !slices.ContainsFunc(dead, func(n uint32) bool { return strings.HasSuffix(name, freed(n)) }) {
			return
		}
		once.Do(func() {
			close(begun)
			for m := log.maker; ; time.Sleep(time.Millisecond) {
				m.mu.Lock()
				stop := m.stop
				m.mu.Unlock()
				if stop {
					return
				}
			}
		})
	})
	r.ok(log.Recycle(dead))
	<-begun
	r.close()
	r.fs.OnOp(nil)
	// The maker may have come to the first when the others still had their names.
	var left []string
	for _, name := range r.files() {
		if !slices.ContainsFunc(dead, func(n uint32) bool { return name == freed(n) || name == segment.Name(n) }) {
			continue
		}
		b, err := r.fs.Device(logDir + "/" + name)
		r.ok(err)
		if bytes.ContainsFunc(b, func(c rune) bool { return c != 0 }) {
			left = append(left, name)
		}
	}
	if len(dead) < n || len(left) == 0 {
		t.Errorf("none of %v is left to be wiped", dead)
	}
}
