package disk

import (
	"crypto/rand"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"

	"golang.org/x/sys/windows"
)

func isNoSpace(err error) bool {
	return errors.Is(err, windows.ERROR_DISK_FULL) || errors.Is(err, windows.ERROR_HANDLE_DISK_FULL) ||
		errors.Is(err, windows.ERROR_DISK_QUOTA_EXCEEDED)
}

// withHandle keeps the handle open while call uses it, beside any Close.
func withHandle(f *os.File, call func(h windows.Handle) error) error {
	conn, err := f.SyscallConn()
	if err != nil {
		return err
	}
	if cerr := conn.Control(func(h uintptr) { err = call(windows.Handle(h)) }); cerr != nil {
		return fs.ErrClosed
	}
	return err
}

// syncPath flushes a directory as far as Windows lets us: NTFS logs changes of
// names in order, and a file system without flushing of directories says
// access denied or invalid function.
func syncPath(path string) error {
	p, err := windows.UTF16PtrFromString(path)
	if err != nil {
		return PathError("sync directory", path, err)
	}
	h, err := windows.CreateFile(p, windows.GENERIC_WRITE,
		windows.FILE_SHARE_READ|windows.FILE_SHARE_WRITE|windows.FILE_SHARE_DELETE,
		nil, windows.OPEN_EXISTING, windows.FILE_FLAG_BACKUP_SEMANTICS, 0)
	if err == nil {
		err = errors.Join(windows.FlushFileBuffers(h), windows.CloseHandle(h))
	}
	if errors.Is(err, windows.ERROR_ACCESS_DENIED) || errors.Is(err, windows.ERROR_INVALID_FUNCTION) {
		return nil
	}
	return PathError("sync directory", path, err)
}

func dup(f *os.File) (*os.File, error) {
	var n windows.Handle
	err := withHandle(f, func(h windows.Handle) error {
		self := windows.CurrentProcess()
		return windows.DuplicateHandle(self, h, self, &n, 0, false, windows.DUPLICATE_SAME_ACCESS)
	})
	if err != nil {
		return nil, err
	}
	return os.NewFile(uintptr(n), f.Name()), nil
}

func writeDurable(f *os.File, off int64, bufs [][]byte) error { return writeAndSync(f, off, bufs) }

// allocate: NTFS reserves the clusters of a file that is made longer.
func allocate(f *os.File, old, size int64) error {
	if size <= old {
		return nil
	}
	return f.Truncate(size)
}

func readUncached(f *os.File, p []byte, off int64) (int, error) { return f.ReadAt(p, off) }

// A mapping goes by a duplicate handle: it is flushed when it is unmapped, and
// the file may be closed by then.
func canPopulate() bool          { return false }
func populate([]byte) error      { return errors.ErrUnsupported }
func prefetch([]byte)            {}
func scattered([]byte, bool)     {}
func drop([]byte)                {}
func forget(*os.File)            {}
func adviseMapping([]byte) error { return nil }

func fileInfo(f *os.File) (info windows.ByHandleFileInformation, err error) {
	err = withHandle(f, func(h windows.Handle) error { return windows.GetFileInformationByHandle(h, &info) })
	return info, err
}

func exclusive(f *os.File) (bool, error) {
	info, err := fileInfo(f)
	return info.NumberOfLinks == 1, err
}

// OpenDir opens a directory. Who may read it is left to what it inherits.
func (osFS) OpenDir(path string, create bool) (Dir, error) {
	if create {
		if err := makeDirs(path); err != nil {
			return nil, err
		}
	}
	root, err := os.OpenRoot(path)
	if err != nil {
		return nil, PathError("open directory", path, err)
	}
	return &osDir{root: root}, nil
}

type osDir struct{ root *os.Root }

func (d *osDir) Path() string            { return d.root.Name() }
func (d *osDir) Block() int              { return Alignment }
func (d *osDir) join(name string) string { return filepath.Join(d.Path(), name) }
func (d *osDir) Sync() error             { return syncPath(d.Path()) }
func (d *osDir) Close() error            { return PathError("close directory", d.Path(), d.root.Close()) }

func (d *osDir) Holds(path string) (bool, error) {
	own, err := d.root.Stat(".")
	if err != nil {
		return false, PathError("look at", d.Path(), err)
	}
	return holds(own, path)
}

func (d *osDir) List() ([]Info, error) {
	f, err := d.root.Open(".")
	if err != nil {
		return nil, PathError("list", d.Path(), err)
	}
	defer f.Close()
	entries, err := f.ReadDir(listMax + 1)
	if err != nil && err != io.EOF {
		return nil, PathError("list", d.Path(), err)
	}
	if len(entries) > listMax {
		return nil, PathError("list", d.Path(), fmt.Errorf("more than %d names", listMax))
	}
	infos := make([]Info, 0, len(entries))
	for _, e := range entries {
		fi, err := e.Info()
		if errors.Is(err, fs.ErrNotExist) {
			continue // gone meanwhile
		}
		if err != nil {
			return nil, PathError("stat", d.join(e.Name()), err)
		}
		infos = append(infos, Info{Name: e.Name(), Size: fi.Size(), Blocks: fi.Size(), Regular: fi.Mode().IsRegular()})
	}
	slices.SortFunc(infos, func(a, b Info) int { return strings.Compare(a.Name, b.Name) })
	return infos, nil
}

