package segment

import (
	"bytes"
	"errors"
	"io/fs"
	"slices"
	"strings"
	"testing"

	"github.com/mtawal/mtawal/internal/disk"
	"github.com/mtawal/mtawal/mailq"
)

func TestOpenSegment(t *testing.T) {
	g, _ := started()
	header := func(change func(h *Header)) []byte {
		b, h := slices.Clone(g.data), g.Header
		change(&h)
		copy(b, h.Encode())
		return b
	}
	sum := func(at int, v byte) []byte {
		b := slices.Clone(g.data)
		b[at] = v
		le.PutUint32(b[508:], CRC(b[:508]))
		return b
	}
	for _, c := range []struct {
		name   string
		data   []byte
		want   error // nil: opens
		reason string
	}{
		{"whole", g.data, nil, ""},
		{"empty", nil, ErrCorrupt, "0 bytes"},
		{"one byte", g.data[:1], ErrCorrupt, "1 bytes"},
		{"short", g.data[:SizeMin-1], ErrCorrupt, "65535 bytes"},
		{"zeros", make([]byte, len(g.data)), ErrCorrupt, "no magic"},
		{"cut", g.data[:len(g.data)-4096], ErrCorrupt, "1044480 bytes long"},
		{"one byte short", g.data[:len(g.data)-1], ErrCorrupt, "1048575 bytes long"},
		{"grown", append(slices.Clone(g.data), 0), ErrCorrupt, "1048577 bytes long"},
		{"of another store", header(func(h *Header) { h.UUID[3]++ }), ErrCorrupt, "another store"},
		{"another number", header(func(h *Header) { h.Number++ }), ErrCorrupt, "segment 6"},
		{"bad checksum", func() []byte { b := slices.Clone(g.data); b[33] ^= 1; return b }(), ErrCorrupt, "checksum"},
		{"newer version", sum(8, 2), ErrVersion, "format 2"},
		{"newer version, checksum elsewhere", func() []byte { b := slices.Clone(g.data); b[8] = 9; return b }(), ErrVersion, "format 9"},
		{"unknown feature", sum(12, 4), ErrVersion, "features 0x4"},
		{"unknown compatible feature", sum(16, 4), nil, ""},
	} {
		fs, dir := testDir(t)
		put(t, fs, Name(g.Number), c.data)
		s, err := OpenSegment(dir, g.Number, g.UUID, false)
		if c.want == nil {
			if err != nil {
				t.Errorf("%s: %v", c.name, err)
			} else if err := s.Release(); err != nil {
				t.Errorf("%s: %v", c.name, err)
			}
			continue
		}
		if s != nil || !errors.Is(err, c.want) || !strings.Contains(err.Error(), c.reason) || errors.Is(err, ErrCorrupt) && errors.Is(err, ErrVersion) {
			t.Errorf("%s: %v", c.name, err)
		}
		var e *CorruptError
		if c.want == ErrCorrupt && (!errors.As(err, &e) || e.Segment != g.Number || e.File == "") {
			t.Errorf("%s: the error does not say where: %+v", c.name, e)
		}
		// Whatever it is, it stays as it is.
		if got, err := fs.Device("/log/" + Name(g.Number)); err != nil || !bytes.Equal(got, c.data) {
			t.Errorf("%s: the file was changed, %v", c.name, err)
		}
	}

	mem, dir := testDir(t)
	if _, err := OpenSegment(dir, 1, testUUID, false); !errors.Is(err, fs.ErrNotExist) || errors.Is(err, ErrCorrupt) {
		t.Errorf("missing: %v", err)
	}
	if err := mem.PutSpecial("/log/"+Name(2), "FIFO"); err != nil {
		t.Fatal(err)
	}
	if _, err := OpenSegment(dir, 2, testUUID, false); !errors.Is(err, disk.ErrUnsafe) {
		t.Errorf("a FIFO: %v", err)
	}
}

