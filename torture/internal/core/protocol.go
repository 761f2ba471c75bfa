// Package core is the process that has the store open. It is another one than that which
// serves the disk below: a page fault of a store must not wait for its own process.
package core

import (
	"time"

	"github.com/mtawal/mtawal/torture/internal/mail"
	"github.com/mtawal/mtawal/torture/internal/realfs"
)

// Config is what a life of the store is like.
type Config struct {
	SegmentSize  int64
	MaxBytes     int64 // so little that it is full again and again; 0: no bound
	DurableStart bool
	NoSync       bool // acknowledges before the sync: the control, which must be caught

	Producers, Consumers int
	// For is how long the load lasts.
	For time.Duration
	// Messages bounds how many are enqueued.
	Messages int
	// Close: the store is closed within what is recorded; otherwise the record ends before.
	Close bool

	Staged, Batches, Operator, Compact, Fold, Sync bool
	// Eager: the store empties segments into cold ones whenever it can.
	Eager bool
}

// Request is an order to a core.
type Request struct {
	// Load: enqueue and deliver under the load. Otherwise audit: deliver all there is.
	Load   bool
	Dir    string // of the store
	Mark   string // path of the file that takes marks; "": they come with the response
	Seed   uint64
	Life   string // begins the keys of this life
	Config Config
	// Keyed: messages that were accepted with an idempotency key, and their IDs.
	Keyed map[string]uint64
	// Cut: after the load has lasted, the file system in this directory is cut off.
	Cut string
	// Reopen: an audit opens the store once more at its end.
	Reopen bool
}

// TimedMark is a mark of a request without a file for them.
type TimedMark struct {
	Text string
	At   time.Duration
}

// Response is what became of it.
type Response struct {
	// Refused says that the store did not open, or failed where it must not.
	Refused string
	// Seen is what it showed after it was opened.
	Seen *mail.Observation
	// Trouble is found after that: what was not right with the store in use.
	Trouble []string
	Marks   []TimedMark
	Extents []realfs.Extent
	// Broken says that the test itself failed.
	Broken string
}
