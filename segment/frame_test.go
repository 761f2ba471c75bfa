package segment

import (
	"bytes"
	"errors"
	"math"
	"slices"
	"testing"

	"github.com/mtawal/mtawal/mailq"
	"pgregory.net/rapid"
)

// full is a frame with several records, bodies of uneven lengths and padding.
func full(g *image) FrameHeader {
	b := &batch{}
	b.enqueue(5, simple("local", []byte("Subject: one\r\n\r\nbody one")))
	b.settle(4, SettleRun{First: 0, Count: 1, Result: mailq.Failed, Note: []byte("550")})
	b.enqueue(6, simple("smtp:example.org", bytes.Repeat([]byte("x"), 700)))
	b.chunk(9, 2, bytes.Repeat([]byte("chunk"), 100))
	b.enqueue(7, simple("local", nil))
	return g.frame(Data, b)
}

func TestFrameRoundTrip(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		g := newImage(uint32(rapid.IntRange(1, NumberMax).Draw(t, "number")), rapid.Uint64().Draw(t, "salt"), 4<<20)
		g.Alignment = 1 << rapid.IntRange(12, 16).Draw(t, "alignment bits")
		g.off = g.First()
		g.prev.CRC = rapid.Uint32().Draw(t, "previous")
		g.next = FrameHeader{Epoch: rapid.Uint64().Draw(t, "epoch"), Nonce: rapid.Uint64().Draw(t, "nonce"), Lease: rapid.Uint64().Draw(t, "lease"), Time: rapid.Int64().Draw(t, "time")}
		b := &batch{}
		var want []Record
		for range rapid.IntRange(0, 12).Draw(t, "records") {
			id := rapid.Uint64Min(1).Draw(t, "id")
			switch rapid.IntRange(0, 3).Draw(t, "kind") {
			case 0:
				m := simple(rapid.StringN(1, 20, 255).Draw(t, "queue"), rapid.SliceOfN(rapid.Byte(), 0, 3000).Draw(t, "body"))
				want = append(want, b.enqueue(id, m))
			case 1:
				want = append(want, b.settle(id, SettleRun{Count: 1, Result: mailq.Delivered}))
			case 2:
				want = append(want, b.chunk(id, 3, rapid.SliceOfN(rapid.Byte(), 0, 3000).Draw(t, "chunk")))
			case 3:
				want = append(want, b.add(AttemptSize, func(dst []byte, back int64) Record { return PutAttempt(dst, back, id, 1, 2) }))
			}
		}
		h := g.frame(FrameKind(rapid.IntRange(int(Data), int(Open)).Draw(t, "frame kind")), b)
		if h.Len != FrameSize(int64(len(b.table)), int64(len(b.body)), g.Alignment) || h.Len%int64(g.Alignment) != 0 || h.BodyOff%bodyAlign != 0 {
			t.Fatalf("laid out as %+v", h)
		}
		f, ok, err := g.decode(h.Pos.Offset())
		if !ok || err != nil {
			t.Fatalf("not decoded: %v, %v", ok, err)
		}
		if f.FrameHeader != h || f.End() != MakePos(g.Number, g.off) {
			t.Fatalf("got %+v, want %+v", f.FrameHeader, h)
		}
		if !f.Whole() {
			t.Fatal("not whole")
		}
		n := 0
		err = f.ForEach(func(p Pos, r Record) error {
			// want[n] points into a table that may have grown elsewhere since; its bytes are the same.
			if !bytes.Equal(r, want[n]) || cap(r) != len(r) {
				t.Fatalf("record %d differs", n)
			}
			if p != h.Pos+Pos(r.Back()) {
				t.Fatalf("record %d at %v says that it is %d behind %v", n, p, r.Back(), h.Pos)
			}
			if d, ok, err := DecodeRecord(g.data[p.Offset():]); !ok || err != nil || !bytes.Equal(d, r) {
				t.Fatalf("record %d is not found at its place: %v, %v", n, ok, err)
			}
			n++
			return nil
		})
		if err != nil || n != len(want) {
			t.Fatalf("%d records of %d, %v", n, len(want), err)
		}
		again := make([]byte, FrameHeaderSize)
		f.Encode(again)
		if !bytes.Equal(again, g.data[h.Pos.Offset():][:FrameHeaderSize]) {
			t.Fatal("the header is encoded to other bytes")
		}
	})
}

