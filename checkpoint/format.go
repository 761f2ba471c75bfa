// Package checkpoint folds the log into checkpoints and says which segments are
// still needed.
//
// A checkpoint is a file that holds exactly the state of the store at one position
// of its log. It is made from the checkpoint before it and the log in between
// ([Fold]), in the background, by the same apply function that commits and replay go
// through; never from the memory of the running store. So it is a pure function of
// files, it can be compared with a replay by its hash, and making it proves in
// passing that the log can be read back.
//
// # The file
//
// All integers are little-endian or varints (encoding/binary), CRC is CRC-32C.
//
//	header, 512 bytes
//	    0  magic "MTAWALCP"
//	    8  version u32                 3
//	   12  incompatible features u32   an unknown bit: ErrVersion
//	   16  store UUID [16]
//	   32  position u64                the state is that behind the frame ending here
//	   40  last u64                    position of that frame
//	   48  chain u32                   CRC of that frame's header
//	   52  zeros u32
//	   56  epoch u64
//	   64  ID lease u64
//	   72  totals, 10 times i64: enqueued, used (delivered, failed, expired, removed,
//	       replaced), in doubt, weight, tail cut, unclean opens
//	  152  log bytes u64               of all frames up to the position
//	  160  nonce u64                  of that frame's epoch
//	  168  zeros
//	  508  CRC u32                     of bytes 0 to 507
//	sections, one behind the other
//	directory: for each section kind u8, count, offset, length as uvarints, CRC u32
//	footer, 16 bytes
//	   directory length u32, directory CRC u32, magic "MTAWALCE"
//
// Sections, in this order, all of them present:
//
//	1 messages   sorted by ID; see entry.go
//	2 queues     in the order in which recipients that are not used name them first, then
//	             those that have a state but none of these, by name: name length uvarint, name, mode u8, doubt u8,
//	             delay varint, all of them known
//	3 keys       oldest first: length uvarint, key, ID uvarint, at varint
//	4 segments   sorted by number: number uvarint, messages uvarint, bytes uvarint that
//	             live messages hold in it
//
// A checkpoint is valid if and only if header, footer, directory and every section
// match their CRC and parse as so many items, with nothing between them. An
// unknown section is ErrVersion. It is usable if it is valid, the log has a frame at
// last with that chain value that ends at position, and everything from there on
// follows without a gap.
package checkpoint

import (
	"encoding/binary"
	"fmt"
	"strconv"
	"strings"

	"github.com/mtawal/mtawal/segment"
	"github.com/mtawal/mtawal/state"
)

const (
	headerMagic = "MTAWALCP"
	footerMagic = "MTAWALCE"
	version     = 3
	headerSize  = 512
	footerSize  = 16

	sectionMessages = 1
	sectionQueues   = 2
	sectionKeys     = 3
	sectionSegments = 4
	sectionCount    = 4
)

// NameMax is the longest name of a checkpoint file.
const NameMax = 32

// Name is the final name of the checkpoint at a position.
func Name(pos segment.Pos) string { return fmt.Sprintf(namePrefix+"%016x", uint64(pos)) }

const namePrefix = "ckpt-"

// ParseName is the inverse of Name.
func ParseName(name string) (segment.Pos, bool) {
	digits, _ := strings.CutPrefix(name, namePrefix)
	v, err := strconv.ParseUint(digits, 16, 64)
	if err != nil || Name(segment.Pos(v)) != name {
		return 0, false
	}
	return segment.Pos(v), true
}

// Info is what the header of a checkpoint says.
type Info struct {
	UUID     [16]byte
	Pos      segment.Pos
	Last     segment.Pos
	Chain    uint32
	Epoch    uint64
	Nonce    uint64
	Lease    uint64
	Counts   state.Counts
	LogBytes int64 // bytes of all frames of the log up to Pos
}

var le = binary.LittleEndian

func (h *Info) counts() [10]*int64 {
	c := &h.Counts
	return [...]*int64{&c.Enqueued, &c.Used.Delivered, &c.Used.Failed, &c.Used.Expired, &c.Used.Removed, &c.Used.Replaced,
		&c.InDoubt, &c.Weight, &c.TailCut, &c.UncleanOpens}
}

func (h *Info) encode() []byte {
	b := make([]byte, headerSize)
	copy(b, headerMagic)
	le.PutUint32(b[8:], version)
	copy(b[16:], h.UUID[:])
	le.PutUint64(b[32:], uint64(h.Pos))
	le.PutUint64(b[40:], uint64(h.Last))
	le.PutUint32(b[48:], h.Chain)
	le.PutUint64(b[56:], h.Epoch)
	le.PutUint64(b[64:], h.Lease)
	for i, v := range h.counts() {
		le.PutUint64(b[72+8*i:], uint64(*v))
	}
	le.PutUint64(b[152:], uint64(h.LogBytes))
	le.PutUint64(b[160:], h.Nonce)
	le.PutUint32(b[508:], segment.CRC(b[:508]))
	return b
}

func decodeInfo(b []byte) (h Info, err error) {
	if len(b) < headerSize || string(b[:8]) != headerMagic {
		return h, fmt.Errorf("not a checkpoint: no magic")
	}
	// The version comes before the checksum: a later version may have put it elsewhere.
	if v := le.Uint32(b[8:]); v != version {
		return h, fmt.Errorf("checkpoint format %d: %w", v, segment.ErrVersion)
	}
	if segment.CRC(b[:508]) != le.Uint32(b[508:]) {
		return h, fmt.Errorf("header fails its checksum")
	}
	if f := le.Uint32(b[12:]); f != 0 {
		return h, fmt.Errorf("checkpoint needs unknown features %#x: %w", f, segment.ErrVersion)
	}
	h.UUID = [16]byte(b[16:32])
	h.Pos, h.Last = segment.Pos(le.Uint64(b[32:])), segment.Pos(le.Uint64(b[40:]))
	h.Chain = le.Uint32(b[48:])
	h.Epoch, h.Lease = le.Uint64(b[56:]), le.Uint64(b[64:])
	for i, v := range h.counts() {
		*v = int64(le.Uint64(b[72+8*i:]))
	}
	h.LogBytes = int64(le.Uint64(b[152:]))
	h.Nonce = le.Uint64(b[160:])
	if h.Pos != 0 && !frameFits(h.Last, h.Pos) {
		return h, fmt.Errorf("no frame stands at %v and ends at %v", h.Last, h.Pos)
	}
	return h, nil
}

// frameFits reports whether a frame may stand at from and end at to, in some segment.
func frameFits(from, to segment.Pos) bool {
	return inLog(to) && from.Segment() == to.Segment() && from < to && (from|to)%segment.AlignmentMin == 0 &&
		from.Offset() >= segment.AlignmentMin && to.Offset() <= segment.SizeMax
}

// sectionRef is a row of the directory.
type sectionRef struct {
	kind        byte
	count       uint64
	off, length int64
	crc         uint32
}
