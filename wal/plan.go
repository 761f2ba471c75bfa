package wal

import (
	"encoding/binary"
	"fmt"
	"time"

	"github.com/mtawal/mtawal/mailq"
	"github.com/mtawal/mtawal/segment"
	"github.com/mtawal/mtawal/state"
)

// undo takes one mark back that plan made for a batch which then was refused.
type undo struct {
	ref  state.Ref
	mem  uint8
	c    *claim
	pos  int
	st   slotState
	id   uint64 // of growing, if grew
	grew int
}

func (s *Store) rollback(t *ticket) {
	for i := len(t.undo) - 1; i >= 0; i-- {
		u := &t.undo[i]
		switch {
		case u.grew > 0:
			s.growing[u.id] -= u.grew
			s.grown(u.id)
		case u.c != nil:
			u.c.rcpts[u.pos].st = u.st
			s.table.Rcpt(u.ref).Mem = u.mem
		default:
			s.table.Rcpt(u.ref).Mem = u.mem
		}
	}
	t.undo = t.undo[:0]
}

// plan decides whether a batch is valid against what is applied and what is under way,
// and works out its settle records. It marks what the batch will do, so that the next
// batch is judged with it; on an error every mark is taken back. What is logged
// afterwards is unconditional.
func (s *Store) plan(t *ticket) error {
	t.undo, t.writes, t.closes = t.undo[:0], t.writes[:0], t.closes[:0]
	err := s.planAll(t)
	if err != nil {
		s.rollback(t)
	}
	return err
}

func (s *Store) planAll(t *ticket) error {
	for i := range t.enqueue {
		m := &t.enqueue[i]
		if m.ID != 0 && !s.reserved.has(uint64(m.ID)) {
			return inBatch(t, "Enqueue", i, &mailq.FieldError{Field: "ID", Reason: fmt.Sprintf("%v was not reserved, or is taken", m.ID)})
		}
		if err := s.suspendedFor(m.Recipients); err != nil {
			return inBatch(t, "Enqueue", i, err)
		}
		for j := range i {
			if m.ID != 0 && t.enqueue[j].ID == m.ID {
				return inBatch(t, "Enqueue", i, &mailq.FieldError{Field: "ID", Reason: "is in the batch twice"})
			}
			if m.Key != "" && t.enqueue[j].Key == m.Key {
				return inBatch(t, "Enqueue", i, &mailq.FieldError{Field: "Key", Reason: "is in the batch twice"})
			}
		}
	}
	for i := range t.settle {
		c := t.settle[i].Delivery.Claim().(*claim)
		if err := s.planSettlement(t, c, t.settle[i].Outcomes); err != nil {
			return inBatch(t, "Settle", i, err)
		}
	}
	for i := range t.edit {
		if err := s.planEdit(t, &t.edit[i]); err != nil {
			return inBatch(t, "Edit", i, err)
		}
	}
	return nil
}

// suspendedFor refuses mail for a queue that takes none.
func (s *Store) suspendedFor(list []Recipient) error {
	if s.suspended == 0 {
		return nil
	}
	for i := range list {
		if q, ok := s.table.FindQueue(list[i].Queue); ok && s.table.Queue(q).State.Mode == mailq.Suspended {
			return &mailq.FullError{Reason: "queue " + list[i].Queue + " is suspended"}
		}
	}
	return nil
}

// planSettlement plans the outcomes for a claim.
func (s *Store) planSettlement(t *ticket, c *claim, outcomes []Outcome) error {
	t.writes = append(t.writes, settleWrite{slot: c.slot, id: c.id, runs: t.reuseRuns()})
	w := len(t.writes) - 1
	one := func(pos int, o *Outcome) error {
		r := &c.rcpts[pos]
		if err := r.err(); err != nil {
			return fmt.Errorf("recipient %d: %w", r.index, err)
		}
		ref := state.Ref{Slot: c.slot, Index: r.index}
		rc := s.table.Rcpt(ref)
		if rc.Standing == state.Used || rc.Mem&memUsing != 0 {
			return fmt.Errorf("recipient %d: %w", r.index, ErrUsed)
		}
		t.undo = append(t.undo, undo{ref: ref, mem: rc.Mem, c: c, pos: pos, st: r.st})
		r.st = slotSettling
		t.end(c, pos)
		return s.planOutcome(t, w, ref, rc, o, true)
	}
	for i := range outcomes {
		o := &outcomes[i]
		if o.Recipient != All {
			pos := c.find(o.Recipient)
			if pos < 0 {
				return fmt.Errorf("recipient %d: %w", o.Recipient, ErrNotFound)
			}
			if err := one(pos, o); err != nil {
				return err
			}
			continue
		}
		any := false
		for pos := range c.rcpts {
			// One that somebody else marked used counts against All: a bounce for all of
			// them would name delivered mail.
			if st := c.rcpts[pos].st; st == slotOpen || st == slotLost {
				any = true
				if err := one(pos, o); err != nil {
					return err
				}
			}
		}
		if !any {
			return ErrSettled
		}
	}
	return nil
}

