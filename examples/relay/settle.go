package main

import (
	"context"
	"errors"
	"slices"
	"time"

	"github.com/mtawal/mtawal/mailq"
)

// settleWait is how long a worker waits for the store to take an outcome.
const settleWait = time.Minute

// settle records what became of a delivery and ends it. Should a recipient be used
// already (an operator has removed it meanwhile), nothing is written; the others
// are recorded one by one then, so that they are not sent again.
func (r *relay) settle(d *mailq.Delivery, vs []verdict) {
	// What is not settled below goes back to the queue.
	defer d.Release()
	err := r.record(d, vs)
	if errors.Is(err, mailq.ErrUsed) && len(vs) > 1 {
		for _, v := range vs {
			if err := r.record(d, []verdict{v}); err != nil {
				r.log.Warn("outcome not recorded", "id", d.ID, "to", v.slot.Address, "result", v.result, "err", err)
			}
		}
		return
	}
	if err != nil {
		r.log.Error("outcome not recorded", "id", d.ID, "queue", d.Queue, "err", err)
	}
}

// record writes verdicts, and the bounce for those that failed, in one commit: there
// is no instant at which a crash leaves one without the other.
func (r *relay) record(d *mailq.Delivery, vs []verdict) error {
	ctx, cancel := context.WithTimeout(context.Background(), settleWait)
	defer cancel()

	commit := func(bounces []mailq.Message) error {
		_, err := r.store.Commit(ctx, mailq.Batch{
			Settle:  []mailq.Settlement{{Delivery: d, Outcomes: r.outcomes(vs)}},
			Enqueue: bounces,
		})
		return err
	}
	err := commit(r.bounces(d, vs))
	if errors.Is(err, mailq.ErrFull) || errors.Is(err, mailq.ErrTooLarge) || errors.Is(err, mailq.ErrInvalid) {
		// No room for the bounce, or for the members of a list, so nothing of the batch
		// was written. The recipient waits until there is; deferring always works.
		r.log.Warn("no room, deferred", "id", d.ID, "queue", d.Queue, "err", err)
		vs = slices.Clone(vs)
		for i := range vs {
			if vs[i].result.IsUsed() && vs[i].result != mailq.Delivered {
				vs[i].result, vs[i].replace = mailq.Deferred, nil
			}
		}
		err = commit(nil)
	}
	if err != nil {
		return err
	}
	for _, v := range vs {
		r.log.Info("attempt", "id", d.ID, "to", v.slot.Address, "result", v.result, "reply", v.reply, "in_doubt", v.slot.InDoubt)
	}
	return nil
}

func (r *relay) outcomes(vs []verdict) []mailq.Outcome {
	var os []mailq.Outcome
	for _, v := range vs {
		o := mailq.Outcome{Recipient: v.slot.Index, Result: v.result, Replace: v.replace}
		if !v.result.IsUsed() {
			o.Until = time.Now().Add(backoff(r.cfg.retryBase, r.cfg.retryMax, v.slot.Attempts))
			if v.reply != "" {
				o.Note = []byte(v.reply)
			}
		}
		if v.result == mailq.Uncertain && r.holdsDoubt(v.slot.Address) {
			o.Until = time.Time{} // left to the queue's policy
		}
		os = append(os, o)
	}
	return os
}

// holdsDoubt says that mail for this address is not sent twice without an operator.
// Other uncertain mail waits as deferred mail does: a next hop that breaks every
// connection after the final dot is not asked again at once.
func (r *relay) holdsDoubt(address string) bool {
	_, domain, _ := splitAddress(address)
	return slices.Contains(r.cfg.holdDoubt, domain)
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
		if v.result == mailq.Failed || v.result == mailq.Expired {
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
		Recipients: []mailq.Recipient{{Queue: r.cfg.queueFor(env.From, domain), Address: env.From}},
		Priority:   bouncePriority,
		ExpiresAt:  time.Now().Add(r.cfg.expire),
	}}
}
