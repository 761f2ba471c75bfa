package state

import (
	"github.com/mtawal/mtawal/mailq"
	"github.com/mtawal/mtawal/segment"
)

// Standing is where a recipient stands in the log. Claims are not in the log.
type Standing uint8

// The standings.
const (
	Pending Standing = iota // due, or due at a time not yet reached if NotBefore is set
	Held
	Used // final, with a reason
)

// Flags of a recipient that are in the log.
const (
	InDoubt  uint8 = 1 << iota // an attempt may have been a delivery
	Started                    // an Attempt record came, and no outcome since
	Deferred                   // was deferred: counts as deferred while it waits
)

// Recipient is the state of one recipient: 16 bytes without pointers. The fields
// above the line come from the log; those below are the engine's, and Apply
// leaves them alone.
type Recipient struct {
	Queue    uint32 // for Table.Queue
	extra    uint32 // index of its time and note; 0: none
	Attempts uint16
	Standing Standing
	Reason   mailq.Result // of a used one
	Flags    uint8

	Mem uint8 // the engine's marks
	_   uint16
}

// Message is the state of one message: 64 bytes without pointers.
type Message struct {
	ID       uint64
	Loc      segment.Pos // of its Enqueue record, or the newest copy of it
	Weight   uint32      // bytes of the log that it holds, in units of weightUnit
	Expires  uint32      // Unix seconds, rounded up; 0: never
	Enqueued uint32      // Unix seconds; the exact time is in the record
	Live     uint32      // recipients not used
	n        uint32
	late     uint32
	multi    uint32 // index+1 of its recipients; 0: there is one, below
	Priority int8
	flags    uint8
	refs     uint16 // of a single recipient; a list counts its own
	one      [1]Recipient
}

const (
	weightUnit = 8

	msgExtents = 1 << 0 // holds more of the log than the record at Loc: see Table.extents
	msgKeyed   = 1 << 1
	msgDead    = 1 << 2 // out of the index; the slot is free once nothing names it
)

// Extent is a piece of the log that a message holds beside the record at Loc.
type Extent struct {
	Pos    segment.Pos
	Weight uint32 // in bytes
	Kind   segment.Kind
	First  uint32 // KindRecipients: index of its first recipient; KindChunk: sequence
	CRC    uint32 // KindChunk
}

type extra struct {
	notBefore int64
	note      []byte // nil: the one in the log
	next      uint32 // free list
}

// list is the recipients of a message that has, or once had, more than one.
type list struct {
	rcpts []Recipient
	refs  int
}

const slabSize = 1024

// Table is the state of a store at a position of its log.
type Table struct {
	// Applied is the end of the last frame applied: the table is the state at
	// exactly this position.
	Applied segment.Pos
	// Chain and Last are the CRC and the position of that frame's header.
	Chain uint32
	Last  segment.Pos
	Epoch uint64
	Nonce uint64
	// Lease is the highest ID lease seen: IDs below it may have been handed out.
	Lease  uint64
	Counts Counts

	// Observer, if set, is told of each change.
	Observer Observer

	slab     []*[slabSize]Message
	free     uint32 // slot+1 of a free list through n
	messages int
	index    index
	multis   []list
	freeMany []uint32
	extras   []extra
	freeX    uint32
	extents  map[uint64][]Extent

	queues []Queue
	byName map[string]uint32
	freeQ  []uint32

	keys keyWindow
}

// Counts are totals over the life of the store, and of now, of recipients.
type Counts struct {
	Enqueued     int64
	Used         mailq.UsedCounts
	InDoubt      int64
	Weight       int64 // bytes of the log held by live messages
	TailCut      int64
	UncleanOpens int64
}

// Queue is a queue by number.
type Queue struct {
	Name  string
	State mailq.QueueState
	Live  int64 // recipients not used
}

// Ref names a recipient of the table for as long as its message is in it.
type Ref struct {
	Slot  uint32
	Index uint32
}

