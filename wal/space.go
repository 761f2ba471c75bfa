package wal

import (
	"errors"
	"fmt"
	"sync"
	"sync/atomic"
	"time"

	"github.com/mtawal/mtawal/internal/disk"
	"github.com/mtawal/mtawal/journal"
	"github.com/mtawal/mtawal/mailq"
	"github.com/mtawal/mtawal/segment"
)

// The room on the disk, in three bands. Intake is admitted while the reserve is whole. What
// a batch that settles adds, a bounce, may use bounceSegments of it. The rest is for records that
// hold no bytes for longer than until the second checkpoint behind them: used-marks,
// deferrals, attempts and markers. What was admitted last lies in the segment that is written,
// which may be pinned by it as a whole. Behind it two checkpoints are made at each change of segment
// while intake is shut, so marks need the next segment and the one after that in turn: with the
// pinned one marksSegments, whatever the order in which mail is settled. One more is the spare file
// that is for the Open frame alone.
//
// All of it but what is written now and next is in spareFiles, blocks that nobody else can take: so bounces
// go on, and the store drains to empty, also where others have filled the disk.
const (
	marksSegments  = 3
	openSegments   = 1
	bounceSegments = 2
	// reserveSegments is all of it.
	reserveSegments = marksSegments + openSegments + bounceSegments
	// resumeSegments is the room beyond the reserve at which intake that was shut resumes.
	resumeSegments = 1
	// frameSlack is how many blocks a frame, and those in flight before it, take beyond their bytes, and what
	// the segment keeps.
	frameSlack = 4 + 2*(flightsMax-1)
	// spareFiles of the reserve are blocks that nobody else can take.
	spareFiles = 4

	// spaceEvery is how often the room on the disk is looked at, beside each change of
	// segment.
	spaceEvery = time.Second
	// spareIdle is for how long a store must be empty until it gives its spare files back.
	spareIdle = 60 * time.Second
	// idleSegment is the size of the segments of a store that is.
	idleSegment = 1 << 20
	// earlyRest is how long checkpoints that are made early rest, in times of how long the last
	// one took.
	earlyRest = 10
)

// diskRoom is what was found at the last look at the disk.
type diskRoom struct {
	left    atomic.Int64  // bytes that the log could still take
	at      atomic.Uint64 // segment.Pos: where it ended
	reserve atomic.Int64
	next    atomic.Int64 // size of the next checkpoint that is in it
	bounded atomic.Bool  // by MaxBytes, not by the disk
	full    atomic.Bool  // a write of the log found no room
	shut    atomic.Bool  // intake ended at the reserve and has not resumed
	// refused is the largest intake that was refused since the last checkpoint was begun, with what it would have
	// added to the reserve.
	refused atomic.Int64
	idle    atomic.Bool // the store was empty for a while
	terse   atomic.Bool // a note was not kept since intake ended

	// Of the goroutine that looks.
	mailAt    time.Time // when there was mail
	enqueued  int64     // recipients, at the last look
	settledAt time.Time // when segments before the tail of an idle store were to go

	bound   atomic.Int64 // MaxBytes, or above it, see findBound
	looking sync.Mutex   // one look at a time
	taking  sync.Mutex   // from the answer that there is room until what it is for is counted
}

// measure looks at the room there is, for Admit, which does no I/O.
func (s *Store) measure() {
	sp := &s.space
	sp.looking.Lock()
	defer sp.looking.Unlock()
	end := s.log.End() // first: what is appended meanwhile counts twice rather than never
	left, bounded := s.lookAtRoom()
	next := s.folds.nextSize()
	reserve := reserveSegments*s.opt.SegmentSize + s.folds.uncovered(s.folds.wanted())
	above := s.lowerBound(&left, reserve, bounded)
	sp.next.Store(max(next, s.folds.covered()/2)) // the blocks that are held are for twice that
	sp.reserve.Store(reserve)
	sp.bounded.Store(bounded)
	sp.left.Store(left)
	sp.at.Store(uint64(end))
	switch {
	case above:
		sp.shut.Store(true)
	case left >= reserve+resumeSegments*s.opt.SegmentSize && !sp.full.Load():
		sp.shut.Store(false)
		sp.terse.Store(false)
	}
}

