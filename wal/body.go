package wal

import (
	"fmt"
	"io"
	"sync"

	"github.com/mtawal/mtawal/internal/disk"
	"github.com/mtawal/mtawal/mailq"
	"github.com/mtawal/mtawal/segment"
	"github.com/mtawal/mtawal/state"
)

// piece is a stretch of a body in a segment.
type piece struct {
	seg    *segment.Segment
	at     int64 // in the body
	off, n int64 // in the segment
}

// body is the content of a claimed message: a view of the log. While it is open, or
// anybody reads in it, its segments are neither unmapped nor recycled.
type body struct {
	size   int64
	pieces []piece

	mu      sync.Mutex
	readers int
	err     error // once ended: ErrSettled or ErrClosed
	pins    []*segment.Segment
}

// end makes every later call return err, and lets go of the segments when the last
// reader is out.
func (b *body) end(err error) {
	b.mu.Lock()
	if b.err == nil {
		b.err = err
	}
	pins := b.unpin()
	b.mu.Unlock()
	release(pins)
}

func (b *body) unpin() []*segment.Segment {
	if b.err == nil || b.readers > 0 {
		return nil
	}
	p := b.pins
	b.pins = nil
	return p
}

func release(pins []*segment.Segment) {
	for _, s := range pins {
		_ = s.Release() // of a read-only mapping and descriptor: nothing is lost by its failure
	}
}

// read calls f while the segments are held.
func (b *body) read(f func() error) error {
	b.mu.Lock()
	if b.err != nil {
		defer b.mu.Unlock()
		return b.err
	}
	b.readers++
	b.mu.Unlock()
	defer func() {
		b.mu.Lock()
		b.readers--
		pins := b.unpin()
		b.mu.Unlock()
		release(pins)
	}()
	return f()
}

// Size implements mailq.Body.
func (b *body) Size() int64 { return b.size }

// View implements mailq.Body. A range that lies in one chunk of the body is not copied.
func (b *body) View(off, n int64, f func([]byte) error) error {
	return b.read(func() error {
		if off < 0 || n < 0 || off > b.size || n > b.size-off {
			return fmt.Errorf("bytes from %d, %d of them, of a body of %d: %w", off, n, b.size, io.ErrUnexpectedEOF)
		}
		if n == 0 {
			return f(nil)
		}
		for i := range b.pieces {
			p := &b.pieces[i]
			if off >= p.at && off+n <= p.at+p.n {
				return p.view(off-p.at, n, f)
			}
		}
		buf := make([]byte, n)
		if err := b.copy(buf, off); err != nil {
			return err
		}
		return f(buf)
	})
}

func (p *piece) view(off, n int64, f func([]byte) error) error {
	m, err := p.seg.Map()
	if err != nil {
		return err
	}
	if err := p.seg.Populate(m, p.off+off, n); err != nil {
		return p.unreadable(err)
	}
	return p.show(m, off, n, f)
}

// show is view of what is in memory.
func (p *piece) show(m disk.Mapping, off, n int64, f func([]byte) error) error {
	return disk.Guard(m, func() error { return f(m.Bytes()[p.off+off : p.off+off+n : p.off+off+n]) })
}

func (p *piece) unreadable(err error) error {
	return fmt.Errorf("reading a body in %s: %w", p.seg.File.Name(), err)
}

// copy fills buf from an offset that is in range.
func (b *body) copy(buf []byte, off int64) error {
	for i := range b.pieces {
		p := &b.pieces[i]
		if len(buf) == 0 || off >= p.at+p.n {
			continue
		}
		n := min(int64(len(buf)), p.at+p.n-off)
		if err := p.view(off-p.at, n, func(v []byte) error { copy(buf, v); return nil }); err != nil {
			return err
		}
		buf, off = buf[n:], off+n
	}
	return nil
}

// ReadAt implements mailq.Body.
func (b *body) ReadAt(buf []byte, off int64) (n int, err error) {
	if off < 0 {
		return 0, &mailq.FieldError{Field: "off", Reason: "is negative"}
	}
	err = b.read(func() error {
		n = int(max(min(int64(len(buf)), b.size-off), 0))
		if n == 0 {
			return nil
		}
		return b.copy(buf[:n], off)
	})
	if err != nil {
		return 0, err
	}
	if n < len(buf) {
		err = io.EOF
	}
	return n, err
}

