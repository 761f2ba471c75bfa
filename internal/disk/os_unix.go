//go:build unix

package disk

import (
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"syscall"

	"golang.org/x/sys/unix"
)

func isNoSpace(err error) bool {
	return errors.Is(err, unix.ENOSPC) || errors.Is(err, unix.EDQUOT)
}

// retry continues a call that a signal interrupted.
func retry(call func() error) error {
	for {
		if err := call(); err != unix.EINTR {
			return err
		}
	}
}

// withFd keeps the descriptor open while call uses it, beside any Close.
func withFd(f *os.File, call func(fd int) error) error {
	conn, err := f.SyscallConn()
	if err != nil {
		return err
	}
	cerr := conn.Control(func(fd uintptr) { err = retry(func() error { return call(int(fd)) }) })
	if cerr != nil {
		return fs.ErrClosed // all that Control can say, in words of its own
	}
	return err
}

// fillZeros makes a file longer with written blocks, where there is no call that
// reserves them.
func fillZeros(f *os.File, old, size int64) error {
	if size <= old {
		return nil
	}
	s, err := space(f)
	if err != nil {
		return err
	}
	if size-old > s.Free { // rather than find out by filling the device
		return unix.ENOSPC
	}
	zeros := make([]byte, min(size-old, 1<<20))
	for old < size {
		n, err := f.WriteAt(zeros[:min(int64(len(zeros)), size-old)], old)
		if err != nil {
			return err
		}
		old += int64(n)
	}
	return nil
}

func syncPath(path string) error {
	f, err := os.Open(path)
	if err != nil {
		return PathError("sync directory", path, err)
	}
	return PathError("sync directory", path, errors.Join(f.Sync(), f.Close()))
}

func dup(f *os.File) (*os.File, error) {
	var n int
	err := withFd(f, func(fd int) (err error) {
		n, err = unix.FcntlInt(uintptr(fd), unix.F_DUPFD_CLOEXEC, 0)
		return err
	})
	if err != nil {
		return nil, err
	}
	return os.NewFile(uintptr(n), f.Name()), nil
}

// OpenDir opens a directory; group or other permission on one that exists is
// left as it is.
func (osFS) OpenDir(path string, create bool) (Dir, error) {
	if create {
		if err := makeDirs(path); err != nil {
			return nil, err
		}
	}
	f, err := os.OpenFile(path, os.O_RDONLY|unix.O_DIRECTORY, 0)
	if err != nil {
		return nil, PathError("open directory", path, err)
	}
	d := &osDir{f: f}
	if d.props, err = properties(f); err != nil {
		return nil, errors.Join(PathError("open directory", path, err), f.Close())
	}
	return d, nil
}

// props are the properties of a file system that can't change while it is in use.
type props struct {
	block int
	cow   bool
	nocow bool // asking for it in a new file may help
}

// osDir is an open directory: names are resolved against its descriptor, so
// that it does not matter where its path points meanwhile.
type osDir struct {
	f *os.File
	props
	directs directs
}

func (d *osDir) Path() string      { return d.f.Name() }
func (d *osDir) Block() int        { return d.block }
func (d *osDir) CopyOnWrite() bool { return d.cow }
func (d *osDir) Close() error      { return PathError("close directory", d.Path(), d.f.Close()) }

func (d *osDir) join(name string) string { return filepath.Join(d.Path(), name) }

func (d *osDir) openAt(name string, flags int) (*os.File, error) {
	var fd int
	err := withFd(d.f, func(dir int) (err error) {
		fd, err = unix.Openat(dir, name, flags|unix.O_CLOEXEC|unix.O_NOFOLLOW, 0o600)
		return err
	})
	if err != nil {
		return nil, err
	}
	return os.NewFile(uintptr(fd), d.join(name)), nil
}

func (d *osDir) stat(name string) (st unix.Stat_t, err error) {
	err = withFd(d.f, func(dir int) error {
		return unix.Fstatat(dir, name, &st, unix.AT_SYMLINK_NOFOLLOW)
	})
	return st, err
}

func (d *osDir) Space() (Space, error) {
	s, err := space(d.f)
	return s, PathError("statfs", d.Path(), err)
}

func (d *osDir) Holds(path string) (bool, error) {
	own, err := d.f.Stat()
	if err != nil {
		return false, PathError("look at", d.Path(), err)
	}
	return holds(own, path)
}

func (d *osDir) List() ([]Info, error) {
	// A descriptor of its own, since its position is state.
	var fd int
	err := withFd(d.f, func(dir int) (err error) {
		fd, err = unix.Openat(dir, ".", unix.O_RDONLY|unix.O_DIRECTORY|unix.O_CLOEXEC, 0)
		return err
	})
	if err != nil {
		return nil, PathError("list", d.Path(), err)
	}
	f := os.NewFile(uintptr(fd), d.Path())
	defer f.Close()
	names, err := f.Readdirnames(listMax + 1)
	if err != nil && err != io.EOF {
		return nil, PathError("list", d.Path(), err)
	}
	if len(names) > listMax {
		return nil, PathError("list", d.Path(), fmt.Errorf("more than %d names", listMax))
	}
	infos := make([]Info, 0, len(names))
	for _, name := range names {
		st, err := d.stat(name)
		if errors.Is(err, fs.ErrNotExist) {
			continue // gone meanwhile
		}
		if err != nil {
			return nil, PathError("stat", d.join(name), err)
		}
		infos = append(infos, Info{Name: name, Size: st.Size, Blocks: st.Blocks * 512, Regular: st.Mode&unix.S_IFMT == unix.S_IFREG})
	}
	slices.SortFunc(infos, func(a, b Info) int { return strings.Compare(a.Name, b.Name) })
	return infos, nil
}