// lookAtRoom is how much the log could still take. A file that is being made meanwhile is neither free
// room nor a file that stands ready, and one that is made or removed between the two looks would be
// both: so it looks until nothing has changed.
func (s *Store) lookAtRoom() (left int64, bounded bool) {
	f := s.log.Files()
	for {
		free, bounded := s.freeBytes(f.Bytes)
		again := s.log.Files()
		if again.Turn == f.Turn {
			return free + min(f.Left, again.Left), bounded
		}
		f = again
	}
}

// freeBytes is what the files of the store may take beyond what they have, of which so
// much is the log's.
func (s *Store) freeBytes(bytes int64) (free int64, bounded bool) {
	free = 1 << 62
	if most := s.space.bound.Load(); most > 0 {
		free, bounded = most-bytes-claimsSize(s.opt.claims)-s.folds.bytes(), true
	}
	if d, err := s.dir.Space(); err == nil && d.Free < free {
		free, bounded = d.Free, false
	}
	return free, bounded
}

// roomForSegment is journal.Options.Room: no segment is made of the room that the next
// checkpoint needs beyond the blocks that are kept for it, for without it nothing would ever be
// given back. Where only MaxBytes is in the way a checkpoint goes above it rather than that what
// was admitted waits for ever.
func (s *Store) roomForSegment(have func() int64, more int64, last bool, take func()) error {
	s.space.taking.Lock()
	defer s.space.taking.Unlock()
	free, bounded := s.freeBytes(have())
	need := more
	if !last || !bounded || !s.allCameBack() {
		need += s.folds.uncovered(s.folds.nextSize())
	}
	if free < need {
		what := "the disk"
		if bounded {
			what = "MaxBytes"
		}
		return fmt.Errorf("%s has %d bytes for a segment that needs %d: %w", what, free, need, disk.ErrNoSpace)
	}
	take()
	return nil
}

// roomLeft is the room as it is after what was appended since the last look.
func (s *Store) roomLeft() int64 {
	from, to := segment.Pos(s.space.at.Load()), s.log.End()
	return s.space.left.Load() - int64(to.Segment()-from.Segment())*s.opt.SegmentSize - (to.Offset() - from.Offset())
}

// admitSpace refuses what would eat into the reserve; a bounce only what would leave
// too little of it for used-marks. placed is what was admitted and is not in the log yet.
//
// What marks need is whole segments, behind the one that the last batch lies in. A frame that finds no place in
// the tail leaves less of that unused than it has bytes, the blocks apart that it is padded with and that the
// tail keeps for a Marker and a Seal: so the segments are left if the bytes are, and frameSlack. With frames
// on their way before it, each may leave the rest of a segment: then so many bytes as they have must be left as well.
//
// growth is what those and this add to the next checkpoint: it takes room in each of its files.
func (s *Store) admitSpace(size, placed, growth int64, bounce bool) error {
	sp := &s.space
	left, reserve := s.roomLeft()-placed, sp.reserve.Load()
	if grown := s.folds.nextSize() + growth - sp.next.Load(); grown > 0 {
		reserve += 2 * foldFiles * grown
	}
	switch {
	case sp.full.Load():
	case bounce && left-size-placed-frameSlack*int64(s.dir.Block()) >= reserve-bounceSegments*s.opt.SegmentSize:
		return nil
	case bounce:
	case left < reserve:
		sp.shut.Store(true)
	case !sp.shut.Load() && left-size >= reserve:
		return nil
	}
	if !bounce {
		sp.refused.Store(max(sp.refused.Load(), size+reserve-sp.reserve.Load()))
	}
	return s.fullError(size, left-reserve)
}

