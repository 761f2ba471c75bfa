package wal

import (
	"time"

	"github.com/mtawal/mtawal/mailq"
	"github.com/mtawal/mtawal/segment"
	"github.com/mtawal/mtawal/state"
)

// Marks of a recipient in memory (state.Recipient.Mem).
const (
	memClaimed uint8 = 1 << iota // a claim holds it
	memUsing                     // a used-mark for it is under way
	memReady                     // an entry of its queue's ready list names it
	memWaiting                   // it waits for its time
	memDamaged                   // its message is set aside
	memLate                      // its time was set after its message had expired
	memSeen                      // of tidy
)

// class is where a recipient counts in Stats.
type class uint8

const (
	classUsed class = iota
	classPending
	classDeferred
	classHeld
	classClaimed
	classDamaged
	classes
)

func classOf(r *state.Recipient) class {
	switch {
	case r.Standing == state.Used:
		return classUsed
	case r.Mem&memDamaged != 0:
		return classDamaged
	case r.Mem&memClaimed != 0:
		return classClaimed
	case r.Standing == state.Held:
		return classHeld
	case r.Mem&memWaiting != 0:
		return classDeferred
	}
	return classPending
}

// scheduler knows what is due in which queue. Everything in it is under Store.mu, and
// derived: it is rebuilt from the table at open.
type scheduler struct {
	timers   timerHeap
	restored dueHeap // what waited when the store was opened, of all queues: see buildQueues
	counts   [classes]int64
	doubt    int64
	bulk     bool // while it is built: heaps are made when all is in
}

// entry names a recipient by slot and index; order is its message's.
type entry struct {
	order uint64
	ref   state.Ref
}

func (e entry) before(o entry) bool {
	return e.order < o.order || e.order == o.order && e.ref.Index < o.ref.Index
}

type dueEntry struct {
	at  int64
	ref state.Ref
}

// queue returns the queue with a number, making it where it is new.
func (s *Store) queue(n uint32) *queue {
	e := s.table.Queue(n)
	if e.Engine == nil {
		q := &queue{number: n, timer: -1, name: e.Name, active: e.State.Mode == mailq.Active}
		e.Engine = q
		s.subscribeAll(q)
	}
	return e.Engine.(*queue)
}

// known is the queue with a number, nil if there is none.
func (s *Store) known(n int) *queue {
	if n >= s.table.Queues() {
		return nil
	}
	if e := s.table.Queue(uint32(n)); e != nil && e.Engine != nil {
		return e.Engine.(*queue)
	}
	return nil
}

// count moves a recipient from one class to another.
func (s *Store) count(q *queue, from, to class) {
	if from != to {
		s.sched.counts[from]--
		s.sched.counts[to]++
		q.counts[from]--
		q.counts[to]++
	}
}

func (s *Store) countDoubt(q *queue, was, is *state.Recipient) {
	d := int64(is.Flags&state.InDoubt) - int64(was.Flags&state.InDoubt)
	q.doubt += d
	s.sched.doubt += d
}

// settleDown puts a recipient that is not claimed where it belongs: among what is ready, what
// waits for its time, or nowhere.
func (s *Store) settleDown(q *queue, ref state.Ref, r *state.Recipient, now int64) {
	was := classOf(r)
	r.Mem &^= memWaiting
	if r.Standing == state.Pending && r.Mem&(memClaimed|memDamaged) == 0 {
		if at := s.dueAt(ref, r); at > now {
			r.Mem |= memWaiting
			s.table.Ref(ref.Slot)
			if s.sched.bulk {
				q.due = append(q.due, dueEntry{at, ref})
			} else {
				q.due.push(dueEntry{at, ref})
				s.setTimer(q)
			}
		} else if r.Mem&memReady == 0 {
			s.makeReady(q, ref, r, now)
		}
	}
	s.count(q, was, classOf(r))
}

