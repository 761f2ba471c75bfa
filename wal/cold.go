package wal

import (
	"context"
	"errors"
	"time"

	"github.com/mtawal/mtawal/internal/disk"
	"github.com/mtawal/mtawal/internal/eager"
	"github.com/mtawal/mtawal/journal"
	"github.com/mtawal/mtawal/segment"
)

// What waits for long is kept apart from fresh mail: copied to the end of the log it would share a segment with mail that is
// delivered in a moment, and be copied again when that segment is sparse, and again. So copies get a segment of
// their own between two of those that fresh mail fills: a cold one, as log-structured file systems call what is separated by age (Rosenblum and
// Ousterhout, SOSP '91). journal.Log.Cold has it stand ready, bodies and all; its frame goes out when the next group finds no place in the tail.
// In that moment commits wait for the write of its records, whatever bodies they have.

const (
	// coldMax bounds the copies of one cold segment, and coldTable their records: these are written, and applied under Store.mu, at once.
	coldMax   = 16 << 20
	coldTable = 1 << 20
	// coldLook is how often it is looked whether the tail will soon be full, and coldWait how long that may take as it
	// looks then. Where it takes longer the copies go to the end of the log.
	coldLook = time.Second
	coldWait = 8 * time.Second
)

// moveCold copies pieces into a cold segment, as many as one takes, and reports how many bytes, and whether that was all of them. None were
// copied, and there is no error, where there is no place for such a segment, or it would take too long until the tail is full.
func (s *Store) moveCold(ctx context.Context, pieces []heldPiece, rate int64, info *CompactInfo) (moved int64, all bool, err error) {
	t := newTicket(s)
	bodies, moved, all, err := s.copyCold(ctx, t, pieces, info.Left)
	if err == nil && len(t.moves) > 0 {
		err = s.writeCold(ctx, t, bodies, rate, info)
	}
	if errors.Is(err, journal.ErrNoCold) || errors.Is(err, disk.ErrNoSpace) {
		return 0, false, nil
	}
	if err != nil || len(t.moves) == 0 {
		return 0, all, err
	}
	info.Moved, info.Left = info.Moved+moved, max(info.Left-moved, 0)
	s.traceCompacted(info)
	return moved, all, nil
}

// copyCold copies pieces and their bodies, these as they lie in a frame.
func (s *Store) copyCold(ctx context.Context, t *ticket, pieces []heldPiece, expect int64) (bodies []byte, moved int64, all bool, err error) {
	most := min(coldMax, s.opt.SegmentSize/2-3*int64(s.dir.Block())) // longer ones fill a segment by themselves
	bodies = make([]byte, 0, max(0, min(expect+expect/8, most)))
	f := s.fetcher(pieces)
	defer f.close()
	table := 0
	for p := f.next(); p != nil; p = f.next() {
		if err := s.coldGoesOn(ctx); err != nil {
			return nil, 0, false, err
		}
		m, b, err := s.copyPiece(p, bodies)
		if err != nil {
			return nil, 0, false, err
		}
		if m.record != nil {
			b = append(b, make([]byte, pad8(len(b))-len(b))...)
			size := table + segment.MovedSize(m.record)
			if size > coldTable || segment.FrameSize(int64(size), int64(len(b)), uint32(s.dir.Block())) > most {
				return bodies, moved, false, nil
			}
			table, bodies, moved = size, b, moved+int64(len(m.record)+len(m.body))
			t.moves = append(t.moves, m)
		}
		f.taken()
	}
	return bodies, moved, true, nil
}

// coldGoesOn returns an error when copies are not to wait any longer: journal.ErrNoCold where they are to go to the end of
// the log instead.
func (s *Store) coldGoesOn(ctx context.Context) error {
	switch {
	case ctx.Err() != nil:
		return ctx.Err()
	case s.open.Err() != nil:
		return context.Cause(s.open)
	case s.short() || s.compaction.waiting.Load() > 0:
		return journal.ErrNoCold
	}
	return nil
}

