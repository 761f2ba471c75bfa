package memdisk_test

import (
	"errors"
	"io/fs"
	"syscall"
	"testing"

	"github.com/mtawal/mtawal/internal/disk"
	"github.com/mtawal/mtawal/internal/disk/memdisk"
)

func TestFailedSync(t *testing.T) {
	for fault, c := range map[memdisk.SyncFault]struct {
		err    error
		leaves string
	}{
		memdisk.SyncOK:      {nil, "a=ba"},
		memdisk.SyncLost:    {syscall.EIO, "a=aa"},
		memdisk.SyncWritten: {syscall.EIO, "a=ba"},
		memdisk.SyncLies:    {nil, "a=aa"},
	} {
		for name, sync := range map[string]func(*rig, disk.File) error{
			"Sync":         func(r *rig, f disk.File) error { r.write(f, 0, sectors("b")); return f.Sync() },
			"WriteDurable": func(_ *rig, f disk.File) error { return f.WriteDurable(0, []byte(sectors("b"))) },
		} {
			r := newRig(t, memdisk.Config{})
			f := r.durable("a", sectors("aa"))
			r.ok(r.FailSync("/q/a", fault))
			if err := sync(r, f); !errors.Is(err, c.err) {
				t.Errorf("%s, fault %d: %v", name, fault, err)
			}
			r.ok(f.Sync()) // nothing is left to do, it says
			if got := r.show(); got != "a=ba" {
				t.Errorf("%s, fault %d: the cache has %s", name, fault, got)
			}
			b := make([]byte, 2*sector)
			if _, err := f.ReadUncached(b, 0); err != nil || b[0] != c.leaves[2] {
				t.Errorf("%s, fault %d: uncached %q, %v", name, fault, b[0], err)
			}
			r.leaves(c.leaves)
			m := r.Clone()
			m.Kill() // the cache still has it
			if got := on(t, m).show(); got != "a=ba" {
				t.Errorf("%s, fault %d: after a kill %s", name, fault, got)
			}
			m.Remount() // now it has not
			if got := on(t, m).show(); got != c.leaves {
				t.Errorf("%s, fault %d: after a remount %s", name, fault, got)
			}
			r.write(f, 0, "b") // dirty again, and written then
			r.ok(f.Sync())
			r.leaves("a=ba")
		}
	}
}

func TestStoreAfterAFailedSyncWasMadeGood(t *testing.T) {
	r := newRig(t, memdisk.Config{})
	f := r.durable("a", sectors("a"))
	r.ok(r.FailSync("/q/a", memdisk.SyncLost))
	if err := f.WriteDurable(0, []byte(sectors("b"))); !errors.Is(err, syscall.EIO) {
		t.Error(err)
	}
	r.write(f, 0, sectors("c"))
	r.ok(f.Sync())
	m, err := f.MapWritable(sector)
	r.ok(err)
	copy(m.Bytes(), sectors("m"))
	r.leaves("a=c", "a=m")
	r.ok(m.Close())
	r.leaves("a=c", "a=m")
	r.ok(f.Sync())
	r.leaves("a=m")
}

func TestStoreBeforeUnmapping(t *testing.T) {
	r := newRig(t, memdisk.Config{})
	f := r.durable("a", sectors("a"))
	m, err := f.MapWritable(sector)
	r.ok(err)
	copy(m.Bytes(), sectors("m"))
	r.ok(m.Close())
	r.leaves("a=a", "a=m")
}

func TestSyncOfAMappedFile(t *testing.T) {
	r := newRig(t, memdisk.Config{})
	f := r.durable("a", sectors("a"))
	m, err := f.MapWritable(sector)
	r.ok(err)
	copy(m.Bytes(), sectors("m"))
	r.ok(f.Sync())
	r.leaves("a=m")
}

func TestFailedSyncIsForgottenByAPowerCut(t *testing.T) {
	r := newRig(t, memdisk.Config{})
	f := r.durable("a", sectors("a"))
	r.ok(r.FailSync("/q/a", memdisk.SyncLies))
	r.ok(f.WriteDurable(0, []byte(sectors("b"))))
	r.PowerCutWith(func(int) int { return 0 })
	r = on(t, r.FS)
	f, err := r.dir.Open("a", true)
	r.ok(err)
	m, err := f.MapWritable(sector)
	r.ok(err)
	copy(m.Bytes(), sectors("m"))
	r.leaves("a=a", "a=m")
}

func TestFailedSyncLosesTheLength(t *testing.T) {
	r := newRig(t, memdisk.Config{})
	f := r.durable("a", sectors("a"))
	r.write(f, sector, sectors("b"))
	r.ok(r.FailSync("/q/a", memdisk.SyncLost))
	if err := f.Sync(); !errors.Is(err, syscall.EIO) {
		t.Error(err)
	}
	r.ok(f.Sync())
	r.leaves("a=a")
}

