package memdisk_test

import (
	"maps"
	"slices"
	"strings"
	"testing"

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

// A page that was written out between two writes.

// Renamed into place without a sync of the content first.

// Once it was written again, a page is as any other.

// A sync covers what was stored through a mapping.

// What passed for clean before a power cut does not after it.

// The memory of a mapping is the cache, of which the race detector sees the bytes.

// The same seed leaves the same.

// Crashes while the engine stores into its claim table and writes its log.
