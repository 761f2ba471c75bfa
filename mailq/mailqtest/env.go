package mailqtest

import (
	"bytes"
	"cmp"
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/mtawal/mtawal/mailq"
	"go.uber.org/goleak"
)

// env is what a subtest works with: a store on a directory of its own.
type env struct {
	*testing.T
	caps  Caps
	open  OpenFunc
	dir   string
	store mailq.Store     // nil once the subtest has closed it for good
	ctx   context.Context // ends when patience does
}

func newEnv(t *testing.T, open OpenFunc, caps Caps) *env {
	t.Helper()
	running := goleak.IgnoreCurrent()
	ctx, cancel := context.WithTimeout(context.Background(), caps.Patience)
	e := &env{T: t, caps: caps, open: open, dir: t.TempDir(), ctx: ctx}
	t.Cleanup(func() {
		defer cancel()
		if s := e.store; s != nil {
			if !t.Failed() {
				e.check()
			}
			e.close()
		}
		if !t.Failed() {
			goleak.VerifyNone(t, running)
		}
	})
	e.openStore()
	return e
}

// second is another store, on a directory of its own, for this subtest.
func (e *env) second() *env {
	e.Helper()
	o := &env{T: e.T, caps: e.caps, open: e.open, dir: e.TempDir(), ctx: e.ctx}
	e.Cleanup(func() {
		if o.store != nil {
			o.close()
		}
	})
	o.openStore()
	return o
}

func (e *env) openStore() {
	e.Helper()
	s, err := e.open(e.dir)
	if err != nil {
		e.Fatalf("open: %v", err)
	}
	e.store = s
}

// within fails the test if f, which no context bounds, does not return.
func (e *env) within(what string, f func()) {
	e.Helper()
	done := make(chan struct{})
	go func() { defer close(done); f() }()
	select {
	case <-done:
	case <-e.ctx.Done():
		e.Fatalf("%s did not return", what)
	}
}

// close closes the store, which must work, and forgets it.
func (e *env) close() {
	e.Helper()
	s := e.store
	e.store = nil
	e.within("Close", func() {
		if err := s.Close(); err != nil {
			e.Errorf("Close: %v", err)
		}
	})
}

// reopen closes and opens the store, over which no total may change.
func (e *env) reopen() {
	e.Helper()
	e.again(e.close)
}

// crash ends the store as a kill of its process would, and opens it.
func (e *env) crash() {
	e.Helper()
	e.again(func() {
		s := e.store
		e.store = nil
		e.dir = e.caps.Crash(e.T, e.dir, s)
	})
}

func (e *env) again(end func()) {
	e.Helper()
	was := e.store.Stats()
	end()
	e.openStore()
	is := e.store.Stats()
	if is.Enqueued != was.Enqueued || is.Used != was.Used {
		e.Fatalf("reopening changed the totals: enqueued %d, used %+v; they were %d, %+v", is.Enqueued, is.Used, was.Enqueued, was.Used)
	}
	if is.Claimed != 0 {
		e.Fatalf("%d recipients are claimed in a store just opened", is.Claimed)
	}
	e.check()
}

func (e *env) must(err error) {
	e.Helper()
	if err != nil {
		e.Fatal(err)
	}
}

// wants fails unless err is one of the targets.
func (e *env) wants(what string, err error, targets ...error) {
	e.Helper()
	for _, t := range targets {
		if errors.Is(err, t) {
			return
		}
	}
	e.Errorf("%s: error is %v, want one of %q", what, err, targets)
}

// refused fails unless err says, in its type too, that a field is not
// acceptable. Fields are named by suffix: in a batch the name has a prefix.
// Alternatives are parted by "|".
func (e *env) refused(what string, err error, field string) {
	e.Helper()
	var f *mailq.FieldError
	var l *mailq.LimitError
	var named string
	switch {
	case errors.As(err, &f):
		named = f.Field
		e.wants(what, err, mailq.ErrInvalid)
		if f.Reason == "" {
			e.Errorf("%s: the error gives no reason: %v", what, err)
		}
	case errors.As(err, &l):
		named = l.Field
		e.wants(what, err, mailq.ErrTooLarge)
		if l.Size <= l.Max {
			e.Errorf("%s: the error says that %d is over %d", what, l.Size, l.Max)
		}
	default:
		e.Errorf("%s: error is %v, want a *FieldError or *LimitError", what, err)
		return
	}
	for f := range strings.SplitSeq(field, "|") {
		if strings.HasSuffix(named, f) {
			return
		}
	}
	e.Errorf("%s: the error names field %q, want %q", what, named, field)
}

