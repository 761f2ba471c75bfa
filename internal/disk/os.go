package disk

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"math"
	"os"
	"path/filepath"
	"strconv"
	"sync"
	"syscall"
	"time"

	"github.com/edsrzf/mmap-go"

	"github.com/mtawal/mtawal/internal/barrier"
)

// listMax is how many names a directory may hold.
const listMax = 1 << 20

// OS is the operating system's file system.
func OS() FS { return osFS{} }

type osFS struct{}

// makeDirs makes the directory and its missing parents, private, and syncs
// each of them and the directory that it was made in before it makes the next.
func makeDirs(path string) error {
	path, err := filepath.Abs(path)
	if err != nil {
		return PathError("open directory", path, err)
	}
	var missing []string
	have := path
	for {
		if _, err := os.Stat(have); err == nil {
			break
		} else if !errors.Is(err, fs.ErrNotExist) || filepath.Dir(have) == have {
			return PathError("open directory", have, err)
		}
		missing = append(missing, have)
		have = filepath.Dir(have)
	}
	// What stands may have been made by a run that died before it synced the
	// parent. One that we may not even read was not made by us.
	if err := syncParent(filepath.Dir(have)); err != nil && !errors.Is(err, fs.ErrPermission) &&
		!errors.Is(err, errors.ErrUnsupported) && !errors.Is(err, syscall.EINVAL) {
		return err
	}
	for i := len(missing) - 1; i >= 0; i-- {
		dir := missing[i]
		switch err := os.Mkdir(dir, 0o700); {
		case err == nil:
			if err := os.Chmod(dir, 0o700); err != nil { // whatever the umask is
				return PathError("make directory", dir, err)
			}
		case !errors.Is(err, fs.ErrExist):
			return PathError("make directory", dir, err)
		}
		for _, p := range []string{dir, filepath.Dir(dir)} {
			if err := syncParent(p); err != nil {
				return err
			}
		}
	}
	return nil
}

// holds is Dir.Holds for the directory that own describes.
func holds(own fs.FileInfo, path string) (bool, error) {
	path, err := filepath.Abs(path)
	if err != nil {
		return false, PathError("look at", path, err)
	}
	there := path
	at, err := filepath.EvalSymlinks(there)
	for errors.Is(err, fs.ErrNotExist) && there != filepath.Dir(there) {
		there = filepath.Dir(there)
		at, err = filepath.EvalSymlinks(there)
	}
	if err != nil {
		return false, PathError("look at", there, err)
	}
	if there == path { // it may be the directory itself
		if at == filepath.Dir(at) {
			return false, nil
		}
		at = filepath.Dir(at)
	}
	for {
		i, err := os.Stat(at)
		if err != nil {
			return false, PathError("look at", at, err)
		}
		if os.SameFile(own, i) {
			return true, nil
		}
		if at == filepath.Dir(at) {
			return false, nil
		}
		at = filepath.Dir(at)
	}
}

func syncParent(path string) error {
	if barrier.Gone(barrier.ParentSync) {
		return nil
	}
	return syncPath(path)
}

// osFile is an open file.
type osFile struct {
	f      *os.File // its name is the path
	name   string
	direct direct
	// cached is held by a durable write through the page cache. The kernel says once for a descriptor that
	// pages could not be written (file_check_and_advance_wb_err): of two that sync at the same time one
	// would hear of the other's failure, and the other of nothing.
	cached sync.Mutex
}

func (o *osFile) Name() string { return o.name }

func (o *osFile) err(op string, err error) error { return PathError(op, o.f.Name(), err) }

func (o *osFile) ReadAt(p []byte, off int64) (int, error) {
	n, err := o.f.ReadAt(p, off)
	if err != nil && err != io.EOF {
		err = o.err("read", err)
	}
	return n, err
}

func (o *osFile) WriteAt(p []byte, off int64) (int, error) {
	n, err := o.f.WriteAt(p, off)
	return n, o.err("write", err)
}

