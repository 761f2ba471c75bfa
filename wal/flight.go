package wal

import (
	"errors"
	"fmt"
	"slices"
	"time"

	"github.com/mtawal/mtawal/internal/barrier"
	"github.com/mtawal/mtawal/internal/disk"
	"github.com/mtawal/mtawal/journal"
	"github.com/mtawal/mtawal/segment"
)

// A commit on its way: its frame gets a place, is written, and lands. Places are given one after the
// other. Up to flightsMax frames are written at a time, each by the goroutine that took its group, and what is
// durable lands in the order of the log, by one goroutine at a time: a frame behind one that is
// still being written waits, whatever its own write says.

const (
	// flightsMax is how many commits are under way at a time.
	flightsMax = 2
	// retryFull is how often a write is tried again on a full disk.
	retryFull = 50 * time.Millisecond
)

// placeFrame gives the frame of a group its place in the log, tried again and again while the disk is full,
// with intake shut, until there is room or the store closes. In between a checkpoint
// may ask for a Marker in front of it: it is what may give room back.
func (s *Store) placeFrame(g *group) error {
	if !g.hasFrame() {
		return nil
	}
	d := journal.Draft{Kind: g.kind, Records: g.records, Table: g.table, Body: g.body, Slab: g.slab, Lease: g.lease, Cold: g.cold, Ahead: g.ahead}
	d.Spare = g.nudge && g.kind == segment.Marker
	d.Shrink = d.Spare && s.space.idle.Load()
	for {
		s.syncing[g.slot].Store(s.opt.now().UnixNano())
		err := s.log.Place(&d, &g.flight)
		if err == nil || !errors.Is(err, disk.ErrNoSpace) {
			return err
		}
		s.syncing[g.slot].Store(0)
		if g.cold != 0 { // no Marker may stand in front of it, and it can do without
			s.refuseCold(g)
			return nil
		}
		if err := s.nudgeFull(); err != nil && !errors.Is(err, disk.ErrNoSpace) {
			return err
		}
		if err := s.waitDisk(err); err != nil {
			return err
		}
	}
}

// writeFrame writes the frame of a group, again and again while the disk is full: the same bytes to the
// same place, until it succeeds or the store closes.
func (s *Store) writeFrame(g *group) error {
	if !g.hasFrame() {
		return nil
	}
	for {
		err := s.log.Write(&g.flight)
		if err == nil {
			return nil
		}
		s.syncing[g.slot].Store(0)
		if errors.Is(err, disk.ErrNoSpace) {
			// No Marker can stand in front of it: who waits for one makes do without.
			s.mu.Lock()
			s.nudged = false
			s.roomy.Broadcast()
			s.mu.Unlock()
			err = s.waitDisk(err)
		}
		if err != nil {
			if !barrier.Gone(barrier.Latch) {
				s.log.Abandon(err)
			}
			return err
		}
		s.syncing[g.slot].Store(s.opt.now().UnixNano())
	}
}

// waitDisk shuts intake, for the disk is full, and waits until it is worth another try. An error says
// that the store closes.
func (s *Store) waitDisk(full error) error {
	if !s.space.full.Swap(true) {
		s.mu.Lock()
		s.roomy.Broadcast() // intake that waits for a place is refused
		s.mu.Unlock()
		s.opt.Logger.Warn("the disk is full; intake is shut", "dir", s.dir.Path(), "err", full)
	}
	select {
	case <-s.open.Done():
		return fmt.Errorf("closed while the disk was full: %w", full)
	case <-time.After(retryFull):
		return nil
	}
}

// syncingSince is when the oldest write began that is under way, in Unix ns, or 0.
func (s *Store) syncingSince() int64 {
	var oldest int64
	for i := range s.syncing {
		if at := s.syncing[i].Load(); at != 0 && (oldest == 0 || at < oldest) {
			oldest = at
		}
	}
	return oldest
}