func TestForEachEndsWithTheError(t *testing.T) {
	g := newImage(1, 1, SizeMin)
	h := full(g)
	f, _, _ := g.decode(h.Pos.Offset())
	stop, n := errors.New("stop"), 0
	err := f.ForEach(func(Pos, Record) error {
		if n++; n == 2 {
			return stop
		}
		return nil
	})
	if !errors.Is(err, stop) || n != 2 {
		t.Errorf("%d records, %v", n, err)
	}
}

// TestFrameFlippedBits flips every bit of a frame: in header and table it must be
// refused, in a body the frame must not be whole, in the padding nothing changes.
func TestFrameFlippedBits(t *testing.T) {
	g := newImage(3, 0x5a17, SizeMin)
	full(g)
	h := full(g)
	b := g.at(h)
	owned := make([]bool, h.Len)
	f, _, _ := g.decode(h.Pos.Offset())
	_ = f.ForEach(func(_ Pos, r Record) error {
		for i := range r.BodyLen() {
			owned[int64(h.BodyOff)+r.BodyOff()+i] = true
		}
		return nil
	})
	table := int64(FrameHeaderSize) + int64(h.TableLen)
	var refused, torn, padding int
	for i := range h.Len * 8 {
		at := i / 8
		b[at] ^= 1 << (i % 8)
		f, ok, err := g.decode(h.Pos.Offset())
		switch {
		case err != nil:
			t.Fatalf("bit %d of byte %d: %v", i%8, at, err)
		case at < table:
			if ok {
				t.Errorf("bit %d of byte %d: accepted", i%8, at)
			}
			refused++
		case owned[at]:
			if !ok || f.Whole() {
				t.Errorf("bit %d of byte %d, in a body: ok %v, whole %v", i%8, at, ok, ok)
			}
			torn++
		default:
			if !ok || !f.Whole() || f.FrameHeader != h {
				t.Errorf("bit %d of byte %d, in the padding: not whole", i%8, at)
			}
			padding++
		}
		b[at] ^= 1 << (i % 8)
	}
	if refused == 0 || torn == 0 || padding == 0 {
		t.Errorf("%d bits in header and table, %d in bodies, %d in padding", refused, torn, padding)
	}
}

func TestFrameTruncated(t *testing.T) {
	g := newImage(3, 0x5a17, SizeMin)
	h := full(g)
	b := g.at(h)
	for n := range int(h.Len) {
		d, ok, err := DecodeFrameHeader(&g.Header, h.Pos.Offset(), b[:n:n])
		if err != nil || ok != (n >= FrameHeaderSize) {
			t.Fatalf("header in %d bytes: %v, %v", n, ok, err)
		}
		if !ok {
			d = h
		}
		f, ok, err := NewFrame(d, b[:n:n])
		if err != nil || ok != (n >= FrameHeaderSize+int(h.TableLen)) {
			t.Fatalf("table in %d bytes: %v, %v", n, ok, err)
		}
		if whole := ok && f.Whole(); whole != (n >= int(h.BodyOff)+int(h.BodyLen)) {
			t.Fatalf("bodies in %d bytes: whole %v", n, whole)
		}
		// What a torn write leaves: a prefix, zeros behind it.
		torn := append(slices.Clone(b[:n]), make([]byte, len(b)-n)...)
		d, ok, err = DecodeFrameHeader(&g.Header, h.Pos.Offset(), torn)
		if ok {
			f, ok, err = NewFrame(d, torn)
		}
		if err != nil || ok && f.Whole() && !bytes.Equal(torn[:int(h.BodyOff)+int(h.BodyLen)], b[:int(h.BodyOff)+int(h.BodyLen)]) {
			t.Fatalf("%d bytes and zeros: %v, %v", n, ok, err)
		}
	}
}

