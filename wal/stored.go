package wal

import (
	"fmt"

	"github.com/mtawal/mtawal/internal/disk"
	"github.com/mtawal/mtawal/mailq"
	"github.com/mtawal/mtawal/segment"
	"github.com/mtawal/mtawal/state"
)

// stored is a message as the log has it. Its slices are views of pinned segments.
type stored struct {
	pins   []*segment.Segment
	record segment.Record
	body   []piece
	size   int64
	sums   []bodySum // of the pieces
	more   []segment.Record

	onePiece [1]piece // memory for what nearly all messages have
	oneSum   [1]bodySum
}

// bodySum is the checksum of a piece of a body, and the ID that it is bound to.
type bodySum struct {
	id  uint64
	crc uint32
}

// readStored finds the record of a message and where its body is, from pinned segments.
func readStored(pins []*segment.Segment, id uint64, loc segment.Pos, extents []state.Extent) (*stored, error) {
	m := new(stored)
	return m, m.find(pins, id, loc, extents)
}

func pinned(pins []*segment.Segment, p segment.Pos) (*segment.Segment, error) {
	for _, s := range pins {
		if s.Number == p.Segment() {
			return s, nil
		}
	}
	return nil, &segment.CorruptError{Segment: p.Segment(), File: segment.Name(p.Segment()), Reason: "is not in the log"}
}

func (m *stored) find(pins []*segment.Segment, id uint64, loc segment.Pos, extents []state.Extent) error {
	m.pins = pins
	seg, err := pinned(pins, loc)
	if err != nil {
		return err
	}
	var at int64
	if m.record, at, err = seg.Record(loc.Offset(), id); err != nil {
		return err
	}
	return m.findBody(seg, at, id, loc, extents)
}

// enqueueOf reads the fixed fields of a record. Where that is long it is a view of the mapping, of which
// any page may go at any time: the lists in it are to be read under guard as well.
func enqueueOf(seg *segment.Segment, r segment.Record) (e segment.EnqueueRecord, err error) {
	m, err := seg.Map()
	if err != nil {
		return e, err
	}
	err = disk.Guard(m, func() error {
		e = r.Enqueue()
		return nil
	})
	return e, err
}

// findBody finds the rest of a message whose record was found, with its bytes at an offset if it has some.
func (m *stored) findBody(seg *segment.Segment, at int64, id uint64, loc segment.Pos, extents []state.Extent) error {
	e, err := enqueueOf(seg, m.record)
	if err != nil {
		return fmt.Errorf("reading record %s+%#x: %w", seg.File.Name(), loc.Offset(), err)
	}
	m.size = e.BodyLen
	m.body, m.sums = m.onePiece[:0], m.oneSum[:0]
	if e.Chunks() == 0 && m.size > 0 {
		m.body = append(m.body, piece{seg: seg, off: at, n: m.size})
		m.sums = append(m.sums, bodySum{id, e.BodyCRC})
	}
	total := int64(0)
	for i := range extents {
		x := &extents[i]
		seg, err := pinned(m.pins, x.Pos)
		if err != nil {
			return err
		}
		if x.Kind == segment.KindRecipients {
			r, _, err := seg.Record(x.Pos.Offset(), id)
			if err != nil {
				return err
			}
			m.more = append(m.more, r)
			continue
		}
		r, at, err := seg.AnyRecord(x.Pos.Offset(), segment.KindChunk)
		if err != nil {
			return err
		}
		_, n, crc := r.Chunk()
		if crc != x.CRC {
			return &segment.CorruptError{Segment: seg.Number, File: seg.File.Name(), Offset: x.Pos.Offset(), Reason: "another chunk than the message names"}
		}
		m.body = append(m.body, piece{seg: seg, at: total, off: at, n: int64(n)})
		m.sums = append(m.sums, bodySum{r.ID(), crc})
		total += int64(n)
	}
	if e.Chunks() > 0 && total != m.size {
		return &segment.CorruptError{Segment: loc.Segment(), File: seg.File.Name(), Offset: loc.Offset(), Reason: "the chunks do not add up to the body"}
	}
	return nil
}

