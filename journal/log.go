package journal

import (
	"crypto/rand"
	"encoding/binary"
	"errors"
	"fmt"
	"log/slog"
	"maps"
	"slices"
	"sync"
	"sync/atomic"

	"github.com/mtawal/mtawal/internal/barrier"
	"github.com/mtawal/mtawal/internal/disk"
	"github.com/mtawal/mtawal/segment"
)

// Options of a log.
type Options struct {
	SegmentSize int64        // of new segments, a multiple of the directory's block
	PoolMax     int          // dead files kept for another life
	Scrub       bool         // dead segments are written over with zeros
	NoSync      bool         // write into the page cache only: durable against a kill, not a power cut
	Logger      *slog.Logger // not nil
	Now         func() int64 // Unix ns
	// Room says whether a log whose files have so many bytes may take so many more for another
	// segment: else an error that is disk.ErrNoSpace. nil: always.
	Room func(have, more int64) error
	// Recent holds the frames that were laid out in one of its slabs once they are written, for
	// readers. It may be nil.
	Recent *segment.Recent
}

// Log is an open log. Append is for one goroutine; everything else may be called
// by any.
type Log struct {
	dir  disk.Dir
	uuid [16]byte
	opt  Options

	// Lock order: a lock of the caller before mu. No system call under mu.
	mu       sync.Mutex
	segments map[uint32]*segment.Segment // in the log, the tail's successor not included
	ends     map[uint32]int64            // where the frames of a sealed segment end
	retired  map[uint32]Info             // recycled, and still read by somebody

	// Of the appending goroutine.
	tail    *segment.Segment
	off     int64
	last    segment.FrameHeader
	refused segment.FrameHeader // of the frame that the disk had no room for, if it was to stand at off
	epoch   uint64
	nonce   uint64
	total   uint64
	sealBuf []byte
	bufs    [3][]byte // of one write: as a slice of its own it would be an allocation each
	zeros   []byte    // that frames are padded with where their own memory does not reach

	end    atomic.Uint64 // a Pos: behind the last frame, durable unless NoSync
	bytes  atomic.Int64  // of frames appended since the log was resumed
	synced atomic.Uint64 // with NoSync: a Pos through which Sync has come
	maker  *maker
}

// Resume makes a log that was found ready for appending. What replay accepted
// though nobody had promised it is written again and synced with the directory, so that
// it is not in the page cache alone; what was cut is saved beside the log. The caller
// must append an Open frame before anything else. From then on the segments are the
// log's; after an error they are still those of what was found.
func (f *Found) Resume(opt Options) (*Log, error) {
	l := &Log{
		dir: f.dir, uuid: f.uuid, opt: opt,
		segments: make(map[uint32]*segment.Segment), ends: make(map[uint32]int64), retired: make(map[uint32]Info),
		tail: f.segments[f.End.Segment()], off: f.End.Offset(), last: f.Last,
		epoch: f.Last.Epoch + 1, total: f.Last.Total,
	}
	var b [8]byte
	if _, err := rand.Read(b[:]); err != nil {
		return nil, fmt.Errorf("drawing a nonce: %w", err)
	}
	l.nonce = binary.LittleEndian.Uint64(b[:])
	l.end.Store(uint64(f.End))
	l.synced.Store(uint64(f.Promise))
	l.tail.Remember(opt.Recent)
	for _, s := range f.rewrite {
		if barrier.Gone(barrier.TailRewrite) {
			break
		}
		if err := l.writeAgain(s); err != nil {
			return nil, fmt.Errorf("writing the tail of %s again: %w", s.seg.File.Name(), err)
		}
	}
	if !barrier.Gone(barrier.TailNames) {
		if err := f.dir.Sync(); err != nil {
			return nil, fmt.Errorf("syncing %s: %w", f.dir.Path(), err)
		}
	}
	if f.CutSize > 0 {
		if err := f.saveCut(opt.SegmentSize); err != nil {
			opt.Logger.Warn("the torn tail that was cut could not be saved", "at", f.CutFrom.String(), "bytes", f.CutSize, "err", err)
		}
	}
	ready := make(map[uint32]*segment.Segment)
	for n, s := range f.segments {
		if n > f.End.Segment() {
			ready[n] = s
		} else {
			l.segments[n] = s
			l.ends[n] = s.Size
		}
	}
	if err := newMaker(l, f.dead, ready); err != nil {
		return nil, err
	}
	f.segments = nil // they are the log's now
	return l, nil
}

