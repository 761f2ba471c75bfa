package disk

import (
	"unsafe"

	"golang.org/x/sys/unix"
)

// AdviseHuge asks for huge pages under b, as far as it covers whole ones. Where there are none
// nothing is different but the time that a direct write takes.
func AdviseHuge(b []byte) {
	const page = 64 << 10 // the largest that an ordinary page is
	skip := -int(uintptr(unsafe.Pointer(unsafe.SliceData(b)))) & (page - 1)
	if n := (len(b) - skip) &^ (page - 1); n > 0 {
		_ = unix.Madvise(b[skip:skip+n], unix.MADV_HUGEPAGE) // no more than advice
	}
}