func TestOpenSegmentUnreadable(t *testing.T) {
	g, _ := started()
	fs, dir := testDir(t)
	put(t, fs, Name(5), g.data)
	if err := fs.Unreadable("/log/"+Name(5), 0, 4096); err != nil {
		t.Fatal(err)
	}
	if _, err := OpenSegment(dir, 5, testUUID, false); err == nil || errors.Is(err, ErrCorrupt) || errors.Is(err, ErrVersion) {
		t.Errorf("a device that can't read the header: %v", err)
	}
}

func TestReferences(t *testing.T) {
	g, _ := started()
	mem, dir := testDir(t)
	put(t, mem, Name(5), g.data)
	s, err := OpenSegment(dir, 5, testUUID, false)
	if err != nil {
		t.Fatal(err)
	}
	m, err := s.Map()
	if err != nil {
		t.Fatal(err)
	}
	if again, err := s.Map(); err != nil || again != m {
		t.Errorf("mapped twice: %v", err)
	}
	s.Acquire()
	if s.References() != 2 {
		t.Errorf("%d references", s.References())
	}
	retired := 0
	if err := s.Retire(func() { retired++ }); err != nil || retired != 0 {
		t.Errorf("retired under a reader: %d, %v", retired, err)
	}
	if !bytes.Equal(m.Bytes(), g.data) {
		t.Error("the mapping went with the owner")
	}
	if err := s.Release(); err != nil || retired != 1 {
		t.Errorf("after the last reader: %d, %v", retired, err)
	}
	if m.Bytes() != nil {
		t.Error("still mapped")
	}
	if _, err := s.File.Size(); !errors.Is(err, fs.ErrClosed) {
		t.Errorf("still open: %v", err)
	}
}

// TestRecord reads each record that a message may hold by its place alone.
func TestRecord(t *testing.T) {
	g, _ := started()
	b := &batch{}
	rcpts := []mailq.Recipient{{Queue: "local", Address: "x", NotBefore: Time(1_700_000_000_000_000_000)}}
	b.enqueue(70, simple("local", []byte("first body")))
	b.add(RecipientsSize(rcpts), func(dst []byte, back int64) Record { return PutRecipients(dst, back, 70, 1, rcpts) })
	b.chunk(71, 0, []byte("a chunk"))
	b.enqueue(72, simple("local", []byte("second body")))
	b.add(AttemptSize, func(dst []byte, back int64) Record { return PutAttempt(dst, back, 72, 0, 1) })
	h := g.frame(Data, b)
	raw := g.at(h)
	type place struct {
		off  int64
		id   uint64
		kind Kind
		body string
	}
	var places []place
	bodies := map[Kind][]string{KindEnqueue: {"first body", "second body"}, KindChunk: {"a chunk"}}
	f, _, _ := g.decode(h.Pos.Offset())
	_ = f.ForEach(func(p Pos, r Record) error {
		k := r.Kind()
		w := place{off: p.Offset(), id: r.ID(), kind: k}
		if len(bodies[k]) > 0 {
			w.body, bodies[k] = bodies[k][0], bodies[k][1:]
		}
		places = append(places, w)
		return nil
	})
	read := func(s *Segment, w place) (Record, int64, error) {
		if w.kind == KindChunk {
			return s.AnyRecord(w.off, w.kind)
		}
		return s.Record(w.off, w.id)
	}
	s, _ := g.open(t)
	for _, w := range places {
		r, body, err := read(s, w)
		if w.kind == KindAttempt {
			if !errors.Is(err, ErrCorrupt) {
				t.Errorf("an attempt passes for a record of a message: %v", err)
			}
			continue
		}
		if err != nil || r.Kind() != w.kind || r.ID() != w.id {
			t.Errorf("%v: %v", w.kind, err)
			continue
		}
		if got := g.data[body:][:r.BodyLen()]; string(got) != w.body {
			t.Errorf("%v: its bytes are %q", w.kind, got)
		}
		// At no other place, under no other ID, is there a record.
		for _, off := range []int64{w.off + 8, w.off - 8, w.off + 1, 0, -1, g.Size - 8, g.Size, g.Size + 1<<40, 1<<63 - 1, -1 << 63} {
			if _, _, err := s.Record(off, w.id); !errors.Is(err, ErrCorrupt) {
				t.Errorf("%v at %d: %v", w.kind, off, err)
			}
		}
		if _, _, err := s.Record(w.off, w.id+1); !errors.Is(err, ErrCorrupt) {
			t.Errorf("%v under another ID: %v", w.kind, err)
		}
	}
	if _, _, err := s.AnyRecord(places[0].off, KindChunk); !errors.Is(err, ErrCorrupt) {
		t.Errorf("a message passes for a chunk: %v", err)
	}

	// Every bit that it depends on.
	for _, w := range []place{places[0], places[1]} {
		r, _, _ := s.Record(w.off, w.id)
		bits := make([]int64, 0, 1<<13)
		for at := range int64(FrameHeaderSize) {
			bits = append(bits, h.Pos.Offset()+at)
		}
		for at := range int64(len(r)) {
			bits = append(bits, w.off+at)
		}
		back := r.Back()
		if back < FrameHeaderSize {
			t.Fatal(back)
		}
		for _, at := range bits {
			for bit := range 8 {
				s.mapping.Bytes()[at] ^= 1 << bit
				if _, _, err := s.Record(w.off, w.id); !errors.Is(err, ErrCorrupt) {
					t.Errorf("bit %d of byte %#x flipped: %v", bit, at, err)
				}
				s.mapping.Bytes()[at] ^= 1 << bit
			}
		}
	}

	// A record that says, with a right checksum, that it belongs to another frame.
	for _, c := range []struct {
		name string
		back uint32
	}{{"before the segment", 1 << 31}, {"its own place", 0}, {"no frame there", 136}, {"another frame", uint32(places[0].off - g.First())}} {
		bad := slices.Clone(Record(raw[FrameHeaderSize:][:RecordLen(raw[FrameHeaderSize:])]))
		le.PutUint32(bad[8:], c.back)
		le.PutUint32(bad[12:], recordCRC(bad))
		copy(g.data[places[0].off:], bad)
		s, _ := g.open(t)
		if _, _, err := s.Record(places[0].off, 70); !errors.Is(err, ErrCorrupt) {
			t.Errorf("%s: %v", c.name, err)
		}
	}
}

