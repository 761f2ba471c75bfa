package faultdisk_test

import (
	"bytes"
	"errors"
	"io"
	"math/rand/v2"
	"strings"
	"sync"
	"syscall"
	"testing"

	"github.com/mtawal/mtawal/internal/disk"
	"github.com/mtawal/mtawal/internal/disk/faultdisk"
	"github.com/mtawal/mtawal/internal/disk/memdisk"
)

// tour does every operation once, in a fixed order, and stops at the first error.
func tour(fsys disk.FS) (err error) {
	var closers []io.Closer
	defer func() {
		for _, c := range closers {
			_ = c.Close()
		}
	}()
	d, err := fsys.OpenDir("/q", true)
	if err != nil {
		return err
	}
	l, err := d.Lock("lock")
	if err != nil {
		return err
	}
	closers = append(closers, l)
	f, err := d.Create("a")
	if err != nil {
		return err
	}
	b := make([]byte, 16)
	var m, w disk.Mapping
	for _, step := range []func() error{
		func() error { return f.Allocate(8192) },
		func() error { return f.Truncate(4096) },
		func() error { return f.Sync() },
		func() error { return d.Rename("a", "b") },
		func() error { return d.Sync() },
		func() error { _, err := f.WriteAt([]byte("loose"), 0); return err },
		func() error { return f.WriteDurable(512, []byte("durable"), []byte("ly")) },
		func() error { _, err := f.ReadAt(b, 0); return err },
		func() error { _, err := f.ReadUncached(b, 0); return err },
		func() error { _, err := f.Size(); return err },
		func() error { _, err := f.Exclusive(); return err },
		func() error { m, err = f.Map(4096); return err },
		func() error { return m.Populate(0, 4096) },
		func() error { w, err = f.MapWritable(4096); return err },
		func() error { _, err := d.List(); return err },
		func() error { _, err := d.Space(); return err },
		func() error { _, err := d.Identity(); return err },
		func() error { g, err := d.Open("b", false); closers = append(closers, closer{g}); return err },
		func() error { return d.Remove("b") },
	} {
		if err := step(); err != nil {
			return err
		}
	}
	return errors.Join(m.Close(), w.Close(), f.Close(), d.Close())
}

type closer struct{ disk.File }

func (c closer) Close() error {
	if c.File == nil {
		return nil
	}
	return c.File.Close()
}

const tourOps = 22 // the kinds of operations but OpFlush, which only memdisk has

func TestEveryOperationFailsInTurn(t *testing.T) {
	d := faultdisk.New(memdisk.New(memdisk.Config{}))
	if err := tour(d); err != nil {
		t.Fatal(err)
	}
	if d.Ops() != tourOps || d.Failed() != 0 {
		t.Fatalf("%d operations, %d failed:\n%s", d.Ops(), d.Failed(), d.Trace())
	}
	for _, forever := range []bool{false, true} {
		for _, after := range []bool{false, true} {
			for n := 1; n <= tourOps; n++ {
				d := faultdisk.New(memdisk.New(memdisk.Config{}))
				d.Set(faultdisk.Plan{N: n, Forever: forever, After: after, Err: syscall.EROFS})
				if err := tour(d); !errors.Is(err, syscall.EROFS) || d.Failed() != 1 {
					t.Errorf("operation %d, forever %v, after %v: %v, %d failed\n%s", n, forever, after, err, d.Failed(), d.Trace())
				}
				if !strings.Contains(d.Trace(), "made to fail") {
					t.Errorf("the trace hides it:\n%s", d.Trace())
				}
			}
		}
	}
}

func TestErrorsAreThoseOfPackageDisk(t *testing.T) {
	for err, want := range map[error]error{syscall.ENOSPC: disk.ErrNoSpace, syscall.EDQUOT: disk.ErrNoSpace, nil: syscall.EIO} {
		d := faultdisk.New(memdisk.New(memdisk.Config{}))
		d.Set(faultdisk.Plan{N: 1, Err: err, Only: []disk.Op{disk.OpAllocate}})
		if got := tour(d); !errors.Is(got, want) || err != nil && !errors.Is(got, err) {
			t.Errorf("%v: %v", err, got)
		}
	}
	d := faultdisk.New(memdisk.New(memdisk.Config{}))
	d.Set(faultdisk.Plan{N: 1, Only: []disk.Op{disk.OpPopulate}})
	if err := tour(d); !errors.Is(err, disk.ErrFault) {
		t.Error(err)
	}
}

func TestPlanCoversKindsAndNames(t *testing.T) {
	d := faultdisk.New(memdisk.New(memdisk.Config{}))
	d.Set(faultdisk.Plan{N: 1, Name: "nothing"})
	if err := tour(d); err != nil || d.Ops() != 0 {
		t.Error(err, d.Ops())
	}
	d = faultdisk.New(memdisk.New(memdisk.Config{}))
	d.Set(faultdisk.Plan{N: 2, Only: []disk.Op{disk.OpWriteAt}})
	if err := tour(d); err != nil || d.Ops() != 1 {
		t.Error(err, d.Ops())
	}
}

