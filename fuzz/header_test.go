package fuzz

import (
	"bytes"
	"encoding/binary"
	"errors"
	"slices"
	"testing"

	"github.com/mtawal/mtawal/segment"
)

var le = binary.LittleEndian

func FuzzSegmentHeader(f *testing.F) {
	g := readGolden(f)
	f.Add(g.data[:segment.HeaderSize], false)
	f.Add(g.data[:segment.HeaderSize], true)
	f.Add(make([]byte, segment.HeaderSize), true)
	f.Add(g.data[:100], false)
	f.Fuzz(func(t *testing.T, b []byte, repair bool) {
		if repair && len(b) >= segment.HeaderSize {
			b = slices.Clone(b)
			le.PutUint32(b[508:], segment.CRC(b[:508]))
		}
		var h segment.Header
		var err error
		bounded(t, len(b), func() { h, err = segment.DecodeHeader(b) })
		if err != nil {
			if errors.Is(err, segment.ErrCorrupt) {
				t.Fatalf("corruption that does not say of which file: %v", err)
			}
			return
		}
		if h.Alignment < segment.AlignmentMin || h.Alignment > segment.AlignmentMax || h.Alignment&(h.Alignment-1) != 0 ||
			h.Size < segment.SizeMin || h.Size > segment.SizeMax || h.Size%int64(h.Alignment) != 0 || h.Number == 0 || h.Number > segment.NumberMax ||
			h.First() < segment.HeaderSize || h.First() > h.Size {
			t.Fatalf("accepted: %+v", h)
		}
		again := h.Encode()
		if h2, err := segment.DecodeHeader(again); err != nil || h2 != h {
			t.Fatalf("%+v became %+v, %v", h, h2, err)
		}
		// What is not read may be anything.
		zero := func(b []byte) []byte {
			b = slices.Clone(b[:segment.HeaderSize])
			clear(b[16:20])
			clear(b[72:])
			return b
		}
		if !bytes.Equal(zero(again), zero(b)) {
			t.Fatalf("%+v is encoded to other bytes", h)
		}
	})
}
