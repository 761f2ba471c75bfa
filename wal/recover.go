package wal

import (
	"errors"
	"fmt"
	"slices"

	"github.com/mtawal/mtawal/checkpoint"
	"github.com/mtawal/mtawal/internal/barrier"
	"github.com/mtawal/mtawal/internal/disk"
	"github.com/mtawal/mtawal/journal"
	"github.com/mtawal/mtawal/segment"
	"github.com/mtawal/mtawal/state"
)

// recovered is a store as its files tell it, nothing written yet.
type recovered struct {
	dir    disk.Dir
	uuid   [16]byte
	found  *journal.Found
	table  *state.Table
	newest *checkpoint.File // nil: none
	older  *checkpoint.File
	bad    []string        // checkpoint files that are not usable
	said   []journal.Start // where they say that the log was durable
	growth int64           // what was replayed may add to a checkpoint
	claims claimsFound
	doubt  map[state.Ref]struct{} // started and not settled
	notes  []error                // what is wrong with bad
	copied bool                   // a copy that was never opened: all of its mail is in doubt
	sizes  map[uint32]int64       // of segment files, by number
}

func (r *recovered) close() error {
	var errs []error
	if r.found != nil {
		errs = append(errs, r.found.Close())
	}
	for _, c := range []*checkpoint.File{r.newest, r.older} {
		if c != nil {
			errs = append(errs, c.Close())
		}
	}
	return errors.Join(errs...)
}

// recoverStore reads the newest usable checkpoint and replays the log behind it.
func recoverStore(d disk.Dir, uuid [16]byte, readOnly bool) (_ *recovered, err error) {
	r := &recovered{dir: d, uuid: uuid, doubt: make(map[state.Ref]struct{})}
	defer func() {
		if err != nil {
			err = errors.Join(err, r.close())
		}
	}()
	if r.claims, err = readClaims(d, uuid); err != nil {
		return nil, err
	}
	files, err := r.openCheckpoints()
	if err != nil {
		return nil, err
	}
	for i, c := range files {
		err = r.replay(c, readOnly)
		if err == nil {
			r.newest = c
			for _, o := range files[i+1:] {
				if r.older == nil {
					r.older = o
				} else if err := o.Close(); err != nil {
					return nil, err
				}
			}
			break
		}
		if cerr := c.Close(); cerr != nil || !errors.Is(err, errUnusable) {
			for _, o := range files[i+1:] {
				err = errors.Join(err, o.Close())
			}
			return nil, r.noted(errors.Join(err, cerr))
		}
		r.unusable(c.Name, err)
		r.said = append(r.said, startOf(&c.Info))
	}
	if r.newest == nil {
		if err = r.replay(nil, readOnly); err != nil {
			return nil, r.noted(err)
		}
	}
	if err := r.keep(); err != nil {
		return nil, err
	}
	return r, r.findDoubt()
}

// startOf is where replay begins behind a checkpoint.
func startOf(c *checkpoint.Info) journal.Start {
	return journal.Start{Pos: c.Pos, Last: c.LastHeader()}
}

func (r *recovered) unusable(name string, err error) {
	r.bad = append(r.bad, name)
	if !errors.Is(err, errUnusable) {
		err = fmt.Errorf("%w: %w", errUnusable, err)
	}
	r.notes = append(r.notes, fmt.Errorf("checkpoint %s: %w", name, err))
}

// noted adds what is wrong with checkpoints to an error that has another cause.
func (r *recovered) noted(err error) error {
	if len(r.notes) == 0 {
		return err
	}
	return fmt.Errorf("%w (%v)", err, errors.Join(r.notes...))
}