// eventually polls for what need not be true at once.
func (e *env) eventually(f func() error) {
	e.Helper()
	for {
		err := f()
		if err == nil {
			return
		}
		select {
		case <-e.ctx.Done():
			e.Fatal(err)
		case <-time.After(time.Millisecond):
		}
	}
}

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

func outcome(recipient int, r mailq.Result) mailq.Outcome {
	return mailq.Outcome{Recipient: recipient, Result: r}
}

func settlement(d *mailq.Delivery, o ...mailq.Outcome) []mailq.Settlement {
	return []mailq.Settlement{{Delivery: d, Outcomes: o}}
}

func later(d time.Duration) mailq.Outcome {
	return mailq.Outcome{Recipient: mailq.All, Result: mailq.Deferred, Until: time.Now().Add(d)}
}

// Looking.

// body reads a delivery's whole body.
func (e *env) body(d *mailq.Delivery) string {
	e.Helper()
	var b bytes.Buffer
	n, err := d.Body.WriteTo(&b)
	if err != nil || n != int64(b.Len()) || n != d.Body.Size() {
		e.Fatalf("WriteTo: %d, %v; %d bytes came, Size says %d", n, err, b.Len(), d.Body.Size())
	}
	return b.String()
}

// entries lists what the filter selects, by ID and recipient.
func (e *env) entries(f mailq.Filter) []mailq.Entry {
	e.Helper()
	var list []mailq.Entry
	for x, err := range e.store.Entries(e.ctx, f) {
		if err != nil {
			e.Fatalf("Entries: %v", err)
		}
		list = append(list, x)
	}
	slices.SortFunc(list, func(a, b mailq.Entry) int {
		return cmp.Or(cmp.Compare(a.ID, b.ID), cmp.Compare(a.Recipient, b.Recipient))
	})
	return list
}

// find returns one recipient as Entries lists it.
func (e *env) find(id mailq.ID, recipient int) (mailq.Entry, bool) {
	e.Helper()
	for _, x := range e.entries(mailq.Filter{ID: id}) {
		if x.Recipient == recipient {
			return x, true
		}
	}
	return mailq.Entry{}, false
}

// state fails unless the recipient stands there; Used stands for not listed.
func (e *env) state(id mailq.ID, recipient int, want mailq.State) {
	e.Helper()
	got := mailq.Used
	if x, ok := e.find(id, recipient); ok {
		got = x.State
	}
	if got != want {
		e.Errorf("recipient %d of %v is %v, want %v", recipient, id, got, want)
	}
}

func (e *env) queues() []mailq.QueueInfo {
	e.Helper()
	var list []mailq.QueueInfo
	for q, err := range e.store.Queues(e.ctx) {
		if err != nil {
			e.Fatalf("Queues: %v", err)
		}
		list = append(list, q)
	}
	return list
}

// used fails unless so many are used, in all.
func (e *env) used(want mailq.UsedCounts) {
	e.Helper()
	if got := e.store.Stats().Used; got != want {
		e.Errorf("used-marks are %+v, want %+v", got, want)
	}
}

// same fails if the call f changed anything that can be seen.
func (e *env) same(what string, f func()) {
	e.Helper()
	look := func() string {
		s := e.store.Stats()
		return fmt.Sprintf("enqueued %d used %+v\n%+v", s.Enqueued, s.Used, e.entries(mailq.Filter{}))
	}
	was := look()
	f()
	if is := look(); is != was {
		e.Errorf("%s changed something:\n%s\nit was\n%s", what, is, was)
	}
}
