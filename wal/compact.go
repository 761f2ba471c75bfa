package wal

import (
	"cmp"
	"context"
	"errors"
	"slices"
	"sync/atomic"
	"time"

	"github.com/mtawal/mtawal/internal/barrier"
	"github.com/mtawal/mtawal/internal/disk"
	"github.com/mtawal/mtawal/mailq"
	"github.com/mtawal/mtawal/segment"
	"github.com/mtawal/mtawal/state"
)

// A segment in which little is live is emptied: what lives is copied to the end of the log, so
// that one message that waits for days does not pin 64 MiB. A copy says where it was copied
// from, and counts only if that still is where the message's bytes are when it is applied: a
// used-mark, or another copy, that came first wins.
const (
	// moveBatch bounds what one batch of copies holds, which commits wait behind, and compactPass one look at all
	// messages.
	moveBatch   = 256 << 10
	compactPass = 64 << 20
)

// CompactInfo is how far a compaction has come.
type CompactInfo struct {
	Segments int   // that are being emptied
	Moved    int64 // bytes copied out of them so far
	Left     int64 // bytes that are still to be copied
}

// moveWrite is a copy of a record and its bytes on their way to the end of the log.
type moveWrite struct {
	record segment.Record
	body   []byte
	holder uint64
	from   segment.Pos
}

// heldPiece is a piece of the log that a message holds.
type heldPiece struct {
	pos   segment.Pos
	id    uint64
	slot  uint32
	chunk bool
}

type compaction struct {
	running chan struct{} // holds one while one runs
	wake    chan struct{}
	waiting atomic.Int32     // who waits to begin
	hurry   chan struct{}    // somebody does
	next    int64            // of the loop: how much the log must have taken before it copies again
	vain    int64            // of the loop: the same, also where the log is much larger than it should be
	stuck   map[uint32]int64 // of the loop: segments that could not be emptied, and what lived in them
}

func (c *compaction) poke() {
	select {
	case c.wake <- struct{}{}:
	default:
	}
}

// compactLoop empties sparse segments as they become worth it.
func (s *Store) compactLoop() {
	defer s.bg.Done()
	for {
		select {
		case <-s.open.Done():
			return
		case <-s.compaction.wake:
		}
		var err error
		if s.short() {
			if !s.paysWhileShort(s.sparseSegments(s.log.End().Segment())) {
				continue
			}
			err = s.compact(context.Background(), 0) // else what others append between the copies would be pinned with them
		} else {
			sparse, live, cold := s.worthCompacting()
			if len(sparse) == 0 {
				continue
			}
			began, before := s.log.Appended(), s.log.Files().Segments
			var moved int64
			var all bool
			moved, all, err = s.compactThese(context.Background(), sparse, live, cold)
			s.compaction.next = began + 2*moved // so copies are no more than half of what is written, as a rule
			if end := s.log.Appended(); s.log.Files().Segments >= before && end-began < 4*moved {
				// With segments that hold few frames copies may be no denser than what was there. Where next to nothing else
				// is written the next pass would find what this one has found.
				s.compaction.vain = end + s.opt.SegmentSize
			}
			if err == nil {
				if all {
					s.compaction.noteStuck(sparse, s.segmentUses())
				}
				s.compaction.poke() // there may be another pass
			}
		}
		if err != nil && !errors.Is(err, ErrClosed) && !errors.Is(err, ErrFailed) && !errors.Is(err, ErrFull) {
			s.opt.Logger.Error("sparse segments could not be emptied", "err", err)
		}
	}
}

// bounceRoom is what bounces, and copies, may still take of the reserve.
func (s *Store) bounceRoom() int64 {
	return s.roomLeft() - s.space.reserve.Load() + bounceSegments*s.opt.SegmentSize
}

// paysWhileShort reports whether emptying segments leaves more room than there was, when it takes
// what bounces may use of the reserve. Copies are admitted as bounces are, so marks keep their
// part of it. Beside the segments that they fill, copies may pin the one in which they begin and, with
// marks in between, another: so it pays if that many more come back.
func (s *Store) paysWhileShort(numbers map[uint32]bool, live int64) bool {
	return int64(len(numbers))*s.opt.SegmentSize-live >= 3*s.opt.SegmentSize
}

// compact empties sparse segments, and has them recycled, until there are none that were there
// when it began. It copies at most rate bytes a second; 0: as fast as it can.
func (s *Store) compact(ctx context.Context, rate int64) error {
	if err := s.compaction.begin(ctx); err != nil {
		return err
	}
	defer s.compaction.end()
	last := s.log.End().Segment()
	var info CompactInfo
	for {
		sparse, left := s.sparseSegments(last)
		if len(sparse) == 0 || s.short() && !s.paysWhileShort(sparse, left) {
			return s.settleFolds()
		}
		info.Segments, info.Left = len(sparse), left
		moved, _, err := s.empty(ctx, sparse, rate, &info, false)
		if err = errors.Join(err, s.settleFolds()); err != nil {
			return err
		}
		if moved == 0 {
			return nil // what is left is damaged, or was given back
		}
	}
}