// writeCold has copies stand ready, and waits until their frame has landed.
func (s *Store) writeCold(ctx context.Context, t *ticket, bodies []byte, rate int64, info *CompactInfo) error {
	if err := s.admitCold(t); err != nil {
		return err
	}
	table, _ := t.need()
	began, sum := s.opt.now(), int64(0)
	number, head, err := s.log.Cold(int64(table), bodies, func(n int) error {
		if sum == 0 {
			s.measure() // what the file takes is not there any more
		}
		sum += int64(n)
		s.traceCompacted(info)
		return errors.Join(s.pace(ctx, sum, rate, began), s.coldGoesOn(ctx))
	})
	if err != nil {
		return err
	}
	g := largeGroup(table, 0)
	g.body = append(segment.Aligned(s.dir.Block())[:0], bodies[:head]...)
	g.cold, g.ahead = number, int64(len(bodies)-head)
	err = s.offerCold(t, g)
	if err == nil {
		err = s.awaitCold(ctx, t, g)
	}
	if err != nil {
		s.log.Unused(number)
	}
	return err
}

// admitCold asks whether there is room for copies.
func (s *Store) admitCold(t *ticket) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.admitLocked(t)
}

// offerCold has a group wait for the committer.
func (s *Store) offerCold(t *ticket, g *group) error {
	s.mu.Lock()
	err := s.gate(true)
	if err == nil {
		s.cold = g
		s.place(t, g)
	}
	s.mu.Unlock()
	if err == nil {
		t.encode()
		g.encoding.Done()
	}
	return err
}

// awaitCold waits until the group has landed. It takes it back where that would take too long.
func (s *Store) awaitCold(ctx context.Context, t *ticket, g *group) error {
	look := time.NewTicker(coldLook)
	defer look.Stop()
	for was := s.log.Appended(); ; {
		var err error
		select {
		case <-t.done:
			return t.err
		case <-look.C:
			appended := s.log.Appended()
			if was, appended = appended, appended-was; appended == 0 || appended*int64(coldWait/coldLook) < s.log.TailLeft() {
				err = journal.ErrNoCold
			}
		case <-s.compaction.hurry:
		case <-ctx.Done():
		case <-s.open.Done():
		}
		if err == nil {
			err = s.coldGoesOn(ctx)
		}
		if err != nil && s.withdrawCold(g) {
			return err
		}
	}
}

// withdrawCold takes a group back that the committer has not taken.
func (s *Store) withdrawCold(g *group) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.cold != g {
		return false
	}
	s.cold = nil
	return true
}

// takeCold returns the group that waits, if the one that fills goes behind the tail. Store.mu is held, and no frame
// is without its place.
func (s *Store) takeCold(filling *group) *group {
	g := s.cold
	if g == nil {
		return nil
	}
	if !s.log.ColdStands(g.cold) {
		s.cold = nil
		g.failAll(journal.ErrNoCold)
		return nil
	}
	table := len(filling.table) - segment.FrameHeaderSize + segment.ForgetSize
	if len(s.attempts) > 0 {
		table += attemptRoom
	}
	if s.log.Fits(int64(table), int64(len(filling.body))) && !eager.Cold.Load() {
		return nil
	}
	s.cold = nil
	return g
}

// refuseCold makes a group that was taken one without a frame: the disk has no room for the change of segment. Nothing was placed since it was taken.
func (s *Store) refuseCold(g *group) {
	s.mu.Lock()
	defer s.mu.Unlock()
	g.records = 0
	s.leasing = g.leasing
	if g.nudge {
		g.nudge, s.nudging = false, false
	}
	g.failAll(journal.ErrNoCold)
	g.tickets = g.tickets[:0]
}

func (g *group) failAll(err error) {
	for _, t := range g.tickets {
		t.fail(err)
	}
}

func (s *Store) traceCompacted(info *CompactInfo) {
	if tr := s.opt.Trace; tr != nil && tr.Compacted != nil {
		tr.Compacted(*info)
	}
}