// TestFrameLengthsOutOfRange puts extreme values into the lengths of a header, with a
// right checksum.
func TestFrameLengthsOutOfRange(t *testing.T) {
	g := newImage(1, 7, SizeMin)
	h := full(g)
	good := g.at(h)
	extremes := []uint64{1<<31 - 8, 1 << 31, 1<<32 - 4096, 1<<32 - 8, 1<<32 - 1, 1 << 32, 1<<32 + 4096, 1<<63 - 1, 1 << 63, 1<<63 + 4096, math.MaxUint64 - 4095, math.MaxUint64}
	for _, field := range []struct {
		name      string
		at, width int
	}{{"records", 12, 4}, {"table length", 84, 4}, {"body offset", 92, 4}, {"body length", 96, 8}, {"frame length", 104, 8}} {
		for _, v := range extremes {
			if field.width == 4 && v > math.MaxUint32 {
				continue
			}
			b := slices.Clone(good)
			if field.width == 4 {
				le.PutUint32(b[field.at:], uint32(v))
			} else {
				le.PutUint64(b[field.at:], v)
			}
			le.PutUint32(b[4:], CRC(b[8:FrameHeaderSize]))
			var ok bool
			var err error
			if a := testing.AllocsPerRun(1, func() { _, ok, err = DecodeFrameHeader(&g.Header, h.Pos.Offset(), b) }); a != 0 {
				t.Errorf("%s %#x: %v allocations", field.name, v, a)
			}
			if ok || err != nil {
				t.Errorf("%s %#x: ok %v, %v", field.name, v, ok, err)
			}
		}
	}
	// Pairs whose sum overflows.
	for _, v := range [][2]uint64{{1<<32 - 512, 1 << 32}, {512, math.MaxUint64 - 511}, {4096, 1<<64 - 4096}, {0, 0}} {
		b := slices.Clone(good)
		le.PutUint32(b[92:], uint32(v[0]))
		le.PutUint64(b[96:], v[1])
		le.PutUint32(b[4:], CRC(b[8:FrameHeaderSize]))
		if _, ok, err := DecodeFrameHeader(&g.Header, h.Pos.Offset(), b); ok || err != nil {
			t.Errorf("body of %#x at %#x: ok %v, %v", v[1], v[0], ok, err)
		}
	}
	// A header that no decoder returned must not make NewFrame panic either.
	for _, change := range []func(*FrameHeader){
		func(h *FrameHeader) { h.BodyLen = -1 },
		func(h *FrameHeader) { h.BodyLen = math.MinInt64 },
		func(h *FrameHeader) { h.BodyLen = math.MaxInt64 },
		func(h *FrameHeader) { h.BodyOff = math.MaxUint32 },
		func(h *FrameHeader) { h.TableLen = math.MaxUint32 },
	} {
		d := h
		change(&d)
		if f, ok, _ := NewFrame(d, good); ok && f.Whole() {
			t.Errorf("%+v: whole", d)
		}
	}
}

