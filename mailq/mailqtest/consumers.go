package mailqtest

import (
	"context"
	"fmt"
	"time"

	"github.com/mtawal/mtawal/mailq"
)

var consumerTests = []test{
	{"a list of queues", consumerList, nil},
	{"a prefix", consumerPrefix, nil},
	{"a list and a prefix add up", consumerBoth, nil},
	{"neither serves every queue", consumerAll, nil},
	{"queues that come later", consumerLater, nil},
	{"InFlight bounds what is out", consumerInFlight, nil},
	{"PerGroup bounds each queue", consumerPerGroup, nil},
	{"MaxRecipients bounds a delivery", consumerMaxRecipients, nil},
	{"a delivery is of one queue", consumerOneQueue, nil},
	{"TryNext takes from one queue and does not wait", consumerTryNext, nil},
	{"a busy queue does not starve another", consumerFair, nil},
	{"two never hold the same recipient", consumerTwo, nil},
	{"Next wakes for new mail", consumerWakes, nil},
	{"Next with a context that has ended", consumerContext, nil},
	{"Close unblocks Next", consumerClose, nil},
	{"deliveries outlive their consumer", consumerCloseKeeps, nil},
}

// served fails unless the consumer hands out one message of each of these
// queues and nothing else.
func (e *env) served(c mailq.Consumer, queues ...string) {
	e.Helper()
	left := map[string]bool{}
	for _, q := range queues {
		left[q] = true
	}
	for range queues {
		d := e.next(c)
		if !left[d.Queue] {
			e.Fatalf("the consumer handed out queue %q, want one of %v", d.Queue, left)
		}
		delete(left, d.Queue)
		e.settleAll(d, mailq.Delivered)
	}
	e.nothing(c)
}

func (e *env) oneEach(queues ...string) {
	e.Helper()
	for _, q := range queues {
		e.post(q, q)
	}
}

func consumerList(e *env) {
	e.oneEach("a", "b", "ab", "c")
	e.served(e.consumer(mailq.ConsumerOptions{Queues: []string{"c", "a", "none"}}), "a", "c")
}

func consumerPrefix(e *env) {
	e.oneEach("smtp", "smtp:", "smtp:a", "smtp:b/c", "sm", "local", "SMTP:x")
	e.served(e.consumer(mailq.ConsumerOptions{Prefix: "smtp:"}), "smtp:", "smtp:a", "smtp:b/c")
}

func consumerBoth(e *env) {
	e.oneEach("local", "smtp:a", "smtp:b", "other")
	e.served(e.consumer(mailq.ConsumerOptions{Prefix: "smtp:", Queues: []string{"local", "smtp:a"}}), "local", "smtp:a", "smtp:b")
}

func consumerAll(e *env) {
	e.oneEach("a", "b", "../c")
	e.served(e.all(), "a", "b", "../c")
}

func consumerLater(e *env) {
	list := e.consumer(mailq.ConsumerOptions{Queues: []string{"one"}})
	prefix := e.consumer(mailq.ConsumerOptions{Prefix: "p:"})
	e.nothing(list)
	e.nothing(prefix)
	e.oneEach("one", "p:new", "none")
	e.served(list, "one")
	e.served(prefix, "p:new")
	e.oneEach("one", "p:new", "p:newer") // the first two were empty meanwhile
	e.served(list, "one")
	e.served(prefix, "p:new", "p:newer")
}

func consumerInFlight(e *env) {
	e.posts("a", 4)
	e.posts("b", 4)
	c := e.consumer(mailq.ConsumerOptions{InFlight: 2})
	one, two := e.next(c), e.next(c)
	e.nothing(c, "a", "b")
	e.settleAll(one, mailq.Delivered)
	three := e.next(c)
	e.nothing(c, "a", "b")
	e.release(two)
	four := e.next(c)
	e.nothing(c, "a", "b")
	e.settleAll(three, mailq.Deferred)
	e.settleAll(four, mailq.Failed)
	e.next(c)
	e.next(c)
	e.nothing(c, "a", "b")
	e.next(e.all()) // the bound is the consumer's, not the store's
}

