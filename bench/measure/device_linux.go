package measure

import (
	"fmt"
	"os"
	"syscall"

	"golang.org/x/sys/unix"
)

func deviceOf(dir string) (string, bool) {
	i, err := os.Stat(dir)
	if err != nil {
		return "", false
	}
	st, ok := i.Sys().(*syscall.Stat_t)
	if !ok {
		return "", false
	}
	return fmt.Sprintf("%d:%d", unix.Major(uint64(st.Dev)), unix.Minor(uint64(st.Dev))), true
}

func blocks(i os.FileInfo) int64 {
	if st, ok := i.Sys().(*syscall.Stat_t); ok {
		return int64(st.Blocks) * 512
	}
	return i.Size()
}

func dropFile(f *os.File) error {
	return unix.Fadvise(int(f.Fd()), 0, 0, unix.FADV_DONTNEED)
}
