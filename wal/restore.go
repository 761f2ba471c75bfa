package wal

import (
	"cmp"
	"slices"

	"github.com/mtawal/mtawal/mailq"
	"github.com/mtawal/mtawal/state"
)

// buildQueues fills the scheduler from the table.
//
// Most of a large store waits, scattered over many queues, and to look at a queue for each
// message costs more than all else. So what waits for a time goes into one heap for all
// queues; the clock puts it where it belongs, a bounded part at a time, when the store is
// open.
func (s *Store) buildQueues() {
	s.applyNow = s.opt.now().UnixNano()
	waiting := make([]int64, s.table.Queues()) // of each queue, in restored
	s.sched.restored = make(dueHeap, 0, s.table.Timed())
	s.sched.bulk = true
	// waits puts a recipient that waits for a time into the heap.
	waits := func(ref state.Ref, r *state.Recipient) bool {
		if r.Standing != state.Pending || r.Flags&state.InDoubt != 0 {
			return false
		}
		at := s.dueAt(ref, r)
		if at <= s.applyNow {
			return false
		}
		r.Mem |= memWaiting
		s.table.Ref(ref.Slot)
		s.sched.restored = append(s.sched.restored, dueEntry{at, ref})
		waiting[r.Queue]++
		return true
	}
	// Of what came from the checkpoint the table has the order. What was committed later than its ID says, and what the
	// replay brought, is in any slot.
	var rest []uint32
	loaded := s.table.Loaded()
	plain := plainRestore{s: s}
	s.table.ForEach(func(slot uint32) {
		m := s.table.Msg(slot)
		if r := m.Plain(); r != nil && m.ID <= loaded {
			plain.add(slot, m, r)
			return
		}
		plain.q = nil
		list, left, inOrder := s.table.Recipients(slot), false, m.ID <= loaded && s.table.Order(m) == m.ID
		for i := range list {
			r := &list[i]
			switch ref := (state.Ref{Slot: slot, Index: uint32(i)}); {
			case r.Standing == state.Used || waits(ref, r):
			case inOrder:
				s.restore(ref, r)
			default:
				left = true
			}
		}
		if left {
			rest = append(rest, slot)
		}
	})
	slices.SortFunc(rest, func(a, b uint32) int {
		return cmp.Compare(s.table.Order(s.table.Msg(a)), s.table.Order(s.table.Msg(b)))
	})
	for _, slot := range rest {
		list := s.table.Recipients(slot)
		for i := range list {
			if r := &list[i]; r.Standing != state.Used && r.Mem&memWaiting == 0 {
				s.restore(state.Ref{Slot: slot, Index: uint32(i)}, r)
			}
		}
	}
	s.sched.bulk = false
	s.sched.restored.heapify()
	for n, waits := range waiting {
		e := s.table.Queue(uint32(n))
		if e == nil {
			continue
		}
		if e.State.Mode == mailq.Suspended {
			s.suspended++
		}
		q := s.queue(uint32(n))
		q.counts[classDeferred] += waits
		s.sched.counts[classDeferred] += waits
		q.due.heapify()
		s.sched.timers.fix(q)
	}
	s.pokeClock()
}

// plainRestore restores one message of those that nearly all are behind the other. What it finds for one it has for those
// of the same queue and priority that follow.
type plainRestore struct {
	s *Store
	q *queue // nil: to be found
	l *lane
}

func (p *plainRestore) add(slot uint32, m *state.Message, r *state.Recipient) {
	s := p.s
	if p.q == nil || p.q.number != r.Queue || p.l.priority != m.Priority {
		p.q = s.queue(r.Queue)
		p.l = p.q.lane(m.Priority)
	}
	r.Mem |= memReady
	s.table.Ref(slot)
	p.l.push(entry{m.ID, state.Ref{Slot: slot}})
	p.q.entries++
	p.q.counts[classPending]++
	s.sched.counts[classPending]++
}

// restore puts a recipient that does not wait for a time where its queue looks for it.
func (s *Store) restore(ref state.Ref, r *state.Recipient) {
	q := s.queue(r.Queue)
	c := classOf(r)
	s.sched.counts[c]++
	q.counts[c]++
	switch {
	case r.Flags&state.InDoubt != 0: // it may have a time too
		q.doubt++
		s.sched.doubt++
		s.settleDown(q, ref, r, s.applyNow)
	case c == classPending:
		s.makeReady(q, ref, r, s.applyNow)
	}
}

// handOut moves so many of what waited when the store was opened to their queues, and says
// whether there are more. The last of a heap leaves it as it is.
func (s *Store) handOut(most int) (more bool) {
	for ; most > 0 && len(s.sched.restored) > 0; most-- {
		h := s.sched.restored
		e := h[len(h)-1]
		s.sched.restored = shrunk(h[:len(h)-1])
		r := s.table.Rcpt(e.ref)
		if r.Mem&memWaiting == 0 || r.Standing != state.Pending { // it has moved on meanwhile
			s.table.Unref(e.ref.Slot)
			continue
		}
		// Its time may be another by now: that of a flush, which is about to look for it here.
		q := s.queue(r.Queue)
		if q.due == nil {
			q.due = make(dueHeap, 0, q.counts[classDeferred])
		}
		q.due.push(e)
		s.setTimer(q)
	}
	return len(s.sched.restored) > 0
}
