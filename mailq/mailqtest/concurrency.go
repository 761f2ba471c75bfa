package mailqtest

import (
	"fmt"
	"math/rand/v2"
	"sync"
	"sync/atomic"
	"time"

	"github.com/mtawal/mtawal/mailq"
)

var concurrencyTests = []test{
	{"every recipient is delivered once", concurrentDelivery, nil},
	{"every recipient ends once, whatever happens", concurrentChaos, nil},
	{"each producer's mail stays in order", concurrentOrder, nil},
	{"MarkUsed and a settle race", concurrentMarks, nil},
	{"Entries sees what is there all along once", concurrentEntries, nil},
	{"submissions of many goroutines", concurrentSubmit, nil},
}

// ledger counts what became of each recipient, as the next hop would.
type ledger struct {
	mu    sync.Mutex
	final map[slot]int
}

type slot struct {
	id    mailq.ID
	index int
}

func (l *ledger) add(id mailq.ID, index int) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.final[slot{id, index}]++
}

// produce enqueues from many goroutines and returns how many recipients, once
// all is committed.
func (e *env) produce(wg *sync.WaitGroup, producers, each int) *atomic.Int64 {
	n := new(atomic.Int64)
	s := e.store
	for p := range producers {
		rng := rand.New(rand.NewPCG(e.caps.Seed, uint64(p)))
		wg.Go(func() {
			for i := range each {
				m := mailTo(fmt.Sprintf("q%d", rng.IntN(6)), fmt.Sprint(p, " ", i), 1+rng.IntN(4))
				for r := range m.Recipients {
					if rng.IntN(3) == 0 {
						m.Recipients[r].Queue = fmt.Sprintf("q%d", rng.IntN(6))
					}
				}
				n.Add(int64(len(m.Recipients)))
				if _, err := s.Enqueue(e.ctx, m); err != nil {
					e.Errorf("Enqueue: %v", err)
					return
				}
			}
		})
	}
	return n
}

// consume claims from several goroutines on each consumer, until all ends with
// the store's work. work returns how many recipients it has brought to an end.
func (e *env) consume(wg *sync.WaitGroup, want func() int64, work func(*rand.Rand, *mailq.Delivery) int) {
	e.Helper()
	var done atomic.Int64
	consumers := []mailq.Consumer{
		e.consumer(mailq.ConsumerOptions{MaxRecipients: 2, InFlight: 3}),
		e.all(),
		e.consumer(mailq.ConsumerOptions{Prefix: "q", PerGroup: 1}),
		e.consumer(mailq.ConsumerOptions{Queues: []string{"q0", "q1", "q2", "bounce"}}),
	}
	for i, c := range consumers {
		for g := range 2 {
			rng := rand.New(rand.NewPCG(e.caps.Seed, uint64(1000+10*i+g)))
			wg.Go(func() {
				for {
					d, err := c.Next(e.ctx)
					if err != nil {
						e.wants("Next", err, mailq.ErrClosed)
						return
					}
					done.Add(int64(work(rng, d)))
				}
			})
		}
	}
	e.eventually(func() error {
		if got := done.Load(); got < want() {
			return fmt.Errorf("seed %d: %d recipients have come to an end, want %d", e.caps.Seed, got, want())
		}
		return nil
	})
	for _, c := range consumers {
		e.must(c.Close())
	}
	e.within("the consumers", wg.Wait)
}

// once fails unless the ledger holds each recipient once.
func (e *env) once(l *ledger, want int64) {
	e.Helper()
	for s, n := range l.final {
		if n != 1 {
			e.Errorf("seed %d: recipient %d of %v came to an end %d times", e.caps.Seed, s.index, s.id, n)
		}
	}
	if got := int64(len(l.final)); got != want {
		e.Errorf("seed %d: %d recipients came to an end, want %d", e.caps.Seed, got, want)
	}
	e.check()
	if s := e.store.Stats(); s.Enqueued != want || s.WorkQueueLength != 0 {
		e.Errorf("seed %d: enqueued %d, work queue length %d, want %d and 0", e.caps.Seed, s.Enqueued, s.WorkQueueLength, want)
	}
}