// Observer is told of changes while they are applied. It must not change the
// table, but for the engine's fields.
type Observer interface {
	// Added: a message and its recipients are new.
	Added(slot uint32, first, n int)
	// Changed: a recipient has another standing, time, note or flag (but Started). It is
	// called after the change; was is before, its note is gone, due was its time.
	Changed(r Ref, was Recipient, due int64)
	// Moved: location of the message changed, or an extent's.
	Moved(slot uint32, from, to segment.Pos, weight int64)
	// Dying: the last recipient was used; the message is taken out of the index when
	// this returns, and its slot is freed once no Ref of it is left.
	Dying(slot uint32)
	// QueueChanged: state of a queue.
	QueueChanged(q uint32)
	// Flushed: what is deferred in the queue, and due later than at, is due at.
	Flushed(q uint32, at int64)
}

// NewTable returns the empty state.
func NewTable() *Table {
	return &Table{
		extras: make([]extra, 1), // index 0 means none
		byName: make(map[string]uint32),
	}
}

// Messages is the number of messages with a recipient that is not used.
func (t *Table) Messages() int { return t.messages }

// Msg is the message in a slot.
func (t *Table) Msg(slot uint32) *Message { return &t.slab[slot/slabSize][slot%slabSize] }

// Slots is one more than the highest slot.
func (t *Table) Slots() uint32 { return uint32(len(t.slab) * slabSize) }

// Find looks a message up.
func (t *Table) Find(id uint64) (slot uint32, ok bool) { return t.index.find(id) }

// Len is the number of recipients that a message has, the used ones included.
func (m *Message) Len() int { return int(m.n) }

// Order is the message's place in the order in which messages were committed. It is
// the ID, unless that was reserved some time before.
func (m *Message) Order() uint64 { return m.ID + uint64(m.late) }

// ExpiresAt is when what is left of the message is handed out as expired, Unix ns, on a
// whole second; 0: never.
func (m *Message) ExpiresAt() int64 { return int64(m.Expires) * 1e9 }

// Bytes is how much of the log the message holds.
func (m *Message) Bytes() int64 { return int64(m.Weight) * weightUnit }

// Rcpt is a recipient of a message.
func (t *Table) Rcpt(r Ref) *Recipient {
	m := t.Msg(r.Slot)
	if m.multi == 0 {
		return &m.one[0]
	}
	return &t.multis[m.multi-1].rcpts[r.Index]
}

// Recipients are all recipients of a message, a view.
func (t *Table) Recipients(slot uint32) []Recipient {
	m := t.Msg(slot)
	if m.multi == 0 {
		return m.one[:]
	}
	return t.multis[m.multi-1].rcpts
}

// NotBefore is when a recipient is due, Unix ns; 0: at once.
func (t *Table) NotBefore(r *Recipient) int64 { return t.extras[r.extra].notBefore }

// Note is the note that an outcome left with a recipient; nil: the one it was
// enqueued with stands.
func (t *Table) Note(r *Recipient) []byte { return t.extras[r.extra].note }

// Extents are the pieces of the log that a message holds beside the record at
// Loc.
func (t *Table) Extents(m *Message) []Extent {
	if m.flags&msgExtents == 0 {
		return nil
	}
	return t.extents[m.ID]
}

func (t *Table) setExtra(r *Recipient, notBefore int64, note []byte) {
	if notBefore == 0 && note == nil {
		if r.extra != 0 {
			t.extras[r.extra] = extra{next: t.freeX}
			t.freeX = r.extra
			r.extra = 0
		}
		return
	}
	if r.extra == 0 {
		if t.freeX != 0 {
			r.extra = t.freeX
			t.freeX = t.extras[r.extra].next
		} else {
			r.extra = uint32(len(t.extras))
			t.extras = append(t.extras, extra{})
		}
	}
	t.extras[r.extra] = extra{notBefore: notBefore, note: note}
}

// newMessage takes a slot for a message with n recipients.
func (t *Table) newMessage(id uint64, n int) uint32 {
	var slot uint32
	if t.free != 0 {
		slot = t.free - 1
		t.free = t.Msg(slot).n
	} else {
		slot = uint32(len(t.slab) * slabSize)
		t.slab = append(t.slab, new([slabSize]Message))
		for i := uint32(slabSize - 1); i > 0; i-- {
			m := t.Msg(slot + i)
			m.n, t.free = t.free, slot+i+1
		}
	}
	m := t.Msg(slot)
	*m = Message{ID: id}
	t.resize(m, n)
	t.index.insert(id, slot)
	t.messages++
	return slot
}

