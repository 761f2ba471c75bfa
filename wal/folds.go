package wal

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"sync"
	"sync/atomic"
	"time"

	"github.com/mtawal/mtawal/checkpoint"
	"github.com/mtawal/mtawal/internal/barrier"
	"github.com/mtawal/mtawal/segment"
)

// A checkpoint is due when the log has grown by foldGrowth times the size of the last
// one, and by at least half a segment, so that one that is full is soon known to be dead: such checkpoints cost at most a tenth of what
// the log itself costs. A second one is made at once if segments of twice as many bytes come back: a twentieth of those at most.
//
// Marks are short: a backlog that is delivered while little comes would stay where it is for long. So one is due as well
// when as much has died since the last one, if that is a part of what lives in deadPart. Each byte dies once, so this is
// another tenth at most, and a backlog that is delivered whole takes deadPart+1 checkpoints of its size. A staged body counts
// as dead until it is mail: what has been staged before a checkpoint and is delivered behind it counts for nothing there.
const (
	foldGrowth = 10
	deadPart   = 4
)

// foldState is what the background fold knows. newest and older are the fold's own, under
// running.
type foldState struct {
	s       *Store
	running sync.Mutex // one fold at a time
	newest  *checkpoint.File
	older   *checkpoint.File

	grown  atomic.Int64 // bytes of the log since the last one was begun
	growth atomic.Int64 // what they may add to a checkpoint
	size   atomic.Int64 // of newest
	weight atomic.Int64 // bytes of the log that mail held when it was begun
	live   atomic.Int64 // that it holds now
	room   foldRoom
	wake   chan struct{}

	mu      sync.Mutex
	failed  error // of the last fold
	odd     error // what does not add up, see audit
	ended   time.Time
	took    time.Duration
	sumNew  *checkpoint.Summary
	sumOld  *checkpoint.Summary
	streams map[uint32]bool // segments with chunks that were not named yet at newest
	newInfo []CheckpointInfo
	pins    map[*pin]struct{} // of snapshots that are under way
	readers int               // snapshots that read in checkpoints
}

// CheckpointInfo is a checkpoint of a store.
type CheckpointInfo struct {
	Name     string `json:"name"`
	Position string `json:"position"`
	Bytes    int64  `json:"bytes"`
	Messages int64  `json:"messages"`
}

func infoOf(c *checkpoint.File) CheckpointInfo {
	return CheckpointInfo{Name: c.Name, Position: c.Pos.String(), Bytes: c.Size, Messages: c.Messages()}
}

func (f *foldState) init(s *Store, r *recovered) error {
	f.s, f.newest, f.older = s, r.newest, r.older
	for _, c := range []*checkpoint.File{r.newest, r.older} {
		if c != nil {
			f.setHolds(c.Name, c.Size+heldBefore)
		}
	}
	f.wake = make(chan struct{}, 1)
	f.grown.Store(r.found.ReplayedBytes)
	f.live.Store(r.table.Counts.Weight)
	if f.newest != nil {
		f.weight.Store(f.newest.Counts.Weight)
	}
	f.note(nil) // streams of an earlier opening are garbage
	f.grew(0, r.growth)
	return f.adoptRoom()
}

// note publishes what the checkpoints say.
func (f *foldState) note(streams map[uint32]bool) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.streams = streams
	f.sumNew, f.sumOld, f.newInfo = nil, nil, nil
	if f.newest != nil {
		s := f.newest.Summary()
		f.sumNew = &s
		f.size.Store(f.newest.Size)
		f.newInfo = append(f.newInfo, infoOf(f.newest))
	}
	if f.older != nil {
		s := f.older.Summary()
		f.sumOld = &s
		f.newInfo = append(f.newInfo, infoOf(f.older))
	}
}

// grew counts what was appended and wakes the fold when it is due.
func (f *foldState) grew(n, growth int64) {
	f.growth.Add(growth)
	grown, live := f.grown.Add(n), f.live.Load()
	due := max(foldGrowth*f.size.Load(), f.s.opt.fold)
	if died := grown + f.weight.Load() - live; grown >= due || died >= max(due, live/deadPart) {
		f.poke()
	}
}