// logRoom is what a body of so many bytes takes of the log, if nobody else writes meanwhile: the frames of its chunks,
// and in each segment the rest that none of them fits into. A body for which there is no room is to
// be refused before it takes what there is.
func (s *Store) logRoom(size int64) int64 {
	chunk := int64(s.limits.chunk)
	if size <= chunk {
		return size
	}
	frame := segment.FrameSize(segment.FrameHeaderSize+segment.ChunkSize, chunk, uint32(s.dir.Block()))
	frames, inSegment := (size+chunk-1)/chunk, s.limits.frame/frame
	return (frames + (frames+inSegment-1)/inSegment) * frame
}

// fullError says which bound ended the room.
func (s *Store) fullError(need, free int64) error {
	why := "disk"
	if s.space.bounded.Load() {
		why = "MaxBytes"
	}
	return &mailq.FullError{Reason: why, Need: need, Free: max(free, 0)}
}

// plenty reports whether so many bytes, that are for nothing in particular, can be taken while intake goes on.
func (s *Store) plenty(bytes int64) bool {
	return !s.space.shut.Load() && s.roomLeft()-bytes >= s.space.reserve.Load()+resumeSegments*s.opt.SegmentSize
}

// allCameBack reports whether no checkpoint will give anything back: both start in the tail.
func (s *Store) allCameBack() bool {
	f := &s.folds
	f.mu.Lock()
	defer f.mu.Unlock()
	tail := s.log.End().Segment()
	return f.sumNew != nil && f.sumNew.Pos.Segment() == tail && f.sumOld != nil && f.sumOld.Pos.Segment() == tail
}

// reserveIsWhole reports whether all of the reserve is there, with blocks for so many bytes for each
// checkpoint: then it is no matter whether those are taken.
func (s *Store) reserveIsWhole(checkpoint int64) bool {
	left, _ := s.lookAtRoom()
	return left >= reserveSegments*s.opt.SegmentSize+s.folds.uncovered(checkpoint)
}

// short reports whether intake is shut, or about to be, for want of room.
func (s *Store) short() bool {
	return s.space.full.Load() || s.space.shut.Load() || s.roomLeft() < s.space.reserve.Load()
}

// tight reports whether a checkpoint is worth it for the room that it may give back: smaller
// intake than was refused may well be admitted.
func (s *Store) tight() bool {
	return s.short() || s.tightFor(s.space.refused.Load())
}

// tightFor reports whether intake of that size would be refused.
func (s *Store) tightFor(refused int64) bool {
	return refused > 0 && s.roomLeft()-refused < s.space.reserve.Load()
}

// spaceLoop looks at the disk, keeps the reserve, and asks for checkpoints before they are
// due when they may give room back.
func (s *Store) spaceLoop() {
	defer s.bg.Done()
	tick := time.NewTicker(spaceEvery)
	defer tick.Stop()
	for {
		select {
		case <-s.open.Done():
			return
		case <-s.rotated:
		case <-tick.C:
			s.keepReserve()
			s.endLate()
			if s.short() {
				s.compaction.poke()
			}
		}
		s.measure()
		if s.tight() && s.folds.early(s.opt.now(), s.log.End()) {
			s.folds.poke()
		}
	}
}

// keepReserve has spare files made as long as there is mail.
func (s *Store) keepReserve() {
	now := s.opt.now()
	s.mu.Lock()
	// Where mail is delivered as fast as it comes none may be there at any look.
	n := s.table.Counts.Enqueued
	mail := s.table.Messages() > 0 || n != s.space.enqueued || s.staged > 0
	s.mu.Unlock()
	s.space.enqueued = n
	if mail {
		s.space.mailAt = now
	}
	spares := 0
	if now.Sub(s.space.mailAt) < spareIdle {
		spares = spareFiles
	}
	s.log.Reserve(spares)
	s.folds.keepRoom(spares > 0)
	was := s.space.idle.Swap(spares == 0)
	if spares > 0 {
		return
	}
	s.log.Idle(s.opt.idle)
	if was { // else the small segment is being made
		s.shrink()
	}
}

