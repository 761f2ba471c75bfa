package journal

import (
	"fmt"

	"github.com/mtawal/mtawal/internal/barrier"
	"github.com/mtawal/mtawal/internal/disk"
	"github.com/mtawal/mtawal/segment"
)

// Draft is a frame to append. Table begins with FrameHeaderSize bytes of room for
// the header; behind their lengths both have room to the next multiple of 512, else they are
// copied.
type Draft struct {
	Kind    segment.FrameKind
	Records uint32
	Table   []byte
	Body    []byte
	Slab    *segment.Slab // that both are laid out in, of Options.Recent; nil: in none
	Lease   uint64
	// Cold is the segment that Log.Cold has made for this frame, whose bodies behind Body, so many bytes, are there. It must stand when
	// the frame is placed, see ColdStands.
	Cold  uint32
	Ahead int64
	// Spare: a small frame that may take the last block of a segment. It moves the position
	// of the log where there is no room for another segment.
	Spare bool
	// Shrink: it begins the next segment if that is a smaller one, see Log.Idle.
	Shrink bool
	// Opening: it is among the first of an epoch, without which the store does not open. It may
	// take the last spare file, and Options.Room does not keep it out.
	Opening bool
}

// Flight is a frame between Place and Land. The zero value is ready to be placed, and so is
// one that has landed.
type Flight struct {
	header      segment.FrameHeader
	seg         *segment.Segment
	slab        *segment.Slab
	table, body []byte
	bufs        [3][]byte // as a slice of its own it would be an allocation each
	parts       int
}

// Header is the header that Place gave the frame.
func (f *Flight) Header() segment.FrameHeader { return f.header }

// Append writes a frame. nil: it is durable, and all before it. The frame's header is
// returned. After disk.ErrNoSpace nothing has changed and Append may be called again
// with the same draft: the same bytes go to the same place. After another error the log
// must not be appended to any more. It is for when no other frame is in flight.
func (l *Log) Append(d *Draft) (segment.FrameHeader, error) {
	if err := l.Place(d, &l.single); err != nil {
		return segment.FrameHeader{}, err
	}
	return l.finish(&l.single)
}

// finish writes the one frame that is in flight.
func (l *Log) finish(f *Flight) (segment.FrameHeader, error) {
	if err := l.Write(f); err != nil {
		l.Retract(f)
		return f.header, err
	}
	return f.header, l.Land(f)
}

// Place gives a frame its header and its place in the log, behind the frame that was placed
// before it. Several may be placed and not have landed: they are in flight. Where the frame goes
// into the next segment, Place waits until all before it have landed: the Seal promises them.
// After disk.ErrNoSpace nothing has changed and nothing is in flight; Place may be called again. After
// another error the log must not be appended to any more.
//
// Place, Land, Retract and Append are for one goroutine at a time; Place and Land may be called beside
// each other.
func (l *Log) Place(d *Draft, f *Flight) error {
	table, body := int64(len(d.Table)-segment.FrameHeaderSize), int64(len(d.Body))+d.Ahead
	if table < 0 || table%8 != 0 || table > segment.TableMax {
		return fmt.Errorf("a table of %d bytes is none that could be read", table)
	}
	if size := segment.FrameSize(table, body, uint32(l.dir.Block())); size > l.FrameMax() {
		return fmt.Errorf("a frame of %d bytes does not fit into a segment of %d", size, l.opt.SegmentSize)
	}
	if l.refused.Kind == segment.Seal && l.refused.Pos == segment.MakePos(l.tail.Number, l.off) {
		// It may be on the disk, and what it names is there: so it comes first.
		if err := l.rotate(d.Opening); err != nil {
			return err
		}
	}
	if d.Shrink && l.Shrinks() && l.refused.Pos != segment.MakePos(l.tail.Number, l.off) {
		if err := l.rotate(false); err != nil {
			return err
		}
	}
	// The tail, and successors that stood ready at Resume, may have been made in another
	// size or alignment: those that are too small are sealed empty.
	for {
		kept := int64(2)
		if d.Spare {
			kept = 1
		}
		if d.Spare && l.refused.Pos == segment.MakePos(l.tail.Number, l.off) && l.refused.Kind != d.Kind {
			return fmt.Errorf("what stands at the end of the log comes first: %w", disk.ErrNoSpace)
		}
		if l.tail.Number >= d.Cold && l.fits(table, body, kept) {
			if d.Cold != 0 && (l.tail.Number != d.Cold || l.off != l.tail.First()) {
				return fmt.Errorf("the frame for %s comes when something else is there", segment.Name(d.Cold))
			}
			return l.place(d, f)
		}
		l.maker.busy()
		if err := l.rotate(d.Opening); err != nil {
			return err
		}
	}
}

