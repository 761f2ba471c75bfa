package main

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/mtawal/mtawal/mailq"
)

// settleWait is how long a worker waits for the store to take an outcome.
const settleWait = time.Minute

// verdict is what became of one recipient in one attempt.
type verdict struct {
	slot   mailq.Slot
	result mailq.Result // Delivered, Failed, Deferred or Uncertain
	reply  string       // what the receiver said, "" if delivered
}

// verdicts says the same of every recipient of a delivery.
func verdicts(slots []mailq.Slot, result mailq.Result, reply string) []verdict {
	var vs []verdict
	for _, s := range slots {
		vs = append(vs, verdict{s, result, reply})
	}
	return vs
}

// work delivers until the store shuts down, which is no error.
func (r *relay) work(c mailq.Consumer) error {
	for {
		d, err := c.Next(context.Background()) // Shutdown ends it
		if errors.Is(err, mailq.ErrClosed) {
			return nil
		}
		if err != nil {
			return fmt.Errorf("claiming mail: %w", err)
		}
		r.deliver(c, d)
	}
}

// deliver makes an attempt at d, and, while a connection to the next hop stands
// anyway, at more of the same queue.
func (r *relay) deliver(c mailq.Consumer, d *mailq.Delivery) {
	hop := nextHop{cfg: r.cfg}
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
	if d.Queue == localQueue {
		return r.deliverLocal(env, d)
	}
	return hop.send(env, d)
}

// deliverLocal puts the message into the Maildir, once per recipient however
// often it is called.
func (r *relay) deliverLocal(env envelope, d *mailq.Delivery) []verdict {
	var vs []verdict
	for _, s := range d.Recipients {
		if err := r.box.deliver(env, d, s); err != nil {
			r.log.Warn("mailbox not written", "id", d.ID, "to", s.Address, "err", err)
			vs = append(vs, verdict{s, mailq.Deferred, "451 4.3.0 mailbox can't be written"})
			continue
		}
		vs = append(vs, verdict{s, mailq.Delivered, ""})
	}
	return vs
}

// settle records the verdicts, and the bounce for those that failed, in one
// commit: there is no instant at which a crash leaves one without the other.
func (r *relay) settle(d *mailq.Delivery, vs []verdict) {
	// What is not settled below goes back to the queue.
	defer d.Release()
	ctx, cancel := context.WithTimeout(context.Background(), settleWait)
	defer cancel()

	batch := mailq.Batch{
		Settle:  []mailq.Settlement{{Delivery: d, Outcomes: r.outcomes(vs)}},
		Enqueue: r.bounces(d, vs),
	}
	_, err := r.store.Commit(ctx, batch)
	if len(batch.Enqueue) > 0 && (errors.Is(err, mailq.ErrFull) || errors.Is(err, mailq.ErrTooLarge) || errors.Is(err, mailq.ErrInvalid)) {
		// No room for the bounce, so nothing of the batch was written. The
		// failure waits until its sender can be told.
		for i := range vs {
			if vs[i].result == mailq.Failed {
				vs[i].result = mailq.Deferred
			}
		}
		_, err = r.store.Commit(ctx, mailq.Batch{
			Settle: []mailq.Settlement{{Delivery: d, Outcomes: r.outcomes(vs)}},
		})
	}
	if err != nil {
		r.log.Error("outcome not recorded", "id", d.ID, "queue", d.Queue, "err", err)
		return
	}
	for _, v := range vs {
		r.log.Info("attempt", "id", d.ID, "to", v.slot.Address, "result", v.result, "reply", v.reply, "in_doubt", v.slot.InDoubt)
	}
}

func (r *relay) outcomes(vs []verdict) []mailq.Outcome {
	var os []mailq.Outcome
	for _, v := range vs {
		o := mailq.Outcome{Recipient: v.slot.Index, Result: v.result}
		if !v.result.IsUsed() {
			// Uncertain ones wait as well: a next hop that breaks every
			// connection after the final dot is not asked again at once.
			o.Until = time.Now().Add(backoff(r.cfg.retryBase, r.cfg.retryMax, v.slot.Attempts))
			o.Note = []byte(v.reply)
		}
		os = append(os, o)
	}
	return os
}

// backoff is the wait after an attempt that was preceded by so many: base
// doubled each time, at most most.
func backoff(base, most time.Duration, attempts int) time.Duration {
	wait := base
	for range attempts {
		if wait >= most/2 {
			return most
		}
		wait *= 2
	}
	return min(wait, most)
}

// bounces is the mail that a settlement sends: one notification for all that
// failed, or none. The null sender gets none, or bounces would bounce for ever.
func (r *relay) bounces(d *mailq.Delivery, vs []verdict) []mailq.Message {
	var failed []verdict
	for _, v := range vs {
		if v.result == mailq.Failed {
			failed = append(failed, v)
		}
	}
	if len(failed) == 0 {
		return nil
	}
	env, err := decodeEnvelope(d.Envelope)
	if err != nil || env.From == "" {
		return nil
	}
	_, domain, ok := splitAddress(env.From)
	if !ok {
		return nil
	}
	null, err := envelope{UTF8: env.UTF8}.encode()
	if err != nil {
		return nil
	}
	id := r.store.NewID()
	return []mailq.Message{{
		ID:         id,
		Envelope:   null,
		Body:       bounceBody(r.cfg, id, env, d, failed),
		Recipients: []mailq.Recipient{{Queue: r.cfg.queueOf(domain), Address: env.From}},
	}}
}
