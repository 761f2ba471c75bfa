// Package system is what is measured: mtawal, its peers and the floors, one a file, behind
// one small interface. What any of them acknowledges survives a power cut; Spec.Durable says how
// that was configured, Spec.Queue what enqueue, claim and used-mark are made of.
package system

import (
	"context"
	"errors"
	"time"
)

// Message is what an MTA hands over. Its recipients wait in destinations of their own.
type Message struct {
	Body       []byte
	Recipients int // 1 to RecipientsMax
}

// RecipientsMax bounds Message.Recipients.
const RecipientsMax = 64

// System makes messages durable. All methods but Close may be called by any number of goroutines.
type System interface {
	// Enqueue returns nil when the message is durable. The body may be used again.
	Enqueue(m Message) error
	// Clear has everything used and its space made ready for more, as it would be after a
	// while. It is not timed, and nothing else is called meanwhile.
	Clear() error
	Close() error
}

// Queue is a System that gives out what it holds. A floor does not.
type Queue interface {
	System
	// Claim waits for a recipient that is due and takes it, the oldest first.
	Claim(ctx context.Context) (Job, error)
	// Pending is how many recipients are not used.
	Pending() int
}

// Job is a recipient that was claimed. It ends with Used or Defer.
type Job interface {
	// Read shows the body to f.
	Read(f func(body []byte)) error
	// Used returns nil when it is durable that the recipient is not handed out again.
	Used() error
	// Defer returns nil when it is durable that the recipient is due again then, and not
	// before. The error is ErrUnable where a system has no such thing.
	Defer(until time.Time) error
}

// Filler is a System that can take many messages in one commit, to be filled quickly.
type Filler interface {
	Fill(bodies [][]byte) error
}

// Loop is a floor that counts the bytes that it wrote.
type Loop interface {
	Wrote() int64
}

// Maintainer is a System whose background work can be asked for.
type Maintainer interface {
	// Checkpoint makes recovery short: a checkpoint, a flush.
	Checkpoint() error
	// Compact gives back the space of what is dead.
	Compact() error
}

// ErrUnable says that a system does not offer what a workload needs.
var ErrUnable = errors.New("not offered by this system")

// Options is what a system may know of its load in advance.
type Options struct {
	Producers int
	FloorSize int64 // of a floor's file; 0: FloorSize
}

// Spec is a system that can be opened.
type Spec struct {
	Name    string
	Module  string // whose version the report names; empty for what is written here
	Durable string // how durability is configured
	Queue   string // what enqueue, claim, read, used-mark and deferral are
	Floor   bool
	Group   bool // a floor that many producers share
	Slow    bool // its backlog is measured at a tenth of the size, see Backlog
	// Open opens what is in the directory, or makes it.
	Open func(dir string, o Options) (System, error)
}

// All are the systems, the floors last.
func All() []Spec {
	list := append([]Spec{Mtawal, Pebble, Bbolt}, others...)
	return append(append(list, RaftWAL, Maildir), floors...)
}
