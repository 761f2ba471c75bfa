package memdisk_test

import (
	"errors"
	"fmt"
	"io/fs"
	"maps"
	"math/rand/v2"
	"slices"
	"strings"
	"sync/atomic"
	"syscall"
	"testing"
	"unsafe"

	"github.com/mtawal/mtawal/internal/disk"
	"github.com/mtawal/mtawal/internal/disk/memdisk"
)

const sector, page = memdisk.SectorSize, memdisk.PageSize

// rig is a file system with a test's way of saying things shortly.
type rig struct {
	testing.TB
	*memdisk.FS
	dir disk.Dir
}

func newRig(t testing.TB, c memdisk.Config) *rig { return on(t, memdisk.New(c)) }

func on(t testing.TB, m *memdisk.FS) *rig {
	t.Helper()
	d, err := m.OpenDir("/q", true)
	r := &rig{TB: t, FS: m, dir: d}
	r.ok(err)
	return r
}

func (r *rig) ok(err error) {
	r.Helper()
	if err != nil {
		r.Fatal(err)
	}
}

func (r *rig) create(name string) disk.File {
	r.Helper()
	f, err := r.dir.Create(name)
	r.ok(err)
	return f
}

// durable makes a file with that content, durable with its name.
func (r *rig) durable(name, content string) disk.File {
	r.Helper()
	f := r.create(name)
	r.ok(f.WriteDurable(0, []byte(content)))
	r.ok(r.dir.Sync())
	return f
}

func (r *rig) write(f disk.File, off int64, s string) {
	r.Helper()
	_, err := f.WriteAt([]byte(s), off)
	r.ok(err)
}

// show is a directory with all content, in short: "a=xxyy" where each letter
// is a sector of it.
func (r *rig) show() string {
	r.Helper()
	infos, err := r.dir.List()
	r.ok(err)
	var out []string
	for _, i := range infos {
		f, err := r.dir.Open(i.Name, false)
		r.ok(err)
		b := make([]byte, i.Size)
		if n, err := f.ReadAt(b, 0); n != len(b) {
			r.Fatal(err)
		}
		r.ok(f.Close())
		s := i.Name + "="
		for c := range slices.Chunk(b, sector) {
			switch {
			case strings.Count(string(c), string(c[:1])) != len(c):
				s += "?"
			case c[0] == 0:
				s += "."
			default:
				s += string(c[:1])
			}
		}
		out = append(out, s)
	}
	return strings.Join(out, " ")
}

// sectors is a string with each letter blown up to a sector.
func sectors(s string) string {
	var b strings.Builder
	for _, c := range []byte(s) {
		if c == '.' {
			c = 0
		}
		b.WriteString(strings.Repeat(string([]byte{c}), sector))
	}
	return b.String()
}

// outcomes is all that a power cut now can leave, sorted.
func (r *rig) outcomes() []string {
	r.Helper()
	seen := map[string]bool{}
	for c := new(memdisk.Choices); ; {
		m := r.Clone()
		m.PowerCutWith(c.Choose)
		seen[on(r, m).show()] = true
		if !c.Next() {
			return slices.Sorted(maps.Keys(seen))
		}
	}
}

func (r *rig) leaves(want ...string) {
	r.Helper()
	slices.Sort(want)
	if got := r.outcomes(); !slices.Equal(got, want) {
		r.Errorf("a power cut leaves\n\t%s\nand should leave\n\t%s", strings.Join(got, "\n\t"), strings.Join(want, "\n\t"))
	}
}

func TestWriteAtIsTornBySector(t *testing.T) {
	r := newRig(t, memdisk.Config{})
	f := r.durable("a", sectors("aaa"))
	r.write(f, 0, sectors("bb"))
	r.leaves("a=aaa", "a=bba", "a=aba", "a=baa")
	r.ok(f.Sync())
	r.leaves("a=bba")
}

func TestWholePages(t *testing.T) {
	r := newRig(t, memdisk.Config{WholePages: true})
	f := r.durable("a", sectors("aaa"))
	r.write(f, 0, sectors("bb"))
	r.leaves("a=aaa", "a=bba")
}

