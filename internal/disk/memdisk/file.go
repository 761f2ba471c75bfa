package memdisk

import (
	"fmt"
	"io"
	"io/fs"
	"syscall"

	"github.com/mtawal/mtawal/internal/disk"
)

// file is a handle of one process.
type file struct {
	fs         *FS
	ino        *inode
	name, path string
	process    uint64
	mount      uint64
	write      bool
	closed     bool
}

func (f *file) Name() string { return f.name }

func (f *file) dead() bool { return f.closed || f.process != f.fs.process }

func (f *file) err(op disk.Op, err error) error { return disk.PathError(op.String(), f.path, err) }

// begin calls the hook, takes the lock, and reports whether the handle may do that.
func (f *file) begin(op disk.Op, write bool) error {
	f.fs.before(op, f.name)
	f.fs.mu.Lock()
	if f.dead() {
		return f.err(op, fs.ErrClosed)
	}
	if write && !f.write {
		return f.err(op, syscall.EBADF)
	}
	return nil
}

func (f *file) Close() error {
	f.fs.mu.Lock()
	defer f.fs.mu.Unlock()
	if f.dead() {
		return disk.PathError("close", f.path, fs.ErrClosed)
	}
	f.closed = true
	f.ino.open--
	f.fs.release(f.ino)
	return nil
}

func (f *file) ReadAt(p []byte, off int64) (int, error) { return f.read(disk.OpReadAt, p, off) }

// ReadUncached shows the device where a page passes for clean. The kernel
// writes dirty ones out first, so these read as in the cache.
func (f *file) ReadUncached(p []byte, off int64) (int, error) {
	return f.read(disk.OpReadUncached, p, off)
}

func (f *file) read(op disk.Op, p []byte, off int64) (int, error) {
	err := f.begin(op, false)
	defer f.fs.mu.Unlock()
	if err != nil {
		return 0, err
	}
	if off < 0 {
		return 0, f.err(op, fs.ErrInvalid)
	}
	ino := f.ino
	done := 0
	for done < len(p) && off < ino.size {
		i := int(off / PageSize)
		if ino.bad[i] {
			return done, f.err(op, syscall.EIO)
		}
		from := off - int64(i)*PageSize
		to := min(PageSize, ino.size-int64(i)*PageSize)
		var src []byte
		switch {
		case op == disk.OpReadUncached && ino.limbo[i]:
			src = ino.devPage(i).b[:]
		case ino.cache == nil || off < ino.written:
			src = ino.cached(i).b[:]
		default:
			src = ino.cache[int64(i)*PageSize:][:PageSize]
		}
		n := copy(p[done:], src[from:to])
		done += n
		off += int64(n)
	}
	if done < len(p) {
		return done, io.EOF
	}
	return done, nil
}

func (f *file) WriteAt(p []byte, off int64) (int, error) {
	const op = disk.OpWriteAt
	err := f.begin(op, true)
	defer f.fs.mu.Unlock()
	if err != nil {
		f.late(off, p)
		return 0, err
	}
	n, err := f.put(p, off)
	return n, f.err(op, err)
}

// late is a write of a dead process that the kernel still carries out.
func (f *file) late(off int64, bufs ...[]byte) {
	ask := f.fs.cfg.LateWrite
	if ask == nil || f.closed || !f.write || f.mount != f.fs.mount || !ask(f.name, off) {
		return
	}
	for _, b := range bufs {
		n, err := f.put(b, off)
		if err != nil {
			return // nobody is left to hear it
		}
		off += int64(n)
	}
}

// put writes into the cache as much as there is room for.
func (f *file) put(p []byte, off int64) (int, error) {
	if off < 0 || off > fileMax || int64(len(p)) > fileMax-off {
		return 0, syscall.EFBIG
	}
	if len(p) == 0 {
		return 0, nil
	}
	end := off + int64(len(p))
	fit, full := f.room(off, end)
	if fit <= off {
		return 0, full
	}
	if err := f.ino.extend(fit); err != nil {
		return 0, err
	}
	f.ino.write(p[:fit-off], off)
	return int(fit - off), full
}

