package wal

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/mtawal/mtawal/internal/barrier"
	"github.com/mtawal/mtawal/internal/disk"
	"github.com/mtawal/mtawal/journal"
	"github.com/mtawal/mtawal/mailq"
	"github.com/mtawal/mtawal/segment"
)

const (
	// leaseBlock is how many IDs a frame leases beyond those handed out.
	leaseBlock = 1 << 16
	// retryFull is how often a write is tried again on a full disk.
	retryFull = 50 * time.Millisecond
	// waitBound is how long what is appended waits for room within MaxBytes.
	waitBound = 10 * time.Second
)

// submit gives a batch its place in the log and encodes it there. When it returns nil the
// committer has the ticket, or the caller has been the committer; when it returns an error
// nothing was written and the ticket is the caller's. It waits, with ctx, while the group
// that fills has no room.
func (s *Store) submit(ctx context.Context, t *ticket) error {
	if err := s.check(t); err != nil {
		return err
	}
	if err := s.bring(ctx, t); err != nil {
		t.giveUp()
		return err
	}
	s.mu.Lock()
	for {
		if err := s.admitLocked(t); err != nil {
			s.mu.Unlock()
			t.giveUp()
			return err
		}
		table, body := t.need()
		if s.makeRoom(table, body) {
			break
		}
		s.rollback(t)
		if size := segment.FrameSize(int64(table), int64(body), uint32(s.dir.Block())); size > s.limits.frame || table > segment.TableMax {
			s.mu.Unlock()
			t.giveUp()
			return &mailq.LimitError{Field: "Batch", Size: size, Max: s.limits.frame}
		}
		if err := s.waitRoom(ctx); err != nil {
			s.mu.Unlock()
			t.giveUp()
			return err
		}
	}
	if barrier.Gone(barrier.KeyWait) && t.repeats() {
		s.mu.Unlock()
		t.finish()
		return nil
	}
	g := s.place(t)
	s.mu.Unlock()
	// Poked before, an idle committer would only wait for the bytes.
	t.encode()
	g.encoding.Done()
	if t.leads {
		s.lead(t)
	} else {
		s.poke()
	}
	return nil
}

// admitLocked decides whether the batch may go into the log at all.
func (s *Store) admitLocked(t *ticket) error {
	if err := s.gate(len(t.settle) > 0 || len(t.moves) > 0 || t.chunk != nil && t.chunk.bounce); err != nil {
		return err
	}
	if t.chunk != nil {
		if err := t.chunk.from.why(); err != nil {
			return err
		}
	}
	if err := s.admitBatch(t); err != nil {
		return err
	}
	for i := range t.enqueue {
		p, key := &t.plans[i], t.enqueue[i].Key
		p.shared, p.id = false, 0
		if key == "" {
			continue
		}
		if id, at, ok := s.table.FindKey(key); ok && at >= s.keysFrom() {
			p.shared, p.id = true, id
		} else if id, ok := s.keysOut[key]; ok {
			p.shared, p.id = true, id // its commit lies before this one, so it shares its fate
		}
	}
	return s.plan(t)
}

// admitBatch decides whether there is room for what a batch adds to the mail that is kept.
func (s *Store) admitBatch(t *ticket) error {
	if len(t.enqueue) == 0 && t.chunk == nil && !t.replaces && len(t.moves) == 0 {
		return nil
	}
	var size int64
	for i := range t.moves {
		size += int64(len(t.moves[i].record) + len(t.moves[i].body))
	}
	for i := range t.plans {
		size += int64(t.plans[i].table + len(t.plans[i].body)) // chunks of others are in the log
	}
	if t.chunk != nil {
		size = int64(t.chunk.length)
	}
	if len(t.settle) > 0 || t.replaces || len(t.moves) > 0 || t.chunk != nil && t.chunk.bounce {
		return s.admitSpace(size, s.placed, true)
	}
	return s.admitNow(size, s.placed)
}

// makeRoom reports whether the group that fills takes so much more, after making a
// larger one for a batch that no ordinary group takes.
func (s *Store) makeRoom(table, body int) bool {
	g := s.filling
	if g == nil {
		return false
	}
	const slack = segment.AlignmentMin
	size := segment.FrameSize(int64(len(g.table)+table+attemptRoom), int64(len(g.body)+body), uint32(s.dir.Block()))
	if size > s.limits.frame && !(g.empty() && size-attemptRoom-slack <= s.limits.frame) {
		return false
	}
	if g.fits(table+attemptRoom, body) {
		return true
	}
	if !g.empty() || segment.FrameSize(int64(table), int64(body), uint32(s.dir.Block())) > s.limits.frame || table > segment.TableMax {
		return false
	}
	s.filling = largeGroup(table+attemptRoom+slack, body+slack)
	if g.slab != nil {
		s.spare = g
	}
	return true
}