func TestGarbage(t *testing.T) {
	r := newRig(t, memdisk.Config{Garbage: true, WholePages: true})
	f := r.durable("a", sectors("aa"))
	r.write(f, sector, sectors("b"))
	r.leaves("a=aa", "a=ab", "a=\xa5\xa5")
}

func TestPagesGoInAnyOrder(t *testing.T) {
	r := newRig(t, memdisk.Config{})
	f := r.create("a")
	r.ok(f.Allocate(3 * page))
	r.ok(f.Sync())
	r.ok(r.dir.Sync())
	r.write(f, 0, "x")
	r.write(f, 2*page, "y")
	zero := strings.Repeat(".", 7)
	both := map[bool]string{false: ".", true: "?"}
	var want []string
	for _, x := range []bool{false, true} {
		for _, y := range []bool{false, true} {
			want = append(want, "a="+both[x]+zero+"........"+both[y]+zero)
		}
	}
	r.leaves(want...)
}

// A page that was written out between two writes.
func TestStatesInBetween(t *testing.T) {
	r := newRig(t, memdisk.Config{})
	f := r.durable("a", sectors("a"))
	r.write(f, 0, sectors("b"))
	r.write(f, 0, sectors("c"))
	r.leaves("a=a", "a=b", "a=c")
}

func TestWriteDurableIsForItsBytesAlone(t *testing.T) {
	r := newRig(t, memdisk.Config{})
	f := r.durable("a", sectors("aaaaaaaa"+"aaaaaaaa"))
	r.write(f, 0, sectors("bb"))
	r.ok(f.WriteDurable(2*sector, []byte(sectors("c"))))
	r.leaves("a=aacaaaaaaaaaaaaa", "a=abcaaaaaaaaaaaaa", "a=bacaaaaaaaaaaaaa", "a=bbcaaaaaaaaaaaaa")
	r.ok(f.WriteDurable(0, []byte(sectors("bb")))) // the same bytes, durably
	r.leaves("a=bbcaaaaaaaaaaaaa")
	// Nor is what was durable undone by what a page held in between.
	r.write(f, 3*sector, sectors("d"))
	r.write(f, 3*sector, sectors("e"))
	r.ok(f.WriteDurable(4*sector, []byte(sectors("f"))))
	r.leaves("a=bbcafaaaaaaaaaaa", "a=bbcdfaaaaaaaaaaa", "a=bbcefaaaaaaaaaaa")
}

func TestLength(t *testing.T) {
	r := newRig(t, memdisk.Config{})
	f := r.durable("a", sectors("a"))
	r.write(f, sector, sectors("b"))
	r.leaves("a=a", "a=a.", "a=ab")
	r.ok(f.WriteDurable(3*sector, []byte(sectors("d")))) // its length is needed to find it
	r.leaves("a=a..d", "a=ab.d")
	r.ok(f.Sync())
	r.ok(f.Truncate(sector))
	r.ok(f.Truncate(2 * sector))
	// The old bytes under the new length are more than a good file system does.
	r.leaves("a=ab.d", "a=a..d", "a=a...", "a=ab..", "a=a", "a=ab", "a=a.")
	r.ok(f.Sync())
	r.leaves("a=a.")
}

func TestNamesPrefix(t *testing.T) {
	r := newRig(t, memdisk.Config{})
	r.durable("a", sectors("a"))
	r.ok(r.dir.Rename("a", "b"))
	r.ok(r.create("c").Close())
	r.ok(r.dir.Remove("b"))
	r.leaves("a=a", "b=a", "b=a c=", "c=")
	r.ok(r.dir.Sync())
	r.leaves("c=")
}

