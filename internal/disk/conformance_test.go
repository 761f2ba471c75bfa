package disk_test

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"math"
	"path/filepath"
	"strings"
	"sync"
	"testing"

	"github.com/mtawal/mtawal/internal/disk"
	"github.com/mtawal/mtawal/internal/disk/faultdisk"
	"github.com/mtawal/mtawal/internal/disk/memdisk"
)

// everywhere runs a check over each implementation, in a directory of its own.
func everywhere(t *testing.T, check func(t *testing.T, e env)) {
	t.Helper()
	t.Run("os", func(t *testing.T) { check(t, newEnv(t, disk.OS(), t.TempDir())) })
	t.Run("mem", func(t *testing.T) { check(t, newEnv(t, memdisk.New(memdisk.Config{}), "/")) })
	t.Run("fault", func(t *testing.T) {
		check(t, newEnv(t, faultdisk.New(memdisk.New(memdisk.Config{})), "/"))
	})
}

type env struct {
	*testing.T
	fs   disk.FS
	path string
	dir  disk.Dir
}

func newEnv(t *testing.T, fsys disk.FS, base string) env {
	e := env{T: t, fs: fsys, path: filepath.Join(base, "store")}
	d, err := fsys.OpenDir(e.path, true)
	e.ok(err)
	e.dir = d
	t.Cleanup(func() { e.ok(d.Close()) })
	return e
}

func (e env) ok(err error) {
	e.Helper()
	if err != nil {
		e.Fatal(err)
	}
}

// is checks an error, and that it says which file it is about.
func (e env) is(err, want error, name string) {
	e.Helper()
	if !errors.Is(err, want) {
		e.Errorf("%v; want %v", err, want)
	} else if !strings.Contains(err.Error(), name) {
		e.Errorf("%q does not name %q", err, name)
	}
}

func (e env) create(name, content string) disk.File {
	e.Helper()
	f, err := e.dir.Create(name)
	e.ok(err)
	_, err = f.WriteAt([]byte(content), 0)
	e.ok(err)
	e.Cleanup(func() { _ = f.Close() })
	return f
}

func (e env) content(f disk.File) string {
	e.Helper()
	size, err := f.Size()
	e.ok(err)
	b := make([]byte, size)
	n, err := f.ReadAt(b, 0)
	if int64(n) != size || err != nil && err != io.EOF {
		e.Fatalf("read %d of %d: %v", n, size, err)
	}
	return string(b)
}

func (e env) names() string {
	e.Helper()
	infos, err := e.dir.List()
	e.ok(err)
	var s []string
	for _, i := range infos {
		s = append(s, fmt.Sprintf("%s:%d:%v", i.Name, i.Size, i.Regular))
	}
	return strings.Join(s, " ")
}

func TestOpenDir(t *testing.T) {
	everywhere(t, func(t *testing.T, e env) {
		deep := filepath.Join(e.path, "x", "y")
		_, err := e.fs.OpenDir(deep, false)
		e.is(err, fs.ErrNotExist, "y")
		for range 2 {
			d, err := e.fs.OpenDir(deep, true)
			e.ok(err)
			if d.Path() != deep {
				t.Error(d.Path())
			}
			e.ok(d.Close())
			_, err = d.List()
			e.is(err, fs.ErrClosed, deep)
		}
		d, err := e.fs.OpenDir(filepath.Join(e.path, "x"), false)
		e.ok(err)
		e.ok(d.Close())
		_, err = e.dir.Open("x", false)
		e.is(err, disk.ErrUnsafe, "x")
		_, err = e.dir.Create("x")
		e.is(err, fs.ErrExist, "x")
	})
}

func TestHolds(t *testing.T) {
	everywhere(t, func(t *testing.T, e env) {
		inner, err := e.fs.OpenDir(filepath.Join(e.path, "x", "y"), true)
		e.ok(err)
		defer inner.Close()
		for path, want := range map[string]bool{
			e.path: false, filepath.Dir(e.path): false, filepath.Join(e.path, ".."): false, e.path + "-more": false, filepath.Join(e.path, "..", "z", "w"): false, "/": false,
			filepath.Join(e.path, "x"): true, filepath.Join(e.path, "x", "y"): true, filepath.Join(e.path, "new"): true, filepath.Join(e.path, "x", "new", "deep"): true,
			e.path + "/./x/../x": true,
		} {
			got, err := e.dir.Holds(path)
			e.ok(err)
			if got != want {
				t.Errorf("%s holds %s: %v", e.path, path, got)
			}
		}
		got, err := inner.Holds(filepath.Join(e.path, "x", "z"))
		e.ok(err)
		if got {
			t.Error("a directory holds the one beside it")
		}
	})
}

