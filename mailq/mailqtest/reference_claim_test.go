package mailqtest

import (
	"cmp"
	"context"
	"io"
	"slices"
	"strings"
	"time"

	"github.com/mtawal/mtawal/mailq"
)

// refClaim is the engine's side of a delivery.
type refClaim struct {
	s       *refStore
	c       *refConsumer
	group   string
	rcpts   []*refRcpt
	settled map[*refRcpt]bool // or given back, by this claim
	ctx     context.Context
	cancel  context.CancelFunc
	body    []byte
	err     error // why it has ended
}

func (s *refStore) endClaim(c *refClaim, err error) {
	delete(s.claims, c)
	if c.err == nil {
		c.err = err
	}
	if s.bug != "leaves the context of a claim open" {
		c.cancel()
	}
	s.changed()
}

// giveBack ends a claim on what is not settled, without an outcome.
func (s *refStore) giveBack(c *refClaim, err error) {
	for _, r := range c.rcpts {
		if r.claim != c {
			continue
		}
		c.settled[r] = true
		if r.started {
			r.attempts++
			if s.bug != "loses the in-doubt mark" {
				s.doubt(r, time.Time{})
			}
		}
		if s.bug == "goes to the back after Release" {
			s.d.messages = append(slices.DeleteFunc(s.d.messages, func(m *refMessage) bool { return m == r.m }), r.m)
		}
		s.free(r)
	}
	s.endClaim(c, err)
}

func (c *refClaim) Settle(ctx context.Context, outcomes []mailq.Outcome) error {
	d := mailq.NewDelivery(mailq.Delivery{}, c)
	_, err := c.s.Commit(ctx, mailq.Batch{Settle: settlement(d, outcomes...)})
	return err
}

func (c *refClaim) Release() {
	c.s.mu.Lock()
	defer c.s.mu.Unlock()
	if c.err == nil {
		c.s.giveBack(c, mailq.ErrSettled)
	}
}

func (c *refClaim) Start(_ context.Context, recipients []int) error {
	c.s.mu.Lock()
	defer c.s.mu.Unlock()
	if c.s.closed {
		return mailq.ErrClosed
	}
	var list []*refRcpt
	for _, r := range c.rcpts {
		if len(recipients) == 0 && r.claim == c || slices.Contains(recipients, r.index) {
			list = append(list, r)
		}
	}
	for _, i := range recipients {
		if !slices.ContainsFunc(list, func(r *refRcpt) bool { return r.index == i }) {
			return mailq.ErrNotFound
		}
	}
	for _, r := range list {
		if r.claim != c {
			return mailq.ErrSettled
		}
	}
	for _, r := range list {
		r.started = true
	}
	if c.s.bug == "serves Start twice as two attempts" {
		for _, r := range list {
			r.attempts++
		}
	}
	return c.err
}

func (c *refClaim) Context() context.Context { return c.ctx }

// refBody is the body of a delivery.
type refBody struct{ c *refClaim }

func (b refBody) open() ([]byte, error) {
	b.c.s.mu.Lock()
	defer b.c.s.mu.Unlock()
	if b.c.s.bug == "shows another's body" {
		return b.c.s.d.messages[0].Body, nil
	}
	if b.c.s.closed {
		return nil, mailq.ErrClosed
	}
	if b.c.s.bug == "shows a settled body" {
		return b.c.body, nil
	}
	return b.c.body, b.c.err
}

func (b refBody) Size() int64 { return int64(len(b.c.body)) }

func (b refBody) ReadAt(p []byte, off int64) (int, error) {
	body, err := b.open()
	if err != nil {
		return 0, err
	}
	return readAt(body, p, off)
}

func (b refBody) WriteTo(w io.Writer) (int64, error) {
	body, err := b.open()
	if err != nil {
		return 0, err
	}
	n, err := w.Write(body)
	return int64(n), err
}

func (b refBody) View(off, n int64, f func([]byte) error) error {
	body, err := b.open()
	if err != nil {
		return err
	}
	if off < 0 || n < 0 || off > int64(len(body)) || n > int64(len(body))-off {
		return &mailq.FieldError{Field: "off", Reason: "out of range"}
	}
	return f(body[off:][:n:n])
}

type refConsumer struct {
	s      *refStore
	o      mailq.ConsumerOptions
	closed bool
	groups map[string]string
	limit  map[string]int
	pause  map[string]time.Time
	last   map[[2]string]int64 // turn of the last claim of a group, and of a queue in it
}

func (s *refStore) Consumer(o mailq.ConsumerOptions) (mailq.Consumer, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.closed || s.draining {
		return nil, mailq.ErrClosed
	}
	o.InFlight = cmp.Or(o.InFlight, 1000)
	o.MaxRecipients = cmp.Or(o.MaxRecipients, 100)
	o.Queues = slices.Clone(o.Queues)
	c := &refConsumer{s: s, o: o, groups: map[string]string{}, limit: map[string]int{}, pause: map[string]time.Time{}, last: map[[2]string]int64{}}
	s.consumers = append(s.consumers, c)
	return c, nil
}

func (c *refConsumer) serves(queue string) bool {
	return slices.Contains(c.o.Queues, queue) || c.o.Prefix != "" && strings.HasPrefix(queue, c.o.Prefix) ||
		len(c.o.Queues) == 0 && c.o.Prefix == ""
}

func (c *refConsumer) group(queue string) string { return cmp.Or(c.groups[queue], queue) }

// out counts the deliveries of this consumer that are out, in a group or in all.
func (c *refConsumer) out(group string) (n int) {
	for x := range c.s.claims {
		if x.c == c && (group == "" || x.group == group) {
			n++
		}
	}
	return n
}