func (l *Log) writeAgain(s stretch) error {
	const step = 1 << 20
	b := make([]byte, min(step, s.to-s.from))
	for off := s.from; off < s.to; {
		n := min(int64(len(b)), s.to-off)
		if _, err := s.seg.File.ReadAt(b[:n], off); err != nil {
			return err
		}
		if err := l.write(s.seg, off, b[:n]); err != nil {
			return err
		}
		off += n
	}
	return nil
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

// FrameMax is the length of the longest frame that the segments take.
func (l *Log) FrameMax() int64 { return FrameMax(l.opt.SegmentSize, int64(l.dir.Block())) }

// FrameMax is the length of the longest frame for segments of a size: what is left
// beside the header, the Seal, and the block that is kept for a Draft that is Spare.
func FrameMax(segmentSize, alignment int64) int64 { return segmentSize - 3*alignment }

// End is the position behind the last frame that Append wrote, where it is durable.
func (l *Log) End() segment.Pos { return segment.Pos(l.end.Load()) }

// Last is the header of the last frame, for the appending goroutine.
func (l *Log) Last() segment.FrameHeader { return l.last }

// Appended is the number of bytes of frames appended since the log was resumed.
func (l *Log) Appended() int64 { return l.bytes.Load() }

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
	// Spare: a small frame that may take the last block of a segment. It moves the position
	// of the log where there is no room for another segment.
	Spare bool
	// Shrink: it begins the next segment if that is a smaller one, see Log.Idle.
	Shrink bool
}

// Append writes a frame. nil: it is durable, and all before it. The frame's header is
// returned. After disk.ErrNoSpace nothing has changed and Append may be called again
// with the same draft: the same bytes go to the same place. After another error the log
// must not be appended to any more.
func (l *Log) Append(d *Draft) (segment.FrameHeader, error) {
	table, body := int64(len(d.Table)-segment.FrameHeaderSize), int64(len(d.Body))
	if table < 0 || table%8 != 0 || table > segment.TableMax {
		return segment.FrameHeader{}, fmt.Errorf("a table of %d bytes is none that could be read", table)
	}
	if size := segment.FrameSize(table, body, uint32(l.dir.Block())); size > l.FrameMax() {
		return segment.FrameHeader{}, fmt.Errorf("a frame of %d bytes does not fit into a segment of %d", size, l.opt.SegmentSize)
	}
	if l.refused.Kind == segment.Seal && l.refused.Pos == segment.MakePos(l.tail.Number, l.off) {
		// It may be on the disk, and what it names is there: so it comes first.
		if err := l.rotate(d.Kind == segment.Open); err != nil {
			return segment.FrameHeader{}, err
		}
	}
	if d.Shrink && l.Shrinks() && l.refused.Pos != segment.MakePos(l.tail.Number, l.off) {
		if err := l.rotate(false); err != nil {
			return segment.FrameHeader{}, err
		}
	}
	// The tail, and successors that stood ready at Resume, may have been made in another
	// size or alignment: those that are too small are sealed empty.
	for {
		a := l.tail.Alignment
		kept := 2 * int64(a)
		if d.Spare {
			kept = int64(a)
		}
		if d.Spare && l.refused.Pos == segment.MakePos(l.tail.Number, l.off) && l.refused.Kind != d.Kind {
			return segment.FrameHeader{}, fmt.Errorf("what stands at the end of the log comes first: %w", disk.ErrNoSpace)
		}
		if l.off+segment.FrameSize(table, body, a) <= l.tail.Size-kept {
			return l.put(d)
		}
		l.maker.busy()
		if err := l.rotate(d.Kind == segment.Open); err != nil {
			return segment.FrameHeader{}, err
		}
	}
}

