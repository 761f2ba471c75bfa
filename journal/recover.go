package journal

import (
	"errors"
	"fmt"
	"maps"
	"slices"

	"github.com/mtawal/mtawal/internal/disk"
	"github.com/mtawal/mtawal/segment"
)

// Found is a log as Recover found it. Nothing was written yet.
type Found struct {
	End           segment.Pos         // where the next frame goes
	Last          segment.FrameHeader // of the last frame that counts
	Promise       segment.Pos         // the highest promise found
	Rest          segment.Pos         // behind the last frame that is no Seal: where a checkpoint can be made
	Replayed      int64               // frames
	ReplayedBytes int64
	CutFrom       segment.Pos // the torn tail, if CutSize is not 0
	CutSize       int64

	dir      disk.Dir
	uuid     [16]byte
	segments map[uint32]*segment.Segment
	broken   map[uint32]error // segments before the replay that are not valid
	dead     []uint32
	rewrite  []stretch // replayed, but promised by nobody
}

type stretch struct {
	seg      *segment.Segment
	from, to int64
}

// held is a frame that was read and may still turn out to be torn.
type held struct {
	seg   *segment.Segment
	frame segment.Frame
}

type recovery struct {
	*Found
	apply func(*segment.Frame) error
	held  []held
	said  []Start
	told  segment.Pos // Known.Promise
}

// Recover reads the log from start to its end and hands its frames to apply, in
// order, each exactly once and none that is cut. What is before start matters only if
// something lives in it, which the caller knows after the replay and says with Keep. It
// writes nothing.
//
// Damage below the highest promise is segment.ErrCorrupt, a device that can't be
// read its own error; see segment.Verdicts. A start that is not in the log is ErrStart. With
// readOnly segments are opened for reading.
func Recover(dir disk.Dir, uuid [16]byte, start Start, known Known, readOnly bool, apply func(*segment.Frame) error) (*Found, error) {
	r := &recovery{
		Found: &Found{dir: dir, uuid: uuid, Promise: max(known.Promise, start.Pos), Rest: start.Pos,
			segments: make(map[uint32]*segment.Segment), broken: make(map[uint32]error)},
		apply: apply, said: slices.Clone(known.Said), told: known.Promise,
	}
	err := r.open(start, !readOnly)
	if err == nil {
		err = r.replay(start)
	}
	if err != nil {
		return nil, errors.Join(err, r.Close())
	}
	return r.Found, nil
}

// Close lets go of the segments of a log that is not resumed.
func (f *Found) Close() error {
	var errs []error
	for _, s := range f.segments {
		errs = append(errs, s.Release())
	}
	f.segments = nil
	return errors.Join(errs...)
}

// open opens every segment that counts.
func (r *recovery) open(start Start, write bool) error {
	list, err := r.dir.List()
	if err != nil {
		return fmt.Errorf("listing %s: %w", r.dir.Path(), err)
	}
	first := max(start.Pos.Segment(), 1)
	for _, f := range list {
		n, ok := segment.ParseName(f.Name)
		if !ok {
			continue
		}
		s, err := segment.OpenSegment(r.dir, n, r.uuid, write)
		if err != nil && n < first {
			r.broken[n] = err // matters if something lives in it
			continue
		}
		if err != nil {
			return err
		}
		r.segments[n] = s
	}
	if r.segments[first] == nil && start.Pos == 0 {
		return &segment.CorruptError{Segment: first, File: segment.Name(first), Reason: "the segment in which replay begins is missing"}
	}
	return nil
}

// Dead reports whether Keep would find any segment dead.
func (f *Found) Dead(oldest uint32, live map[uint32]struct{}) bool {
	dead := func(n uint32) bool {
		_, ok := live[n]
		return !ok && n < oldest
	}
	for n := range f.broken {
		if dead(n) {
			return true
		}
	}
	for n := range f.segments {
		if dead(n) {
			return true
		}
	}
	return false
}

