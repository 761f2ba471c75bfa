package state

import (
	"unsafe"

	"github.com/mtawal/mtawal/segment"
)

// Entry is a message taken out of a table, or on its way into one: the form in
// which checkpoints have it. Its slices are reused.
type Entry struct {
	ID       uint64
	Loc      segment.Pos
	Weight   uint32 // in the table's units
	Expires  uint32
	Enqueued uint32
	Late     uint32
	Priority int8
	Keyed    bool
	Rcpts    []EntryRecipient
	Extents  []Extent
}

// EntryRecipient is a recipient of an Entry. Queue is a number of the table that
// the entry came from or goes to.
type EntryRecipient struct {
	Recipient
	NotBefore int64
	Note      []byte
}

// Entry fills e with the message in a slot.
func (t *Table) Entry(slot uint32, e *Entry) {
	m := t.Msg(slot)
	e.ID, e.Loc, e.Weight, e.Expires, e.Priority = m.ID, m.Loc, m.Weight, m.Expires, m.Priority
	e.Enqueued, e.Late = m.Enqueued, m.late
	e.Keyed = m.flags&msgKeyed != 0
	e.Extents = append(e.Extents[:0], t.Extents(m)...)
	e.Rcpts = e.Rcpts[:0]
	list := t.Recipients(slot)
	for i := range list {
		r := &list[i]
		e.Rcpts = append(e.Rcpts, EntryRecipient{Recipient: *r, NotBefore: t.NotBefore(r), Note: t.Note(r)})
	}
}

// Load puts a message into the table that a checkpoint holds. Totals are not
// touched: the checkpoint has them too. The ID must not be there.
func (t *Table) Load(e *Entry) uint32 {
	slot := t.newMessage(e.ID, len(e.Rcpts))
	m := t.Msg(slot)
	m.Loc, m.Weight, m.Expires, m.Priority = e.Loc, e.Weight, e.Expires, e.Priority
	m.Enqueued, m.late = e.Enqueued, e.Late
	if e.Keyed {
		m.flags |= msgKeyed
	}
	if len(e.Extents) > 0 {
		t.setExtents(m, append([]Extent(nil), e.Extents...))
	}
	list := t.Recipients(slot)
	var from, note []byte
	for i := range list {
		r, s := &list[i], &e.Rcpts[i]
		*r = s.Recipient
		r.extra, r.Mem = 0, 0
		if r.Standing == Used {
			r.Queue = 0
			continue
		}
		if s.NotBefore != 0 || s.Note != nil {
			// Recipients that were written as alike share a note, as they did in the log.
			if s.Note == nil {
				note = nil
			} else if note == nil || unsafe.SliceData(s.Note) != unsafe.SliceData(from) || len(s.Note) != len(from) {
				note = append([]byte{}, s.Note...)
			}
			from = s.Note
			t.timed.loading = true
			t.setExtra(Ref{slot, uint32(i)}, r, s.NotBefore, note)
			t.timed.loading = false
		}
		t.addLive(m, 1)
		t.queues[r.Queue].Live++
	}
	return slot
}

// LoadKey adds a remembered key, oldest first.
func (t *Table) LoadKey(k Key) { t.keys.add([]byte(k.Key), k.ID, k.At) }