func (f *foldState) poke() {
	select {
	case f.wake <- struct{}{}:
	default:
	}
}

// foldLoop makes checkpoints as they become due.
func (s *Store) foldLoop() {
	defer s.bg.Done()
	for {
		select {
		case <-s.open.Done():
			return
		case <-s.folds.wake:
		}
		// What was refused until now is for this checkpoint. What is refused while it is made, which does not know the
		// marks of meanwhile, is for the next: see spaceLoop.
		refused := s.space.refused.Swap(0)
		err := s.fold()
		if err == nil && (s.tight() || s.tightFor(refused) || s.secondPays()) && s.pinnedByOlder() {
			if err = s.nudge(); err == nil {
				err = s.fold()
			}
		}
		if err != nil && s.open.Err() != nil {
			return // the end of the store ended it
		}
		if err != nil {
			s.opt.Logger.Error("a checkpoint could not be made; the log is kept as it is", "err", err)
			continue
		}
		s.compaction.poke()
		s.folds.grew(0, 0) // by the size of the new one it may be due again
	}
}

// secondPays reports whether what the older of the two checkpoints keeps is worth another one.
func (s *Store) secondPays() bool {
	return int64(s.coming())*s.opt.SegmentSize >= 2*foldGrowth*s.folds.size.Load()
}

// fold makes a checkpoint at the position that is applied now, and recycles what the two
// newest say is dead. A failure leaves everything as it was: the log is the truth. It ends with ErrClosed when
// the store does.
func (s *Store) fold() error { return s.foldWithin(s.open) }

// foldWithin does so until a context ends.
func (s *Store) foldWithin(ctx context.Context) error {
	f := &s.folds
	f.running.Lock()
	defer f.running.Unlock()
	s.mu.Lock()
	to := s.table.Applied
	// What comes meanwhile is behind to, and counts again. It is not due again before as much has come.
	grown, growth, weight := f.grown.Swap(0), f.growth.Load(), f.weight.Swap(s.table.Counts.Weight)
	streams := s.streamSegments()
	at := totals{s.table.Counts, int64(s.table.Messages())}
	s.mu.Unlock()
	began := s.opt.now()
	err := f.makeOne(ctx, to, streams, growth)
	var odd error
	if err == nil {
		var files bool
		if files, odd = s.audit(at); files {
			err = odd
		}
	}
	f.mu.Lock()
	f.failed, f.odd, f.ended = err, odd, s.opt.now()
	f.took = f.ended.Sub(began)
	f.mu.Unlock()
	if err != nil {
		if ctx.Err() != nil { // else not at once again: when as much has been appended as made it due
			f.grown.Add(grown)
			f.weight.Store(weight)
		}
		return err
	}
	return s.recycle()
}

func (f *foldState) makeOne(ctx context.Context, to segment.Pos, streams map[uint32]bool, growth int64) error {
	if f.newest != nil && f.newest.Pos == to {
		return nil
	}
	if err := f.s.log.Sync(to); err != nil {
		return err // only with NoSync: a checkpoint promises what it folds
	}
	f.takesAtLeast(checkpoint.SpareName, f.nextSize()) // which it is not refused: nothing is given back without it
	c, err := checkpoint.Publish(ctx, f.s.dir, f.newest, f.s.log, f.s.uuid, to, f.holds(checkpoint.SpareName))
	if errors.Is(err, segment.ErrCorrupt) && f.older != nil {
		// It may have decayed since the store was opened. What the older one needs is there still.
		f.s.opt.Logger.Warn("folding from the older checkpoint", "err", err)
		c, err = checkpoint.Publish(ctx, f.s.dir, f.older, f.s.log, f.s.uuid, to, f.holds(checkpoint.SpareName))
	}
	if err != nil {
		return errors.Join(fmt.Errorf("checkpoint at %v: %w", to, err), f.unpublished())
	}
	f.growth.Add(-growth)
	// The newer one was read back and its name is durable: now the oldest may go.
	oldest := f.older
	f.older, f.newest = f.newest, c
	f.s.log.Forget(c.Pos)
	f.note(streams)
	var errs []error
	if oldest != nil {
		errs = append(errs, oldest.Close())
	}
	errs = append(errs, f.published(c, oldest), f.removeOthers(), f.count())
	return errors.Join(append(errs, f.keepRoomLocked())...)
}

