// Package segment is the byte format of the log: segments, frames and records,
// and the verdict on where a log ends. It knows one segment at a time; package
// journal puts them in a row.
//
// This file is the specification. All integers are little-endian. CRC is
// CRC-32C (Castagnoli).
//
// # A log
//
// A log is a row of segment files, numbered from 1, in which frames stand one
// behind the other:
//
//	segment 1                         segment 2
//	+--------+-------+-------+------+ +--------+-------+-----
//	| header | frame | frame | Seal | | header | frame | ...
//	+--------+-------+-------+------+ +--------+-------+-----
//	0        4096                     0        4096
//
// A position ([Pos]) is a place in the log: the segment's number in the upper
// 32 bits, the offset in the file in the lower 32. Frames begin at multiples of
// the segment's alignment, so that no later write touches a block that an
// acknowledged commit lies in.
//
// # Segment header
//
// The first 512 bytes of the file, zeros to offset 4096 (or the alignment, if
// that is larger).
//
//	  0  magic "MTAWALSG"
//	  8  version u32                   1
//	 12  incompatible features u32     an unknown bit: ErrVersion
//	 16  compatible features u32       unknown bits are ignored
//	 20  alignment u32                 a power of two, 4096 or more
//	 24  number u64                    1 to 2^31-1
//	 32  salt u64                      random, new in each life of the file
//	 40  size u64                      of the file, a multiple of the alignment
//	 48  store UUID [16]
//	 64  creation time i64             Unix ns, for people
//	 72  zeros
//	508  CRC u32                       of bytes 0 to 507
//
// A segment header is valid if and only if magic and CRC match, the version and
// the incompatible features are known, number and size are those of the file,
// and the UUID is the store's.
//
// # Frame
//
// What one durable write puts into the log: a header, the table of records,
// bodies.
//
//	+--------+---------------------+-----+------------------+-----+
//	| header | record|record|..    | pad | body|body|..     | pad |
//	+--------+---------------------+-----+------------------+-----+
//	0       128            128+table    body offset         frame length
//
//	  0  magic "MWFR" u32
//	  4  CRC u32                       of bytes 8 to 127
//	  8  kind u8                       Data, Marker, Seal, Open
//	  9  flags u8                      0; another value: ErrVersion
//	 10  zeros u16
//	 12  record count u32
//	 16  segment number u64
//	 24  salt u64                      the segment's
//	 32  position u64                  of this frame
//	 40  epoch u64                     counts openings, from 1
//	 48  epoch nonce u64               random, new at each opening
//	 56  promise u64                   position through which the log was durable when this was written
//	 64  ID lease u64                  IDs below it may have been handed out
//	 72  time i64                      Unix ns
//	 80  previous u32                  CRC field of the frame before; 0 for the first of segment 1
//	 84  table length u32              multiple of 8
//	 88  table CRC u32                 of salt, position and the table
//	 92  body offset u32               from the frame's start
//	 96  body length u64
//	104  frame length u64              multiple of the alignment
//	112  records so far u64            in the log, this frame included; for people
//	120  zeros u64
//
// A frame header is valid if and only if magic and CRC match; segment number,
// salt and position are those of the place it stands at; and its lengths nest:
// 128 + table length <= body offset, body offset + body length <= frame length,
// frame length a multiple of the alignment and within the segment. A frame is
// valid behind another if and only if its header is, its previous field is the
// CRC of the other's header, its epoch and nonce are the other's or its kind is
// Open and its epoch is higher, its table CRC matches and the table parses as
// so many records, whose bodies lie in its body area. It is whole if each body in it
// also matches its CRC. A table that matches its CRC was written whole: if it does
// not parse, it was not torn, and the log does not end there but is refused.
//
// The salt keeps what stood in the file in an earlier life, and what a sender
// put into a body, from being taken for a frame. The previous field and the
// epoch keep a frame that was cut off with a torn tail from becoming valid
// again behind a new frame of the same length.
//
// # Records
//
// A record begins at a multiple of 8 in its table.
//
//	 0  kind u8                       an unknown one: ErrVersion
//	 1  flags u8                      bit 0: moved; bits 1 to 3 must be 0 (else ErrVersion); bits 4 to 7 are ignored
//	 2  zeros u16
//	 4  length u32                    of the record, multiple of 8
//	 8  back u32                      distance from the frame's start to the record's
//	12  CRC u32                       of bytes 0 to 11 and 16 to length
//	16  payload                       see record.go; zeros up to the length
//
// A record with the moved flag is a copy of an Enqueue, Recipients or Chunk
// record, byte for byte but for header and body offset; its last 16 bytes are the ID
// of the message that holds it and the position, not 0, of the record it was copied
// from. In a copy of a Chunk, whose own ID is the stream's, that ID is what tells
// whose location changes.
//
// Body offsets in records count from the frame's body offset. The CRC of a body
// covers the message ID (8 bytes) and the body, that of a chunk the stream ID
// and the chunk; they move with the bytes. The table CRC, which covers
// those CRCs, binds them to salt and position.
package segment

