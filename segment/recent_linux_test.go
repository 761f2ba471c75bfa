package segment

import (
	"testing"
	"unsafe"

	"github.com/mtawal/mtawal/internal/disk/smaps"
)

// Frames of a store of ordinary size are laid out in memory that the kernel was asked to back with
// huge pages.
func TestSlabsAskForHugePages(t *testing.T) {
	_, _, body := NewRecent(Room{Table: 512 << 10, Body: 4 << 20}).Next()
	first := uintptr(unsafe.Pointer(unsafe.SliceData(body[:1])))
	for at := first; at < first+4<<20; at += 1 << 20 {
		if !smaps.IsHuge(t, at) {
			t.Errorf("memory of a slab at %d KiB is of small pages", (at-first)>>10)
		}
	}
}