// land says that the frame of a group was written, or what came of it. Unless somebody else is about
// it, the caller lands what is next in the log and was written: that may be this group, it may
// be several, and it may be none. With leads it lands none behind this group: its caller has its answer by then.
// It reports whether run has something to do.
func (s *Store) land(g *group, err error, leads bool) (more bool) {
	if err != nil && !errors.Is(err, disk.ErrNoSpace) && !barrier.Gone(barrier.Latch) {
		s.latch(err) // what is before it in the log may yet land, and nothing else happens
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	c := &s.committer
	s.syncing[g.slot].Store(0)
	c.slots[g.slot] = false
	g.written, g.err = true, err
	var last *group
	if leads {
		last = g
	}
	s.landThrough(last)
	c.busy--
	return s.canLand() || s.hasWork() || s.phase >= closing
}

// landRest lands what a caller has left.
func (s *Store) landRest() {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.landThrough(nil)
}

// canLand reports whether there is something to land, and nobody about it. Store.mu is held.
func (s *Store) canLand() bool {
	c := &s.committer
	return !c.landing && len(c.flights) > 0 && c.flights[0].written
}

// landThrough lands what was written, through a group if it is one of those, unless somebody else
// is about it. Store.mu is held, and let go of meanwhile.
func (s *Store) landThrough(last *group) {
	if !s.canLand() {
		return
	}
	c := &s.committer
	c.landing = true
	for len(c.flights) > 0 && c.flights[0].written {
		g := c.flights[0]
		if g.hasFrame() {
			c.last = time.Now() // what has no frame puts no promise off
		}
		s.landFirst()
		if g == last {
			break
		}
	}
	c.landing = false
	if !c.placing && len(c.flights) == 0 && s.phase < failed && s.wantsMarker() {
		s.armMarker(markerAfter)
	}
}

// landFirst lands the first frame in flight: it is applied, and all who wait for it are told. Store.mu is
// held, and let go of meanwhile; nobody else lands.
func (s *Store) landFirst() {
	c := &s.committer
	g := c.flights[0]
	err := g.err
	if t := s.opt.Trace; t != nil && t.Durable != nil && g.hasFrame() && err == nil {
		h := g.flight.Header()
		s.mu.Unlock()
		t.Durable(CommitInfo{Records: int(h.Records), Bytes: h.Len, Batches: len(g.tickets)})
		s.mu.Lock()
	}
	if err == nil {
		err = s.apply(g)
	}
	if err != nil && barrier.Gone(barrier.Latch) {
		s.goOn(g, err)
	} else if err != nil {
		s.mu.Unlock()
		s.fail(err)
		s.mu.Lock()
		return
	}
	c.flights = slices.Delete(c.flights, 0, 1)
	if g.cold == 0 {
		s.answered(len(g.tickets))
	}
	more := err == nil && s.hasWork()
	s.mu.Unlock()
	if more {
		s.poke()
	}
	if err == nil {
		s.tell(g)
	}
	s.mu.Lock()
	if s.phase == failed {
		return
	}
	g.reset()
	if s.filling == nil {
		s.fill(g)
	} else if len(s.spares) < flightsMax {
		s.spares = append(s.spares, g)
	}
	s.roomy.Broadcast()
}

// apply makes a group's frame part of the state. This is where a commit becomes true: its bytes are
// durable, and those of all before it. Store.mu is held.
func (s *Store) apply(g *group) error {
	var f segment.Frame
	if g.hasFrame() {
		if err := s.log.Land(&g.flight); err != nil {
			return err
		}
		f = segment.Frame{FrameHeader: g.flight.Header(), Table: g.table[segment.FrameHeaderSize:]}
		s.space.full.Store(false)
		s.commits.Add(1)
		s.claims.setSynced(s.log.Durable())
		s.applyNow = f.Time
		if err := s.table.ApplyFrame(&f); err != nil {
			return fmt.Errorf("applying what was just written: %w", err)
		}
		s.folds.live.Store(s.table.Counts.Weight)
		s.clearLost()
		s.floor.observe(s.opt.now(), s.workQueue())
		s.leased = g.lease
	} else if g.slab != nil {
		s.recent.Drop(g.slab)
	}
	if g.nudge {
		s.nudged, s.nudging = false, false
	}
	s.forgetting -= g.forgets
	s.placed -= g.placed
	s.adding -= g.growth
	for _, t := range g.tickets {
		t.pos, t.group = f.Pos, nil
		s.settled(t)
	}
	s.afterAttempts(g)
	return nil
}

// tell tells everybody that a group has landed.
func (s *Store) tell(g *group) {
	h := g.flight.Header()
	frame := g.hasFrame()
	for _, t := range g.tickets {
		t.finish()
	}
	if frame {
		if n := h.Pos.Segment(); n != s.segment {
			s.segment = n
			select {
			case s.rotated <- struct{}{}:
			default:
			}
		}
		s.folds.grew(h.Len, g.growth)
	}
}

// settled ends the claims that a commit settled.
func (s *Store) settled(t *ticket) {
	for _, k := range t.keys {
		delete(s.keysOut, k)
	}
	for i := range t.closes {
		s.endClaim(t.closes[i].c, t.closes[i].idxs)
	}
	for i := range t.writes {
		if w := &t.writes[i]; len(w.add) > 0 {
			s.grown(w.id)
		}
	}
	t.endStreams()
}

// fail ends the store: everybody who waits, and everybody who comes, gets ErrFailed.
func (s *Store) fail(err error) {
	s.mu.Lock()
	closing := s.phase == closing && errors.Is(err, disk.ErrNoSpace)
	s.mu.Unlock()
	if !closing {
		s.latch(err)
	}
	s.mu.Lock()
	why := s.failure
	if closing {
		why = fmt.Errorf("%w: %w", ErrUnknown, err)
	}
	list := append(slices.Clone(s.committer.flights), s.filling, s.cold)
	s.committer.flights = nil
	s.filling, s.spares, s.cold = nil, nil, nil
	s.roomy.Broadcast()
	s.mu.Unlock()
	for _, g := range list {
		if g == nil {
			continue
		}
		g.encoding.Wait()
		for _, t := range g.tickets {
			t.fail(why)
		}
	}
}
