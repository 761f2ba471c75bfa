package memdisk

import (
	"errors"
	"fmt"
	"io"
	"io/fs"
	"maps"
	"path/filepath"
	"slices"
	"strings"

	"github.com/mtawal/mtawal/internal/disk"
)

// directory is one directory with its two versions of names.
type directory struct {
	path    string
	live    map[string]*inode
	durable map[string]*inode
	pending []nameOp // what leads from durable to live, in order
	locks   map[string]*dirLock
}

// nameOp is one change of names: add for a new file, drop for a removed one, both
// for a rename.
type nameOp struct {
	add, drop string
	ino       *inode
}

// apply works for any subset of a history, since an add names the inode.
func (op nameOp) apply(names map[string]*inode) {
	if op.drop != "" {
		delete(names, op.drop)
	}
	if op.add != "" {
		names[op.add] = op.ino
	}
}

// change does it in the cache and notes it.
func (d *directory) change(op nameOp) {
	op.apply(d.live)
	d.pending = append(d.pending, op)
	if op.add != "" {
		op.ino.name = op.add
	}
}

// dirHandle is a directory as a process has it open.
type dirHandle struct {
	fs      *FS
	dir     *directory
	process uint64
	closed  bool
}

// begin calls the hook, takes the lock, and reports whether the handle is alive.
func (h *dirHandle) begin(op disk.Op, name string) error {
	h.fs.before(op, name)
	h.fs.mu.Lock()
	if h.closed || h.process != h.fs.process {
		return disk.PathError(op.String(), h.join(name), fs.ErrClosed)
	}
	return nil
}

func (h *dirHandle) join(name string) string { return filepath.Join(h.dir.path, name) }
func (h *dirHandle) Path() string            { return h.dir.path }
func (h *dirHandle) Block() int              { return h.fs.cfg.Block }
func (h *dirHandle) CopyOnWrite() bool       { return h.fs.cfg.CopyOnWrite }

// Holds goes by names: there are no links here.
func (h *dirHandle) Holds(path string) (bool, error) {
	return strings.HasPrefix(filepath.Clean(path), h.dir.path+string(filepath.Separator)), nil
}

func (h *dirHandle) Close() error {
	h.fs.mu.Lock()
	defer h.fs.mu.Unlock()
	h.closed = true
	return nil
}

func (h *dirHandle) List() ([]disk.Info, error) {
	err := h.begin(disk.OpList, "")
	defer h.fs.mu.Unlock()
	if err != nil {
		return nil, err
	}
	infos := make([]disk.Info, 0, len(h.dir.live)+len(h.fs.dirs))
	for name, ino := range h.dir.live {
		infos = append(infos, disk.Info{Name: name, Size: ino.size, Blocks: ino.count() * PageSize, Regular: ino.special == ""})
	}
	for path := range h.fs.dirs {
		if filepath.Dir(path) == h.dir.path && path != h.dir.path {
			infos = append(infos, disk.Info{Name: filepath.Base(path)})
		}
	}
	slices.SortFunc(infos, func(a, b disk.Info) int { return strings.Compare(a.Name, b.Name) })
	return infos, nil
}

func (h *dirHandle) Create(name string) (disk.File, error) {
	err := h.begin(disk.OpCreate, name)
	defer h.fs.mu.Unlock()
	if err != nil {
		return nil, err
	}
	return h.create(name)
}

func (h *dirHandle) create(name string) (*file, error) {
	if err := disk.CheckName(name); err != nil {
		return nil, err
	}
	if h.dir.live[name] != nil || h.fs.dirs[h.join(name)] != nil {
		return nil, disk.PathError("create", h.join(name), fs.ErrExist)
	}
	h.fs.lastID++
	ino := &inode{id: h.fs.lastID, links: 1}
	h.dir.change(nameOp{add: name, ino: ino})
	return h.handle(name, ino, true), nil
}

func (h *dirHandle) handle(name string, ino *inode, write bool) *file {
	ino.open++
	return &file{fs: h.fs, ino: ino, name: name, path: h.join(name), process: h.fs.process, mount: h.fs.mount, write: write}
}

