package wal

import (
	"fmt"
	"runtime"
	"testing"
	"time"

	"github.com/mtawal/mtawal/internal/disk/memdisk"
	"github.com/mtawal/mtawal/mailq"
)

func heap() int64 {
	var m runtime.MemStats
	for range 2 {
		runtime.GC()
	}
	runtime.ReadMemStats(&m)
	return int64(m.HeapAlloc)
}

// A queue of which nothing is left goes: 200,000 typos in domains leave nothing behind,
// nor do they when all of them wait at once, are deferred, flushed and then removed.
func TestEmptyQueuesAreForgotten(t *testing.T) {
	n := 200_000
	if testing.Short() {
		n = 50_000 // with fewer, memory that comes in slabs is more than what is allowed for each
	}
	s := must(Open(t.TempDir(), Options{NoSync: true}))(t) // a double would keep its files on the heap
	defer s.Close()
	c := must(s.Consumer(ConsumerOptions{}))(t).(*consumer)
	round := func(round, n int, some func(i int) Result) {
		for from := 0; from < n; from += 500 {
			var b Batch
			for i := from; i < from+500; i++ {
				m := to(fmt.Sprintf("smtp:exampel-%d-%d.org", round, i))
				m.ExpiresAt = time.Now().Add(time.Hour)
				b.Enqueue = append(b.Enqueue, m)
			}
			ids := must(s.Commit(t.Context(), b))(t)
			b = Batch{}
			for i, id := range ids {
				if r := some(from + i); r != 0 {
					b.Edit = append(b.Edit, Edit{ID: id, Outcomes: []Outcome{{Recipient: All, Result: r, Until: time.Now().Add(time.Hour)}}})
				}
			}
			if len(b.Edit) > 0 {
				must(s.Commit(t.Context(), b))(t)
			}
		}
	}
	used := func(int) Result { return Failed }
	round(0, 1000, used)
	// The frames that are kept in memory grow to their bound meanwhile, and a checkpoint that is made in
	// the background has memory of its own.
	heap := func() int64 {
		if err := s.Checkpoint(t.Context()); err != nil {
			t.Fatal(err)
		}
		return heap() - s.recent.Bytes()
	}
	before := heap()
	round(1, n, used)
	if left := heap() - before; left > 1<<20 {
		t.Errorf("%d queues that came and went one by one hold %d bytes", n, left)
	}
	round(2, n, func(i int) Result {
		if i%2 == 0 {
			return Deferred
		}
		return 0
	})
	full := heap() - before
	removed := 0
	began := time.Now()
	for more := true; more; {
		var b Batch
		more = false
		for e, err := range s.Entries(t.Context(), Filter{Prefix: "smtp:", Limit: 1000}) {
			if err != nil {
				t.Fatal(err)
			}
			more = true
			b.Edit = append(b.Edit, Edit{ID: e.ID, Outcomes: []Outcome{{Recipient: e.Recipient, Result: Removed}}})
		}
		if more {
			must(s.Commit(t.Context(), b))(t)
			removed += len(b.Edit)
		}
	}
	if removed != n {
		t.Errorf("removed %d of %d", removed, n)
	}
	t.Logf("%d queues at once: %d bytes each; removed at %.0f a second", n, full/int64(n), float64(n)/time.Since(began).Seconds())
	s.mu.Lock()
	queues, timers, sites := s.table.Queues(), len(s.sched.timers), c.groups.Len()
	s.mu.Unlock()
	if queues != 0 || timers != 0 || sites != 0 {
		t.Errorf("%d queues, %d timers, %d groups are left", queues, timers, sites)
	}
	// What is kept for use again: a few bytes for each of the most recipients that ever had
	// a time at once.
	if left := heap() - before; left > full/10 && left > int64(n)*40 {
		t.Errorf("%d queues that waited at once hold %d bytes of %d", n, left, full)
	}
	runtime.KeepAlive(c)
	if err := s.Checkpoint(t.Context()); err != nil {
		t.Fatal(err)
	}
	for _, k := range must(checkpointsOf(s))(t) {
		if k.Bytes > 2048 {
			t.Errorf("a checkpoint of an empty store has %d bytes", k.Bytes)
		}
	}
}

func must[T any](v T, err error) func(*testing.T) T {
	return func(t *testing.T) T {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
		return v
	}
}

func checkpointsOf(s *Store) ([]CheckpointInfo, error) {
	s.folds.mu.Lock()
	defer s.folds.mu.Unlock()
	return s.folds.newInfo[:1], nil
}

// A number of a queue is used again while a message lives that has a used recipient in the
// queue which had it before.
func TestQueueNumberUsedAgain(t *testing.T) {
	fs := memdisk.New(memdisk.Config{})
	s := started(t, tiny(fs))
	m := Message{Body: []byte("x"), Recipients: []Recipient{{Queue: "a", Address: "1"}, {Queue: "b", Address: "2"}}}
	id := must(s.Enqueue(t.Context(), m))(t)
	if err := s.SetQueue(t.Context(), "kept", QueueState{Doubt: mailq.HoldDoubt}); err != nil {
		t.Fatal(err)
	}
	if err := s.SetQueue(t.Context(), "kept", QueueState{}); err != nil {
		t.Fatal(err)
	}
	if err := s.MarkUsed(t.Context(), id, 0); err != nil {
		t.Fatal(err)
	}
	if _, ok := s.table.FindQueue("a"); ok {
		t.Fatal("the queue is still there")
	}
	must(s.Enqueue(t.Context(), to("c")))(t)
	must(s.Enqueue(t.Context(), to("d")))(t)
	look := func(what string) {
		t.Helper()
		var names []string
		for q, err := range s.Queues(t.Context()) {
			if err != nil {
				t.Fatal(err)
			}
			names = append(names, fmt.Sprintf("%s%d%t", q.Name, q.Pending, q.OldestAt.IsZero()))
		}
		if got := fmt.Sprint(names); got != "[b1false c1false d1false]" {
			t.Errorf("%s: %s", what, got)
		}
	}
	look("live")
	if err := s.Checkpoint(t.Context()); err != nil {
		t.Fatal(err)
	}
	ended(t, s)
	s = started(t, tiny(fs))
	look("from a checkpoint")
	must(s.Enqueue(t.Context(), to("a")))(t)
	if err := s.MarkUsed(t.Context(), id, 1); err != nil {
		t.Fatal(err)
	}
	for _, q := range []string{"a", "c", "d"} {
		d, err := s.Claim(t.Context(), q)
		if err != nil || d.Queue != q {
			t.Fatalf("claimed %+v, %v", d, err)
		}
		if err := d.SettleAll(t.Context(), Delivered); err != nil {
			t.Fatal(err)
		}
	}
	if n := s.table.Queues(); n != 0 || len(s.single) != 0 || len(s.consumers) != 0 {
		t.Errorf("%d queues, %d consumers are left", n, len(s.consumers))
	}
	ended(t, s)
	if found := must(Verify(spool, tiny(fs)))(t); len(found) != 0 {
		t.Errorf("verify: %+v", found)
	}
}