// room reserves blocks for [off, end), and says how far it came.
func (f *file) room(off, end int64) (int64, error) {
	ino := f.ino
	for len(ino.has) < pageCount(end) {
		ino.has = append(ino.has, false)
	}
	spare := f.fs.cap - f.fs.used
	for i := int(off / PageSize); i < pageCount(end); i++ {
		err := syscall.ENOSPC
		switch {
		case !ino.has[i]:
			if f.fs.reserve(1) == nil {
				ino.has[i] = true
				err = 0
			}
		case !f.fs.cfg.CopyOnWrite || spare > 0:
			err = 0
		}
		if spare--; err != 0 {
			return min(end, max(off, int64(i)*PageSize)), err
		}
	}
	return end, nil
}

func (f *file) WriteDurable(off int64, bufs ...[]byte) error {
	const op = disk.OpWriteDurable
	end, err := f.writeCache(off, bufs)
	if err != nil {
		return err
	}
	f.fs.before(disk.OpFlush, f.name)
	f.fs.mu.Lock()
	defer f.fs.mu.Unlock()
	if f.dead() {
		return f.err(op, fs.ErrClosed)
	}
	if end == off {
		return nil
	}
	return f.err(op, f.ino.faulty(func() { f.ino.flush(off, end) }))
}

// writeCache is the first half of WriteDurable.
func (f *file) writeCache(off int64, bufs [][]byte) (int64, error) {
	const op = disk.OpWriteDurable
	err := f.begin(op, true)
	defer f.fs.mu.Unlock()
	if err != nil {
		f.late(off, bufs...)
		return off, err
	}
	for _, b := range bufs {
		n, err := f.put(b, off)
		off += int64(n)
		if err != nil {
			return off, f.err(op, err)
		}
	}
	return off, nil
}

func (f *file) Sync() error {
	err := f.begin(disk.OpSync, false)
	defer f.fs.mu.Unlock()
	if err != nil {
		return err
	}
	return f.err(disk.OpSync, f.ino.faulty(f.ino.flushAll))
}

func (f *file) Size() (int64, error) {
	err := f.begin(disk.OpSize, false)
	defer f.fs.mu.Unlock()
	if err != nil {
		return 0, err
	}
	return f.ino.size, nil
}

func (f *file) Allocate(size int64) error { return f.allocate(size, true) }
func (f *file) Reserve(size int64) error  { return f.allocate(size, false) }

func (f *file) allocate(size int64, long bool) error {
	const op = disk.OpAllocate
	err := f.begin(op, true)
	defer f.fs.mu.Unlock()
	if err != nil {
		return err
	}
	if size < 0 || size > fileMax {
		return f.err(op, syscall.EFBIG)
	}
	ino := f.ino
	for len(ino.has) < pageCount(size) {
		ino.has = append(ino.has, false)
	}
	var want []int
	for i := range pageCount(size) {
		if !ino.has[i] {
			want = append(want, i)
		}
	}
	if err := f.fs.reserve(int64(len(want))); err != nil {
		return f.err(op, err)
	}
	for _, i := range want {
		ino.has[i] = true
	}
	if !long || size <= ino.size {
		return nil
	}
	if err := ino.extend(size); err != nil {
		return f.err(op, err)
	}
	ino.setSize(size)
	return nil
}

func (f *file) Truncate(size int64) error {
	const op = disk.OpTruncate
	err := f.begin(op, true)
	defer f.fs.mu.Unlock()
	if err != nil {
		return err
	}
	if size < 0 || size > fileMax {
		return f.err(op, syscall.EFBIG)
	}
	if err := f.ino.extend(size); err != nil {
		return f.err(op, err)
	}
	f.fs.truncate(f.ino, size)
	return nil
}

