package wal

import "github.com/mtawal/mtawal/mailq"

// The vocabulary of package mailq, so that one import is enough.
type (
	ID              = mailq.ID
	Message         = mailq.Message
	Recipient       = mailq.Recipient
	Staged          = mailq.Staged
	Body            = mailq.Body
	Consumer        = mailq.Consumer
	ConsumerOptions = mailq.ConsumerOptions
	Delivery        = mailq.Delivery
	Slot            = mailq.Slot
	Result          = mailq.Result
	Outcome         = mailq.Outcome
	Batch           = mailq.Batch
	Settlement      = mailq.Settlement
	Edit            = mailq.Edit
	Ticket          = mailq.Ticket
	Filter          = mailq.Filter
	Entry           = mailq.Entry
	State           = mailq.State
	QueueInfo       = mailq.QueueInfo
	QueueState      = mailq.QueueState
	QueueMode       = mailq.QueueMode
	DoubtPolicy     = mailq.DoubtPolicy
	Stats           = mailq.Stats
	UsedCounts      = mailq.UsedCounts
	Floors          = mailq.Floors
	Pin             = mailq.Pin
	PinKind         = mailq.PinKind
	FieldError      = mailq.FieldError
	LimitError      = mailq.LimitError
	FullError       = mailq.FullError
)

// Results, see mailq.Result.
const (
	Delivered = mailq.Delivered
	Failed    = mailq.Failed
	Expired   = mailq.Expired
	Removed   = mailq.Removed
	Replaced  = mailq.Replaced
	Deferred  = mailq.Deferred
	Uncertain = mailq.Uncertain
	Held      = mailq.Held
	Released  = mailq.Released
)

// States of a recipient, see mailq.State.
const (
	Pending    = mailq.Pending
	InDeferral = mailq.InDeferral
	OnHold     = mailq.OnHold
	Claimed    = mailq.Claimed
	Damaged    = mailq.Damaged
	Used       = mailq.Used
)

// Modes of a queue, see mailq.QueueMode.
const (
	Active    = mailq.Active
	HoldQueue = mailq.HoldQueue
	Suspended = mailq.Suspended
)

// What becomes of mail in doubt, see mailq.DoubtPolicy.
const (
	Redeliver  = mailq.Redeliver
	HoldDoubt  = mailq.HoldDoubt
	DeferDoubt = mailq.DeferDoubt
)

// Kinds of pins, see mailq.PinKind.
const (
	PinMessage  = mailq.PinMessage
	PinStaged   = mailq.PinStaged
	PinSnapshot = mailq.PinSnapshot
)

// Limits that hold whatever Options say, see package mailq.
const (
	QueueNameMax = mailq.QueueNameMax
	AddressMax   = mailq.AddressMax
	NoteMax      = mailq.NoteMax
	EnvelopeMax  = mailq.EnvelopeMax
	KeyMax       = mailq.KeyMax
)

// All stands for every recipient of a message, see mailq.All.
const All = mailq.All

// Errors of the contract, see package mailq.
var (
	ErrInvalid  = mailq.ErrInvalid
	ErrTooLarge = mailq.ErrTooLarge
	ErrNotFound = mailq.ErrNotFound
	ErrUsed     = mailq.ErrUsed
	ErrSettled  = mailq.ErrSettled
	ErrFull     = mailq.ErrFull
	ErrClosed   = mailq.ErrClosed
	ErrFailed   = mailq.ErrFailed
	ErrUnknown  = mailq.ErrUnknown
)

// ParseID reads what ID.String wrote.
func ParseID(s string) (ID, error) { return mailq.ParseID(s) }
