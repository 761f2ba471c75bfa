package wal

import (
	"fmt"
	"sync/atomic"
	"testing"
	"time"

	"github.com/mtawal/mtawal/internal/disk/memdisk"
)

// unhand undoes what the clock has handed out since the store was opened: it would be done
// before a test could look. Store.mu is held.
func unhand(s *Store) (n int) {
	for i := range s.table.Queues() {
		if q := s.known(i); q != nil {
			s.sched.restored = append(s.sched.restored, q.due...)
			q.due = nil
			s.setTimer(q)
		}
	}
	s.sched.restored.heapify()
	return len(s.sched.restored)
}

// What waited when the store was opened is due at its time, wherever the clock has got to
// with handing it out, and what has moved on meanwhile leaves nothing behind.
func TestWhatWaitedAtOpen(t *testing.T) {
	start := time.Date(2030, 1, 1, 0, 0, 0, 0, time.UTC)
	for name, handed := range map[string]int{"nothing is handed out": 0, "some": 150, "all": 1 << 20} {
		t.Run(name, func(t *testing.T) {
			var at atomic.Int64
			at.Store(start.UnixNano())
			o := roomy(memdisk.New(memdisk.Config{}))
			o.now = func() time.Time { return time.Unix(0, at.Load()) }
			s := must(Open(spool, o))(t)
			const queues, each = 5, 80
			var ids []ID
			for i := range queues * each {
				m := to(fmt.Sprintf("smtp:%d.example.org", i%queues))
				m.Recipients[0].NotBefore = start.Add(time.Hour + time.Duration(i*31%400)*time.Second)
				ids = append(ids, must(s.Enqueue(t.Context(), m))(t))
			}
			ended(t, s)
			s = must(Open(spool, o))(t)
			defer func() { ended(t, s) }()
			// What has moved on: removed, one queue with all that is in it among them; due at another time; flushed.
			gone, moved, flushed := map[ID]bool{}, map[ID]bool{}, map[ID]bool{}
			var b Batch
			for i, id := range ids {
				o := Outcome{Recipient: All, Result: Removed}
				switch {
				case i%queues == 0, i%7 == 0:
					gone[id] = true
				case i%queues == 1:
					flushed[id] = true
					continue
				case i%11 == 0:
					moved[id] = true
					o.Result, o.Until = Deferred, start.Add(5*time.Hour)
				default:
					continue
				}
				b.Edit = append(b.Edit, Edit{ID: id, Outcomes: []Outcome{o}})
			}
			s.mu.Lock()
			if n := unhand(s); n != len(ids) {
				t.Errorf("%d entries wait, want %d", n, len(ids))
			}
			s.handOut(handed)
			s.mu.Unlock()
			must(s.Commit(t.Context(), b))(t)
			c := must(s.Consumer(ConsumerOptions{}))(t)
			seen := map[ID]bool{}
			drain := func(want func(i int, id ID) bool) {
				t.Helper()
				s.mu.Lock()
				s.promoteAll() // as the clock does, which goes by another
				s.mu.Unlock()
				for i := range queues {
					for {
						d, ok := c.TryNext(fmt.Sprintf("smtp:%d.example.org", i))
						if !ok {
							break
						}
						if seen[d.ID] {
							t.Errorf("%v came twice", d.ID)
						}
						seen[d.ID] = true
						if err := d.SettleAll(t.Context(), Delivered); err != nil {
							t.Fatal(err)
						}
					}
				}
				for i, id := range ids {
					if seen[id] != want(i, id) {
						t.Fatalf("message %d: handed out %v", i, seen[id])
					}
				}
			}
			due := func(i int, id ID) bool {
				return !gone[id] && !moved[id] && !flushed[id] && start.Add(time.Hour+time.Duration(i*31%400)*time.Second).UnixNano() <= at.Load()
			}
			drain(func(int, ID) bool { return false })
			at.Store(start.Add(time.Hour + 100*time.Second).UnixNano())
			early := map[ID]bool{} // of those to be flushed
			for i, id := range ids {
				if flushed[id] && i*31%400 <= 100 {
					early[id] = true
				}
			}
			drain(func(i int, id ID) bool { return early[id] || due(i, id) })
			s.mu.Lock()
			if handed == 0 {
				unhand(s)
			}
			s.mu.Unlock()
			if err := s.Flush(t.Context(), "smtp:1.example.org"); err != nil {
				t.Fatal(err)
			}
			drain(func(i int, id ID) bool { return flushed[id] || due(i, id) })
			at.Store(start.Add(3 * time.Hour).UnixNano())
			drain(func(i int, id ID) bool { return !gone[id] && !moved[id] })
			at.Store(start.Add(6 * time.Hour).UnixNano())
			drain(func(i int, id ID) bool { return !gone[id] })
			s.mu.Lock()
			defer s.mu.Unlock()
			for s.handOut(1 << 20) {
			}
			s.promote(at.Load(), 1<<20)
			if n := s.table.Messages(); n != 0 || s.sched.counts != [classes]int64{classUsed: s.sched.counts[classUsed]} {
				t.Errorf("%d messages are left, counts %v", n, s.sched.counts)
			}
			for slot := range s.table.Slots() { // a slot with a name that nobody gave back is never used again
				if s.table.Taken(slot) {
					t.Fatalf("slot %d still is that of %v", slot, ID(s.table.Msg(slot).ID))
				}
			}
		})
	}
}

