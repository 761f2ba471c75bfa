package wal

import (
	"context"
	"iter"
	"maps"
	"slices"
	"strings"
	"time"

	"github.com/mtawal/mtawal/mailq"
	"github.com/mtawal/mtawal/segment"
	"github.com/mtawal/mtawal/state"
)

// Stats implements mailq.Store.
func (s *Store) Stats() Stats {
	s.mu.Lock()
	s.promoteAll()
	c, n := s.table.Counts, s.sched.counts
	st := Stats{
		Enqueued: c.Enqueued, Used: c.Used,
		Pending: n[classPending], Deferred: n[classDeferred], Held: n[classHeld], Claimed: n[classClaimed], Damaged: n[classDamaged],
		InDoubt:   s.sched.doubt,
		Messages:  int64(s.table.Messages()),
		LiveBytes: c.Weight, TailCut: c.TailCut, UncleanOpens: c.UncleanOpens,
	}
	st.Staged, st.StagedBytes = int64(s.staged), s.stagedBytes.Load()
	now := s.opt.now()
	st.OldestPin = s.oldestPin()
	st.WorkQueueFloor = s.floor.lowest(now)
	s.mu.Unlock()
	st.WorkQueueLength = st.Pending + st.Deferred + st.Held + st.Claimed + st.Damaged
	st.Unaccounted = s.unaccounted.Load()
	st.Commits = s.commits.Load()
	var used int64
	for _, i := range s.log.Segments() {
		used += i.End
	}
	st.DeadBytes = max(used-st.LiveBytes, 0)
	files := s.log.Files()
	st.Segments, st.DiskBytes, st.UnlinkedBytes = files.Segments, files.Bytes, files.Unlinked
	st.DiskBytes += claimsSize(s.opt.claims) + s.folds.bytes()
	if at := s.syncingSince(); at != 0 {
		st.SyncingSince = time.Unix(0, at)
		st.SyncHangs = s.opt.now().Sub(st.SyncingSince) > hangAfter
	}
	return st
}

// workQueue is the number of recipients that are not used. Store.mu is held.
func (s *Store) workQueue() int64 { return s.table.Counts.Enqueued - s.table.Counts.Used.Total() }

// Admit implements mailq.Store.
func (s *Store) Admit(size int64) error {
	if size < 0 {
		return &mailq.FieldError{Field: "size", Reason: "is negative"}
	}
	if err := s.opt.owned(); err != nil {
		return err
	}
	if s.shut.Load() {
		s.mu.Lock()
		defer s.mu.Unlock()
		return s.gate(false)
	}
	if size > s.opt.MaxMessage {
		return &mailq.LimitError{Field: "Body", Size: size, Max: s.opt.MaxMessage}
	}
	return s.admitNow(s.logRoom(size), 0, 0)
}

// admitNow refuses mail for which there is no room, and all mail while a write hangs. placed
// is what was admitted and is not in the log yet, growth what it and this add to a checkpoint.
func (s *Store) admitNow(size, placed, growth int64) error {
	if at := s.syncingSince(); at != 0 && s.opt.now().UnixNano()-at > int64(hangAfter) {
		return &mailq.FullError{Reason: "a write has hung", Need: size}
	}
	return s.admitSpace(size, placed, growth, false)
}

// entriesStep is how many messages are looked at under the lock at a time.
const entriesStep = 256

// Entries implements mailq.Store. It costs a look at every message of the store; what
// it returns is read from the log.
func (s *Store) Entries(ctx context.Context, f Filter) iter.Seq2[Entry, error] {
	return func(yield func(Entry, error) bool) {
		given := 0
		for slot, more := uint32(0), true; more; {
			if err := ctx.Err(); err != nil {
				yield(Entry{}, err)
				return
			}
			var list []listed
			var err error
			if list, slot, more, err = s.collect(&f, slot); err != nil {
				yield(Entry{}, err)
				return
			}
			for i := range list {
				l := &list[i]
				l.fill()
				release(l.pins)
				token := s.tokenOf(ID(l.id))
				for _, e := range l.entries {
					e.Token = token
					if f.Limit > 0 && given == f.Limit {
						releaseAll(list[i+1:])
						return
					}
					given++
					if !yield(e, nil) {
						releaseAll(list[i+1:])
						return
					}
				}
			}
		}
	}
}