// writeStep is how much WriteTo shows the writer at a time: pages are brought in for
// that much, and a slow writer holds no more of them.
const writeStep = 256 << 10

// WriteTo implements mailq.Body.
func (b *body) WriteTo(w io.Writer) (n int64, err error) {
	for i := range b.pieces {
		p := &b.pieces[i]
		for off := int64(0); off < p.n; {
			k := min(writeStep, p.n-off)
			err := b.View(p.at+off, k, func(v []byte) error {
				m, err := w.Write(v)
				n += int64(m)
				if err == nil && m < len(v) {
					err = io.ErrShortWrite
				}
				return err
			})
			if err != nil {
				return n, err
			}
			off += k
		}
	}
	return n, b.read(func() error { return nil })
}

// check compares the bytes with the checksums they were enqueued with. All of them are
// brought in first, whenever they were written: a claim does that once.
func (p *piece) check(id uint64, crc uint32) error {
	m, err := p.seg.Map()
	if err != nil {
		return err
	}
	if err := m.Populate(p.off, p.n); err != nil {
		return p.unreadable(err)
	}
	return p.show(m, 0, p.n, func(v []byte) error {
		if segment.BodyCRC(id, v) != crc {
			return &segment.CorruptError{Segment: p.seg.Number, File: p.seg.File.Name(), Offset: p.off, Reason: "a body fails its checksum"}
		}
		return nil
	})
}

// pin takes references to every segment that the message has bytes in. Store.mu is held,
// under which the positions were read. What can't be had is found out by read.
func (c *claim) pin() {
	c.pins = c.s.pinMessage(c.loc, c.extents)
}

func (s *Store) pinMessage(loc segment.Pos, extents []state.Extent) []*segment.Segment {
	var pins []*segment.Segment
	add := func(p segment.Pos) {
		for _, have := range pins {
			if have.Number == p.Segment() {
				return
			}
		}
		if seg, err := s.log.Acquire(p.Segment()); err == nil {
			pins = append(pins, seg)
		}
	}
	add(loc)
	for _, x := range extents {
		add(x.Pos)
	}
	return pins
}

// stored is a message as the log has it. Its slices are views of pinned segments.
type stored struct {
	pins   []*segment.Segment
	record segment.Record
	body   []piece
	size   int64
	crcs   []uint32
	ids    []uint64 // that the checksums are bound to
	more   []segment.Record
}

// readStored finds the record of a message and where its body is, from pinned segments.
func readStored(pins []*segment.Segment, id uint64, loc segment.Pos, extents []state.Extent) (*stored, error) {
	m := &stored{pins: pins}
	find := func(p segment.Pos) (*segment.Segment, error) {
		for _, s := range pins {
			if s.Number == p.Segment() {
				return s, nil
			}
		}
		return nil, &segment.CorruptError{Segment: p.Segment(), File: segment.Name(p.Segment()), Reason: "is not in the log"}
	}
	seg, err := find(loc)
	if err != nil {
		return nil, err
	}
	var at int64
	if m.record, at, err = seg.Record(loc.Offset(), id); err != nil {
		return nil, err
	}
	e := m.record.Enqueue()
	m.size = e.BodyLen
	if e.Chunks() == 0 && m.size > 0 {
		m.body = []piece{{seg: seg, off: at, n: m.size}}
		m.crcs, m.ids = []uint32{e.BodyCRC}, []uint64{id}
	}
	total := int64(0)
	for i := range extents {
		x := &extents[i]
		seg, err := find(x.Pos)
		if err != nil {
			return nil, err
		}
		if x.Kind == segment.KindRecipients {
			r, _, err := seg.Record(x.Pos.Offset(), id)
			if err != nil {
				return nil, err
			}
			m.more = append(m.more, r)
			continue
		}
		r, at, err := seg.AnyRecord(x.Pos.Offset(), segment.KindChunk)
		if err != nil {
			return nil, err
		}
		_, n, crc := r.Chunk()
		if crc != x.CRC {
			return nil, &segment.CorruptError{Segment: seg.Number, File: seg.File.Name(), Offset: x.Pos.Offset(), Reason: "another chunk than the message names"}
		}
		m.body = append(m.body, piece{seg: seg, at: total, off: at, n: int64(n)})
		m.crcs, m.ids = append(m.crcs, crc), append(m.ids, r.ID())
		total += int64(n)
	}
	if e.Chunks() > 0 && total != m.size {
		return nil, &segment.CorruptError{Segment: loc.Segment(), File: seg.File.Name(), Offset: loc.Offset(), Reason: "the chunks do not add up to the body"}
	}
	return m, nil
}

