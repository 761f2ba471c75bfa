package journal

import (
	"errors"
	"fmt"
	"slices"

	"github.com/mtawal/mtawal/segment"
)

// Start is where replay begins: behind a frame that a checkpoint covers, or, with
// the zero value, at the beginning of the log.
type Start struct {
	Pos  segment.Pos
	Last segment.FrameHeader // of the frame that ends at Pos
}

// ErrStart: the log does not hold the frame that a Start names, so that no replay can begin
// there. It comes with segment.ErrCorrupt, but says nothing about the log: another Start may do.
var ErrStart = errors.New("the log does not hold the frame that the checkpoint ends with")

// Known is what is known, from elsewhere than its frames, of how far the log was durable.
type Known struct {
	Promise segment.Pos // by the claim table
	// Said is what checkpoints say that are not usable. It counts unless the log shows that
	// it can't be: see hear.
	Said []Start
}

// Holds checks that the frame a checkpoint ends with is the one in the log, and returns its
// header; else ErrStart. Where the header has decayed since, the frame behind it, which is
// chained to it, vouches for it: damage in front of a replay does not keep it from starting.
func (f *Found) Holds(start Start) (segment.FrameHeader, error) {
	number, last := start.Pos.Segment(), start.Last
	not := func(reason string) (segment.FrameHeader, error) {
		c := &segment.CorruptError{Segment: number, File: segment.Name(number), Offset: last.Pos.Offset(), Reason: reason}
		return last, fmt.Errorf("%w: %w", ErrStart, c)
	}
	s := f.segments[number]
	if s == nil {
		return not("the segment is missing")
	}
	if !fits(s, start) {
		return not(fmt.Sprintf("no frame stands at %v and ends at %v", last.Pos, start.Pos))
	}
	h, ok, err := headerAt(s, last.Pos)
	if err == nil && !ok {
		next, ok, err := headerAt(s, start.Pos)
		switch {
		case err != nil:
			return last, err
		case ok && next.Follows(&last):
			return last, nil
		}
		return not("no frame header")
	}
	if err != nil {
		return last, err
	}
	if !ends(&h, start) || h.Epoch != last.Epoch || h.Nonce != last.Nonce || h.Kind == segment.Seal {
		return not("another frame")
	}
	return h, nil
}

// fits reports whether a frame of the segment can stand where a Start says.
func fits(s *segment.Segment, start Start) bool {
	from, to, a := start.Last.Pos, start.Pos, int64(s.Alignment)
	return from.Segment() == s.Number && to.Segment() == s.Number && from < to && from.Offset() >= s.First() && to.Offset() <= s.Size &&
		from.Offset()%a == 0 && to.Offset()%a == 0
}

// ends reports whether a frame is the one that a Start names.
func ends(h *segment.FrameHeader, start Start) bool {
	return h.Pos == start.Last.Pos && h.CRC == start.Last.CRC && h.End() == start.Pos
}

func headerAt(s *segment.Segment, pos segment.Pos) (h segment.FrameHeader, ok bool, err error) {
	b := make([]byte, segment.FrameHeaderSize)
	if pos.Offset() > s.Size-int64(len(b)) {
		return h, false, nil
	}
	if _, err := s.File.ReadAt(b, pos.Offset()); err != nil {
		return h, false, fmt.Errorf("reading the frame at %v: %w", pos, err)
	}
	return segment.DecodeFrameHeader(&s.Header, pos.Offset(), b)
}

// hear compares what checkpoints say that are not usable with the next frame of the chain.
//
// Such a checkpoint says that the log was durable through its position, where a certain frame
// ends. It may be right, and only its own bytes be damaged: then the log must reach there,
// and what is missing of it was acknowledged. Or it may be of another history of the store,
// put together from two backups say: then its position means nothing. The chain decides,
// when it comes to where that frame should stand. There it is: the position is a promise
// like any other. Another frame is in its place: no history has both, for what was durable
// is never cut, so this log is not the one that was meant, and the position is forgotten.
// Where the chain ends before, nothing speaks against it: see believe.
func (r *recovery) hear(f *segment.Frame) {
	r.said = slices.DeleteFunc(r.said, func(c Start) bool {
		if ends(&f.FrameHeader, c) {
			r.Promise = max(r.Promise, c.Pos)
		}
		return f.End() > c.Last.Pos
	})
}

// believe takes what nothing spoke against for promises, the chain having ended at place:
// unless it ended in a later segment, or no frame can end there, whatever the log once held.
func (r *recovery) believe(place segment.Pos) {
	for _, c := range r.said {
		s := r.segments[c.Last.Pos.Segment()]
		if place <= c.Last.Pos && (s == nil || fits(s, c)) {
			r.Promise = max(r.Promise, c.Pos)
		}
	}
}
