package disk

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"slices"
	"strconv"
	"sync"
	"unsafe"

	"golang.org/x/sys/unix"
)

// direct is further descriptors of a file, with O_DIRECT, for durable writes past the page
// cache: they save the copy into it, and large ones are twice as fast for it. The kernel
// drops the pages of the range before and after the write, so mappings and reads see what was
// written once it has returned (open(2), and iomap in the kernel's documentation of file systems).
type direct struct {
	last *directs // nil: such writes are not wanted

	mu      sync.Mutex
	idle    []*os.File // that no write is using
	age     int        // grows when they are dropped: those that are out are closed when they come back
	refused bool       // this file can't be had, or does not take what was aligned
	closed  bool
}

// directMax is how many descriptors are kept. Each write has one to itself: where a page can't be dropped the
// kernel writes it through the cache, and says of a failure there once for a descriptor.
const directMax = 2

// directs are the files of a directory that have such descriptors, those written to last: a log writes to one segment at a
// time, beside the next one that is made and a checkpoint, and each segment that it has sealed would hold them to its end.
type directs struct {
	mu    sync.Mutex
	files [3]*direct
}

// opened notes a file that has descriptors now, and drops those of the one that was so the longest.
func (s *directs) opened(d *direct) {
	s.mu.Lock()
	var out *direct
	if !slices.Contains(s.files[:], d) {
		out = s.files[0]
		copy(s.files[:], s.files[1:])
		s.files[len(s.files)-1] = d
	}
	s.mu.Unlock()
	if out != nil {
		_ = out.drop() // all that was written by it is durable
	}
}

// closed notes that a file has none.
func (s *directs) closed(d *direct) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if i := slices.Index(s.files[:], d); i >= 0 {
		copy(s.files[1:], s.files[:i])
		s.files[0] = nil
	}
}

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
	f, age, err := d.take(of)
	if f == nil || err != nil {
		return err != nil, err
	}
	err = writeVectors(f, off, bufs, true)
	d.giveBack(f, age)
	if errors.Is(err, unix.EINVAL) || errors.Is(err, unix.EOPNOTSUPP) {
		// A device of larger sectors, say. Nothing is lost: all of it is written again, through the cache.
		d.refuse()
		return false, nil
	}
	return true, err
}

// take returns a descriptor for one write, nil if there can be none.
func (d *direct) take(of *os.File) (f *os.File, age int, err error) {
	f, age, opened, err := d.have(of)
	if opened {
		d.last.opened(d)
	}
	return f, age, err
}

func (d *direct) have(of *os.File) (f *os.File, age int, opened bool, err error) {
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.closed {
		return nil, 0, false, fs.ErrClosed
	}
	if d.refused {
		return nil, 0, false, nil
	}
	if n := len(d.idle); n > 0 {
		f, d.idle = d.idle[n-1], d.idle[:n-1]
		return f, d.age, false, nil
	}
	f, err = reopenDirect(of, unix.O_RDWR)
	if errors.Is(err, fs.ErrClosed) {
		return nil, 0, false, err
	}
	if err != nil { // no O_DIRECT on this file system, or no /proc
		d.refused = true
		return nil, 0, false, nil
	}
	return f, d.age, true, nil
}

// giveBack takes a descriptor back after its write.
func (d *direct) giveBack(f *os.File, age int) {
	d.mu.Lock()
	keep := age == d.age && !d.closed && len(d.idle) < directMax
	if keep {
		d.idle = append(d.idle, f)
	}
	d.mu.Unlock()
	if !keep {
		_ = f.Close() // all that was written by it is durable, or its error was told
	}
}

func (d *direct) refuse() {
	d.mu.Lock()
	d.refused = true
	d.mu.Unlock()
	_ = d.drop() // what it wrote is written again
}

// drop closes the descriptors. A write that is under way keeps its own until it returns.
func (d *direct) drop() error {
	d.mu.Lock()
	list := d.idle
	d.idle, d.age = nil, d.age+1
	d.mu.Unlock()
	var errs []error
	for _, f := range list {
		errs = append(errs, f.Close())
	}
	return errors.Join(errs...)
}

// close closes the descriptors; no other is opened.
func (d *direct) close() error {
	if d.last == nil {
		return nil
	}
	d.mu.Lock()
	d.closed = true
	d.mu.Unlock()
	d.last.closed(d)
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