func consumerPerGroup(e *env) {
	e.posts("a", 3)
	e.posts("b", 3)
	c := e.consumer(mailq.ConsumerOptions{PerGroup: 1})
	one, two := e.next(c), e.next(c)
	if one.Queue == two.Queue {
		e.Fatalf("two deliveries of %q are out, PerGroup is 1", one.Queue)
	}
	e.nothing(c, "a", "b")
	e.settleAll(one, mailq.Delivered)
	if d := e.next(c); d.Queue != one.Queue {
		e.Errorf("a delivery of %q, whose place is taken", d.Queue)
	}
	e.nothing(c, "a", "b")
}

func consumerMaxRecipients(e *env) {
	id := e.send(mailTo("q", "x", 5))
	c := e.consumer(mailq.ConsumerOptions{MaxRecipients: 2})
	var out []*mailq.Delivery
	seen := map[int]bool{}
	for _, want := range []int{2, 2, 1} { // several deliveries of one message at once
		d := e.nextID(c, id)
		if len(d.Recipients) != want {
			e.Fatalf("a delivery of %d recipients, want %d", len(d.Recipients), want)
		}
		for _, s := range d.Recipients {
			if seen[s.Index] {
				e.Fatalf("recipient %d is in two deliveries", s.Index)
			}
			seen[s.Index] = true
		}
		out = append(out, d)
	}
	e.nothing(c, "q")
	e.settleAll(out[1], mailq.Delivered)
	e.alive(out[0])
	if e.body(out[0]) != "x" {
		e.Error("the body went with another delivery of the message")
	}
	e.settleAll(out[0], mailq.Delivered)
	e.settleAll(out[2], mailq.Delivered)

	e.send(mailTo("q", "x", 101))
	if d := e.next(e.all()); len(d.Recipients) != 100 {
		e.Errorf("a delivery of %d recipients by default, want 100", len(d.Recipients))
	}
}

func consumerOneQueue(e *env) {
	m := mailTo("a", "x", 4)
	m.Recipients[1].Queue = "b"
	m.Recipients[3].Queue = "b"
	id := e.send(m)
	c := e.all()
	for range 2 {
		d := e.nextID(c, id)
		if len(d.Recipients) != 2 {
			e.Fatalf("a delivery of %d recipients, want 2", len(d.Recipients))
		}
		for _, s := range d.Recipients {
			if q := m.Recipients[s.Index].Queue; q != d.Queue {
				e.Errorf("recipient %d of queue %q is in a delivery of %q", s.Index, q, d.Queue)
			}
		}
	}
	e.nothing(c, "a", "b")
}

func consumerTryNext(e *env) {
	c := e.all()
	for _, q := range []string{"a", "none", ""} {
		if _, ok := c.TryNext(q); ok {
			e.Errorf("TryNext(%q) of an empty store gave something", q)
		}
	}
	ids := e.posts("a", 2)
	e.posts("b", 1)
	d := e.nextID(e.consumer(mailq.ConsumerOptions{Queues: []string{"a"}}), ids[0])
	more, ok := c.TryNext("a")
	if !ok || more.ID != ids[1] || more.Queue != "a" || len(more.Recipients) != 1 {
		e.Fatalf("TryNext: %v, %+v, want %v", ok, more, ids[1])
	}
	if more, ok := c.TryNext("a"); ok {
		e.Fatalf("TryNext: %v, want nothing, all of it is out", more.ID)
	}
	e.settleAll(d, mailq.Delivered)
	e.settleAll(more, mailq.Delivered)
	if d := e.next(c); d.Queue != "b" {
		e.Errorf("Next: queue %q, want b", d.Queue)
	}
}

func consumerFair(e *env) {
	e.posts("busy", 60)
	for i := range 5 {
		e.post(fmt.Sprint("small", i), "x")
	}
	c := e.all()
	small := 0
	for range 30 {
		if e.next(c).Queue != "busy" {
			small++
		}
	}
	if small != 5 {
		e.Errorf("30 deliveries, %d of the 5 small queues: the busy one starves them", small)
	}
}

func consumerTwo(e *env) {
	e.posts("q", 20)
	e.send(mailTo("q", "x", 10))
	consumers := []mailq.Consumer{
		e.all(), e.consumer(mailq.ConsumerOptions{Queues: []string{"q"}, MaxRecipients: 3}), e.consumer(mailq.ConsumerOptions{Prefix: "q"}),
	}
	type key struct {
		id    mailq.ID
		index int
	}
	seen := map[key]bool{}
	for i := 0; len(seen) < 30; i++ {
		d, ok := consumers[i%3].TryNext("q")
		if !ok {
			e.Fatalf("nothing left after %d recipients of 30", len(seen))
		}
		for _, s := range d.Recipients {
			if seen[key{d.ID, s.Index}] {
				e.Fatalf("recipient %d of %v is held twice", s.Index, d.ID)
			}
			seen[key{d.ID, s.Index}] = true
		}
	}
	for _, c := range consumers {
		e.nothing(c, "q")
	}
}