// waitRoom waits until something about the groups has changed.
func (s *Store) waitRoom(ctx context.Context) error {
	if err := ctx.Err(); err != nil {
		return fmt.Errorf("waiting for room in the log: %w", err)
	}
	stop := context.AfterFunc(ctx, func() {
		s.mu.Lock()
		defer s.mu.Unlock()
		s.roomy.Broadcast()
	})
	defer stop()
	s.poke()
	s.roomy.Wait()
	return nil
}

// place reserves the batch's place and encodes what depends on the state. The rest is
// encoded by the caller outside the lock.
func (s *Store) place(t *ticket) *group {
	g := s.filling
	t.group, t.at = g, s.opt.now().UnixNano()
	t.tableAt, t.bodyAt = len(g.table), len(g.body)
	table, body := t.need()
	g.table, g.body = g.table[:t.tableAt+table], g.body[:t.bodyAt+body]
	g.tickets = append(g.tickets, t)
	g.encoding.Add(1)
	g.placed += int64(table + body)
	s.placed += int64(table + body)
	growth := t.growth()
	g.growth += growth
	s.adding += growth
	t.ids = t.ids[:0]
	for i := range t.enqueue {
		m, p := &t.enqueue[i], &t.plans[i]
		if !p.shared {
			g.records++
			p.id = uint64(m.ID)
			if p.id == 0 {
				p.id = s.nextID
			} else {
				s.reserved.take(p.id)
				p.late = uint32(min(s.nextID-p.id, 1<<32-1))
			}
			s.nextID++ // one for each, so that no two have the same place in the order
			if m.Key != "" {
				s.keysOut[m.Key] = p.id
				t.keys = append(t.keys, m.Key)
			}
		}
		t.ids = append(t.ids, ID(p.id))
	}
	at := t.tableAt
	put := func(size int) []byte {
		b := g.table[at : at+size]
		at += size
		g.records++
		return b
	}
	for i := range t.writes {
		w := &t.writes[i]
		if len(w.add) > 0 {
			back := int64(at)
			segment.PutRecipients(put(segment.RecipientsSize(w.add)), back, w.id, w.from, w.add)
		}
		back := int64(at)
		segment.PutSettle(put(segment.SettleSize(w.runs)), back, w.id, t.at, w.runs)
	}
	if q := t.queue; q != nil {
		back := int64(at)
		if q.flush {
			segment.PutFlush(put(segment.FlushSize(q.name)), back, q.name, t.at)
		} else {
			segment.PutQueue(put(segment.QueueSize(q.name)), back, q.name, q.state)
		}
	}
	g.records += uint32(len(t.moves))
	if t.chunk != nil {
		g.records++
	}
	t.base, t.table, t.body = at, g.table, g.body[:t.bodyAt+body]
	return g
}

// encode writes the messages of a batch into their place: the copy of the body is what
// takes time, and it needs no lock.
func (t *ticket) encode() {
	at, body := t.base, t.bodyAt
	for i := range t.enqueue {
		m, p := &t.enqueue[i], &t.plans[i]
		if p.shared {
			continue
		}
		f := segment.EnqueueFields{ID: p.id, EnqueuedAt: t.at, BodyLen: p.size, Chunks: p.chunks, Late: p.late}
		if p.chunks == nil {
			n := copy(t.body[body:], p.body)
			f.BodyOff, f.BodyCRC = int64(body), segment.BodyCRC(p.id, t.body[body:body+n])
			clear(t.body[body+n : body+pad8(n)])
			body += pad8(n)
		}
		segment.PutEnqueue(t.table[at:at+p.table], int64(at), m, &f)
		at += p.table
	}
	for i := range t.moves {
		m := &t.moves[i]
		size := segment.MovedSize(m.record)
		segment.PutMoved(t.table[at:at+size], int64(at), m.record, m.holder, m.from, int64(body))
		at += size
		n := copy(t.body[body:], m.body)
		clear(t.body[body+n : body+pad8(n)])
		body += pad8(n)
	}
	if c := t.chunk; c != nil {
		n := copy(t.body[body:], c.data)
		c.crc = segment.BodyCRC(c.from.id, t.body[body:body+n])
		clear(t.body[body+n : body+pad8(n)])
		segment.PutChunk(t.table[at:at+segment.ChunkSize], int64(at), c.from.id, c.sequence, int64(body), uint32(n), c.crc)
	}
}

// keysFrom is the time before which keys are out of their window.
func (s *Store) keysFrom() int64 { return s.opt.now().Add(-s.opt.KeyWindow).UnixNano() }

// forgetKeys puts a record into the group that drops the keys that have outlived their
// window. The decision is in the record: applying it reads no clock.
func (s *Store) forgetKeys(g *group) {
	keys := s.table.Keys()
	n := max(len(keys)-s.opt.KeyMax, 0)
	oldest := s.keysFrom()
	for n < len(keys) && keys[n].At < oldest {
		n++
	}
	if at := len(g.table); n > 0 && !g.empty() && at+segment.ForgetSize <= cap(g.table) {
		g.table = g.table[:at+segment.ForgetSize]
		segment.PutForget(g.table[at:], int64(at), uint64(n))
		g.records++
	}
}