// openCheckpoints opens what there is, the newest first.
func (r *recovered) openCheckpoints() ([]*checkpoint.File, error) {
	list, err := r.dir.List()
	if err != nil {
		return nil, fmt.Errorf("listing %s: %w", r.dir.Path(), err)
	}
	var files []*checkpoint.File
	var logBytes int64 // at most
	r.sizes = make(map[uint32]int64)
	for _, f := range list {
		if n, ok := segment.ParseName(f.Name); ok {
			logBytes += min(f.Size, segment.SizeMax)
			r.sizes[n] = f.Size
		}
	}
	for _, f := range slices.Backward(list) { // names sort by position
		if _, ok := checkpoint.ParseName(f.Name); !ok {
			continue
		}
		c, err := checkpoint.Open(r.dir, f.Name, r.uuid)
		if err == nil && c.Pos == 0 {
			err = errors.Join(&CorruptError{File: f.Name, Reason: "a checkpoint from before the first frame"}, c.Close())
		}
		if unfit(err) {
			r.unusable(f.Name, err)
			// Where its header is whole, it still says how far the log was durable.
			if info, err := checkpoint.ReadInfo(r.dir, f.Name, r.uuid); err == nil {
				r.said = append(r.said, startOf(&info))
			}
			continue
		}
		if err != nil {
			for _, c := range files {
				err = errors.Join(err, c.Close())
			}
			return nil, err
		}
		c.Bound(logBytes)
		files = append(files, c)
	}
	return files, nil
}

// errUnusable: the checkpoint is damaged, or not of this log; the one before may serve. What is
// found in the log behind its position is not of that kind: the one before has to get past it too.
var errUnusable = errors.New("not usable")

// unfit reports whether an error is about the bytes of a checkpoint: they are damaged, or the
// device can't read them. What else keeps a file from being opened may pass, and is the error of Open.
func unfit(err error) bool {
	return errors.Is(err, segment.ErrCorrupt) || errors.Is(err, disk.ErrFault)
}

// replay makes the state from a checkpoint and the log behind it.
func (r *recovered) replay(c *checkpoint.File, readOnly bool) error {
	t := state.NewTable()
	var start journal.Start
	passed := func(*segment.FrameHeader) {}
	if c != nil {
		if !readOnly { // else it may be beside an owner, whose commits would wait
			// The log is read while the checkpoint is decoded.
			ahead := journal.AskAhead(r.dir, r.uuid, c.Last, r.endHint(c.Pos)) // the frame that it begins behind is looked at too
			defer ahead.End()
			passed = ahead.Passed
		}
		if err := c.Load(t); err != nil {
			if unfit(err) {
				err = fmt.Errorf("%w: %w", errUnusable, err)
			}
			return err
		}
		start = startOf(&c.Info)
	}
	known := journal.Known{Said: r.said}
	if r.claims.exact {
		known.Promise = r.claims.synced
	}
	outcomes := r.claims.outcomes()
	r.growth = 0
	found, err := journal.Recover(r.dir, r.uuid, start, known, readOnly, func(f *segment.Frame) error {
		if err := t.ApplyFrame(f); err != nil {
			return err
		}
		passed(&f.FrameHeader)
		return f.ForEach(func(pos segment.Pos, rec segment.Record) error {
			r.growth += recordGrowth(rec)
			return outcomes.note(pos, rec)
		})
	})
	if errors.Is(err, journal.ErrStart) {
		return fmt.Errorf("%w: %w", errUnusable, err)
	}
	if err != nil {
		return err
	}
	r.found, r.table = found, t
	r.claims.settled = outcomes
	return nil
}

// endHint is about where the log ends that is replayed from a position: the claim table says so behind a kill, and
// behind a power cut it is taken to end in its segment.
func (r *recovered) endHint(from segment.Pos) segment.Pos {
	if to := r.claims.synced; r.claims.exact && to > from {
		return to
	}
	return segment.MakePos(from.Segment(), min(r.sizes[from.Segment()], from.Offset()+endGuess))
}

// endGuess is half of a segment of the default size.
const endGuess = 32 << 20

// keep lets go of the segments that are dead: those from before both checkpoints in which
// nothing lives. On the word of one checkpoint alone nothing is, nor on that of one that was
// not read back; where nothing seems to be dead, as a rule, none needs to be.
func (r *recovered) keep() error {
	live, oldest := needed(r.newest, r.table, r.found), uint32(1)
	if r.older != nil && r.found.Dead(r.older.Pos.Segment(), live) {
		_, err := r.found.Holds(startOf(&r.older.Info))
		for _, c := range []*checkpoint.File{r.newest, r.older} {
			if err == nil && !c.Verified() && !barrier.Gone(barrier.OlderReadBack) {
				if err = c.Check(true); err == nil {
					err = c.AddsUp()
				}
			}
		}
		if err == nil {
			oldest = r.older.Pos.Segment()
		} else {
			r.notes = append(r.notes, fmt.Errorf("segments that seem to be dead are kept: %w", err))
		}
	}
	return r.found.Keep(oldest, live)
}

