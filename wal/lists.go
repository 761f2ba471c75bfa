package wal

import "github.com/mtawal/mtawal/state"

// fifo is a list of recipients in chunks that grow with it: eight bytes an entry, a
// few for a short one.
type fifo struct {
	head, tail *fifoChunk
	n          int
	last       entry
}

type fifoChunk struct {
	next *fifoChunk
	at   int
	refs []state.Ref
}

const fifoChunkMax = 1024

func (f *fifo) push(e entry) {
	if f.tail == nil || len(f.tail.refs) == cap(f.tail.refs) {
		size := 4
		if f.tail != nil {
			size = min(2*cap(f.tail.refs), fifoChunkMax)
		}
		c := &fifoChunk{refs: make([]state.Ref, 0, size)}
		if f.tail == nil {
			f.head = c
		} else {
			f.tail.next = c
		}
		f.tail = c
	}
	f.tail.refs = append(f.tail.refs, e.ref)
	f.last = e
	f.n++
}

func (f *fifo) first() state.Ref { return f.head.refs[f.head.at] }

func (f *fifo) pop() {
	c := f.head
	c.at++
	f.n--
	if c.at < len(c.refs) {
		return
	}
	if f.head = c.next; f.head == nil {
		// The last chunk is used again: a queue that is drained as fast as it fills
		// allocates nothing.
		c.at, c.refs = 0, c.refs[:0]
		f.head, f.tail = c, c
	}
}

// entryHeap is a heap by ID and index.
type entryHeap []entry

func (h entryHeap) Len() int           { return len(h) }
func (h entryHeap) Less(i, j int) bool { return h[i].before(h[j]) }
func (h entryHeap) Swap(i, j int)      { h[i], h[j] = h[j], h[i] }
func (h *entryHeap) Push(x any)        { *h = append(*h, x.(entry)) }
func (h *entryHeap) Pop() any {
	n := len(*h) - 1
	x := (*h)[n]
	*h = (*h)[:n]
	return x
}

// dueHeap is a heap by time, without the interface of container/heap: a million
// deferred recipients pass through it.
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
	for i := 0; n > 0; {
		c := 2*i + 1
		if c+1 < n && a[c+1].at < a[c].at {
			c++
		}
		if c >= n || a[c].at >= e.at {
			a[i] = e
			break
		}
		a[i] = a[c]
		i = c
	}
	*h = a
	return top
}

// timerHeap is the queues that wait for a time, the earliest first.
type timerHeap []*queue

func (h timerHeap) Len() int           { return len(h) }
func (h timerHeap) Less(i, j int) bool { return h[i].due[0].at < h[j].due[0].at }
func (h timerHeap) Swap(i, j int) {
	h[i], h[j] = h[j], h[i]
	h[i].timer, h[j].timer = i, j
}
func (h *timerHeap) Push(x any) {
	q := x.(*queue)
	q.timer = len(*h)
	*h = append(*h, q)
}
func (h *timerHeap) Pop() any {
	n := len(*h) - 1
	q := (*h)[n]
	(*h)[n] = nil
	*h = (*h)[:n]
	q.timer = -1
	return q
}
