package wal

import (
	"context"

	"github.com/mtawal/mtawal/segment"
)

// ticket is one batch on its way into the log.
type ticket struct {
	s       *Store
	settle  []Settlement
	enqueue []Message
	edit    []Edit
	moves   []moveWrite // of the engine itself: copies of what is held elsewhere
	chunk   *chunkWrite // of the engine itself: a piece of a body
	queue   *queueWrite

	// Set under Store.mu when the batch got its place in the log.
	ids    []ID
	plans  []messagePlan
	writes []settleWrite
	keys   []string
	closes []claimEnd // claims, or parts of them, that end with the commit
	at     int64      // Unix ns

	done   chan struct{} // closed, or sent to once if pooled
	pooled bool
	leads  bool // the caller may do the committer's work itself
	err    error
	pos    segment.Pos // of its first record, once durable
	group  *group

	one       [1]Message
	oneSettle [1]Settlement
	streams   []*stream // whose bodies its messages take
	replaces  bool      // recipients are added to messages that are there
	undo      []undo
	table     []byte // of the group, through this batch's place
	body      []byte
	tableAt   int
	bodyAt    int
	base      int // of records before those that the caller's goroutine encodes
}

// messagePlan is what was worked out for a message before the lock was taken.
type messagePlan struct {
	id     uint64
	late   uint32
	table  int    // bytes of its record
	body   []byte // that goes into its frame
	chunks []segment.ChunkRef
	size   int64 // of the body, wherever it is
	shared bool  // the key was seen before: nothing is written
}

// claimEnd is the end of a claim on some of its recipients.
type claimEnd struct {
	c    *claim
	idxs []int // positions in claim.rcpts
}

// chunkWrite is a piece of a body that goes into the log before its message.
type chunkWrite struct {
	from     *stream
	sequence uint32
	data     []byte
	length   uint32
	crc      uint32 // once it is encoded
	bounce   bool   // of a batch that settles
}

type queueWrite struct {
	name  string
	state QueueState
	flush bool
}

// settleWrite is one settle record.
type settleWrite struct {
	slot uint32
	id   uint64
	runs []segment.SettleRun
	add  []Recipient // of Replaced
	from int         // index of the first of them
}

// ticket returns one that is used by one waiting call. The call does the committer's work
// if nothing ends its wait: else a write that hangs would outlast its context. Callbacks
// are promised a goroutine of the engine.
func (s *Store) ticket(ctx context.Context) *ticket {
	t, _ := s.tickets.Get().(*ticket)
	if t == nil {
		t = &ticket{done: make(chan struct{}, 1), pooled: true}
	}
	t.s = s
	t.leads = ctx.Done() == nil && s.opt.Trace == nil
	return t
}

func newTicket(s *Store) *ticket { return &ticket{s: s, done: make(chan struct{})} }

func (t *ticket) fill(b *Batch) { t.settle, t.enqueue, t.edit = b.Settle, b.Enqueue, b.Edit }

// wait waits for the outcome. If the context ends first, the ticket is left to the
// committer.
func (t *ticket) wait(ctx context.Context) error {
	if d := ctx.Done(); d != nil {
		select {
		case <-t.done:
		case <-d:
			select {
			case <-t.done:
			default:
				return unknown(ctx)
			}
		}
	} else {
		<-t.done
	}
	if t.err != nil {
		return t.discard(t.err)
	}
	return nil
}

// free gives a pooled ticket back, after its outcome was taken.
func (t *ticket) free() {
	if !t.pooled {
		return
	}
	s, done := t.s, t.done
	plans, writes, closes, ids, un := t.plans[:0], t.writes[:0], t.closes[:0], t.ids[:0], t.undo[:0]
	clear(t.plans)
	for i := range t.writes {
		t.writes[i] = settleWrite{runs: t.writes[i].runs[:0]} // their memory is used again
	}
	for i := range t.closes {
		t.closes[i] = claimEnd{idxs: t.closes[i].idxs[:0]}
	}
	*t = ticket{done: done, pooled: true, writes: writes, closes: closes, plans: plans, ids: ids, undo: un}
	s.tickets.Put(t)
}

// discard frees a ticket that came to nothing.
func (t *ticket) discard(err error) error {
	t.free()
	return err
}

// finish tells whoever waits.
func (t *ticket) finish() {
	if t.pooled {
		t.done <- struct{}{}
	} else {
		close(t.done)
	}
}

func (t *ticket) fail(err error) {
	t.err = err
	t.finish()
}

// note an end of a claim for positions of its recipients.
func (t *ticket) end(c *claim, pos int) {
	for i := range t.closes {
		if t.closes[i].c == c {
			t.closes[i].idxs = append(t.closes[i].idxs, pos)
			return
		}
	}
	n := len(t.closes)
	if n == cap(t.closes) {
		t.closes = append(t.closes, claimEnd{})
	} else {
		t.closes = t.closes[:n+1] // its memory is of an earlier life of the ticket
	}
	e := &t.closes[n]
	e.c, e.idxs = c, append(e.idxs[:0], pos)
}
