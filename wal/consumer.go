package wal

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/mtawal/mtawal/internal/shrink"
	"github.com/mtawal/mtawal/mailq"
	"github.com/mtawal/mtawal/state"
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
	exact  map[string]struct{} // queues that it names
	groups shrink.Map[string, *site]
	names  map[string]string // of groups, by queue, where SetGroup gave one
	turns  ring[site]        // those that have something and are not blocked
	pauses pauseHeap
	lapsed site // what has expired, of all queues
	looks  int  // at a group whose turn it was

	inFlight int
	closed   bool
	wake     chan struct{}

	single string // the queue, of one that stands behind Store.Claim
	users  int    // of Store.Claim that wait in it
}

// Consumer implements mailq.Store.
func (s *Store) Consumer(o ConsumerOptions) (Consumer, error) {
	c, err := s.newConsumer(o)
	if err != nil {
		return nil, err
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if err := s.register(c); err != nil {
		return nil, err
	}
	return c, nil
}

func (s *Store) newConsumer(o ConsumerOptions) (*consumer, error) {
	if err := s.opt.owned(); err != nil {
		return nil, err
	}
	for i, name := range o.Queues {
		if err := checkQueue(name); err != nil {
			return nil, inField(fmt.Sprintf("ConsumerOptions.Queues[%d]", i), err)
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
	c := &consumer{s: s, opt: o, exact: make(map[string]struct{}), names: make(map[string]string), wake: make(chan struct{}, 1)}
	c.lapsed = site{c: c, pauseAt: -1}
	for _, n := range o.Queues {
		c.exact[n] = struct{}{}
	}
	return c, nil
}

// narrow reports whether a consumer serves queues only that it names.
func (c *consumer) narrow() bool { return len(c.exact) > 0 && c.opt.Prefix == "" }

// register has a consumer served. Store.mu is held; for one that is not narrow it is let
// go now and then, since there may be many queues.
func (s *Store) register(c *consumer) error {
	if err := s.gate(false); err != nil {
		return err
	}
	s.consumers[c] = struct{}{}
	if c.narrow() {
		for name := range c.exact {
			s.narrow[name] = append(s.narrow[name], c)
			if n, ok := s.table.FindQueue(name); ok {
				s.subscribe(s.queue(n), c)
			}
		}
		return nil
	}
	s.wide[c] = struct{}{}
	s.eachQueue(func(q *queue) {
		if c.serves(q.name) {
			s.subscribe(q, c)
		}
	})
	return nil
}

// unregister takes a consumer away, in the same way.
func (s *Store) unregister(c *consumer) {
	c.closed = true
	delete(s.consumers, c)
	delete(s.wide, c)
	c.poke()
	if !c.narrow() {
		s.eachQueue(func(q *queue) { s.unsubscribe(q, c) })
		return
	}
	for name := range c.exact {
		if n, ok := s.table.FindQueue(name); ok {
			s.unsubscribe(s.queue(n), c)
		}
		rest := slices.DeleteFunc(s.narrow[name], func(x *consumer) bool { return x == c })
		if s.narrow[name] = rest; len(rest) == 0 {
			delete(s.narrow, name)
		}
	}
}

// eachQueue calls fn with each queue, and lets others in between. A queue that comes or
// goes meanwhile may be missed.
func (s *Store) eachQueue(fn func(q *queue)) {
	const step = 1024
	for n := 0; n < s.table.Queues(); n++ {
		if q := s.known(n); q != nil {
			fn(q)
		}
		if n%step == step-1 {
			s.mu.Unlock()
			s.mu.Lock()
		}
	}
}

func (c *consumer) serves(name string) bool {
	if len(c.exact) == 0 && c.opt.Prefix == "" {
		return true
	}
	if _, ok := c.exact[name]; ok {
		return true
	}
	return c.opt.Prefix != "" && strings.HasPrefix(name, c.opt.Prefix)
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
			c.poke() // a call that was meant for whoever waits may have come here
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
		t := time.NewTimer(min(wait, clockMax)) // the clock may be set
		defer t.Stop()
		alarm = t.C
	}
	select {
	case <-ctx.Done():
		return ctx.Err()
	case <-c.s.open.Done():
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
	for {
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
		if err := s.claimsFailed(); err != nil {
			return nil, 0, err
		}
		now := s.opt.now().UnixNano()
		more := s.promote(now, promoteFew)
		pause := c.endPauses(now)
		var cl *claim
		if only != nil {
			cl = c.takeOf(*only, now)
		} else {
			cl = c.takeTurn(now)
		}
		if cl != nil || !more {
			return cl, time.Duration(pause), nil
		}
		s.mu.Unlock() // much has become due at once: others shall not wait for all of it
		s.mu.Lock()
	}
}

// takeOf claims from one queue, out of turn.
func (c *consumer) takeOf(name string, now int64) *claim {
	n, ok := c.s.table.FindQueue(name)
	if !ok {
		return nil
	}
	q := c.s.queue(n)
	if q.sub(c) == nil || !q.active {
		return nil
	}
	g := c.groupFor(name)
	defer g.update()
	if g.until == 0 && !g.full() {
		if cl := c.claim(q, g, now); cl != nil {
			return cl
		}
	}
	return c.claim(q, &c.lapsed, now)
}

// takeTurn claims from the queue whose turn it is in the group whose turn it is. Each look
// at a group ends in a claim, or finds that all that waited in a queue has moved on.
func (c *consumer) takeTurn(now int64) *claim {
	for g := c.turns.first(); g != nil; g = c.turns.first() {
		c.looks++
		sub := g.subs.first()
		cl := c.claim(sub.q, g, now)
		if cl == nil {
			continue
		}
		if n := sub.turnIn(g); n.of != nil {
			g.subs.rotate(n)
		}
		if g.turn.of != nil {
			c.turns.rotate(&g.turn)
		}
		if c.turns.n > 0 {
			c.poke() // for the next who waits
		}
		return cl
	}
	return nil
}

// turnIn is the place of the queue in the ring of its group, or among what has expired.
func (sub *subscription) turnIn(g *site) *node[subscription] {
	if g == &sub.c.lapsed {
		return &sub.late
	}
	return &sub.turn
}

// claim claims the message that is first in a queue, with as many of its recipients there
// as one delivery takes; for the group of what has expired, one of those. nil: nothing is
// ready.
func (c *consumer) claim(q *queue, g *site, now int64) *claim {
	s := c.s
	g.out++
	cl := &claim{s: s, c: c, q: q, group: g, since: s.table.Applied, durable: true}
	cl.rcpts = cl.rcptMemory[:0]
	if g == &c.lapsed {
		if q.lapsed != nil {
			cl.fill(q.lapsed)
			if q.lapsed.len() == 0 {
				q.lapsed = nil
			}
		}
	} else if i := s.pick(q); i >= 0 {
		l := &q.lanes[i]
		n := l.len()
		cl.fill(l)
		q.entries -= n - l.len()
		q.emptied(i)
	}
	if len(cl.rcpts) > 0 {
		m := s.table.Msg(cl.slot)
		// A move changes them in place, and this claim goes by the segments that it holds.
		cl.id, cl.loc, cl.extents = m.ID, m.Loc, slices.Clone(s.table.Extents(m))
		if cl.expired = s.expired(cl.slot, now); cl.expired {
			cl.gather()
		}
	}
	s.offer(q)
	if len(cl.rcpts) == 0 {
		g.out--
		g.update()
		return nil
	}
	cl.open = len(cl.rcpts)
	c.inFlight++
	s.out++
	g.update()
	if !c.opt.ManualStart {
		cl.start(func(*claimRcpt) bool { return true })
	}
	cl.pin()
	return cl
}

// fill claims the recipients of the first message in a lane.
func (c *claim) fill(l *lane) {
	e, ok := c.s.takeReady(l, nil)
	for c.slot = e.ref.Slot; ok; e, ok = c.s.takeReady(l, c) {
		c.add(e.ref)
		if len(c.rcpts) == c.c.opt.MaxRecipients {
			return
		}
	}
}

// add claims a recipient that is ready; its Ref is the claim's.
func (c *claim) add(ref state.Ref) {
	r := c.s.table.Rcpt(ref)
	was := classOf(r)
	r.Mem |= memClaimed
	c.s.count(c.q, was, classOf(r))
	c.s.claimed[ref] = c
	c.rcpts = append(c.rcpts, claimRcpt{index: ref.Index})
}

// gather adds the other recipients of an expired message that are ready in the queue: some
// stand among what has expired, some at their priority, and one bounce names them all.
func (c *claim) gather() {
	const most = 1024 // of which a message is looked through
	list := c.s.table.Recipients(c.slot)
	if len(list) == 1 || len(list) > most {
		return
	}
	for i := range list {
		if len(c.rcpts) == c.c.opt.MaxRecipients {
			break
		}
		if r := &list[i]; r.Queue == c.q.number && isReady(r) {
			c.s.table.Ref(c.slot) // the entry keeps its own
			c.add(state.Ref{Slot: c.slot, Index: uint32(i)})
		}
	}
	slices.SortFunc(c.rcpts, func(a, b claimRcpt) int { return cmp.Compare(a.index, b.index) })
}

// deliver reads what was claimed. A message that can't be read is set aside, and nothing
// is returned.
func (c *consumer) deliver(ctx context.Context, cl *claim) (*Delivery, error) {
	if err := c.s.claimsFailed(); err != nil {
		c.s.takeBack(cl) // a kill would forget it
		return nil, err
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
	s := c.s
	s.mu.Lock()
	defer s.mu.Unlock()
	if group == "" || group == queue {
		delete(c.names, queue)
	} else {
		c.names[queue] = group
	}
	if n, ok := s.table.FindQueue(queue); ok {
		if sub := s.queue(n).sub(c); sub != nil && sub.g != nil && sub.g.name != c.groupName(queue) {
			lapsed := sub.late.of != nil
			sub.update(false, lapsed)
			sub.update(true, lapsed)
		}
	}
}

// Limit implements mailq.Consumer.
func (c *consumer) Limit(group string, inFlight int) {
	c.s.mu.Lock()
	defer c.s.mu.Unlock()
	g := c.group(group)
	g.limit = max(inFlight, 0)
	g.update()
}

// Pause implements mailq.Consumer.
func (c *consumer) Pause(group string, until time.Time) {
	c.s.mu.Lock()
	defer c.s.mu.Unlock()
	at := until.UnixNano()
	if until.IsZero() || at <= c.s.opt.now().UnixNano() {
		at = 0
	}
	c.pause(c.group(group), at)
	c.poke() // whoever sleeps until an earlier end
}

// Close implements mailq.Consumer.
func (c *consumer) Close() error {
	c.s.mu.Lock()
	defer c.s.mu.Unlock()
	if !c.closed {
		c.s.unregister(c)
	}
	return nil
}

// Claim waits for a delivery of one queue: sugar for a consumer of that queue alone.
func (s *Store) Claim(ctx context.Context, queue string) (*Delivery, error) {
	if err := checkQueue(queue); err != nil {
		return nil, err
	}
	fresh, err := s.newConsumer(ConsumerOptions{Queues: []string{queue}})
	if err != nil {
		return nil, err
	}
	s.mu.Lock()
	c := s.single[queue]
	if c == nil {
		c = fresh
		if err := s.register(c); err != nil {
			s.mu.Unlock()
			return nil, err
		}
		c.single = queue
		s.single[queue] = c
	}
	c.users++
	s.mu.Unlock()
	d, err := c.Next(ctx)
	s.mu.Lock()
	c.users--
	s.endSingle(c)
	s.mu.Unlock()
	return d, err
}

// endSingle ends the consumer behind Claim when nobody needs it any more.
func (s *Store) endSingle(c *consumer) {
	if c.single != "" && c.users == 0 && c.inFlight == 0 && !c.closed {
		delete(s.single, c.single)
		s.unregister(c)
	}
}

var _ mailq.Consumer = (*consumer)(nil)
