package disk

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"strconv"
	"sync"
	"sync/atomic"
	"unsafe"

	"golang.org/x/sys/unix"
)

// direct is a second descriptor of a file, with O_DIRECT, for durable writes past the page
// cache: they save the copy into it, and large ones are twice as fast for it. The kernel
// drops the pages of the range before and after the write, so mappings and reads see what was
// written once it has returned (open(2), and iomap in the kernel's documentation of file systems).
type direct struct {
	last *directs // nil: such writes are not wanted

	mu      sync.Mutex
	f       *os.File
	refused bool // this file can't be had, or does not take what was aligned
	closed  bool
}

// directs is the one file of a directory that has such a descriptor: a log writes to one
// segment at a time, and each that it has sealed would hold one to its end.
type directs struct{ atomic.Pointer[direct] }

// of is for a file that was opened. inPlace says that it may be written to, and is in place.
func (s *directs) of(inPlace bool) direct {
	if !inPlace {
		return direct{}
	}
	return direct{last: s}
}

// writeDurable writes past the page cache if everything is aligned and the file takes it.
// tried says that it did, and err is what came of it.
func (d *direct) writeDurable(of *os.File, off int64, bufs [][]byte) (tried bool, err error) {
	if d.last == nil || !alignedFor(off, bufs) {
		return false, nil
	}
	for {
		f, err := d.open(of)
		if f == nil || err != nil {
			return err != nil, err
		}
		err = writeVectors(f, off, bufs, true)
		switch {
		case errors.Is(err, fs.ErrClosed): // before a byte was written: for another file, or with this one
			continue
		case errors.Is(err, unix.EINVAL), errors.Is(err, unix.EOPNOTSUPP):
			// A device of larger sectors, say. Nothing is lost: all of it is written again, through the cache.
			d.refuse()
			return false, nil
		}
		return true, err
	}
}

// open returns the descriptor, nil if there can be none.
func (d *direct) open(of *os.File) (*os.File, error) {
	f, opened, err := d.have(of)
	if opened {
		if before := d.last.Swap(d); before != nil && before != d {
			_ = before.drop() // all that was written by it is durable
		}
	}
	return f, err
}

func (d *direct) have(of *os.File) (f *os.File, opened bool, err error) {
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.closed {
		return nil, false, fs.ErrClosed
	}
	if d.refused || d.f != nil {
		return d.f, false, nil
	}
	f, err = reopenDirect(of, unix.O_RDWR)
	if errors.Is(err, fs.ErrClosed) {
		return nil, false, err
	}
	if err != nil { // no O_DIRECT on this file system, or no /proc
		d.refused = true
		return nil, false, nil
	}
	d.f = f
	return f, true, nil
}

func (d *direct) refuse() {
	d.mu.Lock()
	d.refused = true
	d.mu.Unlock()
	_ = d.drop() // what it wrote is written again
}

// drop closes the descriptor. A write that is under way keeps it until it returns.
func (d *direct) drop() error {
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.f == nil {
		return nil
	}
	f := d.f
	d.f = nil
	return f.Close()
}

// close closes the descriptor; no other is opened.
func (d *direct) close() error {
	if d.last == nil {
		return nil
	}
	d.mu.Lock()
	d.closed = true
	d.mu.Unlock()
	d.last.CompareAndSwap(d, nil)
	return d.drop()
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
