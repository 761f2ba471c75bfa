package disk

import (
	"errors"
	"os"
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

// What is dropped is out of the page tables, but for what lies beside it, and reads as before.
func TestDrop(t *testing.T) {
	page := int64(os.Getpagesize())
	e := newRealFile(t, int(16*page))
	if err := e.Populate(0, 16*page); err != nil {
		t.Fatal(err)
	}
	b := e.Bytes()
	here := func(off int64) bool { return smaps.Present(t, uintptr(unsafe.Pointer(&b[off]))) }
	if !here(0) || !here(8*page) {
		t.Skip("what was populated is not said to be present")
	}
	e.Drop(2*page+1, 8*page)
	for off, want := range map[int64]bool{page: true, 2 * page: true, 3 * page: false, 9 * page: false, 12 * page: true} {
		if here(off) != want {
			t.Errorf("at page %d: present is %v", off/page, !want)
		}
	}
	for off := range int64(len(b)) {
		if b[off] != byte(off%251) {
			t.Fatalf("at %d there is %d", off, b[off])
		}
	}
	e.Drop(0, 1<<40) // beyond the end: nothing
	e.Drop(-1, 10)
	e.Drop(10, 0)
}

// newRealFile is the mapping of a file of so many bytes.
func newRealFile(t *testing.T, size int) Mapping {
	t.Helper()
	d, err := OS().OpenDir(t.TempDir()+"/store", true)
	if err != nil {
		t.Fatal(err)
	}
	f, err := d.Create("file")
	if err != nil {
		t.Fatal(err)
	}
	b := make([]byte, size)
	for i := range b {
		b[i] = byte(i % 251)
	}
	if _, err := f.WriteAt(b, 0); err != nil {
		t.Fatal(err)
	}
	m, err := f.Map(int64(size))
	if err != nil {
		t.Fatal(err)
	}
	f.Forget() // of what is mapped nothing has to go
	t.Cleanup(func() {
		if err := errors.Join(m.Close(), f.Close(), d.Close()); err != nil {
			t.Error(err)
		}
	})
	return m
}