// check compares the body with the checksums that it was enqueued with.
func (m *stored) check() error {
	for i := range m.body {
		if err := m.body[i].check(m.sums[i].id, m.sums[i].crc); err != nil {
			return err
		}
	}
	return nil
}

// recipients calls fn with address and first note of the recipients from first to last, by
// ascending index. The record's memory may fault, so it is called under guard.
func (m *stored) recipients(first, last int, fn func(i int, address, note []byte)) {
	visit := func(base int, l *segment.RecipientList) {
		l.Addresses(max(first-base, 0), func(i int, a, n []byte) bool {
			if base+i > last {
				return false
			}
			fn(base+i, a, n)
			return true
		})
	}
	e := m.record.Enqueue()
	visit(0, &e.RecipientList)
	for _, r := range m.more {
		x := r.Recipients()
		visit(x.First, &x.RecipientList)
	}
}

// guard runs f, in which the records of the message are read, with faults in any of
// its segments turned into errors.
func (m *stored) guard(f func() error) error {
	for _, s := range m.pins[1:] {
		mp, err := s.Map()
		if err != nil {
			return err
		}
		inner := f
		f = func() error { return disk.Guard(mp, inner) }
	}
	mp, err := m.pins[0].Map()
	if err != nil {
		return err
	}
	return disk.Guard(mp, f)
}

// handout is the memory of a delivery, in one piece.
type handout struct {
	body   body
	stored stored
	slots  [1]mailq.Slot
}

// read makes the delivery that a claim is handed out as, and checks every byte of it.
func (c *claim) read() (*Delivery, error) {
	h := new(handout)
	m := &h.stored
	err := m.find(c.pins, c.id, c.loc, c.extents)
	if err != nil {
		return nil, err
	}
	if err := m.check(); err != nil {
		return nil, err
	}
	d := mailq.NewDelivery(Delivery{ID: ID(c.id), Recipients: h.slots[:0]}, c)
	if len(c.rcpts) > len(h.slots) {
		d.Recipients = make([]Slot, 0, len(c.rcpts))
	}
	err = m.guard(func() error {
		e := m.record.Enqueue()
		d.Envelope = append([]byte{}, e.Envelope()...)
		d.EnqueuedAt, d.ExpiresAt = segment.Time(e.EnqueuedAt), segment.Time(e.ExpiresAt)
		next := 0
		m.recipients(int(c.rcpts[0].index), int(c.rcpts[len(c.rcpts)-1].index), func(i int, address, note []byte) {
			if next < len(c.rcpts) && i == int(c.rcpts[next].index) {
				next++
				d.Recipients = append(d.Recipients, Slot{Index: i, Address: string(address), Note: append([]byte(nil), note...)})
			}
		})
		return nil
	})
	if err == nil && len(d.Recipients) != len(c.rcpts) {
		err = &segment.CorruptError{Segment: c.loc.Segment(), File: segment.Name(c.loc.Segment()), Offset: c.loc.Offset(), Reason: "recipients are missing in the record"}
	}
	if err != nil {
		return nil, err
	}
	// The scheduler knows whole seconds, the record the instant.
	d.Expired = c.expired || !d.ExpiresAt.IsZero() && !c.s.opt.now().Before(d.ExpiresAt)
	d.Token = c.s.tokenOf(d.ID)
	b := &h.body
	b.size, b.pieces, b.pins = m.size, m.body, c.pins
	s := c.s
	s.mu.Lock()
	defer s.mu.Unlock()
	d.Queue = c.q.name
	for i := range d.Recipients {
		if c.open == 0 {
			break // nothing keeps the slot any more
		}
		r := s.table.Rcpt(state.Ref{Slot: c.slot, Index: uint32(d.Recipients[i].Index)})
		d.Recipients[i].Attempts = int(r.Attempts)
		d.Recipients[i].InDoubt = r.Flags&state.InDoubt != 0
		if note := s.table.Note(r); note != nil {
			d.Recipients[i].Note = append([]byte(nil), note...)
		}
	}
	c.body, c.handed = b, d
	d.Body = b
	if c.open == 0 { // marked used while it was read
		b.end(ErrSettled)
	} else if s.phase >= closing {
		b.end(ErrClosed)
	}
	return d, nil
}