// dueAt is when a recipient is due, Unix ns; 0: at once. An expired message is due, unless
// that was known when the time was set.
func (s *Store) dueAt(ref state.Ref, r *state.Recipient) int64 {
	at := s.table.NotBefore(r)
	if at != 0 && r.Mem&memLate == 0 {
		if x := s.table.Msg(ref.Slot).ExpiresAt(); x != 0 {
			return min(at, x)
		}
	}
	return at
}

// expired reports whether the time of a message is over.
func (s *Store) expired(slot uint32, now int64) bool {
	x := s.table.Msg(slot).ExpiresAt()
	return x != 0 && x <= now
}

func (s *Store) makeReady(q *queue, ref state.Ref, r *state.Recipient, now int64) {
	r.Mem |= memReady
	s.table.Ref(ref.Slot)
	m := s.table.Msg(ref.Slot)
	e := entry{s.table.Order(m), ref}
	x := m.ExpiresAt()
	if x != 0 && x <= now {
		q.pushLapsed(e)
	} else if q.pushReady(q.lane(m.Priority), e, x) {
		s.setTimer(q)
	}
	s.offer(q)
}

// promote moves what has become due to where it is ready, so many at the most. more says
// that there is more.
func (s *Store) promote(now int64, most int) (more bool) {
	for ; ; most-- {
		restored := len(s.sched.restored) > 0 && s.sched.restored[0].at <= now
		if !restored && (len(s.sched.timers) == 0 || s.sched.timers[0].timerAt > now) {
			return false
		}
		if most == 0 {
			return true
		}
		if restored {
			s.becomeDue(s.sched.restored.pop(), now)
			continue
		}
		q := s.sched.timers[0]
		// What is due comes before what has expired goes, lest the queue lose its turn in between.
		if len(q.due) == 0 || q.due[0].at > now {
			s.lapseReady(q, now)
			continue
		}
		e := q.due.pop()
		s.setTimer(q)
		s.becomeDue(e, now)
	}
}

// becomeDue ends what an entry of due waited for.
func (s *Store) becomeDue(e dueEntry, now int64) {
	if r := s.table.Rcpt(e.ref); s.isDue(e, r) {
		s.settleDown(s.queue(r.Queue), e.ref, r, now)
	}
	s.table.Unref(e.ref.Slot)
}

// Bounds of what is promoted under the lock at a time: by a claim, and by whoever needs all.
const (
	promoteFew  = 64
	promoteMany = 512
)

// promoteAll moves all that has become due, and lets others in between.
func (s *Store) promoteAll() {
	for s.promote(s.opt.now().UnixNano(), promoteMany) {
		s.mu.Unlock()
		s.mu.Lock()
	}
}

// setTimer puts the queue at its place among those that wait for a time.
func (s *Store) setTimer(q *queue) {
	if s.sched.bulk {
		return
	}
	s.sched.timers.fix(q)
	if q.timer == 0 {
		s.pokeClock()
	}
}

// observer is the store as the table sees it: told of what is applied, while Store.mu is held. What it is told
// by is no method of Store, which is for users.
type observer Store

// Added implements state.Observer.
func (o *observer) Added(slot uint32, first, n int) {
	s := (*Store)(o)
	now := s.applyNow
	list := s.table.Recipients(slot)
	for i := first; i < first+n; i++ {
		r := &list[i]
		q := s.queue(r.Queue)
		// A fresh recipient counts as pending until placed.
		s.sched.counts[classPending]++
		q.counts[classPending]++
		s.settleDown(q, state.Ref{Slot: slot, Index: uint32(i)}, r, now)
	}
}

// Changed implements state.Observer.
func (o *observer) Changed(ref state.Ref, was state.Recipient, due int64) {
	s := (*Store)(o)
	r := s.table.Rcpt(ref)
	q := s.queue(was.Queue)
	if s.table.NotBefore(r) != due {
		// Whoever puts off what has expired means it: else a bounce that the store has no
		// room for would be asked for without a pause.
		r.Mem &^= memLate
		if s.expired(ref.Slot, s.applyNow) {
			r.Mem |= memLate
		}
	}
	s.countDoubt(q, &was, r)
	s.count(q, classOf(&was), classOf(r))
	if r.Standing == state.Used {
		if r.Mem&memClaimed != 0 {
			s.loseClaim(ref)
		}
		s.tidy(q)
		return
	}
	if r.Mem&memClaimed == 0 {
		s.settleDown(q, ref, r, s.applyNow)
	}
	s.tidy(q)
}

