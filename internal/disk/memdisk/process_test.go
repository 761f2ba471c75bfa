package memdisk_test

import (
	"errors"
	"fmt"
	"io/fs"
	"math/rand/v2"
	"slices"
	"strings"
	"sync/atomic"
	"testing"
	"unsafe"

	"github.com/mtawal/mtawal/internal/disk"
	"github.com/mtawal/mtawal/internal/disk/memdisk"
)

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
