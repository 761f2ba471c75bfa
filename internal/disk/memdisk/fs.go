package memdisk

import (
	"cmp"
	"encoding/binary"
	"io/fs"
	"maps"
	"path/filepath"
	"slices"
	"sync"
	"sync/atomic"
	"syscall"

	"github.com/mtawal/mtawal/internal/disk"
)

// Sizes of the model, in bytes.
const (
	PageSize   = 4096
	SectorSize = 512
	// fileMax is the longest file, since its cache is one piece of memory.
	fileMax = 1 << 30
)

// NameModel says which of the names changed since Dir.Sync a power cut keeps.
type NameModel uint8

// The models of a directory.
const (
	NamesPrefix NameModel = iota // the first few changes, as a journal does
	NamesSubset                  // any of them
)

// Config is fixed for the life of a file system. The zero value is good.
type Config struct {
	// Capacity of the device in bytes; 0: 1 TiB.
	Capacity int64
	// Block is what Dir.Block says; 0: disk.Alignment.
	Block int
	// CopyOnWrite: a write into allocated space needs free space too.
	CopyOnWrite bool
	// Names is what becomes of unsynced names.
	Names NameModel
	// WholePages: a power cut leaves pages old or new and never a mix of sectors.
	// It makes far fewer states.
	WholePages bool
	// OldOrNew: a power cut leaves a page or a length as it was last durable or as it is
	// now, and never as it was in between. It makes far fewer states.
	OldOrNew bool
	// Garbage: a page that was being written may be destroyed as a whole, with
	// the durable bytes in it.
	Garbage bool
	// LateWrite is asked when a dead process writes (WriteAt or WriteDurable),
	// unless the power was cut since: true lets the bytes reach the cache, as if
	// the kernel had still been at it. The writer gets fs.ErrClosed anyway.
	LateWrite func(name string, off int64) bool
}

// FS is a file system that can crash. Any number of goroutines may use it.
type FS struct {
	cfg  Config
	hook atomic.Pointer[func(disk.Op, string)]

	mu      sync.Mutex // guards all below, and all that hangs on it
	process uint64     // handles of an earlier one are dead
	boot    uint64
	mount   uint64
	used    int64 // pages
	cap     int64 // pages
	lastID  uint64
	visit   uint64 // of inodes
	dirs    map[string]*directory
}

// New makes an empty file system.
func New(c Config) *FS {
	if c.Capacity == 0 {
		c.Capacity = 1 << 40
	}
	if c.Block == 0 {
		c.Block = disk.Alignment
	}
	return &FS{cfg: c, process: 1, boot: 1, mount: 1, cap: c.Capacity / PageSize, dirs: map[string]*directory{}}
}

// OnOp has f called before each operation, and between the two halves of a
// WriteDurable (disk.OpFlush), by the goroutine that does it and without a lock:
// f may crash the file system, and the operation then fails with fs.ErrClosed
// and changes nothing. nil ends it.
func (m *FS) OnOp(f func(op disk.Op, name string)) {
	if f == nil {
		m.hook.Store(nil)
		return
	}
	m.hook.Store(&f)
}

func (m *FS) before(op disk.Op, name string) {
	if f := m.hook.Load(); f != nil {
		(*f)(op, name)
	}
}

// OpenDir never fails for lack of a parent's sync: a directory that it made
// survives.
func (m *FS) OpenDir(path string, create bool) (disk.Dir, error) {
	m.before(disk.OpOpenDir, path)
	m.mu.Lock()
	defer m.mu.Unlock()
	path = filepath.Clean(path)
	d := m.dirs[path]
	if d == nil && !create {
		return nil, disk.PathError("open directory", path, fs.ErrNotExist)
	}
	for p := path; m.dirs[p] == nil; p = filepath.Dir(p) {
		m.dirs[p] = &directory{path: p, live: map[string]*inode{}, durable: map[string]*inode{}, locks: map[string]*dirLock{}}
	}
	return &dirHandle{fs: m, dir: m.dirs[path], process: m.process}, nil
}

// sortedDirs gives the directories in an order that does not change.
func (m *FS) sortedDirs() []*directory {
	return slices.SortedFunc(maps.Values(m.dirs), func(a, b *directory) int { return cmp.Compare(a.path, b.path) })
}

// inodes gives what any name leads to, in the order of making.
func (m *FS) inodes() []*inode {
	list := make([]*inode, 0, 32)
	m.visit++
	add := func(ino *inode) {
		if ino.visit != m.visit {
			ino.visit = m.visit
			list = append(list, ino)
		}
	}
	for _, d := range m.dirs {
		for _, names := range [...]map[string]*inode{d.live, d.durable} {
			for _, ino := range names {
				add(ino)
			}
		}
		for _, op := range d.pending {
			add(op.ino)
		}
	}
	slices.SortFunc(list, func(a, b *inode) int { return cmp.Compare(a.id, b.id) })
	for i, ino := range list {
		ino.nth = i
	}
	return list
}

func (m *FS) identity() disk.Identity {
	id := disk.Identity{Mount: m.mount}
	copy(id.Boot[:], "memdisk:")
	binary.BigEndian.PutUint64(id.Boot[8:], m.boot)
	return id
}

func (m *FS) space() disk.Space {
	return disk.Space{Free: max(0, m.cap-m.used) * PageSize, Total: m.cap * PageSize}
}

// SetCapacity changes the size of the device, as if others used the rest.
func (m *FS) SetCapacity(bytes int64) {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.cap = bytes / PageSize
}

// reserve takes pages of the device.
func (m *FS) reserve(pages int64) error {
	if pages > 0 && pages > m.cap-m.used {
		return syscall.ENOSPC
	}
	m.used += pages
	return nil
}

// release gives an inode's pages back when nothing holds it any more.
func (m *FS) release(ino *inode) {
	if ino.links == 0 && ino.open == 0 {
		m.used -= ino.count()
		ino.has = nil
	}
}

func sortedKeys[K cmp.Ordered, V any](m map[K]V) []K {
	if len(m) == 0 {
		return nil
	}
	keys := make([]K, 0, len(m))
	for k := range m {
		keys = append(keys, k)
	}
	slices.Sort(keys)
	return keys
}