// compactThese empties segments at CompactRate, into a cold one if that can be had, and has them recycled.
func (s *Store) compactThese(ctx context.Context, sparse map[uint32]bool, live int64, cold bool) (moved int64, all bool, err error) {
	if err := s.compaction.begin(ctx); err != nil {
		return 0, false, err
	}
	defer s.compaction.end()
	moved, all, err = s.empty(ctx, sparse, s.opt.CompactRate, &CompactInfo{Segments: len(sparse), Left: live}, cold)
	if moved == 0 {
		return 0, all, err
	}
	// Also after an error, a disk that is full say: what was copied is to be given back.
	return moved, all, errors.Join(err, s.settleFolds())
}

// begin waits until no other compaction runs.
func (c *compaction) begin(ctx context.Context) error {
	c.waiting.Add(1)
	defer c.waiting.Add(-1)
	select {
	case c.hurry <- struct{}{}:
	default:
	}
	select {
	case c.running <- struct{}{}:
		return nil
	case <-ctx.Done():
		return ctx.Err()
	}
}

func (c *compaction) end() { <-c.running }

// empty copies what lives in segments into a cold one, or to the end of the log, and reports whether all of it was tried.
func (s *Store) empty(ctx context.Context, sparse map[uint32]bool, rate int64, info *CompactInfo, cold bool) (moved int64, all bool, err error) {
	pieces, err := s.heldIn(ctx, sparse)
	if err != nil {
		return 0, false, err
	}
	if err := s.scatter(sparse, true); err != nil {
		return 0, false, err
	}
	if cold {
		moved, all, err = s.moveCold(ctx, pieces, rate, info)
	}
	if moved == 0 && err == nil {
		moved, err = s.move(ctx, pieces, rate, info)
		all = true
	}
	return moved, all, errors.Join(err, s.scatter(sparse, false)) // what was not emptied is read as before
}

// settleFolds makes the checkpoints that it takes to know what is dead: two that start
// behind it, the second at a position of its own.
func (s *Store) settleFolds() error {
	if err := s.fold(); err != nil {
		return err
	}
	if !s.pinnedByOlder() {
		return nil
	}
	if err := s.nudge(); err != nil {
		return err
	}
	return s.fold()
}

// heldIn finds what messages hold in segments, in the order of the log.
func (s *Store) heldIn(ctx context.Context, numbers map[uint32]bool) ([]heldPiece, error) {
	var list []heldPiece
	for slot, more := uint32(0), true; more; {
		if err := ctx.Err(); err != nil {
			return nil, err
		}
		s.mu.Lock()
		if s.phase >= closing {
			defer s.mu.Unlock()
			return nil, s.gate(true)
		}
		end := s.table.Slots()
		for n := 0; slot < end && n < 4*entriesStep; slot++ {
			if !s.table.Lives(slot, 0) {
				continue
			}
			m := s.table.Msg(slot)
			n++
			if numbers[m.Loc.Segment()] {
				list = append(list, heldPiece{pos: m.Loc, id: m.ID, slot: slot})
			}
			for _, x := range s.table.Extents(m) {
				if numbers[x.Pos.Segment()] {
					list = append(list, heldPiece{pos: x.Pos, id: m.ID, slot: slot, chunk: x.Kind == segment.KindChunk})
				}
			}
		}
		more = slot < end
		s.mu.Unlock()
	}
	slices.SortFunc(list, func(a, b heldPiece) int { return cmp.Compare(a.pos, b.pos) })
	return list, nil
}

// move copies pieces to the end of the log.
func (s *Store) move(ctx context.Context, pieces []heldPiece, rate int64, info *CompactInfo) (moved int64, err error) {
	var buf []byte
	room := int64(min(moveBatch, s.limits.chunk))
	f := s.fetcher(pieces)
	defer f.close()
	for p := f.next(); p != nil; p = f.next() {
		if err := ctx.Err(); err != nil {
			return moved, err
		}
		began := s.opt.now()
		t := newTicket(s)
		var n int64
		buf, n = buf[:0], 0
		for ; p != nil && (len(t.moves) == 0 || n < room && len(t.moves) < runsPerRecord); p = f.next() {
			m, b, err := s.copyPiece(p, buf)
			if err != nil {
				return moved, err
			}
			if size := int64(len(m.record) + len(m.body)); m.record != nil {
				if len(t.moves) > 0 && n+size > room {
					break // with the next batch, which reads it again
				}
				t.moves, n = append(t.moves, m), n+size
			}
			buf = b
			f.taken()
		}
		if len(t.moves) == 0 {
			continue
		}
		if err := s.submit(ctx, t); err != nil {
			var long *mailq.LimitError
			if errors.As(err, &long) && len(t.moves) == 1 {
				continue // it comes from larger segments than this owner's, and stays there
			}
			return moved, err
		}
		<-t.done
		if t.err != nil {
			return moved, t.err
		}
		moved += n
		info.Moved, info.Left = info.Moved+n, max(info.Left-n, 0)
		s.traceCompacted(info)
		if err := s.pace(ctx, n, rate, began); err != nil {
			return moved, err
		}
	}
	return moved, nil
}