import (
	"encoding/binary"
	"errors"
	"fmt"

	"github.com/klauspost/crc32"
)

// Sizes and limits of the format.
const (
	// HeaderSize is the length of a segment header; frames begin behind it, at
	// the first multiple of the alignment.
	HeaderSize = 512
	// FrameHeaderSize is the length of a frame header.
	FrameHeaderSize = 128
	// RecordHeaderSize is the length of a record header.
	RecordHeaderSize = 16
	// AlignmentMin and AlignmentMax bound the alignment of frames.
	AlignmentMin = 4096
	AlignmentMax = 1 << 20
	// SizeMin and SizeMax bound the size of a segment.
	SizeMin = 64 << 10
	SizeMax = 1 << 30
	// NumberMax is the highest number of a segment.
	NumberMax = 1<<31 - 1
	// TableMax bounds the record table of one frame.
	TableMax = 32 << 20
	// bodyAlign is where the body area of a frame begins: the logical block of
	// disks, so that table and bodies can be handed to the device as they are.
	bodyAlign = 512
)

const (
	version       = 1
	segmentMagic  = "MTAWALSG"
	frameMagic    = uint32('M') | 'W'<<8 | 'F'<<16 | 'R'<<24
	incompatKnown = 0
)

// Errors of the format.
var (
	// ErrVersion: written by a version of the software that this one does not
	// know. Nothing is wrong with the bytes.
	ErrVersion = errors.New("unknown version of the format")
	// ErrCorrupt: bytes that must be there are not; the error is a
	// *CorruptError.
	ErrCorrupt = errors.New("corrupt")
)

// CorruptError says where damage was found. It matches [ErrCorrupt].
type CorruptError struct {
	Segment uint32 // 0 if it is not in a segment
	File    string
	Offset  int64
	Reason  string
}

// Error names the file and the offset, and says what is wrong there.
func (e *CorruptError) Error() string {
	return fmt.Sprintf("%s: corrupt at offset %d: %s", e.File, e.Offset, e.Reason)
}

// Is reports whether target is ErrCorrupt.
func (e *CorruptError) Is(target error) bool { return target == ErrCorrupt }

// Pos is a place in the log. Positions grow along the log; 0 is before all.
type Pos uint64

// MakePos is the place at an offset of a segment.
func MakePos(number uint32, offset int64) Pos { return Pos(number)<<32 | Pos(uint32(offset)) }

// Segment is the number of the segment.
func (p Pos) Segment() uint32 { return uint32(p >> 32) }

// Offset is the offset in the segment's file.
func (p Pos) Offset() int64 { return int64(uint32(p)) }

// String returns segment and offset in hexadecimal.
func (p Pos) String() string { return fmt.Sprintf("%x/%x", p.Segment(), p.Offset()) }

var castagnoli = crc32.MakeTable(crc32.Castagnoli)