func TestFrameHeaderRules(t *testing.T) {
	g := newImage(3, 0x5a17, SizeMin)
	full(g)
	h := full(g)
	off := h.Pos.Offset()
	for _, c := range []struct {
		name    string
		change  func(b []byte)
		seg     func(s *Header)
		ok      bool
		version bool
	}{
		{name: "as it is", ok: true},
		{name: "unused bytes", change: func(b []byte) { b[10], b[120], b[127] = 1, 1, 1 }, ok: true},
		{name: "kind 0", change: func(b []byte) { b[8] = 0 }, version: true},
		{name: "kind 5", change: func(b []byte) { b[8] = 5 }, version: true},
		{name: "flags", change: func(b []byte) { b[9] = 1 }, version: true},
		{name: "unknown kind with lengths that do not nest", change: func(b []byte) { b[8] = 9; le.PutUint64(b[104:], 1<<63) }},
		{name: "segment number", change: func(b []byte) { b[16] = 4 }},
		{name: "segment number beyond 32 bits", change: func(b []byte) { b[20] = 1 }},
		{name: "other segment", seg: func(s *Header) { s.Number = 4 }},
		{name: "other salt", seg: func(s *Header) { s.Salt ^= 1 << 63 }},
		{name: "salt of an earlier life", change: func(b []byte) { b[24] ^= 1 }},
		{name: "position", change: func(b []byte) { le.PutUint64(b[32:], uint64(h.Pos)-4096) }},
		{name: "frame longer than the segment", change: func(b []byte) { le.PutUint64(b[104:], uint64(SizeMin-off+4096)) }},
		{name: "frame up to the end of the segment", change: func(b []byte) { le.PutUint64(b[104:], uint64(SizeMin-off)) }, ok: true},
		{name: "frame of no bytes", change: func(b []byte) { le.PutUint64(b[104:], 0) }},
		{name: "length not aligned", change: func(b []byte) { le.PutUint64(b[104:], uint64(h.Len)+512) }},
		{name: "alignment larger than the frame", seg: func(s *Header) { s.Alignment = 1 << 16 }},
		{name: "table length not a multiple of 8", change: func(b []byte) { le.PutUint32(b[84:], h.TableLen-4) }},
		{name: "table runs into the bodies", change: func(b []byte) { le.PutUint32(b[92:], FrameHeaderSize+h.TableLen-8) }},
		{name: "more records than the table holds", change: func(b []byte) { le.PutUint32(b[12:], h.TableLen/RecordHeaderSize+1) }},
		{name: "body longer than the frame", change: func(b []byte) { le.PutUint64(b[96:], uint64(h.Len)-uint64(h.BodyOff)+1) }},
	} {
		b, seg := slices.Clone(g.at(h)), g.Header
		if c.change != nil {
			c.change(b)
			le.PutUint32(b[4:], CRC(b[8:FrameHeaderSize]))
		}
		if c.seg != nil {
			c.seg(&seg)
		}
		d, ok, err := DecodeFrameHeader(&seg, off, b)
		if ok != c.ok || errors.Is(err, ErrVersion) != c.version || (err != nil) != c.version || errors.Is(err, ErrCorrupt) {
			t.Errorf("%s: ok %v, %v", c.name, ok, err)
		}
		if c.version && d.Promise != h.Promise {
			t.Errorf("%s: the promise is lost", c.name)
		}
		if !ok && err == nil && d != (FrameHeader{}) {
			t.Errorf("%s: refused and returned", c.name)
		}
	}
	if _, ok, err := DecodeFrameHeader(&g.Header, off+4096, g.at(h)); ok || err != nil {
		t.Errorf("a frame of another place: %v, %v", ok, err)
	}
}

