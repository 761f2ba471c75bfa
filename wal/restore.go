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
	var rest []uint32                          // messages with a recipient of which more is to be known
	sorted, last := true, uint64(0)
	s.sched.restored = make(dueHeap, 0, s.table.Timed())
	s.table.ForEach(func(slot uint32) {
		list := s.table.Recipients(slot)
		all := true
		for i := range list {
			r := &list[i]
			if r.Standing == state.Pending && r.Flags&state.InDoubt == 0 {
				ref := state.Ref{Slot: slot, Index: uint32(i)}
				if at := s.dueAt(ref, r); at > s.applyNow {
					r.Mem |= memWaiting
					s.table.Ref(slot)
					s.sched.restored = append(s.sched.restored, dueEntry{at, ref})
					waiting[r.Queue]++
					continue
				}
			}
			all = all && r.Standing == state.Used
		}
		if !all {
			order := s.table.Msg(slot).Order()
			sorted, last = sorted && order >= last, order
			rest = append(rest, slot)
		}
	})
	if !sorted { // as they are where a checkpoint was loaded and nobody was late
		slices.SortFunc(rest, func(a, b uint32) int {
			return cmp.Compare(s.table.Msg(a).Order(), s.table.Msg(b).Order())
		})
	}
	s.sched.bulk = true
	for _, slot := range rest {
		list := s.table.Recipients(slot)
		for i := range list {
			r := &list[i]
			if r.Standing == state.Used || r.Mem&memWaiting != 0 {
				continue
			}
			q := s.queue(r.Queue)
			c := classOf(r)
			s.sched.counts[c]++
			q.counts[c]++
			if r.Flags&state.InDoubt != 0 {
				q.doubt++
				s.sched.doubt++
			}
			s.settleDown(q, state.Ref{Slot: slot, Index: uint32(i)}, r, s.applyNow)
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