func TestNamesSubset(t *testing.T) {
	r := newRig(t, memdisk.Config{Names: memdisk.NamesSubset})
	r.durable("a", sectors("a"))
	r.durable("b", sectors("b"))
	r.ok(r.dir.Rename("a", "b"))
	r.ok(r.create("c").Close())
	r.leaves("a=a b=b", "b=a", "a=a b=b c=", "b=a c=")
	r.ok(r.dir.Remove("c"))
	r.ok(r.dir.Sync())
	r.leaves("b=a")
	// A name that was made twice.
	r.ok(r.create("c").Close())
	r.ok(r.dir.Rename("c", "d"))
	r.durable("c", sectors("c")) // which syncs all
	r.leaves("b=a c=c d=")
}

// Renamed into place without a sync of the content first.
func TestRenamedBeforeItWasSynced(t *testing.T) {
	r := newRig(t, memdisk.Config{WholePages: true})
	r.durable("a", sectors("a"))
	f := r.create("tmp")
	r.write(f, 0, sectors("n"))
	r.ok(r.dir.Rename("tmp", "a"))
	r.ok(r.dir.Sync())
	r.leaves("a=", "a=.", "a=n")
}

func TestRemovedFileComesBack(t *testing.T) {
	r := newRig(t, memdisk.Config{})
	f := r.durable("a", sectors("a"))
	r.ok(f.Close())
	r.ok(r.dir.Remove("a"))
	r.leaves("", "a=a")
	r.PowerCutWith(func(int) int { return 0 })
	if got := on(t, r.FS).show(); got != "a=a" {
		t.Fatal(got)
	}
	// The next change of names is as uncertain as the first.
	n := on(t, r.FS)
	r.ok(n.create("new").Close())
	n.leaves("a=a", "a=a new=")
	// It takes its room again.
	if s, err := on(t, r.FS).dir.Space(); err != nil || s.Free != s.Total-page {
		t.Error(s, err)
	}
}

func TestKillKeepsTheCache(t *testing.T) {
	r := newRig(t, memdisk.Config{})
	f := r.durable("a", sectors("aaaaaaaa"))
	r.write(f, 0, sectors("b"))
	w, err := f.MapWritable(page)
	r.ok(err)
	copy(w.Bytes()[sector:], sectors("m"))
	r.create("new")
	l, err := r.dir.Lock("LOCK")
	r.ok(err)
	before, err := r.dir.Identity()
	r.ok(err)
	r.Kill()

	n := on(t, r.FS)
	if got := n.show(); got != "LOCK= a=bmaaaaaa new=" {
		t.Error(got)
	}
	after, err := n.dir.Identity()
	r.ok(err)
	if after != before {
		t.Error("a kill changed the boot or the mount")
	}
	again, err := n.dir.Lock("LOCK")
	r.ok(err)
	r.ok(l.Close()) // of the dead one: frees nothing
	if _, err := n.dir.Lock("LOCK"); !errors.Is(err, disk.ErrLocked) {
		t.Error(err)
	}
	r.ok(again.Close())

	// The dead process does nothing any more, and hurts nobody.
	for name, err := range map[string]error{
		"WriteAt": second(f.WriteAt([]byte("z"), 0)), "WriteDurable": f.WriteDurable(0, []byte("z")), "Sync": f.Sync(), "Close": f.Close(),
		"Create": second(r.dir.Create("z")), "Remove": r.dir.Remove("a"), "Sync of the directory": r.dir.Sync(), "Lock": second(r.dir.Lock("z")),
		"Populate": w.Populate(0, 1), "List": second(r.dir.List()), "Truncate": f.Truncate(0),
	} {
		if !errors.Is(err, fs.ErrClosed) {
			t.Errorf("%s by a dead process: %v", name, err)
		}
	}
	copy(w.Bytes(), sectors("z"))
	r.ok(w.Close())
	if got := n.show(); got != "LOCK= a=bmaaaaaa new=" {
		t.Error("the dead process changed it:", got)
	}
	// What was in the cache alone is as uncertain as before.
	r.ok(n.dir.Sync())
	n.leaves("LOCK= a=aaaaaaaa new=", "LOCK= a=baaaaaaa new=", "LOCK= a=amaaaaaa new=", "LOCK= a=bmaaaaaa new=")
}

