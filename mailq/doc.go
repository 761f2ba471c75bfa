// Package mailq is the vocabulary of a mail queue: messages, recipients,
// queues, claims and their outcomes, and the contract of the store that keeps
// them.
//
// It holds no engine. Package wal implements [Store] on a write-ahead log; an
// MTA core that speaks only mailq can stand on any engine that passes the
// conformance suite in mailq/mailqtest. The package imports the standard
// library alone.
//
// # The model
//
// A [Message] has an [ID] that is never used again in the life of the store,
// an opaque envelope, a body and one or more recipients. The body is stored
// once, however many recipients there are.
//
// A [Recipient] is the unit of delivery. It waits in one queue (a destination,
// such as "local" or "smtp:example.org") and is pending, deferred, held or
// used. Used is final, with a reason: delivered, failed, expired, removed or
// replaced. A recipient handed to a consumer is claimed; at most one claim
// holds it at a time. A recipient whose delivery may have happened, while
// nobody knows, comes back in doubt ([Slot.InDoubt]) and stays so until it is
// settled.
//
// A [Batch] is applied as a whole or not at all, so "recipient 3 failed" and
// "here is its bounce" are one commit.
//
// # The promises
//
//   - Enqueue returned nil: the message survives a power cut.
//   - A recipient was settled with a used-mark and the call returned nil: it is
//     never handed out again, whatever happens next.
//   - What can't be known is said: such a recipient comes back in doubt.
//
// # Time
//
// Times are those of the machine's clock: NotBefore, Outcome.Until, ExpiresAt,
// the ends of pauses. Nothing is due before the clock has shown its time.
//
// The clock may be set while mail waits; that is noticed within seconds. Set
// forward: what it has passed is due, or has expired, and is handed out at the pace
// of those who ask for it, within InFlight and the limits. Set back: what was
// due and is waiting stays due; what was deferred, also by a clock that was wrong,
// comes when the clock shows its time, or with Flush; what had expired and was
// not settled is fresh again. Nothing is lost, and no delivery that is out is
// touched.
//
// # The context
//
// The context of a call bounds the wait, never the mark: a Settle whose context
// ended has still been submitted, and its claim stays until the outcome is
// known. The error then is [ErrUnknown].
package mailq
