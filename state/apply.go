package state

import (
	"fmt"
	"math"

	"github.com/mtawal/mtawal/mailq"
	"github.com/mtawal/mtawal/segment"
)

// ApplyFrame applies the records of a frame and moves the position of the table
// behind it. A frame that lies before the position was applied already and changes
// nothing. The error is for bytes that no version of this software wrote.
func (t *Table) ApplyFrame(f *segment.Frame) error {
	if f.Pos < t.Applied {
		return nil
	}
	lease := max(t.Lease, f.Lease)
	err := f.ForEach(func(pos segment.Pos, r segment.Record) error {
		if r.Kind() == segment.KindEnqueue && r.ID() >= lease {
			// Its ID was not to be handed out, and may be again: a mail would have another's.
			return fmt.Errorf("message %x is not below the lease of %x: %w", r.ID(), lease, segment.ErrCorrupt)
		}
		return t.Apply(pos, r)
	})
	if err != nil {
		return fmt.Errorf("applying the frame at %v: %w", f.Pos, err)
	}
	t.Applied, t.Last, t.Chain = f.End(), f.Pos, f.CRC
	t.Epoch, t.Nonce = f.Epoch, f.Nonce
	t.Lease = max(t.Lease, f.Lease)
	return nil
}

// Apply applies one record that stands at pos.
func (t *Table) Apply(pos segment.Pos, r segment.Record) error {
	if from := r.MovedFrom(); from != 0 {
		t.applyMoved(pos, from, r)
		return nil
	}
	switch r.Kind() {
	case segment.KindEnqueue:
		return t.applyEnqueue(pos, r)
	case segment.KindSettle:
		t.applySettle(r)
	case segment.KindAttempt:
		t.applyAttempt(r)
	case segment.KindRecipients:
		return t.applyRecipients(pos, r)
	case segment.KindQueue:
		t.applyQueue(r)
	case segment.KindFlush:
		t.applyFlush(r)
	case segment.KindForget:
		t.keys.forget(r.Forget())
	case segment.KindOpen:
		o := r.Open()
		t.Counts.TailCut += o.Cut
		if !o.Clean {
			t.Counts.UncleanOpens++
		}
	case segment.KindChunk, segment.KindSeal:
		// A chunk is garbage until an Enqueue names it. A Seal is about files.
	}
	return nil
}

func (t *Table) applyQueue(r segment.Record) {
	name, s := r.Queue()
	q := t.QueueNumber(name)
	was := t.queues[q].State
	t.queues[q].State = s
	if t.Observer != nil {
		t.Observer.QueueChanged(q, was)
	}
	t.ForgetQueue(q)
}

func (t *Table) applyEnqueue(pos segment.Pos, r segment.Record) error {
	id := r.ID()
	if _, ok := t.Find(id); ok || id == 0 {
		return fmt.Errorf("message %x enqueued twice: %w", id, segment.ErrCorrupt)
	}
	e := r.Enqueue()
	slot := t.newMessage(id, e.Len())
	m := t.Msg(slot)
	m.Loc, m.Priority = pos, e.Priority
	m.Expires, m.Enqueued = seconds(e.ExpiresAt), seconds(e.EnqueuedAt)
	t.setLate(m, e.Late)
	weight := r.Weight()
	if n := e.Chunks(); n > 0 {
		x := make([]Extent, n)
		for i := range x {
			c := e.Chunk(i)
			x[i] = Extent{Pos: c.Pos, Weight: segment.ChunkSize + c.Len, Kind: segment.KindChunk, First: uint32(i), CRC: c.CRC}
			weight += int64(x[i].Weight)
		}
		t.setExtents(m, x)
	}
	if key := e.Key(); len(key) > 0 {
		t.keys.add(key, id, e.EnqueuedAt)
		m.flags |= msgKeyed
	}
	t.grow(m, weight)
	t.fill(slot, 0, &e.RecipientList)
	return nil
}

// fill sets the recipients of a message from first on to those of a record.
func (t *Table) fill(slot uint32, first int, e *segment.RecipientList) {
	var few [16]uint32
	numbers := few[:0]
	e.QueueNames(func(_ int, name []byte) { numbers = append(numbers, t.QueueNumber(name)) })
	m, n := t.Msg(slot), e.Len()
	list := t.Recipients(slot)[first : first+n]
	for i := range list {
		q, notBefore := e.Route(i)
		list[i].Queue = numbers[q]
		t.queues[numbers[q]].Live++
		t.setExtra(Ref{slot, uint32(first + i)}, &list[i], notBefore, nil)
	}
	t.addLive(m, n)
	t.Counts.Enqueued += int64(n)
	if t.Observer != nil {
		t.Observer.Added(slot, first, n)
	}
}

// applyRecipients adds the recipients that take the place of replaced ones. It
// comes before the settle record that marks those, so that the message lives.
func (t *Table) applyRecipients(pos segment.Pos, r segment.Record) error {
	slot, ok := t.Find(r.ID())
	if !ok {
		return nil
	}
	m, e := t.Msg(slot), r.Recipients()
	if e.First != t.Len(slot) {
		return fmt.Errorf("message %x: recipients from %d on where there are %d: %w", m.ID, e.First, t.Len(slot), segment.ErrCorrupt)
	}
	t.resize(m, e.First+e.Len())
	t.setExtents(m, append(t.Extents(m), Extent{Pos: pos, Weight: uint32(r.Weight()), Kind: segment.KindRecipients, First: uint32(e.First)}))
	t.grow(m, r.Weight())
	t.fill(slot, e.First, &e.RecipientList)
	return nil
}

