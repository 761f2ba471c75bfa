package wal

import (
	"runtime"
	"time"

	"github.com/mtawal/mtawal/internal/barrier"
	"github.com/mtawal/mtawal/segment"
)

// markerAfter is how long the last commit stays without a promise when nothing follows it:
// the window in which, after a power cut, damage can't be told from a torn write.
const markerAfter = 20 * time.Millisecond

// committer is the role of appending to the log and applying what is durable, which one
// goroutine has at a time, for one group. Whoever waits for its own batch without a
// deadline takes it, if it is free: a switch to another goroutine and back costs a tenth of
// a durable write. For everybody else there is Store.run.
type committer struct {
	busy   bool        // somebody has the role; under Store.mu
	armed  bool        // the timer runs; under Store.mu
	marker *time.Timer // fires when a Marker may be due
	last   time.Time   // when the last frame had been applied; of whoever has the role
}

// run commits what nobody commits for themselves. It ends when the store does, after the
// last group.
func (s *Store) run() {
	defer close(s.done)
	defer s.committer.marker.Stop()
	for {
		due := false
		select {
		case <-s.work:
		case <-s.committer.marker.C:
			due = true
		}
		for {
			g, end := s.takeGroup(nil, due)
			if end {
				return
			}
			if g == nil {
				break
			}
			s.commitAndRelease(g)
			due = false
		}
	}
}

// lead commits the group of a ticket on the goroutine that waits for it, if nobody is
// committing. The write bounds how long that takes, so it is for callers who would wait as
// long in any case.
func (s *Store) lead(t *ticket) {
	// Whoever else is about to submit gets to do so first, and rides along: where many
	// were woken by the commit before, the first of them would go alone.
	runtime.Gosched()
	g, _ := s.takeGroup(t, false)
	if g != nil && s.commitAndRelease(g) {
		s.poke()
	}
}

// takeGroup takes the role of the committer and the group that has filled, or an empty one
// where a Marker is due. It returns none when there is nothing to do, or somebody else does
// it; end says that the store is closing and all that was submitted is done. With a ticket
// it takes that ticket's group only.
func (s *Store) takeGroup(t *ticket, due bool) (g *group, end bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	c := &s.committer
	if due {
		c.armed = false
	}
	if c.busy {
		return nil, false // and looks again when it is done
	}
	g = s.filling
	if t != nil && (g == nil || t.group != g) {
		return nil, false
	}
	if !s.hasWork() {
		if g == nil || !due || !s.wantsMarker() {
			return nil, s.phase >= closing
		}
		if left := markerAfter - time.Since(c.last); left > 0 && len(s.attempts) == 0 {
			s.armMarker(left)
			return nil, s.phase >= closing
		}
	}
	c.busy = true
	// Attempts ride along; those that were settled since need no record.
	kept := s.attempts[:0]
	for _, a := range s.attempts {
		if !a.noteAttempt(g) {
			kept = append(kept, a)
		}
	}
	clear(s.attempts[len(kept):])
	s.attempts = kept
	g.nudge = s.nudged
	s.forgetKeys(g)
	g.seal(s.recent)
	// Without a spare one nothing fills until the one that is written is done.
	s.fill(s.spare)
	s.spare = nil
	g.lease = s.nextID + leaseBlock
	s.roomy.Broadcast()
	return g, false
}

// fill has a group fill, if there is one. Store.mu is held.
func (s *Store) fill(g *group) {
	if s.filling = g; g != nil {
		g.open(s.recent)
	}
}

// hasWork reports whether a group should be written now. Store.mu is held.
func (s *Store) hasWork() bool {
	g := s.filling
	lease := s.nextID >= s.leased // somebody may be waiting for an ID
	urgent := s.starting > 0 || s.nudged
	return g != nil && (!g.empty() || lease || urgent)
}

// wantsMarker reports whether a Marker is due soon: for the promise of the last commit, or
// for attempts that found no ride. Store.mu is held, and nobody else is committing.
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

// commitAndRelease commits a group and gives the role of the committer back. It reports
// whether run has something to do.
func (s *Store) commitAndRelease(g *group) (more bool) {
	err := s.commit(g)
	if err != nil && barrier.Gone(barrier.Latch) {
		s.goOn(g, err)
		err = nil
	} else if err != nil {
		s.fail(g, err)
	}
	s.committer.last = time.Now()
	s.mu.Lock()
	defer s.mu.Unlock()
	if err == nil {
		g.reset()
		if s.filling == nil {
			s.fill(g)
		} else {
			s.spare = g
		}
		if s.wantsMarker() {
			s.armMarker(markerAfter)
		}
		s.roomy.Broadcast()
	}
	s.committer.busy = false
	return s.hasWork() || s.phase >= closing
}