func releaseAll(list []listed) {
	for i := range list {
		release(list[i].pins)
	}
}

// listed is a message on its way to the caller of Entries.
type listed struct {
	id      uint64
	loc     segment.Pos
	extents []state.Extent
	pins    []*segment.Segment
	entries []Entry // by recipient index
}

// collect looks at the next messages under the lock.
func (s *Store) collect(f *Filter, from uint32) (list []listed, next uint32, more bool, err error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.phase >= closing {
		return nil, 0, false, s.gate(true)
	}
	s.promoteAll()
	if f.ID != 0 {
		if slot, ok := s.table.Find(uint64(f.ID)); ok {
			list = s.list(list, f, slot)
		}
		return list, 0, false, nil
	}
	end := s.table.Slots()
	for n, stop := 0, from+64*entriesStep; from < end && n < entriesStep && from < stop; from++ {
		if s.table.Lives(from, 0) {
			n++
			list = s.list(list, f, from)
		}
	}
	return list, from, from < end, nil
}

// list adds a message if one of its recipients matches.
func (s *Store) list(list []listed, f *Filter, slot uint32) []listed {
	entries := matching(s.table, f, slot, func(_ state.Ref, r *state.Recipient) (mailq.State, bool) {
		return stateOf(r), r.Flags&state.InDoubt != 0
	})
	if len(entries) == 0 {
		return list
	}
	m := s.table.Msg(slot)
	err := s.damaged[m.ID]
	for i := range entries {
		entries[i].Err = err
	}
	x := slices.Clone(s.table.Extents(m))
	return append(list, listed{id: m.ID, loc: m.Loc, extents: x, pins: s.pinMessage(nil, m.Loc, x), entries: entries})
}

func stateOf(r *state.Recipient) mailq.State {
	return [...]mailq.State{classUsed: mailq.Used, classPending: mailq.Pending, classDeferred: mailq.InDeferral,
		classHeld: mailq.OnHold, classClaimed: mailq.Claimed, classDamaged: mailq.Damaged}[classOf(r)]
}

// fill reads what only the log knows. What can't be read is said in Entry.Err.
func (l *listed) fill() {
	m, err := readStored(l.pins, l.id, l.loc, l.extents)
	if err == nil {
		err = m.guard(func() error {
			next := 0
			m.recipients(l.entries[0].Recipient, l.entries[len(l.entries)-1].Recipient, func(i int, address, note []byte) {
				if next == len(l.entries) || l.entries[next].Recipient != i {
					return
				}
				e := &l.entries[next]
				next++
				e.Address = string(address)
				if e.Note == nil && len(note) > 0 {
					e.Note = slices.Clone(note)
				}
			})
			e := m.record.Enqueue()
			env := slices.Clone(e.Envelope())
			for i := range l.entries {
				x := &l.entries[i]
				x.Envelope, x.Size = env, m.size
				x.EnqueuedAt, x.ExpiresAt = segment.Time(e.EnqueuedAt), segment.Time(e.ExpiresAt)
			}
			return nil
		})
	}
	if err != nil {
		for i := range l.entries {
			if l.entries[i].Err == nil {
				l.entries[i].Err = err
			}
		}
	}
}

// Queues implements mailq.Store. It costs a look at every message of the store, with the
// lock let go in between.
func (s *Store) Queues(ctx context.Context) iter.Seq2[QueueInfo, error] {
	return func(yield func(QueueInfo, error) bool) {
		list, err := s.listQueues(ctx)
		if err != nil {
			yield(QueueInfo{}, err)
			return
		}
		for _, q := range list {
			if err := ctx.Err(); err != nil {
				yield(QueueInfo{}, err)
				return
			}
			if !yield(*q, nil) {
				return
			}
		}
	}
}

