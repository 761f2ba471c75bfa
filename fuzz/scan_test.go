package fuzz

import (
	"bytes"
	"slices"
	"testing"

	"github.com/mtawal/mtawal/internal/disk/memdisk"
	"github.com/mtawal/mtawal/segment"
)

// FuzzScan damages a whole segment. edits is a row of changes: offset u16 (in units of 8
// bytes), length u8, and so many bytes, which are put there. What is read must be
// the first frames of what was written, or an error.
func FuzzScan(f *testing.F) {
	g := readGolden(f)
	f.Add([]byte{})
	for i := range g.frames {
		off := uint16(g.frames[i].Pos.Offset() / 8)
		f.Add(append(le.AppendUint16(nil, off), 8, 0, 0, 0, 0, 0, 0, 0, 0))
		f.Add(append(le.AppendUint16(nil, off+16), 4, 1, 2, 3, 4))
		f.Add(append(append(le.AppendUint16(nil, off), 128), g.data[g.frames[0].Pos.Offset():][:128]...))
	}
	f.Fuzz(func(t *testing.T, edits []byte) {
		image := slices.Clone(g.data)
		for len(edits) >= 3 {
			off, n := int(le.Uint16(edits))*8, int(edits[2])
			n = min(n, len(edits)-3)
			if off < segment.HeaderSize { // FuzzSegmentHeader does that
				off += segment.HeaderSize
			}
			if off < len(image) {
				copy(image[off:], edits[3:3+n])
			}
			edits = edits[3+n:]
		}
		fs := memdisk.New(memdisk.Config{})
		dir, err := fs.OpenDir("/log", true)
		if err != nil {
			t.Fatal(err)
		}
		if err := fs.Put("/log/"+segment.Name(g.Number), image); err != nil {
			t.Fatal(err)
		}
		s, err := segment.OpenSegment(dir, g.Number, g.UUID, false)
		if err != nil {
			t.Fatal(err)
		}
		n := 0
		stop, err := s.Scan(s.First(), segment.FrameHeader{}, func(fr *segment.Frame) error {
			if n >= len(g.frames) || fr.FrameHeader != g.frames[n].FrameHeader || !bytes.Equal(fr.Table, g.frames[n].Table) {
				t.Fatalf("frame %d was never written: %+v", n, fr.FrameHeader)
			}
			whole, err := s.CheckBodies(fr, nil)
			if err != nil {
				return err
			}
			if from := fr.Pos.Offset() + int64(fr.BodyOff); whole && !bytes.Equal(image[from:from+fr.BodyLen], g.frames[n].Body) {
				t.Fatalf("the bodies of frame %d were never written", n)
			}
			n++
			return nil
		})
		if err != nil {
			oneKind(t, err)
		}
		if n < len(g.frames) && (stop.Sealed || stop.Off != g.frames[n].Pos.Offset()) {
			t.Fatalf("%d frames of %d, then %+v", n, len(g.frames), stop)
		}
		last := segment.Pos(0)
		err = s.Headers(s.First(), s.Size, func(h *segment.FrameHeader) {
			i := slices.IndexFunc(g.frames, func(fr segment.Frame) bool { return fr.Pos == h.Pos })
			if i < 0 || *h != g.frames[i].FrameHeader || h.Pos <= last {
				t.Fatalf("a header that was never written: %+v", *h)
			}
			last = h.Pos
		})
		if err != nil {
			t.Fatal(err)
		}
		if err := s.Release(); err != nil {
			t.Fatal(err)
		}
		if err := dir.Close(); err != nil {
			t.Fatal(err)
		}
	})
}
