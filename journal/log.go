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
	// Room says whether the log may take so many more bytes of the disk: else an error that is
	// disk.ErrNoSpace. have is what its files take; it may be asked where locks of the log may be taken.
	// If it may, take is called, which counts them, before anybody else is told what there is. last: what is
	// appended waits for it, and no spare file is left for that. nil: always.
	Room func(have func() int64, more int64, last bool, take func()) error
	// Recent holds the frames that were laid out in one of its slabs once they are written, for
	// readers. It may be nil.
	Recent *segment.Recent
}

// Log is an open log. Append, and what it consists of, is for one goroutine at a time; everything
// else may be called by any.
type Log struct {
	dir  disk.Dir
	uuid [16]byte
	opt  Options

	// Lock order: a lock of the caller before mu. No system call under mu.
	mu       sync.Mutex
	segments map[uint32]*segment.Segment // in the log, the tail's successor not included
	ends     map[uint32]int64            // where the frames of a sealed segment end
	retired  map[uint32]Info             // recycled, and still read by somebody

	landed    *sync.Cond // on mu: a frame has landed, or none will
	flying    int        // frames that were placed and have not landed
	abandoned error      // of a frame that never lands

	// Of the goroutine that places frames.
	tail    *segment.Segment
	off     int64               // where the next frame goes
	last    segment.FrameHeader // that was placed
	refused segment.FrameHeader // of the frame that the disk had no room for, if it was to stand at off
	epoch   uint64
	nonce   uint64
	total   uint64
	before  segment.FrameHeader // the frame before last, for Retract
	sealBuf []byte
	single  Flight // of Append
	sealing Flight // of the Seal
	zeros   []byte // that frames are padded with where their own memory does not reach

	end     atomic.Uint64 // a Pos: behind the last frame, durable unless NoSync
	bytes   atomic.Int64  // of frames appended since the log was resumed
	typical atomic.Int64  // length of a frame, see noteLength
	tables  tables        // of frames that landed and are not folded yet
	synced  atomic.Uint64 // with NoSync: a Pos through which Sync has come
	maker   *maker
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
	l.landed = sync.NewCond(&l.mu)
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
	ready := make(map[uint32]*segment.Segment)
	l.tail.Unread(l.off)
	for n, s := range f.segments {
		if n > f.End.Segment() {
			s.Unread(0)
			ready[n] = s
		} else {
			l.segments[n] = s
			l.ends[n] = s.Size
		}
	}
	if err := newMaker(l, f.dead, ready); err != nil {
		return nil, err
	}
	if f.CutSize > 0 {
		if err := f.saveCut(l.maker); err != nil {
			opt.Logger.Warn("the torn tail that was cut could not be saved", "at", f.CutFrom.String(), "bytes", f.CutSize, "err", err)
		}
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

// FrameMax is the length of the longest frame that the segments take.
func (l *Log) FrameMax() int64 { return FrameMax(l.opt.SegmentSize, int64(l.dir.Block())) }

// FrameMax is the length of the longest frame for segments of a size: what is left
// beside the header, the Seal, and the block that is kept for a Draft that is Spare.
func FrameMax(segmentSize, alignment int64) int64 { return segmentSize - 3*alignment }

// End is the position behind the last frame that has landed, where it is durable.
func (l *Log) End() segment.Pos { return segment.Pos(l.end.Load()) }

// Last is the header of the frame that was placed last, for the goroutine that places.
func (l *Log) Last() segment.FrameHeader { return l.last }

// Appended is the number of bytes of frames appended since the log was resumed.
func (l *Log) Appended() int64 { return l.bytes.Load() }

// TailLeft is how many bytes are left of the tail.
func (l *Log) TailLeft() int64 {
	l.mu.Lock()
	defer l.mu.Unlock()
	end := l.End()
	if s := l.segments[end.Segment()]; s != nil {
		return s.Size - end.Offset()
	}
	return 0
}

// Durable is the position through which the log is durable.
func (l *Log) Durable() segment.Pos {
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

// Collected waits until the files of segments that were recycled, and that nobody reads, have lost their
// names, and hold zeros if they are scrubbed, or until stop is closed.
func (l *Log) Collected(stop <-chan struct{}) { l.maker.waitCollected(stop) }

var errReached = errors.New("reached")

// Frames calls fn with each frame in [from, to), in order and without bodies. prev is
// the header of the frame that ends at from, which is no Seal; both zero: from the
// beginning. The frames must reach exactly to to, else it is segment.ErrCorrupt. It
// reads what is durable and takes no lock while it does.
func (l *Log) Frames(from, to segment.Pos, prev segment.FrameHeader, fn func(*segment.Frame) error) error {
	return frames(l.Acquire, l.tables.scan, from, to, prev, fn)
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
