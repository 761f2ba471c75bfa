//go:build unix

package segment

import (
	"bytes"
	"testing"

	"github.com/mtawal/mtawal/internal/disk"
)

// A record that was read stays as it is, whatever becomes of the pages that it was read from:
// it is looked at by callers who are not guarded.
func TestRecordOutlivesItsPage(t *testing.T) {
	m := simple("q", bytes.Repeat([]byte("b"), 5000))
	g := newImage(3, 7, SizeMin)
	b := &batch{}
	b.enqueue(5, m)
	h := g.frame(Data, b)
	dir, err := disk.OS().OpenDir(t.TempDir(), true)
	if err != nil {
		t.Fatal(err)
	}
	defer dir.Close()
	f, err := dir.Create(Name(g.Number))
	if err != nil {
		t.Fatal(err)
	}
	if _, err := f.WriteAt(g.data, 0); err != nil {
		t.Fatal(err)
	}
	if err := f.Close(); err != nil {
		t.Fatal(err)
	}
	s, err := OpenSegment(dir, g.Number, g.UUID, true)
	if err != nil {
		t.Fatal(err)
	}
	defer s.Release()
	r, _, err := s.Record(h.Pos.Offset()+FrameHeaderSize, 5)
	if err != nil {
		t.Fatal(err)
	}
	mapping, err := s.Map()
	if err != nil {
		t.Fatal(err)
	}
	if err := s.File.Truncate(AlignmentMin); err != nil { // as good as a device that fails
		t.Fatal(err)
	}
	err = disk.Guard(mapping, func() error {
		if e := r.Enqueue(); !bytes.Equal(e.Envelope(), m.Envelope) || e.BodyLen != 5000 {
			t.Errorf("envelope %q, %d bytes", e.Envelope(), e.BodyLen)
		}
		return nil
	})
	if err != nil {
		t.Errorf("a caller without a guard would have died: %v", err)
	}
}