// Fits reports whether a frame fits into the tail, for whoever is about to place it.
func (l *Log) Fits(table, body int64) bool { return l.fits(table, body, 2) }

// fits does so where so many blocks of the segment are kept: for the Seal, and for a Draft that is Spare.
func (l *Log) fits(table, body, kept int64) bool {
	a := l.tail.Alignment
	return l.off+segment.FrameSize(table, body, a) <= l.tail.Size-kept*int64(a)
}

// place gives a frame the place at the end of the tail.
func (l *Log) place(d *Draft, f *Flight) error {
	if err := l.takeOff(); err != nil {
		return err
	}
	pos := segment.MakePos(l.tail.Number, l.off)
	epoch, nonce := l.epoch, l.nonce
	if d.Kind == segment.Seal && l.last.Epoch != epoch {
		// The Open frame found no room. It begins the epoch, in the successor; the Seal
		// before it still belongs to the one before.
		epoch, nonce = l.last.Epoch, l.last.Nonce
	}
	h := segment.FrameHeader{
		Kind: d.Kind, Records: d.Records, Salt: l.tail.Salt, Pos: pos,
		Epoch: epoch, Nonce: nonce, Promise: l.Durable(), Lease: d.Lease, Time: l.opt.Now(), Previous: l.last.CRC,
		TableLen: uint32(len(d.Table) - segment.FrameHeaderSize), BodyLen: int64(len(d.Body)) + d.Ahead, Total: l.total + uint64(d.Records),
	}
	if l.refused.Pos == pos { // again, so the same bytes, though time has passed since
		h.Time, h.Promise = l.refused.Time, l.refused.Promise
	}
	h.TableCRC = segment.TableSum(h.Salt, pos, d.Table[segment.FrameHeaderSize:])
	h.Layout(l.tail.Alignment)
	h.Encode(d.Table)
	table, body := padded(d.Table, int64(h.BodyOff)), d.Body
	last, size := &table, h.Len
	if h.BodyLen > 0 {
		last, size = &body, h.Len-int64(h.BodyOff)
	}
	if d.Ahead > 0 { // with what it is padded by
		size = int64(len(body))
	}
	// In place as far as there is room: to fill a large block up, the frame would have to be copied.
	room := int64(cap(*last)) &^ (sector - 1)
	*last = padded(*last, min(size, max(room, roundUp(int64(len(*last)), sector))))
	*f = Flight{header: h, seg: l.tail, slab: d.Slab, table: table, body: body}
	f.add(table)
	f.add(body)
	if rest := size - int64(len(*last)); rest > 0 {
		if int64(len(l.zeros)) < rest {
			l.zeros = segment.Aligned(int(l.tail.Alignment))
		}
		f.add(l.zeros[:rest])
	}
	l.before, l.last, l.off, l.total = l.last, h, l.off+h.Len, h.Total
	return nil
}

func (f *Flight) add(part []byte) {
	if len(part) > 0 {
		f.bufs[f.parts] = part
		f.parts++
	}
}

// Write writes a frame that was placed. Frames that are in flight may be written at the same time and
// in any order. nil: this one is durable; those before it may not be. After disk.ErrNoSpace it may be
// called again, and the same bytes go to the same place. After another error it never lands, nor does
// any frame behind it.
func (l *Log) Write(f *Flight) error {
	h := &f.header
	var err error
	if barrier.Gone(barrier.CommitSync) || h.Kind == segment.Seal && barrier.Gone(barrier.SealSync) {
		err = l.writeLoose(f.seg, h.Pos.Offset(), f.bufs[:f.parts]...)
	} else {
		err = l.write(f.seg, h.Pos.Offset(), f.bufs[:f.parts]...)
	}
	if err != nil {
		return fmt.Errorf("appending %d bytes to %s at %d: %w", h.Len, f.seg.File.Name(), h.Pos.Offset(), err)
	}
	return nil
}

// Land moves the end of the log behind a frame that was written. Frames land in the order in which they
// were placed: so the end is what is durable without a gap, and what the next frame promises.
func (l *Log) Land(f *Flight) error {
	h := &f.header
	if end := l.End(); end != h.Pos {
		return fmt.Errorf("the frame at %v lands where the log ends at %v", h.Pos, end)
	}
	if f.slab != nil {
		l.opt.Recent.Keep(f.slab, h, f.table, f.body)
	}
	l.tables.add(h.Pos, f.table[:segment.FrameHeaderSize+int(h.TableLen)])
	l.bytes.Add(h.Len)
	l.noteLength(h.Len)
	l.end.Store(uint64(h.End()))
	f.bufs, f.table, f.body, f.slab = [3][]byte{}, nil, nil, nil
	l.mu.Lock()
	l.flying--
	l.landed.Broadcast()
	l.mu.Unlock()
	return nil
}