// listQueues collects what waits where, by name.
func (s *Store) listQueues(ctx context.Context) ([]*QueueInfo, error) {
	const step = 4096 // looked at under the lock at a time
	byName := make(map[string]*QueueInfo)
	s.mu.Lock()
	defer s.mu.Unlock()
	s.promoteAll()
	pause := func(i int) error {
		if i%step == step-1 {
			s.mu.Unlock()
			s.mu.Lock()
		}
		if i%step == 0 {
			if err := ctx.Err(); err != nil {
				return err
			}
			if s.phase >= closing {
				return s.gate(true)
			}
		}
		return nil
	}
	for n := 0; n < s.table.Queues() || n == 0; n++ {
		if err := pause(n); err != nil {
			return nil, err
		}
		if c := s.known(n); c != nil {
			byName[c.name] = &QueueInfo{Name: c.name, State: s.table.Queue(uint32(n)).State, Pending: c.counts[classPending], Deferred: c.counts[classDeferred],
				Held: c.counts[classHeld], Claimed: c.counts[classClaimed], InDoubt: c.doubt, Damaged: c.counts[classDamaged]}
		} else if n < s.table.Queues() && s.table.Queue(uint32(n)) != nil { // it has a state and nothing else
			q := s.table.Queue(uint32(n))
			byName[q.Name] = &QueueInfo{Name: q.Name, State: q.State}
		}
	}
	for slot := uint32(0); slot < s.table.Slots(); slot++ {
		if err := pause(int(slot)); err != nil {
			return nil, err
		}
		if !s.table.Lives(slot, 0) {
			continue
		}
		id := ID(s.table.Msg(slot).ID)
		rs := s.table.Recipients(slot)
		for i := range rs {
			if rs[i].Standing == state.Used {
				continue
			}
			// A queue that came, or went and came, since it was counted has no place here.
			if q := byName[s.table.Queue(rs[i].Queue).Name]; q != nil && (q.Oldest == 0 || id < q.Oldest) {
				q.Oldest = id
			}
		}
	}
	list := slices.SortedFunc(maps.Values(byName), func(a, b *QueueInfo) int { return strings.Compare(a.Name, b.Name) })
	for _, q := range list {
		if slot, ok := s.table.Find(uint64(q.Oldest)); ok {
			loc := s.table.Msg(slot).Loc
			pins := s.pinMessage(nil, loc, nil)
			s.mu.Unlock()
			if len(pins) > 0 {
				if r, _, err := pins[0].Record(loc.Offset(), uint64(q.Oldest)); err == nil {
					if e, err := enqueueOf(pins[0], r); err == nil {
						q.OldestAt = segment.Time(e.EnqueuedAt)
					}
				}
				release(pins)
			}
			s.mu.Lock()
		}
	}
	return list, nil
}

// SetQueue implements mailq.Store.
func (s *Store) SetQueue(ctx context.Context, queue string, st QueueState) error {
	if st.Mode > mailq.Suspended {
		return &mailq.FieldError{Field: "QueueState.Mode", Reason: "is none"}
	}
	if st.Doubt > mailq.DeferDoubt {
		return &mailq.FieldError{Field: "QueueState.Doubt", Reason: "is none"}
	}
	if st.DoubtDelay < 0 {
		return &mailq.FieldError{Field: "QueueState.DoubtDelay", Reason: "is negative"}
	}
	return s.queueRecord(ctx, &queueWrite{name: queue, state: st})
}

// Flush implements mailq.Store.
func (s *Store) Flush(ctx context.Context, queue string) error {
	return s.queueRecord(ctx, &queueWrite{name: queue, flush: true})
}

func (s *Store) queueRecord(ctx context.Context, w *queueWrite) error {
	if err := checkQueue(w.name); err != nil {
		return err
	}
	t := s.ticket(ctx)
	t.queue = w
	if err := s.submit(ctx, t); err != nil {
		return t.discard(err)
	}
	if err := t.wait(ctx); err != nil {
		return err
	}
	t.free()
	return nil
}

var _ mailq.Store = (*Store)(nil)
