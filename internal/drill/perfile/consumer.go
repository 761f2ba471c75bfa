package perfile

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/mtawal/mtawal/mailq"
)

type consumer struct {
	store *Store
	opts  mailq.ConsumerOptions
	out   int  // deliveries that are with workers; under the store's mu
	over  bool // closed; under the store's mu
}

// Consumer opens a claim loop. Groups, limits and pauses are not kept.
func (s *Store) Consumer(o mailq.ConsumerOptions) (mailq.Consumer, error) {
	if o.InFlight == 0 {
		o.InFlight = 1000
	}
	if o.MaxRecipients == 0 {
		o.MaxRecipients = 100
	}
	if o.PerGroup != 0 {
		return nil, fmt.Errorf("groups: %w", errors.ErrUnsupported)
	}
	o.Queues = slices.Clone(o.Queues)
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.closing {
		return nil, mailq.ErrClosed
	}
	return &consumer{store: s, opts: o}, nil
}

func (c *consumer) serves(queue string) bool {
	if len(c.opts.Queues) == 0 && c.opts.Prefix == "" {
		return true
	}
	return slices.Contains(c.opts.Queues, queue) || c.opts.Prefix != "" && strings.HasPrefix(queue, c.opts.Prefix)
}

// Next waits for a delivery, from one queue after the other.
func (c *consumer) Next(ctx context.Context) (*mailq.Delivery, error) {
	s := c.store
	s.mu.Lock()
	for {
		switch {
		case s.failed != nil:
			s.mu.Unlock()
			return nil, s.failed
		case s.closing || c.over:
			s.mu.Unlock()
			return nil, mailq.ErrClosed
		}
		for i := range s.order {
			at := (s.turn + i) % len(s.order)
			name := s.order[at]
			if !c.serves(name) {
				continue
			}
			if d := c.claimLocked(name); d != nil {
				s.turn = at + 1
				s.mu.Unlock()
				return d, nil
			}
		}
		changed := s.changed
		s.mu.Unlock()
		select {
		case <-changed:
		case <-ctx.Done():
			return nil, ctx.Err()
		}
		s.mu.Lock()
	}
}

// TryNext claims another delivery of a queue, if one is due now.
func (c *consumer) TryNext(queue string) (*mailq.Delivery, bool) {
	c.store.mu.Lock()
	defer c.store.mu.Unlock()
	if c.store.failed != nil || c.store.closing || c.over || !c.serves(queue) {
		return nil, false
	}
	d := c.claimLocked(queue)
	return d, d != nil
}

// claimLocked takes the first job of a queue.
func (c *consumer) claimLocked(queue string) *mailq.Delivery {
	s := c.store
	q := s.queues[queue]
	if q == nil || len(q.due) == 0 || c.out >= c.opts.InFlight {
		return nil
	}
	j := q.due[0]
	if n := c.opts.MaxRecipients; len(j.recipients) > n {
		rest := *j
		j = &job{msg: j.msg, queue: queue, recipients: slices.Clone(j.recipients[:n])}
		rest.recipients = slices.Clone(rest.recipients[n:])
		q.due[0] = &rest
	} else {
		q.due[0] = nil
		q.due = q.due[1:]
	}
	n := int64(len(j.recipients))
	s.pending -= n
	s.claimed += n
	c.out++

	cl := &claim{store: s, consumer: c, job: j, manual: c.opts.ManualStart, open: map[int]*slot{}, started: map[int]bool{}}
	cl.ctx, cl.cancel = context.WithCancel(context.Background())
	s.claims[cl] = struct{}{}
	d := mailq.Delivery{
		ID: j.msg.id, Queue: queue, Envelope: j.msg.head.Envelope, EnqueuedAt: time.Unix(0, j.msg.head.At),
		Token: "perfile-" + j.msg.id.String(), Body: &body{claim: cl},
	}
	for i := range j.recipients {
		sl := &j.recipients[i]
		cl.open[sl.index] = sl
		d.Recipients = append(d.Recipients, mailq.Slot{
			Index: sl.index, Address: j.msg.head.Recipients[sl.index].Address, Note: sl.note, Attempts: sl.attempts, InDoubt: sl.inDoubt,
		})
	}
	return mailq.NewDelivery(d, cl)
}

// SetGroup does nothing: every queue is a group of its own.
func (c *consumer) SetGroup(queue, group string) {}

// Limit does nothing.
func (c *consumer) Limit(group string, inFlight int) {}

// Pause does nothing.
func (c *consumer) Pause(group string, until time.Time) {}

// Close ends the loop; deliveries that are out stay valid.
func (c *consumer) Close() error {
	c.store.mu.Lock()
	defer c.store.mu.Unlock()
	c.over = true
	c.store.announceLocked()
	return nil
}
