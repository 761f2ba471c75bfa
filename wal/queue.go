package wal

import (
	"slices"

	"github.com/mtawal/mtawal/state"
)

// queue is what waits in one queue. A recipient is named by at most one entry of the lanes
// (memReady), and by an entry of due for each time it was deferred to; entries whose
// recipient has moved on are dropped when they come up, or when they are the most of them.
type queue struct {
	number  uint32
	active  bool  // its mode lets its mail go
	skipped uint8 // claims since one was of the oldest, whatever its priority
	name    string
	lanes   []lane // the highest priority first; an empty one goes, unless it is the only one
	lapsed  *lane  // what has expired, whatever its priority; nil: nothing
	entries int    // in lanes
	due     dueHeap
	lapse   int64 // when to look for what has expired in lanes, Unix ns; 0: never
	timer   int   // place in scheduler.timers, -1 if none
	timerAt int64 // and its time there
	counts  [classes]int64
	doubt   int64
	subs    []*subscription
}

// lane is what is ready in a queue at one priority.
type lane struct {
	priority int8
	ready    fifo      // in the order of (commit, index)
	back     entryHeap // what came back, or came late, in the same order
}

// oldestWithin: of so many claims of a queue, at least one is of the oldest that is ready,
// whatever its priority.
const oldestWithin = 16

func (l *lane) len() int { return l.ready.n + len(l.back) }

func (l *lane) push(e entry) {
	// One whose ID was reserved may have the order of the one that was committed behind it.
	if l.ready.n == 0 || !e.before(l.ready.last) {
		l.ready.push(e)
	} else {
		l.back.push(e)
	}
}

// pushReady puts an entry into one of the queue's lanes. It reports whether an expiry, 0 for none, is the next one of what is
// ready, which the timer is to know.
func (q *queue) pushReady(l *lane, e entry, expires int64) (sooner bool) {
	l.push(e)
	q.entries++
	if expires == 0 || q.lapse != 0 && expires >= q.lapse {
		return false
	}
	q.lapse = expires
	return true
}

// first is the oldest entry of a lane, which is not empty.
func (l *lane) first(t *state.Table) (e entry, back bool) {
	if l.ready.n == 0 {
		return l.back[0], true
	}
	ref := l.ready.first()
	e = entry{t.Order(t.Msg(ref.Slot)), ref}
	if len(l.back) > 0 && l.back[0].before(e) {
		return l.back[0], true
	}
	return e, false
}

func (l *lane) pop(back bool) {
	if back {
		l.back.pop()
	} else {
		l.ready.pop()
	}
}

// filter drops the entries that keep does not want.
func (l *lane) filter(keep func(state.Ref) bool) {
	old := *l
	l.ready, l.back = fifo{}, nil
	for ; old.ready.n > 0; old.ready.pop() {
		if ref := old.ready.first(); keep(ref) {
			l.ready.push(entry{ref: ref})
		}
	}
	l.ready.last = old.ready.last
	for _, e := range old.back {
		if keep(e.ref) {
			l.back.push(e)
		}
	}
}

// lane returns the one for a priority, making it where it is new.
func (q *queue) lane(priority int8) *lane {
	i := 0
	for i < len(q.lanes) && q.lanes[i].priority > priority {
		i++
	}
	switch {
	case i < len(q.lanes) && q.lanes[i].priority == priority:
	case q.entries == 0 && len(q.lanes) == 1: // an empty one: its memory is used again
		i = 0
		q.lanes[0].priority = priority
	default:
		if q.lanes == nil {
			q.lanes = make([]lane, 0, 1)
		}
		q.lanes = slices.Insert(q.lanes, i, lane{priority: priority})
	}
	return &q.lanes[i]
}

// emptied drops lane i if it is empty and not the only one.
func (q *queue) emptied(i int) {
	if q.lanes[i].len() == 0 && len(q.lanes) > 1 {
		q.lanes = slices.Delete(q.lanes, i, i+1)
	}
}

// isReady reports whether a recipient that an entry names may be claimed.
func isReady(r *state.Recipient) bool {
	return r.Standing == state.Pending && r.Mem&(memClaimed|memDamaged|memUsing|memWaiting) == 0
}

// head returns the oldest entry of a lane whose recipient is still ready, and drops those
// before it.
func (s *Store) head(l *lane) (e entry, back, ok bool) {
	for l.len() > 0 {
		e, back = l.first(s.table)
		r := s.table.Rcpt(e.ref)
		if isReady(r) {
			return e, back, true
		}
		l.pop(back)
		s.dropReady(r, e.ref)
	}
	return entry{}, false, false
}

func (s *Store) dropReady(r *state.Recipient, ref state.Ref) {
	r.Mem &^= memReady
	s.table.Unref(ref.Slot)
}

