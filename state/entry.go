package state

import "github.com/mtawal/mtawal/segment"

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

// Plain is an Entry with one recipient that is pending, without a time or a note.
type Plain struct {
	ID       uint64
	Loc      segment.Pos
	Weight   uint32 // in the table's units
	Expires  uint32
	Enqueued uint32
	Late     uint32
	Queue    uint32
}

// Entry fills e with the message in a slot.
func (t *Table) Entry(slot uint32, e *Entry) {
	m := t.Msg(slot)
	e.ID, e.Loc, e.Weight, e.Expires, e.Priority = m.ID, m.Loc, m.Weight, m.Expires, m.Priority
	e.Enqueued, e.Late = m.Enqueued, uint32(t.Order(m)-m.ID)
	e.Keyed = m.flags&msgKeyed != 0
	e.Extents = append(e.Extents[:0], t.Extents(m)...)
	e.Rcpts = e.Rcpts[:0]
	list := t.Recipients(slot)
	for i := range list {
		r := &list[i]
		e.Rcpts = append(e.Rcpts, EntryRecipient{Recipient: *r, NotBefore: t.NotBefore(r), Note: t.Note(r)})
		e.Rcpts[i].late = 0
	}
}

// LoadKey adds a remembered key, oldest first.
func (t *Table) LoadKey(k Key) { t.keys.add([]byte(k.Key), k.ID, k.At) }