// CRC is CRC-32C.
func CRC(b []byte) uint32 { return crc32.Checksum(b, castagnoli) }

// CRCUpdate extends a CRC by more bytes.
func CRCUpdate(crc uint32, b []byte) uint32 { return crc32.Update(crc, castagnoli, b) }

// BodyCRC is the checksum of a body or chunk, bound to the ID of its message or
// stream.
func BodyCRC(id uint64, body []byte) uint32 {
	return crc32.Update(BodyCRCSeed(id), castagnoli, body)
}

// BodyCRCSeed is BodyCRC of an empty body, for use with CRCUpdate.
func BodyCRCSeed(id uint64) uint32 { return crcUint64(0, id) }

// crcUint64 extends a CRC by 8 bytes. By way of a slice they would live on the
// heap, since the checksum is called through a pointer.
func crcUint64(crc uint32, v uint64) uint32 {
	crc = ^crc
	for range 8 {
		crc = castagnoli[byte(crc)^byte(v)] ^ crc>>8
		v >>= 8
	}
	return ^crc
}

var le = binary.LittleEndian

// Header is a segment header.
type Header struct {
	Alignment uint32
	Number    uint32
	Salt      uint64
	Size      int64
	UUID      [16]byte
	Created   int64 // Unix ns
}

// First is the offset of the first frame.
func (h *Header) First() int64 { return int64(h.Alignment) }

// Encode returns the header as it stands at the start of the file: as long as
// the alignment, zeros behind it.
func (h *Header) Encode() []byte {
	b := make([]byte, h.Alignment)
	copy(b, segmentMagic)
	le.PutUint32(b[8:], version)
	le.PutUint32(b[12:], incompatKnown)
	le.PutUint32(b[20:], h.Alignment)
	le.PutUint64(b[24:], uint64(h.Number))
	le.PutUint64(b[32:], h.Salt)
	le.PutUint64(b[40:], uint64(h.Size))
	copy(b[48:64], h.UUID[:])
	le.PutUint64(b[64:], uint64(h.Created))
	le.PutUint32(b[508:], CRC(b[:508]))
	return b
}

// DecodeHeader reads the header of a segment from the first HeaderSize bytes of
// its file. The error is ErrVersion or says what is not valid; the caller
// compares number, size and UUID with what it expects.
func DecodeHeader(b []byte) (Header, error) {
	var h Header
	if len(b) < HeaderSize {
		return h, errors.New("shorter than a segment header")
	}
	b = b[:HeaderSize]
	if string(b[:8]) != segmentMagic {
		return h, errors.New("not a segment: no magic")
	}
	// The version comes before the checksum: a later version may have put it
	// elsewhere.
	if v := le.Uint32(b[8:]); v != version {
		return h, fmt.Errorf("segment format %d, this software knows %d: %w", v, version, ErrVersion)
	}
	if CRC(b[:508]) != le.Uint32(b[508:]) {
		return h, errors.New("segment header fails its checksum")
	}
	if f := le.Uint32(b[12:]); f&^incompatKnown != 0 {
		return h, fmt.Errorf("segment needs unknown features %#x: %w", f, ErrVersion)
	}
	number, size := le.Uint64(b[24:]), le.Uint64(b[40:])
	h = Header{
		Alignment: le.Uint32(b[20:]),
		Number:    uint32(number),
		Salt:      le.Uint64(b[32:]),
		Size:      int64(size),
		UUID:      [16]byte(b[48:64]),
		Created:   int64(le.Uint64(b[64:])),
	}
	a := h.Alignment
	switch {
	case a < AlignmentMin || a > AlignmentMax || a&(a-1) != 0:
		return h, fmt.Errorf("alignment %d is not acceptable", a)
	case number == 0 || number > NumberMax:
		return h, fmt.Errorf("segment number %d is out of range", number)
	case size < SizeMin || size > SizeMax || size%uint64(a) != 0:
		return h, fmt.Errorf("segment size %d is not acceptable", size)
	}
	return h, nil
}
