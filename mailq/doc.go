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
// The context of a call bounds the wait, never the mark: a Settle whose context
// ended has still been submitted, and its claim stays until the outcome is
// known. The error then is [ErrUnknown].
package mailq