// open gives a durable file of 4096 zeros.
func open(t *testing.T, m *memdisk.FS) (*faultdisk.FS, disk.Dir, disk.File) {
	t.Helper()
	d := faultdisk.New(m)
	dir, err := d.OpenDir("/q", true)
	if err != nil {
		t.Fatal(err)
	}
	f, err := dir.Create("a")
	if err != nil {
		t.Fatal(err)
	}
	if err := errors.Join(f.Allocate(4096), f.Sync(), dir.Sync()); err != nil {
		t.Fatal(err)
	}
	return d, dir, f
}

func TestLie(t *testing.T) {
	for name, sync := range map[string]func(disk.Dir, disk.File) error{
		"WriteDurable": func(_ disk.Dir, f disk.File) error { return f.WriteDurable(0, []byte("bytes")) },
		"Sync": func(_ disk.Dir, f disk.File) error {
			if _, err := f.WriteAt([]byte("bytes"), 0); err != nil {
				return err
			}
			return f.Sync()
		},
	} {
		m := memdisk.New(memdisk.Config{})
		d, dir, f := open(t, m)
		d.Set(faultdisk.Plan{N: 1, Lie: true})
		if err := sync(dir, f); err != nil || d.Failed() != 1 {
			t.Fatal(name, err, d.Trace())
		}
		b := make([]byte, 5)
		if _, err := f.ReadAt(b, 0); err != nil || string(b) != "bytes" {
			t.Errorf("%s: the cache has %q, %v", name, b, err)
		}
		if dev, err := m.Device("/q/a"); err != nil || !bytes.Equal(dev[:5], make([]byte, 5)) {
			t.Errorf("%s: the device has %q, %v", name, dev[:5], err)
		}
	}
	m := memdisk.New(memdisk.Config{})
	d, dir, _ := open(t, m)
	d.Set(faultdisk.Plan{N: 1, Lie: true, Only: []disk.Op{disk.OpDirSync}})
	if err := errors.Join(dir.Rename("a", "b"), dir.Sync()); err != nil {
		t.Fatal(err)
	}
	m.PowerCutWith(func(int) int { return 0 })
	if _, err := m.Device("/q/a"); err != nil {
		t.Error("the lie made the rename durable:", err)
	}
}

func TestShortWrite(t *testing.T) {
	m := memdisk.New(memdisk.Config{})
	d, _, f := open(t, m)
	d.Set(faultdisk.Plan{N: 1, Forever: true, ShortWrite: true, Err: syscall.ENOSPC})
	if n, err := f.WriteAt([]byte("abcdef"), 0); n != 3 || !errors.Is(err, disk.ErrNoSpace) {
		t.Error(n, err)
	}
	if err := f.WriteDurable(100, []byte("ab"), []byte("cdef")); !errors.Is(err, disk.ErrNoSpace) {
		t.Error(err)
	}
	b := make([]byte, 106)
	if _, err := f.ReadAt(b, 0); err != nil {
		t.Fatal(err)
	}
	if string(b[:6]) != "abc\x00\x00\x00" || string(b[100:]) != "abc\x00\x00\x00" {
		t.Errorf("%q %q", b[:6], b[100:])
	}
}

func TestStall(t *testing.T) {
	m := memdisk.New(memdisk.Config{})
	d, _, f := open(t, m)
	reached, release := d.Stall(disk.OpWriteDurable, "a")
	var wg sync.WaitGroup
	errs := make([]error, 2)
	for i := range errs {
		wg.Go(func() { errs[i] = f.WriteDurable(int64(i), []byte{'x'}) })
	}
	<-reached
	b := make([]byte, 2)
	if _, err := f.ReadAt(b, 0); err != nil || !bytes.Equal(b, []byte{0, 0}) {
		t.Errorf("%q, %v: written while it stalls, or reads stall too", b, err)
	}
	release()
	release()
	wg.Wait()
	if _, err := f.ReadAt(b, 0); errors.Join(errs...) != nil || err != nil || string(b) != "xx" {
		t.Errorf("%q, %v", b, errors.Join(errs...))
	}
	if err := f.WriteDurable(0, []byte{'y'}); err != nil {
		t.Error("stalls after its release:", err)
	}
}

func TestOnOpSeesKindsAndNames(t *testing.T) {
	d := faultdisk.New(memdisk.New(memdisk.Config{}))
	seen := map[disk.Op]string{}
	d.OnOp(func(op disk.Op, name string) { seen[op] = name })
	if err := tour(d); err != nil {
		t.Fatal(err)
	}
	if len(seen) != tourOps || seen[disk.OpRename] != "a" || seen[disk.OpRemove] != "b" || seen[disk.OpOpenDir] != "/q" {
		t.Error(seen)
	}
}

// A crash while an operation hangs: the late half changes nothing.
func TestStalledWriteOfADeadProcess(t *testing.T) {
	m := memdisk.New(memdisk.Config{})
	d, _, f := open(t, m)
	reached, release := d.Stall(0, "a")
	done := make(chan error)
	go func() { done <- f.WriteDurable(0, []byte("late")) }()
	<-reached
	m.PowerCut(rand.New(rand.NewPCG(1, 1)))
	release()
	if err := <-done; err == nil {
		t.Error("a dead process wrote")
	}
	if dev, err := m.Device("/q/a"); err != nil || !bytes.Equal(dev, make([]byte, 4096)) {
		t.Error("bytes of a dead process on the device", err)
	}
}
