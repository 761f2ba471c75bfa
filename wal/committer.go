package wal

import (
	"runtime"
	"slices"
	"time"

	"github.com/mtawal/mtawal/internal/barrier"
	"github.com/mtawal/mtawal/segment"
)

// markerAfter is how long the last commit stays without a promise when nothing follows it:
// the window in which, after a power cut, damage can't be told from a torn write.
const markerAfter = 20 * time.Millisecond

// committer is who takes groups, has them written and applies what is durable: whoever
// waits for its own batch without a deadline, if its group can be taken, since a switch to another goroutine and back
// costs a tenth of a durable write; for everybody else the goroutines of Store.run. All but marker
// is under Store.mu.
type committer struct {
	placing bool             // somebody has taken a group whose frame has no place yet
	landing bool             // somebody lands what was written
	flights []*group         // taken and not landed, in the order of the log
	busy    int              // goroutines that commit a group
	slots   [flightsMax]bool // of Store.syncing that are taken
	runners int              // goroutines that run
	armed   bool             // the timer runs
	marker  *time.Timer      // fires when a Marker may be due
	last    time.Time        // when a frame last landed
}

// run commits what nobody commits for themselves. It ends when the store does, after the
// last group.
func (s *Store) run() {
	defer s.ran()
	for {
		due := false
		select {
		case <-s.work:
		case <-s.committer.marker.C:
			due = true
		}
		s.landRest()
		for {
			g, end := s.takeGroup(nil, due)
			if end {
				return
			}
			if g == nil {
				break
			}
			s.commitGroup(g, false)
			due = false
		}
	}
}

// ran ends a goroutine that runs, and with the last of them the committer.
func (s *Store) ran() {
	s.poke() // the next one
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.committer.runners--; s.committer.runners == 0 {
		s.committer.marker.Stop()
		close(s.done)
	}
}

// lead commits the group of a ticket on the goroutine that waits for it, if it can be taken. The
// write bounds how long that takes, so it is for callers who would wait as
// long in any case.
func (s *Store) lead(t *ticket) {
	// Whoever else is about to submit gets to do so first, and rides along: where many
	// were woken by the commit before, the first of them would go alone.
	runtime.Gosched()
	if g, _ := s.takeGroup(t, false); g != nil && s.commitGroup(g, true) {
		s.poke()
	}
}

// takeGroup takes the group that has filled, or an empty one where a Marker is due. It returns none when
// there is nothing to do, when another one has no place yet, or when as many as may be are in flight; end says that the store is closing and
// all that was submitted is done. With a ticket it takes that ticket's group only. A short group may have to wait, see
// gather; while somebody waits others get none.
func (s *Store) takeGroup(t *ticket, due bool) (g *group, end bool) {
	g, end, wait := s.tryTake(t, due, awaited{})
	if wait.asked == 0 {
		return g, end
	}
	if !s.gatherer.gather() {
		return nil, false
	}
	if g, end, _ = s.tryTake(t, due, wait); g == nil && !end {
		s.poke() // others have stood back meanwhile
	}
	return g, end
}

// tryTake does what takeGroup does, and says for whom the group is to wait first. waited is that, the second time.
func (s *Store) tryTake(t *ticket, due bool, waited awaited) (g *group, end bool, wait awaited) {
	s.mu.Lock()
	defer s.mu.Unlock()
	c := &s.committer
	if due {
		c.armed = false
	}
	if c.placing || len(c.flights) == flightsMax {
		return nil, false, wait // and looks again when that is done
	}
	g = s.filling
	if t != nil && (g == nil || t.group != g) {
		return nil, false, wait
	}
	if !s.hasWork() {
		end = s.phase >= closing && c.busy == 0 && len(c.flights) == 0
		if g == nil || !due || len(c.flights) > 0 || !s.wantsMarker() {
			return nil, end, wait
		}
		if left := markerAfter - time.Since(c.last); left > 0 && len(s.attempts) == 0 {
			s.armMarker(left)
			return nil, end, wait
		}
	}
	if waited.asked > 0 {
		s.gatherer.judge(waited)
	} else if !due && !g.empty() && s.phase < closing {
		if wait, ok := s.gatherer.worth(); ok {
			return nil, false, wait
		}
	}
	cold := s.takeCold(g)
	if cold != nil {
		g = cold
	} else {
		s.gatherer.missing.Store(0)
	}
	c.placing = true
	g.leasing = s.leasing
	c.busy++
	c.flights = append(c.flights, g)
	g.slot = slices.Index(c.slots[:], false)
	c.slots[g.slot] = true
	if cold == nil {
		s.ride(g)
	}
	if g.kind = segment.Data; g.empty() {
		g.kind = segment.Marker
	}
	if g.hasFrame() { // else it neither leases IDs nor moves the log
		g.lease = s.nextID + leaseBlock
		s.leasing = g.lease
		if g.nudge = s.nudged && !s.nudging; g.nudge {
			s.nudging = true
		}
	}
	if cold == nil {
		s.nextFills(g)
	}
	return g, false, wait
}

