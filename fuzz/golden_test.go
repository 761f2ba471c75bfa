package fuzz

import (
	"errors"
	"os"
	"path/filepath"
	"runtime/metrics"
	"testing"

	"github.com/mtawal/mtawal/segment"
)

// golden is a segment with every kind of frame and record.
type golden struct {
	segment.Header
	data   []byte
	frames []segment.Frame
}

func readGolden(t testing.TB) *golden {
	t.Helper()
	b, err := os.ReadFile(filepath.Join("..", "segment", "testdata", "golden", "v1-all.seg"))
	if err != nil {
		t.Fatal(err)
	}
	g := &golden{data: b}
	if g.Header, err = segment.DecodeHeader(b); err != nil {
		t.Fatal(err)
	}
	for off := g.First(); ; {
		h, ok, err := segment.DecodeFrameHeader(&g.Header, off, b[off:])
		if err != nil {
			t.Fatal(err)
		}
		if !ok {
			break
		}
		f, ok, err := segment.NewFrame(h, b[off:off+h.Len])
		if !ok || err != nil || !f.Whole() {
			t.Fatalf("golden frame at %v: %v, %v", h.Pos, ok, err)
		}
		g.frames = append(g.frames, f)
		off += h.Len
	}
	if len(g.frames) < 8 {
		t.Fatalf("%d golden frames", len(g.frames))
	}
	return g
}

// bounded fails if f allocates much more than the bytes that it is given: a length
// in them was believed.
func bounded(t *testing.T, size int, f func()) {
	t.Helper()
	sample := []metrics.Sample{{Name: "/gc/heap/allocs:bytes"}}
	metrics.Read(sample)
	before := sample[0].Value.Uint64()
	f()
	metrics.Read(sample)
	if n := sample[0].Value.Uint64() - before; n > uint64(1<<20+16*size) {
		t.Fatalf("%d bytes allocated for %d bytes of input", n, size)
	}
}

// oneKind fails if an error is not of exactly one of the two kinds that bytes may
// give cause to.
func oneKind(t *testing.T, err error) {
	t.Helper()
	if errors.Is(err, segment.ErrVersion) == errors.Is(err, segment.ErrCorrupt) {
		t.Fatalf("an error of no kind, or of both: %v", err)
	}
}
