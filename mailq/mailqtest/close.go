package mailqtest

import (
	"context"
	"sync"

	"github.com/mtawal/mtawal/mailq"
)

var closeTests = []test{
	{"twice is nil", closeTwice, nil},
	{"every method after it", closeAll, nil},
	{"a delivery after it", closeDelivery, nil},
	{"unblocks Next", closeNext, nil},
	{"under load", closeLoad, nil},
	{"a store opened again is another", closeOldHandle, nil},
}

func closeTwice(e *env) {
	e.post("q", "x")
	s := e.store
	e.close()
	for range 2 {
		e.passes("Close", s.Close)
	}
	wg := e.team()
	e.openStore()
	s, e.store = e.store, nil
	for range 4 {
		wg.Go(func() {
			if err := s.Close(); err != nil {
				e.Errorf("one of four Closes: %v", err)
			}
		})
	}
	e.within("one of four Closes", wg.Wait)
}

func closeAll(e *env) {
	id := e.post("q", "x")
	c := e.all()
	s := e.store
	e.close()

	_, err := s.Enqueue(e.ctx, mail("q", "x"))
	e.wants("Enqueue", err, mailq.ErrClosed)
	_, err = s.Commit(e.ctx, mailq.Batch{Enqueue: numbered("q", 0, 1)})
	e.wants("Commit", err, mailq.ErrClosed)
	_, err = s.Submit(mailq.Batch{Enqueue: numbered("q", 0, 1)}).Wait(e.ctx)
	e.wants("Submit", err, mailq.ErrClosed)
	e.wants("MarkUsed", s.MarkUsed(e.ctx, id, 0), mailq.ErrClosed)
	_, err = s.Consumer(mailq.ConsumerOptions{})
	e.wants("Consumer", err, mailq.ErrClosed)
	_, err = c.Next(e.ctx)
	e.wants("Next", err, mailq.ErrClosed)
	if _, ok := c.TryNext("q"); ok {
		e.Error("TryNext gave something")
	}
	e.wants("Admit", s.Admit(1), mailq.ErrClosed)
	if id := s.NewID(); id != 0 {
		e.Errorf("NewID: %v, want 0", id)
	}
	seen := 0
	for _, err = range s.Entries(e.ctx, mailq.Filter{}) {
		seen++
	}
	e.wants("Entries", err, mailq.ErrClosed)
	for _, err = range s.Queues(e.ctx) {
		seen++
	}
	e.wants("Queues", err, mailq.ErrClosed)
	if seen != 2 {
		e.Errorf("Entries and Queues yield %d, want an error each", seen)
	}
	if e.caps.Staging {
		_, err = s.Stage(e.ctx, 0)
		e.wants("Stage", err, mailq.ErrClosed)
	}
	if e.caps.QueueStates {
		e.wants("SetQueue", s.SetQueue(e.ctx, "q", mailq.QueueState{Mode: mailq.HoldQueue}), mailq.ErrClosed)
	}
	if e.caps.Flush {
		e.wants("Flush", s.Flush(e.ctx, "q"), mailq.ErrClosed)
	}
	if err := s.Shutdown(e.ctx); err != nil {
		e.wants("Shutdown", err, mailq.ErrClosed)
	}
	s.Stats() // what it says of a closed store is open; that it returns is not
	c.SetGroup("q", "g")
	c.Limit("g", 1)
	if err := c.Close(); err != nil {
		e.wants("Consumer.Close", err, mailq.ErrClosed)
	}
}

func closeDelivery(e *env) {
	e.send(mailTo("q", "x", 2))
	d := e.claim("q")
	s := e.store
	e.close()
	e.ended(d)
	e.bodyEnds(d.Body, mailq.ErrClosed)
	e.wants("Settle", d.SettleAll(e.ctx, mailq.Delivered), mailq.ErrClosed)
	e.wants("Settle", d.Settle(e.ctx, []mailq.Outcome{outcome(0, mailq.Failed)}), mailq.ErrClosed)
	e.wants("Start", d.Start(e.ctx), mailq.ErrClosed)
	_, err := s.Commit(e.ctx, mailq.Batch{Settle: settlement(d, outcome(0, mailq.Failed)), Enqueue: numbered("q", 0, 1)})
	e.wants("Commit", err, mailq.ErrClosed)
	e.within("Release", d.Release)
	e.openStore()
	e.stands("opened again", 2, 0, 0, 0)
}

func closeNext(e *env) {
	c, other := e.all(), e.consumer(mailq.ConsumerOptions{Queues: []string{"q"}})
	waits := []<-chan next{e.waiting(e.ctx, c), e.waiting(e.ctx, c), e.waiting(context.Background(), other)}
	e.close()
	for _, w := range waits {
		e.wants("Next when the store is closed", e.outcome(w).err, mailq.ErrClosed)
	}
}

// Close comes while everybody is busy: what was acknowledged and nobody tried to
// settle is there, what was acknowledged as used is not.
func closeLoad(e *env) {
	for range 3 {
		var mu sync.Mutex
		acked, tried, used := map[mailq.ID]bool{}, map[mailq.ID]bool{}, map[mailq.ID]bool{}
		note := func(m map[mailq.ID]bool, id mailq.ID) {
			mu.Lock()
			defer mu.Unlock()
			m[id] = true
		}
		s := e.store
		wg := e.team()
		busy := make(chan struct{}, 3)
		for range 3 {
			c := e.all()
			wg.Go(func() {
				for {
					id, err := s.Enqueue(e.ctx, mail("load", "x"))
					if err != nil {
						e.wants("Enqueue while the store closes", err, mailq.ErrClosed, mailq.ErrUnknown)
						return
					}
					note(acked, id)
				}
			})
			wg.Go(func() {
				for i := 0; ; i++ {
					if i == 5 {
						busy <- struct{}{}
					}
					d, err := c.Next(e.ctx)
					if err != nil {
						e.wants("Next while the store closes", err, mailq.ErrClosed)
						return
					}
					if i%2 == 1 {
						continue // it stays out
					}
					note(tried, d.ID)
					if err := d.SettleAll(e.ctx, mailq.Delivered); err != nil {
						e.wants("Settle while the store closes", err, mailq.ErrClosed, mailq.ErrUnknown)
						continue
					}
					note(used, d.ID)
				}
			})
		}
		e.within("everybody", func() {
			for range 3 {
				<-busy
			}
		})
		e.close()
		e.within("everybody", wg.Wait)
		e.openStore()
		left := map[mailq.ID]bool{}
		for _, x := range e.entries(mailq.Filter{}) {
			left[x.ID] = true
		}
		for id := range acked {
			if left[id] && used[id] {
				e.Errorf("%v was acknowledged as used and is there again", id)
			}
			if !left[id] && !tried[id] {
				e.Errorf("%v was acknowledged and is gone", id)
			}
		}
		for id := range left {
			e.markUsed(id, mailq.All)
		}
	}
}

func closeOldHandle(e *env) {
	id := e.post("q", "x")
	d := e.claim("q")
	e.reopen()
	e.wants("a settle of a delivery from before", d.SettleAll(e.ctx, mailq.Delivered), mailq.ErrClosed)
	_, err := e.store.Commit(e.ctx, mailq.Batch{Settle: settlement(d, outcome(0, mailq.Delivered))})
	if err == nil {
		e.Error("a batch settled a delivery from before the store was reopened")
	}
	d.Release()
	again := e.claim("q")
	if again.ID != id {
		e.Fatalf("%v came, want %v", again.ID, id)
	}
	d.Release()
	e.alive(again)
}