func (d *osDir) Create(name string) (File, error) {
	f, err := d.create(name)
	if err != nil {
		return nil, err
	}
	return d.file(f, name, true), nil
}

func (d *osDir) file(f *os.File, name string, write bool) *osFile {
	return &osFile{f: f, name: name, direct: d.directs.of(write && !d.cow)}
}

func (d *osDir) create(name string) (*os.File, error) {
	if err := CheckName(name); err != nil {
		return nil, err
	}
	f, err := d.openAt(name, unix.O_RDWR|unix.O_CREAT|unix.O_EXCL)
	if err != nil {
		return nil, PathError("create", d.join(name), err)
	}
	if err := f.Chmod(0o600); err != nil { // whatever the umask is
		return nil, errors.Join(PathError("create", d.join(name), err), f.Close(), d.Remove(name))
	}
	if d.nocow {
		noCow(f)
	}
	return f, nil
}

func (d *osDir) Open(name string, write bool) (File, error) {
	f, err := d.open(name, write)
	if err != nil {
		return nil, err
	}
	return d.file(f, name, write), nil
}

func (d *osDir) open(name string, write bool) (*os.File, error) {
	if err := CheckName(name); err != nil {
		return nil, err
	}
	// Looked at first, since opening a device may do something; and again once
	// it is open, since the name may have changed hands.
	st, err := d.stat(name)
	if err != nil {
		return nil, PathError("open", d.join(name), err)
	}
	if err := d.safe(name, &st); err != nil {
		return nil, err
	}
	flags := unix.O_RDONLY
	if write {
		flags = unix.O_RDWR
	}
	f, err := d.openAt(name, flags|unix.O_NONBLOCK|unix.O_NOCTTY)
	if errors.Is(err, unix.ELOOP) {
		err = fmt.Errorf("%w: a symbolic link", ErrUnsafe)
	}
	if err != nil {
		return nil, PathError("open", d.join(name), err)
	}
	err = withFd(f, func(fd int) error {
		if err := unix.Fstat(fd, &st); err != nil {
			return PathError("open", d.join(name), err)
		}
		if err := d.safe(name, &st); err != nil {
			return err
		}
		return unix.SetNonblock(fd, false)
	})
	if err != nil {
		return nil, errors.Join(err, f.Close())
	}
	return f, nil
}

// safe refuses what is not a plain private file of ours.
func (d *osDir) safe(name string, st *unix.Stat_t) error {
	var reason string
	switch {
	case st.Mode&unix.S_IFMT == unix.S_IFLNK:
		reason = "a symbolic link"
	case st.Mode&unix.S_IFMT == unix.S_IFDIR:
		reason = "a directory"
	case st.Mode&unix.S_IFMT == unix.S_IFIFO:
		reason = "a FIFO"
	case st.Mode&unix.S_IFMT != unix.S_IFREG:
		reason = "a device or socket"
	case st.Nlink == 0:
		return PathError("open", d.join(name), fs.ErrNotExist) // unlinked meanwhile
	case st.Nlink > 1:
		reason = fmt.Sprintf("it has %d links", st.Nlink)
	case int64(st.Uid) != int64(os.Geteuid()):
		reason = fmt.Sprintf("its owner is %d", st.Uid)
	case st.Mode&0o077 != 0:
		reason = fmt.Sprintf("its mode is %04o", st.Mode&0o7777)
	default:
		return nil
	}
	return PathError("open", d.join(name), fmt.Errorf("%w: %s", ErrUnsafe, reason))
}

func (d *osDir) Rename(from, to string) error {
	if err := errors.Join(CheckName(from), CheckName(to)); err != nil {
		return err
	}
	err := withFd(d.f, func(dir int) error { return unix.Renameat(dir, from, dir, to) })
	if err != nil {
		return PathError("rename to "+to, d.join(from), err)
	}
	return nil
}

func (d *osDir) Remove(name string) error {
	if err := CheckName(name); err != nil {
		return err
	}
	err := withFd(d.f, func(dir int) error { return unix.Unlinkat(dir, name, 0) })
	return PathError("remove", d.join(name), err)
}

func (d *osDir) Sync() error { return PathError("sync directory", d.Path(), d.f.Sync()) }

func (d *osDir) Lock(name string) (io.Closer, error) {
	f, err := d.open(name, true)
	if errors.Is(err, fs.ErrNotExist) {
		if f, err = d.create(name); errors.Is(err, fs.ErrExist) {
			f, err = d.open(name, true)
		}
	}
	if err != nil {
		return nil, err
	}
	return lockDir(f)
}

// tryLock uses flock, which unlike a POSIX lock also keeps out a second open in
// the same process and does not go when some other descriptor is closed.
func tryLock(f *os.File) (bool, error) {
	err := withFd(f, func(fd int) error { return unix.Flock(fd, unix.LOCK_EX|unix.LOCK_NB) })
	if err == syscall.EWOULDBLOCK {
		return false, nil
	}
	return err == nil, err
}