func concurrentDelivery(e *env) {
	l := &ledger{final: map[slot]int{}}
	producers, consumers := e.team(), e.team()
	n := e.produce(producers, 4, 40)
	var all atomic.Bool
	go func() { producers.Wait(); all.Store(true) }()
	e.consume(consumers, func() int64 {
		if !all.Load() {
			return 1 << 60
		}
		return n.Load()
	}, func(_ *rand.Rand, d *mailq.Delivery) int {
		for _, s := range d.Recipients {
			l.add(d.ID, s.Index)
		}
		if err := d.SettleAll(e.ctx, mailq.Delivered); err != nil {
			e.Errorf("SettleAll: %v", err)
		}
		return len(d.Recipients)
	})
	e.once(l, n.Load())
	e.reopen()
	e.once(l, n.Load())
}

func concurrentChaos(e *env) {
	l := &ledger{final: map[slot]int{}}
	var held sync.Map // slot: which recipients are out now
	var bounces atomic.Int64
	producers, consumers := e.team(), e.team()
	n := e.produce(producers, 3, 30)
	var all atomic.Bool
	go func() { producers.Wait(); all.Store(true) }()
	e.consume(consumers, func() int64 {
		if !all.Load() {
			return 1 << 60
		}
		return n.Load() + bounces.Load()
	}, func(rng *rand.Rand, d *mailq.Delivery) (ended int) {
		for _, s := range d.Recipients {
			if _, loaded := held.LoadOrStore(slot{d.ID, s.Index}, true); loaded {
				e.Errorf("seed %d: recipient %d of %v is claimed twice at a time", e.caps.Seed, s.Index, d.ID)
			}
		}
		for i, s := range d.Recipients {
			held.Delete(slot{d.ID, s.Index})
			var err error
			switch k := rng.IntN(10); {
			case k < 5 || s.Attempts > 5 || d.Queue == "bounce" && k < 8:
				err = d.Settle(e.ctx, []mailq.Outcome{outcome(s.Index, mailq.Delivered)})
				l.add(d.ID, s.Index)
				ended++
			case k < 6 && d.Queue != "bounce":
				bounces.Add(1)
				_, err = e.store.Commit(e.ctx, mailq.Batch{Settle: settlement(d, outcome(s.Index, mailq.Failed)), Enqueue: numbered("bounce", 0, 1)})
				l.add(d.ID, s.Index)
				ended++
			case k < 7:
				err = e.store.MarkUsed(e.ctx, d.ID, s.Index)
				l.add(d.ID, s.Index)
				ended++
			case k < 8:
				for _, r := range d.Recipients[i:] {
					held.Delete(slot{d.ID, r.Index})
				}
				d.Release()
				return ended
			default:
				err = d.Settle(e.ctx, []mailq.Outcome{{Recipient: s.Index, Result: mailq.Deferred, Until: time.Now().Add(time.Duration(rng.IntN(2)) * time.Millisecond)}})
			}
			if err != nil {
				e.Errorf("seed %d: recipient %d of %v: %v", e.caps.Seed, s.Index, d.ID, err)
			}
		}
		return ended
	})
	e.once(l, n.Load()+bounces.Load())
	e.reopen()
	e.once(l, n.Load()+bounces.Load())
}

func concurrentOrder(e *env) {
	const producers, each = 4, 30
	wg := e.team()
	s := e.store
	for p := range producers {
		wg.Go(func() {
			for i := range each {
				if _, err := s.Enqueue(e.ctx, mail("q", fmt.Sprintf("%d %d", p, i))); err != nil {
					e.Errorf("Enqueue: %v", err)
				}
			}
		})
	}
	c := e.all()
	var next [producers]int
	for range producers * each {
		d := e.next(c)
		var p, i int
		if _, err := fmt.Sscan(e.body(d), &p, &i); err != nil {
			e.Fatal(err)
		}
		if i != next[p] {
			e.Fatalf("message %d of producer %d came, want %d", i, p, next[p])
		}
		next[p]++
		e.settleAll(d, mailq.Delivered)
	}
	wg.Wait()
}

