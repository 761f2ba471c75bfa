package wal

import (
	"cmp"
	"math"
	"slices"

	"github.com/mtawal/mtawal/internal/disk"
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
	s.sched.restored = make(dueHeap, 0, s.table.Timed())
	s.sched.bulk = true
	to := restoring{s: s, waiting: make([]int64, s.table.Queues()), left: int(s.table.Slots())}
	// What came from the checkpoint is in the table by ID. What was committed later than its ID says waits for its turn, which is
	// not far. What the replay brought is behind all of it, and may be in any slot.
	var late entryHeap
	var fresh []entry // of what the replay brought, and can't be taken as it comes
	upTo := func(order uint64) {
		for len(late) > 0 && late[0].order <= order {
			slot := late[0].ref.Slot
			late.pop()
			to.message(slot)
		}
	}
	loaded, intact := s.table.Loaded(), s.table.Intact()
	s.table.ForEach(func(slot uint32) {
		m := s.table.Msg(slot)
		order := s.table.Order(m)
		switch {
		case m.ID > loaded && intact:
			upTo(order)
		case m.ID > loaded:
			fresh = append(fresh, entry{order, state.Ref{Slot: slot}})
			return
		case order != m.ID:
			late.push(entry{order, state.Ref{Slot: slot}})
			return
		case len(late) > 0:
			upTo(order)
		}
		to.message(slot)
	})
	upTo(math.MaxUint64)
	slices.SortFunc(fresh, func(a, b entry) int { return cmp.Compare(a.order, b.order) })
	for _, e := range fresh {
		to.message(e.ref.Slot)
	}
	s.sched.bulk = false
	s.sched.restored.heapify()
	for n, waits := range to.waiting {
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

// restoring puts messages where their queues look for them, in the order of commits. What it finds for one it has for those of
// the same queue and priority that follow.
type restoring struct {
	s       *Store
	waiting []int64 // recipients in restored, by queue
	q       *queue  // nil: to be found
	l       *lane
	chunks  []uint32 // memory for the next ones of fifos
	left    int      // messages that there may be beyond those
}

func (t *restoring) message(slot uint32) {
	s := t.s
	m := s.table.Msg(slot)
	if r := m.Plain(); r != nil && t.plain(slot, m, r) {
		return
	}
	t.q = nil
	list := s.table.Recipients(slot)
	for i := range list {
		r := &list[i]
		if ref := (state.Ref{Slot: slot, Index: uint32(i)}); r.Standing != state.Used && !t.waits(ref, r) {
			s.restore(ref, r)
		}
	}
}

// plain is restore for the one recipient of nearly all messages. It does nothing about one that has expired.
func (t *restoring) plain(slot uint32, m *state.Message, r *state.Recipient) bool {
	s := t.s
	expires := m.ExpiresAt()
	if expires != 0 && expires <= s.applyNow {
		return false
	}
	if t.q == nil || t.q.number != r.Queue || t.l.priority != m.Priority {
		t.q = s.queue(r.Queue)
		t.l = t.q.lane(m.Priority)
	}
	r.Mem |= memReady
	s.table.Ref(slot)
	if t.l.ready.grows() == fifoChunkMax {
		t.l.ready.grow(t.chunk())
	}
	t.q.pushReady(t.l, entry{s.table.Order(m), state.Ref{Slot: slot}}, expires) // timers are set when all is in
	t.q.counts[classPending]++
	s.sched.counts[classPending]++
	return true
}

// chunk is memory for a long chunk of a fifo. Such chunks are made of one piece of memory, of huge pages where there are, since to touch
// a small page for each costs as much as all else of this. It goes when the last of them does.
func (t *restoring) chunk() []uint32 {
	if len(t.chunks) < fifoChunkMax {
		t.chunks = make([]uint32, max(min(chunkPiece, t.left), fifoChunkMax))
		t.left -= len(t.chunks)
		disk.AdviseHuge(t.chunks)
	}
	c := t.chunks[:0:fifoChunkMax]
	t.chunks = t.chunks[fifoChunkMax:]
	return c
}

// chunkPiece is how many recipients there is memory for in one piece, of 2 MiB.
const chunkPiece = 512 << 10

// waits puts a recipient that waits for a time into the heap of what was restored.
func (t *restoring) waits(ref state.Ref, r *state.Recipient) bool {
	s := t.s
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
	t.waiting[r.Queue]++
	return true
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
