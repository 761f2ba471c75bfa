package wal

import (
	"cmp"
	"context"
	"encoding/hex"
	"errors"
	"fmt"
	"io/fs"
	"slices"
	"strings"
	"sync"

	"github.com/mtawal/mtawal/checkpoint"
	"github.com/mtawal/mtawal/internal/disk"
	"github.com/mtawal/mtawal/journal"
	"github.com/mtawal/mtawal/mailq"
	"github.com/mtawal/mtawal/segment"
	"github.com/mtawal/mtawal/state"
)

// Open opens the store in a directory, which is made, with a new store in it, if it is
// not there or empty. When it returns nil, all that had been acknowledged is there,
// what was started and not settled is in doubt, and both are durable.
//
// Errors: ErrLocked if it is open elsewhere; ErrNotStore if the directory holds
// something else, or a store of which parts are missing; ErrVersion; ErrCorrupt if
// bytes that had been durable are not there, with nothing touched; those of the
// file system.
func Open(dir string, o Options) (*Store, error) {
	o, err := o.withDefaults()
	if err != nil {
		return nil, err
	}
	d, err := o.fs.OpenDir(dir, true)
	if err != nil {
		return nil, fmt.Errorf("opening %s: %w", dir, err)
	}
	s, err := open(d, o)
	if err != nil {
		return nil, errors.Join(fmt.Errorf("opening the store in %s: %w", dir, err), d.Close())
	}
	return s, nil
}

func open(d disk.Dir, o Options) (_ *Store, err error) {
	lock, err := d.Lock(lockName)
	if err != nil {
		return nil, err
	}
	defer func() {
		if err != nil {
			err = errors.Join(err, lock.Close())
		}
	}()
	m, err := ensureStore(d, &o)
	if err != nil {
		return nil, err
	}
	r, err := recoverStore(d, m.uuid, false)
	if err != nil {
		return nil, err
	}
	s := newStore(d, lock, m.uuid, o)
	if err = s.resume(r); err != nil {
		return nil, errors.Join(err, r.close())
	}
	return s, nil
}

// ensureStore reads META, and makes a store where the directory is empty or where a
// crash interrupted that.
func ensureStore(d disk.Dir, o *Options) (meta, error) {
	m, err := readMeta(d)
	switch {
	case err == nil && m.ready:
		return m, nil
	case err != nil && !errors.Is(err, fs.ErrNotExist):
		return m, err
	}
	list, err2 := d.List()
	if err2 != nil {
		return m, fmt.Errorf("listing: %w", err2)
	}
	for _, f := range list {
		_, isSegment := segment.ParseName(f.Name)
		_, isCheckpoint := checkpoint.ParseName(f.Name)
		switch {
		case f.Name == lockName, f.Name == metaName, strings.HasPrefix(f.Name, checkpoint.TempPrefix), strings.HasPrefix(f.Name, "free-"):
		case err == nil && isSegment:
			// META says that the store was being made: no frame was ever written.
			if err := d.Remove(f.Name); err != nil {
				return m, fmt.Errorf("making the store again: %w", err)
			}
		case isSegment || isCheckpoint:
			return m, fmt.Errorf("%s is there without %s: %w", f.Name, metaName, ErrNotStore)
		default:
			return m, fmt.Errorf("the directory holds %q: %w", f.Name, ErrNotStore)
		}
	}
	if err != nil {
		if m, err = newMeta(); err != nil {
			return m, err
		}
		if err := writeMeta(d, &m); err != nil {
			return m, err
		}
	}
	// What a crash left of an earlier try would be in the way.
	for _, f := range list {
		if strings.HasPrefix(f.Name, "free-") {
			if err := d.Remove(f.Name); err != nil {
				return m, fmt.Errorf("making the store again: %w", err)
			}
		}
	}
	if err := journal.MakeFirst(d, m.uuid, o.journal(int64(d.Block()))); err != nil {
		return m, fmt.Errorf("making the first segment: %w", err)
	}
	m.ready = true
	return m, writeMeta(d, &m)
}