// removeOthers removes checkpoints that are not one of the two that are kept, durably: what is made in their
// room must not find them there again.
func (f *foldState) removeOthers() error {
	list, err := f.s.dir.List()
	if err != nil {
		return err
	}
	var errs []error
	removed := false
	for _, i := range list {
		if _, ok := checkpoint.ParseName(i.Name); !ok || i.Name == f.newest.Name || f.older != nil && i.Name == f.older.Name {
			continue
		}
		if err := f.s.dir.Remove(i.Name); err != nil && !errors.Is(err, fs.ErrNotExist) {
			errs = append(errs, fmt.Errorf("removing an old checkpoint: %w", err))
		}
		removed = true
	}
	if removed {
		errs = append(errs, f.s.dir.Sync())
	}
	return errors.Join(errs...)
}

// readBack reads what an earlier run left back from the device: Plan goes by two checkpoints
// of which both were. Where one can't be read nothing is recycled, and it goes when
// two newer ones are there.
func (f *foldState) readBack() bool {
	for _, c := range []*checkpoint.File{f.older, f.newest} {
		if c == nil || c.Verified() || barrier.Gone(barrier.OlderReadBack) {
			continue
		}
		err := c.Check(true)
		if err == nil {
			err = c.AddsUp()
		}
		if err != nil {
			f.s.opt.Logger.Warn("nothing is recycled until there is another checkpoint", "err", err)
			return false
		}
	}
	return true
}

// recycle takes dead segments out of the log.
func (s *Store) recycle() error {
	f := &s.folds
	if !f.readBack() {
		return nil
	}
	f.mu.Lock()
	newer, older := f.sumNew, f.sumOld
	f.mu.Unlock()
	dead := f.dead(s.log.Numbers(), newer, older)
	if len(dead) == 0 {
		return nil
	}
	err := s.log.Recycle(dead)
	s.measure()
	return err
}

// streamSegments are the segments that hold chunks which no message names yet. They are
// taken together with the position of a checkpoint: what is not durable then comes behind it.
// Store.mu is held.
func (s *Store) streamSegments() map[uint32]bool {
	pinned := make(map[uint32]bool)
	if barrier.Gone(barrier.StreamPin) {
		return pinned
	}
	for st := range s.streams {
		st.pins(pinned)
	}
	return pinned
}

// Checkpoint makes a checkpoint of all that is applied now. When it returns nil it is on
// disk and was read back, and every recipient is accounted for: else it is ErrUnaccounted.
func (s *Store) Checkpoint(ctx context.Context) error {
	return s.background(ctx, func() error {
		if err := s.fold(); err != nil {
			return err
		}
		s.folds.mu.Lock()
		defer s.folds.mu.Unlock()
		return s.folds.odd
	})
}

// Compact gives space back: it makes the checkpoints that are needed to know what is dead,
// recycles segments in which nothing lives, and empties those in which little does, as
// fast as the disk goes. When it returns nil the files of these are removed, or kept for another life, and with
// Options.Scrub hold zeros, but for those that somebody reads, and those with a message that is too long for the frames
// of a SegmentSize made smaller since. Options.Trace is told how far it has come. It may be
// interrupted at any time: what was copied by then is done.
func (s *Store) Compact(ctx context.Context) error {
	return s.background(ctx, func() error {
		if err := s.settleFolds(); err != nil {
			return err
		}
		if err := s.compact(ctx, 0); err != nil {
			return err
		}
		s.log.Collected(s.open.Done())
		return nil
	})
}

// background runs work that the context does not stop, and waits for it as long as the
// context lasts.
func (s *Store) background(ctx context.Context, work func() error) error {
	s.mu.Lock()
	if err := s.gate(true); err != nil {
		s.mu.Unlock()
		return err
	}
	s.bg.Add(1)
	s.mu.Unlock()
	done := make(chan error, 1)
	go func() {
		defer s.bg.Done()
		done <- work()
	}()
	select {
	case err := <-done:
		return err
	case <-ctx.Done():
		return ctx.Err()
	}
}
