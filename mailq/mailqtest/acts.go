package mailqtest

import (
	"context"
	"fmt"
	"time"

	"github.com/mtawal/mtawal/mailq"
)

// Making mail.

// mail is a message for one recipient in a queue.
func mail(queue, body string) mailq.Message {
	return mailq.Message{
		Envelope:   []byte("from " + queue),
		Body:       []byte(body),
		Recipients: []mailq.Recipient{{Queue: queue, Address: "a@" + queue}},
	}
}

// mailTo is a message for n recipients in one queue.
func mailTo(queue, body string, n int) mailq.Message {
	m := mail(queue, body)
	m.Recipients = nil
	for i := range n {
		m.Recipients = append(m.Recipients, mailq.Recipient{Queue: queue, Address: fmt.Sprintf("%d@%s", i, queue)})
	}
	return m
}

// send enqueues a message, which must work.
func (e *env) send(m mailq.Message) mailq.ID {
	e.Helper()
	id, err := e.store.Enqueue(e.ctx, m)
	if err != nil {
		e.Fatalf("Enqueue: %v", err)
	}
	if id == 0 {
		e.Fatal("Enqueue returned ID 0")
	}
	return id
}

func (e *env) post(queue, body string) mailq.ID { e.Helper(); return e.send(mail(queue, body)) }

// posts posts n messages to one queue, one after the other.
func (e *env) posts(queue string, n int) []mailq.ID {
	e.Helper()
	var ids []mailq.ID
	for i := range n {
		ids = append(ids, e.post(queue, fmt.Sprintf("%s %d", queue, i)))
	}
	return ids
}

func (e *env) commit(b mailq.Batch) []mailq.ID {
	e.Helper()
	ids, err := e.store.Commit(e.ctx, b)
	if err != nil {
		e.Fatalf("Commit: %v", err)
	}
	return ids
}

// Claiming and settling.

func (e *env) consumer(o mailq.ConsumerOptions) mailq.Consumer {
	e.Helper()
	c, err := e.store.Consumer(o)
	if err != nil {
		e.Fatalf("Consumer: %v", err)
	}
	return c
}

// all is a consumer of every queue.
func (e *env) all() mailq.Consumer { e.Helper(); return e.consumer(mailq.ConsumerOptions{}) }

// next claims what must come.
func (e *env) next(c mailq.Consumer) *mailq.Delivery {
	e.Helper()
	d, err := c.Next(e.ctx)
	if err != nil {
		e.Fatalf("Next: %v, want a delivery", err)
	}
	if len(d.Recipients) == 0 {
		e.Fatalf("Next: delivery of %v without recipients", d.ID)
	}
	return d
}

// nextID claims a delivery, which must be of this message.
func (e *env) nextID(c mailq.Consumer, id mailq.ID) *mailq.Delivery {
	e.Helper()
	d := e.next(c)
	if d.ID != id {
		e.Fatalf("Next: message %v in %q, want %v", d.ID, d.Queue, id)
	}
	return d
}

// nothing fails if the consumer has anything to hand out in any queue listed,
// or in any at all. It gives Next a moment to go wrong.
func (e *env) nothing(c mailq.Consumer, queues ...string) {
	e.Helper()
	for _, q := range queues {
		if d, ok := c.TryNext(q); ok {
			e.Fatalf("TryNext(%q): %v %+v, want nothing", q, d.ID, d.Recipients)
		}
	}
	ctx, cancel := context.WithTimeout(context.Background(), 5*time.Millisecond)
	defer cancel()
	d, err := c.Next(ctx)
	if err == nil {
		e.Fatalf("Next: %v in %q %+v, want nothing", d.ID, d.Queue, d.Recipients)
	}
	e.wants("Next that waits in vain", err, context.DeadlineExceeded)
}

// claim opens a consumer for one queue and claims its first message.
func (e *env) claim(queue string) *mailq.Delivery {
	e.Helper()
	return e.next(e.consumer(mailq.ConsumerOptions{Queues: []string{queue}}))
}

func (e *env) settle(d *mailq.Delivery, o ...mailq.Outcome) {
	e.Helper()
	if err := d.Settle(e.ctx, o); err != nil {
		e.Fatalf("Settle %v %+v: %v", d.ID, o, err)
	}
}

func (e *env) settleAll(d *mailq.Delivery, r mailq.Result) {
	e.Helper()
	if r == mailq.Deferred {
		e.settle(d, outcome(mailq.All, r))
		return
	}
	if err := d.SettleAll(e.ctx, r); err != nil {
		e.Fatalf("SettleAll %v %v: %v", d.ID, r, err)
	}
}

// release releases a delivery and waits until its recipients are back.
func (e *env) release(d *mailq.Delivery) {
	e.Helper()
	e.within("Release", d.Release)
	e.eventually(func() error {
		for _, s := range d.Recipients {
			if x, ok := e.find(d.ID, s.Index); ok && x.State == mailq.Claimed {
				return fmt.Errorf("recipient %d of %v is still claimed after Release", s.Index, d.ID)
			}
		}
		return nil
	})
}

// ended fails unless the delivery's context ends.
func (e *env) ended(d *mailq.Delivery) {
	e.Helper()
	select {
	case <-d.Context().Done():
	case <-e.ctx.Done():
		e.Fatalf("the context of the delivery of %v has not ended with its claim", d.ID)
	}
}

func (e *env) alive(d *mailq.Delivery) {
	e.Helper()
	if err := d.Context().Err(); err != nil {
		e.Fatalf("the context of the delivery of %v has ended with its claim open: %v", d.ID, err)
	}
}

// deliverAll claims and delivers until nothing is left, and returns the IDs in
// the order in which they came.
func (e *env) deliverAll(c mailq.Consumer) []mailq.ID {
	e.Helper()
	var ids []mailq.ID
	for e.store.Stats().WorkQueueLength > 0 {
		d := e.next(c)
		ids = append(ids, d.ID)
		e.settleAll(d, mailq.Delivered)
	}
	return ids
}

// outcome is one for a recipient. One that is deferred is due again at once.
func outcome(recipient int, r mailq.Result) mailq.Outcome {
	o := mailq.Outcome{Recipient: recipient, Result: r}
	if r == mailq.Deferred {
		o.Until = time.Now()
	}
	return o
}

func settlement(d *mailq.Delivery, o ...mailq.Outcome) []mailq.Settlement {
	return []mailq.Settlement{{Delivery: d, Outcomes: o}}
}

func later(d time.Duration) mailq.Outcome {
	return mailq.Outcome{Recipient: mailq.All, Result: mailq.Deferred, Until: time.Now().Add(d)}
}
