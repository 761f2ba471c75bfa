package memdisk_test

import (
	"bytes"
	"fmt"
	"io"
	"math/rand/v2"
	"slices"
	"testing"

	"github.com/mtawal/mtawal/internal/disk"
	"github.com/mtawal/mtawal/internal/disk/memdisk"
)

// oracle knows for each sector of one file what it may hold after a power cut,
// from the rules in the package comment and not from the code.
type oracle struct {
	cache   []byte
	allowed [][][]byte // by sector
	sizes   []int64
	durable int64 // a length that is certain to be reached
}

func (o *oracle) sector(i int) []byte {
	s := make([]byte, sector)
	if at := i * sector; at < len(o.cache) {
		copy(s, o.cache[at:])
	}
	return s
}

// note adds what the sectors of a range hold now.
func (o *oracle) note(from, to int64) {
	for i := int(from / sector); int64(i)*sector < to; i++ {
		for len(o.allowed) <= i {
			o.allowed = append(o.allowed, [][]byte{make([]byte, sector)})
		}
		o.allowed[i] = append(o.allowed[i], o.sector(i))
	}
}

func (o *oracle) resize(n int64) {
	if n == int64(len(o.cache)) {
		return
	}
	if n < int64(len(o.cache)) {
		old := int64(len(o.cache))
		o.cache = o.cache[:n:n]
		o.note(n, old)
	} else {
		o.cache = append(o.cache, make([]byte, n-int64(len(o.cache)))...)
		o.note(n, n)
	}
	o.sizes = append(o.sizes, n)
}

func (o *oracle) write(off int64, b []byte) {
	o.resize(max(int64(len(o.cache)), off+int64(len(b))))
	copy(o.cache[off:], b)
	o.note(off, off+int64(len(b)))
}

func (o *oracle) settle(from, to int64) {
	for i := int(from / sector); int64(i)*sector < to; i++ {
		o.allowed[i] = [][]byte{o.sector(i)}
	}
	o.durable = max(o.durable, to)
	o.sizes = slices.DeleteFunc(append(o.sizes, o.durable), func(s int64) bool { return s < to })
}

func (o *oracle) settleAll() {
	n := int64(len(o.cache))
	o.durable, o.sizes = n, []int64{n}
	o.allowed = nil
	o.note(0, n)
	for i := range o.allowed {
		o.allowed[i] = o.allowed[i][1:]
	}
}

// judge takes what a power cut left.
func (o *oracle) judge(got []byte) error {
	if !slices.Contains(o.sizes, int64(len(got))) {
		return fmt.Errorf("the length is %d, not one of %d", len(got), o.sizes)
	}
	for i := 0; i*sector < len(got); i++ {
		s := got[i*sector : min(len(got), (i+1)*sector)]
		states := [][]byte{make([]byte, sector)}
		if i < len(o.allowed) {
			states = o.allowed[i]
		}
		if !slices.ContainsFunc(states, func(a []byte) bool { return bytes.Equal(s, a[:len(s)]) }) {
			return fmt.Errorf("sector %d holds %.8q, none of %d states", i, s, len(states))
		}
	}
	return nil
}

// readAll reads a file in pieces of odd length.
func readAll(f disk.File) ([]byte, error) {
	var out []byte
	for b := make([]byte, 777); ; {
		n, err := f.ReadAt(b, int64(len(out)))
		out = append(out, b[:n]...)
		if err == io.EOF {
			return out, nil
		}
		if err != nil {
			return nil, err
		}
	}
}

// TestAgainstTheRules runs random histories on one file: the cache always shows
// the last writes, and a power cut leaves nothing but what the rules allow.
func TestAgainstTheRules(t *testing.T) {
	histories := uint64(120)
	if testing.Short() {
		histories = 30
	}
	for seed := range histories {
		if err := history(t, rand.New(rand.NewPCG(seed, 1))); err != nil {
			t.Fatalf("seed %d: %v", seed, err)
		}
	}
}