func TestHostileNames(t *testing.T) {
	everywhere(t, func(t *testing.T, e env) {
		e.create("a", "")
		for _, name := range []string{
			"", ".", "..", "/", "a/b", "../a", "/etc/passwd", "a\x00b", `a\b`, "a:b", strings.Repeat("n", 256),
		} {
			_, err := e.dir.Create(name)
			e.is(err, fs.ErrInvalid, "")
			_, err = e.dir.Open(name, true)
			e.is(err, fs.ErrInvalid, "")
			_, err = e.dir.Lock(name)
			e.is(err, fs.ErrInvalid, "")
			e.is(e.dir.Remove(name), fs.ErrInvalid, "")
			e.is(e.dir.Rename("a", name), fs.ErrInvalid, "")
			e.is(e.dir.Rename(name, "a"), fs.ErrInvalid, "")
		}
		for _, name := range []string{"-rf", strings.Repeat("n", 255)} {
			e.create(name, "")
			e.ok(e.dir.Remove(name))
		}
		if got := e.names(); got != "a:0:true" {
			t.Error(got)
		}
	})
}

func TestNames(t *testing.T) {
	everywhere(t, func(t *testing.T, e env) {
		b := e.create("b", "bee")
		e.create("a", "ay")
		e.create("c", "")
		_, err := e.dir.Create("a")
		e.is(err, fs.ErrExist, "a")
		if got := e.names(); got != "a:2:true b:3:true c:0:true" {
			t.Error(got)
		}
		e.ok(e.dir.Rename("a", "b"))
		e.ok(e.dir.Rename("c", "d"))
		e.ok(e.dir.Sync())
		if got := e.names(); got != "b:2:true d:0:true" {
			t.Error(got)
		}
		if got := e.content(b); got != "bee" {
			t.Errorf("the replaced file has %q", got)
		}
		f, err := e.dir.Open("b", false)
		e.ok(err)
		if got := e.content(f); got != "ay" || f.Name() != "b" {
			t.Errorf("%q %q", f.Name(), got)
		}
		e.ok(e.dir.Remove("b"))
		if got := e.content(f); got != "ay" {
			t.Errorf("the removed file has %q", got)
		}
		e.ok(f.Close())
		_, err = e.dir.Open("b", false)
		e.is(err, fs.ErrNotExist, "b")
		e.is(e.dir.Remove("b"), fs.ErrNotExist, "b")
		e.is(e.dir.Rename("b", "e"), fs.ErrNotExist, "b")
	})
}

func TestReadAndWrite(t *testing.T) {
	everywhere(t, func(t *testing.T, e env) {
		f := e.create("a", "0123456789")
		b := make([]byte, 4)
		for _, read := range []func([]byte, int64) (int, error){f.ReadAt, f.ReadUncached} {
			for _, c := range []struct {
				off  int64
				want string
				err  error
			}{{0, "0123", nil}, {6, "6789", nil}, {8, "89", io.EOF}, {10, "", io.EOF}, {99999, "", io.EOF}} {
				n, err := read(b, c.off)
				if err != c.err || string(b[:n]) != c.want {
					t.Errorf("at %d: %q, %v", c.off, b[:n], err)
				}
			}
			if n, err := read(b, -1); err == nil || n != 0 {
				t.Error("read at -1:", n, err)
			}
		}
		if _, err := f.WriteAt(b, -1); err == nil {
			t.Error("wrote at -1")
		}
		if err := f.WriteDurable(-1, b); err == nil {
			t.Error("wrote durably at -1")
		}
		// A hole reads as zeros.
		_, err := f.WriteAt([]byte("x"), 12)
		e.ok(err)
		e.ok(f.WriteDurable(4, []byte("AB"), nil, []byte("C")))
		e.ok(f.WriteDurable(0))
		e.ok(f.Sync())
		if got := e.content(f); got != "0123ABC789\x00\x00x" {
			t.Errorf("%q", got)
		}
		e.ok(f.Truncate(5))
		e.ok(f.Truncate(7))
		if got := e.content(f); got != "0123A\x00\x00" {
			t.Errorf("%q", got)
		}
		r, err := e.dir.Open("a", false)
		e.ok(err)
		if _, err := r.WriteAt(b, 0); err == nil {
			t.Error("wrote through a read-only handle")
		}
		if err := r.WriteDurable(0, b); err == nil {
			t.Error("wrote durably through a read-only handle")
		}
		if _, err := r.MapWritable(1); err == nil {
			t.Error("mapped writable through a read-only handle")
		}
		if own, err := r.Exclusive(); err != nil || !own {
			t.Error(own, err)
		}
		e.ok(r.Close())
		for name, err := range map[string]error{
			"Close": r.Close(), "Sync": r.Sync(), "Truncate": r.Truncate(1), "Allocate": r.Allocate(1), "WriteDurable": r.WriteDurable(0, b),
			"Size": second(r.Size()), "Map": second(r.Map(1)), "Exclusive": second(r.Exclusive()), "ReadUncached": second(r.ReadUncached(b, 0)),
			"ReadAt": second(r.ReadAt(b, 0)), "WriteAt": second(r.WriteAt(b, 0)),
		} {
			if !errors.Is(err, fs.ErrClosed) {
				t.Errorf("%s of a closed file: %v", name, err)
			}
		}
	})
}