func (o *osFile) WriteDurable(off int64, bufs ...[]byte) error {
	if off < 0 { // to pwritev2, -1 is the file's position
		return o.err("write durably", fs.ErrInvalid)
	}
	if tried, err := o.direct.writeDurable(o.f, off, bufs); tried {
		return o.err("write durably", err)
	}
	o.cached.Lock()
	defer o.cached.Unlock()
	return o.err("write durably", writeDurable(o.f, off, bufs))
}

// writeAndSync is writeDurable where there is no such call.
func writeAndSync(f *os.File, off int64, bufs [][]byte) error {
	for _, b := range bufs {
		n, err := f.WriteAt(b, off)
		if err != nil {
			return err
		}
		off += int64(n)
	}
	return f.Sync()
}

func (o *osFile) ReadUncached(p []byte, off int64) (int, error) {
	if off < 0 {
		return 0, o.err("read uncached", fs.ErrInvalid)
	}
	n, err := readUncached(o.f, p, off)
	if err != nil && err != io.EOF {
		err = o.err("read uncached", err)
	}
	return n, err
}

// Sync relies on os.File.Sync being the strongest that there is: fsync,
// F_FULLFSYNC, FlushFileBuffers.
func (o *osFile) Sync() error { return o.err("sync", o.f.Sync()) }

func (o *osFile) Size() (int64, error) {
	fi, err := o.f.Stat()
	if err != nil {
		return 0, o.err("stat", err)
	}
	return fi.Size(), nil
}

func (o *osFile) Allocate(size int64) error {
	old, err := o.Size()
	if err != nil {
		return err
	}
	if size < 0 {
		return o.err("allocate", fs.ErrInvalid)
	}
	if err := allocate(o.f, old, size); err != nil {
		err = o.err("allocate", err)
		// ext4 leaves what it could get.
		if terr := o.f.Truncate(old); terr != nil {
			err = errors.Join(err, o.err("truncate", terr))
		}
		return err
	}
	return nil
}

func (o *osFile) Reserve(size int64) error {
	if size < 0 {
		return o.err("reserve", fs.ErrInvalid)
	}
	return o.err("reserve", reserve(o.f, size))
}

func (o *osFile) Truncate(size int64) error { return o.err("truncate", o.f.Truncate(size)) }

func (o *osFile) Forget() { forget(o.f) }

func (o *osFile) Exclusive() (bool, error) {
	ok, err := exclusive(o.f)
	return ok, o.err("stat", err)
}

func (o *osFile) Close() error { return o.err("close", errors.Join(o.direct.close(), o.f.Close())) }

func (o *osFile) Map(length int64) (Mapping, error)         { return o.mapFile(length, mmap.RDONLY) }
func (o *osFile) MapWritable(length int64) (Mapping, error) { return o.mapFile(length, mmap.RDWR) }

func (o *osFile) mapFile(length int64, prot int) (Mapping, error) {
	size, err := o.Size()
	if err != nil {
		return nil, err
	}
	if length <= 0 || length > math.MaxInt || length > size {
		return nil, o.err("map", fmt.Errorf("%w: %d bytes of a file of %d", fs.ErrInvalid, length, size))
	}
	m := &osMapping{path: o.f.Name()}
	src := o.f
	if !canPopulate() {
		// Populate reads the file instead, which may be closed by then.
		if m.file, err = dup(o.f); err != nil {
			return nil, o.err("map", err)
		}
		src = m.file
	}
	if err := mapRegion(m, src, int(length), prot); err != nil {
		return nil, o.err("map", errors.Join(err, m.Close()))
	}
	return m, nil
}

func mapRegion(m *osMapping, src *os.File, length, prot int) error {
	conn, err := src.SyscallConn()
	if err != nil {
		return err
	}
	// Control keeps the descriptor open beside a Close.
	if cerr := conn.Control(func(uintptr) {
		m.mem, err = mmap.MapRegion(src, length, prot, 0, 0)
	}); cerr != nil {
		return cerr
	}
	if err != nil {
		return err
	}
	m.warm.size = length
	return adviseMapping(m.mem)
}

// osMapping is a mapped file.
type osMapping struct {
	path  string
	mem   mmap.MMap
	file  *os.File // a duplicate, where Populate or the platform needs it
	warm  warmPages
	close sync.Mutex
}