// What is claimed first was committed first, also behind a kill: of what the checkpoint has, what was committed later than its ID says
// among it, and of what came behind it, in slots of messages that are gone.
func TestOrderBehindAKill(t *testing.T) {
	for _, intact := range []bool{false, true} {
		t.Run(fmt.Sprint("intact ", intact), func(t *testing.T) { orderBehindAKill(t, intact) })
	}
}

// intact: no message dies behind the checkpoint.
func orderBehindAKill(t *testing.T, intact bool) {
	fs := memdisk.New(memdisk.Config{})
	s := must(Open(spool, roomy(fs)))(t)
	var order []ID
	post := func(n int) {
		t.Helper()
		for range n {
			order = append(order, must(s.Enqueue(t.Context(), to("q")))(t))
		}
	}
	post(5)
	early, later, last := s.NewID(), s.NewID(), s.NewID()
	post(700)
	commit := func(id ID) {
		t.Helper()
		m := to("q")
		m.ID = id
		order = append(order, must(s.Enqueue(t.Context(), m))(t))
		s.mu.Lock()
		defer s.mu.Unlock()
		slot, _ := s.table.Find(uint64(id))
		if m := s.table.Msg(slot); s.table.Order(m) == m.ID {
			t.Errorf("%v is where its ID says", id)
		}
	}
	commit(later)
	post(300)
	commit(early)
	post(300)
	if err := s.Checkpoint(t.Context()); err != nil {
		t.Fatal(err)
	}
	s.folds.running.Lock() // no other comes behind it
	var b Batch
	var left []ID
	for i, id := range order {
		if i%3 == 0 && i < 400 && !intact {
			b.Edit = append(b.Edit, Edit{ID: id, Outcomes: []Outcome{{Recipient: All, Result: Removed}}})
		} else {
			left = append(left, id)
		}
	}
	if !intact {
		must(s.Commit(t.Context(), b))(t)
	}
	order = left
	post(100)
	commit(last)
	post(100)
	image := fs.Clone()
	s.folds.running.Unlock()
	if err := s.Close(); err != nil {
		t.Fatal(err)
	}
	s = must(Open(spool, roomy(image)))(t)
	defer func() {
		if err := s.Close(); err != nil {
			t.Error(err)
		}
	}()
	if s.table.Intact() != intact {
		t.Errorf("intact: %t, want %t", s.table.Intact(), intact)
	}
	if first := s.table.Msg(0).ID; first <= s.table.Loaded() && !intact {
		t.Errorf("slot 0 is not used again: it has %x, the checkpoint went to %x", first, s.table.Loaded())
	}
	c := must(s.Consumer(ConsumerOptions{InFlight: len(order)}))(t)
	defer c.Close()
	for i, id := range order {
		d, ok := c.TryNext("q")
		if !ok || d.ID != id {
			t.Fatalf("claim %d: %v, %t; %v comes first", i, d.ID, ok, id)
		}
		defer d.Release()
	}
}

// Long queues come back in order, each in memory of its own, whatever was made in one piece.
func TestLongQueuesAreRestored(t *testing.T) {
	o := roomy(memdisk.New(memdisk.Config{}))
	s := must(Open(spool, o))(t)
	const queues, each, batch = 3, 4000, 100
	for range queues * each / batch {
		var b Batch
		for i := range batch {
			b.Enqueue = append(b.Enqueue, to(fmt.Sprintf("smtp:%d.example.org", i%queues)))
		}
		must(s.Commit(t.Context(), b))(t)
	}
	ended(t, s)
	s = must(Open(spool, o))(t)
	defer func() { ended(t, s) }()
	s.mu.Lock()
	defer s.mu.Unlock()
	found := 0
	for n := range uint32(s.table.Queues()) {
		q := s.queue(n)
		last := uint64(0)
		for c := q.lanes[0].ready.head; c != nil; c = c.next {
			if cap(c.slots) > fifoChunkMax {
				t.Errorf("a chunk reaches %d recipients", cap(c.slots))
			}
			for _, slot := range c.slots {
				m := s.table.Msg(slot)
				if m.ID <= last || m.Plain().Queue != n {
					t.Fatalf("message %d of queue %d behind %d in queue %d", m.ID, m.Plain().Queue, last, n)
				}
				last = m.ID
				found++
			}
		}
	}
	if found != queues*each {
		t.Errorf("%d messages of %d are in the queues", found, queues*each)
	}
}
