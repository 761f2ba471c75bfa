package faultdisk

import (
	"errors"
	"fmt"
	"io"
	"path/filepath"

	"github.com/mtawal/mtawal/internal/disk"
)

// opened is an operation that returns something to close, which a failure
// after the fact closes.
func opened[T io.Closer](v verdict, f func() (T, error)) (T, error) {
	var none T
	if v.fails() {
		return none, v.err
	}
	r, err := f()
	if err != nil {
		return none, v.end(err)
	}
	if err := v.end(nil); err != nil {
		return none, errors.Join(err, r.Close())
	}
	return r, nil
}

// OpenDir is an operation too; its name is the path.
func (f *FS) OpenDir(path string, create bool) (disk.Dir, error) {
	v := f.begin(disk.OpOpenDir, path, path, "")
	d, err := opened(v, func() (disk.Dir, error) { return f.inner.OpenDir(path, create) })
	if err != nil {
		return nil, err
	}
	return &dir{fs: f, inner: d}, nil
}

type dir struct {
	fs    *FS
	inner disk.Dir
}

func (d *dir) begin(op disk.Op, name, detail string) verdict {
	return d.fs.begin(op, filepath.Join(d.inner.Path(), name), name, detail)
}

func (d *dir) Path() string      { return d.inner.Path() }
func (d *dir) Block() int        { return d.inner.Block() }
func (d *dir) CopyOnWrite() bool { return d.inner.CopyOnWrite() }
func (d *dir) Close() error      { return d.inner.Close() }

func (d *dir) Holds(path string) (bool, error) { return d.inner.Holds(path) }

func (d *dir) List() ([]disk.Info, error) {
	return get(d.begin(disk.OpList, "", ""), d.inner.List)
}

func (d *dir) Create(name string) (disk.File, error) {
	return d.file(d.begin(disk.OpCreate, name, ""), func() (disk.File, error) { return d.inner.Create(name) })
}

func (d *dir) Open(name string, write bool) (disk.File, error) {
	return d.file(d.begin(disk.OpOpen, name, fmt.Sprintf("write=%v", write)),
		func() (disk.File, error) { return d.inner.Open(name, write) })
}

func (d *dir) file(v verdict, f func() (disk.File, error)) (disk.File, error) {
	inner, err := opened(v, f)
	if err != nil {
		return nil, err
	}
	return &file{dir: d, inner: inner}, nil
}

func (d *dir) Rename(from, to string) error {
	return d.begin(disk.OpRename, from, "to "+to).do(func() error { return d.inner.Rename(from, to) })
}

func (d *dir) Remove(name string) error {
	return d.begin(disk.OpRemove, name, "").do(func() error { return d.inner.Remove(name) })
}

func (d *dir) Sync() error {
	return d.begin(disk.OpDirSync, "", "").do(d.inner.Sync)
}

func (d *dir) Lock(name string) (io.Closer, error) {
	return opened(d.begin(disk.OpLock, name, ""), func() (io.Closer, error) { return d.inner.Lock(name) })
}

func (d *dir) Identity() (disk.Identity, error) {
	return get(d.begin(disk.OpIdentity, "", ""), d.inner.Identity)
}

func (d *dir) Space() (disk.Space, error) {
	return get(d.begin(disk.OpSpace, "", ""), d.inner.Space)
}

type file struct {
	dir   *dir
	inner disk.File
}

func (f *file) begin(op disk.Op, off, n int64) verdict {
	return f.dir.begin(op, f.inner.Name(), fmt.Sprintf("[%d,+%d)", off, n))
}

func (f *file) Name() string { return f.inner.Name() }
func (f *file) Close() error { return f.inner.Close() }

func (f *file) ReadAt(p []byte, off int64) (int, error) {
	return f.read(f.begin(disk.OpReadAt, off, int64(len(p))), f.inner.ReadAt, p, off)
}

