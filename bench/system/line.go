package system

import (
	"container/heap"
	"context"
	"sync"
	"time"
)

// line is the queue of recipients that a user of a plain store keeps in memory: what is
// due, in order, and what is deferred, by time. The floor for claims, so to speak.
type line struct {
	mu       sync.Mutex
	ready    []uint64
	from     int // of ready
	deferred dueHeap
	out      int
}

type due struct {
	at int64
	id uint64
}

type dueHeap []due

func (h dueHeap) Len() int           { return len(h) }
func (h dueHeap) Less(i, j int) bool { return h[i].at < h[j].at }
func (h dueHeap) Swap(i, j int)      { h[i], h[j] = h[j], h[i] }
func (h *dueHeap) Push(x any)        { *h = append(*h, x.(due)) }
func (h *dueHeap) Pop() any {
	x := (*h)[len(*h)-1]
	*h = (*h)[:len(*h)-1]
	return x
}

// push puts in what is due now.
func (l *line) push(ids ...uint64) {
	l.mu.Lock()
	l.ready = append(l.ready, ids...)
	l.mu.Unlock()
}

// pushAt puts in what is due later.
func (l *line) pushAt(id uint64, at time.Time) {
	l.mu.Lock()
	heap.Push(&l.deferred, due{at.UnixNano(), id})
	l.mu.Unlock()
}

// pop takes the next one; ended or pushAt with it says what became of it.
func (l *line) pop() (id uint64, ok bool) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if len(l.deferred) > 0 && l.deferred[0].at <= time.Now().UnixNano() {
		l.out++
		return heap.Pop(&l.deferred).(due).id, true
	}
	if l.from == len(l.ready) {
		return 0, false
	}
	id = l.ready[l.from]
	if l.from++; l.from > 1024 && l.from > len(l.ready)/2 {
		l.ready = l.ready[:copy(l.ready, l.ready[l.from:])]
		l.from = 0
	}
	l.out++
	return id, true
}

// linePoll is how long who finds nothing due looks away.
const linePoll = 200 * time.Microsecond

// next waits until there is one.
func (l *line) next(ctx context.Context) (uint64, error) {
	for {
		if id, ok := l.pop(); ok {
			return id, nil
		}
		select {
		case <-ctx.Done():
			return 0, ctx.Err()
		case <-time.After(linePoll):
		}
	}
}

// ended: one that was taken is no longer out.
func (l *line) ended() {
	l.mu.Lock()
	l.out--
	l.mu.Unlock()
}

// waiting is how many there are, those that are out included.
func (l *line) waiting() int {
	l.mu.Lock()
	defer l.mu.Unlock()
	return len(l.ready) - l.from + len(l.deferred) + l.out
}

// takeAll empties it.
func (l *line) takeAll() []uint64 {
	l.mu.Lock()
	defer l.mu.Unlock()
	ids := append([]uint64(nil), l.ready[l.from:]...)
	for _, d := range l.deferred {
		ids = append(ids, d.id)
	}
	l.ready, l.from, l.deferred = l.ready[:0], 0, l.deferred[:0]
	return ids
}
