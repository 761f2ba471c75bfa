package mailq

import (
	"fmt"
	"time"
)

// State is where a recipient stands.
type State uint8

// The states of a recipient that is not used, as Entries lists them.
const (
	Pending    State = iota + 1 // due, waiting for a claim
	InDeferral                  // waiting for its time
	OnHold                      // waiting for an operator
	Claimed                     // with a consumer
	Damaged                     // set aside: its bytes were found to fail the checksum, see Stats
	Used                        // final
)

var stateNames = [...]string{Pending: "pending", InDeferral: "deferred", OnHold: "held", Claimed: "claimed", Damaged: "damaged", Used: "used"}

// String returns the state in a word.
func (s State) String() string {
	if s >= Pending && int(s) < len(stateNames) {
		return stateNames[s]
	}
	return fmt.Sprintf("State(%d)", uint8(s))
}

// MarshalText implements encoding.TextMarshaler.
func (s State) MarshalText() ([]byte, error) { return []byte(s.String()), nil }

// UnmarshalText implements encoding.TextUnmarshaler: it reads the words that String writes.
func (s *State) UnmarshalText(text []byte) error {
	i, err := indexOf(stateNames[:], "State", text)
	if err == nil {
		*s = State(i)
	}
	return err
}

// Filter selects entries. Fields that are set must all match; the zero value
// selects everything.
type Filter struct {
	ID      ID     // of this message
	Queue   string // in this queue
	Prefix  string // in queues whose name begins so
	State   State  // in this state
	InDoubt bool   // in doubt
	Limit   int    // at most so many; 0: no bound
}

// Entry is one recipient that is not used.
type Entry struct {
	ID         ID        `json:"id"`
	Recipient  int       `json:"recipient"`
	Queue      string    `json:"queue"`
	Address    string    `json:"address"`
	Note       []byte    `json:"note,omitempty"`
	State      State     `json:"state"`
	InDoubt    bool      `json:"in_doubt,omitempty"`
	Attempts   int       `json:"attempts"`
	NotBefore  time.Time `json:"not_before,omitzero"`
	EnqueuedAt time.Time `json:"enqueued_at"`
	ExpiresAt  time.Time `json:"expires_at,omitzero"`
	Priority   int8      `json:"priority,omitempty"`
	Envelope   []byte    `json:"-"`
	Size       int64     `json:"size"` // of the body
	// Token is what Delivery.Token is: with it, whoever knows what a receiver has
	// can settle what is in doubt without a delivery.
	Token string `json:"-"`
	// Err says what is wrong with a damaged one.
	Err error `json:"-"`
}

// QueueInfo is a queue at a glance. The counts are of recipients; Damaged is what was found
// since the store was opened, see Stats.
type QueueInfo struct {
	Name     string     `json:"name"`
	State    QueueState `json:"state,omitzero"`
	Pending  int64      `json:"pending"`
	Deferred int64      `json:"deferred"`
	Held     int64      `json:"held"`
	Claimed  int64      `json:"claimed"`
	InDoubt  int64      `json:"in_doubt"`
	Damaged  int64      `json:"damaged"`
	// Oldest is the lowest ID in the queue, 0 if it is empty; OldestAt is when
	// that message was enqueued.
	Oldest   ID        `json:"oldest,omitempty"`
	OldestAt time.Time `json:"oldest_at,omitzero"`
}

// UsedCounts counts used-marks by reason.
type UsedCounts struct {
	Delivered int64 `json:"delivered"`
	Failed    int64 `json:"failed"`
	Expired   int64 `json:"expired"`
	Removed   int64 `json:"removed"`
	Replaced  int64 `json:"replaced"`
}

// Total is the sum of all reasons.
func (u UsedCounts) Total() int64 {
	return u.Delivered + u.Failed + u.Expired + u.Removed + u.Replaced
}

