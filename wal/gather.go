package wal

import (
	"runtime"
	"sync/atomic"
	"time"
)

// Whoever a commit answers often comes again at once. While the next group is short it is worth a moment to
// have them in it: one durable write of twice as many batches instead of two.

const (
	// gatherMax is how long a group waits for those who were answered. It is about a quarter of
	// a short durable write.
	gatherMax = 50 * time.Microsecond
	// gatherYields is how often it lets others run meanwhile, at most: more than fit into the time, unless
	// the clock stands still, as that of testing/synctest does.
	gatherYields = 1000
	// gatherSkips is how many groups do not wait, at most, after one that waited in vain.
	gatherSkips = 64
)

// gatherer has a short group wait for those who were just answered.
type gatherer struct {
	// missing is how many were answered since the last group was taken, less those who came since. It is
	// written under Store.mu.
	missing atomic.Int32
	busy    atomic.Bool // somebody waits

	// Of whoever has set busy.
	vain int // how many groups do not wait after the next that waits in vain
	skip int // how many of those are left
}

// answered says that so many batches had their answer. Store.mu is held.
func (s *Store) answered(n int) {
	if g := s.filling; g == nil || g.size() < besideMax {
		s.gatherer.missing.Add(int32(n))
	}
}

// came says that a batch has a place in a group. Store.mu is held.
func (s *Store) came(g *group) {
	if g.size() < besideMax {
		s.gatherer.missing.Add(-1)
	} else {
		s.gatherer.missing.Store(0) // long enough
	}
}

// gather waits for those who are missing from the group that fills, unless that was in vain of late. It returns
// false at once when somebody else does so, who then takes the group or has run look for one; waited says
// that the caller is that one. Nobody's clock is that precise: it lets others run until they have come.
func (s *Store) gather() (waited, ok bool) {
	w := &s.gatherer
	missing := w.missing.Load()
	if missing <= 0 {
		return false, true
	}
	if !w.busy.CompareAndSwap(false, true) {
		return false, false
	}
	defer w.busy.Store(false)
	if w.skip > 0 {
		w.skip--
		return true, true
	}
	began := time.Now()
	for i := 0; i < gatherYields && w.missing.Load() > 0 && time.Since(began) < gatherMax; i++ {
		runtime.Gosched()
	}
	if w.missing.Load() <= missing/2 {
		w.vain = 0
	} else {
		w.skip, w.vain = w.vain, min(2*w.vain+1, gatherSkips)
	}
	return true, true
}
