package mailq

import (
	"errors"
	"fmt"
)

// Errors that say the request itself can't be carried out. Nothing was written.
var (
	// ErrInvalid: an argument breaks a rule; the error is a *FieldError that
	// names the field. SMTP reply 554.
	ErrInvalid = errors.New("invalid argument")
	// ErrTooLarge: an argument is over a limit; the error is a *LimitError.
	// SMTP reply 552.
	ErrTooLarge = errors.New("over a limit")
	// ErrNotFound: no message with that ID is alive in the store, or it has no
	// recipient with that index.
	ErrNotFound = errors.New("not found")
	// ErrUsed: the recipient is used already, so no other outcome can be
	// recorded. In a batch the whole batch was refused.
	ErrUsed = errors.New("recipient is used already")
	// ErrSettled: the delivery's claim on that recipient has ended.
	ErrSettled = errors.New("delivery is settled")
)

// Errors that say the store can't take the request now. Nothing was written.
var (
	// ErrFull: there is no room for new mail; the error is a *FullError and nothing was written.
	// A batch that settles may get it too, for what it enqueues (bounces): deferring instead
	// always works.
	// Used-marks and deferrals still pass. SMTP reply 452.
	ErrFull = errors.New("store is full")
	// ErrClosed: Close or Shutdown was called. SMTP reply 421.
	ErrClosed = errors.New("store is closed")
)

// Errors after which the effect may or may not be there.
var (
	// ErrFailed: a write or sync of the log failed and the store latched; only
	// reopening clears it. It wraps the cause. What was in flight may be there
	// after reopening. SMTP reply 421.
	ErrFailed = errors.New("store failed")
	// ErrUnknown: the wait ended before the outcome was known. The batch may
	// have been committed, or may still be. SMTP reply 451; a retry with the
	// same Message.Key is safe.
	ErrUnknown = errors.New("outcome unknown")
)

// FieldError says which field of an argument is not acceptable, and why. It
// matches [ErrInvalid].
type FieldError struct {
	Field  string // such as "Recipients[2].Queue"
	Reason string
}

// Error names the field and says what is wrong with it.
func (e *FieldError) Error() string { return fmt.Sprintf("%s: %s", e.Field, e.Reason) }

// Is reports whether target is ErrInvalid.
func (e *FieldError) Is(target error) bool { return target == ErrInvalid }

// LimitError says which limit an argument exceeds. It matches [ErrTooLarge].
type LimitError struct {
	Field     string // such as "Body"
	Size, Max int64  // bytes, or a count where the field is a list
}

// Error names the field, its size and the limit.
func (e *LimitError) Error() string {
	return fmt.Sprintf("%s: %d is over the limit of %d", e.Field, e.Size, e.Max)
}

// Is reports whether target is ErrTooLarge.
func (e *LimitError) Is(target error) bool { return target == ErrTooLarge }

// FullError says why there is no room. It matches [ErrFull].
type FullError struct {
	Reason     string // which bound was met: "disk", "MaxBytes", or what else there is too much of
	Need, Free int64  // bytes asked for, bytes available to intake; Free may be negative
}

// Error says which bound was met, what was asked for and what there is.
func (e *FullError) Error() string {
	return fmt.Sprintf("store is full (%s): %d bytes wanted, %d available", e.Reason, e.Need, e.Free)
}

// Is reports whether target is ErrFull.
func (e *FullError) Is(target error) bool { return target == ErrFull }
