package wal

import (
	"runtime"
	"sync/atomic"
	"time"
)

// Whoever a commit answers often comes again at once. While the next group is short it is worth a moment to
// have them in it: one durable write of twice as many batches instead of two.

const (
	// gatherGap is how long a group waits for the next of those who were answered. It is about a quarter of
	// a short durable write.
	gatherGap = 50 * time.Microsecond
	// gatherMax is how long it waits in all while they come: what they do in between takes a processor's time.
	gatherMax = 400 * time.Microsecond
	// gatherYields is how often it lets others run meanwhile, at most: more than fit into gatherGap, also where nobody else
	// runs; and it ends where the clock stands still, as that of testing/synctest does.
	gatherYields = 1000
	// gatherSkips is how many groups do not wait, at most, after one that waited in vain.
	gatherSkips = 64
)

// gatherer has a short group wait for those who were just answered. What is not atomic is under Store.mu, and
// so are writes to missing.
type gatherer struct {
	missing atomic.Int32 // how many were answered since the last group was taken, less those who came since
	since   atomic.Int64 // when somebody began to wait, in Unix ns; 0: nobody does
	came    int          // batches that got a place, ever
	vain    int          // how many groups do not wait after the next that waits in vain
	skip    int          // how many of those are left
}

// awaited is what somebody waits for.
type awaited struct{ asked, came int }

// answered says that so many batches had their answer. Store.mu is held.
func (s *Store) answered(n int) {
	if g := s.filling; g == nil || g.size() < besideMax {
		s.gatherer.missing.Add(int32(n))
	}
}

// joined says that a batch has a place in a group. Store.mu is held.
func (s *Store) joined(g *group) {
	w := &s.gatherer
	w.came++
	if g.size() < besideMax {
		w.missing.Add(-1)
	} else {
		w.missing.Store(0) // long enough
	}
}

// worth reports whether a group that could be taken is to wait first, and for whom. Store.mu is held.
func (w *gatherer) worth() (_ awaited, ok bool) {
	asked := int(w.missing.Load())
	if asked <= 0 {
		return awaited{}, false
	}
	if w.skip > 0 {
		w.skip--
		return awaited{}, false
	}
	return awaited{asked: asked, came: w.came}, true
}

// gather waits until nobody is missing, or nobody comes any more. It returns false at once when somebody else waits, who then
// takes the group or has run look for one; but not if that one has waited for too long, as where others keep the processors
// busy. Nobody's clock is that precise: it lets others run until they have come.
func (w *gatherer) gather() (ok bool) {
	began := time.Now()
	if !w.since.CompareAndSwap(0, began.UnixNano()) {
		since := w.since.Load()
		return since == 0 || began.UnixNano()-since > int64(gatherMax)
	}
	came, missing := began, w.missing.Load() // when somebody last came, and how many are missing
	for i := 0; i < gatherYields && missing > 0; i++ {
		runtime.Gosched()
		now := time.Now()
		n := w.missing.Load() // more, where another group has landed
		if n < missing {
			came = now
		}
		missing = n
		if now.Sub(came) >= gatherGap || now.Sub(began) >= gatherMax {
			break
		}
	}
	w.since.Store(0)
	return true
}

// judge notes what a wait has brought. Store.mu is held.
func (w *gatherer) judge(t awaited) {
	if came := w.came - t.came; 2*came >= t.asked {
		w.vain = 0
	} else {
		w.vain = min(2*w.vain+1, gatherSkips)
		w.skip = w.vain
	}
}