// needed is the segments that hold something live after the replay: what the checkpoint
// names, and chunks of bodies that were there before the checkpoint's position, of messages
// that came behind it. Where a segment that the checkpoint names is gone, only those count in
// which something lives still: the older of two checkpoints may name segments that were
// recycled on the word of the newer.
func needed(c *checkpoint.File, t *state.Table, found *journal.Found) map[uint32]struct{} {
	need := make(map[uint32]struct{})
	t.ForEachExtent(func(x *state.Extent) { need[x.Pos.Segment()] = struct{}{} })
	if c == nil {
		return need
	}
	var usage map[uint32]checkpoint.Usage
	for n := range c.Usage() {
		if found.Need(n) != nil && usage == nil {
			usage = liveUsage(t)
		}
		if usage == nil || usage[n].Messages > 0 || found.Need(n) == nil {
			need[n] = struct{}{}
		}
	}
	return need
}

// outcomeLog notes where the log settles what the claim table names.
type outcomeLog struct {
	ids  map[uint64]struct{}
	last map[[2]uint64]segment.Pos // by ID and index
}

func (c *claimsFound) outcomes() *outcomeLog {
	o := &outcomeLog{ids: make(map[uint64]struct{}), last: make(map[[2]uint64]segment.Pos)}
	for _, r := range c.runs {
		o.ids[r.id] = struct{}{}
	}
	return o
}

func (o *outcomeLog) note(pos segment.Pos, r segment.Record) error {
	if r.Kind() != segment.KindSettle {
		return nil
	}
	id := r.ID()
	if _, ok := o.ids[id]; ok {
		r.Runs(func(s segment.SettleRun) {
			if s.Edit {
				return // the attempt goes on
			}
			for i := s.First; i < s.First+s.Count; i++ {
				o.last[[2]uint64{id, uint64(i)}] = pos
			}
		})
	}
	return nil
}

// findDoubt works out which recipients were started and not settled. If the owner before
// died in this boot and on this mount, the claim table is exact. Else this was a power
// cut, or a Close: the log's Attempt records count, and the table is a hint.
//
// A table that was emptied may come back with a power cut. The opening behind it has put all of
// it in doubt; where that lies behind the replay the replay tells, else that the checkpoint is of
// another epoch, since none is made before an opening has ended.
func (r *recovered) findDoubt() error {
	var told segment.Pos
	if r.newest != nil && r.newest.LastHeader().Nonce != r.claims.gen {
		told = r.newest.Pos
	}
	for _, run := range r.claims.runs {
		if run.pos < told {
			continue
		}
		slot, ok := r.table.Find(run.id)
		if !ok {
			continue
		}
		n := uint32(r.table.Len(slot))
		for i := run.first; i < n && i-run.first < run.count; i++ {
			ref := state.Ref{Slot: slot, Index: i}
			settled := r.claims.settled.last[[2]uint64{run.id, uint64(i)}] >= max(run.pos, 1)
			if r.table.Rcpt(ref).Standing != state.Used && !settled {
				r.doubt[ref] = struct{}{}
			}
		}
	}
	if r.warm() {
		return nil
	}
	r.table.ForEach(func(slot uint32) {
		list := r.table.Recipients(slot)
		for i := range list {
			if list[i].Standing != state.Used && list[i].Flags&state.Started != 0 {
				r.doubt[state.Ref{Slot: slot, Index: uint32(i)}] = struct{}{}
			}
		}
	})
	return nil
}

// doubtAll puts all of the mail in doubt: the store that this is a copy of may have delivered
// it since.
func (r *recovered) doubtAll() {
	r.copied = true
	r.table.ForEach(func(slot uint32) {
		list := r.table.Recipients(slot)
		for i := range list {
			if list[i].Standing != state.Used {
				r.doubt[state.Ref{Slot: slot, Index: uint32(i)}] = struct{}{}
			}
		}
	})
}

// warm reports whether the page cache is as the owner before left it, and the table with
// it. A log that ends before the table's synced position was not left so.
func (r *recovered) warm() bool { return r.claims.exact && r.claims.synced <= r.found.End }

// clean reports whether a Close had come before, or nothing that could have ended otherwise.
func (r *recovered) clean() bool {
	return r.copied || r.claims.closed != 0 && r.claims.closed == r.table.Applied || r.table.Epoch == 0
}
