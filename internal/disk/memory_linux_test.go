package disk

import (
	"testing"
	"unsafe"

	"github.com/mtawal/mtawal/internal/disk/smaps"
)

// Huge pages are asked for where memory begins and ends too, in the middle of one: pieces that follow each other are
// huge where they meet.
func TestHugePagesAtTheEnds(t *testing.T) {
	all := make([]byte, 8*HugePage)
	skip := int(-uintptr(unsafe.Pointer(unsafe.SliceData(all)))&(HugePage-1)) + HugePage + HugePage/2 + 4096
	piece := all[skip : skip+2*HugePage]
	AdviseHuge(piece)
	for _, at := range []int{0, len(piece) / 2, len(piece) - 1} {
		if !smaps.IsHuge(t, uintptr(unsafe.Pointer(&piece[at]))) {
			t.Errorf("at %d of %d bytes there are small pages", at, len(piece))
		}
	}
}