// pace waits until n bytes since began are no more than the rate allows.
func (s *Store) pace(ctx context.Context, n, rate int64, began time.Time) error {
	if rate <= 0 {
		return nil
	}
	wait := time.Duration(float64(n)/float64(rate)*float64(time.Second)) - s.opt.now().Sub(began)
	if wait <= 0 {
		return nil
	}
	t := time.NewTimer(wait)
	defer t.Stop()
	select {
	case <-t.C:
	case <-ctx.Done():
		return ctx.Err()
	case <-s.open.Done():
	}
	return nil
}

// copyPiece copies a record and its bytes into buf, if the message still holds them there, and
// checks them. A message whose bytes fail their checksum is set aside, and its bytes stay
// where they are.
func (s *Store) copyPiece(p *heldPiece, buf []byte) (moveWrite, []byte, error) {
	seg, err := s.acquirePiece(p)
	if seg == nil || err != nil {
		return moveWrite{}, buf, err
	}
	w, b, err := copyHeld(seg, p, buf)
	err = errors.Join(err, seg.Release())
	if errors.Is(err, segment.ErrCorrupt) {
		s.mu.Lock()
		s.damage(p.slot, p.id, err)
		s.mu.Unlock()
		return moveWrite{}, buf, nil
	}
	return w, b, err
}

// acquirePiece takes a reference to the segment of a piece; nil if the message does not have it there any more.
func (s *Store) acquirePiece(p *heldPiece) (*segment.Segment, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if !s.holds(p) {
		return nil, nil
	}
	return s.log.Acquire(p.pos.Segment())
}

// holds reports whether a message still has a piece where it was. Store.mu is held.
func (s *Store) holds(p *heldPiece) bool {
	if !s.table.Lives(p.slot, p.id) || s.damaged[p.id] != nil {
		return false
	}
	m := s.table.Msg(p.slot)
	return m.Loc == p.pos || slices.ContainsFunc(s.table.Extents(m), func(x state.Extent) bool { return x.Pos == p.pos })
}

// foundPiece is where a piece is in its segment.
type foundPiece struct {
	record segment.Record // a copy
	at, n  int64          // of its bytes
	crc    uint32
	of     uint64 // what the checksum of the bytes begins with
}

// find reads the record of a piece, and checks it.
func find(seg *segment.Segment, p *heldPiece) (f foundPiece, err error) {
	var r segment.Record
	if p.chunk {
		r, f.at, err = seg.AnyRecord(p.pos.Offset(), segment.KindChunk)
	} else {
		r, f.at, err = seg.Record(p.pos.Offset(), p.id)
	}
	if err != nil {
		return f, err
	}
	m, err := seg.Map()
	if err != nil {
		return f, err
	}
	err = disk.Guard(m, func() error {
		f.record = append(segment.Record(nil), r...)
		return nil
	})
	if err != nil {
		return f, err
	}
	switch f.record.Kind() {
	case segment.KindChunk:
		_, k, crc := f.record.Chunk()
		f.n, f.crc, f.of = int64(k), crc, f.record.ID()
	case segment.KindEnqueue:
		if e := f.record.Enqueue(); e.Chunks() == 0 {
			f.n, f.crc, f.of = e.BodyLen, e.BodyCRC, p.id
		}
	}
	return f, nil
}

// copyHeld copies a record and its bytes out of a segment, and checks both.
func copyHeld(seg *segment.Segment, p *heldPiece, buf []byte) (w moveWrite, _ []byte, err error) {
	f, err := find(seg, p)
	if err != nil {
		return w, buf, err
	}
	w = moveWrite{record: f.record, holder: p.id, from: p.pos}
	if f.n == 0 {
		return w, buf, nil
	}
	start := len(buf)
	buf = slices.Grow(buf, int(f.n))[:start+int(f.n)]
	pc := piece{seg: seg, off: f.at, n: f.n}
	if err := pc.view(0, f.n, func(v []byte) error { copy(buf[start:], v); return nil }); err != nil {
		return w, buf, err
	}
	if w.body = buf[start : start+int(f.n) : start+int(f.n)]; segment.BodyCRC(f.of, w.body) != f.crc && !barrier.Gone(barrier.MoveChecksum) {
		return w, buf, &segment.CorruptError{Segment: seg.Number, File: seg.File.Name(), Offset: f.at, Reason: "a body fails its checksum"}
	}
	return w, buf, nil
}