func TestMappedFileCannotGrow(t *testing.T) {
	r := newRig(t, memdisk.Config{})
	f := r.durable("a", sectors("a"))
	m, err := f.Map(sector)
	r.ok(err)
	if err := f.Allocate(1 << 20); err == nil {
		t.Error("the mapping does not show the file any more")
	}
	r.ok(m.Close())
	r.ok(f.Allocate(1 << 20))
	m, err = f.Map(sector)
	r.ok(err)
	r.write(f, 1<<20-1, "x")
	r.ok(m.Close())
}

func TestCapacity(t *testing.T) {
	r := newRig(t, memdisk.Config{Capacity: 10 * page})
	free := func(want int64) {
		t.Helper()
		s, err := r.dir.Space()
		r.ok(err)
		if s.Free != want*page {
			t.Errorf("%d pages free, not %d", s.Free/page, want)
		}
	}
	f := r.create("a")
	r.ok(f.Allocate(6 * page))
	free(4)
	g := r.create("b")
	if err := g.Allocate(5 * page); !errors.Is(err, disk.ErrNoSpace) || !errors.Is(err, syscall.ENOSPC) {
		t.Error(err)
	}
	free(4)
	n, err := g.WriteAt(make([]byte, 5*page), 0)
	if n != 4*page || !errors.Is(err, disk.ErrNoSpace) {
		t.Error(n, err)
	}
	free(0)
	r.ok(f.WriteDurable(0, make([]byte, 6*page))) // into what it has
	if err := g.WriteDurable(4*page, []byte("x")); !errors.Is(err, disk.ErrNoSpace) {
		t.Error(err)
	}
	r.ok(g.Truncate(page))
	free(3)
	r.ok(r.dir.Remove("a"))
	free(3) // it is still open
	r.ok(f.Close())
	free(9)
	r.SetCapacity(page)
	free(0)
	r.SetCapacity(10 * page)
	r.ok(r.dir.Remove("b"))
	free(9) // open, until the process dies
	r.Kill()
	r = on(t, r.FS)
	free(10)
}

func TestCopyOnWriteNeedsRoom(t *testing.T) {
	r := newRig(t, memdisk.Config{Capacity: 4 * page, CopyOnWrite: true})
	f := r.create("a")
	r.ok(f.Allocate(4 * page))
	if err := f.WriteDurable(0, []byte("x")); !errors.Is(err, disk.ErrNoSpace) {
		t.Error(err)
	}
	r.SetCapacity(5 * page)
	r.ok(f.WriteDurable(0, []byte("x")))
}

func TestWhatOthersLeave(t *testing.T) {
	r := newRig(t, memdisk.Config{})
	r.ok(r.Put("/q/put", []byte(sectors("pppppppp")+sectors("q"))))
	r.ok(r.PutSpecial("/q/link", "a symbolic link"))
	r.ok(r.Put("/q/two", nil))
	r.ok(r.Link("/q/two", "/q/second"))
	for _, name := range []string{"link", "two", "second"} {
		if _, err := r.dir.Open(name, true); !errors.Is(err, disk.ErrUnsafe) {
			t.Errorf("%s: %v", name, err)
		}
	}
	for _, name := range []string{"link", "two"} {
		r.ok(r.dir.Remove(name))
	}
	r.ok(r.dir.Remove("second"))
	r.ok(r.dir.Sync())
	r.leaves("put=ppppppppq")
	f, err := r.dir.Open("put", true)
	r.ok(err)
	r.ok(r.Damage("/q/put", page-1, []byte("XY")))
	b := make([]byte, 2)
	if _, err := f.ReadAt(b, page-1); err != nil || string(b) != "XY" {
		t.Errorf("%q %v", b, err)
	}
	r.leaves("put=ppppppp??")
	if own, err := f.Exclusive(); err != nil || !own {
		t.Error(own, err)
	}
	r.ok(r.Share("/q/put"))
	if own, err := f.Exclusive(); err != nil || own {
		t.Error(own, err)
	}
	m, err := f.Map(page + 1)
	r.ok(err)
	r.ok(r.Unreadable("/q/put", page, 1))
	r.ok(m.Populate(0, page))
	if err := m.Populate(0, page+1); !errors.Is(err, disk.ErrFault) || !errors.Is(err, syscall.EIO) {
		t.Error(err)
	}
	if n, err := f.ReadAt(make([]byte, 2), page-1); n != 1 || !errors.Is(err, syscall.EIO) {
		t.Error(n, err)
	}
	if err := r.FailSync("/q/none", memdisk.SyncLost); !errors.Is(err, fs.ErrNotExist) {
		t.Error(err)
	}
}

// A file has no name any more as long as somebody has it open, or mapped, behind its removal.
func TestNameless(t *testing.T) {
	r := newRig(t, memdisk.Config{})
	f := r.durable("a", sectors("aa"))
	m, err := f.Map(sector)
	r.ok(err)
	r.durable("b", sectors("b"))
	want := func(n int64) {
		t.Helper()
		if have := r.Nameless(); have != n {
			t.Errorf("%d bytes have no name, should be %d", have, n)
		}
	}
	want(0)
	r.ok(r.dir.Remove("a"))
	want(memdisk.PageSize)
	r.ok(f.Close())
	want(memdisk.PageSize)
	r.ok(m.Close())
	want(0)
	r.ok(r.dir.Sync())
	want(0)
}
