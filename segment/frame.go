package segment

import (
	"fmt"

	"github.com/mtawal/mtawal/internal/barrier"
)

// FrameKind is what a frame is for.
type FrameKind uint8

// The kinds of frames.
const (
	Data   FrameKind = 1 // commits
	Marker FrameKind = 2 // a promise, and attempts that waited for a ride
	Seal   FrameKind = 3 // the last in its segment; names the successor
	Open   FrameKind = 4 // the first of each opening
)

// String returns the kind in a word.
func (k FrameKind) String() string {
	switch k {
	case Data:
		return "data"
	case Marker:
		return "marker"
	case Seal:
		return "seal"
	case Open:
		return "open"
	}
	return fmt.Sprintf("FrameKind(%d)", uint8(k))
}

// FrameHeader is the header of a frame.
type FrameHeader struct {
	Kind     FrameKind
	Records  uint32
	Salt     uint64
	Pos      Pos
	Epoch    uint64
	Nonce    uint64
	Promise  Pos
	Lease    uint64
	Time     int64 // Unix ns
	Previous uint32
	TableLen uint32
	TableCRC uint32
	BodyOff  uint32
	BodyLen  int64
	Len      int64
	Total    uint64

	// CRC is the checksum of the header, to which the next frame is chained.
	// Encode and DecodeFrameHeader set it.
	CRC uint32
}

// End is the position behind the frame.
func (h *FrameHeader) End() Pos { return h.Pos + Pos(h.Len) }

// Layout sets BodyOff and Len for a table and bodies of the lengths that are set.
func (h *FrameHeader) Layout(alignment uint32) {
	h.BodyOff = uint32(roundUp(FrameHeaderSize+int64(h.TableLen), bodyAlign))
	h.Len = roundUp(int64(h.BodyOff)+h.BodyLen, int64(alignment))
}

// FrameSize is the length of a frame with a table and bodies of these lengths.
func FrameSize(table, body int64, alignment uint32) int64 {
	return roundUp(roundUp(FrameHeaderSize+table, bodyAlign)+body, int64(alignment))
}

func roundUp(n, unit int64) int64 { return (n + unit - 1) / unit * unit }

// Encode writes the header into the first FrameHeaderSize bytes of b and sets
// h.CRC.
func (h *FrameHeader) Encode(b []byte) {
	b = b[:FrameHeaderSize]
	le.PutUint32(b[0:], frameMagic)
	b[8], b[9], b[10], b[11] = byte(h.Kind), 0, 0, 0
	le.PutUint32(b[12:], h.Records)
	le.PutUint64(b[16:], uint64(h.Pos.Segment()))
	le.PutUint64(b[24:], h.Salt)
	le.PutUint64(b[32:], uint64(h.Pos))
	le.PutUint64(b[40:], h.Epoch)
	le.PutUint64(b[48:], h.Nonce)
	le.PutUint64(b[56:], uint64(h.Promise))
	le.PutUint64(b[64:], h.Lease)
	le.PutUint64(b[72:], uint64(h.Time))
	le.PutUint32(b[80:], h.Previous)
	le.PutUint32(b[84:], h.TableLen)
	le.PutUint32(b[88:], h.TableCRC)
	le.PutUint32(b[92:], h.BodyOff)
	le.PutUint64(b[96:], uint64(h.BodyLen))
	le.PutUint64(b[104:], uint64(h.Len))
	le.PutUint64(b[112:], h.Total)
	le.PutUint64(b[120:], 0)
	h.CRC = CRC(b[8:])
	le.PutUint32(b[4:], h.CRC)
}

// DecodeFrameHeader reads the frame header at offset off of a segment, from the
// bytes that stand there. ok is false where no valid header of this place
// stands. A valid header of an unknown kind is ErrVersion, and returned.
func DecodeFrameHeader(seg *Header, off int64, b []byte) (h FrameHeader, ok bool, err error) {
	if len(b) < FrameHeaderSize {
		return h, false, nil
	}
	b = b[:FrameHeaderSize]
	if le.Uint32(b) != frameMagic || le.Uint64(b[24:]) != seg.Salt || le.Uint64(b[16:]) != uint64(seg.Number) {
		return h, false, nil
	}
	crc := le.Uint32(b[4:])
	if CRC(b[8:]) != crc {
		return h, false, nil
	}
	bodyLen, frameLen := le.Uint64(b[96:]), le.Uint64(b[104:])
	h = FrameHeader{
		Kind:     FrameKind(b[8]),
		Records:  le.Uint32(b[12:]),
		Salt:     seg.Salt,
		Pos:      Pos(le.Uint64(b[32:])),
		Epoch:    le.Uint64(b[40:]),
		Nonce:    le.Uint64(b[48:]),
		Promise:  Pos(le.Uint64(b[56:])),
		Lease:    le.Uint64(b[64:]),
		Time:     int64(le.Uint64(b[72:])),
		Previous: le.Uint32(b[80:]),
		TableLen: le.Uint32(b[84:]),
		TableCRC: le.Uint32(b[88:]),
		BodyOff:  le.Uint32(b[92:]),
		BodyLen:  int64(bodyLen),
		Len:      int64(frameLen),
		Total:    le.Uint64(b[112:]),
		CRC:      crc,
	}
	if h.Pos != MakePos(seg.Number, off) {
		return FrameHeader{}, false, nil
	}
	room := uint64(seg.Size - off)
	if frameLen > room || frameLen%uint64(seg.Alignment) != 0 || bodyLen > frameLen ||
		uint64(h.BodyOff)+bodyLen > frameLen || FrameHeaderSize+uint64(h.TableLen) > uint64(h.BodyOff) ||
		frameLen == 0 || h.TableLen > TableMax || h.TableLen%8 != 0 || uint64(h.Records)*RecordHeaderSize > uint64(h.TableLen) {
		return FrameHeader{}, false, nil
	}
	if b[9] != 0 || h.Kind < Data || h.Kind > Open {
		return h, false, fmt.Errorf("frame at %v: kind %d, flags %#x: %w", h.Pos, b[8], b[9], ErrVersion)
	}
	return h, true, nil
}

