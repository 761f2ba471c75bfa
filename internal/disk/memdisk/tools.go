package memdisk

import (
	"io/fs"
	"path/filepath"
	"slices"
	"syscall"
	"unsafe"

	"github.com/mtawal/mtawal/internal/disk"
)

// SyncFault is what the next Sync or WriteDurable of a file does.
type SyncFault uint8

// Faults of a sync. Whatever it says, a later sync has nothing left to do.
const (
	SyncOK      SyncFault = iota
	SyncLost              // EIO, the pages pass for clean, the device is as before
	SyncWritten           // EIO, though all was written
	SyncLies              // nil, the pages pass for clean, the device is as before
)

// faulty does a flush, or what a fault makes of it.
func (ino *inode) faulty(flush func()) error {
	fault := ino.fault
	ino.fault = SyncOK
	switch fault {
	case SyncLost, SyncLies:
		ino.lose()
	default:
		flush()
	}
	if fault == SyncLost || fault == SyncWritten {
		return syscall.EIO
	}
	return nil
}

// withFile calls f for a file under its live name.
func (m *FS) withFile(op, path string, f func(*inode) error) error {
	m.mu.Lock()
	defer m.mu.Unlock()
	path = filepath.Clean(path)
	if d := m.dirs[filepath.Dir(path)]; d != nil {
		if ino := d.live[filepath.Base(path)]; ino != nil {
			return f(ino)
		}
	}
	return disk.PathError(op, path, fs.ErrNotExist)
}

// FailSync makes the next Sync or WriteDurable of a file go wrong.
func (m *FS) FailSync(path string, fault SyncFault) error {
	return m.withFile("fail sync", path, func(ino *inode) error {
		ino.fault = fault
		return nil
	})
}

// Unreadable makes the pages of [off, off+n) fail with EIO when they are read
// or populated. Mapped memory stays as it is.
func (m *FS) Unreadable(path string, off, n int64) error {
	return m.withFile("make unreadable", path, func(ino *inode) error {
		if ino.bad == nil {
			ino.bad = map[int]bool{}
		}
		for i := int(off / PageSize); i < pageCount(off+n); i++ {
			ino.bad[i] = true
		}
		return nil
	})
}

// Damage changes bytes of a file in the cache and on the device at once, as
// rot does. Nobody may read them in a mapping meanwhile.
func (m *FS) Damage(path string, off int64, b []byte) error {
	return m.withFile("damage", path, func(ino *inode) error {
		if off < 0 || off+int64(len(b)) > ino.size {
			return disk.PathError("damage", path, fs.ErrInvalid)
		}
		ino.load()
		copy(ino.cache[off:], b)
		for i := int(off / PageSize); i < pageCount(off+int64(len(b))); i++ {
			p := &page{b: ino.devPage(i).b}
			at := off - int64(i)*PageSize
			if at >= 0 {
				copy(p.b[at:], b)
			} else {
				copy(p.b[:], b[-at:])
			}
			ino.setDev(i, p)
		}
		return nil
	})
}

// Device is what the device holds of a file now, under its live name.
func (m *FS) Device(path string) ([]byte, error) {
	var b []byte
	err := m.withFile("read device", path, func(ino *inode) error {
		b = make([]byte, 0, pageCount(ino.devSize)*PageSize)
		for i := range pageCount(ino.devSize) {
			b = append(b, ino.devPage(i).b[:]...)
		}
		b = b[:ino.devSize]
		return nil
	})
	return b, err
}

// Put makes a file with that content, or replaces it, durable at once: for what
// others leave in a directory.
func (m *FS) Put(path string, b []byte) error {
	if len(b) > fileMax {
		return disk.PathError("put", path, syscall.EFBIG)
	}
	return m.plant(path, func(ino *inode) {
		for i, c := range slices.Collect(slices.Chunk(b, PageSize)) {
			p := new(page)
			copy(p.b[:], c)
			ino.setDev(i, p)
		}
		ino.size, ino.devSize = int64(len(b)), int64(len(b))
		ino.has = slices.Repeat([]bool{true}, pageCount(ino.size))
	})
}

// PutSpecial makes a name that is not a plain file; what says which kind.
func (m *FS) PutSpecial(path, what string) error {
	return m.plant(path, func(ino *inode) { ino.special = what })
}

func (m *FS) plant(path string, fill func(*inode)) error {
	m.mu.Lock()
	defer m.mu.Unlock()
	path = filepath.Clean(path)
	d, name := m.dirs[filepath.Dir(path)], filepath.Base(path)
	if d == nil {
		return disk.PathError("put", path, fs.ErrNotExist)
	}
	if old := d.live[name]; old != nil {
		old.links--
		m.release(old)
	}
	m.lastID++
	ino := &inode{id: m.lastID, name: name, links: 1}
	fill(ino)
	m.used += ino.count()
	d.live[name], d.durable[name] = ino, ino
	return nil
}

// Link makes a second name for a file, durable at once.
func (m *FS) Link(path, to string) error {
	return m.withFile("link", path, func(ino *inode) error {
		d, name := m.dirs[filepath.Dir(filepath.Clean(to))], filepath.Base(to)
		if d == nil || d.live[name] != nil {
			return disk.PathError("link", to, fs.ErrInvalid)
		}
		ino.links++
		d.live[name], d.durable[name] = ino, ino
		return nil
	})
}

// Share makes Exclusive say that a reflink holds the file's blocks as well.
func (m *FS) Share(path string) error {
	return m.withFile("share", path, func(ino *inode) error {
		ino.shared = true
		return nil
	})
}

// Nameless is how many bytes of the device belong to files that no name leads to any more, and
// that somebody has open or mapped.
func (m *FS) Nameless() int64 {
	m.mu.Lock()
	defer m.mu.Unlock()
	n := m.used
	seen := map[*inode]bool{}
	for _, d := range m.dirs {
		for _, ino := range d.live {
			if !seen[ino] {
				seen[ino] = true
				n -= ino.count()
			}
		}
	}
	return n * PageSize
}

// Discard gives the memory of the file system to others. Nobody may use it any more, nor
// anything that was opened or mapped in it.
func (m *FS) Discard() {
	m.mu.Lock()
	defer m.mu.Unlock()
	for _, ino := range m.inodes() {
		if len(ino.cache) == usedSize {
			used.Put(unsafe.SliceData(ino.cache))
			ino.cache = nil
		}
	}
	m.dirs = nil
}
