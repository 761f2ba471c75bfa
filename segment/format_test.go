package segment

import (
	"errors"
	"hash/crc32"
	"math"
	"strings"
	"testing"

	"pgregory.net/rapid"
)

func TestHeaderRoundTrip(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		h := Header{
			Alignment: 1 << rapid.IntRange(12, 20).Draw(t, "alignment bits"),
			Number:    uint32(rapid.IntRange(1, NumberMax).Draw(t, "number")),
			Salt:      rapid.Uint64().Draw(t, "salt"),
			UUID:      [16]byte(rapid.SliceOfN(rapid.Byte(), 16, 16).Draw(t, "uuid")),
			Created:   rapid.Int64().Draw(t, "created"),
		}
		a := int64(h.Alignment)
		h.Size = rapid.Int64Range((SizeMin+a-1)/a, SizeMax/a).Draw(t, "size") * a
		b := h.Encode()
		if int64(len(b)) != h.First() {
			t.Fatalf("%d bytes in front of the first frame at %d", len(b), h.First())
		}
		for i, c := range b[HeaderSize:] {
			if c != 0 {
				t.Fatalf("byte %d is %#x", HeaderSize+i, c)
			}
		}
		got, err := DecodeHeader(b)
		if err != nil || got != h {
			t.Fatalf("got %+v, %v, want %+v", got, err, h)
		}
	})
}

func TestHeaderFlippedBitsAndTruncation(t *testing.T) {
	b := newImage(3, 0x5a17, SizeMin).Header.Encode()
	for i := range HeaderSize * 8 {
		b[i/8] ^= 1 << (i % 8)
		h, err := DecodeHeader(b)
		if err == nil {
			t.Errorf("bit %d of byte %d flipped: accepted as %+v", i%8, i/8, h)
		}
		// The version can't be covered by a checksum whose place it decides.
		if inVersion := i/8 >= 8 && i/8 < 12; errors.Is(err, ErrVersion) != inVersion {
			t.Errorf("bit %d of byte %d flipped: %v", i%8, i/8, err)
		}
		b[i/8] ^= 1 << (i % 8)
	}
	for n := range HeaderSize {
		if _, err := DecodeHeader(b[:n:n]); err == nil || errors.Is(err, ErrVersion) {
			t.Errorf("%d bytes: %v", n, err)
		}
	}
	if _, err := DecodeHeader(b[:HeaderSize]); err != nil {
		t.Error(err)
	}
}

func TestHeaderRules(t *testing.T) {
	u32, u64 := le.PutUint32, le.PutUint64
	for _, c := range []struct {
		name    string
		change  func(b []byte)
		want    string // in the error; empty: valid
		version bool
	}{
		{"as it is", func([]byte) {}, "", false},
		{"compatible features", func(b []byte) { u32(b[16:], math.MaxUint32) }, "", false},
		{"unused bytes", func(b []byte) { b[72], b[507] = 1, 1 }, "", false},
		{"largest number", func(b []byte) { u64(b[24:], NumberMax) }, "", false},
		{"largest size", func(b []byte) { u64(b[40:], SizeMax) }, "", false},
		{"magic", func(b []byte) { b[0] = 'm' }, "no magic", false},
		{"zeros", func(b []byte) { clear(b) }, "no magic", false},
		{"version 0", func(b []byte) { u32(b[8:], 0) }, "format 0", true},
		{"version 2", func(b []byte) { u32(b[8:], 2) }, "format 2", true},
		{"incompatible feature 0", func(b []byte) { u32(b[12:], 1) }, "features 0x1", true},
		{"incompatible feature 31", func(b []byte) { u32(b[12:], 1<<31) }, "features 0x80000000", true},
		{"alignment 0", func(b []byte) { u32(b[20:], 0) }, "alignment 0", false},
		{"alignment 512", func(b []byte) { u32(b[20:], 512) }, "alignment 512", false},
		{"alignment 12288", func(b []byte) { u32(b[20:], 12288) }, "alignment 12288", false},
		{"alignment 2 MiB", func(b []byte) { u32(b[20:], 2<<20) }, "alignment 2097152", false},
		{"alignment 2^31", func(b []byte) { u32(b[20:], 1<<31) }, "alignment 2147483648", false},
		{"number 0", func(b []byte) { u64(b[24:], 0) }, "number 0", false},
		{"number 2^31", func(b []byte) { u64(b[24:], NumberMax+1) }, "number 2147483648", false},
		{"number 2^32+1", func(b []byte) { u64(b[24:], 1<<32+1) }, "number 4294967297", false},
		{"size 0", func(b []byte) { u64(b[40:], 0) }, "size 0", false},
		{"size below the least", func(b []byte) { u64(b[40:], SizeMin-4096) }, "size 61440", false},
		{"size not aligned", func(b []byte) { u64(b[40:], SizeMin+512) }, "size 66048", false},
		{"size above the most", func(b []byte) { u64(b[40:], SizeMax+4096) }, "size 1073745920", false},
		{"size 2^63", func(b []byte) { u64(b[40:], 1<<63) }, "size 9223372036854775808", false},
		{"size of all ones", func(b []byte) { u64(b[40:], math.MaxUint64-4095) }, "size", false},
		{"size below the alignment", func(b []byte) { u32(b[20:], 1<<20) }, "size 65536", false},
	} {
		b := newImage(3, 0x5a17, SizeMin).Header.Encode()
		c.change(b)
		le.PutUint32(b[508:], CRC(b[:508]))
		_, err := DecodeHeader(b)
		if c.want == "" {
			if err != nil {
				t.Errorf("%s: %v", c.name, err)
			}
			continue
		}
		if err == nil || !strings.Contains(err.Error(), c.want) || errors.Is(err, ErrVersion) != c.version || errors.Is(err, ErrCorrupt) {
			t.Errorf("%s: %v", c.name, err)
		}
	}
}