func (f *file) ReadUncached(p []byte, off int64) (int, error) {
	return f.read(f.begin(disk.OpReadUncached, off, int64(len(p))), f.inner.ReadUncached, p, off)
}

func (f *file) read(v verdict, read func([]byte, int64) (int, error), p []byte, off int64) (int, error) {
	if v.fails() {
		return 0, v.err
	}
	n, err := read(p, off)
	return n, v.end(err)
}

func (f *file) WriteAt(p []byte, off int64) (int, error) {
	v := f.begin(disk.OpWriteAt, off, int64(len(p)))
	if v.fails() {
		return 0, v.err
	}
	if v.err != nil && v.ShortWrite {
		p = p[:len(p)/2]
	}
	n, err := f.inner.WriteAt(p, off)
	return n, v.end(err)
}

func (f *file) WriteDurable(off int64, bufs ...[]byte) error {
	var total int64
	for _, b := range bufs {
		total += int64(len(b))
	}
	v := f.begin(disk.OpWriteDurable, off, total)
	switch {
	case v.fails():
		return v.err
	case v.lies():
		return v.end(f.writeLoose(off, bufs, total))
	case v.err != nil && v.ShortWrite:
		return v.end(f.writeLoose(off, bufs, total/2))
	}
	return v.end(f.inner.WriteDurable(off, bufs...))
}

// writeLoose writes the first bytes of the buffers into the cache.
func (f *file) writeLoose(off int64, bufs [][]byte, limit int64) error {
	for _, b := range bufs {
		b = b[:min(int64(len(b)), limit)]
		n, err := f.inner.WriteAt(b, off)
		if err != nil {
			return err
		}
		off += int64(n)
		limit -= int64(n)
	}
	return nil
}

func (f *file) Sync() error { return f.begin(disk.OpSync, 0, 0).do(f.inner.Sync) }

func (f *file) Size() (int64, error) { return get(f.begin(disk.OpSize, 0, 0), f.inner.Size) }

func (f *file) Reserve(size int64) error {
	return f.begin(disk.OpAllocate, 0, size).do(func() error { return f.inner.Reserve(size) })
}

func (f *file) Allocate(size int64) error {
	return f.begin(disk.OpAllocate, 0, size).do(func() error { return f.inner.Allocate(size) })
}

func (f *file) Truncate(size int64) error {
	return f.begin(disk.OpTruncate, 0, size).do(func() error { return f.inner.Truncate(size) })
}

func (f *file) Forget() { f.inner.Forget() }

func (f *file) Exclusive() (bool, error) {
	return get(f.begin(disk.OpExclusive, 0, 0), f.inner.Exclusive)
}

func (f *file) Map(length int64) (disk.Mapping, error) {
	return f.mapping(f.begin(disk.OpMap, 0, length), length, f.inner.Map)
}

func (f *file) MapWritable(length int64) (disk.Mapping, error) {
	return f.mapping(f.begin(disk.OpMapWritable, 0, length), length, f.inner.MapWritable)
}

func (f *file) mapping(v verdict, length int64, open func(int64) (disk.Mapping, error)) (disk.Mapping, error) {
	m, err := opened(v, func() (disk.Mapping, error) { return open(length) })
	if err != nil {
		return nil, err
	}
	return &mapping{Mapping: m, file: f}, nil
}

// mapping has Populate and Warm alone to itself.
type mapping struct {
	disk.Mapping
	file *file
}

// Populate made to fail is a page that can't be read: it matches disk.ErrFault.
func (m *mapping) Populate(off, n int64) error {
	v := m.file.begin(disk.OpPopulate, off, n)
	if v.fails() {
		return fmt.Errorf("%w: %w", disk.ErrFault, v.err)
	}
	return v.end(m.Mapping.Populate(off, n))
}

// Warm is a Populate, each time.
func (m *mapping) Warm(off, n int64) error { return m.Populate(off, n) }