// claim claims the best delivery, of one queue or of any.
func (c *refConsumer) claim(queue string, now time.Time) *mailq.Delivery {
	s := c.s
	if c.closed || s.closed || s.draining || c.out("") >= c.o.InFlight && s.bug != "ignores InFlight" {
		return nil
	}
	open := map[string]bool{} // queues that may be served, as far as asked
	var best *refRcpt
	rank := func(r *refRcpt) []int64 { // less is better; age is the order of the loop
		g := c.group(r.Queue)
		p := -int64(r.m.Priority)
		if s.bug == "ignores priority" {
			p = 0
		}
		return []int64{c.last[[2]string{g, ""}], c.last[[2]string{g, r.Queue}], p}
	}
	s.each(func(r *refRcpt) {
		may, asked := open[r.Queue]
		if !asked {
			g := c.group(r.Queue)
			n := c.out(g)
			may = (queue == "" || queue == r.Queue) && c.serves(r.Queue) && s.d.queues[r.Queue].Mode == mailq.Active &&
				(c.o.PerGroup == 0 || n < c.o.PerGroup) && (c.limit[g] == 0 || n < c.limit[g] || s.bug == "ignores Limit") && !c.pause[g].After(now)
			open[r.Queue] = may
		}
		if may && r.state(now) == mailq.Pending && (best == nil || slices.Compare(rank(r), rank(best)) < 0) {
			best = r
		}
	})
	if best == nil {
		return nil
	}
	var oldest *refRcpt
	s.each(func(r *refRcpt) {
		if oldest == nil && r.Queue == best.Queue && r.state(now) == mailq.Pending {
			oldest = r
		}
	})
	if s.skipped[best.Queue]++; s.skipped[best.Queue] == 16 && s.bug != "starves a low priority" {
		best = oldest
	}
	if best.m == oldest.m {
		s.skipped[best.Queue] = 0
	}
	s.turn++
	g := c.group(best.Queue)
	if s.bug != "is not fair" {
		c.last[[2]string{g, ""}], c.last[[2]string{g, best.Queue}] = s.turn, s.turn
	}
	return c.deliver(best.m, best.Queue, g, now)
}

// deliver claims what is due of a message in a queue.
func (c *refConsumer) deliver(m *refMessage, queue, group string, now time.Time) *mailq.Delivery {
	s := c.s
	x := &refClaim{s: s, c: c, group: group, settled: map[*refRcpt]bool{}, body: m.Body}
	x.ctx, x.cancel = context.WithCancel(context.Background())
	d := mailq.Delivery{
		ID: m.ID, Queue: queue, Envelope: m.Envelope, Body: refBody{x}, EnqueuedAt: m.at, ExpiresAt: m.ExpiresAt, Token: s.d.uuid + "-" + m.ID.String(),
	}
	if s.bug == "gives a token per claim" {
		d.Token = s.d.uuid + time.Now().String()
	}
	for _, r := range m.rcpts {
		if r.Queue != queue || r.state(now) != mailq.Pending || len(x.rcpts) == c.o.MaxRecipients {
			continue
		}
		d.Expired = r.expired(now) && s.bug != "does not say that it is expired"
		d.Recipients = append(d.Recipients, mailq.Slot{Index: r.index, Address: r.Address, Note: r.Note, Attempts: r.attempts, InDoubt: r.inDoubt})
		x.rcpts = append(x.rcpts, r)
		if s.bug != "hands out a claimed recipient" {
			r.claim, r.started = x, !c.o.ManualStart || s.bug == "starts what nobody started"
		}
	}
	s.claims[x] = true
	return mailq.NewDelivery(d, x)
}

// soon is when something may become due that is not, by the clock alone.
func (c *refConsumer) soon(now time.Time) time.Time {
	at := now.Add(time.Hour)
	s := c.s
	earlier := func(t time.Time) {
		if t.After(now) && t.Before(at) {
			at = t
		}
	}
	s.each(func(r *refRcpt) { earlier(r.NotBefore); earlier(r.m.ExpiresAt) })
	for _, t := range c.pause {
		earlier(t)
	}
	return at
}

func (c *refConsumer) Next(ctx context.Context) (*mailq.Delivery, error) {
	s := c.s
	s.mu.Lock()
	defer s.mu.Unlock()
	for {
		if err := ctx.Err(); err != nil {
			if s.bug == "loses a claim whose wait has ended" {
				c.claim("", time.Now())
			}
			return nil, err
		}
		if c.closed || s.closed || s.draining {
			return nil, mailq.ErrClosed
		}
		now := time.Now().Round(0)
		if d := c.claim("", now); d != nil {
			return d, nil
		}
		wake := s.wake
		timer := time.NewTimer(c.soon(now).Sub(now))
		s.mu.Unlock()
		select {
		case <-wake:
		case <-timer.C:
		case <-ctx.Done():
		}
		timer.Stop()
		s.mu.Lock()
	}
}

func (c *refConsumer) TryNext(queue string) (*mailq.Delivery, bool) {
	c.s.mu.Lock()
	defer c.s.mu.Unlock()
	if queue == "" {
		return nil, false
	}
	d := c.claim(queue, time.Now().Round(0))
	return d, d != nil
}

// set changes something of the consumer.
func (c *refConsumer) set(f func()) {
	c.s.mu.Lock()
	defer c.s.mu.Unlock()
	f()
	c.s.changed()
}

func (c *refConsumer) SetGroup(queue, group string) { c.set(func() { c.groups[queue] = group }) }
func (c *refConsumer) Limit(group string, n int)    { c.set(func() { c.limit[group] = n }) }
func (c *refConsumer) Pause(group string, until time.Time) {
	c.set(func() { c.pause[group] = until.Round(0) })
}
func (c *refConsumer) Close() error { c.set(func() { c.closed = true }); return nil }
