package memdisk_test

import (
	"errors"
	"io/fs"
	"math/rand/v2"
	"testing"

	"github.com/mtawal/mtawal/internal/disk"
	"github.com/mtawal/mtawal/internal/disk/memdisk"
)

func must[T any](t testing.TB) func(v T, err error) T {
	return func(v T, err error) T {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
		return v
	}
}

func ok(t testing.TB, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

func openDir(t testing.TB, m *memdisk.FS) disk.Dir { return must[disk.Dir](t)(m.OpenDir("/q", true)) }

func read(t testing.TB, m *memdisk.FS, name string) string {
	t.Helper()
	f := must[disk.File](t)(openDir(t, m).Open(name, false))
	b := make([]byte, must[int64](t)(f.Size()))
	if _, err := f.ReadAt(b, 0); err != nil {
		t.Fatal(err)
	}
	ok(t, f.Close())
	return string(b)
}

func TestSmoke(t *testing.T) {
	m := memdisk.New(memdisk.Config{})
	d := openDir(t, m)
	f := must[disk.File](t)(d.Create("a"))
	ok(t, f.Allocate(65536))
	ok(t, f.Sync())
	ok(t, d.Sync())
	ok(t, f.WriteDurable(4096, []byte("durable"), []byte(" bytes")))
	if _, err := f.WriteAt([]byte("loose"), 8192); err != nil {
		t.Fatal(err)
	}
	seen := map[string]bool{}
	for c := new(memdisk.Choices); ; {
		n := m.Clone()
		n.PowerCutWith(c.Choose)
		s := read(t, n, "a")
		if s[4096:4109] != "durable bytes" {
			t.Fatalf("lost at %v", c.Path())
		}
		seen[s[8192:8197]] = true
		if !c.Next() {
			break
		}
	}
	if len(seen) != 2 {
		t.Fatalf("%v", seen)
	}
	m.PowerCut(rand.New(rand.NewPCG(1, 2)))
	if _, err := f.Size(); !errors.Is(err, fs.ErrClosed) {
		t.Fatal(err)
	}
}