// recovered is a store as its files tell it, nothing written yet.
type recovered struct {
	dir    disk.Dir
	uuid   [16]byte
	found  *journal.Found
	table  *state.Table
	newest *checkpoint.File // nil: none
	older  *checkpoint.File
	bad    []string // checkpoint files that are not usable
	claims claimsFound
	doubt  map[state.Ref]struct{} // started and not settled
	notes  []error                // what is wrong with bad
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
	// The position of every checkpoint is a promise: none was made of what was not durable.
	var promise segment.Pos
	for _, c := range files {
		promise = max(promise, c.Pos)
	}
	if r.claims.exact {
		promise = max(promise, r.claims.synced)
	}
	for i, c := range files {
		oldest := uint32(1) // on the word of one checkpoint alone nothing is dead
		if i+1 < len(files) {
			oldest = files[i+1].Pos.Segment()
		}
		err = r.replay(c, oldest, promise, readOnly)
		if err == nil {
			r.newest = c
			for _, o := range files[i+1:] {
				if r.older == nil {
					r.older = o
				} else if err := o.Close(); err != nil {
					return nil, err
				}
			}
			return r, r.findDoubt()
		}
		if cerr := c.Close(); cerr != nil || !errors.Is(err, errUnusable) {
			for _, o := range files[i+1:] {
				err = errors.Join(err, o.Close())
			}
			return nil, errors.Join(err, cerr)
		}
		r.unusable(c.Name, err)
	}
	if err = r.replay(nil, 1, promise, readOnly); err != nil {
		return nil, errors.Join(append(r.notes, err)...)
	}
	return r, r.findDoubt()
}

func (r *recovered) unusable(name string, err error) {
	r.bad = append(r.bad, name)
	r.notes = append(r.notes, fmt.Errorf("checkpoint %s is not usable: %w", name, err))
}

// openCheckpoints opens what there is, the newest first.
func (r *recovered) openCheckpoints() ([]*checkpoint.File, error) {
	list, err := r.dir.List()
	if err != nil {
		return nil, fmt.Errorf("listing %s: %w", r.dir.Path(), err)
	}
	var files []*checkpoint.File
	for _, f := range slices.Backward(list) { // names sort by position
		if _, ok := checkpoint.ParseName(f.Name); !ok {
			continue
		}
		c, err := checkpoint.Open(r.dir, f.Name, r.uuid)
		if errors.Is(err, segment.ErrCorrupt) {
			r.unusable(f.Name, err)
			continue
		}
		if err != nil {
			for _, c := range files {
				err = errors.Join(err, c.Close())
			}
			return nil, err
		}
		files = append(files, c)
	}
	return files, nil
}

// errUnusable: the checkpoint itself is damaged; the one before may serve.
var errUnusable = errors.New("not usable")

