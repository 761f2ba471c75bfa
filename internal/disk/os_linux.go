package disk

import (
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"strconv"
	"strings"
	"sync"
	"unsafe"

	"golang.org/x/sys/unix"
)

// iovMax is IOV_MAX, how many buffers one call takes.
const iovMax = 1024

// writeDurable is one system call where the kernel can: the write waits for
// its own bytes, and for the metadata to find them.
func writeDurable(f *os.File, off int64, bufs [][]byte) error {
	return writeVectors(f, off, bufs, true)
}

// writeVectors without dsync writes first and then waits for the whole file.
func writeVectors(f *os.File, off int64, bufs [][]byte, dsync bool) error {
	left := make([][]byte, 0, len(bufs))
	for _, b := range bufs {
		if len(b) > 0 {
			left = append(left, b)
		}
	}
	return withFd(f, func(fd int) error {
		for len(left) > 0 {
			var n int
			var err error
			iov := left[:min(len(left), iovMax)]
			if dsync {
				n, err = unix.Pwritev2(fd, iov, off, unix.RWF_DSYNC)
				if err == unix.EOPNOTSUPP || err == unix.ENOSYS || err == unix.EINVAL {
					dsync = false
					continue
				}
			} else {
				n, err = unix.Pwritev(fd, iov, off)
			}
			if err != nil {
				return err // EINTR comes back here, with left and off as they are
			}
			if n <= 0 {
				return io.ErrShortWrite
			}
			off += int64(n)
			left = advance(left, n)
		}
		if dsync {
			return nil
		}
		return unix.Fdatasync(fd)
	})
}

// advance drops the first n bytes.
func advance(bufs [][]byte, n int) [][]byte {
	for n > 0 {
		if n < len(bufs[0]) {
			bufs[0] = bufs[0][n:]
			break
		}
		n -= len(bufs[0])
		bufs = bufs[1:]
	}
	return bufs
}

func allocate(f *os.File, old, size int64) error {
	err := withFd(f, func(fd int) error { return unix.Fallocate(fd, 0, 0, size) })
	if err == unix.EOPNOTSUPP || err == unix.ENOSYS {
		return fillZeros(f, old, size)
	}
	return err
}

func reserve(f *os.File, size int64) error {
	if size == 0 {
		return nil
	}
	err := withFd(f, func(fd int) error { return unix.Fallocate(fd, unix.FALLOC_FL_KEEP_SIZE, 0, size) })
	if err == unix.EOPNOTSUPP || err == unix.ENOSYS {
		return errors.ErrUnsupported
	}
	return err
}

// directAlign suits O_DIRECT on any device whose logical block is not larger.
const directAlign = 4096

// readUncached reads through a second descriptor with O_DIRECT: dropping the
// pages instead does nothing while the file is mapped.
func readUncached(f *os.File, p []byte, off int64) (int, error) {
	direct, err := reopenDirect(f, unix.O_RDONLY)
	if errors.Is(err, fs.ErrClosed) {
		return 0, err
	}
	if err != nil {
		return readDropped(f, p, off) // no O_DIRECT on this file system, or no /proc
	}
	defer direct.Close()
	buf := alignedBuffer(int(min(int64(len(p))+2*directAlign, 1<<20)))
	done := 0
	for done < len(p) {
		at := off + int64(done)
		skip := int(at % directAlign)
		want := min((skip+len(p)-done+directAlign-1)/directAlign*directAlign, len(buf))
		n := 0
		err := withFd(direct, func(fd int) (err error) {
			n, err = unix.Pread(fd, buf[:want], at-int64(skip))
			return err
		})
		if err == unix.EINVAL { // it asks for more than directAlign
			return readDropped(f, p, off)
		}
		if err != nil {
			return done, err
		}
		if n <= skip {
			return done, io.EOF
		}
		done += copy(p[done:], buf[skip:n])
	}
	return done, nil
}

// readDropped asks the kernel to forget the pages, and reads them.
func readDropped(f *os.File, p []byte, off int64) (int, error) {
	err := withFd(f, func(fd int) error {
		return unix.Fadvise(fd, off, int64(len(p)), unix.FADV_DONTNEED)
	})
	if err != nil {
		return 0, err
	}
	return f.ReadAt(p, off)
}

func alignedBuffer(n int) []byte {
	n = (n + directAlign - 1) / directAlign * directAlign
	b := make([]byte, n+directAlign)
	skip := -uintptr(unsafe.Pointer(unsafe.SliceData(b))) % directAlign
	return b[skip:][:n:n]
}

// canPopulate reports whether the kernel has MADV_POPULATE_READ (5.14).
var canPopulate = sync.OnceValue(func() bool {
	b, err := unix.Mmap(-1, 0, os.Getpagesize(), unix.PROT_READ, unix.MAP_PRIVATE|unix.MAP_ANON)
	if err != nil {
		return false
	}
	ok := unix.Madvise(b, unix.MADV_POPULATE_READ) == nil
	return unix.Munmap(b) == nil && ok
})

func populate(b []byte) error {
	return retry(func() error { return unix.Madvise(b, unix.MADV_POPULATE_READ) })
}

