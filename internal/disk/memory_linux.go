package disk

import "golang.org/x/sys/unix"

// AdviseHuge asks for huge pages under b, which begins at a multiple of HugePage, as far as it covers whole ones. Where
// there are none nothing is different but the time that a direct write takes.
func AdviseHuge(b []byte) {
	if b = b[:len(b)&^(HugePage-1)]; len(b) > 0 {
		_ = unix.Madvise(b, unix.MADV_HUGEPAGE) // no more than advice
	}
}