func second[T any](_ T, err error) error { return err }

func TestPowerCutIsAnotherBoot(t *testing.T) {
	r := newRig(t, memdisk.Config{})
	a, err := r.dir.Identity()
	r.ok(err)
	r.PowerCut(rand.New(rand.NewPCG(1, 1)))
	b, err := on(t, r.FS).dir.Identity()
	r.ok(err)
	r.Remount()
	c, err := on(t, r.FS).dir.Identity()
	r.ok(err)
	if a.Boot == b.Boot || a.Mount == b.Mount || b.Boot != c.Boot || b.Mount == c.Mount {
		t.Error(a, b, c)
	}
}

func TestRemountWritesAll(t *testing.T) {
	r := newRig(t, memdisk.Config{})
	f := r.durable("a", sectors("aa"))
	r.write(f, 0, sectors("b"))
	r.ok(r.dir.Rename("a", "c"))
	r.Remount()
	on(t, r.FS).leaves("c=ba")
}

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

// Once it was written again, a page is as any other.
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

// A sync covers what was stored through a mapping.
func TestSyncOfAMappedFile(t *testing.T) {
	r := newRig(t, memdisk.Config{})
	f := r.durable("a", sectors("a"))
	m, err := f.MapWritable(sector)
	r.ok(err)
	copy(m.Bytes(), sectors("m"))
	r.ok(f.Sync())
	r.leaves("a=m")
}

// What passed for clean before a power cut does not after it.
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

func TestCrashInsideAnOperation(t *testing.T) {
	for _, at := range []disk.Op{disk.OpWriteDurable, disk.OpFlush} {
		r := newRig(t, memdisk.Config{})
		f := r.durable("a", sectors("aa"))
		var outcomes []string
		r.OnOp(func(op disk.Op, name string) {
			if op == at {
				outcomes = r.outcomes()
				r.Kill()
			}
		})
		if err := f.WriteDurable(0, []byte(sectors("bb"))); !errors.Is(err, fs.ErrClosed) {
			t.Error(err)
		}
		r.OnOp(nil)
		want := map[disk.Op][]string{disk.OpWriteDurable: {"a=aa"}, disk.OpFlush: {"a=aa", "a=ab", "a=ba", "a=bb"}}[at]
		if !slices.Equal(outcomes, want) {
			t.Errorf("%v: %v", at, outcomes)
		}
		n := on(t, r.FS)
		if got := n.show(); got != want[len(want)-1] {
			t.Errorf("%v: the cache has %s", at, got)
		}
		n.leaves(want...) // the kill made nothing durable
	}
}

func TestLateWrite(t *testing.T) {
	asked := 0
	r := newRig(t, memdisk.Config{LateWrite: func(name string, off int64) bool {
		asked++
		return name == "a" && off == 0
	}})
	f := r.durable("a", sectors("aa"))
	r.Kill()
	if err := f.WriteDurable(0, []byte(sectors("z"))); !errors.Is(err, fs.ErrClosed) {
		t.Error(err)
	}
	if _, err := f.WriteAt([]byte(sectors("z")), sector); !errors.Is(err, fs.ErrClosed) {
		t.Error(err)
	}
	n := on(t, r.FS)
	if got := n.show(); got != "a=za" || asked != 2 {
		t.Error(got, asked)
	}
	n.leaves("a=aa", "a=za")
	r.PowerCutWith(func(int) int { return 0 })
	_ = f.WriteDurable(0, []byte(sectors("y"))) // not over a power cut
	if got := on(t, r.FS).show(); got != "a=aa" || asked != 2 {
		t.Error(got, asked)
	}
}