// prefetchStep is as much as the kernel is sure to take at a time: of a longer stretch it may read the beginning only
// (force_page_cache_ra).
const prefetchStep = 128 << 10

func prefetch(b []byte) {
	for len(b) > 0 {
		n := min(prefetchStep, len(b))
		_ = unix.Madvise(b[:n], unix.MADV_WILLNEED) // a hint
		b = b[n:]
	}
}

func scattered(b []byte, yes bool) {
	advice := unix.MADV_NORMAL
	if yes {
		advice = unix.MADV_RANDOM
	}
	_ = unix.Madvise(b, advice) // a hint
}

func drop(b []byte) {
	if len(b) > 0 {
		_ = unix.Madvise(b, unix.MADV_DONTNEED) // of a file: it is read again
	}
}

func forget(f *os.File) {
	_ = withFd(f, func(fd int) error { return unix.Fadvise(fd, 0, 0, unix.FADV_DONTNEED) })
}

// adviseMapping keeps mail out of core dumps.
func adviseMapping(b []byte) error {
	if err := unix.Madvise(b, unix.MADV_DONTDUMP); err != nil && err != unix.EINVAL {
		return fmt.Errorf("MADV_DONTDUMP: %w", err)
	}
	return nil
}

// inPlace are the file systems known to overwrite allocated blocks in place.
// Others are taken for copy-on-write, which costs speed and never the process;
// some of them (overlay, FUSE) have one below.
var inPlace = map[uint32]bool{
	unix.EXT4_SUPER_MAGIC: true, // ext2 and ext3 too
	unix.XFS_SUPER_MAGIC:  true, // but for reflinked files: see Exclusive
	unix.TMPFS_MAGIC:      true,
}

func properties(f *os.File) (p props, err error) {
	var st unix.Statfs_t
	if err := withFd(f, func(fd int) error { return unix.Fstatfs(fd, &st) }); err != nil {
		return p, err
	}
	p.cow = !inPlace[uint32(st.Type)]
	p.nocow = uint32(st.Type) == unix.BTRFS_SUPER_MAGIC
	p.block = Alignment
	for _, b := range []int64{int64(st.Frsize), physicalBlock(f)} {
		// Beyond that it is a hint for transfers and not a block.
		if b > int64(p.block) && b <= 1<<16 && b&(b-1) == 0 {
			p.block = int(b)
		}
	}
	return p, nil
}

// physicalBlock is the block of the device below, 0 if there is none to see.
func physicalBlock(f *os.File) int64 {
	var st unix.Stat_t
	if withFd(f, func(fd int) error { return unix.Fstat(fd, &st) }) != nil {
		return 0
	}
	dev := fmt.Sprintf("/sys/dev/block/%d:%d/", unix.Major(uint64(st.Dev)), unix.Minor(uint64(st.Dev)))
	for _, at := range []string{"queue/", "../queue/"} { // the disk, a partition
		if b, err := os.ReadFile(dev + at + "physical_block_size"); err == nil {
			n, _ := strconv.ParseInt(strings.TrimSpace(string(b)), 10, 64)
			return n
		}
	}
	return 0
}

func space(f *os.File) (Space, error) {
	var st unix.Statfs_t
	if err := withFd(f, func(fd int) error { return unix.Fstatfs(fd, &st) }); err != nil {
		return Space{}, err
	}
	unit := int64(st.Frsize)
	if unit == 0 {
		unit = int64(st.Bsize)
	}
	return Space{Free: int64(st.Bavail) * unit, Total: int64(st.Blocks) * unit}, nil
}

// Identity is the kernel's boot ID and the ID of the mount. Before Linux 6.8 a
// mount ID is used again after an unmount, so that one can be missed there. A
// bind mount made anew, as for a container, counts as another mount.
func (d *osDir) Identity() (id Identity, err error) {
	const file = "/proc/sys/kernel/random/boot_id"
	b, err := os.ReadFile(file)
	if err != nil {
		return id, PathError("read", file, err)
	}
	text := strings.ReplaceAll(strings.TrimSpace(string(b)), "-", "")
	if n, err := hex.Decode(id.Boot[:], []byte(text[:min(len(text), 32)])); err != nil || n != len(id.Boot) {
		return id, PathError("read", file, fmt.Errorf("%q is not a boot ID", b))
	}
	id.Mount, err = mountID(d.f)
	return id, PathError("statx", d.Path(), err)
}

func mountID(f *os.File) (uint64, error) {
	for _, mask := range []int{unix.STATX_MNT_ID_UNIQUE, unix.STATX_MNT_ID} {
		var st unix.Statx_t
		err := withFd(f, func(fd int) error {
			return unix.Statx(fd, "", unix.AT_EMPTY_PATH, mask, &st)
		})
		if err == nil && st.Mask&uint32(mask) != 0 {
			return st.Mnt_id, nil
		}
		if err != nil && err != unix.EINVAL && err != unix.ENOSYS {
			return 0, err
		}
	}
	// Before Linux 5.8 the device has to do.
	var st unix.Stat_t
	err := withFd(f, func(fd int) error { return unix.Fstat(fd, &st) })
	return uint64(st.Dev), err
}
