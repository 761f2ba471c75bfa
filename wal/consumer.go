package wal

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"time"

	"github.com/mtawal/mtawal/mailq"
)

// Limits and defaults of ConsumerOptions.
const (
	InFlightDefault      = 1000
	InFlightMax          = claimSlots
	MaxRecipientsPerMost = 10_000 // MaxRecipients of one delivery
	maxRecipientsPer     = 100
)

// consumer is a claim loop. Its fields are under Store.mu.
type consumer struct {
	s      *Store
	opt    ConsumerOptions
	names  map[string]struct{}
	ring   []*subscription // queues that may have something, in turn
	groups map[string]int  // deliveries that are out, by group
	group  map[string]string
	limits map[string]int
	pauses map[string]int64

	inFlight int
	closed   bool
	wake     chan struct{}
}

// subscription is a queue as one consumer serves it.
type subscription struct {
	c      *consumer
	q      *queue
	inRing bool
}

// Consumer implements mailq.Store.
func (s *Store) Consumer(o ConsumerOptions) (Consumer, error) {
	c, err := s.consumer(o)
	if err != nil {
		return nil, err
	}
	return c, nil
}

func (s *Store) consumer(o ConsumerOptions) (*consumer, error) {
	for i, name := range o.Queues {
		if err := checkQueue(name); err != nil {
			return nil, at("Queues", i, "Name", err)
		}
	}
	for _, c := range []struct {
		field   string
		v, most int
	}{{"InFlight", o.InFlight, InFlightMax}, {"PerGroup", o.PerGroup, InFlightMax}, {"MaxRecipients", o.MaxRecipients, MaxRecipientsPerMost}} {
		if err := limit("ConsumerOptions."+c.field, int64(c.v), int64(c.most)); err != nil {
			return nil, err
		}
	}
	if o.InFlight == 0 {
		o.InFlight = InFlightDefault
	}
	if o.MaxRecipients == 0 {
		o.MaxRecipients = maxRecipientsPer
	}
	c := &consumer{s: s, opt: o, names: make(map[string]struct{}), groups: make(map[string]int), wake: make(chan struct{}, 1),
		group: make(map[string]string), limits: make(map[string]int), pauses: make(map[string]int64)}
	for _, n := range o.Queues {
		c.names[n] = struct{}{}
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if err := s.gate(false); err != nil {
		return nil, err
	}
	s.consumers[c] = struct{}{}
	for _, q := range s.sched.queues {
		if q != nil && c.serves(s.table.Queue(q.number).Name) {
			q.subscribe(c)
		}
	}
	return c, nil
}

func (c *consumer) serves(name string) bool {
	if len(c.names) == 0 && c.opt.Prefix == "" {
		return true
	}
	if _, ok := c.names[name]; ok {
		return true
	}
	return c.opt.Prefix != "" && strings.HasPrefix(name, c.opt.Prefix)
}

func (q *queue) subscribe(c *consumer) {
	sub := &subscription{c: c, q: q}
	q.subs = append(q.subs, sub)
	if q.hasReady() {
		sub.announce()
	}
}

// announce tells the consumers of a queue that it has something.
func (s *Store) announce(q *queue) {
	for _, sub := range q.subs {
		sub.announce()
	}
}

func (sub *subscription) announce() {
	if !sub.inRing {
		sub.inRing = true
		sub.c.ring = append(sub.c.ring, sub)
	}
	sub.c.poke()
}

func (c *consumer) poke() {
	select {
	case c.wake <- struct{}{}:
	default:
	}
}

func (s *Store) wakeConsumers() {
	for c := range s.consumers {
		c.poke()
	}
}

// Next implements mailq.Consumer.
func (c *consumer) Next(ctx context.Context) (*Delivery, error) {
	for {
		if err := ctx.Err(); err != nil {
			return nil, err
		}
		cl, wait, err := c.take(nil)
		if err != nil {
			c.poke() // whoever else waits wants to know too
			return nil, err
		}
		if cl != nil {
			d, err := c.deliver(ctx, cl)
			if err != nil {
				return nil, err
			}
			if d != nil {
				return d, nil
			}
			continue // set aside
		}
		if err := c.sleep(ctx, wait); err != nil {
			return nil, err
		}
	}
}

// sleep waits until something may have changed.
func (c *consumer) sleep(ctx context.Context, wait time.Duration) error {
	var alarm <-chan time.Time
	if wait > 0 {
		t := time.NewTimer(wait)
		defer t.Stop()
		alarm = t.C
	}
	select {
	case <-ctx.Done():
		return ctx.Err()
	case <-c.s.ended:
	case <-c.wake:
	case <-alarm:
	}
	return nil
}

// TryNext implements mailq.Consumer.
func (c *consumer) TryNext(queue string) (*Delivery, bool) {
	for {
		cl, _, err := c.take(&queue)
		if err != nil || cl == nil {
			return nil, false
		}
		if d, err := c.deliver(context.Background(), cl); d != nil || err != nil {
			return d, d != nil
		}
	}
}

// take claims the next delivery, of one queue if one is named. Without one it says how
// long a pause lasts that may be in the way, 0 if there is none.
func (c *consumer) take(only *string) (*claim, time.Duration, error) {
	s := c.s
	s.mu.Lock()
	defer s.mu.Unlock()
	if err := s.gate(false); err != nil {
		return nil, 0, err
	}
	if c.closed {
		return nil, 0, ErrClosed
	}
	if c.inFlight >= c.opt.InFlight {
		return nil, 0, nil
	}
	if len(s.claims.free) < c.opt.MaxRecipients {
		s.starved = true
		return nil, 0, nil
	}
	if err := s.claims.failed(); err != nil {
		return nil, 0, fmt.Errorf("%w: %w", ErrFailed, err)
	}
	now := s.opt.now().UnixNano()
	s.promote(now)
	if only != nil {
		n, ok := s.table.FindQueue(*only)
		if !ok || !c.serves(*only) {
			return nil, 0, nil
		}
		q := s.queue(n)
		if blocked, _ := c.blocked(*only, now); blocked || !s.handsOut(q) {
			return nil, 0, nil
		}
		return c.claim(q, now), 0, nil
	}
	var wait time.Duration
	for range len(c.ring) {
		sub := c.ring[0]
		c.ring[0] = nil
		c.ring = c.ring[1:]
		if !sub.q.hasReady() || !s.handsOut(sub.q) {
			sub.inRing = false
			continue
		}
		if blocked, pause := c.blocked(s.table.Queue(sub.q.number).Name, now); blocked {
			if pause > 0 && (wait == 0 || pause < wait) {
				wait = pause
			}
			c.ring = append(c.ring, sub)
			continue
		}
		cl := c.claim(sub.q, now)
		if sub.q.hasReady() {
			c.ring = append(c.ring, sub)
		} else {
			sub.inRing = false
		}
		if cl != nil {
			if len(c.ring) > 0 {
				c.poke() // for the next who waits
			}
			return cl, 0, nil
		}
	}
	return nil, wait, nil
}

func (c *consumer) groupOf(queue string) string {
	if g, ok := c.group[queue]; ok {
		return g
	}
	return queue
}

// blocked reports whether a queue's group may get no more now; pause is for how long, if
// that is known.
func (c *consumer) blocked(queue string, now int64) (blocked bool, pause time.Duration) {
	g := c.groupOf(queue)
	if until, ok := c.pauses[g]; ok {
		if until > now {
			return true, time.Duration(until - now)
		}
		delete(c.pauses, g)
	}
	most := c.opt.PerGroup
	if l, ok := c.limits[g]; ok && (most == 0 || l < most) {
		most = l
	}
	return most > 0 && c.groups[g] >= most, 0
}

// claim claims the oldest message that is due in a queue, with as many of its recipients
// there as one delivery takes.
func (c *consumer) claim(q *queue, now int64) *claim {
	s := c.s
	e, ok := s.nextReady(q, nil)
	if !ok {
		return nil
	}
	m := s.table.Msg(e.ref.Slot)
	cl := &claim{s: s, c: c, q: q, slot: e.ref.Slot, id: m.ID, loc: m.Loc, durable: true, expired: s.expired(e.ref.Slot, now),
		extents: s.table.Extents(m), group: c.groupOf(s.table.Queue(q.number).Name)}
	for ok {
		r := s.table.Rcpt(e.ref)
		was := classOf(r)
		r.Mem |= memClaimed
		s.count(q, was, classOf(r))
		s.claimed[e.ref] = cl
		cl.rcpts = append(cl.rcpts, claimRcpt{index: e.ref.Index})
		if len(cl.rcpts) == c.opt.MaxRecipients {
			break
		}
		e, ok = s.nextReady(q, cl)
	}
	cl.open = len(cl.rcpts)
	c.inFlight++
	c.groups[cl.group]++
	s.out++
	if !c.opt.ManualStart {
		cl.start(func(*claimRcpt) bool { return true })
	}
	cl.pin()
	return cl
}

// deliver reads what was claimed. A message that can't be read is set aside, and nothing
// is returned.
func (c *consumer) deliver(ctx context.Context, cl *claim) (*Delivery, error) {
	if err := c.s.claims.failed(); err != nil {
		c.s.takeBack(cl) // a kill would forget it
		return nil, fmt.Errorf("%w: %w", ErrFailed, err)
	}
	d, err := cl.read()
	if err != nil {
		c.s.setAside(cl, err)
		return nil, nil
	}
	if c.s.opt.DurableStart && !c.opt.ManualStart {
		c.s.mu.Lock()
		err := c.s.waitStarted(ctx, cl)
		c.s.mu.Unlock()
		if err != nil {
			cl.Release()
			if errors.Is(err, ErrUnknown) {
				err = ctx.Err()
			}
			return nil, err
		}
	}
	return d, nil
}

// SetGroup implements mailq.Consumer.
func (c *consumer) SetGroup(queue, group string) {
	c.s.mu.Lock()
	defer c.s.mu.Unlock()
	if group == "" || group == queue {
		delete(c.group, queue)
	} else {
		c.group[queue] = group
	}
	c.poke()
}

// Limit implements mailq.Consumer.
func (c *consumer) Limit(group string, inFlight int) {
	c.s.mu.Lock()
	defer c.s.mu.Unlock()
	if inFlight <= 0 {
		delete(c.limits, group)
	} else {
		c.limits[group] = inFlight
	}
	c.poke()
}

// Pause implements mailq.Consumer.
func (c *consumer) Pause(group string, until time.Time) {
	c.s.mu.Lock()
	defer c.s.mu.Unlock()
	if at := until.UnixNano(); until.IsZero() || at <= c.s.opt.now().UnixNano() {
		delete(c.pauses, group)
	} else {
		c.pauses[group] = at
	}
	c.poke()
}

// Close implements mailq.Consumer.
func (c *consumer) Close() error {
	s := c.s
	s.mu.Lock()
	defer s.mu.Unlock()
	if c.closed {
		return nil
	}
	c.closed = true
	delete(s.consumers, c)
	for _, q := range s.sched.queues {
		if q == nil {
			continue
		}
		for i, sub := range q.subs {
			if sub.c == c {
				q.subs = append(q.subs[:i:i], q.subs[i+1:]...)
				break
			}
		}
	}
	c.ring = nil
	c.poke()
	return nil
}

// Claim waits for a delivery of one queue: sugar for a consumer of that queue alone.
func (s *Store) Claim(ctx context.Context, queue string) (*Delivery, error) {
	s.mu.Lock()
	c := s.single[queue]
	s.mu.Unlock()
	if c == nil {
		var err error
		if c, err = s.consumer(ConsumerOptions{Queues: []string{queue}}); err != nil {
			return nil, err
		}
		s.mu.Lock()
		if first := s.single[queue]; first != nil {
			s.mu.Unlock()
			_ = c.Close()
			c = first
		} else {
			s.single[queue] = c
			s.mu.Unlock()
		}
	}
	return c.Next(ctx)
}

var _ mailq.Consumer = (*consumer)(nil)
