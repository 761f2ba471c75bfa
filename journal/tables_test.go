package journal

import (
	"bytes"
	"errors"
	"fmt"
	"slices"
	"testing"

	"github.com/mtawal/mtawal/segment"
)

// positions are those of the frames of a stretch of the log.
func (r *rig) positions(from, to segment.Pos, prev segment.FrameHeader) (list []segment.Pos, err error) {
	err = r.log.Frames(from, to, prev, func(f *segment.Frame) error {
		list = append(list, f.Pos)
		return nil
	})
	return list, err
}

// What landed since the newest checkpoint is folded without a read of the device, until Forget says that it is not
// needed again.
func TestTablesAreReadFromMemory(t *testing.T) {
	r := newRig(t)
	from, prev := r.log.End(), r.log.Last()
	for range 20 {
		r.put(1)
	}
	to := r.log.End()
	want, err := r.positions(from, to, prev)
	if err != nil || len(want) < 20 {
		t.Fatal(len(want), err)
	}
	// On the device something else stands now: whoever reads it there finds no frame.
	broken := func(pos segment.Pos) {
		t.Helper()
		f, err := r.log.dir.Open(segment.Name(pos.Segment()), true)
		if err != nil {
			t.Fatal(err)
		}
		if _, err := f.WriteAt(make([]byte, segment.FrameHeaderSize), pos.Offset()); err != nil {
			t.Fatal(err)
		}
		if err := f.Close(); err != nil {
			t.Fatal(err)
		}
	}
	broken(want[3])
	got, err := r.positions(from, to, prev)
	if err != nil || fmt.Sprint(got) != fmt.Sprint(want) {
		t.Fatalf("%v, %v; want %v", got, err, want)
	}
	r.log.Forget(want[10])
	if got, err = r.positions(from, to, prev); err == nil || len(got) != 3 {
		t.Errorf("of what is forgotten %d frames were read, %v; want 3 and an error", len(got), err)
	}
	at := r.frames[slices.IndexFunc(r.frames, func(h segment.FrameHeader) bool { return h.Pos == want[14] })]
	if got, err = r.positions(at.End(), to, at); err != nil || len(got) != len(want)-15 {
		t.Errorf("behind that %d frames were read, %v; want %d", len(got), err, len(want)-15)
	}
}

// A frame that memory has wrong is no frame, as it would be on the device.
func TestTablesAreChecked(t *testing.T) {
	r := newRig(t)
	from, prev := r.log.End(), r.log.Last()
	for range 3 {
		r.put(1)
	}
	b := r.log.tables.frames[len(r.log.tables.frames)-2].b
	b[len(b)-1] ^= 1
	if got, err := r.positions(from, r.log.End(), prev); !errors.Is(err, segment.ErrCorrupt) {
		t.Errorf("%v, %v; want it to be corrupt", got, err)
	}
}

// There is a bound on them, and what lies beyond it is read from the device.
func TestTablesAreBounded(t *testing.T) {
	var s tables
	long := bytes.Repeat([]byte{1}, 1<<20)
	const fit = tablesMax >> 20
	for i := range segment.Pos(fit + 5) {
		s.add(segment.MakePos(1, int64(i)<<20), long)
	}
	if s.bytes > tablesMax || len(s.frames) != fit {
		t.Errorf("%d bytes in %d frames", s.bytes, len(s.frames))
	}
	if b := s.at(segment.MakePos(1, 3<<20+5), 7); len(b) != 7 {
		t.Errorf("%d bytes", len(b))
	}
	for _, pos := range []int64{0, 4096, fit<<20 + 1, 30 << 20} {
		if b := s.at(segment.MakePos(2, pos), 10); b != nil {
			t.Errorf("%d bytes of segment 2 at %d", len(b), pos)
		}
	}
	if b := s.at(segment.MakePos(1, 1<<20-5), 10); b != nil {
		t.Errorf("%d bytes across two frames", len(b))
	}
	s.forget(segment.MakePos(1, 6<<20))
	if len(s.frames) != fit-6 || s.bytes != (fit-6)<<20 || s.at(segment.MakePos(1, 5<<20), 1) != nil || s.at(segment.MakePos(1, 6<<20), 1) == nil {
		t.Errorf("%d bytes in %d frames", s.bytes, len(s.frames))
	}
	s.add(segment.MakePos(1, 25<<20), long)
	if s.at(segment.MakePos(1, 25<<20), 1<<20) == nil {
		t.Error("there is room again")
	}
}