// TestChecksums pins them to another implementation and to known values.
func TestChecksums(t *testing.T) {
	if CRC([]byte("123456789")) != 0xe3069283 {
		t.Error("CRC is not CRC-32C")
	}
	rapid.Check(t, func(t *rapid.T) {
		id, salt, pos := rapid.Uint64().Draw(t, "id"), rapid.Uint64().Draw(t, "salt"), rapid.Uint64().Draw(t, "pos")
		b := rapid.SliceOf(rapid.Byte()).Draw(t, "bytes")
		table := crc32.MakeTable(crc32.Castagnoli)
		if want := crc32.Checksum(append(le.AppendUint64(nil, id), b...), table); BodyCRC(id, b) != want || CRCUpdate(BodyCRCSeed(id), b) != want {
			t.Fatalf("BodyCRC is %x, want %x", BodyCRC(id, b), want)
		}
		if want := crc32.Checksum(append(le.AppendUint64(le.AppendUint64(nil, salt), pos), b...), table); TableSum(salt, Pos(pos), b) != want {
			t.Fatalf("TableSum is %x, want %x", TableSum(salt, Pos(pos), b), want)
		}
	})
}

func TestPos(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		n, off := rapid.Uint32().Draw(t, "number"), int64(rapid.Uint32().Draw(t, "offset"))
		p := MakePos(n, off)
		if p.Segment() != n || p.Offset() != off {
			t.Fatalf("%v is %d, %d", p, p.Segment(), p.Offset())
		}
		if off < math.MaxUint32 && MakePos(n, off+1) != p+1 || n < math.MaxUint32 && MakePos(n+1, 0) <= p {
			t.Fatalf("%v is not in order", p)
		}
	})
	if s := MakePos(0x1f, 0x2000).String(); s != "1f/2000" {
		t.Error(s)
	}
}

func TestNames(t *testing.T) {
	for _, n := range []uint32{1, 9, 10, 0xabcdef, NumberMax} {
		if got, ok := ParseName(Name(n)); !ok || got != n {
			t.Errorf("%s: %d, %v", Name(n), got, ok)
		}
	}
	for _, s := range []string{"", "seg-", "seg-00000000", "seg-1", "seg-0000000A", "seg-000000001", "seg-0000000g", " seg-00000001", "seg- 0000001", "seg-+0000001",
		"seg-0x000001", "seg-00000001 ", "seg-00000001\n", "free-00000001", "tmp-seg-00000001", "seg-00000001.old", "../seg-00000001"} {
		if n, ok := ParseName(s); ok {
			t.Errorf("%q is taken for segment %d", s, n)
		}
	}
}

// TestVerdicts: every combination of finding and promise has exactly one row, and
// the rows are those of the crash argument.
func TestVerdicts(t *testing.T) {
	want := map[Finding][2]Decision{ // not promised, promised
		Whole:       {Replay, Replay},
		BodyBad:     {Cut, SetAside},
		FrameBad:    {Cut, Corrupt},
		NoSuccessor: {Corrupt, Corrupt},
		Unreadable:  {Fail, Fail},
	}
	for f := Whole; f <= Unreadable; f++ {
		for i, promised := range []bool{false, true} {
			rows := 0
			for _, v := range Verdicts {
				if v.Finding == f && v.Promised == promised {
					rows++
					if v.Why == "" {
						t.Errorf("finding %d, promised %v: no reason", f, promised)
					}
				}
			}
			if rows != 1 {
				t.Errorf("finding %d, promised %v: %d rows", f, promised, rows)
			}
			if got := Judge(f, promised); got != want[f][i] {
				t.Errorf("finding %d, promised %v: decision %d, want %d", f, promised, got, want[f][i])
			}
		}
	}
	if len(Verdicts) != 2*int(Unreadable+1) {
		t.Errorf("%d rows", len(Verdicts))
	}
	if Judge(Unreadable+1, true) != Fail || Judge(255, false) != Fail {
		t.Error("what is not in the table is decided")
	}
}
