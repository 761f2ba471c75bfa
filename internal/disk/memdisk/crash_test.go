package memdisk_test

import (
	"strings"
	"testing"

	"github.com/mtawal/mtawal/internal/disk/memdisk"
)

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