// resize gives a message n recipients, keeping those it has.
func (t *Table) resize(m *Message, n int) {
	switch {
	case m.multi != 0:
		l := &t.multis[m.multi-1]
		l.rcpts = append(l.rcpts, make([]Recipient, n-len(l.rcpts))...)
	case n > 1:
		l := list{rcpts: make([]Recipient, n), refs: int(m.refs)}
		l.rcpts[0] = m.one[0]
		m.one[0], m.refs = Recipient{}, 0
		if k := len(t.freeMany); k > 0 {
			m.multi = t.freeMany[k-1]
			t.freeMany = t.freeMany[:k-1]
			t.multis[m.multi-1] = l
		} else {
			t.multis = append(t.multis, l)
			m.multi = uint32(len(t.multis))
		}
	}
	m.n = uint32(n)
}

// drop takes a dead message out of the index; its slot goes when nothing in the
// engine names it any more.
func (t *Table) drop(slot uint32) {
	m := t.Msg(slot)
	if t.Observer != nil {
		t.Observer.Dying(slot)
	}
	t.index.remove(m.ID)
	t.messages--
	t.Counts.Weight -= m.Bytes()
	if m.flags&msgExtents != 0 {
		delete(t.extents, m.ID)
	}
	m.flags |= msgDead
	t.collect(slot)
}

// Ref says that the engine keeps a Ref to a recipient of the message: its slot is
// not used again before Unref was called as often.
func (t *Table) Ref(slot uint32) {
	if m := t.Msg(slot); m.multi != 0 {
		t.multis[m.multi-1].refs++
	} else {
		m.refs++
	}
}

// Unref says that a Ref was dropped. An Observer may call it.
func (t *Table) Unref(slot uint32) {
	if m := t.Msg(slot); m.multi != 0 {
		t.multis[m.multi-1].refs--
	} else {
		m.refs--
	}
	t.collect(slot)
}

// collect frees the slot of a dead message that nothing names any more.
func (t *Table) collect(slot uint32) {
	m := t.Msg(slot)
	if m.flags&msgDead == 0 || m.refs > 0 || m.multi != 0 && t.multis[m.multi-1].refs > 0 {
		return
	}
	if m.multi != 0 {
		t.multis[m.multi-1] = list{}
		t.freeMany = append(t.freeMany, m.multi)
	}
	*m = Message{n: t.free}
	t.free = slot + 1
}

// QueueNumber interns a queue name.
func (t *Table) QueueNumber(name []byte) uint32 {
	if q, ok := t.byName[string(name)]; ok {
		return q
	}
	var q uint32
	if n := len(t.freeQ); n > 0 {
		q = t.freeQ[n-1]
		t.freeQ = t.freeQ[:n-1]
		t.queues[q] = Queue{Name: string(name)}
	} else {
		q = uint32(len(t.queues))
		t.queues = append(t.queues, Queue{Name: string(name)})
	}
	t.byName[t.queues[q].Name] = q
	return q
}

// FindQueue looks a queue up by name.
func (t *Table) FindQueue(name string) (uint32, bool) {
	q, ok := t.byName[name]
	return q, ok
}

// Queue is the queue with a number. The pointer is valid until a queue is added.
func (t *Table) Queue(q uint32) *Queue { return &t.queues[q] }

// Queues is one more than the highest number of a queue.
func (t *Table) Queues() int { return len(t.queues) }

// ForgetQueue gives the number of a queue back. The queue must be empty and
// without a state of its own; then it is as if it had never been there.
func (t *Table) ForgetQueue(q uint32) {
	if e := &t.queues[q]; e.Live == 0 && e.State == (mailq.QueueState{}) && e.Name != "" {
		delete(t.byName, e.Name)
		*e = Queue{}
		t.freeQ = append(t.freeQ, q)
	}
}

// ForEachExtent calls fn with each extent that a message holds.
func (t *Table) ForEachExtent(fn func(*Extent)) {
	for _, list := range t.extents {
		for i := range list {
			fn(&list[i])
		}
	}
}

// ForEach calls fn with the slot of each message, in the order of slots: that of IDs
// where a checkpoint was loaded and nothing died since.
func (t *Table) ForEach(fn func(slot uint32)) {
	for i, chunk := range t.slab {
		for j := range chunk {
			if chunk[j].Live > 0 {
				fn(uint32(i*slabSize + j))
			}
		}
	}
}