func (h *dirHandle) Open(name string, write bool) (disk.File, error) {
	err := h.begin(disk.OpOpen, name)
	defer h.fs.mu.Unlock()
	if err != nil {
		return nil, err
	}
	return h.open(name, write)
}

func (h *dirHandle) open(name string, write bool) (*file, error) {
	if err := disk.CheckName(name); err != nil {
		return nil, err
	}
	ino := h.dir.live[name]
	if ino == nil && h.fs.dirs[h.join(name)] != nil {
		return nil, disk.PathError("open", h.join(name), fmt.Errorf("%w: a directory", disk.ErrUnsafe))
	}
	if ino == nil {
		return nil, disk.PathError("open", h.join(name), fs.ErrNotExist)
	}
	reason := ino.special
	if reason == "" && ino.links > 1 {
		reason = fmt.Sprintf("it has %d links", ino.links)
	}
	if reason != "" {
		return nil, disk.PathError("open", h.join(name), fmt.Errorf("%w: %s", disk.ErrUnsafe, reason))
	}
	return h.handle(name, ino, write), nil
}

func (h *dirHandle) Rename(from, to string) error {
	err := h.begin(disk.OpRename, from)
	defer h.fs.mu.Unlock()
	if err != nil {
		return err
	}
	if err := errors.Join(disk.CheckName(from), disk.CheckName(to)); err != nil {
		return err
	}
	ino, old := h.dir.live[from], h.dir.live[to]
	if ino == nil {
		return disk.PathError("rename to "+to, h.join(from), fs.ErrNotExist)
	}
	if ino == old { // two links to one file, or one name: POSIX does nothing
		return nil
	}
	h.dir.change(nameOp{add: to, drop: from, ino: ino})
	if old != nil {
		old.links--
		h.fs.release(old)
	}
	return nil
}

func (h *dirHandle) Remove(name string) error {
	err := h.begin(disk.OpRemove, name)
	defer h.fs.mu.Unlock()
	if err != nil {
		return err
	}
	if err := disk.CheckName(name); err != nil {
		return err
	}
	ino := h.dir.live[name]
	if ino == nil {
		return disk.PathError("remove", h.join(name), fs.ErrNotExist)
	}
	h.dir.change(nameOp{drop: name, ino: ino})
	ino.links--
	h.fs.release(ino)
	return nil
}

func (h *dirHandle) Sync() error {
	err := h.begin(disk.OpDirSync, "")
	defer h.fs.mu.Unlock()
	if err != nil {
		return err
	}
	h.dir.durable = maps.Clone(h.dir.live)
	h.dir.pending = nil
	return nil
}

func (h *dirHandle) Lock(name string) (io.Closer, error) {
	err := h.begin(disk.OpLock, name)
	defer h.fs.mu.Unlock()
	if err != nil {
		return nil, err
	}
	f, err := h.open(name, true)
	if errors.Is(err, fs.ErrNotExist) {
		f, err = h.create(name)
	}
	if err != nil {
		return nil, err
	}
	f.ino.open--
	if l := h.dir.locks[name]; l != nil {
		return nil, &disk.LockedError{Path: h.join(name), PID: int(l.process)}
	}
	l := &dirLock{fs: h.fs, dir: h.dir, name: name, process: h.process}
	h.dir.locks[name] = l
	return l, nil
}

// dirLock is the lock; the number of the process stands for its PID.
type dirLock struct {
	fs      *FS
	dir     *directory
	name    string
	process uint64
}

func (l *dirLock) Close() error {
	l.fs.mu.Lock()
	defer l.fs.mu.Unlock()
	if l.dir.locks[l.name] == l {
		delete(l.dir.locks, l.name)
	}
	return nil
}

func (h *dirHandle) Identity() (disk.Identity, error) {
	err := h.begin(disk.OpIdentity, "")
	defer h.fs.mu.Unlock()
	if err != nil {
		return disk.Identity{}, err
	}
	return h.fs.identity(), nil
}

func (h *dirHandle) Space() (disk.Space, error) {
	err := h.begin(disk.OpSpace, "")
	defer h.fs.mu.Unlock()
	if err != nil {
		return disk.Space{}, err
	}
	return h.fs.space(), nil
}