func (t *Table) setExtents(m *Message, x []Extent) {
	if t.extents == nil {
		t.extents = make(map[uint64][]Extent)
	}
	t.extents[m.ID] = x
	m.flags |= msgExtents
}

func (t *Table) grow(m *Message, weight int64) {
	t.Counts.Weight -= m.Bytes()
	units := int64(m.Weight) + (weight+WeightUnit-1)/WeightUnit
	m.Weight = uint32(min(units, math.MaxUint32))
	t.Counts.Weight += m.Bytes()
}

func (t *Table) applySettle(r segment.Record) {
	slot, ok := t.Find(r.ID())
	if !ok {
		return
	}
	r.Runs(func(s segment.SettleRun) {
		if s.Note != nil && !s.Result.IsUsed() {
			s.Note = append([]byte{}, s.Note...) // one for all of the run: nobody writes into it
		}
		for i := s.First; i < s.First+s.Count && i < t.Len(slot); i++ {
			t.settle(Ref{slot, uint32(i)}, &s)
		}
	})
	if t.Live(t.Msg(slot)) == 0 {
		t.drop(slot)
	}
}

// settle applies one outcome to one recipient. Used is final.
func (t *Table) settle(ref Ref, s *segment.SettleRun) {
	r := t.Rcpt(ref)
	if r.Standing == Used {
		return
	}
	was := *r
	note := t.Note(r)
	if s.Note != nil {
		note = s.Note
	}
	wasDue := t.NotBefore(r)
	due := wasDue
	if !s.Edit {
		r.Attempts = uint16(s.Attempts)
		r.Flags &^= Started
	}
	if s.Result != mailq.Held && s.Result != mailq.Released {
		r.Flags &^= Deferred
	}
	// What an operator decided while a delivery was under way outlives the attempt: a
	// hold stays until Released, and doubt without a time of its own keeps the time there is.
	switch s.Result {
	case mailq.Deferred:
		due = s.Until
		r.Flags |= Deferred
	case mailq.Uncertain:
		if s.Until != 0 {
			due = s.Until
		}
		r.Flags |= InDoubt
	case mailq.Held:
		r.Standing = Held
	case mailq.Released:
		r.Standing, due = Pending, 0
		r.Flags &^= Deferred
	default:
		r.Standing, r.Reason = Used, s.Result
		r.Flags = 0
		note, due = nil, 0
		t.addLive(t.Msg(ref.Slot), -1)
		t.queues[r.Queue].Live--
		t.countUsed(s.Result)
	}
	t.setExtra(ref, r, due, note)
	if r.Standing == Used {
		r.Queue = 0
	}
	t.Counts.InDoubt += int64(r.Flags&InDoubt) - int64(was.Flags&InDoubt)
	if t.Observer != nil {
		t.Observer.Changed(ref, was, wasDue)
	}
	if r.Standing == Used {
		t.ForgetQueue(was.Queue)
	}
}

func (t *Table) countUsed(reason mailq.Result) {
	u := &t.Counts.Used
	switch reason {
	case mailq.Delivered:
		u.Delivered++
	case mailq.Failed:
		u.Failed++
	case mailq.Expired:
		u.Expired++
	case mailq.Removed:
		u.Removed++
	case mailq.Replaced:
		u.Replaced++
	}
}

func (t *Table) applyAttempt(r segment.Record) {
	slot, ok := t.Find(r.ID())
	if !ok {
		return
	}
	first, count := r.AttemptRun()
	list := t.Recipients(slot)
	for i := first; i < first+count && i < len(list); i++ {
		if list[i].Standing != Used {
			list[i].Flags |= Started
		}
	}
}

func (t *Table) applyFlush(r segment.Record) {
	name, at := r.Flush()
	q, ok := t.FindQueue(string(name))
	if !ok {
		return
	}
	for t.LinkTimes(1 << 20) {
	}
	for i := t.queues[q].timed; i != 0; {
		x := *t.timed.at(i)
		if r := t.Rcpt(x.ref); x.notBefore > at && r.Standing == Pending {
			t.setExtra(x.ref, r, at, t.Note(r))
		}
		i = x.next
	}
	if t.Observer != nil {
		t.Observer.Flushed(q, at)
	}
}

// applyMoved changes a location, and only if it still is the one that was copied.
func (t *Table) applyMoved(pos, from segment.Pos, r segment.Record) {
	slot, ok := t.Find(r.Holder())
	if !ok {
		return
	}
	m := t.Msg(slot)
	if r.Kind() == segment.KindEnqueue {
		if m.Loc != from {
			return
		}
		m.Loc = pos
	} else {
		x := t.Extents(m)
		i := 0
		if r.Kind() == segment.KindChunk { // they come first, in their order
			n, _, _ := r.Chunk()
			i = int(min(n, uint32(len(x))))
		}
		for i < len(x) && x[i].Pos != from {
			i++
		}
		if i == len(x) || x[i].Kind != r.Kind() {
			return
		}
		x[i].Pos = pos
	}
	if t.Observer != nil {
		t.Observer.Moved(slot, from, pos, r.Weight())
	}
}

// seconds is a time in Unix seconds, rounded up. 0 means never and stays 0; what is
// before 1970 was over long ago.
func seconds(ns int64) uint32 {
	switch {
	case ns == 0:
		return 0
	case ns < 0:
		return 1
	}
	return uint32(min((ns-1)/1e9+1, math.MaxUint32))
}