// headOf is head for lane i of a queue; a lane that turns out to be empty goes.
func (s *Store) headOf(q *queue, i int) (e entry, back, ok bool) {
	l := &q.lanes[i]
	n := l.len()
	e, back, ok = s.head(l)
	q.entries -= n - l.len()
	if !ok {
		q.emptied(i)
	}
	return e, back, ok
}

// pick returns the lane that the next claim of a queue is made from, -1 if nothing is
// ready: the one of the highest priority, and once in a while the one of the oldest.
func (s *Store) pick(q *queue) int {
	if len(q.lanes) > 1 && q.skipped >= oldestWithin-1 {
		oldest, found := entry{}, -1
		for i := 0; i < len(q.lanes); {
			lanes := len(q.lanes)
			e, _, ok := s.headOf(q, i)
			if !ok {
				i += len(q.lanes) - lanes + 1 // the last one stays, though it is empty
				continue
			}
			if found < 0 || e.before(oldest) {
				oldest, found = e, i
			}
			i++
		}
		q.skipped = 0
		return found
	}
	for q.entries > 0 {
		if _, _, ok := s.headOf(q, 0); ok {
			if len(q.lanes) > 1 {
				q.skipped++
			}
			return 0
		}
	}
	return -1
}

// takeReady takes the oldest entry out of a lane, of that message where one is named. Its
// Ref is the caller's now.
func (s *Store) takeReady(l *lane, of *claim) (entry, bool) {
	e, back, ok := s.head(l)
	if !ok || of != nil && e.ref.Slot != of.slot {
		return entry{}, false
	}
	l.pop(back)
	s.table.Rcpt(e.ref).Mem &^= memReady
	return e, true
}

// tidy drops entries whose recipients have moved on, where they are the most of them: so
// that memory follows what waits, and not what once did.
func (s *Store) tidy(q *queue) {
	const few = 64
	lapsed := 0
	if q.lapsed != nil {
		lapsed = q.lapsed.len()
	}
	if int64(q.entries+lapsed) > 2*q.counts[classPending]+few {
		keep := func(ref state.Ref) bool {
			r := s.table.Rcpt(ref)
			if r.Standing == state.Pending && r.Mem&(memClaimed|memDamaged|memWaiting) == 0 {
				return true
			}
			s.dropReady(r, ref)
			return false
		}
		q.entries = 0
		for i := len(q.lanes) - 1; i >= 0; i-- {
			q.lanes[i].filter(keep)
			q.entries += q.lanes[i].len()
			q.emptied(i)
		}
		if q.lapsed != nil {
			if q.lapsed.filter(keep); q.lapsed.len() == 0 {
				q.lapsed = nil
			}
		}
		s.offer(q)
	}
	if int64(len(q.due)) > 2*q.counts[classDeferred]+few {
		kept := q.due[:0]
		for _, e := range q.due {
			r := s.table.Rcpt(e.ref)
			if s.isDue(e, r) && r.Mem&memSeen == 0 {
				r.Mem |= memSeen // another entry may be for the same time
				kept = append(kept, e)
			} else {
				s.table.Unref(e.ref.Slot)
			}
		}
		for _, e := range kept {
			s.table.Rcpt(e.ref).Mem &^= memSeen
		}
		q.due = shrunk(kept)
		q.due.heapify()
		s.setTimer(q)
	}
}

// isDue reports whether the recipient of an entry of due still waits for that time.
func (s *Store) isDue(e dueEntry, r *state.Recipient) bool {
	return r.Mem&memWaiting != 0 && r.Standing == state.Pending && s.dueAt(e.ref, r) == e.at
}

// wakeAt is when the clock has to look at the queue, 0: not at all.
func (q *queue) wakeAt() int64 {
	at := q.lapse
	if len(q.due) > 0 && (at == 0 || q.due[0].at < at) {
		at = max(q.due[0].at, 1)
	}
	return at
}

// lapseReady moves what has expired, and stands before everything else of its priority, to
// where a pause does not hold it back. What has expired behind others is found when it is
// claimed.
func (s *Store) lapseReady(q *queue, now int64) {
	const most = 64 // at a time
	q.lapse = 0
	moved := 0
	for i := 0; i < len(q.lanes); {
		lanes := len(q.lanes)
		e, back, ok := s.headOf(q, i)
		if !ok {
			i += len(q.lanes) - lanes + 1
			continue
		}
		x := s.table.Msg(e.ref.Slot).ExpiresAt()
		if x != 0 && x <= now && moved < most {
			q.lanes[i].pop(back)
			q.entries--
			q.pushLapsed(e)
			moved++
			if q.lanes[i].len() == 0 {
				q.emptied(i)
				if q.entries == 0 {
					break
				}
			}
			continue
		}
		if x != 0 && (q.lapse == 0 || x < q.lapse) {
			q.lapse = x
		}
		i++
	}
	s.setTimer(q)
	s.offer(q)
}

func (q *queue) pushLapsed(e entry) {
	if q.lapsed == nil {
		q.lapsed = new(lane)
	}
	q.lapsed.push(e)
}