// ride puts into a group that was taken what has no batch of its own. Store.mu is held.
func (s *Store) ride(g *group) {
	// Attempts ride along; those that were settled since need no record.
	kept := s.attempts[:0]
	for _, a := range s.attempts {
		if !a.noteAttempt(g) {
			kept = append(kept, a)
		}
	}
	clear(s.attempts[len(kept):])
	s.attempts = kept
	s.forgetKeys(g)
}

// nextFills has another group fill behind one that was taken. Store.mu is held.
func (s *Store) nextFills(g *group) {
	g.seal(s.recent)
	// Without a spare one nothing fills until one that is in flight has landed.
	s.filling = nil
	if n := len(s.spares); n > 0 {
		s.fill(s.spares[n-1])
		s.spares = s.spares[:n-1]
	}
	s.roomy.Broadcast()
}

// commitGroup has the frame of a group that was taken written, and lands what can land; with leads
// no more than that group and those before it. It reports whether run has something to do.
func (s *Store) commitGroup(g *group, leads bool) (more bool) {
	g.encoding.Wait()
	err := s.placeFrame(g)
	if err != nil && !barrier.Gone(barrier.Latch) {
		s.log.Abandon(err) // before anybody else places a frame
	}
	s.mu.Lock()
	s.committer.placing = false
	more = err == nil && s.hasWork()
	s.mu.Unlock()
	if more {
		s.poke()
	}
	if err == nil {
		err = s.writeFrame(g)
	}
	return s.land(g, err, leads)
}

// fill has a group fill. Store.mu is held.
func (s *Store) fill(g *group) {
	s.filling = g
	g.open(s.recent)
}

// hasWork reports whether a group should be taken now. Store.mu is held.
func (s *Store) hasWork() bool {
	g := s.filling
	if g == nil || len(s.committer.flights) == flightsMax {
		return false
	}
	// Somebody may be waiting for an ID, for an attempt to be durable, or for the log to move, and what is
	// in flight does not do it.
	if s.nextID >= s.leasing || s.starting > 0 && len(s.attempts) > 0 || s.nudged && !s.nudging {
		return true
	}
	if g.empty() {
		return false
	}
	if len(s.committer.flights) == 0 || g.full || s.phase >= closing {
		return true
	}
	f := s.committer.flights[0]
	return f.size() < besideMax && g.outweighs(f)
}

// besideMax is how long a frame in flight may be for another to be sent beside it. A longer one keeps the device
// busy by itself, and who waits for it makes one commit out of two.
const besideMax = 64 << 10

// outweighs reports whether a group carries as many batches as one that is in flight, or as many bytes. One that does not
// is not sent after it: it would have its answers behind those of the other in any case, and whoever the other
// answers comes again and would find both places taken by little.
func (g *group) outweighs(f *group) bool {
	return len(g.tickets) >= len(f.tickets) || g.size() >= f.size()
}

// wantsMarker reports whether a Marker is due soon: for the promise of the last commit, or
// for attempts that found no ride. Store.mu is held, and nothing is in flight.
func (s *Store) wantsMarker() bool {
	return s.log.Last().Kind != segment.Marker || len(s.attempts) > 0
}

// armMarker has run look for a Marker that is due. Store.mu is held.
func (s *Store) armMarker(after time.Duration) {
	if c := &s.committer; !c.armed {
		c.armed = true
		c.marker.Reset(after)
	}
}