func second[T any](_ T, err error) error { return err }

func TestManyBuffers(t *testing.T) {
	everywhere(t, func(t *testing.T, e env) {
		f := e.create("a", "")
		var bufs [][]byte
		var want []byte
		for i := range 3000 {
			b := bytes.Repeat([]byte{byte(i)}, i%7)
			bufs = append(bufs, b)
			want = append(want, b...)
		}
		e.ok(f.WriteDurable(100, bufs...))
		if got := e.content(f); got[100:] != string(want) {
			t.Error("the buffers are not one behind the other")
		}
		for i, b := range bufs {
			if len(b) != i%7 {
				t.Fatal("the caller's buffers were changed")
			}
		}
		got := make([]byte, 5000)
		_, err := f.ReadUncached(got, 123) // neither aligned nor in one page
		e.ok(err)
		if !bytes.Equal(got, want[23:5023]) {
			t.Error("the uncached bytes are others")
		}
	})
}

func TestAllocate(t *testing.T) {
	everywhere(t, func(t *testing.T, e env) {
		f := e.create("a", "abc")
		e.ok(f.Allocate(1 << 16))
		e.ok(f.Allocate(1 << 12)) // never shorter
		if got := e.content(f); got != "abc"+strings.Repeat("\x00", 1<<16-3) {
			t.Errorf("%d bytes", len(got))
		}
		for _, size := range []int64{-1, math.MaxInt64} {
			if err := f.Allocate(size); err == nil {
				t.Errorf("allocated %d", size)
			}
		}
		if size, err := f.Size(); err != nil || size != 1<<16 {
			t.Error("a failed Allocate left", size, err)
		}
		if e.fs == disk.OS() {
			return // it takes all room that the machine has for a moment: TestFull does so on a file system of its own
		}
		s, err := e.dir.Space()
		e.ok(err)
		if err := f.Allocate(s.Total + 1<<40); err == nil {
			t.Error("allocated more than there is")
		}
	})
}

// Blocks behind the end of a file are told, and go with Truncate.
func TestReserve(t *testing.T) {
	everywhere(t, func(t *testing.T, e env) {
		f := e.create("a", "abc")
		blocks := func() int64 {
			e.ok(f.Sync())
			list, err := e.dir.List()
			e.ok(err)
			if len(list) != 1 || list[0].Size != 3 {
				t.Errorf("%+v", list)
			}
			return list[0].Blocks
		}
		err := f.Reserve(1 << 16)
		if errors.Is(err, errors.ErrUnsupported) {
			t.Skip(err)
		}
		e.ok(err)
		if n := blocks(); n < 1<<16 {
			t.Errorf("%d bytes of the disk after %d were reserved", n, 1<<16)
		}
		e.ok(f.Truncate(3))
		if n := blocks(); n >= 1<<16 {
			t.Errorf("%d bytes of the disk after they were given back", n)
		}
	})
}

