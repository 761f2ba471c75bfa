package realfs

import (
	"errors"
	"fmt"
	"time"
	"unsafe"

	"golang.org/x/sys/unix"
)

// Loop is a block device that stands on a file.
type Loop struct {
	Path string
	fd   int
}

// Attach makes a block device of a file. Its write cache is the file's: a barrier is an
// fsync of the file.
func Attach(backing string) (*Loop, error) {
	// Not through os.File: the file may be served by this process, which must not wait for
	// itself in a poller.
	file, err := unix.Open(backing, unix.O_RDWR|unix.O_CLOEXEC, 0)
	if err != nil {
		return nil, fmt.Errorf("attach %s: %w", backing, err)
	}
	defer unix.Close(file)
	control, err := unix.Open("/dev/loop-control", unix.O_RDWR|unix.O_CLOEXEC, 0)
	if err != nil {
		return nil, fmt.Errorf("attach a loop device: %w", err)
	}
	defer unix.Close(control)
	for range 100 {
		n, err := unix.IoctlRetInt(control, unix.LOOP_CTL_GET_FREE)
		if err != nil {
			return nil, fmt.Errorf("find a free loop device: %w", err)
		}
		l := &Loop{Path: fmt.Sprintf("/dev/loop%d", n)}
		if l.fd, err = unix.Open(l.Path, unix.O_RDWR|unix.O_CLOEXEC, 0); err != nil {
			return nil, fmt.Errorf("open %s: %w", l.Path, err)
		}
		err = unix.IoctlLoopConfigure(l.fd, &unix.LoopConfig{Fd: uint32(file)})
		if err == nil {
			return l, nil
		}
		unix.Close(l.fd)
		if !errors.Is(err, unix.EBUSY) {
			return nil, fmt.Errorf("attach %s: %w", l.Path, err)
		}
		time.Sleep(5 * time.Millisecond) // somebody else was quicker
	}
	return nil, errors.New("attach a loop device: all are busy")
}

// Detach gives the device back, now or, if somebody still looks at it, when they are done.
func (l *Loop) Detach() error {
	err := unix.IoctlSetInt(l.fd, unix.LOOP_CLR_FD, 0)
	if cerr := unix.Close(l.fd); err == nil {
		err = cerr
	}
	if err != nil {
		return fmt.Errorf("detach %s: %w", l.Path, err)
	}
	return nil
}

// Extent is where bytes of a file are on its device.
type Extent struct{ Off, Len int64 }

// Extents says where a file is, as far as that is known: at most 512 pieces.
func Extents(path string) ([]Extent, error) {
	const fiemap, most = 0xc020660b, 512
	type extent struct {
		logical, physical, length uint64
		_                         [2]uint64
		flags                     uint32
		_                         [3]uint32
	}
	var arg struct {
		start, length               uint64
		flags, mapped, count, spare uint32
		extents                     [most]extent
	}
	arg.length, arg.count = ^uint64(0), most
	fd, err := unix.Open(path, unix.O_RDONLY|unix.O_NONBLOCK|unix.O_CLOEXEC, 0)
	if err != nil {
		return nil, fmt.Errorf("look where %s is: %w", path, err)
	}
	defer unix.Close(fd)
	if _, _, errno := unix.Syscall(unix.SYS_IOCTL, uintptr(fd), fiemap, uintptr(unsafe.Pointer(&arg))); errno != 0 {
		return nil, fmt.Errorf("look where %s is: %w", path, errno)
	}
	const unknown = 2 | 4 | 0x200 // not known, not yet allocated, among metadata
	var list []Extent
	for _, e := range arg.extents[:arg.mapped] {
		if e.flags&unknown == 0 {
			list = append(list, Extent{int64(e.physical), int64(e.length)})
		}
	}
	return list, nil
}
