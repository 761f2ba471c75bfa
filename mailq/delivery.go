package mailq

import (
	"context"
	"fmt"
	"time"
)

// Result is what became of one delivery attempt to one recipient, or what an
// operator decided about it.
type Result uint8

// The first five are used-marks: final.
const (
	// Delivered: the next hop or the local store has taken it.
	Delivered Result = iota + 1
	// Failed: refused for good; the bounce belongs in the same batch.
	Failed
	// Expired: given up for its age; the bounce belongs in the same batch.
	Expired
	// Removed: deleted by an operator.
	Removed
	// Replaced: other recipients (Outcome.Replace) take its place.
	Replaced
	// Deferred: tried in vain, to be tried again at Outcome.Until.
	Deferred
	// Uncertain: the connection broke where the delivery may have happened.
	// The recipient comes back in doubt.
	Uncertain
	// Held: not handed out until an Edit says Released.
	Held
	// Released: no longer held, and due now.
	Released
)

// IsUsed reports whether the result is a used-mark.
func (r Result) IsUsed() bool { return r >= Delivered && r <= Replaced }

var resultNames = [...]string{
	Delivered: "delivered", Failed: "failed", Expired: "expired", Removed: "removed", Replaced: "replaced",
	Deferred: "deferred", Uncertain: "uncertain", Held: "held", Released: "released",
}

// String returns the result in a word.
func (r Result) String() string {
	if r >= Delivered && int(r) < len(resultNames) {
		return resultNames[r]
	}
	return fmt.Sprintf("Result(%d)", uint8(r))
}

// MarshalText implements encoding.TextMarshaler.
func (r Result) MarshalText() ([]byte, error) { return []byte(r.String()), nil }

// UnmarshalText implements encoding.TextUnmarshaler: it reads the words that String writes.
func (r *Result) UnmarshalText(text []byte) error {
	i, err := indexOf(resultNames[:], "Result", text)
	if err == nil {
		*r = Result(i)
	}
	return err
}

// indexOf finds a word among names, of which the empty ones are none.
func indexOf(names []string, field string, text []byte) (int, error) {
	for i, n := range names {
		if n != "" && n == string(text) {
			return i, nil
		}
	}
	return 0, &FieldError{Field: field, Reason: fmt.Sprintf("%q is none", clip(string(text)))}
}

// Outcome is a result for one recipient.
type Outcome struct {
	// Recipient is its index in the message, or All: those of the delivery
	// that are not settled yet; in an Edit those of the message not used.
	Recipient int
	Result    Result
	// Until is when a deferred recipient is due again. It must be set: one that is
	// forgotten would have the recipient come back at once, for ever. A time
	// that has passed is one, time.Now() too. For an uncertain recipient the zero
	// time leaves it to the queue's policy.
	Until time.Time
	// Note replaces the recipient's note, unless it is nil. A store that is full may leave the
	// note before in its place.
	Note []byte
	// Replace holds the recipients that take its place, with Replaced only.
	Replace []Recipient
}

// Slot is a recipient in a delivery.
type Slot struct {
	Index   int
	Address string
	Note    []byte
	// Attempts counts the attempts before this one, those that a crash ended
	// included.
	Attempts int
	// InDoubt: an earlier attempt may have been a delivery.
	InDoubt bool
}

// Claim is an engine's side of a delivery. Users meet it as the methods of
// [Delivery].
type Claim interface {
	// Start is [Delivery.Start]; no recipients are all of them.
	Start(ctx context.Context, recipients []int) error
	// Settle is [Delivery.Settle], and SettleAll with an outcome for All.
	Settle(ctx context.Context, outcomes []Outcome) error
	// Release is [Delivery.Release]. It does not wait.
	Release()
	// Context is [Delivery.Context], the same one each time.
	Context() context.Context
}

// Delivery is one message with some of its recipients that are due in one
// queue, claimed for one worker. It ends when all its recipients are settled or
// it is released. Its methods may be called by any goroutine.
type Delivery struct {
	ID         ID
	Queue      string
	Envelope   []byte
	Body       Body
	Recipients []Slot
	// Expired: the message's time is over; bounce instead of delivering. That
	// holds for all its recipients, whose Slot.Note is the last reply.
	Expired               bool
	EnqueuedAt, ExpiresAt time.Time
	// Token names the message among all messages of all stores: store UUID and ID.
	// A receiver deduplicates by token and recipient.
	Token string

	claim Claim
}

// NewDelivery ties a delivery to the engine's claim behind it. It is for
// engines.
func NewDelivery(d Delivery, c Claim) *Delivery {
	d.claim = c
	return &d
}

// Claim returns the engine's side. It is for engines, which find in
// [Settlement] what they handed out.
func (d *Delivery) Claim() Claim { return d.claim }

// Start says that delivery to these recipients (by index; none: to all of
// them) begins: from now until it is settled, a crash leaves it in doubt. It
// is needed, before the final dot, only of consumers with ManualStart; for
// others a claim is a start.
func (d *Delivery) Start(ctx context.Context, recipients ...int) error {
	return d.claim.Start(ctx, recipients)
}

// Settle records outcomes for recipients of this delivery and ends the claim on
// them, all in one commit. nil: durable. A recipient that is used meanwhile
// (MarkUsed, Edit) makes it ErrUsed, with nothing applied.
//
// The context bounds the wait, not the mark: with ErrUnknown the outcomes have
// been submitted and will usually be committed.
func (d *Delivery) Settle(ctx context.Context, outcomes []Outcome) error {
	return d.claim.Settle(ctx, outcomes)
}

// SettleAll settles all recipients not settled yet with one result. Deferred,
// which needs a time, and Replaced, which needs recipients, go through Settle
// with [All]; here they are refused.
func (d *Delivery) SettleAll(ctx context.Context, r Result) error {
	return d.claim.Settle(ctx, []Outcome{{Recipient: All, Result: r}})
}

// Release ends the claim without an outcome. What is settled stays settled,
// what was started comes back in doubt, the rest goes back as it was. It does
// not wait and may be called any number of times, also after Settle.
func (d *Delivery) Release() { d.claim.Release() }

// Context ends when the claim has ended, whoever ended it: a worker that is
// still talking to a host can stop.
func (d *Delivery) Context() context.Context { return d.claim.Context() }
