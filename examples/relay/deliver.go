package main

import (
	"context"
	"errors"
	"fmt"

	"github.com/mtawal/mtawal/mailq"
)

// verdict is what became of one recipient in one attempt.
type verdict struct {
	slot    mailq.Slot
	result  mailq.Result      // Delivered, Failed, Expired, Replaced, Deferred or Uncertain
	reply   string            // what the receiver said, "" if delivered
	replace []mailq.Recipient // with Replaced
}

// verdicts says the same of every recipient of a delivery.
func verdicts(slots []mailq.Slot, result mailq.Result, reply string) []verdict {
	var vs []verdict
	for _, s := range slots {
		vs = append(vs, verdict{slot: s, result: result, reply: reply})
	}
	return vs
}

// work delivers until the store shuts down, which is no error.
func (r *relay) work(c mailq.Consumer, s *sites) error {
	for {
		d, err := c.Next(context.Background()) // Shutdown ends it
		if errors.Is(err, mailq.ErrClosed) {
			return nil
		}
		if err != nil {
			return fmt.Errorf("claiming mail: %w", err)
		}
		r.deliver(c, s, d)
	}
}

// deliver makes an attempt at d, and, while a connection to the next hop stands
// anyway, at more of the same queue.
func (r *relay) deliver(c mailq.Consumer, s *sites, d *mailq.Delivery) {
	if !s.join(d.Queue) {
		d.Release() // as it was: nothing was started
		return
	}
	hop := nextHop{cfg: r.cfg, host: r.cfg.hostFor(d.Queue), sites: s}
	defer hop.quit()
	for range perConnectionMax {
		r.settle(d, r.attempt(&hop, d))
		if !hop.connected() {
			return
		}
		more, ok := c.TryNext(d.Queue)
		if !ok {
			return
		}
		d = more
	}
}

func (r *relay) attempt(hop *nextHop, d *mailq.Delivery) []verdict {
	env, err := decodeEnvelope(d.Envelope)
	if err != nil {
		// Written by another version of this program: a human has to look.
		r.log.Error("delivery impossible", "id", d.ID, "err", err)
		return verdicts(d.Recipients, mailq.Deferred, "451 4.3.0 envelope not readable")
	}
	switch {
	case d.Expired:
		return r.expire(d, hop)
	case d.Queue == localQueue:
		return r.deliverLocal(env, d)
	case d.Queue == listQueue:
		return r.expand(d)
	}
	return hop.send(env, d)
}

// expire gives recipients up. Their bounce quotes why they were not delivered: their
// own last reply, or, of those never tried, their host's.
func (r *relay) expire(d *mailq.Delivery, hop *nextHop) []verdict {
	var vs []verdict
	for _, s := range d.Recipients {
		v := verdict{slot: s, result: mailq.Expired, reply: string(s.Note)}
		if v.reply == "" {
			v.reply = hop.sites.lastReply(hop.host)
		}
		if v.reply == "" {
			v.reply = "451 4.4.7 not delivered in time"
		}
		if d.Queue == localQueue && s.InDoubt {
			if sub, err := r.box.find(mailName(d.Token, s.Address), true); err == nil && sub != "" {
				v = verdict{slot: s, result: mailq.Delivered}
			}
		}
		vs = append(vs, v)
	}
	return vs
}

// deliverLocal puts the message into the Maildir, once per recipient however
// often it is called.
func (r *relay) deliverLocal(env envelope, d *mailq.Delivery) []verdict {
	var vs []verdict
	for _, s := range d.Recipients {
		if err := r.box.deliver(env, d, s); err != nil {
			r.log.Warn("mailbox not written", "id", d.ID, "to", s.Address, "err", err)
			vs = append(vs, verdict{slot: s, result: mailq.Deferred, reply: "451 4.3.0 mailbox can't be written"})
			continue
		}
		vs = append(vs, verdict{slot: s, result: mailq.Delivered})
	}
	return vs
}
