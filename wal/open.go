package wal

import (
	"context"
	"encoding/hex"
	"errors"
	"fmt"
	"io/fs"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/mtawal/mtawal/checkpoint"
	"github.com/mtawal/mtawal/internal/barrier"
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
// Errors: ErrInvalid and ErrTooLarge for arguments; ErrLocked if it is open elsewhere;
// ErrNotStore if the directory holds something else, or a store of which parts are
// missing; ErrVersion; ErrCorrupt if bytes that had been durable are not there, with
// nothing touched; those of the file system.
func Open(dir string, o Options) (*Store, error) {
	o, err := o.withDefaults()
	if err != nil {
		return nil, err
	}
	d, err := o.openDir(dir, !o.Administer)
	if err != nil {
		return nil, err
	}
	s, err := open(d, o)
	if err != nil {
		return nil, errors.Join(fmt.Errorf("opening the store in %s: %w", dir, err), d.Close())
	}
	return s, nil
}

// openDir opens the directory of a store.
func (o *Options) openDir(dir string, create bool) (disk.Dir, error) {
	if dir == "" {
		return nil, &mailq.FieldError{Field: "dir", Reason: "is empty"}
	}
	d, err := o.fs.OpenDir(dir, create)
	if err != nil {
		return nil, fmt.Errorf("opening %s: %w", dir, err)
	}
	return d, nil
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
	if r.copied = m.copied; m.copied && !o.Administer {
		r.doubtAll()
	}
	s := newStore(d, lock, m, o)
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
	case o.Administer && (err == nil || errors.Is(err, fs.ErrNotExist)):
		return m, fmt.Errorf("no %s, or it is not finished: %w", metaName, ErrNotStore)
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
	if err := o.checkBound(int64(d.Block())); err != nil {
		return m, err
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

func newStore(d disk.Dir, lock interface{ Close() error }, m meta, o Options) *Store {
	s := &Store{
		opt: o, dir: d, lock: lock, uuid: m.uuid, meta: m, token: hex.EncodeToString(m.uuid[:]),
		claimed: make(map[state.Ref]*claim), keysOut: make(map[string]uint64), growing: make(map[uint64]int),
		streams: make(map[*stream]struct{}), consumers: make(map[*consumer]struct{}), wide: make(map[*consumer]struct{}),
		narrow: make(map[string][]*consumer), single: make(map[string]*consumer),
		damaged: make(map[uint64]error), clockPoke: make(chan struct{}, 1), work: make(chan struct{}, 1),
		done: make(chan struct{}), rotated: make(chan struct{}, 1),
	}
	s.roomy = sync.NewCond(&s.mu)
	s.open, s.stop = context.WithCancelCause(context.Background())
	return s
}

// resume makes the store ready for use: what was found is made durable, the Open frame with
// what is in doubt is written, then the claim table is emptied.
func (s *Store) resume(r *recovered) error {
	for _, n := range r.notes {
		s.opt.Logger.Warn("a checkpoint is not relied upon", "err", n)
	}
	opt := s.opt.journal(int64(s.dir.Block()))
	opt.Room = s.roomForSegment
	s.limits = limitsFor(journal.FrameMax(opt.SegmentSize, int64(s.dir.Block())))
	s.recent = segment.NewRecent(s.limits.room())
	opt.Recent = s.recent
	if err := s.folds.init(s, r); err != nil {
		return err
	}
	s.space.bound.Store(s.opt.MaxBytes)
	log, err := r.found.Resume(opt)
	if err != nil {
		return err
	}
	s.log, s.table = log, r.table
	if err := s.folds.count(); err != nil { // what a crash left is gone
		return errors.Join(err, log.Close())
	}
	s.findBound()
	s.opt.MaxMessage = min(s.opt.MaxMessage, s.limits.message)
	s.nextID = max(s.table.Lease, 1)
	if r.found.CutSize > 0 {
		s.opt.Logger.Warn("cut a torn tail", "at", r.found.CutFrom.String(), "bytes", r.found.CutSize)
	}
	if barrier.Gone(barrier.DoubtBeforeSlots) {
		early, err := openClaims(s.dir, s.uuid, s.opt.claims, r.claims.filled, 1, log.End(), true)
		if err != nil {
			return errors.Join(err, log.Close())
		}
		_ = early.close(0)
	}
	if err := s.writeOpen(r); err != nil {
		return errors.Join(err, log.Close())
	}
	if s.meta.copied && !s.opt.Administer { // all is in doubt now, durably
		s.meta.copied = false
		if err := writeMeta(s.dir, &s.meta); err != nil {
			return errors.Join(err, log.Close())
		}
	}
	s.claims, err = openClaims(s.dir, s.uuid, s.opt.claims, r.claims.filled, log.Last().Nonce, log.Durable(), !s.opt.Administer)
	if err != nil {
		return errors.Join(err, log.Close())
	}
	s.buildQueues()
	s.fill(new(group))
	for range flightsMax {
		s.spares = append(s.spares, new(group))
	}
	s.floor.init(s.opt.now(), s.workQueue())
	s.table.Observer = (*observer)(s)
	s.space.enqueued = s.table.Counts.Enqueued
	s.measure()
	s.segment = log.End().Segment()
	s.committer = committer{marker: time.NewTimer(markerAfter), armed: true, runners: flightsMax}
	s.compaction = compaction{running: make(chan struct{}, 1), wake: make(chan struct{}, 1), hurry: make(chan struct{}, 1)}
	s.bg.Add(4)
	go s.compactLoop()
	for range flightsMax {
		go s.run()
	}
	go s.clock()
	go s.foldLoop()
	go s.spaceLoop()
	return nil
}

// writeOpen appends the frame that begins this epoch, and applies it. What is in doubt comes back as the policy of its
// queue has it; where the store is only administered it is said to be started, and stays so until the next owner.
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
		if s.opt.Administer {
			runs[id(ref)] = appendRun(list, segment.SettleRun{First: int(ref.Index), Count: 1})
			continue
		}
		un := segment.SettleRun{First: int(ref.Index), Count: 1, Result: Uncertain, Attempts: int(rc.Attempts) + 1}
		if s.meta.copied && rc.Flags&state.Started == 0 {
			un.Attempts-- // none is known of: the copied store may have made one since
		}
		policy, delay := s.doubtPolicy(rc)
		switch policy {
		case mailq.DeferDoubt:
			// What waits longer already, as it may in a copy, goes on doing so.
			un.Until = max(now.Add(delay).UnixNano(), s.table.NotBefore(rc))
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
	d := journal.Draft{Kind: segment.Open, Records: 1, Lease: s.nextID + leaseBlock, Opening: true,
		Table: segment.Aligned(openRoom)[:segment.FrameHeaderSize+segment.OpenSize]}
	segment.PutOpen(d.Table[segment.FrameHeaderSize:], segment.FrameHeaderSize, info)
	frameMax := int(min(s.log.FrameMax()-1024, segment.TableMax))
	// What does not fit into the Open frame goes into data frames behind it, before
	// anything else: the claim table is emptied only when all are durable.
	flush := func() error {
		h, err := s.log.Append(&d)
		if err != nil {
			return fmt.Errorf("writing the Open frame: %w", err)
		}
		s.leased, s.leasing = d.Lease, d.Lease
		if err := s.table.ApplyFrame(&segment.Frame{FrameHeader: h, Table: d.Table[segment.FrameHeaderSize:]}); err != nil {
			return err
		}
		d = journal.Draft{Kind: segment.Data, Lease: d.Lease, Opening: true, Table: d.Table[:segment.FrameHeaderSize]}
		return nil
	}
	// record makes room for one, of n bytes, and returns where it stands.
	record := func(n int) (at int, err error) {
		if len(d.Table)+n > frameMax {
			if err := flush(); err != nil {
				return 0, err
			}
		}
		at = len(d.Table)
		d.Table = slices.Grow(d.Table, n+segment.AlignmentMin)[:at+n]
		d.Records++
		return at, nil
	}
	for _, id := range ids {
		for list := runs[id]; len(list) > 0; {
			part := list[:min(len(list), runsPerRecord)]
			if s.opt.Administer {
				part = list[:1]
				at, err := record(segment.AttemptSize)
				if err != nil {
					return err
				}
				segment.PutAttempt(d.Table[at:], int64(at), id, part[0].First, part[0].Count)
			} else {
				at, err := record(segment.SettleSize(part))
				if err != nil {
					return err
				}
				segment.PutSettle(d.Table[at:], int64(at), id, now.UnixNano(), part)
			}
			list = list[len(part):]
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
		case <-s.open.Done():
		case <-ctx.Done():
			err = fmt.Errorf("claims are still out: %w", ctx.Err())
		}
	}
	return errors.Join(err, s.Close())
}