// A bounce for delivered mail: MarkUsed and a settle with a bounce run together,
// one of them wins, and the bounce is there if and only if the settle did.
func concurrentMarks(e *env) {
	c := e.consumer(mailq.ConsumerOptions{Queues: []string{"q"}})
	var bounces int64
	for range 40 {
		id := e.post("q", "x")
		d := e.nextID(c, id)
		var err error
		wg := e.team()
		wg.Go(func() {
			if err := e.store.MarkUsed(e.ctx, id, 0); err != nil {
				e.wants("MarkUsed", err, mailq.ErrNotFound) // the message may be dead
			}
		})
		wg.Go(func() {
			_, err = e.store.Commit(e.ctx, mailq.Batch{Settle: settlement(d, outcome(0, mailq.Failed)), Enqueue: numbered("bounce", 0, 1)})
		})
		wg.Wait()
		if err == nil {
			bounces++
		} else {
			e.wants("a settle that lost", err, mailq.ErrUsed)
		}
		e.ended(d)
		e.used(mailq.UsedCounts{Delivered: e.store.Stats().Used.Total() - bounces, Failed: bounces})
		if got := e.store.Stats().WorkQueueLength; got != bounces {
			e.Fatalf("%d bounces, want %d", got, bounces)
		}
	}
}

func concurrentEntries(e *env) {
	const there = 30
	stay := map[mailq.ID]bool{}
	var churn []mailq.ID
	for range there {
		stay[e.post("stay", "x")] = true
		churn = append(churn, e.post("churn", "x"))
	}
	s := e.store
	stop := make(chan struct{})
	wg := e.team()
	wg.Go(func() {
		for {
			for i, id := range churn {
				select {
				case <-stop:
					return
				default:
				}
				err := s.MarkUsed(e.ctx, id, 0)
				if err == nil {
					churn[i], err = s.Enqueue(e.ctx, mail("churn", "x"))
				}
				if err != nil {
					e.Errorf("the churn: %v", err)
					return
				}
			}
		}
	})
	defer wg.Wait()
	defer close(stop)
	for range 30 {
		seen := map[slot]int{}
		for x, err := range s.Entries(e.ctx, mailq.Filter{}) {
			e.must(err)
			seen[slot{x.ID, x.Recipient}]++
		}
		for id := range stay {
			if n := seen[slot{id, 0}]; n != 1 {
				e.Fatalf("%v, which is there all along, is listed %d times", id, n)
			}
		}
		for q, err := range s.Queues(e.ctx) {
			e.must(err)
			if q.Name == "stay" && q.Pending != there {
				e.Fatalf("Queues counts %d in a queue that nobody touches, want %d", q.Pending, there)
			}
		}
		if err := identity(s.Stats()); err != nil {
			e.Fatal(err)
		}
	}
}

func concurrentSubmit(e *env) {
	const goroutines, each = 4, 40
	ids := make([][]mailq.ID, goroutines)
	wg := e.team()
	s := e.store
	for g := range goroutines {
		wg.Go(func() {
			var tickets []mailq.Ticket
			for i := range each {
				tickets = append(tickets, s.Submit(mailq.Batch{Enqueue: numbered(fmt.Sprint("q", g), i, 1)}))
			}
			for _, t := range tickets {
				got, err := t.Wait(e.ctx)
				if err != nil {
					e.Errorf("Wait: %v", err)
				}
				ids[g] = append(ids[g], got...)
			}
		})
	}
	wg.Wait()
	for g := range goroutines {
		c := e.consumer(mailq.ConsumerOptions{Queues: []string{fmt.Sprint("q", g)}})
		for _, id := range ids[g] {
			e.settleAll(e.nextID(c, id), mailq.Delivered)
		}
	}
}
