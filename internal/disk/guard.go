package disk

import (
	"fmt"
	"os"
	"runtime/debug"
	"unsafe"
)

// Guard runs f, which reads the memory of m. A page of m that can't be read (the
// device fails, someone cut the file) makes Guard return an error that matches
// [ErrFault], where without it the process would die. Any other panic of f,
// and a fault anywhere else, goes on as it was.
//
// It holds for the goroutine that calls it alone, not for those that f starts.
func Guard(m Mapping, f func() error) (err error) {
	mem := m.Bytes()
	old := debug.SetPanicOnFault(true)
	defer func() {
		debug.SetPanicOnFault(old)
		r := recover()
		if r == nil {
			return
		}
		fault, ok := r.(interface {
			error
			Addr() uintptr
		})
		if !ok || !within(mem, fault.Addr()) {
			panic(r)
		}
		off := fault.Addr() - uintptr(unsafe.Pointer(unsafe.SliceData(mem)))
		err = fmt.Errorf("%w: at offset %d: %w", ErrFault, off, error(fault))
	}()
	return f()
}

// within reports whether an address lies in the pages of b.
func within(b []byte, addr uintptr) bool {
	if len(b) == 0 {
		return false
	}
	page := uintptr(os.Getpagesize())
	start := uintptr(unsafe.Pointer(unsafe.SliceData(b)))
	return addr >= start && addr-start < (uintptr(len(b))+page-1)/page*page
}