func history(t *testing.T, rng *rand.Rand) error {
	const sizeMax = 5*page + 100
	r := newRig(t, memdisk.Config{WholePages: rng.IntN(4) == 0})
	r.durable("a", "")
	o := &oracle{sizes: []int64{0}}
	var f disk.File
	var w disk.Mapping
	reopen := func() {
		r = on(t, r.FS)
		var err error
		f, err = r.dir.Open("a", true)
		r.ok(err)
		w = nil
	}
	reopen()
	random := func() (int64, []byte) {
		b := make([]byte, 1+rng.IntN(3*page/2))
		for i := range b {
			b[i] = byte(1 + rng.IntN(255))
		}
		return int64(rng.IntN(sizeMax - len(b))), b
	}
	for range 40 {
		var step string
		mapped := w != nil
		switch k := rng.IntN(12); {
		case k < 3:
			off, b := random()
			if mapped && off+int64(len(b)) > int64(len(o.cache)) {
				continue
			}
			step = fmt.Sprintf("WriteAt %d+%d", off, len(b))
			_, err := f.WriteAt(b, off)
			r.ok(err)
			o.write(off, b)
		case k < 6:
			off, b := random()
			if mapped && off+int64(len(b)) > int64(len(o.cache)) {
				continue
			}
			step = fmt.Sprintf("WriteDurable %d+%d", off, len(b))
			cut := rng.IntN(len(b))
			r.ok(f.WriteDurable(off, b[:cut], b[cut:]))
			o.write(off, b)
			o.settle(off, off+int64(len(b)))
		case k == 6:
			step = "Sync"
			r.ok(f.Sync())
			o.settleAll()
		case k == 7 && !mapped:
			n := int64(rng.IntN(sizeMax))
			step = fmt.Sprint("Truncate ", n)
			r.ok(f.Truncate(n))
			o.resize(n)
		case k == 8 && !mapped:
			n := int64(rng.IntN(sizeMax))
			step = fmt.Sprint("Allocate ", n)
			r.ok(f.Allocate(n))
			o.resize(max(n, int64(len(o.cache))))
		case k == 9 && !mapped && len(o.cache) > 0:
			step = "MapWritable"
			var err error
			w, err = f.MapWritable(int64(len(o.cache)))
			r.ok(err)
		case k == 9 && mapped:
			step = "Unmap"
			r.ok(w.Close())
			w = nil
		case k == 10 && mapped:
			off := rng.IntN(len(w.Bytes()))
			n := min(len(w.Bytes())-off, 1+rng.IntN(sector))
			step = fmt.Sprintf("store %d+%d", off, n)
			b := bytes.Repeat([]byte{byte(1 + rng.IntN(255))}, n)
			copy(w.Bytes()[off:], b)
			o.write(int64(off), b)
		case k == 11:
			step = "Kill"
			r.Kill()
			reopen()
		default:
			continue
		}
		got, err := readAll(f)
		r.ok(err)
		if !bytes.Equal(got, o.cache) {
			return fmt.Errorf("%s: the cache is not what was written", step)
		}
		for range 3 {
			m := r.Clone()
			m.PowerCut(rng)
			n := on(t, m)
			g, err := n.dir.Open("a", true)
			r.ok(err)
			got, err := readAll(g)
			r.ok(err)
			dev, err := m.Device("/q/a")
			r.ok(err)
			if !bytes.Equal(got, dev) {
				return fmt.Errorf("%s: after a power cut the cache is not the device", step)
			}
			if err := o.judge(got); err != nil {
				return fmt.Errorf("%s: %w", step, err)
			}
			if rng.IntN(20) == 0 { // go on from here
				step += ", power cut"
				o = &oracle{cache: slices.Clone(got)}
				o.settleAll()
				r = on(t, m.Clone())
				reopen()
			}
			m.PowerCut(rng) // nothing is uncertain any more
			if again, err := m.Device("/q/a"); err != nil || !bytes.Equal(again, dev) {
				return fmt.Errorf("%s: a second power cut changed it: %v", step, err)
			}
		}
	}
	return nil
}