// truncate: what is cut off reads as zeros if the file grows again, but the
// device may still have it.
func (m *FS) truncate(ino *inode, size int64) {
	for i := int(size / PageSize); i < pageCount(ino.size); i++ {
		ino.soil(i)
	}
	if size < ino.size {
		clear(ino.cache[size:ino.size])
	}
	ino.setSize(size)
	for i := pageCount(size); i < len(ino.has); i++ { // also what was reserved behind the end
		if ino.has[i] {
			ino.has[i] = false
			m.used--
		}
	}
}

// Forget implements disk.File: here it costs nothing to have read something.
func (f *file) Forget() {}

func (f *file) Exclusive() (bool, error) {
	err := f.begin(disk.OpExclusive, false)
	defer f.fs.mu.Unlock()
	if err != nil {
		return false, err
	}
	return f.ino.links == 1 && !f.ino.shared, nil
}

func (f *file) Map(length int64) (disk.Mapping, error) { return f.mapFile(disk.OpMap, length) }
func (f *file) MapWritable(length int64) (disk.Mapping, error) {
	return f.mapFile(disk.OpMapWritable, length)
}

func (f *file) mapFile(op disk.Op, length int64) (disk.Mapping, error) {
	err := f.begin(op, op == disk.OpMapWritable)
	defer f.fs.mu.Unlock()
	if err != nil {
		return nil, err
	}
	ino := f.ino
	if length <= 0 || length > ino.size {
		return nil, f.err(op, fmt.Errorf("%w: %d bytes of a file of %d", fs.ErrInvalid, length, ino.size))
	}
	ino.load()
	ino.maps++
	ino.open++
	if op == disk.OpMapWritable {
		ino.written = max(ino.written, int64(pageCount(length))*PageSize)
	}
	return &mapping{fs: f.fs, ino: ino, name: f.name, path: f.path, process: f.process, mem: ino.cache[:length:length]}, nil
}

// mapping is the memory of a file's cache.
type mapping struct {
	fs         *FS
	ino        *inode
	name, path string
	process    uint64
	mem        []byte
}

func (m *mapping) Bytes() []byte { return m.mem }

func (m *mapping) Warm(off, n int64) error { return m.Populate(off, n) }

func (m *mapping) Populate(off, n int64) error {
	m.fs.before(disk.OpPopulate, m.name)
	m.fs.mu.Lock()
	defer m.fs.mu.Unlock()
	if m.process != m.fs.process || m.mem == nil {
		return disk.PathError("populate", m.path, fs.ErrClosed)
	}
	if off < 0 || n < 0 || off > int64(len(m.mem)) || n > int64(len(m.mem))-off {
		return disk.PathError("populate", m.path, fs.ErrInvalid)
	}
	for i := int(off / PageSize); n > 0 && i < pageCount(off+n); i++ {
		if int64(i)*PageSize >= m.ino.size {
			return disk.PathError("populate", m.path, fmt.Errorf("%w: page %d is behind the end", disk.ErrFault, i))
		}
		if m.ino.bad[i] {
			return disk.PathError("populate", m.path, fmt.Errorf("%w: page %d: %w", disk.ErrFault, i, syscall.EIO))
		}
	}
	return nil
}

// Prefetch has nothing to wait for.
func (m *mapping) Prefetch(int64, int64) {}

func (m *mapping) Scattered(bool) {}

// Drop implements disk.Mapping, see Forget.
func (m *mapping) Drop(int64, int64) {}

// Close may be called again.
func (m *mapping) Close() error {
	m.fs.mu.Lock()
	defer m.fs.mu.Unlock()
	if m.mem == nil || m.process != m.fs.process {
		m.mem = nil
		return nil
	}
	m.mem = nil
	ino := m.ino
	ino.scan()
	if ino.maps--; ino.maps == 0 {
		ino.written = 0
	}
	ino.open--
	m.fs.release(ino)
	return nil
}