// commit makes a group durable, applies it and tells everybody. This is where a commit
// becomes true: Append has returned nil.
func (s *Store) commit(g *group) error {
	g.encoding.Wait()
	kind := segment.Data
	if g.empty() {
		kind = segment.Marker
	}
	d := journal.Draft{Kind: kind, Records: g.records, Table: g.table, Body: g.body, Slab: g.slab, Lease: g.lease}
	d.Spare = g.nudge && kind == segment.Marker
	d.Shrink = d.Spare && s.space.idle.Load()
	var f segment.Frame
	if g.records > 0 || kind == segment.Marker {
		h, err := s.append(&d)
		if err != nil {
			return err
		}
		f = segment.Frame{FrameHeader: h, Table: g.table[segment.FrameHeaderSize:]}
		s.commits.Add(1)
	}
	if t := s.opt.Trace; t != nil && t.Durable != nil && f.Len > 0 {
		t.Durable(CommitInfo{Records: int(f.FrameHeader.Records), Bytes: f.Len, Batches: len(g.tickets)})
	}
	s.mu.Lock()
	if f.Len > 0 {
		s.claims.setSynced(f.End())
		s.applyNow = f.Time
		if err := s.table.ApplyFrame(&f); err != nil {
			s.mu.Unlock()
			return fmt.Errorf("applying what was just written: %w", err)
		}
		s.clearLost()
		s.floor.observe(s.opt.now(), s.workQueue())
		s.leased = g.lease
		if g.nudge {
			s.nudged = false
		}
	}
	s.placed -= g.placed
	s.adding -= g.growth
	for _, t := range g.tickets {
		t.pos, t.group = f.Pos, nil
		s.settled(t)
	}
	s.afterAttempts(g)
	s.mu.Unlock()
	for _, t := range g.tickets {
		t.finish()
	}
	if f.Len > 0 {
		if n := f.Pos.Segment(); n != s.segment {
			s.segment = n
			select {
			case s.rotated <- struct{}{}:
			default:
			}
		}
		s.folds.grew(f.Len, g.growth)
	}
	return nil
}

// append appends a frame, again and again while the disk is full: the same bytes to the
// same place, with intake shut, until it succeeds or the store closes. In between a checkpoint
// may ask for a Marker in front of them: it is what may give room back.
//
// What is appended was admitted. So where only MaxBytes is in the way, as it may be when files came
// back with a crash, it gives way by a segment after waitBound: they go by what is appended.
func (s *Store) append(d *journal.Draft) (segment.FrameHeader, error) {
	defer s.space.beyond.Store(false)
	for tries := 0; ; tries++ {
		s.space.beyond.Store(tries > int(waitBound/retryFull))
		s.syncing.Store(s.opt.now().UnixNano())
		h, err := s.log.Append(d)
		s.syncing.Store(0)
		if err == nil {
			s.space.full.Store(false)
			return h, nil
		}
		if !errors.Is(err, disk.ErrNoSpace) {
			return h, err
		}
		if err := s.nudgeFull(); err != nil && !errors.Is(err, disk.ErrNoSpace) {
			return h, err
		}
		if !s.space.full.Swap(true) {
			s.mu.Lock()
			s.roomy.Broadcast() // intake that waits for a place is refused
			s.mu.Unlock()
			s.opt.Logger.Warn("the disk is full; intake is shut", "dir", s.dir.Path(), "err", err)
		}
		select {
		case <-s.ended:
			return h, fmt.Errorf("closed while the disk was full: %w", err)
		case <-time.After(retryFull):
		}
	}
}

// settled ends the claims that a commit settled.
func (s *Store) settled(t *ticket) {
	for _, k := range t.keys {
		delete(s.keysOut, k)
	}
	for i := range t.closes {
		s.endClaim(t.closes[i].c, t.closes[i].idxs)
	}
	for i := range t.writes {
		if w := &t.writes[i]; len(w.add) > 0 {
			s.grown(w.id)
		}
	}
	t.endStreams()
}

// fail ends the store: everybody who waits, and everybody who comes, gets ErrFailed.
func (s *Store) fail(g *group, err error) {
	s.mu.Lock()
	closing := s.phase == closing && errors.Is(err, disk.ErrNoSpace)
	s.mu.Unlock()
	if !closing {
		s.latch(err)
	}
	s.mu.Lock()
	why := s.failure
	if closing {
		why = fmt.Errorf("%w: %w", ErrUnknown, err)
	}
	rest := s.filling
	s.filling, s.spare = nil, nil
	s.roomy.Broadcast()
	s.mu.Unlock()
	for _, h := range []*group{g, rest} {
		if h == nil {
			continue
		}
		h.encoding.Wait()
		for _, t := range h.tickets {
			t.fail(why)
		}
	}
}
