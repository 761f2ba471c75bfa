package disk

import (
	"bytes"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"

	"golang.org/x/sys/unix"
)

func ok(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

func tempFile(t *testing.T, content string) *os.File {
	t.Helper()
	f, err := os.OpenFile(filepath.Join(t.TempDir(), "f"), os.O_RDWR|os.O_CREATE, 0o600)
	ok(t, err)
	t.Cleanup(func() { _ = f.Close() })
	_, err = f.WriteString(content)
	ok(t, err)
	return f
}

func TestWritesWithoutRWFDSYNC(t *testing.T) {
	for name, write := range map[string]func(*os.File, int64, [][]byte) error{
		"writeVectors": func(f *os.File, off int64, bufs [][]byte) error { return writeVectors(f, off, bufs, false) },
		"writeAndSync": writeAndSync,
	} {
		f := tempFile(t, "")
		var bufs [][]byte
		var want []byte
		for i := range 3000 {
			bufs = append(bufs, bytes.Repeat([]byte{byte(i)}, i%5))
			want = append(want, bufs[i]...)
		}
		ok(t, write(f, 10, bufs))
		ok(t, write(f, 0, [][]byte{make([]byte, 10)}))
		if got, err := os.ReadFile(f.Name()); err != nil || !bytes.Equal(got[10:], want) {
			t.Errorf("%s: %d bytes, %v", name, len(got), err)
		}
	}
}

// What a write cut short leaves to do.
func TestAdvance(t *testing.T) {
	all := [][]byte{[]byte("ab"), []byte("c"), []byte("def")}
	for n := 0; n <= 6; n++ {
		left := advance(append([][]byte(nil), all...), n)
		if got := string(bytes.Join(left, nil)); got != "abcdef"[n:] {
			t.Errorf("%d: %q", n, got)
		}
		for _, b := range left {
			if len(b) == 0 {
				t.Errorf("%d leaves an empty buffer", n)
			}
		}
	}
}

func TestPopulateWithoutTheSystemCall(t *testing.T) {
	defer func(f func() bool) { canPopulate = f }(canPopulate)
	canPopulate = func() bool { return false }
	f := &osFile{f: tempFile(t, strings.Repeat("x", 3<<20)), name: "f"}
	m, err := f.Map(3 << 20)
	ok(t, err)
	ok(t, f.Close())
	ok(t, m.Populate(5, 2<<20))
	ok(t, m.Populate(0, 3<<20))
	ok(t, os.Truncate(f.f.Name(), 4096))
	if err := m.Populate(0, 8192); !errors.Is(err, ErrFault) {
		t.Error(err)
	}
	ok(t, m.Close())
}

func TestReadUncachedWithoutDirect(t *testing.T) {
	f := tempFile(t, "0123456789")
	b := make([]byte, 5)
	if n, err := readDropped(f, b, 3); n != 5 || err != nil || string(b) != "34567" {
		t.Error(n, err, string(b))
	}
}

// ReadUncached must not be fooled by the cache; whether it can is up to the
// file system, so the test only holds where O_DIRECT works: it then sees what
// was written past the cache.
func TestReadUncachedLargeAndUnaligned(t *testing.T) {
	want := make([]byte, 3<<20+777)
	for i := range want {
		want[i] = byte(i * 7 >> 3)
	}
	f := tempFile(t, string(want))
	for _, off := range []int{0, 1, 4095, 4096, 1<<20 - 1, 3 << 20} {
		got := make([]byte, len(want)-off)
		if n, err := readUncached(f, got, int64(off)); n != len(got) || err != nil || !bytes.Equal(got, want[off:]) {
			t.Errorf("at %d: %d, %v", off, n, err)
		}
	}
}

func TestNoSpaceMatches(t *testing.T) {
	for _, errno := range []error{unix.ENOSPC, unix.EDQUOT} {
		err := PathError("write", "f", &fs.PathError{Op: "x", Path: "y", Err: errno})
		if !errors.Is(err, ErrNoSpace) || !errors.Is(err, errno) || strings.Contains(err.Error(), "y") {
			t.Error(err)
		}
	}
	if err := PathError("write", "f", unix.EIO); errors.Is(err, ErrNoSpace) {
		t.Error(err)
	}
	if PathError("write", "f", nil) != nil {
		t.Error("nil is an error")
	}
}

func TestIdentityTellsMountsApart(t *testing.T) {
	a, b := mount(t, "tmpfs", "none", "size=1m"), mount(t, "tmpfs", "none", "size=1m")
	ia, err := a.Identity()
	ok(t, err)
	ib, err := b.Identity()
	ok(t, err)
	if ia.Mount == ib.Mount || ia.Boot != ib.Boot {
		t.Error(ia, ib)
	}
}

// mount makes a file system of its own for a test, and opens a directory on it.
func mount(t *testing.T, kind, source, options string) *osDir {
	t.Helper()
	if os.Geteuid() != 0 {
		t.Skip("only root can mount a file system")
	}
	at := t.TempDir()
	out, err := exec.Command("mount", "-t", kind, "-o", options, source, at).CombinedOutput()
	if err != nil {
		t.Skipf("can't mount %s: %v %s", kind, err, out)
	}
	t.Cleanup(func() { ok(t, unix.Unmount(at, 0)) })
	return openDir(t, at)
}

func openDir(t *testing.T, at string) *osDir {
	t.Helper()
	d, err := OS().OpenDir(filepath.Join(at, "store"), true)
	ok(t, err)
	t.Cleanup(func() { ok(t, d.Close()) })
	return d.(*osDir)
}

// mountImage is a file system in a file, made by mkfs.
func mountImage(t *testing.T, kind string, bytes int64) *osDir {
	t.Helper()
	image := filepath.Join(t.TempDir(), "image")
	ok(t, os.WriteFile(image, nil, 0o600))
	ok(t, os.Truncate(image, bytes))
	if out, err := exec.Command("mkfs."+kind, "-q", image).CombinedOutput(); err != nil {
		t.Skipf("no mkfs.%s: %v %s", kind, err, out)
	}
	return mount(t, kind, image, "loop")
}

// A full file system says ErrNoSpace, in every way of asking for more, and
// leaves what was there.
func TestFull(t *testing.T) {
	for name, dir := range map[string]func(t *testing.T) *osDir{
		"tmpfs": func(t *testing.T) *osDir { return mount(t, "tmpfs", "none", "size=1m") },
		"ext4":  func(t *testing.T) *osDir { return mountImage(t, "ext4", 8<<20) },
		"xfs":   func(t *testing.T) *osDir { return mountImage(t, "xfs", 320<<20) },
		"btrfs": func(t *testing.T) *osDir { return mountImage(t, "btrfs", 128<<20) },
	} {
		t.Run(name, func(t *testing.T) { full(t, dir(t)) })
	}
}

func full(t *testing.T, d *osDir) {
	f, err := d.Create("a")
	ok(t, err)
	defer f.Close()
	ok(t, f.WriteDurable(0, []byte("content")))
	space, err := d.Space()
	ok(t, err)
	noSpace := func(what string, err error) {
		t.Helper()
		if !errors.Is(err, ErrNoSpace) {
			t.Errorf("%s: %v", what, err)
		}
		if !strings.Contains(fmt.Sprint(err), "/a") {
			t.Errorf("%s: %v does not name the file", what, err)
		}
	}
	noSpace("Allocate", f.Allocate(space.Total*2))
	if size, err := f.Size(); err != nil || size != 7 {
		t.Error("a failed Allocate left a length of", size, err)
	}
	// Writes come to an end within the device's size.
	buf := make([]byte, 1<<20+123)
	at := int64(7)
	for err = nil; err == nil && at < 2*space.Total; at += int64(len(buf)) {
		err = f.WriteDurable(at, buf)
	}
	noSpace("WriteDurable", err)
	if _, err = f.WriteAt(buf, at); err != nil { // delayed allocation may say it later
		noSpace("WriteAt", err)
	}
	b := make([]byte, 7)
	if _, err := f.ReadAt(b, 0); err != nil || string(b) != "content" {
		t.Errorf("%q, %v", b, err)
	}
	ok(t, d.Remove("a"))
	ok(t, d.Sync())
}

func TestPropertiesOfFileSystems(t *testing.T) {
	for kind, cow := range map[string]bool{"ext4": false, "xfs": false, "btrfs": true} {
		t.Run(kind, func(t *testing.T) {
			d := mountImage(t, kind, 320<<20)
			if d.CopyOnWrite() != cow || d.Block() != 4096 {
				t.Error(d.CopyOnWrite(), d.Block())
			}
			f, err := d.Create("a")
			ok(t, err)
			defer f.Close()
			ok(t, f.WriteDurable(0, make([]byte, 1<<20)))
			if own, err := f.Exclusive(); err != nil || !own {
				t.Error("a file of its own is shared:", own, err)
			}
			if kind == "btrfs" {
				var flags uint32
				ok(t, withFd(f.(*osFile).f, func(fd int) (err error) {
					flags, err = unix.IoctlGetUint32(fd, unix.FS_IOC_GETFLAGS)
					return err
				}))
				if flags&fsNoCow == 0 {
					t.Errorf("flags %x", flags)
				}
			}
			if kind == "ext4" {
				return // no reflinks
			}
			// What btrfs overwrites in place can be cloned only into its like.
			g, err := d.Create("b")
			ok(t, err)
			defer g.Close()
			ok(t, withFd(f.(*osFile).f, func(from int) error {
				return withFd(g.(*osFile).f, func(to int) error { return unix.IoctlFileClone(to, from) })
			}))
			if own, err := f.Exclusive(); err != nil || own {
				t.Error("a reflinked file is its own:", own, err)
			}
		})
	}
}

// A page that the device can't deliver is an error, not a signal: here a hole on
// a full file system, which a store through the mapping can't fill.
func TestGuardedStoreOnAFullFileSystem(t *testing.T) {
	d := mount(t, "tmpfs", "none", "size=256k")
	f, err := d.Create("a")
	ok(t, err)
	defer f.Close()
	ok(t, f.Truncate(1<<20))
	m, err := f.MapWritable(1 << 20)
	ok(t, err)
	defer m.Close()
	err = Guard(m, func() error {
		for i := 0; i < 1<<20; i += 4096 {
			m.Bytes()[i] = 1
		}
		return nil
	})
	if !errors.Is(err, ErrFault) {
		t.Error(err)
	}
}

// Interrupted calls go on; errors of the kind are in strace's gift, so this is
// the loop alone.
func TestRetry(t *testing.T) {
	n := 0
	err := retry(func() error {
		if n++; n < 3 {
			return syscall.EINTR
		}
		return unix.EIO
	})
	if n != 3 || err != unix.EIO {
		t.Error(n, err)
	}
}

// A durable write past the page cache is seen by every way of reading, though the pages were
// in the cache and mapped; what is not aligned, or refused, goes through the cache.
func TestDirectWrites(t *testing.T) {
	for name, dir := range map[string]func(t *testing.T) *osDir{
		"here":  func(t *testing.T) *osDir { return openDir(t, t.TempDir()) },
		"tmpfs": func(t *testing.T) *osDir { return mount(t, "tmpfs", "none", "size=4m") },
		"ext4":  func(t *testing.T) *osDir { return mountImage(t, "ext4", 8<<20) },
		"xfs":   func(t *testing.T) *osDir { return mountImage(t, "xfs", 320<<20) },
	} {
		t.Run(name, func(t *testing.T) {
			d := dir(t)
			f, err := d.Create("a")
			ok(t, err)
			defer f.Close()
			const size = 256 << 10
			ok(t, f.Allocate(size))
			want := bytes.Repeat([]byte{1}, size)
			_, err = f.WriteAt(want, 0)
			ok(t, err)
			ok(t, f.Sync())
			m, err := f.Map(size)
			ok(t, err)
			defer m.Close()
			seen := func(when string) {
				t.Helper()
				got := make([]byte, size)
				if _, err := f.ReadAt(got, 0); err != nil || !bytes.Equal(got, want) {
					t.Errorf("%s: a read does not see what was written (%v)", when, err)
				}
				ok(t, m.Populate(0, size))
				if !bytes.Equal(m.Bytes(), want) {
					t.Errorf("%s: the mapping does not show what was written", when)
				}
				if _, err := f.ReadUncached(got, 0); err != nil || !bytes.Equal(got, want) {
					t.Errorf("%s: the device does not have what was written (%v)", when, err)
				}
			}
			seen("at first")
			buf := alignedBuffer(32 << 10)
			for i := range 6 {
				b := buf[:8<<10+i*4096]
				for j := range b {
					b[j] = byte(i + 2)
				}
				at := i * 40 << 10
				copy(want[at:], b)
				if i == 4 {
					f.(*osFile).direct.refused = true
				}
				ok(t, f.WriteDurable(int64(at), b[:512], b[512:])) // as a frame's table and bodies
				seen(fmt.Sprint("write ", i))
			}
			copy(want[100:], "not aligned")
			ok(t, f.WriteDurable(100, []byte("not aligned")))
			seen("not aligned")
			direct := len(f.(*osFile).direct.idle) > 0
			t.Logf("past the page cache: %v", direct)
			if (name == "ext4" || name == "xfs") && !direct {
				t.Error("nothing was written past the page cache")
			}
			ok(t, f.Close())
			if err := f.WriteDurable(0, buf); !errors.Is(err, fs.ErrClosed) {
				t.Errorf("after Close: %v", err)
			}
		})
	}
}
