package main

import (
	"context"
	"fmt"

	"github.com/mtawal/mtawal/mailq"
)

// doubtBatch is how many answers go into one commit.
const doubtBatch = 500

// resolveDoubt settles what a crash left in doubt and the Maildir can answer: what is
// there was delivered. What isn't is delivered again, which does no harm. Nobody
// can ask a next hop.
func (r *relay) resolveDoubt(ctx context.Context) error {
	var edits []mailq.Edit
	commit := func() error {
		if len(edits) == 0 {
			return nil
		}
		// The delivery may have died in front of this.
		if err := r.box.sync(); err != nil {
			return err
		}
		if _, err := r.store.Commit(ctx, mailq.Batch{Edit: edits}); err != nil {
			return err
		}
		r.log.Info("found in the Maildir what was in doubt", "recipients", len(edits))
		edits = nil
		return nil
	}
	for e, err := range r.store.Entries(ctx, mailq.Filter{Queue: localQueue, InDoubt: true}) {
		if err != nil {
			return fmt.Errorf("listing what is in doubt: %w", err)
		}
		if e.Err != nil {
			continue // damaged: it says so itself, and is not handed out
		}
		sub, err := r.box.find(mailName(e.Token, e.Address), true)
		if err != nil {
			return fmt.Errorf("looking for mail in doubt: %w", err)
		}
		if sub == "" {
			continue
		}
		edits = append(edits, mailq.Edit{ID: e.ID, Outcomes: []mailq.Outcome{{Recipient: e.Recipient, Result: mailq.Delivered}}})
		if len(edits) == doubtBatch {
			if err := commit(); err != nil {
				return fmt.Errorf("settling what was in doubt: %w", err)
			}
		}
	}
	if err := commit(); err != nil {
		return fmt.Errorf("settling what was in doubt: %w", err)
	}
	return nil
}

// setPolicies has queues hold what comes back in doubt, also after a crash, since the
// policy is durable.
func (r *relay) setPolicies(ctx context.Context) error {
	for _, domain := range r.cfg.holdDoubt {
		queue := remotePrefix + domain
		if err := r.store.SetQueue(ctx, queue, mailq.QueueState{Doubt: mailq.HoldDoubt}); err != nil {
			return fmt.Errorf("setting the policy of the queue %s: %w", queue, err)
		}
	}
	return nil
}