func TestMap(t *testing.T) {
	everywhere(t, func(t *testing.T, e env) {
		f := e.create("a", "")
		e.ok(f.Allocate(1 << 16))
		for _, n := range []int64{-1, 0, 1<<16 + 1, math.MaxInt64} {
			if _, err := f.Map(n); err == nil {
				t.Errorf("mapped %d", n)
			}
			if _, err := f.MapWritable(n); err == nil {
				t.Errorf("mapped %d writable", n)
			}
		}
		m, err := f.Map(1<<16 - 5)
		e.ok(err)
		e.ok(f.WriteDurable(5000, []byte("hello")))
		if len(m.Bytes()) != 1<<16-5 || string(m.Bytes()[5000:5005]) != "hello" {
			t.Error("a durable write is not seen in the mapping")
		}
		w, err := f.MapWritable(8192)
		e.ok(err)
		copy(w.Bytes()[5000:], "there")
		b := make([]byte, 5)
		_, err = f.ReadAt(b, 5000)
		e.ok(err)
		if string(b) != "there" || string(m.Bytes()[5000:5005]) != "there" {
			t.Errorf("a store into the mapping is not seen: %q", b)
		}
		for _, c := range [][2]int64{{0, 1<<16 - 5}, {5000, 1}, {1<<16 - 6, 1}, {1<<16 - 5, 0}, {4096, 4096}} {
			e.ok(m.Populate(c[0], c[1]))
			e.ok(m.Warm(c[0], c[1]))
			e.ok(m.Warm(c[0], c[1]))
		}
		for _, c := range [][2]int64{{-1, 1}, {0, 1 << 16}, {1, -1}, {1 << 16, 0}, {1, math.MaxInt64}} {
			if err := m.Populate(c[0], c[1]); err == nil {
				t.Error("populated", c)
			}
			if err := m.Warm(c[0], c[1]); err == nil {
				t.Error("warmed", c)
			}
		}
		e.ok(f.Close())
		e.ok(e.dir.Remove("a"))
		e.ok(m.Populate(4096, 4096))
		if string(m.Bytes()[5000:5005]) != "there" {
			t.Error("the mapping went with the file")
		}
		for range 2 {
			e.ok(m.Close())
			e.ok(w.Close())
		}
		if err := errors.Join(m.Populate(0, 1), m.Warm(0, 1)); err == nil || m.Warm(5000, 1) == nil {
			t.Error("populated what is unmapped")
		}
	})
}

func TestTruncatedUnderAMapping(t *testing.T) {
	everywhere(t, func(t *testing.T, e env) {
		f := e.create("a", strings.Repeat("x", 1<<16))
		m, err := f.Map(1 << 16)
		e.ok(err)
		e.ok(f.Truncate(4096))
		e.ok(m.Populate(0, 4096))
		e.is(m.Populate(0, 1<<16), disk.ErrFault, "a")
		e.ok(m.Close())
	})
}

func TestLock(t *testing.T) {
	everywhere(t, func(t *testing.T, e env) {
		for range 2 {
			l, err := e.dir.Lock("LOCK")
			e.ok(err)
			again, err := e.fs.OpenDir(e.path, true)
			e.ok(err)
			_, err = again.Lock("LOCK")
			e.is(err, disk.ErrLocked, "LOCK")
			var le *disk.LockedError
			if !errors.As(err, &le) || le.PID <= 0 {
				t.Errorf("%v does not say who", err)
			}
			e.ok(again.Close())
			e.ok(l.Close())
		}
		if got := e.names(); !strings.HasPrefix(got, "LOCK:") {
			t.Error("the lock file is gone:", got)
		}
	})
}

func TestProperties(t *testing.T) {
	everywhere(t, func(t *testing.T, e env) {
		again, err := e.fs.OpenDir(e.path, false)
		e.ok(err)
		a, err := e.dir.Identity()
		e.ok(err)
		b, err := again.Identity()
		e.ok(err)
		e.ok(again.Close())
		if a != b || a.Boot == [16]byte{} {
			t.Error(a, b)
		}
		s, err := e.dir.Space()
		e.ok(err)
		if s.Free < 0 || s.Total <= 0 || s.Free > s.Total {
			t.Error(s)
		}
		if n := e.dir.Block(); n < disk.Alignment || n&(n-1) != 0 {
			t.Error(n)
		}
	})
}

// The engine appends to a file while readers look at what is before, through a
// mapping and without.
func TestReadersBesideAWriter(t *testing.T) {
	everywhere(t, func(t *testing.T, e env) {
		const chunks = 64
		f := e.create("a", "")
		e.ok(f.Allocate(chunks * 4096))
		m, err := f.Map(chunks * 4096)
		e.ok(err)
		written := make(chan int, chunks)
		var wg sync.WaitGroup
		for range 2 {
			wg.Go(func() {
				b := make([]byte, 4096)
				for i := range written {
					_, err := f.ReadAt(b, int64(i)*4096)
					if want := bytes.Repeat([]byte{byte(i + 1)}, 4096); err != nil ||
						!bytes.Equal(b, want) || !bytes.Equal(m.Bytes()[i*4096:(i+1)*4096], want) {
						t.Errorf("chunk %d: %v", i, err)
					}
				}
			})
		}
		for i := range chunks {
			if err := f.WriteDurable(int64(i)*4096, bytes.Repeat([]byte{byte(i + 1)}, 4096)); err != nil {
				t.Error(err)
			}
			written <- i
		}
		close(written)
		wg.Wait()
		e.ok(m.Close())
	})
}
