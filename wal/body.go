package wal

import (
	"fmt"
	"io"
	"sync"

	"github.com/mtawal/mtawal/internal/barrier"
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
	shown := false
	err := p.seg.View(p.off+off, n, func(v []byte) error {
		shown = true
		return f(v)
	})
	if err != nil && !shown {
		return p.unreadable(err)
	}
	return err
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

// check compares the bytes with the checksums they were enqueued with.
func (p *piece) check(id uint64, crc uint32) error {
	if barrier.Gone(barrier.ClaimChecksum) {
		return nil
	}
	return p.view(0, p.n, func(v []byte) error {
		if segment.BodyCRC(id, v) != crc {
			return &segment.CorruptError{Segment: p.seg.Number, File: p.seg.File.Name(), Offset: p.off, Reason: "a body fails its checksum"}
		}
		return nil
	})
}

// pin takes references to every segment that the message has bytes in. Store.mu is held,
// under which the positions were read. What can't be had is found out by read.
func (c *claim) pin() {
	c.pins = c.s.pinMessage(c.pinMemory[:0], c.loc, c.extents)
}

// pinMessage appends the segments to pins, which is empty.
func (s *Store) pinMessage(pins []*segment.Segment, loc segment.Pos, extents []state.Extent) []*segment.Segment {
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