// TestRecordWithABodyElsewhere: a record that claims bytes behind the bodies of its frame.
func TestRecordWithABodyElsewhere(t *testing.T) {
	for _, field := range []int{40, 48} { // length, offset
		g, _ := started()
		b := &batch{}
		b.enqueue(70, simple("local", []byte("first body")))
		h := g.frame(Data, b)
		off := h.Pos.Offset() + FrameHeaderSize
		r := Record(g.data[off:][:len(b.table)])
		le.PutUint32(r[field:], uint32(h.BodyLen)+1)
		r.finish()
		s, _ := g.open(t)
		if _, _, err := s.Record(off, 70); !errors.Is(err, ErrCorrupt) {
			t.Errorf("field at %d: %v", field, err)
		}
	}
}

// TestRecordAtTheEnd: a forged record whose frame header would lie behind the end of
// the file.
func TestRecordAtTheEnd(t *testing.T) {
	g := newImage(5, 1, SizeMin)
	r := PutAttempt(make([]byte, AttemptSize), 0, 9, 0, 1)
	copy(g.data[len(g.data)-AttemptSize:], r)
	e := simple("q", nil)
	enq := PutEnqueue(make([]byte, EnqueueSize(e, 0)), 0, e, &EnqueueFields{ID: 9})
	off := len(g.data) - AttemptSize - len(enq)
	copy(g.data[off:], enq)
	s, _ := g.open(t)
	if _, _, err := s.Record(int64(off), 9); !errors.Is(err, ErrCorrupt) {
		t.Error(err)
	}
	if _, _, err := s.AnyRecord(int64(len(g.data)-AttemptSize), KindAttempt); !errors.Is(err, ErrCorrupt) {
		t.Error(err)
	}
}
