package wal

import "slices"

// site is a group of queues as one consumer serves them. It is there while one of
// them has something, a delivery is out, or a bound or a pause was set for it. It has a
// turn when it has something and nothing blocks it, so that a claim never looks at one
// that is blocked.
type site struct {
	c       *consumer
	name    string
	subs    ring[subscription] // queues that have something, in turn
	turn    node[site]         // in consumer.turns
	out     int                // deliveries
	limit   int                // 0: none of its own
	until   int64              // paused until, Unix ns; 0: not paused
	pauseAt int                // place in consumer.pauses, -1 if none
}

// subscription is a queue as one consumer serves it.
type subscription struct {
	c    *consumer
	q    *queue
	g    *site              // in whose ring it is, nil if in none
	turn node[subscription] // there
	late node[subscription] // in the ring of consumer.lapsed
}

// offer brings the turns of a queue up to date with what it has.
func (s *Store) offer(q *queue) {
	for _, sub := range q.subs {
		sub.update(q.active && q.entries > 0, q.active && q.lapsed != nil)
	}
}

func (sub *subscription) update(ready, lapsed bool) {
	c := sub.c
	switch {
	case ready && sub.g == nil:
		sub.g = c.groupFor(sub.q.name)
		sub.g.subs.push(&sub.turn, sub)
		sub.g.update()
	case !ready && sub.g != nil:
		g := sub.g
		sub.g = nil
		g.subs.remove(&sub.turn)
		g.update()
	}
	if in := sub.late.of != nil; in != lapsed {
		if lapsed {
			c.lapsed.subs.push(&sub.late, sub)
		} else {
			c.lapsed.subs.remove(&sub.late)
		}
		c.lapsed.update()
	}
}

// update gives the group a turn or takes it, as it has come to be; one of which nothing
// is left goes.
func (g *site) update() {
	c := g.c
	runs := g.subs.n > 0 && g.until == 0 && !g.full()
	if in := g.turn.of != nil; runs && !in {
		c.turns.push(&g.turn, g)
		c.poke()
	} else if !runs && in {
		c.turns.remove(&g.turn)
	}
	if g.subs.n == 0 && g.out == 0 && g.limit == 0 && g.until == 0 && g != &c.lapsed {
		c.groups.Delete(g.name)
	}
}

// full reports whether as many deliveries are out as may be.
func (g *site) full() bool {
	if g == &g.c.lapsed {
		return false
	}
	most := g.c.opt.PerGroup
	if g.limit > 0 && (most == 0 || g.limit < most) {
		most = g.limit
	}
	return most > 0 && g.out >= most
}

// groupName is the group that a queue is in.
func (c *consumer) groupName(queue string) string {
	if g, ok := c.names[queue]; ok {
		return g
	}
	return queue
}

// groupFor returns the group of a queue, making it where it is new.
func (c *consumer) groupFor(queue string) *site { return c.group(c.groupName(queue)) }

func (c *consumer) group(name string) *site {
	g, ok := c.groups.Get(name)
	if !ok {
		g = &site{c: c, name: name, pauseAt: -1}
		c.groups.Put(name, g)
	}
	return g
}

// pause makes a group wait until a time, 0: not any more.
func (c *consumer) pause(g *site, until int64) {
	if g.pauseAt >= 0 {
		c.pauses.remove(g)
	}
	if g.until = until; until != 0 {
		c.pauses.push(g)
	}
	g.update()
}

// endPauses ends the pauses that are over, and says how long the next one lasts, in ns; 0:
// there is none.
func (c *consumer) endPauses(now int64) int64 {
	for len(c.pauses) > 0 {
		g := c.pauses[0]
		if g.until > now {
			return g.until - now
		}
		c.pause(g, 0)
	}
	return 0
}

// pauseHeap is the groups that are paused, the first to go on first.
type pauseHeap []*site

func (h *pauseHeap) push(g *site) {
	*h = append(*h, g)
	h.sift(len(*h)-1, g)
}

func (h *pauseHeap) remove(g *site) {
	i, n := g.pauseAt, len(*h)-1
	last := (*h)[n]
	(*h)[n] = nil
	*h = shrunk((*h)[:n])
	if g.pauseAt = -1; i < n {
		h.sift(i, last)
	}
}

func (h *pauseHeap) sift(i int, g *site) {
	a := *h
	for i > 0 && a[(i-1)/2].until > g.until {
		a[i] = a[(i-1)/2]
		a[i].pauseAt = i
		i = (i - 1) / 2
	}
	for c := 2*i + 1; c < len(a); c = 2*i + 1 {
		if c+1 < len(a) && a[c+1].until < a[c].until {
			c++
		}
		if a[c].until >= g.until {
			break
		}
		a[i] = a[c]
		a[i].pauseAt = i
		i = c
	}
	a[i] = g
	g.pauseAt = i
}

// sub is the subscription of a consumer, nil if it does not serve the queue.
func (q *queue) sub(c *consumer) *subscription {
	for _, sub := range q.subs {
		if sub.c == c {
			return sub
		}
	}
	return nil
}

func (s *Store) subscribe(q *queue, c *consumer) {
	if c.closed || q.sub(c) != nil {
		return
	}
	sub := &subscription{c: c, q: q}
	q.subs = append(q.subs, sub)
	sub.update(q.active && q.entries > 0, q.active && q.lapsed != nil)
}

func (s *Store) unsubscribe(q *queue, c *consumer) {
	if sub := q.sub(c); sub != nil {
		sub.update(false, false)
		q.subs = slices.DeleteFunc(q.subs, func(x *subscription) bool { return x == sub })
	}
}

// subscribeAll tells the consumers that serve it of a new queue.
func (s *Store) subscribeAll(q *queue) {
	for c := range s.wide {
		if c.serves(q.name) {
			s.subscribe(q, c)
		}
	}
	for _, c := range s.narrow[q.name] {
		s.subscribe(q, c)
	}
}
