package wal

import (
	"context"
	"errors"
	"time"

	"github.com/mtawal/mtawal/internal/disk"
	"github.com/mtawal/mtawal/journal"
	"github.com/mtawal/mtawal/segment"
)

// What waits for long is kept apart from fresh mail: copied to the end of the log it would share a segment with mail that is
// delivered in a moment, and be copied again when that segment is sparse, and again. So copies get a segment of
// their own between two of those that fresh mail fills: a cold one, as log-structured file systems call what is separated by age (Rosenblum and
// Ousterhout, SOSP '91). journal.Log.Cold has it stand ready, bodies and all; its frame goes out when the next group finds no place in the tail.
// In that moment commits wait for a write of a few blocks, whatever it was that was copied.

const (
	// coldMax bounds the copies of one cold segment, in bytes, and coldMoves in number: they are applied at once, under Store.mu.
	coldMax   = 16 << 20
	coldMoves = 8192
	// coldLook is how often it is looked whether the tail will soon be full, and coldWait how long that may take as it
	// looks then. Where it takes longer the copies go to the end of the log.
	coldLook = time.Second
	coldWait = 8 * time.Second
)

// coldGroup is a group that waits until the tail is full. It is under Store.mu.
type coldGroup struct {
	*group
	now bool // it does not wait
}

// moveCold copies pieces into a cold segment, as many as one takes, and reports how many bytes. now: it does not wait until the
// tail is full. None were copied, and there is no error, where that takes too long, or there is no place for such a segment.
func (s *Store) moveCold(ctx context.Context, pieces []heldPiece, rate int64, info *CompactInfo, now bool) (moved int64, err error) {
	t := newTicket(s)
	bodies, moved, err := s.copyCold(ctx, t, pieces, info.Left)
	if err != nil || len(t.moves) == 0 {
		return 0, err
	}
	if err := s.admitCold(t); err != nil {
		return 0, err
	}
	began, sum := s.opt.now(), int64(0)
	number, head, err := s.log.Cold(int64(t.tableSize()), bodies, func(n int) error {
		sum += int64(n)
		info.Moved, info.Left = info.Moved+int64(n), max(info.Left-int64(n), 0)
		s.traceCompacted(info)
		return s.pace(ctx, sum, rate, began)
	})
	if errors.Is(err, journal.ErrNoCold) || errors.Is(err, disk.ErrNoSpace) {
		return 0, nil
	}
	if err != nil {
		return 0, err
	}
	g := largeGroup(t.tableSize(), 0)
	g.body, g.ahead, g.cold = bodies[:0], len(bodies)-head, number
	if err := s.offerCold(t, coldGroup{g, now}); err != nil {
		s.log.Unused(number)
		return 0, err
	}
	if !s.awaitCold(ctx, t, g) {
		s.log.Unused(number)
		return 0, ctx.Err()
	}
	if errors.Is(t.err, journal.ErrNoCold) {
		return 0, nil
	}
	return moved, t.err
}

func (t *ticket) tableSize() int {
	table, _ := t.need()
	return table
}

// copyCold copies pieces and their bytes, these as they lie in the body of a frame.
func (s *Store) copyCold(ctx context.Context, t *ticket, pieces []heldPiece, expect int64) (bodies []byte, moved int64, err error) {
	most := min(coldMax, s.limits.frame)
	bodies = segment.Aligned(int(min(expect+expect/8, most) + segment.AlignmentMin))[:0]
	f := s.fetcher(pieces)
	defer f.close()
	table := 0
	for p := f.next(); p != nil && len(t.moves) < coldMoves; p = f.next() {
		if err := ctx.Err(); err != nil {
			return nil, 0, err
		}
		m, b, err := s.copyPiece(p, bodies)
		if err != nil {
			return nil, 0, err
		}
		if m.record != nil {
			b = append(b, make([]byte, pad8(len(b))-len(b))...)
			size := table + segment.MovedSize(m.record)
			if segment.FrameSize(int64(size), int64(len(b)), uint32(s.dir.Block())) > most || size > segment.TableMax {
				break // with another
			}
			table, bodies, moved = size, b, moved+int64(len(m.record)+len(m.body))
			t.moves = append(t.moves, m)
		}
		f.taken()
	}
	return bodies, moved, nil
}

// admitCold asks whether there is room for copies.
func (s *Store) admitCold(t *ticket) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.admitLocked(t)
}

// offerCold has a group wait for the committer.
func (s *Store) offerCold(t *ticket, g coldGroup) error {
	s.mu.Lock()
	err := s.admitLocked(t)
	if err == nil {
		s.cold = g
		s.place(t, g.group)
	}
	s.mu.Unlock()
	if err != nil {
		return err
	}
	t.encode()
	g.encoding.Done()
	if g.now {
		s.poke()
	}
	return nil
}

// awaitCold waits until the group has had its turn. It returns false where that would take too long: then it won't.
func (s *Store) awaitCold(ctx context.Context, t *ticket, g *group) bool {
	look := time.NewTicker(coldLook)
	defer look.Stop()
	was := s.log.Appended()
	for {
		select {
		case <-t.done:
			return true
		case <-look.C:
			appended := s.log.Appended()
			left := s.opt.SegmentSize - s.log.End().Offset()
			if was, appended = appended, appended-was; appended*int64(coldWait/coldLook) > left && !s.short() {
				continue
			}
		case <-s.compaction.hurry:
		case <-ctx.Done():
		case <-s.open.Done():
		}
		if s.withdrawCold(g) {
			return false
		}
		<-t.done // it has gone
		return true
	}
}

// withdrawCold takes a group back that the committer has not taken.
func (s *Store) withdrawCold(g *group) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.cold.group != g {
		return false
	}
	s.dropCold()
	return true
}

// dropCold forgets the group that waits. Store.mu is held.
func (s *Store) dropCold() {
	s.placed -= s.cold.placed
	s.adding -= s.cold.growth
	s.cold = coldGroup{}
}

// takeCold returns the group that waits, if the one that fills goes behind the tail, or it does not wait. Store.mu is held, and no frame
// is without its place.
func (s *Store) takeCold(filling *group) *group {
	c := s.cold
	if c.group == nil {
		return nil
	}
	if !s.log.ColdStands(c.group.cold) {
		s.dropCold()
		for _, t := range c.tickets {
			t.fail(journal.ErrNoCold)
		}
		return nil
	}
	table := len(filling.table) - segment.FrameHeaderSize + segment.ForgetSize
	if len(s.attempts) > 0 {
		table += attemptRoom
	}
	if !c.now && s.log.Fits(int64(table), int64(len(filling.body))) {
		return nil
	}
	s.cold = coldGroup{}
	return c.group
}

func (s *Store) traceCompacted(info *CompactInfo) {
	if tr := s.opt.Trace; tr != nil && tr.Compacted != nil {
		tr.Compacted(*info)
	}
}