func (m *osMapping) Bytes() []byte { return m.mem }

// has reports whether [off, off+n) lies in the mapping.
func (m *osMapping) has(off, n int64) bool {
	return off >= 0 && n >= 0 && off <= int64(len(m.mem)) && n <= int64(len(m.mem))-off
}

func (m *osMapping) Populate(off, n int64) error {
	if !m.has(off, n) {
		return PathError("populate", m.path, fs.ErrInvalid)
	}
	if n == 0 {
		return nil
	}
	start := off &^ int64(os.Getpagesize()-1)
	var err error
	if m.file == nil {
		err = populate(m.mem[start : off+n])
	} else {
		err = readThrough(m.file, start, off+n)
	}
	if err != nil {
		return PathError("populate", m.path, fmt.Errorf("%w: %d bytes at %d: %w", ErrFault, n, off, err))
	}
	return nil
}

func (m *osMapping) Warm(off, n int64) error {
	if n > 0 && m.has(off, n) && m.warm.has(time.Now().UnixNano(), off, off+n) {
		return nil
	}
	if n >= warmAtOnce {
		m.Prefetch(off, n)
	}
	err := m.Populate(off, n)
	if err == nil && n > 0 {
		m.warm.add(off, off+n)
	}
	return err
}

func (m *osMapping) Prefetch(off, n int64) {
	if n > 0 && m.has(off, n) {
		prefetch(m.mem[off&^int64(os.Getpagesize()-1) : off+n])
	}
}

func (m *osMapping) Scattered(yes bool) { scattered(m.mem, yes) }

func (m *osMapping) Drop(off, n int64) {
	if n > 0 && m.has(off, n) {
		page := int64(os.Getpagesize())
		drop(m.mem[min((off+page-1)&^(page-1), off+n) : off+n])
	}
}

// readThrough reads [off, end) and throws it away: the pages are cached then.
func readThrough(f *os.File, off, end int64) error {
	buf := make([]byte, min(end-off, 1<<20))
	for off < end {
		n, err := f.ReadAt(buf[:min(int64(len(buf)), end-off)], off)
		if off += int64(n); off < end && err != nil {
			return err
		}
	}
	return nil
}

// Close may be called again.
func (m *osMapping) Close() error {
	m.close.Lock()
	defer m.close.Unlock()
	var err error
	if m.mem != nil {
		err = m.mem.Unmap()
	}
	if m.file != nil {
		err = errors.Join(err, m.file.Close())
		m.file = nil
	}
	return PathError("unmap", m.path, err)
}

// lockDir takes the lock on an open lock file, and owns f from here on.
func lockDir(f *os.File) (io.Closer, error) {
	ok, err := tryLock(f)
	if err != nil {
		return nil, errors.Join(PathError("lock", f.Name(), err), f.Close())
	}
	if !ok {
		e := &LockedError{Path: f.Name(), PID: readPID(f)}
		return nil, errors.Join(e, f.Close())
	}
	// The PID is a courtesy to whoever finds the lock taken. A disk so full that
	// it can't be written is no reason not to open, but a wrong one must go.
	if _, err := f.WriteAt(pidLine(os.Getpid()), 0); err != nil {
		_ = f.Truncate(0)
	}
	return &dirLock{f: f}, nil
}

// pidLine has one length for all, so that writing it needs no new block.
func pidLine(pid int) []byte { return fmt.Appendf(nil, "%19d\n", pid) }

func readPID(f *os.File) int {
	b := make([]byte, len(pidLine(0)))
	n, _ := f.ReadAt(b, 0) // unreadable is unknown
	pid, err := strconv.Atoi(string(bytes.TrimSpace(b[:n])))
	if err != nil || pid < 0 {
		return 0
	}
	return pid
}

type dirLock struct{ f *os.File }

// Close lets the lock go. Nothing is removed: whoever waits for the name would
// lock another file than the next owner.
func (l *dirLock) Close() error {
	_, _ = l.f.WriteAt(pidLine(0), 0) // a courtesy, as above
	if err := l.f.Close(); err != nil {
		return PathError("unlock", l.f.Name(), err)
	}
	return nil
}
