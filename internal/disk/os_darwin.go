package disk

import (
	"encoding/hex"
	"errors"
	"fmt"
	"os"
	"strings"

	"golang.org/x/sys/unix"
)

// writeDurable ends with F_FULLFSYNC, which is what os.File.Sync does here: fsync
// leaves the bytes in the device's cache.
func writeDurable(f *os.File, off int64, bufs [][]byte) error { return writeAndSync(f, off, bufs) }

func allocate(f *os.File, old, size int64) error {
	if size <= old {
		return nil
	}
	err := withFd(f, func(fd int) error {
		return unix.FcntlFstore(uintptr(fd), unix.F_PREALLOCATE, &unix.Fstore_t{
			Flags: unix.F_ALLOCATEALL, Posmode: unix.F_PEOFPOSMODE, Length: size - old,
		})
	})
	if errors.Is(err, errors.ErrUnsupported) || err == unix.EINVAL {
		return fillZeros(f, old, size)
	}
	if err != nil {
		return err
	}
	return f.Truncate(size)
}

func readUncached(f *os.File, p []byte, off int64) (int, error) { return f.ReadAt(p, off) }

func canPopulate() bool          { return false }
func populate([]byte) error      { return errors.ErrUnsupported }
func prefetch([]byte)            {}
func scattered([]byte, bool)     {}
func drop([]byte)                {}
func forget(*os.File)            {}
func adviseMapping([]byte) error { return nil }
func noCow(*os.File)             {}

// exclusive can't tell a clone of APFS.
func exclusive(f *os.File) (bool, error) {
	var st unix.Stat_t
	err := withFd(f, func(fd int) error { return unix.Fstat(fd, &st) })
	return st.Nlink == 1, err
}

func statfs(f *os.File) (st unix.Statfs_t, err error) {
	err = withFd(f, func(fd int) error { return unix.Fstatfs(fd, &st) })
	return st, err
}

func properties(f *os.File) (p props, err error) {
	st, err := statfs(f)
	p.block = Alignment
	if b := int(st.Bsize); b > p.block && b <= 1<<16 && b&(b-1) == 0 {
		p.block = b
	}
	p.cow = unix.ByteSliceToString(st.Fstypename[:]) != "hfs"
	return p, err
}

func space(f *os.File) (Space, error) {
	st, err := statfs(f)
	if err != nil {
		return Space{}, err
	}
	unit := int64(st.Bsize)
	return Space{Free: int64(st.Bavail) * unit, Total: int64(st.Blocks) * unit}, nil
}

// Identity is the UUID of the boot and the ID of the file system, which stays
// the same over an unmount.
func (d *osDir) Identity() (id Identity, err error) {
	const name = "kern.bootsessionuuid"
	s, err := unix.Sysctl(name)
	if err != nil {
		return id, PathError("sysctl", name, err)
	}
	text := strings.ReplaceAll(strings.TrimSpace(s), "-", "")
	if n, err := hex.Decode(id.Boot[:], []byte(text[:min(len(text), 32)])); err != nil || n != len(id.Boot) {
		return id, PathError("sysctl", name, fmt.Errorf("%q is not a boot ID", s))
	}
	st, err := statfs(d.f)
	id.Mount = uint64(uint32(st.Fsid.Val[0]))<<32 | uint64(uint32(st.Fsid.Val[1]))
	return id, PathError("statfs", d.Path(), err)
}

// reserve: there are no blocks behind the end of a file that a write could count upon.
func reserve(*os.File, int64) error { return errors.ErrUnsupported }
