package wal

import "github.com/mtawal/mtawal/state"

// fifo is a list of recipients in chunks that grow with it: four bytes for the recipient of
// a message that has one, eight where chunks hold others too.
type fifo struct {
	head, tail *fifoChunk
	n          int
	last       entry
}

type fifoChunk struct {
	next    *fifoChunk
	at      int
	slots   []uint32
	indexes []uint32 // nil: all are 0
}

const (
	fifoChunkMax  = 1024
	fifoChunkKept = 32 // the largest that an empty list keeps
)

func (f *fifo) push(e entry) {
	if size := f.grows(); size > 0 {
		f.grow(make([]uint32, 0, size))
	}
	c := f.tail
	if e.ref.Index != 0 && c.indexes == nil {
		c.indexes = make([]uint32, len(c.slots), cap(c.slots))
	}
	c.slots = append(c.slots, e.ref.Slot)
	if c.indexes != nil {
		c.indexes = append(c.indexes, e.ref.Index)
	}
	f.last = e
	f.n++
}

// grows is the size of the chunk that the next recipient asks for; 0: there is room.
func (f *fifo) grows() int {
	switch {
	case f.tail == nil:
		return 4
	case len(f.tail.slots) == cap(f.tail.slots):
		return min(2*cap(f.tail.slots), fifoChunkMax)
	}
	return 0
}

// grow adds a chunk in memory that is empty.
func (f *fifo) grow(slots []uint32) {
	c := &fifoChunk{slots: slots}
	if f.tail == nil {
		f.head = c
	} else {
		f.tail.next = c
	}
	f.tail = c
}

func (f *fifo) first() state.Ref {
	c := f.head
	r := state.Ref{Slot: c.slots[c.at]}
	if c.indexes != nil {
		r.Index = c.indexes[c.at]
	}
	return r
}

func (f *fifo) pop() {
	c := f.head
	c.at++
	f.n--
	if c.at < len(c.slots) {
		return
	}
	if f.head = c.next; f.head != nil {
		return
	}
	// A short last chunk is used again: a queue that is drained as fast as it fills allocates
	// nothing.
	f.tail = nil
	if cap(c.slots) <= fifoChunkKept {
		c.at, c.slots, c.indexes = 0, c.slots[:0], nil
		f.head, f.tail = c, c
	}
}

// shrunk is a heap in less memory, where most of it has gone.
func shrunk[E any](h []E) []E {
	if cap(h) > 64 && len(h) < cap(h)/4 {
		return append(make([]E, 0, 2*len(h)), h...)
	}
	return h
}

// entryHeap is a heap in the order of commits.
type entryHeap []entry

func (h *entryHeap) push(e entry) {
	a := append(*h, e)
	i := len(a) - 1
	for i > 0 {
		p := (i - 1) / 2
		if !e.before(a[p]) {
			break
		}
		a[i] = a[p]
		i = p
	}
	a[i] = e
	*h = a
}

func (h *entryHeap) pop() {
	a := *h
	n := len(a) - 1
	e := a[n]
	a = a[:n]
	for i := 0; n > 0; {
		c := 2*i + 1
		if c+1 < n && a[c+1].before(a[c]) {
			c++
		}
		if c >= n || !a[c].before(e) {
			a[i] = e
			break
		}
		a[i] = a[c]
		i = c
	}
	*h = shrunk(a)
}

// dueHeap is a heap by time.
type dueHeap []dueEntry

func (h *dueHeap) push(e dueEntry) {
	a := append(*h, e)
	i := len(a) - 1
	for i > 0 {
		p := (i - 1) / 2
		if a[p].at <= e.at {
			break
		}
		a[i] = a[p]
		i = p
	}
	a[i] = e
	*h = a
}

func (h *dueHeap) pop() dueEntry {
	a := *h
	top := a[0]
	n := len(a) - 1
	e := a[n]
	a = a[:n]
	if n > 0 {
		a[0] = e
		a.down(0)
	}
	*h = shrunk(a)
	return top
}

func (h dueHeap) down(i int) {
	e := h[i]
	for {
		c := 2*i + 1
		if c+1 < len(h) && h[c+1].at < h[c].at {
			c++
		}
		if c >= len(h) || h[c].at >= e.at {
			h[i] = e
			return
		}
		h[i] = h[c]
		i = c
	}
}

// heapify makes a heap of what was appended in any order.
func (h dueHeap) heapify() {
	for i := len(h)/2 - 1; i >= 0; i-- {
		h.down(i)
	}
}

// timerHeap is the queues that wait for a time, the earliest first. Each knows its place.
type timerHeap []*queue

// fix puts a queue where its time wants it, into the heap or out of it.
func (h *timerHeap) fix(q *queue) {
	at := q.wakeAt()
	switch {
	case at == 0 && q.timer < 0:
	case at == 0:
		a := *h
		i, n := q.timer, len(a)-1
		last := a[n]
		a[n] = nil
		*h = shrunk(a[:n])
		q.timer, q.timerAt = -1, 0
		if i < n {
			(*h).sift(i, last)
		}
	case q.timer < 0:
		q.timerAt = at
		*h = append(*h, q)
		(*h).sift(len(*h)-1, q)
	case at != q.timerAt:
		q.timerAt = at
		(*h).sift(q.timer, q)
	}
}

// sift puts a queue into the hole at i, or up or down from there.
func (h timerHeap) sift(i int, q *queue) {
	for i > 0 {
		p := (i - 1) / 2
		if h[p].timerAt <= q.timerAt {
			break
		}
		h[i] = h[p]
		h[i].timer = i
		i = p
	}
	for {
		c := 2*i + 1
		if c+1 < len(h) && h[c+1].timerAt < h[c].timerAt {
			c++
		}
		if c >= len(h) || h[c].timerAt >= q.timerAt {
			break
		}
		h[i] = h[c]
		h[i].timer = i
		i = c
	}
	h[i] = q
	q.timer = i
}

// ring is a list in which each element knows its place: it leaves in one step.
type ring[T any] struct {
	root node[T]
	n    int
}

type node[T any] struct {
	next, prev *node[T]
	of         *T // nil while it is in no ring
}

func (r *ring[T]) push(n *node[T], of *T) {
	if r.root.next == nil {
		r.root.next, r.root.prev = &r.root, &r.root
	}
	n.of = of
	n.prev, n.next = r.root.prev, &r.root
	n.prev.next, r.root.prev = n, n
	r.n++
}

func (r *ring[T]) remove(n *node[T]) {
	n.prev.next, n.next.prev = n.next, n.prev
	*n = node[T]{}
	r.n--
}

// first is the element whose turn it is, nil if there is none.
func (r *ring[T]) first() *T {
	if r.n == 0 {
		return nil
	}
	return r.root.next.of
}

// rotate puts an element to the end.
func (r *ring[T]) rotate(n *node[T]) {
	of := n.of
	r.remove(n)
	r.push(n, of)
}
