package disk

import "golang.org/x/sys/unix"

// adviseHuge asks for huge pages in a stretch of memory. That is no more than advice, and where a part of the stretch is not mapped the kernel
// gives it for the rest.
func adviseHuge(from, size uintptr) {
	_, _, _ = unix.Syscall(unix.SYS_MADVISE, from, size, unix.MADV_HUGEPAGE)
}