// Keep says in which segment the oldest replay starts that must stay possible, and which of
// those before it hold something live. The others are dead, whatever is in them: such files
// come back after power cuts. One that is needed and is not valid, or not there, is an error.
func (f *Found) Keep(oldest uint32, live map[uint32]struct{}) error {
	for n := range live {
		if err := f.broken[n]; err != nil {
			return err
		}
		if err := f.Need(n); err != nil {
			return err
		}
	}
	for n := range f.broken {
		if n < oldest {
			f.dead = append(f.dead, n)
		}
	}
	for n, s := range f.segments {
		if _, ok := live[n]; ok || n >= oldest {
			continue
		}
		delete(f.segments, n)
		f.dead = append(f.dead, n)
		if err := s.Release(); err != nil {
			return err
		}
	}
	return nil
}

// Need reports a segment that should be there and is not.
func (f *Found) Need(number uint32) error {
	if f.segments[number] == nil {
		return &segment.CorruptError{Segment: number, File: segment.Name(number), Reason: "a segment with live messages is missing"}
	}
	return nil
}

func (r *recovery) replay(start Start) error {
	number, off := start.Pos.Segment(), start.Pos.Offset()
	if start.Pos == 0 {
		number = 1
		off = r.segments[1].First()
	} else {
		var err error
		if r.Last, err = r.Holds(start); err != nil {
			return err
		}
	}
	prev := r.Last
	for {
		s := r.segments[number]
		stop, err := s.Scan(off, prev, func(f *segment.Frame) error {
			return r.frame(s, f)
		})
		if err != nil {
			return fmt.Errorf("replaying %s: %w", segment.Name(number), err)
		}
		if stop.Sealed {
			prev = stop.Last
			if number, off, err = r.successor(number); err != nil {
				return err
			}
			continue
		}
		return r.finish(s, stop)
	}
}

func (r *recovery) corrupt(s *segment.Segment, pos segment.Pos, reason string) error {
	return &segment.CorruptError{Segment: s.Number, File: s.File.Name(), Offset: pos.Offset(), Reason: reason}
}

// successor is where the log goes on behind a Seal.
func (r *recovery) successor(number uint32) (uint32, int64, error) {
	next := r.segments[number+1]
	if next == nil {
		return 0, 0, &segment.CorruptError{Segment: number + 1, File: segment.Name(number + 1), Reason: "missing behind a sealed segment"}
	}
	return number + 1, next.First(), nil
}

// frame takes the next valid frame. It is applied when something promises it;
// until then it may yet turn out to be torn.
func (r *recovery) frame(s *segment.Segment, f *segment.Frame) error {
	if f.Kind == segment.Seal {
		if err := r.checkSeal(s, f); err != nil {
			return err
		}
	}
	r.held = append(r.held, held{s, *f})
	r.Promise = max(r.Promise, f.Promise)
	r.hear(f)
	return r.settle()
}

// checkSeal compares the successor with what the Seal names, in its one record.
func (r *recovery) checkSeal(s *segment.Segment, f *segment.Frame) error {
	if f.Records != 1 {
		return r.corrupt(s, f.Pos, fmt.Sprintf("the Seal has %d records where there is one that names its successor", f.Records))
	}
	return f.ForEach(func(_ segment.Pos, rec segment.Record) error {
		if rec.Kind() != segment.KindSeal {
			return r.corrupt(s, f.Pos, "the Seal names no successor")
		}
		number, salt := rec.Seal()
		next := r.segments[s.Number+1]
		if number != s.Number+1 || next != nil && next.Salt != salt {
			return r.corrupt(s, f.Pos, "the Seal names another successor")
		}
		return nil
	})
}

// settle applies what is promised by now.
func (r *recovery) settle() error {
	n := 0
	for n < len(r.held) && r.held[n].frame.End() <= r.Promise {
		if err := r.accept(&r.held[n]); err != nil {
			return err
		}
		n++
	}
	if n > 0 {
		r.held = slices.Delete(r.held, 0, n)
	}
	return nil
}

func (r *recovery) accept(h *held) error {
	// The frame is a view of the mapping, and the scan that guarded it may be over.
	m, err := h.seg.Map()
	if err != nil {
		return err
	}
	if err := disk.Guard(m, func() error { return r.apply(&h.frame) }); err != nil {
		return err
	}
	r.Last = h.frame.FrameHeader
	if r.Last.Kind != segment.Seal {
		r.Rest = r.Last.End()
	}
	r.Replayed++
	r.ReplayedBytes += h.frame.Len
	return nil
}

