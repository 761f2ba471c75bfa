package wal

import (
	"context"
	"fmt"

	"github.com/mtawal/mtawal/internal/barrier"
	"github.com/mtawal/mtawal/mailq"
	"github.com/mtawal/mtawal/segment"
)

// leaseBlock is how many IDs a frame leases beyond those handed out.
const leaseBlock = 1 << 16

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
	g := s.place(t, s.filling)
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
		return s.admitSpace(size, s.placed, s.adding+t.growth(), true)
	}
	return s.admitNow(size, s.placed, s.adding+t.growth())
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
	if g.slab != nil && len(s.spares) < flightsMax {
		s.spares = append(s.spares, g)
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
	if g := s.filling; g != nil {
		g.full = true
	}
	s.poke()
	s.roomy.Wait()
	return nil
}

// place reserves the batch's place and encodes what depends on the state. The rest is
// encoded by the caller outside the lock.
func (s *Store) place(t *ticket, g *group) *group {
	t.group, t.at = g, s.opt.now().UnixNano()
	t.tableAt, t.bodyAt = len(g.table), len(g.body)
	table, body := t.need()
	g.table = g.table[:t.tableAt+table]
	g.tickets = append(g.tickets, t)
	g.encoding.Add(1)
	if g.cold != 0 { // bodies, and what they take, are there
		t.bodyAt = 0
	} else {
		g.body = g.body[:t.bodyAt+body]
		s.joined(g)
		g.placed += int64(table + body)
		s.placed += int64(table + body)
	}
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
	t.base, t.table, t.body = at, g.table, g.body
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
		if t.group.cold == 0 {
			n := copy(t.body[body:], m.body)
			clear(t.body[body+n : body+pad8(n)])
		}
		body += pad8(len(m.body))
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
	if s.opt.Administer {
		return
	}
	keys := s.table.Keys()[s.forgetting:] // what is in flight drops those before
	n := max(len(keys)-s.opt.KeyMax, 0)
	oldest := s.keysFrom()
	for n < len(keys) && keys[n].At < oldest {
		n++
	}
	if at := len(g.table); n > 0 && !g.empty() && at+segment.ForgetSize <= cap(g.table) {
		g.table = g.table[:at+segment.ForgetSize]
		segment.PutForget(g.table[at:], int64(at), uint64(n))
		g.records++
		g.forgets = n
		s.forgetting += n
	}
}