func TestCloneIsIndependent(t *testing.T) {
	r := newRig(t, memdisk.Config{})
	f := r.durable("a", sectors("aa"))
	r.write(f, 0, sectors("b"))
	m, err := f.MapWritable(2 * sector)
	r.ok(err)
	copy(m.Bytes()[sector:], sectors("m"))
	c := on(t, r.Clone())
	copy(m.Bytes()[sector:], sectors("n"))
	r.ok(f.WriteDurable(0, []byte(sectors("c"))))
	r.ok(r.dir.Rename("a", "x"))
	if got := c.show(); got != "a=bm" {
		t.Error(got)
	}
	g, err := c.dir.Open("a", true)
	r.ok(err)
	r.ok(g.WriteDurable(0, []byte(sectors("d"))))
	c.leaves("a=da", "a=dm")
	if got := r.show(); got != "x=cn" {
		t.Error(got)
	}
}

// The memory of a mapping is the cache, of which the race detector sees the bytes.
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

// The same seed leaves the same.
func TestDeterminism(t *testing.T) {
	run := func(seed uint64) string {
		rng := rand.New(rand.NewPCG(seed, 0))
		r := newRig(t, memdisk.Config{Names: memdisk.NamesSubset})
		for i := range 20 {
			f := r.create(fmt.Sprint("f", i))
			r.write(f, 0, sectors("abcdefghijklmnop"))
		}
		r.PowerCut(rng)
		return on(t, r.FS).show() + fmt.Sprint(rng.Uint64())
	}
	different := false
	for seed := range uint64(10) {
		a, b := run(seed), run(seed)
		if a != b {
			t.Fatalf("seed %d:\n%s\n%s", seed, a, b)
		}
		different = different || a != run(seed+1)
	}
	if !different {
		t.Error("chance has no part in it")
	}
}

// Crashes while the engine stores into its claim table and writes its log.
func TestCrashBesideRunningCode(t *testing.T) {
	r := newRig(t, memdisk.Config{})
	f := r.durable("a", sectors("aaaaaaaa"+"aaaaaaaa"))
	m, err := f.MapWritable(page)
	r.ok(err)
	words := unsafe.Slice((*uint64)(unsafe.Pointer(unsafe.SliceData(m.Bytes()))), page/8)
	stop, done := make(chan struct{}), make(chan struct{}, 2)
	go func() {
		defer func() { done <- struct{}{} }()
		for i := uint64(0); ; i++ {
			select {
			case <-stop:
				return
			default:
				atomic.StoreUint64(&words[i%uint64(len(words))], i)
			}
		}
	}()
	go func() {
		defer func() { done <- struct{}{} }()
		for i := 0; ; i++ {
			if err := f.WriteDurable(page+int64(i%8)*sector, []byte(sectors("w"))); err != nil {
				return // killed
			}
		}
	}()
	rng := rand.New(rand.NewPCG(3, 4))
	for range 50 {
		c := r.Clone()
		c.PowerCut(rng)
		_ = on(t, c).show()
	}
	r.PowerCut(rng)
	a := on(t, r.FS).show()
	b := on(t, r.FS).show()
	close(stop)
	<-done
	<-done
	if a != b {
		t.Error("the dead process changed it:", a, b)
	}
}

func TestChoicesAreAll(t *testing.T) {
	var got []string
	for c := new(memdisk.Choices); ; {
		s := fmt.Sprint(c.Choose(2))
		if s == "1" {
			s += fmt.Sprint(c.Choose(3))
		}
		if len(c.Path()) != len(s) {
			t.Error(c.Path(), s)
		}
		got = append(got, s)
		if !c.Next() {
			break
		}
	}
	if strings.Join(got, " ") != "0 10 11 12" {
		t.Error(got)
	}
	if new(memdisk.Choices).Next() {
		t.Error("a run without choices has no successor")
	}
}

func BenchmarkCloneAndPowerCut(b *testing.B) {
	r := newRig(b, memdisk.Config{})
	for i := range 8 {
		f := r.durable(fmt.Sprint("seg", i), strings.Repeat("x", 64<<10))
		if i == 7 {
			r.write(f, 4096, sectors("abcdefgh"))
		}
		if _, err := f.Map(64 << 10); err != nil {
			b.Fatal(err)
		}
	}
	rng := rand.New(rand.NewPCG(1, 2))
	b.ReportAllocs()
	for b.Loop() {
		r.Clone().PowerCut(rng)
	}
}
