package checkpoint

import (
	"encoding/binary"
	"errors"
	"math"

	"github.com/mtawal/mtawal/mailq"
	"github.com/mtawal/mtawal/segment"
	"github.com/mtawal/mtawal/state"
)

// A message in a checkpoint:
//
//	ID minus the one before   uvarint
//	location minus the one before   varint; it, and that of each extent, is in a segment from 1 to 2^31-1
//	enqueued minus the one before   varint, Unix seconds
//	weight                    uvarint, in units of 8 bytes; at least two for each recipient
//	shape                     u8: bit 0 expires, 1 priority, 2 keyed, 3 extents, 4 more than one recipient, 5 late
//	expires                   uvarint, Unix seconds
//	priority                  u8
//	late                      uvarint
//	extents                   uvarint count; each: position u64, weight uvarint, kind u8, first uvarint, CRC u32
//	recipient count           uvarint
//	runs of equal recipients until all are there: length uvarint (only with more than one), then
//	  standing and flags      u8: bits 0-1 standing, 2-4 flags, 5 attempts, 6 time, 7 note; of a
//	                          used one neither flags nor time nor note
//	  queue                   uvarint, unless used
//	  reason                  u8, only if used
//	  attempts                uvarint
//	  not before, Unix ns, minus that of the last run that has one   varint: what is retried was
//	                          mostly deferred in the order of IDs
//	  note                    length uvarint, bytes
const (
	shapeExpires = 1 << iota
	shapePriority
	shapeKeyed
	shapeExtents
	shapeMany
	shapeLate

	shapeAll = 1<<iota - 1
)

const (
	standingMask = 3
	flagShift    = 2
	flagMask     = 7
	rcptAttempts = 1 << 5
	rcptTime     = 1 << 6
	rcptNote     = 1 << 7
)

// delta is what an entry is coded against.
type delta struct {
	id       uint64
	loc      segment.Pos
	enqueued uint32
	due      int64
}

func appendEntry(b []byte, d *delta, e *state.Entry, queue func(uint32) uint64) []byte {
	b = binary.AppendUvarint(b, e.ID-d.id)
	b = binary.AppendVarint(b, int64(e.Loc-d.loc))
	b = binary.AppendVarint(b, int64(e.Enqueued)-int64(d.enqueued))
	d.id, d.loc, d.enqueued = e.ID, e.Loc, e.Enqueued
	b = binary.AppendUvarint(b, uint64(e.Weight))
	var shape byte
	if e.Expires != 0 {
		shape |= shapeExpires
	}
	if e.Priority != 0 {
		shape |= shapePriority
	}
	if e.Keyed {
		shape |= shapeKeyed
	}
	if len(e.Extents) > 0 {
		shape |= shapeExtents
	}
	if len(e.Rcpts) > 1 {
		shape |= shapeMany
	}
	if e.Late != 0 {
		shape |= shapeLate
	}
	b = append(b, shape)
	if e.Expires != 0 {
		b = binary.AppendUvarint(b, uint64(e.Expires))
	}
	if e.Priority != 0 {
		b = append(b, byte(e.Priority))
	}
	if e.Late != 0 {
		b = binary.AppendUvarint(b, uint64(e.Late))
	}
	if len(e.Extents) > 0 {
		b = binary.AppendUvarint(b, uint64(len(e.Extents)))
		for _, x := range e.Extents {
			b = le.AppendUint64(b, uint64(x.Pos))
			b = binary.AppendUvarint(b, uint64(x.Weight))
			b = append(b, byte(x.Kind))
			b = binary.AppendUvarint(b, uint64(x.First))
			b = le.AppendUint32(b, x.CRC)
		}
	}
	if shape&shapeMany == 0 {
		return appendRecipient(b, d, &e.Rcpts[0], queue)
	}
	b = binary.AppendUvarint(b, uint64(len(e.Rcpts)))
	for i := 0; i < len(e.Rcpts); {
		j := i + 1
		for j < len(e.Rcpts) && sameRecipient(&e.Rcpts[i], &e.Rcpts[j]) {
			j++
		}
		b = binary.AppendUvarint(b, uint64(j-i))
		b = appendRecipient(b, d, &e.Rcpts[i], queue)
		i = j
	}
	return b
}

func sameRecipient(a, b *state.EntryRecipient) bool {
	return a.Queue == b.Queue && a.Standing == b.Standing && a.Reason == b.Reason && a.Flags == b.Flags && a.Attempts == b.Attempts &&
		a.NotBefore == b.NotBefore && (a.Note == nil) == (b.Note == nil) && string(a.Note) == string(b.Note)
}

func appendRecipient(b []byte, d *delta, r *state.EntryRecipient, queue func(uint32) uint64) []byte {
	s := byte(r.Standing) | r.Flags<<flagShift
	if r.Attempts != 0 {
		s |= rcptAttempts
	}
	if r.NotBefore != 0 {
		s |= rcptTime
	}
	if r.Note != nil {
		s |= rcptNote
	}
	b = append(b, s)
	if r.Standing == state.Used {
		b = append(b, byte(r.Reason))
	} else {
		b = binary.AppendUvarint(b, queue(r.Queue))
	}
	if r.Attempts != 0 {
		b = binary.AppendUvarint(b, uint64(r.Attempts))
	}
	if r.NotBefore != 0 {
		b = binary.AppendVarint(b, r.NotBefore-d.due)
		d.due = r.NotBefore
	}
	if r.Note != nil {
		b = binary.AppendUvarint(b, uint64(len(r.Note)))
		b = append(b, r.Note...)
	}
	return b
}

