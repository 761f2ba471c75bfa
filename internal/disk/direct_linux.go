package disk

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"strconv"
	"sync"
	"unsafe"

	"golang.org/x/sys/unix"
)

// direct is a second descriptor of a file, with O_DIRECT, for durable writes past the page
// cache: they save the copy into it, and large ones are twice as fast for it. The kernel
// drops the pages of the range before and after the write, so mappings and reads see what was
// written once it has returned (open(2), and iomap in the kernel's documentation of file systems).
type direct struct {
	wanted bool // the file system writes in place; set when the file is opened

	mu      sync.Mutex
	f       *os.File
	refused bool // this file can't be had, or does not take what was aligned
	closed  bool
}

// writeDurable writes past the page cache if everything is aligned and the file takes it.
// tried says that it did, and err is what came of it.
func (d *direct) writeDurable(of *os.File, off int64, bufs [][]byte) (tried bool, err error) {
	if !d.wanted || !alignedFor(off, bufs) {
		return false, nil
	}
	f, err := d.open(of)
	if f == nil || err != nil {
		return err != nil, err
	}
	err = writeVectors(f, off, bufs, true)
	if errors.Is(err, unix.EINVAL) || errors.Is(err, unix.EOPNOTSUPP) {
		// A device of larger sectors, say. Nothing is lost: all of it is written again, through the cache.
		d.mu.Lock()
		d.refused = true
		d.mu.Unlock()
		return false, nil
	}
	return true, err
}

func (d *direct) open(of *os.File) (*os.File, error) {
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.closed {
		return nil, fs.ErrClosed
	}
	if d.refused {
		return nil, nil
	}
	if d.f != nil {
		return d.f, nil
	}
	f, err := reopenDirect(of, unix.O_RDWR)
	if errors.Is(err, fs.ErrClosed) {
		return nil, err
	}
	d.f, d.refused = f, err != nil // no O_DIRECT on this file system, or no /proc
	return d.f, nil
}

// close closes the descriptor; no other is opened.
func (d *direct) close() error {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.closed = true
	if d.f == nil {
		return nil
	}
	f := d.f
	d.f = nil
	return f.Close()
}

// reopenDirect opens the same file once more, whatever its name is by now.
func reopenDirect(of *os.File, flags int) (*os.File, error) {
	var fd int
	err := withFd(of, func(have int) (err error) {
		fd, err = unix.Open("/proc/self/fd/"+strconv.Itoa(have), flags|unix.O_DIRECT|unix.O_CLOEXEC, 0)
		return err
	})
	if err != nil {
		return nil, fmt.Errorf("opening it with O_DIRECT: %w", err)
	}
	return os.NewFile(uintptr(fd), of.Name()), nil
}

// sector is what a device wants memory and lengths of a transfer to be multiples of. Where
// that is not enough it says EINVAL.
const sector = 512

// alignedFor reports whether a write is one of whole blocks, from memory that suits.
func alignedFor(off int64, bufs [][]byte) bool {
	total := 0
	for _, b := range bufs {
		if len(b)%sector != 0 || uintptr(unsafe.Pointer(unsafe.SliceData(b)))%sector != 0 {
			return false
		}
		total += len(b)
	}
	return total > 0 && off%directAlign == 0 && total%directAlign == 0
}