// planEdit plans outcomes by ID.
func (s *Store) planEdit(t *ticket, e *Edit) error {
	slot, ok := s.table.Find(uint64(e.ID))
	if !ok {
		return fmt.Errorf("message %v: %w", e.ID, ErrNotFound)
	}
	t.writes = append(t.writes, settleWrite{slot: slot, id: uint64(e.ID), runs: t.reuseRuns()})
	w := len(t.writes) - 1
	n := s.table.Len(slot)
	one := func(i int, o *Outcome, named bool) error {
		ref := state.Ref{Slot: slot, Index: uint32(i)}
		rc := s.table.Rcpt(ref)
		if rc.Standing == state.Used || rc.Mem&memUsing != 0 {
			if named && !(o.Result.IsUsed() && o.Result != Replaced) {
				return fmt.Errorf("recipient %d: %w", i, ErrUsed)
			}
			return nil
		}
		t.undo = append(t.undo, undo{ref: ref, mem: rc.Mem})
		return s.planOutcome(t, w, ref, rc, o, false)
	}
	for i := range e.Outcomes {
		o := &e.Outcomes[i]
		if o.Recipient != All {
			if o.Recipient >= n {
				return fmt.Errorf("message %v has no recipient %d: %w", e.ID, o.Recipient, ErrNotFound)
			}
			if err := one(o.Recipient, o, true); err != nil {
				return err
			}
			continue
		}
		for j := range n {
			if err := one(j, o, false); err != nil {
				return err
			}
		}
	}
	if len(t.writes[w].runs) == 0 {
		t.writes = t.writes[:w] // all used already; the commit still waits for what is under way
	}
	return nil
}

// planOutcome adds the outcome for one recipient to a settle record. attempted says
// that a delivery was tried.
func (s *Store) planOutcome(t *ticket, w int, ref state.Ref, rc *state.Recipient, o *Outcome, attempted bool) error {
	wr := &t.writes[w]
	if o.Result.IsUsed() {
		rc.Mem |= memUsing
	}
	if o.Result == Replaced {
		have, ok := s.growing[wr.id]
		if !ok {
			have = s.table.Len(ref.Slot)
		}
		if have+len(o.Replace) > segment.RecipientsMax {
			return &mailq.LimitError{Field: "Replace", Size: int64(have + len(o.Replace)), Max: segment.RecipientsMax}
		}
		if wr.add == nil {
			wr.from = have
		}
		wr.add = append(wr.add, o.Replace...)
		s.growing[wr.id] = have + len(o.Replace)
		t.undo = append(t.undo, undo{id: wr.id, grew: len(o.Replace)})
	}
	attempts := int(rc.Attempts)
	if attempted && o.Result != Held && o.Result != Released {
		attempts++
	}
	run := segment.SettleRun{First: int(ref.Index), Count: 1, Result: o.Result, Attempts: attempts, Note: o.Note, Edit: !attempted}
	if n := noteGrowth(&run); n > 0 && !s.keepsNote(n) {
		run.Note = nil // the one before stays
	}
	switch o.Result {
	case Deferred:
		run.Until = segment.Nanos(o.Until)
	case Uncertain:
		policy, delay := s.doubtPolicy(rc)
		switch {
		case !o.Until.IsZero():
			run.Until = segment.Nanos(o.Until)
		case policy == mailq.DeferDoubt:
			run.Until = s.opt.now().Add(delay).UnixNano()
		}
		if policy == mailq.HoldDoubt && o.Until.IsZero() {
			wr.runs = appendRun(wr.runs, run)
			run.Result = Held
		}
	}
	wr.runs = appendRun(wr.runs, run)
	return nil
}