// shrink has a store that was empty for a while give back what it does not need: the log goes on in a
// small segment, and all before it is dead. What a crash, or an error, has kept from going with that
// goes now and then.
func (s *Store) shrink() {
	var err error
	switch now := s.opt.now(); {
	case s.log.Shrinks():
		err = s.nudge()
	case now.Sub(s.space.settledAt) >= spareIdle && s.keptByCheckpoints():
		s.space.settledAt = now
	default:
		return // there is no small one yet, or it is in use
	}
	if err == nil {
		err = s.settleFolds()
	}
	if err != nil && !errors.Is(err, ErrClosed) && !errors.Is(err, ErrFailed) {
		s.opt.Logger.Warn("the idle store could not be made smaller", "err", err)
	}
}

// keptByCheckpoints reports whether there are segments before the tail, and a checkpoint may have some of
// them given back.
func (s *Store) keptByCheckpoints() bool {
	s.mu.Lock()
	applied := s.table.Applied
	s.mu.Unlock()
	f := &s.folds
	f.mu.Lock()
	newer := f.sumNew
	f.mu.Unlock()
	return len(s.log.Numbers()) > 1 && (newer == nil || newer.Pos < applied || s.pinnedByOlder())
}

// keepsNote reports whether a note that adds so much to the next checkpoint is kept: always,
// while there is room; else as long as blocks are kept for it. Store.mu is held.
func (s *Store) keepsNote(n int64) bool {
	f := &s.folds
	if f.room.none.Load() || !s.short() || f.nextSize()+s.adding+n <= f.covered() {
		return true
	}
	if !s.space.terse.Swap(true) {
		s.opt.Logger.Warn("notes of outcomes are not kept while the disk is full", "dir", s.dir.Path())
	}
	return false
}

// early reports whether a checkpoint that is not due is worth it for the room that it may give
// back.
func (f *foldState) early(now time.Time, end segment.Pos) bool {
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.sumNew == nil || f.sumNew.Pos.Segment() < end.Segment() {
		return true
	}
	return f.grown.Load() > 0 && now.Sub(f.ended) >= earlyRest*f.took
}

// pinnedByOlder reports whether there are segments that are kept for nothing but the replay
// of the older checkpoint.
func (s *Store) pinnedByOlder() bool { return s.coming() > 0 }

// coming is how many segments are kept for nothing but that.
func (s *Store) coming() int {
	f := &s.folds
	f.mu.Lock()
	newer := f.sumNew
	f.mu.Unlock()
	return len(f.dead(s.log.Numbers(), newer, newer))
}

// nudge moves the position of the log by a Marker, so that the next checkpoint has one of its
// own. It waits until that is done, or can't be had on a full disk.
func (s *Store) nudge() error {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.phase >= closing {
		return s.gate(true)
	}
	s.nudged = true
	for s.nudged {
		if s.phase >= closing {
			return s.gate(true)
		}
		s.poke()
		s.roomy.Wait()
	}
	return nil
}

// nudgeFull does what nudge waits for while the committer waits for room itself: each
// segment has a block left for it.
func (s *Store) nudgeFull() error {
	s.mu.Lock()
	wanted := s.nudged
	s.mu.Unlock()
	if !wanted {
		return nil
	}
	d := journal.Draft{Kind: segment.Marker, Table: segment.Aligned(2 * segment.AlignmentMin)[:segment.FrameHeaderSize], Lease: s.leased, Spare: true}
	h, err := s.log.Append(&d)
	s.mu.Lock()
	defer s.mu.Unlock()
	s.nudged = false
	s.roomy.Broadcast()
	if err != nil {
		return err
	}
	s.folds.grew(h.Len, 0)
	return s.table.ApplyFrame(&segment.Frame{FrameHeader: h})
}