// recipients calls fn with address and first note of the recipients from first to last that
// are asked for, by ascending index. The record's memory may fault, so it runs under the
// guard of its segment.
func (m *stored) recipients(first, last int, want func(i int) bool, fn func(i int, address, note []byte)) error {
	type list interface {
		Addresses(first int, fn func(i int, address, note []byte) bool)
	}
	visit := func(base int, l list) {
		l.Addresses(max(first-base, 0), func(i int, a, n []byte) bool {
			if base+i > last {
				return false
			}
			if want(base + i) {
				fn(base+i, a, n)
			}
			return true
		})
	}
	return m.guard(func() error {
		e := m.record.Enqueue()
		visit(0, &e)
		for _, r := range m.more {
			x := r.Recipients()
			visit(x.First, &x)
		}
		return nil
	})
}

// guard runs f, in which the records of the message are read, with faults in any of
// its segments turned into errors.
func (m *stored) guard(f func() error) error {
	for _, s := range m.pins {
		mp, err := s.Map()
		if err != nil {
			return err
		}
		inner := f
		f = func() error { return disk.Guard(mp, inner) }
	}
	return f()
}

// read makes the delivery that a claim is handed out as, and checks every byte of it.
func (c *claim) read() (*Delivery, error) {
	m, err := readStored(c.pins, c.id, c.loc, c.extents)
	if err != nil {
		return nil, err
	}
	for i := range m.body {
		if err := m.body[i].check(m.ids[i], m.crcs[i]); err != nil {
			return nil, err
		}
	}
	d := Delivery{ID: ID(c.id), Recipients: make([]Slot, 0, len(c.rcpts))}
	first, last := int(c.rcpts[0].index), int(c.rcpts[len(c.rcpts)-1].index)
	next := 0
	wanted := func(i int) bool {
		if i != int(c.rcpts[next].index) {
			return false
		}
		next++
		return true
	}
	err = m.recipients(first, last, wanted, func(i int, address, note []byte) {
		d.Recipients = append(d.Recipients, Slot{Index: i, Address: string(address), Note: append([]byte(nil), note...)})
	})
	if err != nil {
		return nil, err
	}
	err = m.guard(func() error {
		e := m.record.Enqueue()
		d.Envelope = append([]byte{}, e.Envelope()...)
		d.EnqueuedAt, d.ExpiresAt = segment.Time(e.EnqueuedAt), segment.Time(e.ExpiresAt)
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
	b := &body{size: m.size, pieces: m.body, pins: c.pins}
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
	c.body = b
	d.Body = b
	if c.open == 0 { // marked used while it was read
		b.end(ErrSettled)
	} else if s.phase >= closing {
		b.end(ErrClosed)
	}
	return mailq.NewDelivery(d, c), nil
}

// setAside marks a message whose bytes can't be trusted as damaged: it is handed out to
// nobody and dropped by nobody. The claim ends without doubt: nothing was delivered.
func (s *Store) setAside(c *claim, err error) {
	release(c.pins)
	s.mu.Lock()
	defer s.mu.Unlock()
	s.damage(c.slot, c.id, err)
	s.endClaim(c, c.all())
}

// damage takes a message out of circulation. Store.mu is held.
func (s *Store) damage(slot uint32, id uint64, err error) {
	s.opt.Logger.Error("a message is damaged and set aside", "id", ID(id).String(), "err", err)
	if !s.table.Lives(slot, id) {
		return
	}
	s.damaged[id] = err
	list := s.table.Recipients(slot)
	for i := range list {
		r := &list[i]
		if r.Standing == state.Used {
			continue
		}
		was := classOf(r)
		r.Mem |= memDamaged
		s.count(s.queue(r.Queue), was, classOf(r))
	}
}

// takeBack ends a claim that nobody was handed.
func (s *Store) takeBack(c *claim) {
	release(c.pins)
	s.mu.Lock()
	defer s.mu.Unlock()
	s.endClaim(c, c.all())
}

// all is the position of every recipient.
func (c *claim) all() []int {
	all := make([]int, len(c.rcpts))
	for i := range all {
		all[i] = i
	}
	return all
}