// doubtPolicy is what becomes of a recipient that comes back in doubt.
func (s *Store) doubtPolicy(rc *state.Recipient) (mailq.DoubtPolicy, time.Duration) {
	if q := &s.table.Queue(rc.Queue).State; q.Doubt != mailq.Redeliver {
		return q.Doubt, q.DoubtDelay
	}
	return s.opt.Doubt, s.opt.DoubtDelay
}

// grown forgets how long a message's list will be once nothing for it is under way.
func (s *Store) grown(id uint64) {
	slot, ok := s.table.Find(id)
	if !ok || s.table.Len(slot) >= s.growing[id] {
		delete(s.growing, id)
	}
}

// appendRun adds a run, to the last one where they are alike and adjoin.
func appendRun(runs []segment.SettleRun, r segment.SettleRun) []segment.SettleRun {
	if n := len(runs); n > 0 {
		l := &runs[n-1]
		if l.First+l.Count == r.First && l.Result == r.Result && l.Attempts == r.Attempts && l.Until == r.Until && l.Edit == r.Edit && l.Note == nil && r.Note == nil {
			l.Count += r.Count
			return runs
		}
	}
	return append(runs, r)
}

// reuseRuns returns the memory that the ticket's next settle record used in an
// earlier life.
func (t *ticket) reuseRuns() []segment.SettleRun {
	if n := len(t.writes); n < cap(t.writes) {
		if r := t.writes[:n+1][n].runs; r != nil {
			return r[:0]
		}
	}
	return make([]segment.SettleRun, 0, 2)
}

// need is how much of a group the batch takes.
func (t *ticket) need() (table, body int) {
	for i := range t.enqueue {
		p := &t.plans[i]
		if p.shared {
			continue
		}
		table += p.table
		if p.chunks == nil {
			body += pad8(len(p.body))
		}
	}
	for i := range t.writes {
		w := &t.writes[i]
		if len(w.add) > 0 {
			table += segment.RecipientsSize(w.add)
		}
		table += segment.SettleSize(w.runs)
	}
	for i := range t.moves {
		m := &t.moves[i]
		table += segment.MovedSize(m.record)
		body += pad8(len(m.body))
	}
	if t.chunk != nil {
		table += segment.ChunkSize
		body += pad8(len(t.chunk.data))
	}
	if q := t.queue; q != nil {
		if q.flush {
			table += segment.FlushSize(q.name)
		} else {
			table += segment.QueueSize(q.name)
		}
	}
	return table, body
}

// growth bounds what the batch adds to the next checkpoint, the times and counts of attempts
// of recipients that are there apart.
func (t *ticket) growth() (n int64) {
	for i := range t.enqueue {
		if p := &t.plans[i]; !p.shared {
			n += int64(p.table)
		}
	}
	for i := range t.writes {
		w := &t.writes[i]
		if len(w.add) > 0 {
			n += int64(segment.RecipientsSize(w.add))
		}
		for j := range w.runs {
			n += noteGrowth(&w.runs[j])
		}
	}
	if q := t.queue; q != nil && !q.flush {
		n += int64(segment.QueueSize(q.name))
	}
	return n
}

// recordGrowth is the growth of the batch that a record of the log was written for, as far as it is
// that record's.
func recordGrowth(r segment.Record) (n int64) {
	if r.MovedFrom() != 0 {
		return 0
	}
	switch r.Kind() {
	case segment.KindEnqueue, segment.KindRecipients, segment.KindQueue:
		return int64(len(r))
	case segment.KindSettle:
		r.Runs(func(run segment.SettleRun) { n += noteGrowth(&run) })
	}
	return n
}

// noteGrowth is what the note of an outcome adds to the next checkpoint.
func noteGrowth(r *segment.SettleRun) int64 {
	if r.Note == nil || r.Result.IsUsed() {
		return 0
	}
	return int64(r.Count) * int64(len(r.Note)+binary.MaxVarintLen16)
}

func pad8(n int) int { return (n + 7) &^ 7 }
