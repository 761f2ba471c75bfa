package disk

import (
	"unsafe"

	"golang.org/x/sys/unix"
)

// AdviseHuge asks for huge pages under b, as far as it covers whole ones. Where there are none nothing is
// different but the time that a direct write takes, and that the first touch of the memory does.
func AdviseHuge(b []byte) {
	skip := int(-uintptr(unsafe.Pointer(unsafe.SliceData(b))) & (HugePage - 1))
	if n := (len(b) - skip) &^ (HugePage - 1); n > 0 {
		_ = unix.Madvise(b[skip:skip+n], unix.MADV_HUGEPAGE) // no more than advice
	}
}