// replay makes the state from a checkpoint and the log behind it.
func (r *recovered) replay(c *checkpoint.File, oldest uint32, promise segment.Pos, readOnly bool) error {
	t := state.NewTable()
	var start journal.Start
	if c != nil {
		if err := c.Load(t); err != nil {
			if errors.Is(err, segment.ErrCorrupt) {
				err = fmt.Errorf("%w: %w", errUnusable, err)
			}
			return err
		}
		start = journal.Start{Pos: c.Pos, Last: c.LastHeader()}
	}
	outcomes := r.claims.outcomes()
	found, err := journal.Recover(r.dir, r.uuid, start, oldest, promise, readOnly, func(f *segment.Frame) error {
		if err := t.ApplyFrame(f); err != nil {
			return err
		}
		return f.ForEach(outcomes.note)
	})
	if err != nil {
		return err
	}
	if err := found.Keep(needed(c, t, found)); err != nil {
		return errors.Join(err, found.Close())
	}
	r.found, r.table = found, t
	r.claims.settled = outcomes
	return nil
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
func (r *recovered) findDoubt() error {
	for _, run := range r.claims.runs {
		slot, ok := r.table.Find(run.id)
		if !ok {
			continue
		}
		n := uint32(r.table.Msg(slot).Len())
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

// warm reports whether the page cache is as the owner before left it, and the table with
// it. A log that ends before the table's synced position was not left so.
func (r *recovered) warm() bool { return r.claims.exact && r.claims.synced <= r.found.End }

// clean reports whether a Close had come before.
func (r *recovered) clean() bool {
	return r.claims.closed != 0 && r.claims.closed == r.table.Applied || r.table.Epoch == 0
}

func newStore(d disk.Dir, lock interface{ Close() error }, uuid [16]byte, o Options) *Store {
	s := &Store{
		opt: o, dir: d, lock: lock, uuid: uuid, token: hex.EncodeToString(uuid[:]),
		claimed: make(map[state.Ref]*claim), keysOut: make(map[string]uint64), growing: make(map[uint64]int),
		streams: make(map[*stream]struct{}), consumers: make(map[*consumer]struct{}), wide: make(map[*consumer]struct{}),
		narrow: make(map[string][]*consumer), single: make(map[string]*consumer),
		damaged: make(map[uint64]error), clockPoke: make(chan struct{}, 1), work: make(chan struct{}, 1),
		ended: make(chan struct{}), done: make(chan struct{}), rotated: make(chan struct{}, 1),
	}
	s.roomy = sync.NewCond(&s.mu)
	return s
}

// resume makes the store ready for use: what was found is made durable, the Open frame with
// what is in doubt is written, then the claim table is emptied.
func (s *Store) resume(r *recovered) error {
	for _, n := range r.notes {
		s.opt.Logger.Warn("opening with an older checkpoint", "err", n)
	}
	opt := s.opt.journal(int64(s.dir.Block()))
	log, err := r.found.Resume(opt)
	if err != nil {
		return err
	}
	s.log, s.table = log, r.table
	s.limits = limitsFor(log.FrameMax())
	s.opt.MaxMessage = min(s.opt.MaxMessage, s.limits.message)
	s.nextID = max(s.table.Lease, 1)
	if r.found.CutSize > 0 {
		s.opt.Logger.Warn("cut a torn tail", "at", r.found.CutFrom.String(), "bytes", r.found.CutSize)
	}
	if err := s.writeOpen(r); err != nil {
		return errors.Join(err, log.Close())
	}
	s.claims, err = openClaims(s.dir, s.uuid, log.Last().Nonce, log.End())
	if err != nil {
		return errors.Join(err, log.Close())
	}
	s.buildQueues()
	s.filling = newGroup(s.limits.table, s.limits.body)
	s.spare = newGroup(s.limits.table, s.limits.body)
	s.folds.init(s, r)
	s.table.Observer = s
	s.measure()
	s.segment = log.End().Segment()
	s.bg.Add(2)
	go s.run()
	go s.clock()
	go s.foldLoop()
	return nil
}

// writeOpen appends the frame that begins this epoch, and applies it.
func (s *Store) writeOpen(r *recovered) error {
	runs := make(map[uint64][]segment.SettleRun)
	refs := make([]state.Ref, 0, len(r.doubt))
	for ref := range r.doubt {
		refs = append(refs, ref)
	}
	id := func(ref state.Ref) uint64 { return s.table.Msg(ref.Slot).ID }
	slices.SortFunc(refs, func(a, b state.Ref) int {
		if ia, ib := id(a), id(b); ia != ib {
			return 1 - 2*b2i(ia < ib)
		}
		return int(a.Index) - int(b.Index)
	})
	now := s.opt.now()
	var ids []uint64
	for _, ref := range refs {
		rc := s.table.Rcpt(ref)
		list, seen := runs[id(ref)]
		if !seen {
			ids = append(ids, id(ref))
		}
		un := segment.SettleRun{First: int(ref.Index), Count: 1, Result: Uncertain, Attempts: int(rc.Attempts) + 1}
		q := s.table.Queue(rc.Queue).State
		switch q.Doubt {
		case mailq.DeferDoubt:
			un.Until = now.Add(q.DoubtDelay).UnixNano()
			list = appendRun(list, un)
		case mailq.HoldDoubt:
			list = appendRun(list, un)
			un.Result = Held
			list = appendRun(list, un)
		default:
			list = appendRun(list, un)
		}
		runs[id(ref)] = list
	}
	info := segment.OpenInfo{Cut: r.found.CutSize, Clean: r.clean(), Warm: r.warm(), InDoubt: int64(len(refs))}
	d := journal.Draft{Kind: segment.Open, Records: 1, Lease: s.nextID + leaseBlock,
		Table: aligned(openRoom)[:segment.FrameHeaderSize+segment.OpenSize]}
	segment.PutOpen(d.Table[segment.FrameHeaderSize:], segment.FrameHeaderSize, info)
	frameMax := int(min(s.log.FrameMax()-1024, segment.TableMax))
	// What does not fit into the Open frame goes into data frames behind it, before
	// anything else: the claim table is emptied only when all are durable.
	flush := func() error {
		h, err := s.log.Append(&d)
		if err != nil {
			return fmt.Errorf("writing the Open frame: %w", err)
		}
		s.leased = d.Lease
		if err := s.table.ApplyFrame(&segment.Frame{FrameHeader: h, Table: d.Table[segment.FrameHeaderSize:]}); err != nil {
			return err
		}
		d = journal.Draft{Kind: segment.Data, Lease: d.Lease, Table: d.Table[:segment.FrameHeaderSize]}
		return nil
	}
	for _, id := range ids {
		for list := runs[id]; len(list) > 0; {
			part := list[:min(len(list), runsPerRecord)]
			list = list[len(part):]
			n := segment.SettleSize(part)
			if len(d.Table)+n > frameMax {
				if err := flush(); err != nil {
					return err
				}
			}
			at := len(d.Table)
			d.Table = slices.Grow(d.Table, n+segment.AlignmentMin)[:at+n]
			segment.PutSettle(d.Table[at:], int64(at), id, now.UnixNano(), part)
			d.Records++
		}
	}
	return flush()
}

const (
	openRoom      = 64 << 10
	runsPerRecord = 512
)

func b2i(b bool) int {
	if b {
		return 1
	}
	return 0
}

// buildQueues fills the scheduler from the table, in the order of commits.
func (s *Store) buildQueues() {
	s.applyNow = s.opt.now().UnixNano()
	s.countSuspended()
	slots := make([]uint32, 0, s.table.Messages())
	sorted, last := true, uint64(0)
	s.table.ForEach(func(slot uint32) {
		slots = append(slots, slot)
		order := s.table.Msg(slot).Order()
		sorted, last = sorted && order >= last, order
	})
	if !sorted { // as they are where a checkpoint was loaded and nobody was late
		slices.SortFunc(slots, func(a, b uint32) int {
			return cmp.Compare(s.table.Msg(a).Order(), s.table.Msg(b).Order())
		})
	}
	s.sched.bulk = true
	for _, slot := range slots {
		list := s.table.Recipients(slot)
		for i := range list {
			r := &list[i]
			if r.Standing == state.Used {
				continue
			}
			q := s.queue(r.Queue)
			c := classOf(r)
			s.sched.counts[c]++
			q.counts[c]++
			if r.Flags&state.InDoubt != 0 {
				q.doubt++
				s.sched.doubt++
			}
			s.settleDown(q, state.Ref{Slot: slot, Index: uint32(i)}, r, s.applyNow)
		}
	}
	s.sched.bulk = false
	for _, q := range s.sched.queues {
		if q != nil {
			q.due.heapify()
			s.sched.timers.fix(q)
		}
	}
	s.pokeClock()
}

// Shutdown implements mailq.Store.
func (s *Store) Shutdown(ctx context.Context) error {
	s.mu.Lock()
	if s.phase >= closing {
		s.mu.Unlock()
		return s.Close()
	}
	s.phase = draining
	s.shut.Store(true)
	var idle chan struct{}
	if s.out > 0 {
		if s.idle == nil {
			s.idle = make(chan struct{})
		}
		idle = s.idle
	}
	s.wakeConsumers()
	s.roomy.Broadcast()
	s.mu.Unlock()
	var err error
	if idle != nil {
		select {
		case <-idle:
		case <-s.ended:
		case <-ctx.Done():
			err = fmt.Errorf("claims are still out: %w", ctx.Err())
		}
	}
	return errors.Join(err, s.Close())
}