// finish decides where the log ends, the chain having ended at stop.
func (r *recovery) finish(s *segment.Segment, stop segment.Stop) error {
	last, err := r.lookAhead(s, stop)
	if err != nil {
		return err
	}
	place := segment.MakePos(s.Number, stop.Off)
	r.believe(place)
	if err := r.settle(); err != nil {
		return err
	}
	switch segment.Judge(stop.Finding, place < r.Promise) {
	case segment.Corrupt:
		return r.corrupt(s, place, fmt.Sprintf("no valid frame, yet the log was durable through %v", r.Promise))
	case segment.Fail:
		return fmt.Errorf("replaying %s at %d: %w", s.File.Name(), stop.Off, stop.Err)
	}
	r.End = place
	for i := range r.held {
		h := &r.held[i]
		whole, err := h.seg.CheckBodies(&h.frame, nil)
		if err != nil {
			return err
		}
		if !whole && segment.Judge(segment.BodyBad, h.frame.Pos < r.Promise) == segment.Cut {
			r.End = h.frame.Pos
			last = max(last, r.held[len(r.held)-1].frame.End())
			break
		}
		if err := r.accept(h); err != nil {
			return err
		}
		from := h.frame.Pos.Offset()
		r.rewrite = append(r.rewrite, stretch{h.seg, from, from + h.frame.Len})
	}
	r.held = nil
	if last > r.End {
		r.CutFrom = r.End
		if last.Segment() == r.End.Segment() {
			r.CutSize = int64(last - r.End)
		} else {
			r.CutSize = r.segments[r.End.Segment()].Size - r.End.Offset()
		}
	}
	return nil
}

// lookAheadMost is how far behind the end of the log the last of the frames that were in flight at a kill begins, but for
// batches that are longer than others: then less is said to be cut than was.
const lookAheadMost = 5 << 20

// lookAhead finds the promises that frames behind the end of the chain make, and
// where the last frame of the epoch that was cut off ends.
//
// Where the claim table says how far the log was durable, and the chain goes as far, nothing behind it promises more that
// anybody was told of: a frame promises what has landed before it was placed, which is in the table before it is acknowledged. What has landed
// is in the chain. So only what was in flight is looked for, instead of reading the rest of the segment, and the one
// that stands ready behind it, from the device. A table may be too old, though: it could not be written, or it is from a copy of files of a store in
// use. Then frames of the chain, or the one that a later segment begins with, promise more than it says, and all is read.
func (r *recovery) lookAhead(s *segment.Segment, stop segment.Stop) (last segment.Pos, err error) {
	see := func(h *segment.FrameHeader) {
		r.Promise = max(r.Promise, h.Promise)
		if h.Epoch == stop.Last.Epoch && h.Nonce == stop.Last.Nonce {
			last = max(last, h.End())
		}
	}
	if stop.Finding == segment.Unreadable {
		// What is behind may be readable, and what is here may be below a promise, but the
		// verdict is the same: the device's error.
		return 0, nil
	}
	told := r.told > 0 && segment.MakePos(s.Number, stop.Off) >= r.told && r.Promise == r.told
	end := s.Size
	if told {
		end = stop.Off + lookAheadMost
	}
	if err := s.Headers(stop.Off, end, see); err != nil {
		return 0, err
	}
	for n, later := range r.segments {
		if n <= s.Number {
			continue
		}
		end := later.Size
		if told {
			end = later.First() + 1 // what it begins with
		}
		if err := later.Headers(later.First(), end, see); err != nil {
			return 0, err
		}
	}
	return last, nil
}

// Unneeded are the numbers of segments that Keep found dead, and whose files are still there.
func (f *Found) Unneeded() []uint32 { return slices.Sorted(slices.Values(f.dead)) }

// Segments are the segments that were found, in order: those of the log, and those that
// stand ready behind it.
func (f *Found) Segments() []*segment.Segment {
	list := slices.Collect(maps.Values(f.segments))
	slices.SortFunc(list, func(a, b *segment.Segment) int { return int(a.Number) - int(b.Number) })
	return list
}
