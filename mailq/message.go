package mailq

import (
	"io"
	"time"
)

// Limits that hold for every store, whatever its options say.
const (
	// QueueNameMax is the longest name of a queue, in bytes.
	QueueNameMax = 255
	// AddressMax is the longest address of a recipient, in bytes. RFC 5321
	// allows 254 in a path; gateways to other worlds need more.
	AddressMax = 1024
	// NoteMax is the longest note, in bytes.
	NoteMax = 1024
	// EnvelopeMax is the largest envelope, in bytes.
	EnvelopeMax = 64 << 10
	// KeyMax is the longest idempotency key, in bytes.
	KeyMax = 255
)

// All stands for every recipient of a message, where a recipient's index is
// asked for.
const All = -1

// Message is mail on its way into the store.
type Message struct {
	// ID is one that NewID reserved, or 0: the store takes the next.
	ID ID
	// Key makes the enqueue idempotent: while the store remembers the key
	// (its window is an option of the store), a second message with it is not
	// stored; the first one's ID and nil come back, once the first is durable.
	Key string
	// Envelope is opaque to the store: sender, parameters, what the MTA needs.
	Envelope []byte
	// Body is the content; Staged is one that was handed over before. Not both.
	Body   []byte
	Staged Staged
	// Recipients is who gets it, at least one.
	Recipients []Recipient
	// Priority: higher is delivered sooner within a queue. Lower ones do not
	// starve: see Consumer.Next.
	Priority int8
	// ExpiresAt is when recipients not used are handed out as expired, for
	// the MTA to bounce ([Delivery.Expired]); those that take the place of
	// replaced ones included. They become due then, or within a second
	// after, also if they were deferred or never tried, but not while they,
	// or their queue, are held. A deferral recorded after that holds. The
	// zero time: never.
	ExpiresAt time.Time
}

// Recipient is the unit of delivery.
type Recipient struct {
	// Queue is where it waits: 1 to QueueNameMax bytes of UTF-8 without
	// control characters. A name is opaque: it is never used as a path.
	Queue string
	// Address is opaque to the store.
	Address string
	// Note is opaque, at most NoteMax bytes, replaced by Outcome.Note.
	Note []byte
	// NotBefore is when it becomes due; the zero time: at once.
	NotBefore time.Time
}

// Staged is a body that is in the store before it is decided whether it becomes
// a message. What it does not become is garbage. One goroutine at a time may
// write, and none while a batch has the body; reads may run beside it.
//
// A body is taken by the one batch that is committed with it. A batch that is refused gives
// it back as it was, to be used again, written to further, or aborted; with
// [ErrUnknown] the batch has it still. A body that is used twice, in a second batch, after
// Abort or in another store is a *[FieldError] for "Staged".
//
// A store gives up bodies that nothing is done with: every call but Abort then fails with
// an error that matches [context.DeadlineExceeded] (SMTP reply 451). After
// Close they fail with [ErrClosed], and Write does after Shutdown; after a failure of the
// store with [ErrFailed]. What was staged is not there after reopening.
type Staged interface {
	// Write appends. It may wait for the log, as long as the context that was
	// given to Stage lasts. An error of it is final: the body becomes no message, and
	// only what was written before can be read. [ErrTooLarge]: over what a message may
	// have. [ErrFull]: no room now.
	io.Writer
	// ReadAt reads back what has been written, all of it, wherever it is by now,
	// until a batch with the body is committed or the body is aborted.
	io.ReaderAt
	// Size is the number of bytes written so far.
	Size() int64
	// Abort gives the bytes back. While a batch has the body, it waits for the outcome
	// without holding the caller up. After a batch that took the body, and after
	// another Abort, it does nothing: defer it.
	Abort()
}

// Body is the content of a message under delivery. It is valid until its
// delivery is settled; then every call returns ErrSettled, and after the store
// was closed ErrClosed. It never shows other bytes than those enqueued.
// Any number of goroutines may read it.
type Body interface {
	io.ReaderAt
	// WriteTo writes the whole body, from the start, each time it is called.
	io.WriterTo
	// Size is the length in bytes.
	Size() int64
	// View calls f with n bytes at off, without a copy where the engine can.
	// The slice must not be written to and is invalid once f has returned. A
	// fault of the storage while f runs is an error of View, not a crash.
	View(off, n int64, f func([]byte) error) error
}