// Floors are the lowest values of a figure over windows that end now, each reaching back by
// up to a sixtieth more than its name says, and no further than to the opening of the
// store.
type Floors struct {
	Minute     int64 `json:"minute"`
	TenMinutes int64 `json:"ten_minutes"`
	Hour       int64 `json:"hour"`
}

// PinKind says what kind of thing keeps bytes of a store from being given back.
type PinKind string

// The kinds of pins.
const (
	PinMessage  PinKind = "message"     // one with a recipient that is not used
	PinStaged   PinKind = "staged body" // one that is not decided on
	PinSnapshot PinKind = "snapshot"    // a copy of the store that is being made
)

// Pin is a thing that keeps bytes of a store from being given back.
type Pin struct {
	Kind  PinKind   `json:"kind"`         // empty: there is none
	ID    ID        `json:"id,omitempty"` // of the message
	Since time.Time `json:"since"`        // when it was enqueued, staged or begun
}

// Stats are totals of a store. Enqueued, Used, Pending, Deferred, Held, Claimed,
// InDoubt and Damaged count recipients; Enqueued and Used count over the life of
// the store. Always:
//
//	Enqueued = Used + Pending + Deferred + Held + Claimed + Damaged
//
// InDoubt counts recipients in any of those states but Used.
//
// Damaged counts what was found since the store was opened, which is when the bytes were to be
// handed out or moved. It is not recorded: after reopening what is damaged counts as it did
// before, until it is found again.
type Stats struct {
	Enqueued int64      `json:"enqueued"`
	Used     UsedCounts `json:"used"`
	Pending  int64      `json:"pending"`
	Deferred int64      `json:"deferred"`
	Held     int64      `json:"held"`
	Claimed  int64      `json:"claimed"`
	InDoubt  int64      `json:"in_doubt"`
	Damaged  int64      `json:"damaged"`

	// WorkQueueLength is the number of recipients not used, the figure that
	// climbed without a backlog in Microsoft's Q238189. WorkQueueFloor is what it
	// has not gone below: a queue that drains has a floor of 0 now and then, one that
	// does not has floors that climb, the hour's lowest and the minute's highest.
	WorkQueueLength int64  `json:"work_queue_length"`
	WorkQueueFloor  Floors `json:"work_queue_floor"`
	// Unaccounted is by how many recipients the identity above was found not to hold, in all
	// and summed over queues, when it was last checked. Other than 0 is a bug of the store.
	Unaccounted int64 `json:"unaccounted"`

	Messages  int64 `json:"messages"`   // messages with a recipient not used
	LiveBytes int64 `json:"live_bytes"` // of the log: held by such messages
	// DeadBytes is the rest of what was written to the log and is still there: mail that was
	// used and not reclaimed, and what commits took beside it.
	DeadBytes int64 `json:"dead_bytes"`
	DiskBytes int64 `json:"disk_bytes"` // all files of the store
	Segments  int   `json:"segments"`   // in the log; ready ones not counted
	// UnlinkedBytes is what files take that have no name any more and are still mapped, so that
	// the disk does not get it back: 0, always.
	UnlinkedBytes int64 `json:"unlinked_bytes"`
	// OldestPin is what keeps bytes of the log from being given back for the longest time,
	// of mail, staged bodies and snapshots. It may be a second old.
	OldestPin Pin `json:"oldest_pin,omitzero"`

	// Staged is how many bodies are staged and not decided on, StagedBytes what they hold
	// or were announced with. They keep the log from giving segments back.
	Staged      int64 `json:"staged"`
	StagedBytes int64 `json:"staged_bytes"`

	Commits      int64 `json:"commits"`       // group commits since Open
	TailCut      int64 `json:"tail_cut"`      // bytes of torn tail cut over the life of the store
	UncleanOpens int64 `json:"unclean_opens"` // openings that no Close had preceded

	// SyncingSince is when the write that is under way began, zero when none
	// is; SyncHangs says that it has taken longer than the store's limit.
	SyncingSince time.Time `json:"syncing_since,omitzero"`
	SyncHangs    bool      `json:"sync_hangs"`
}