// put writes a frame at the end of the tail.
func (l *Log) put(d *Draft) (segment.FrameHeader, error) {
	h := l.last
	pos := segment.MakePos(l.tail.Number, l.off)
	epoch, nonce := l.epoch, l.nonce
	if d.Kind == segment.Seal && l.last.Epoch != epoch {
		// The Open frame found no room. It begins the epoch, in the successor; the Seal
		// before it still belongs to the one before.
		epoch, nonce = l.last.Epoch, l.last.Nonce
	}
	h = segment.FrameHeader{
		Kind: d.Kind, Records: d.Records, Salt: l.tail.Salt, Pos: pos,
		Epoch: epoch, Nonce: nonce, Promise: l.promised(), Lease: d.Lease, Time: l.opt.Now(), Previous: h.CRC,
		TableLen: uint32(len(d.Table) - segment.FrameHeaderSize), BodyLen: int64(len(d.Body)), Total: l.total + uint64(d.Records),
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
	// In place as far as there is room: to fill a large block up, the frame would have to be copied.
	room := int64(cap(*last)) &^ (sector - 1)
	*last = padded(*last, min(size, max(room, roundUp(int64(len(*last)), sector))))
	bufs := append(l.bufs[:0], table)
	if len(body) > 0 {
		bufs = append(bufs, body)
	}
	if rest := size - int64(len(*last)); rest > 0 {
		if int64(len(l.zeros)) < rest {
			l.zeros = segment.Aligned(int(l.tail.Alignment))
		}
		bufs = append(bufs, l.zeros[:rest])
	}
	var err error
	if barrier.Gone(barrier.CommitSync) || d.Kind == segment.Seal && barrier.Gone(barrier.SealSync) {
		err = l.writeLoose(l.tail, l.off, bufs...)
	} else {
		err = l.write(l.tail, l.off, bufs...)
	}
	if err != nil {
		l.refused = h
		return h, fmt.Errorf("appending %d bytes to %s at %d: %w", h.Len, l.tail.File.Name(), l.off, err)
	}
	if d.Slab != nil {
		l.opt.Recent.Keep(d.Slab, &h, table, body)
	}
	l.last, l.off, l.total = h, l.off+h.Len, h.Total
	l.bytes.Add(h.Len)
	l.end.Store(uint64(h.End()))
	return h, nil
}

// promised is the position through which the log is durable.
func (l *Log) promised() segment.Pos {
	if l.opt.NoSync {
		return segment.Pos(l.synced.Load())
	}
	return l.End()
}

// Sync makes the log durable through a position at or behind which Append has come. It
// has something to do only with NoSync.
func (l *Log) Sync(to segment.Pos) error {
	from := segment.Pos(l.synced.Load())
	if !l.opt.NoSync || from >= to {
		return nil
	}
	for n := from.Segment(); n <= to.Segment(); n++ {
		s, err := l.Acquire(n)
		if err != nil {
			continue // recycled since: nothing in it is needed
		}
		err = s.File.Sync()
		if err = errors.Join(err, s.Release()); err != nil {
			return fmt.Errorf("syncing %s: %w", segment.Name(n), err)
		}
	}
	l.synced.Store(uint64(to))
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
	_, err = l.put(&Draft{Kind: segment.Seal, Records: 1, Table: l.sealBuf, Lease: l.last.Lease})
	return err
}

// Acquire takes a reference to the segment with a number; the caller releases it.
// To be called under the lock under which the position was read, so that the segment
// can't have been recycled in between.
func (l *Log) Acquire(number uint32) (*segment.Segment, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	s := l.segments[number]
	if s == nil {
		return nil, &segment.CorruptError{Segment: number, File: segment.Name(number), Reason: "is not in the log"}
	}
	s.Acquire()
	return s, nil
}

// Info is a segment of the log.
type Info struct {
	Number  uint32
	Size    int64
	End     int64 // where its frames end; for the tail, so far
	Sealed  bool
	Readers int
	Created int64
	Retired bool // out of the log, and its file goes when the last reader does

	seg *segment.Segment
}

// Segments lists the segments of the log in order, before them those that were recycled and
// that somebody still reads.
func (l *Log) Segments() []Info {
	end := l.End()
	l.mu.Lock()
	defer l.mu.Unlock()
	list := make([]Info, 0, len(l.segments)+len(l.retired))
	for _, n := range slices.Sorted(maps.Keys(l.retired)) {
		i := l.retired[n]
		i.Readers = i.seg.References()
		list = append(list, i)
	}
	for _, n := range slices.Sorted(maps.Keys(l.segments)) {
		s := l.segments[n]
		i := Info{Number: n, Size: s.Size, End: l.ends[n], Sealed: n < end.Segment(), Readers: s.References() - 1, Created: s.Created}
		if !i.Sealed {
			i.End = end.Offset()
		}
		list = append(list, i)
	}
	return list
}

// Numbers are the numbers of the segments of the log in order.
func (l *Log) Numbers() []uint32 {
	l.mu.Lock()
	defer l.mu.Unlock()
	return slices.Sorted(maps.Keys(l.segments))
}

// Recycle takes dead segments out of the log. Their files get another life, or go, when
// no reader holds them any more.
func (l *Log) Recycle(dead []uint32) error {
	var errs []error
	for _, n := range dead {
		l.mu.Lock()
		s := l.segments[n]
		if n >= l.End().Segment() { // the tail, and what is not in the log yet
			s = nil
		}
		if s != nil {
			l.retired[n] = Info{Number: n, Size: s.Size, End: l.ends[n], Sealed: true, Created: s.Created, Retired: true, seg: s}
			delete(l.segments, n)
			delete(l.ends, n)
		}
		l.mu.Unlock()
		if s != nil {
			errs = append(errs, s.Retire(func() {
				l.mu.Lock()
				delete(l.retired, n)
				l.maker.give(s)
				l.mu.Unlock()
			}))
		}
	}
	return errors.Join(errs...)
}

var errReached = errors.New("reached")

// Frames calls fn with each frame in [from, to), in order and without bodies. prev is
// the header of the frame that ends at from, which is no Seal; both zero: from the
// beginning. The frames must reach exactly to to, else it is segment.ErrCorrupt. It
// reads what is durable and takes no lock while it does.
func (l *Log) Frames(from, to segment.Pos, prev segment.FrameHeader, fn func(*segment.Frame) error) error {
	return frames(l.Acquire, (*segment.Segment).ScanTables, from, to, prev, fn)
}

// Frames does what Log.Frames does, for a log that was found and not resumed.
func (f *Found) Frames(from, to segment.Pos, prev segment.FrameHeader, fn func(*segment.Frame) error) error {
	return frames(f.Acquire, (*segment.Segment).Scan, from, to, prev, fn)
}

// Acquire does what Log.Acquire does, for a log that was found and not resumed.
func (f *Found) Acquire(number uint32) (*segment.Segment, error) {
	s := f.segments[number]
	if s == nil {
		return nil, f.Need(number)
	}
	s.Acquire()
	return s, nil
}

type scanner func(s *segment.Segment, off int64, prev segment.FrameHeader, fn func(*segment.Frame) error) (segment.Stop, error)

func frames(acquire func(uint32) (*segment.Segment, error), scan scanner, from, to segment.Pos, prev segment.FrameHeader, fn func(*segment.Frame) error) error {
	number, off := max(from.Segment(), 1), from.Offset()
	for at := from; at != to; number, off = number+1, 0 {
		s, err := acquire(number)
		if err != nil {
			return err
		}
		stop, err := scan(s, max(off, s.First()), prev, func(f *segment.Frame) error {
			if f.Pos >= to {
				at = f.Pos
				return errReached
			}
			if err := fn(f); err != nil {
				return err
			}
			if at = f.End(); at == to {
				return errReached
			}
			return nil
		})
		if err2 := s.Release(); err2 != nil {
			return err2
		}
		switch {
		case at == to && (err == nil || err == errReached):
			return nil
		case err != nil && err != errReached:
			return err
		case stop.Err != nil:
			return stop.Err
		case !stop.Sealed:
			return &segment.CorruptError{Segment: number, File: segment.Name(number), Offset: stop.Off,
				Reason: fmt.Sprintf("the log should reach to %v", to)}
		}
		prev = stop.Last
	}
	return nil
}

// Close ends the background work and lets go of the segments; their mappings go
// with the last reader.
func (l *Log) Close() error {
	errs := []error{l.maker.close()}
	l.mu.Lock()
	list := l.segments
	l.segments = nil
	l.mu.Unlock()
	for _, s := range list {
		errs = append(errs, s.Release())
	}
	return errors.Join(errs...)
}