// waiting starts Next and returns where its outcome will come. It can't know
// whether Next waits already; a test must be right either way.
func (e *env) waiting(ctx context.Context, c mailq.Consumer) <-chan next {
	out := make(chan next, 1)
	go func() {
		d, err := c.Next(ctx)
		out <- next{d, err}
	}()
	time.Sleep(time.Millisecond) // so that it mostly does
	return out
}

type next struct {
	d   *mailq.Delivery
	err error
}

func (e *env) outcome(ch <-chan next) next {
	e.Helper()
	select {
	case n := <-ch:
		return n
	case <-e.ctx.Done():
		e.Fatal("Next did not return")
		panic("unreachable")
	}
}

func consumerWakes(e *env) {
	c := e.consumer(mailq.ConsumerOptions{Queues: []string{"q"}})
	other := e.consumer(mailq.ConsumerOptions{Queues: []string{"other"}})
	for range 5 {
		here, there := e.waiting(e.ctx, c), e.waiting(e.ctx, other)
		id := e.post("q", "x")
		n := e.outcome(here)
		e.must(n.err)
		if n.d.ID != id {
			e.Errorf("Next woke with %v, want %v", n.d.ID, id)
		}
		again := e.waiting(e.ctx, c)
		e.settleAll(n.d, mailq.Deferred) // it is due again at once
		n = e.outcome(again)
		e.must(n.err)
		again = e.waiting(e.ctx, c)
		n.d.Release()
		n = e.outcome(again)
		e.must(n.err)
		e.settleAll(n.d, mailq.Delivered)
		e.post("other", "x")
		n = e.outcome(there)
		e.must(n.err)
		e.settleAll(n.d, mailq.Delivered)
	}
}

func consumerContext(e *env) {
	c := e.all()
	ended, cancel := context.WithCancel(context.Background())
	cancel()
	_, err := c.Next(ended)
	e.wants("Next with a context that has ended", err, context.Canceled)

	// With mail there it may do either; what it does not return it must not keep.
	id := e.post("q", "x")
	d, err := c.Next(ended)
	if err != nil {
		e.wants("Next with a context that has ended", err, context.Canceled)
		d = e.nextID(c, id)
	}
	e.settleAll(d, mailq.Delivered)

	for range 50 { // a cancel that races with a message must not lose it
		ctx, cancel := context.WithCancel(context.Background())
		ch := make(chan next, 1)
		go func() {
			d, err := c.Next(ctx)
			ch <- next{d, err}
		}()
		t := e.store.Submit(mailq.Batch{Enqueue: []mailq.Message{mail("q", "x")}})
		cancel()
		_, err := t.Wait(e.ctx)
		e.must(err)
		n := e.outcome(ch)
		if n.err != nil {
			e.wants("Next with a context that ends", n.err, context.Canceled)
			n.d = e.next(c)
		}
		e.settleAll(n.d, mailq.Delivered)
	}
}

func consumerClose(e *env) {
	c, other := e.all(), e.all()
	waits := []<-chan next{e.waiting(e.ctx, c), e.waiting(e.ctx, c)}
	e.passes("Consumer.Close", c.Close)
	for _, w := range waits {
		e.wants("Next of a consumer that is closed", e.outcome(w).err, mailq.ErrClosed)
	}
	id := e.post("q", "x")
	_, err := c.Next(e.ctx)
	e.wants("Next of a closed consumer", err, mailq.ErrClosed)
	if _, ok := c.TryNext("q"); ok {
		e.Error("TryNext of a closed consumer gave something")
	}
	e.nextID(other, id)
}

func consumerCloseKeeps(e *env) {
	ids := e.posts("q", 2)
	c := e.all()
	d, held := e.nextID(c, ids[0]), e.nextID(c, ids[1])
	e.must(c.Close())
	e.alive(d)
	if e.body(d) != "q 0" {
		e.Error("the body went with the consumer")
	}
	e.nothing(e.all(), "q")
	e.settleAll(d, mailq.Delivered)
	e.release(held)
	e.nextID(e.all(), ids[1])
}
