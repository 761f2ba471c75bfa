package fuzz

import (
	"bytes"
	"slices"
	"testing"

	"github.com/mtawal/mtawal/segment"
)

// What FuzzFrame puts right before it decodes.
const (
	repairPlace = 1 << iota // magic, segment number, salt, position and header checksum
	repairTable             // the table's checksum
)

func FuzzFrame(f *testing.F) {
	g := readGolden(f)
	seg := g.Header
	off := g.frames[0].Pos.Offset()
	for i := range g.frames {
		h := &g.frames[i].FrameHeader
		for _, repair := range []byte{0, repairPlace, repairPlace | repairTable} {
			f.Add(g.data[h.Pos.Offset():][:min(h.Len, int64(h.BodyOff)+h.BodyLen)], repair)
		}
	}
	f.Fuzz(func(t *testing.T, b []byte, repair byte) {
		b = slices.Clone(b)
		if len(b) >= segment.FrameHeaderSize && repair&repairPlace != 0 {
			copy(b, "MWFR")
			le.PutUint64(b[16:], uint64(seg.Number))
			le.PutUint64(b[24:], seg.Salt)
			le.PutUint64(b[32:], uint64(segment.MakePos(seg.Number, off)))
			if table := b[segment.FrameHeaderSize:]; repair&repairTable != 0 && uint64(le.Uint32(b[84:])) <= uint64(len(table)) {
				table = table[:le.Uint32(b[84:])]
				le.PutUint32(b[88:], segment.TableSum(seg.Salt, segment.MakePos(seg.Number, off), table))
			}
			le.PutUint32(b[4:], segment.CRC(b[8:segment.FrameHeaderSize]))
		}
		bounded(t, len(b), func() { checkFrame(t, &seg, off, b) })
	})
}

func checkFrame(t *testing.T, seg *segment.Header, off int64, b []byte) {
	h, ok, err := segment.DecodeFrameHeader(seg, off, b)
	if err != nil {
		oneKind(t, err)
	}
	if !ok || err != nil {
		return
	}
	if h.Pos != segment.MakePos(seg.Number, off) || h.Salt != seg.Salt || h.Kind < segment.Data || h.Kind > segment.Open {
		t.Fatalf("accepted at %#x: %+v", off, h)
	}
	if h.Len <= 0 || h.Len > seg.Size-off || h.Len%int64(seg.Alignment) != 0 || h.BodyLen < 0 || int64(h.BodyOff) > h.Len-h.BodyLen ||
		segment.FrameHeaderSize+int64(h.TableLen) > int64(h.BodyOff) {
		t.Fatalf("lengths do not nest: %+v", h)
	}
	// Encoding what was decoded gives the same bytes, where they mean something.
	again := make([]byte, segment.FrameHeaderSize)
	h2 := h
	h2.Encode(again)
	zero := func(b []byte) []byte {
		b = slices.Clone(b[:segment.FrameHeaderSize])
		clear(b[4:8])
		clear(b[10:12])
		clear(b[120:])
		return b
	}
	if !bytes.Equal(zero(again), zero(b)) {
		t.Fatalf("%+v is encoded to other bytes", h)
	}
	if h3, ok, err := segment.DecodeFrameHeader(seg, off, again); !ok || err != nil || h3 != h2 {
		t.Fatalf("%+v became %+v, %v, %v", h2, h3, ok, err)
	}
	f, ok, err := segment.NewFrame(h, b)
	if err != nil {
		oneKind(t, err)
	}
	if !ok || err != nil {
		return
	}
	n, length := uint32(0), 0
	err = f.ForEach(func(p segment.Pos, r segment.Record) error {
		if p != h.Pos+segment.FrameHeaderSize+segment.Pos(length) {
			t.Fatalf("record %d at %v", n, p)
		}
		if r.BodyOff()+r.BodyLen() > h.BodyLen {
			t.Fatalf("the body of record %d, %d bytes at %d, lies outside of %d", n, r.BodyLen(), r.BodyOff(), h.BodyLen)
		}
		checkRecord(t, r)
		n, length = n+1, length+len(r)
		return nil
	})
	if err != nil || n != h.Records || length != len(f.Table) || length != int(h.TableLen) {
		t.Fatalf("%d records with %d bytes, header %+v, %v", n, length, h, err)
	}
	f.Whole()
}