// TestTableThatDoesNotParse: a table whose checksum is right was not torn, so it
// must not pass for the end of the log.
func TestTableThatDoesNotParse(t *testing.T) {
	for _, c := range []struct {
		name    string
		change  func(h *FrameHeader, table []byte)
		version bool
	}{
		{"length 0", func(_ *FrameHeader, b []byte) { le.PutUint32(b[4:], 0) }, false},
		{"length 8", func(_ *FrameHeader, b []byte) { le.PutUint32(b[4:], 8) }, false},
		{"length not a multiple of 8", func(_ *FrameHeader, b []byte) { le.PutUint32(b[4:], 20) }, false},
		{"length beyond the table", func(_ *FrameHeader, b []byte) { le.PutUint32(b[4:], uint32(len(b))+8) }, false},
		{"length 2^32-8", func(_ *FrameHeader, b []byte) { le.PutUint32(b[4:], 1<<32-8) }, false},
		{"zeros", func(_ *FrameHeader, b []byte) { clear(b) }, false},
		{"unknown kind", func(_ *FrameHeader, b []byte) { b[0] = 99 }, true},
		{"incompatible flag", func(_ *FrameHeader, b []byte) { b[1] = 4 }, true},
		{"body outside the frame", func(h *FrameHeader, b []byte) { le.PutUint64(b[40:], uint64(h.BodyLen)+1) }, false},
		{"body offset outside the frame", func(h *FrameHeader, b []byte) { le.PutUint32(b[48:], uint32(h.BodyLen)+1) }, false},
		{"a record too few", func(h *FrameHeader, _ []byte) { h.Records++ }, false},
		{"a record too many", func(h *FrameHeader, _ []byte) { h.Records-- }, false},
	} {
		g := newImage(3, 0x5a17, SizeMin)
		h := full(g)
		b := g.at(h)
		table := b[FrameHeaderSize : FrameHeaderSize+h.TableLen]
		c.change(&h, table)
		h.TableCRC = TableSum(h.Salt, h.Pos, table)
		h.Encode(b)
		_, ok, err := g.decode(h.Pos.Offset())
		if ok || errors.Is(err, ErrVersion) != c.version || errors.Is(err, ErrCorrupt) == c.version {
			t.Errorf("%s: ok %v, %v", c.name, ok, err)
		}
		s, _ := g.open(t)
		if _, err := s.Scan(g.First(), FrameHeader{Epoch: 1, Nonce: g.next.Nonce}, func(*Frame) error { return nil }); err == nil {
			t.Errorf("%s: Scan takes it for the end of the log", c.name)
		}
	}
}

func TestFollows(t *testing.T) {
	prev := FrameHeader{CRC: 77, Epoch: 5, Nonce: 9}
	for _, c := range []struct {
		name string
		h    FrameHeader
		want bool
	}{
		{"chained", FrameHeader{Kind: Data, Previous: 77, Epoch: 5, Nonce: 9}, true},
		{"marker", FrameHeader{Kind: Marker, Previous: 77, Epoch: 5, Nonce: 9}, true},
		{"seal", FrameHeader{Kind: Seal, Previous: 77, Epoch: 5, Nonce: 9}, true},
		{"behind another frame", FrameHeader{Kind: Data, Previous: 78, Epoch: 5, Nonce: 9}, false},
		{"earlier epoch", FrameHeader{Kind: Data, Previous: 77, Epoch: 4, Nonce: 9}, false},
		{"later epoch without an Open", FrameHeader{Kind: Data, Previous: 77, Epoch: 6, Nonce: 9}, false},
		{"other nonce", FrameHeader{Kind: Data, Previous: 77, Epoch: 5, Nonce: 8}, false},
		{"open", FrameHeader{Kind: Open, Previous: 77, Epoch: 6, Nonce: 1}, true},
		{"open, epochs later", FrameHeader{Kind: Open, Previous: 77, Epoch: 9, Nonce: 1}, true},
		{"open of the same epoch", FrameHeader{Kind: Open, Previous: 77, Epoch: 5, Nonce: 9}, false},
		{"open of an earlier epoch", FrameHeader{Kind: Open, Previous: 77, Epoch: 4, Nonce: 1}, false},
		{"open behind another frame", FrameHeader{Kind: Open, Previous: 0, Epoch: 6, Nonce: 1}, false},
	} {
		if got := c.h.Follows(&prev); got != c.want {
			t.Errorf("%s: %v", c.name, got)
		}
	}
	first := FrameHeader{Kind: Open, Epoch: 1, Nonce: 1}
	if !first.Follows(&FrameHeader{}) {
		t.Error("the first frame of a log does not follow nothing")
	}
	first.Kind = Data
	if first.Follows(&FrameHeader{}) {
		t.Error("a log may begin without an Open")
	}
}

func TestBefore(t *testing.T) {
	_, frames := started()
	for _, h := range frames {
		before := h.Before()
		if !h.Follows(&before) {
			t.Errorf("%v %v does not follow the header made up before it", h.Pos, h.Kind)
		}
		other := h
		other.Previous++
		if other.Follows(&before) {
			t.Errorf("another frame follows what was before %v", h.Pos)
		}
	}
}