func (d *osDir) Create(name string) (File, error) {
	f, err := d.openFile("create", name, os.O_RDWR|os.O_CREATE|os.O_EXCL)
	if err != nil {
		return nil, err
	}
	return &osFile{f: f, name: name}, nil
}

func (d *osDir) openFile(op, name string, flags int) (*os.File, error) {
	if err := CheckName(name); err != nil {
		return nil, err
	}
	f, err := d.root.OpenFile(name, flags, 0o600)
	if err != nil {
		return nil, PathError(op, d.join(name), err)
	}
	return f, nil
}

func (d *osDir) Open(name string, write bool) (File, error) {
	f, err := d.open(name, write)
	if err != nil {
		return nil, err
	}
	return &osFile{f: f, name: name}, nil
}

func (d *osDir) open(name string, write bool) (*os.File, error) {
	if err := CheckName(name); err != nil {
		return nil, err
	}
	fi, err := d.root.Lstat(name)
	if err != nil {
		return nil, PathError("open", d.join(name), err)
	}
	if !fi.Mode().IsRegular() {
		return nil, PathError("open", d.join(name), fmt.Errorf("%w: %v", ErrUnsafe, fi.Mode()))
	}
	flags := os.O_RDONLY
	if write {
		flags = os.O_RDWR
	}
	f, err := d.openFile("open", name, flags)
	if err != nil {
		return nil, err
	}
	info, err := fileInfo(f)
	if err == nil && info.NumberOfLinks > 1 {
		err = fmt.Errorf("%w: it has %d links", ErrUnsafe, info.NumberOfLinks)
	}
	if err != nil {
		return nil, errors.Join(PathError("open", d.join(name), err), f.Close())
	}
	return f, nil
}

func (d *osDir) Rename(from, to string) error {
	if err := errors.Join(CheckName(from), CheckName(to)); err != nil {
		return err
	}
	if err := d.root.Rename(from, to); err != nil {
		var le *os.LinkError
		if errors.As(err, &le) {
			err = le.Err
		}
		return PathError("rename to "+to, d.join(from), err)
	}
	return nil
}

func (d *osDir) Remove(name string) error {
	if err := CheckName(name); err != nil {
		return err
	}
	return PathError("remove", d.join(name), d.root.Remove(name))
}

func (d *osDir) Lock(name string) (io.Closer, error) {
	f, err := d.openFile("open", name, os.O_RDWR|os.O_CREATE)
	if err != nil {
		return nil, err
	}
	return lockDir(f)
}

// tryLock locks one byte far behind the content, which others may then read.
func tryLock(f *os.File) (bool, error) {
	err := withHandle(f, func(h windows.Handle) error {
		return windows.LockFileEx(h, windows.LOCKFILE_EXCLUSIVE_LOCK|windows.LOCKFILE_FAIL_IMMEDIATELY,
			0, 1, 0, &windows.Overlapped{OffsetHigh: 1 << 30})
	})
	if errors.Is(err, windows.ERROR_LOCK_VIOLATION) || errors.Is(err, windows.ERROR_IO_PENDING) {
		return false, nil
	}
	return err == nil, err
}

// CopyOnWrite is false for NTFS alone.
func (d *osDir) CopyOnWrite() bool {
	f, err := d.root.Open(".")
	if err != nil {
		return true
	}
	defer f.Close()
	var name [windows.MAX_PATH + 1]uint16
	err = withHandle(f, func(h windows.Handle) error {
		return windows.GetVolumeInformationByHandle(h, nil, 0, nil, nil, nil, &name[0], uint32(len(name)))
	})
	return err != nil || windows.UTF16ToString(name[:]) != "NTFS"
}

func (d *osDir) Space() (Space, error) {
	p, err := windows.UTF16PtrFromString(d.Path())
	if err != nil {
		return Space{}, PathError("free space", d.Path(), err)
	}
	var free, total uint64
	if err := windows.GetDiskFreeSpaceEx(p, &free, &total, nil); err != nil {
		return Space{}, PathError("free space", d.Path(), err)
	}
	return Space{Free: int64(free), Total: int64(total)}, nil
}

// boot stands for this process: Windows has no ID of a boot that we would
// trust, so the death of the process is taken for a power cut.
var boot = sync.OnceValue(func() (id [16]byte) {
	rand.Read(id[:]) // never fails
	return id
})

func (d *osDir) Identity() (Identity, error) { return Identity{Boot: boot()}, nil }

// reserve: there are no blocks behind the end of a file that a write could count upon.
func reserve(*os.File, int64) error { return errors.ErrUnsupported }