// Retract takes back the frame that was placed last, after its write failed and when no other is in
// flight. Another that is placed goes to the same place, with the same time and promise.
func (l *Log) Retract(f *Flight) {
	l.refused = f.header
	l.last, l.off, l.total = l.before, f.header.Pos.Offset(), f.header.Total-uint64(f.header.Records)
	l.mu.Lock()
	l.flying--
	l.mu.Unlock()
}

// Abandon says that a frame in flight will not land: nothing is placed any more, and a Place that waits
// ends with the error.
func (l *Log) Abandon(err error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.abandoned == nil {
		l.abandoned = err
	}
	l.landed.Broadcast()
}

// takeOff counts a frame that is in flight.
func (l *Log) takeOff() error {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.abandoned == nil {
		l.flying++
	}
	return l.abandonedError()
}

func (l *Log) abandonedError() error {
	if l.abandoned == nil {
		return nil
	}
	return fmt.Errorf("a frame before it was not written: %w", l.abandoned)
}

// drain waits until nothing is in flight.
func (l *Log) drain() error {
	l.mu.Lock()
	defer l.mu.Unlock()
	for l.flying > 0 && l.abandoned == nil {
		l.landed.Wait()
	}
	return l.abandonedError()
}

func (l *Log) write(s *segment.Segment, off int64, bufs ...[]byte) error {
	if !l.opt.NoSync {
		return s.File.WriteDurable(off, bufs...)
	}
	return l.writeLoose(s, off, bufs...)
}

// writeLoose writes into the page cache.
func (l *Log) writeLoose(s *segment.Segment, off int64, bufs ...[]byte) error {
	for _, b := range bufs {
		if _, err := s.File.WriteAt(b, off); err != nil {
			return err
		}
		off += int64(len(b))
	}
	return nil
}

// sector is what the parts of a write past the page cache are multiples of.
const sector = 512

func roundUp(n, unit int64) int64 { return (n + unit - 1) / unit * unit }

// padded extends b to n bytes with zeros, in place where it has the room.
func padded(b []byte, n int64) []byte {
	if int64(cap(b)) < n {
		b = append(make([]byte, 0, n), b...)
	}
	pad := b[len(b):n]
	clear(pad)
	return b[:n]
}

// rotate seals the tail and goes on in its successor, which stands, synced, under
// its final name before the Seal is written. The first frame of the successor is written
// after the Seal is durable.
func (l *Log) rotate(last bool) error {
	if err := l.drain(); err != nil {
		return err
	}
	next, err := l.maker.take(l.tail.Number+1, last)
	if err != nil {
		return err
	}
	if err := l.seal(next); err != nil {
		l.maker.putBack(next)
		return err
	}
	next.Remember(l.opt.Recent)
	l.mu.Lock()
	l.ends[l.tail.Number] = l.off
	l.segments[next.Number] = next
	l.maker.entered(next.Number)
	l.tail, l.off = next, next.First()
	l.end.Store(uint64(segment.MakePos(next.Number, l.off)))
	l.mu.Unlock()
	return nil
}

// seal writes the Seal that names the successor.
func (l *Log) seal(next *segment.Segment) error {
	// A file that somebody cut short would swallow what is written behind its end
	// when it is mapped, and a sync says nothing.
	size, err := l.tail.File.Size()
	if err != nil {
		return fmt.Errorf("size of %s: %w", l.tail.File.Name(), err)
	}
	if size != l.tail.Size && !barrier.Gone(barrier.SizeCheck) {
		return &segment.CorruptError{Segment: l.tail.Number, File: l.tail.File.Name(), Offset: size, Reason: "the file has changed its length under an open store"}
	}
	if l.sealBuf == nil {
		l.sealBuf = make([]byte, segment.FrameHeaderSize+segment.SealSize, l.tail.Alignment)
	}
	segment.PutSeal(l.sealBuf[segment.FrameHeaderSize:], segment.FrameHeaderSize, next.Number, next.Salt)
	d := Draft{Kind: segment.Seal, Records: 1, Table: l.sealBuf, Lease: l.last.Lease}
	if err := l.place(&d, &l.sealing); err != nil {
		return err
	}
	_, err = l.finish(&l.sealing)
	return err
}
