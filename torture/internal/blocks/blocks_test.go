package blocks

import (
	"bytes"
	"math/rand/v2"
	"path/filepath"
	"testing"
)

// fill is a sector, or a page, of one letter.
func fill(c byte, n int) []byte { return bytes.Repeat([]byte{c}, n) }

func letters(m *Image, n int) string {
	b := make([]byte, n*sectorSize)
	m.ReadAt(b, 0)
	var s []byte
	for i := 0; i < len(b); i += sectorSize {
		if c := b[i]; c != 0 {
			s = append(s, c)
		} else {
			s = append(s, '.')
		}
	}
	return string(s)
}

// log writes page 0, flushes, and writes pages 1 and 2, and page 0 again.
func log() (*Image, []Event) {
	base := NewImage(4 * PageSize)
	d := NewDevice(base.Size())
	d.Insert(base)
	d.Write(fill('a', PageSize), 0)
	d.Flush()
	d.Mark("acknowledged")
	d.Write(fill('b', 2*PageSize), PageSize)
	d.Write(fill('c', PageSize), 0)
	return base, d.Take()
}

func TestWhatIsFlushedSurvives(t *testing.T) {
	for seed := range uint64(50) {
		for how := range survivors {
			base, events := log()
			h := NewHistory(base, events)
			h.Tears = func(int64) bool { return true }
			rng := rand.New(rand.NewPCG(seed, 0))
			if m, pending := h.Crash(1, None, rng); letters(m, 8) != "........" || pending != 1 {
				t.Fatalf("before the flush: %s, %d pending", letters(m, 8), pending)
			}
			if m, pending := h.Crash(3, how, rng); letters(m, 24) != "aaaaaaaa................" || pending != 0 {
				t.Fatalf("seed %d, %v: %s, %d pending", seed, how, letters(m, 24), pending)
			}
			m, pending := h.Crash(5, how, rng)
			got := letters(m, 24)
			if pending != 2 {
				t.Fatalf("%d pending", pending)
			}
			for i, c := range got {
				if i < 8 && c != 'a' && c != 'c' || i >= 8 && c != '.' && c != 'b' {
					t.Fatalf("seed %d, %v: %s", seed, how, got)
				}
			}
			switch {
			case how == None && got != "aaaaaaaa................",
				how == All && got != "ccccccccbbbbbbbbbbbbbbbb",
				how == Prefix && got[0] == 'c' && got[8] != 'b',
				how == Writes && got[8] != got[16],
				how != Sectors && (got[0] != got[7] || got[8] != got[15]):
				t.Fatalf("seed %d, %v: %s", seed, how, got)
			}
		}
	}
}

// Each way does what it is for, for some seed.
func TestSurvivorsDiffer(t *testing.T) {
	torn, mixed := false, false
	for seed := range uint64(50) {
		rng := rand.New(rand.NewPCG(seed, 0))
		base, events := log()
		h := NewHistory(base, events)
		h.Tears = func(p int64) bool { return p == 0 }
		m, _ := h.Crash(5, Sectors, rng)
		got := letters(m, 24)
		torn = torn || got[0] != got[7] || got[0] != got[3]
		mixed = mixed || got[8] != got[16]
		if got[8] != got[15] {
			t.Fatalf("seed %d: page 1 is torn: %s", seed, got)
		}
	}
	if !torn || !mixed {
		t.Errorf("torn %v, mixed %v", torn, mixed)
	}
}

func TestImagesShareNothingThatChanges(t *testing.T) {
	a := NewImage(2 * PageSize)
	a.write(fill('x', 100), 50)
	b := a.Clone()
	b.write(fill('y', PageSize), 0)
	b.zero(10, 10)
	a.write(fill('z', sectorSize), PageSize)
	if got := letters(a, 16); got != "........zz......"[:8]+"z......." {
		t.Error(got)
	}
	one := make([]byte, 151)
	if a.ReadAt(one, 0); one[50] != 'x' || one[149] != 'x' || one[49] != 0 || one[150] != 0 {
		t.Error("the bytes of the original have changed")
	}
	if b.ReadAt(one, 0); one[9] != 'y' || one[10] != 0 || one[19] != 0 || one[20] != 'y' {
		t.Error("the copy is wrong")
	}
	path := filepath.Join(t.TempDir(), "image")
	if err := b.WriteFile(path); err != nil {
		t.Fatal(err)
	}
	c, err := ReadImage(path)
	if err != nil {
		t.Fatal(err)
	}
	if got, want := letters(c, 16), letters(b, 16); got != want || c.Size() != b.Size() {
		t.Errorf("read back: %s, want %s", got, want)
	}
}
