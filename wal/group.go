package wal

import (
	"sync"

	"github.com/mtawal/mtawal/journal"
	"github.com/mtawal/mtawal/segment"
)

// group is the frame that is filling: what is committed at the same moment shares one
// durable write. Places in it are given under Store.mu; callers encode into their
// places outside the lock.
type group struct {
	slab     *segment.Slab // that both lie in; nil: large
	table    []byte        // the frame's header, then records; len grows, memory stays
	body     []byte
	records  uint32
	tickets  []*ticket
	attempts []*claim // whose Attempt records ride in it
	lease    uint64
	placed   int64  // bytes of batches that have a place in it
	growth   int64  // what those add to the next checkpoint
	nudge    bool   // it moves the position of the log for whoever waits in nudge
	forgets  int    // keys that it drops
	cold     uint32 // the segment that it is for, alone; bodies behind body are there
	ahead    int64  // so many bytes of them
	leasing  uint64 // Store.leasing when it was taken
	full     bool   // somebody waits for room that it has not
	encoding sync.WaitGroup

	// From takeGroup to its landing.
	kind    segment.FrameKind
	flight  journal.Flight
	slot    int   // of Store.syncing
	written bool  // or failed
	err     error // of its frame
}

// Sizes of a group's buffers. What a batch needs beyond them is made for it.
const (
	groupTable = 512 << 10
	groupBody  = 4 << 20
	// chunkMax is the longest body that goes into the frame of its message.
	chunkMax = 1 << 20
	// attemptRoom is left in a table for Attempt records that ride along.
	attemptRoom = 16 << 10
)

// limits are the sizes that fit the segments of a store.
type groupLimits struct {
	table, body int // of an ordinary group
	chunk       int // of a body in its message's frame
	stage       int // of a staged body in memory
	frame       int64
	message     int64 // of a body whose chunks a frame can list
}

func limitsFor(frameMax int64) groupLimits {
	l := groupLimits{frame: frameMax}
	// Small segments are for tests and small stores: the parts keep their proportions.
	l.body = int(min(groupBody, frameMax/2))
	l.table = int(min(groupTable, frameMax/4))
	l.chunk = min(chunkMax, l.body/2)
	l.stage = min(stageChunk, l.chunk)
	const entry = 16                                      // bytes of a frame for each chunk
	l.message = frameMax * 3 / 4 / entry * int64(l.stage) // the rest is for the recipients
	return l
}

// room is what a frame of an ordinary group may take, with what it is padded by.
func (l *groupLimits) room() segment.Room {
	return segment.Room{Table: l.table + segment.AlignmentMin, Body: l.body + segment.AlignmentMin}
}

// open gives an ordinary group that is empty the memory for its frame. Store.mu is held, and no
// other group is filling.
func (g *group) open(r *segment.Recent) {
	g.slab, g.table, g.body = r.Next()
	g.table = g.table[:segment.FrameHeaderSize]
}

// seal ends the filling of a group: another may be opened. Store.mu is held.
func (g *group) seal(r *segment.Recent) {
	if g.slab != nil {
		g.table, g.body = r.Take(g.slab, g.table, g.body)
	}
}

// largeGroup has memory of its own.
func largeGroup(table, body int) *group {
	return &group{
		table: segment.Aligned(table + segment.AlignmentMin)[:segment.FrameHeaderSize],
		body:  segment.Aligned(body + segment.AlignmentMin)[:0],
	}
}

// fits reports whether so much more fits in.
func (g *group) fits(table, body int) bool {
	const slack = segment.AlignmentMin // to pad in place
	return len(g.table)+table+slack <= cap(g.table) && len(g.body)+body+slack <= cap(g.body)
}

func (g *group) empty() bool { return len(g.tickets) == 0 }

// size is what the group carries, in bytes.
func (g *group) size() int { return len(g.table) + len(g.body) }

// hasFrame reports whether anything is written for it.
func (g *group) hasFrame() bool { return g.records > 0 || g.kind == segment.Marker }

// reset makes the group ready to be opened again.
func (g *group) reset() {
	g.slab, g.table, g.body = nil, nil, nil
	g.records, g.placed, g.growth, g.nudge, g.forgets, g.full = 0, 0, 0, false, 0, false
	g.written, g.err, g.ahead, g.cold = false, nil, 0, 0
	clear(g.tickets)
	g.tickets = g.tickets[:0]
	clear(g.attempts)
	g.attempts = g.attempts[:0]
}

// reservations are the IDs that NewID handed out and no message took yet: the last
// million or two of them.
type reservations struct{ young, old map[uint64]struct{} }

const reservationsMax = 1 << 20

func (r *reservations) add(id uint64) {
	if len(r.young) >= reservationsMax || r.young == nil {
		r.young, r.old = make(map[uint64]struct{}), r.young
	}
	r.young[id] = struct{}{}
}

func (r *reservations) has(id uint64) bool {
	_, young := r.young[id]
	_, old := r.old[id]
	return young || old
}

func (r *reservations) take(id uint64) {
	delete(r.young, id)
	delete(r.old, id)
}
