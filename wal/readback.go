package wal

import (
	"fmt"
	"io"
	"sort"

	"github.com/mtawal/mtawal/mailq"
	"github.com/mtawal/mtawal/segment"
)

// readBack is the chunks of a stream as they are read back before it becomes a message. It is
// under the stream's lock.
type readBack struct {
	pieces  []piece // by chunk; seg and off are set once its bytes have matched their checksum
	pins    []*segment.Segment
	readers int
}

func (b *readBack) add(n int64) {
	at := int64(0)
	if k := len(b.pieces); k > 0 {
		at = b.pieces[k-1].at + b.pieces[k-1].n
	}
	b.pieces = append(b.pieces, piece{at: at, n: n})
}

// unpin returns the segments that are to be released once the stream is over.
func (b *readBack) unpin(over bool) []*segment.Segment {
	if !over || b.readers > 0 {
		return nil
	}
	pins := b.pins
	b.pins = nil
	return pins
}

// ReadAt implements mailq.Staged. Of what is on its way into the log it waits until that is
// there; the rest is read from memory, or from the log, and checked against its checksum.
func (st *stream) ReadAt(p []byte, off int64) (n int, err error) {
	if off < 0 {
		return 0, &mailq.FieldError{Field: "off", Reason: "is negative"}
	}
	st.checkDeadline()
	for n < len(p) {
		k, err := st.readSome(p[n:], off+int64(n))
		if n += k; err != nil {
			return n, err
		}
	}
	return n, nil
}

// readSome reads from one chunk, or from the buffer behind all of them.
func (st *stream) readSome(p []byte, off int64) (int, error) {
	st.mu.Lock()
	if st.over != nil {
		defer st.mu.Unlock()
		return 0, st.over
	}
	if err := st.reap(); err != nil {
		st.mu.Unlock()
		return 0, err
	}
	if off >= st.length {
		defer st.mu.Unlock()
		n := copy(p, st.buf[min(off-st.length, int64(len(st.buf))):])
		if n == 0 {
			return 0, io.EOF
		}
		return n, nil
	}
	b := &st.back
	i := sort.Search(len(b.pieces), func(i int) bool { return off < b.pieces[i].at+b.pieces[i].n })
	if i == len(b.pieces) {
		first := st.under[0]
		st.mu.Unlock()
		select {
		case <-first.done:
		case <-st.ended:
		}
		return 0, nil
	}
	seg, err := st.pin(st.chunks[i].Pos.Segment())
	if err != nil {
		st.mu.Unlock()
		return 0, err
	}
	pc, ref := b.pieces[i], st.chunks[i]
	b.readers++
	st.mu.Unlock()

	p = p[:min(int64(len(p)), pc.at+pc.n-off)]
	if pc.seg == nil {
		pc.seg = seg
		err = pc.locate(st.id, &ref)
	}
	if err == nil {
		err = pc.view(off-pc.at, int64(len(p)), func(v []byte) error { copy(p, v); return nil })
	}

	st.mu.Lock()
	b.readers--
	pins := b.unpin(st.over != nil)
	if err == nil {
		b.pieces[i] = pc
	}
	st.mu.Unlock()
	release(pins)
	if err != nil {
		return 0, fmt.Errorf("reading back a staged body: %w", err)
	}
	return len(p), nil
}

// pin returns a segment that the stream holds, from now on if it has not been read in before.
// While the stream is not over its segments are in the log. mu is held.
func (st *stream) pin(number uint32) (*segment.Segment, error) {
	for _, have := range st.back.pins {
		if have.Number == number {
			return have, nil
		}
	}
	seg, err := st.s.log.Acquire(number)
	if err == nil {
		st.back.pins = append(st.back.pins, seg)
	}
	return seg, err
}

// locate finds the bytes of a chunk in its segment and compares them with their checksum.
func (p *piece) locate(stream uint64, ref *segment.ChunkRef) error {
	r, at, err := p.seg.AnyRecord(ref.Pos.Offset(), segment.KindChunk)
	if err != nil {
		return err
	}
	if _, n, crc := r.Chunk(); n != ref.Len || crc != ref.CRC || r.ID() != stream {
		return &segment.CorruptError{Segment: p.seg.Number, File: p.seg.File.Name(), Offset: ref.Pos.Offset(), Reason: "another chunk than was written"}
	}
	p.off = at
	return p.check(stream, ref.CRC)
}