// Moved implements state.Observer.
func (*observer) Moved(uint32, segment.Pos, segment.Pos, int64) {}

// Dying implements state.Observer.
func (o *observer) Dying(slot uint32) { delete(o.damaged, o.table.Msg(slot).ID) }

// QueueChanged implements state.Observer.
func (o *observer) QueueChanged(n uint32, was mailq.QueueState) {
	s := (*Store)(o)
	is := s.table.Queue(n).State.Mode
	s.suspended += b2i(is == mailq.Suspended) - b2i(was.Mode == mailq.Suspended)
	q := s.queue(n)
	q.active = is == mailq.Active
	s.offer(q)
}

// QueueGone implements state.Observer. Nobody has anything of the queue in hand: its
// recipients are used, and that ends claims. What few entries are left name those.
func (o *observer) QueueGone(n uint32) {
	s := (*Store)(o)
	q := s.known(int(n))
	if q == nil {
		return
	}
	drop := func(ref state.Ref) bool {
		s.table.Unref(ref.Slot)
		return false
	}
	for i := range q.lanes {
		q.lanes[i].filter(drop)
	}
	if q.lapsed != nil {
		q.lapsed.filter(drop)
	}
	for _, e := range q.due {
		s.table.Unref(e.ref.Slot)
	}
	q.lanes, q.lapsed, q.entries, q.due, q.lapse = nil, nil, 0, nil, 0
	s.setTimer(q)
	s.offer(q)
	q.subs = nil
}

// Flushed implements state.Observer.
func (o *observer) Flushed(n uint32, at int64) {
	s := (*Store)(o)
	for s.handOut(1 << 20) {
	}
	q := s.queue(n)
	list := q.due
	q.due = nil
	s.setTimer(q)
	for _, e := range list {
		r := s.table.Rcpt(e.ref)
		if r.Mem&memWaiting != 0 && r.Standing == state.Pending {
			s.settleDown(q, e.ref, r, max(at, s.applyNow))
		}
		s.table.Unref(e.ref.Slot)
	}
}

// clock moves what becomes due while no consumer asks.
func (s *Store) clock() {
	defer s.bg.Done()
	t := time.NewTimer(time.Hour)
	defer t.Stop()
	for more := true; more; {
		select {
		case <-s.open.Done():
			return
		default:
		}
		s.mu.Lock()
		more = s.handOut(2*promoteFew) || s.table.LinkTimes(promoteMany)
		more = s.promote(s.opt.now().UnixNano(), promoteFew) || more
		s.mu.Unlock()
		if more { // nobody waits for it, and whoever opened the store has use for the processor
			time.Sleep(handOutEvery)
		}
	}
	for {
		select {
		case <-s.open.Done():
			return
		case <-s.clockPoke:
		case <-t.C:
		}
		s.mu.Lock()
		s.promoteAll()
		wait := time.Hour
		if len(s.sched.timers) > 0 {
			wait = time.Duration(s.sched.timers[0].timerAt - s.opt.now().UnixNano())
		}
		s.mu.Unlock()
		// Wall clocks jump; a long sleep is cut, so that a jump is seen.
		t.Reset(min(max(wait, 0), clockMax))
	}
}

// handOutEvery is how long the clock rests between parts of what it does behind an opening.
const handOutEvery = 250 * time.Microsecond

// clockMax is how long the clock sleeps at the most.
const clockMax = 10 * time.Second

func (s *Store) pokeClock() {
	select {
	case s.clockPoke <- struct{}{}:
	default:
	}
}