// Follows reports whether a frame is chained to the one before it. prev is the
// zero value before the first frame of a log.
func (h *FrameHeader) Follows(prev *FrameHeader) bool {
	if h.Previous != prev.CRC && !barrier.Gone(barrier.Chain) {
		return false
	}
	if h.Kind == Open {
		return h.Epoch > prev.Epoch
	}
	return h.Epoch == prev.Epoch && h.Nonce == prev.Nonce || barrier.Gone(barrier.Epoch)
}

// TableSum is the checksum of a record table at a place.
func TableSum(salt uint64, pos Pos, table []byte) uint32 {
	return CRCUpdate(crcUint64(crcUint64(0, salt), uint64(pos)), table)
}

// Frame is a frame in memory, a view of bytes that belong to someone else.
type Frame struct {
	FrameHeader
	Table []byte
	Body  []byte // nil where bodies were not read
}

// NewFrame cuts the frame with this header out of the bytes that begin where it
// does, and checks table and records, not bodies. ok is false if the table does not
// match its checksum. One that does was written whole, so what does not parse in it
// was not torn: an unknown kind of record is ErrVersion, anything else a *CorruptError.
func NewFrame(h FrameHeader, b []byte) (f Frame, ok bool, err error) {
	if int64(len(b)) < FrameHeaderSize+int64(h.TableLen) || h.BodyLen < 0 {
		return f, false, nil
	}
	f = Frame{FrameHeader: h, Table: b[FrameHeaderSize : FrameHeaderSize+int64(h.TableLen)]}
	if off := int64(h.BodyOff); off <= int64(len(b)) && h.BodyLen <= int64(len(b))-off {
		f.Body = b[off : off+h.BodyLen]
	}
	if TableSum(h.Salt, h.Pos, f.Table) != h.TableCRC {
		return f, false, nil
	}
	n, off := uint32(0), int64(FrameHeaderSize)
	for rest := f.Table; len(rest) > 0; n++ {
		r, err := decodeRecord(rest)
		if err != nil {
			return f, false, fmt.Errorf("record %d of the frame at %v: %w", n, h.Pos, err)
		}
		if r == nil {
			return f, false, f.corrupt(off, "not a record, in a table that matches its checksum")
		}
		if e, _ := r.body(); !e.within(h.BodyLen) {
			return f, false, f.corrupt(off, "the body of the record lies outside its frame")
		}
		rest, off = rest[len(r):], off+int64(len(r))
	}
	if n != h.Records {
		return f, false, f.corrupt(0, fmt.Sprintf("%d records where the header says %d", n, h.Records))
	}
	return f, true, nil
}

func (f *Frame) corrupt(off int64, reason string) error {
	n := f.Pos.Segment()
	return &CorruptError{Segment: n, File: Name(n), Offset: f.Pos.Offset() + off, Reason: reason}
}

// ForEach calls fn with each record of the frame and its position, until it
// returns an error.
func (f *Frame) ForEach(fn func(Pos, Record) error) error {
	off := int64(FrameHeaderSize)
	for rest := f.Table; len(rest) > 0; {
		n := le.Uint32(rest[4:])
		if err := fn(f.Pos+Pos(off), Record(rest[:n:n])); err != nil {
			return err
		}
		rest, off = rest[n:], off+int64(n)
	}
	return nil
}

// Whole reports whether every body in the frame matches its checksum. It needs
// Body.
func (f *Frame) Whole() bool {
	if int64(len(f.Body)) != f.BodyLen {
		return false
	}
	return f.ForEach(func(_ Pos, r Record) error {
		if e, ok := r.body(); ok && !e.matches(f.Body) {
			return errTorn
		}
		return nil
	}) == nil
}

var errTorn = fmt.Errorf("body fails its checksum")

// Before is a header that this one follows, for reading on where the frame before is
// gone.
func (h *FrameHeader) Before() FrameHeader {
	b := FrameHeader{CRC: h.Previous, Epoch: h.Epoch, Nonce: h.Nonce}
	if h.Kind == Open && b.Epoch > 0 {
		b.Epoch--
	}
	return b
}