var errEntry = errors.New("a message in it is malformed")

// rcptWeight is what each recipient takes of the log at least, in the units of weights.
const rcptWeight = 2

// inLog reports whether a position is in a segment that there can be.
func inLog(pos segment.Pos) bool { return pos.Segment() > 0 && pos.Segment() <= segment.NumberMax }

// decodeEntry reads one message; queues is how many there are to name, most how much all that
// it holds of the log can weigh. A run of recipients that are alike takes a few bytes here and
// many in memory, but in the log each of them has bytes of its own.
func decodeEntry(c *cursor, d *delta, e *state.Entry, queues, most uint64) error {
	step := c.uvarint()
	e.ID = d.id + step
	e.Loc = d.loc + segment.Pos(c.varint())
	if step == 0 || e.ID < d.id || !inLog(e.Loc) {
		return errEntry
	}
	enqueued := int64(d.enqueued) + c.varint()
	c.bad = c.bad || enqueued < 0 || enqueued > math.MaxUint32
	e.Enqueued = uint32(enqueued)
	d.id, d.loc, d.enqueued = e.ID, e.Loc, e.Enqueued
	e.Weight = uint32(c.upTo(math.MaxUint32))
	shape := c.byte()
	if shape&^shapeAll != 0 {
		return errEntry
	}
	e.Late = 0
	e.Expires, e.Priority, e.Keyed, e.Extents, e.Rcpts = 0, 0, shape&shapeKeyed != 0, e.Extents[:0], e.Rcpts[:0]
	if shape&shapeExpires != 0 {
		e.Expires = uint32(c.upTo(math.MaxUint32))
	}
	if shape&shapePriority != 0 {
		e.Priority = int8(c.byte())
	}
	if shape&shapeLate != 0 {
		e.Late = uint32(c.upTo(math.MaxUint32))
	}
	if shape&shapeExtents != 0 {
		n := c.uvarint()
		if n == 0 || n > segment.ChunksMax+segment.RecipientsMax {
			return errEntry
		}
		for ; n > 0 && !c.bad; n-- {
			x := state.Extent{Pos: segment.Pos(c.uint64()), Weight: uint32(c.upTo(math.MaxUint32))}
			x.Kind = segment.Kind(c.byte())
			x.First, x.CRC = uint32(c.upTo(math.MaxUint32)), c.uint32()
			c.bad = c.bad || !inLog(x.Pos)
			e.Extents = append(e.Extents, x)
		}
	}
	n := uint64(1)
	if shape&shapeMany != 0 {
		if n = c.uvarint(); n < 2 || n > segment.RecipientsMax {
			return errEntry
		}
	}
	if n*rcptWeight > min(uint64(e.Weight), most) {
		return errEntry
	}
	if n == 1 { // as nearly all have
		e.Rcpts = append(e.Rcpts, state.EntryRecipient{})
		r := &e.Rcpts[0]
		decodeRecipient(c, d, r)
		if c.bad || r.Standing == state.Used || uint64(r.Queue) >= queues { // a dead message is in no table
			return errEntry
		}
		return nil
	}
	alive := false
	for uint64(len(e.Rcpts)) < n {
		run := c.uvarint()
		var r state.EntryRecipient
		decodeRecipient(c, d, &r)
		if c.bad || run == 0 || run > n-uint64(len(e.Rcpts)) || r.Standing != state.Used && uint64(r.Queue) >= queues {
			return errEntry
		}
		alive = alive || r.Standing != state.Used
		for ; run > 0; run-- {
			e.Rcpts = append(e.Rcpts, r)
		}
	}
	if c.bad || !alive {
		return errEntry
	}
	return nil
}

// decodeRecipient fills a recipient that is zero.
func decodeRecipient(c *cursor, d *delta, r *state.EntryRecipient) {
	s := c.byte()
	r.Standing, r.Flags = state.Standing(s&standingMask), s>>flagShift&flagMask
	if r.Standing == state.Used {
		r.Reason = mailq.Result(c.byte())
		// Nothing else is left of it, and it keeps no queue.
		c.bad = c.bad || !r.Reason.IsUsed() || s&(flagMask<<flagShift|rcptTime|rcptNote) != 0
	} else {
		r.Queue = uint32(c.upTo(math.MaxUint32))
	}
	if s&rcptAttempts != 0 {
		r.Attempts = uint16(c.upTo(segment.AttemptsMax))
	}
	if s&rcptTime != 0 {
		r.NotBefore = d.due + c.varint()
		d.due = r.NotBefore
	}
	if s&rcptNote != 0 {
		n := c.uvarint()
		r.Note = c.bytes(n)
		c.bad = c.bad || n > mailq.NoteMax
	}
	c.bad = c.bad || r.Standing > state.Used
}
