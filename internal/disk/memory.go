package disk

import "unsafe"

// HugePage is the size of a huge page where pages have 4 KiB. A direct write hands memory to the device
// in pieces that lie side by side: one for each such page, and else nearly one for each small page.
const HugePage = 2 << 20

// AdviseHuge asks for huge pages under a slice that holds no pointers, and under what lies beside it in those that it begins and ends in: pieces of
// memory that follow each other would have small pages where they meet, up to 2 MiB of them. Where there are none nothing is
// different but the time that a direct write takes, and that the first touch of the memory does. A slice that is shorter than one is left as it is.
func AdviseHuge[T any](s []T) {
	at, size := unsafe.Pointer(unsafe.SliceData(s)), uintptr(len(s))*unsafe.Sizeof(*new(T))
	if size < HugePage {
		return
	}
	from, to := uintptr(at)&^(HugePage-1), (uintptr(at)+size+HugePage-1)&^(HugePage-1)
	adviseHuge(from, to-from)
}
