package mailq

import (
	"context"
	"iter"
	"time"
)

// Store keeps the queues of a mail transfer agent. All methods may be called by
// any number of goroutines.
type Store interface {
	// NewID reserves an ID, for a "Received: ... id X" header that precedes
	// the body. It is never handed out again, even if it is never used and
	// the store crashes. 0 when the store is closed or failed.
	NewID() ID

	// Stage opens a body that is written first and decided on later. size is
	// the expected length, 0 if unknown; it is refused as Admit would, and with
	// ErrFull while too much is staged. ctx bounds Stage and the Writes, not the
	// body: what was written before it ended can be read and used.
	Stage(ctx context.Context, size int64) (Staged, error)

	// Enqueue commits one message. nil: durable.
	Enqueue(ctx context.Context, m Message) (ID, error)

	// Commit applies the batch as a whole, or not at all. It returns the IDs
	// of b.Enqueue in order. nil: durable.
	Commit(ctx context.Context, b Batch) ([]ID, error)

	// Submit starts a commit without waiting for it. One goroutine's
	// submissions commit in order. Its slices must not be changed before the
	// call has returned; after that they may be.
	Submit(b Batch) Ticket

	// MarkUsed marks recipients of a message delivered, by index or All, for
	// callers that track claims themselves. A recipient that is used already
	// is no error. Naming none is ErrInvalid.
	MarkUsed(ctx context.Context, id ID, recipients ...int) error

	// Consumer opens a claim loop over many queues.
	Consumer(o ConsumerOptions) (Consumer, error)

	// SetQueue holds, suspends or reopens a queue, and sets its policy for
	// recipients in doubt; durable, and in force for later mail too.
	SetQueue(ctx context.Context, queue string, s QueueState) error

	// Flush makes all that is deferred in a queue due now.
	Flush(ctx context.Context, queue string) error

	// Entries lists recipients that are not used. It is weakly consistent:
	// what is there all along is listed once; what comes or goes meanwhile may
	// be. It holds no lock while the caller's loop runs.
	Entries(ctx context.Context, f Filter) iter.Seq2[Entry, error]

	// Queues lists the queues that hold something or have a state of their own,
	// by name. Others are not there: when the last recipient of a queue
	// is used, and it has no state, it is forgotten. Weakly consistent, as Entries.
	Queues(ctx context.Context) iter.Seq2[QueueInfo, error]

	// Admit says whether an Enqueue of a body of that size would be refused
	// now: for MAIL FROM SIZE=. It does no I/O and takes no lock. A negative
	// size is ErrInvalid.
	Admit(size int64) error

	// Stats returns totals.
	Stats() Stats

	// Shutdown ends intake and claims, waits until the claims that are out
	// are settled or released, or ctx ends, and closes. Batches that settle a
	// claim still pass, with the bounces in them.
	Shutdown(ctx context.Context) error

	// Close ends everything in bounded time. What was started comes back in
	// doubt. Closing twice is nil.
	Close() error
}

// Batch is a set of changes that is applied as a whole or not at all.
type Batch struct {
	// Settle ends claims of the caller with their outcomes.
	Settle []Settlement
	// Enqueue holds new mail, such as the bounces for what Settle fails.
	Enqueue []Message
	// Edit changes recipients by ID, whoever has them claimed: on a claimed
	// recipient a used-mark wins, the rest applies when it comes back.
	Edit []Edit
}

// Settlement is outcomes for a delivery.
type Settlement struct {
	Delivery *Delivery
	Outcomes []Outcome
}

// Edit is outcomes for a message by ID.
type Edit struct {
	ID       ID
	Outcomes []Outcome
}

// Ticket is a commit under way.
type Ticket interface {
	// Done is closed when the outcome is known.
	Done() <-chan struct{}
	// Wait returns what Commit would have. A context that ends first makes it
	// ErrUnknown; the commit goes on and Wait may be called again.
	Wait(ctx context.Context) ([]ID, error)
}

// ConsumerOptions says which queues a consumer serves and how much it holds at
// a time. Queues and Prefix add up; without either, it serves every queue.
type ConsumerOptions struct {
	Queues []string
	Prefix string
	// InFlight is how many deliveries may be out at a time; 0: 1,000.
	InFlight int
	// PerGroup is how many of them in one group; 0: no bound of its own.
	PerGroup int
	// MaxRecipients is how many recipients one delivery carries; 0: 100, as
	// RFC 5321 section 4.5.3.1.8 has every server accept.
	MaxRecipients int
	// ManualStart: a delivery counts as started when Start is called, not when
	// it is claimed.
	ManualStart bool
}

// Consumer is a claim loop. Any number of goroutines may call it.
type Consumer interface {
	// Next waits for a delivery: of a message that has recipients due in one
	// queue, with as many of those as MaxRecipients allows. The others of a
	// longer list are deliveries of their own, which may be out at the same
	// time.
	//
	// It is fair: groups take turns, those that have something and are not
	// blocked, and the queues of a group take turns in it. So between two
	// deliveries of one group each other group that waits throughout has one,
	// and between two of one queue each other queue of its group.
	//
	// Inside a queue the highest priority goes first, in it what was enqueued
	// first; but of any 16 deliveries of a queue at least one is of the oldest
	// message that is due, whatever its priority. So one before which n others
	// were enqueued waits for 16*(n+1) deliveries of its queue at the most.
	//
	// What has expired (Delivery.Expired) may be handed out before what has
	// not, by age, whatever its priority; all of it together takes turns as if it
	// were one more group.
	//
	// Errors: the context's, ErrClosed, ErrFailed.
	Next(ctx context.Context) (*Delivery, error)

	// TryNext claims another delivery of one queue if one is due now: the
	// connection is open, is there more for it? It never waits, and is nobody's
	// turn; InFlight, limits and pauses hold.
	TryNext(queue string) (*Delivery, bool)

	// SetGroup puts a queue into a group: those that share one site. By
	// default, and with the group "", a queue is a group of its own, named as
	// the queue is. Deliveries that are out count where they were claimed.
	// Kept in memory until it is taken back, whether or not the queue is there.
	SetGroup(queue, group string)

	// Limit bounds the deliveries of a group that are out at a time, beside
	// PerGroup; 0 lifts it. Kept in memory. Deliveries of what has expired
	// need no connection: they may be out beside it.
	Limit(group string, inFlight int)

	// Pause hands out nothing of a group until a time; a time that is not
	// to come ends it. Kept in memory; no message is touched, and a pause costs
	// the same whatever waits. What has expired is handed out all the same, as
	// far as it stands before the rest of its priority or was deferred.
	Pause(group string, until time.Time)

	// Close ends the loop; deliveries that are out stay valid.
	Close() error
}
