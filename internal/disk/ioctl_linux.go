package disk

import (
	"os"
	"unsafe"

	"golang.org/x/sys/unix"
)

// From linux/fiemap.h and linux/fs.h.
const (
	fsNoCow            = 0x00800000
	fsIocFiemap        = 0xc020660b
	fiemapExtentLast   = 0x1
	fiemapExtentShared = 0x2000
	fiemapBatch        = 64
)

type fiemapExtent struct {
	logical, physical, length uint64
	_                         [2]uint64
	flags                     uint32
	_                         [3]uint32
}

type fiemap struct {
	start, length         uint64
	flags, mapped, extent uint32
	_                     uint32
	extents               [fiemapBatch]fiemapExtent
}

func exclusive(f *os.File) (bool, error) {
	own := true
	err := withFd(f, func(fd int) error {
		var st unix.Stat_t
		if err := unix.Fstat(fd, &st); err != nil {
			return err
		}
		if st.Nlink != 1 {
			own = false
			return nil
		}
		for at, end := uint64(0), uint64(st.Size); at < end; {
			m := fiemap{start: at, length: end - at, extent: fiemapBatch}
			_, _, errno := unix.Syscall(unix.SYS_IOCTL, uintptr(fd), fsIocFiemap, uintptr(unsafe.Pointer(&m)))
			switch errno {
			case 0:
			case unix.EINTR:
				continue
			case unix.EOPNOTSUPP, unix.ENOTTY, unix.ENOSYS, unix.EINVAL:
				return nil // this file system can't tell, nor share as a rule
			default:
				return errno
			}
			for _, e := range m.extents[:min(m.mapped, fiemapBatch)] {
				if e.flags&fiemapExtentShared != 0 {
					own = false
					return nil
				}
				if e.flags&fiemapExtentLast != 0 || e.length == 0 {
					return nil
				}
				at = e.logical + e.length
			}
			if m.mapped == 0 {
				return nil
			}
		}
		return nil
	})
	return own && err == nil, err
}

// noCow asks for overwriting in place, as chattr +C does; the file must be
// empty. It is no promise (a snapshot shares the blocks all the same), so
// CopyOnWrite stays true, and a refusal is nothing to act upon.
func noCow(f *os.File) {
	_ = withFd(f, func(fd int) error {
		flags, err := unix.IoctlGetUint32(fd, unix.FS_IOC_GETFLAGS)
		if err != nil {
			return err
		}
		return unix.IoctlSetPointerInt(fd, unix.FS_IOC_SETFLAGS, int(flags|fsNoCow))
	})
}
