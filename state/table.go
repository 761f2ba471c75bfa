package state

import (
	"math"
	"slices"

	"github.com/mtawal/mtawal/internal/shrink"
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
	Queue    uint32 // for Table.Queue; 0 of a used one, which keeps no queue alive
	extra    uint32 // index of its time and note; 0: none
	Attempts uint16
	Standing Standing
	Reason   mailq.Result // of a used one
	Flags    uint8

	Mem  uint8  // the engine's marks
	late uint16 // the message's own, in its first: see Table.Order
}

// Message is the state of one message: 48 bytes without pointers. What few have is elsewhere.
type Message struct {
	ID       uint64
	Loc      segment.Pos // of its Enqueue record, or the newest copy of it
	Weight   uint32      // bytes of the log that it holds, in units of WeightUnit
	Expires  uint32      // Unix seconds, rounded up; 0: never
	Enqueued uint32      // Unix seconds; the exact time is in the record
	Priority int8
	flags    uint8
	refs     uint16       // of a single recipient; a list counts its own
	one      [1]Recipient // with msgMany, and in a free slot, extra is a link and the rest but late zero: see link
}

// link is where the recipients of a message with msgMany are in Table.multis; of a free slot, the next one's
// index+1, see slabUse.
func (m *Message) link() *uint32 { return &m.one[0].extra }

// WeightUnit is the unit of Message.Weight, in bytes.
const WeightUnit = 8

const (
	msgExtents = 1 << 0 // holds more of the log than the record at Loc: see Table.extents
	msgKeyed   = 1 << 1
	msgDead    = 1 << 2 // not found any more; the slot is free once nothing names it
	msgThere   = 1 << 3 // has a recipient that is not used
	msgMany    = 1 << 4 // has a list of recipients, at link
	msgLate    = 1 << 5 // what is to be in late is in Table.late
)

// Extent is a piece of the log that a message holds beside the record at Loc.
type Extent struct {
	Pos    segment.Pos
	Weight uint32 // in bytes
	Kind   segment.Kind
	First  uint32 // KindRecipients: index of its first recipient; KindChunk: sequence
	CRC    uint32 // KindChunk
}

// list is the recipients of a message that has, or once had, more than one.
type list struct {
	rcpts []Recipient
	refs  int
	live  int // not used
}

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

	slab     []*[slabSize]Message // nil: given back, all of its slots are free
	slabs    []slabUse
	open     []uint32 // slabs that may have a free slot, the next to be used last
	gone     []uint32 // slabs that were given back
	idle     int      // slabs that are there, empty, and in no block
	blocks   []slabBlock
	messages int
	index    index
	multis   []list
	freeMany []uint32
	timed    extras
	extents  map[uint64][]Extent
	late     shrink.Map[uint64, uint32] // by ID: see Order
	loaded   uint64                     // highest ID that a Loader brought
	firsts   []uint64                   // of the slabs that it filled, the ID of the first message: see findLoaded
	died     bool                       // a message has, ever

	queues []*Queue // nil: the number is free
	byName shrink.Map[string, uint32]
	freeQ  []uint32 // numbers that may be free

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

// Queue is a queue by number. It is in the table while a recipient that is not used is in
// it, or it has a state of its own; behind the record that takes the last of that away it
// is as if it had never been there. Numbers are used again. Nothing that is written
// depends on them.
type Queue struct {
	Name  string
	State mailq.QueueState
	Live  int64  // recipients not used
	timed uint32 // first of the extras of those that have a time; 0: none

	Engine any // the engine's own
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
	// Dying: the last recipient was used; the message is not found any more when
	// this has returned, and its slot is freed once no Ref of it is left.
	Dying(slot uint32)
	// QueueChanged: state of a queue; was is before.
	QueueChanged(q uint32, was mailq.QueueState)
	// QueueGone: the queue is about to be forgotten.
	QueueGone(q uint32)
	// Flushed: what is deferred in the queue, and due later than at, is due at.
	Flushed(q uint32, at int64)
}

// NewTable returns the empty state.
func NewTable() *Table {
	t := new(Table)
	t.timed.init()
	return t
}

// Messages is the number of messages with a recipient that is not used.
func (t *Table) Messages() int { return t.messages }

// Msg is the message in a slot.
func (t *Table) Msg(slot uint32) *Message { return &t.slab[slot/slabSize][slot%slabSize] }

// Slots is one more than the highest slot.
func (t *Table) Slots() uint32 { return uint32(len(t.slab) * slabSize) }

// Find looks a message up.
func (t *Table) Find(id uint64) (slot uint32, ok bool) {
	if id <= t.loaded {
		if slot, ok = t.findLoaded(id); ok {
			return slot, true
		}
	}
	return t.index.find(id)
}

// Lives reports whether a slot holds a message with that ID, 0 for any, that is not dead.
// The slot need not be one.
func (t *Table) Lives(slot uint32, id uint64) bool {
	if slot >= t.Slots() || t.slab[slot/slabSize] == nil {
		return false
	}
	m := t.Msg(slot)
	return m.flags&msgThere != 0 && (id == 0 || m.ID == id)
}

// Taken reports whether a slot is that of a message, be it one that is dead and still named.
func (t *Table) Taken(slot uint32) bool {
	return slot < t.Slots() && t.slab[slot/slabSize] != nil && t.Msg(slot).ID != 0
}

// many is where the recipients of a message are that has, or had, more than one; else nil.
func (t *Table) many(m *Message) *list {
	if m.flags&msgMany == 0 {
		return nil
	}
	return &t.multis[*m.link()]
}

// Live is how many recipients of a message are not used.
func (t *Table) Live(m *Message) int {
	if l := t.many(m); l != nil {
		return l.live
	}
	return int(m.flags&msgThere) / msgThere
}

// addLive changes how many recipients of a message are not used.
func (t *Table) addLive(m *Message, n int) {
	live := n
	if l := t.many(m); l != nil {
		l.live += n
		live = l.live
	}
	if live > 0 {
		m.flags |= msgThere
	} else {
		m.flags &^= msgThere
	}
}

// Len is the number of recipients that a message has, the used ones included.
func (t *Table) Len(slot uint32) int { return len(t.Recipients(slot)) }

// Plain returns the recipient of a message that has a single one, which waits for nothing but its turn: pending, not
// in doubt, with no time and no note. Else nil.
func (m *Message) Plain() *Recipient {
	r := &m.one[0]
	if m.flags&(msgThere|msgMany) != msgThere || r.Standing != Pending || r.Flags&InDoubt != 0 || r.extra != 0 {
		return nil
	}
	return r
}

// Order is the message's place in the order in which messages were committed. It is
// the ID, unless that was reserved some time before.
func (t *Table) Order(m *Message) uint64 {
	if m.flags&msgLate == 0 {
		return m.ID + uint64(m.one[0].late)
	}
	late, _ := t.late.Get(m.ID)
	return m.ID + uint64(late)
}

// setLate says how many IDs had been given since its own when a message was committed.
func (t *Table) setLate(m *Message, late uint32) {
	if late <= math.MaxUint16 {
		m.one[0].late = uint16(late)
		return
	}
	t.late.Put(m.ID, late)
	m.flags |= msgLate
}

// ExpiresAt is when what is left of the message is handed out as expired, Unix ns, on a
// whole second; 0: never.
func (m *Message) ExpiresAt() int64 { return int64(m.Expires) * 1e9 }

// Bytes is how much of the log the message holds.
func (m *Message) Bytes() int64 { return int64(m.Weight) * WeightUnit }

// Rcpt is a recipient of a message.
func (t *Table) Rcpt(r Ref) *Recipient {
	m := t.Msg(r.Slot)
	if m.flags&msgMany == 0 {
		return &m.one[0]
	}
	return &t.multis[*m.link()].rcpts[r.Index]
}

// Recipients are all recipients of a message, a view.
func (t *Table) Recipients(slot uint32) []Recipient {
	m := t.Msg(slot)
	if m.flags&msgMany == 0 {
		return m.one[:]
	}
	return t.multis[*m.link()].rcpts
}

// Extents are the pieces of the log that a message holds beside the record at
// Loc.
func (t *Table) Extents(m *Message) []Extent {
	if m.flags&msgExtents == 0 {
		return nil
	}
	return t.extents[m.ID]
}

// newMessage takes a slot for a message with n recipients.
func (t *Table) newMessage(id uint64, n int) uint32 {
	slot := t.takeSlot()
	m := t.Msg(slot)
	*m = Message{ID: id}
	t.resize(m, n)
	t.index.insert(id, slot)
	t.messages++
	return slot
}

// resize gives a message n recipients, keeping those it has.
func (t *Table) resize(m *Message, n int) {
	if l := t.many(m); l != nil {
		l.rcpts = append(l.rcpts, make([]Recipient, n-len(l.rcpts))...)
		return
	}
	if n == 1 {
		return
	}
	l := list{rcpts: make([]Recipient, n), refs: int(m.refs), live: t.Live(m)}
	l.rcpts[0] = m.one[0]
	m.one[0], m.refs = Recipient{late: m.one[0].late}, 0
	m.flags |= msgMany
	if k := len(t.freeMany); k > 0 {
		*m.link() = t.freeMany[k-1]
		t.freeMany = t.freeMany[:k-1]
		t.multis[*m.link()] = l
	} else {
		*m.link() = uint32(len(t.multis))
		t.multis = append(t.multis, l)
	}
}

// drop has a dead message found no more; its slot goes when nothing in the
// engine names it any more.
func (t *Table) drop(slot uint32) {
	m := t.Msg(slot)
	if t.Observer != nil {
		t.Observer.Dying(slot)
	}
	t.index.remove(m.ID)
	t.messages--
	t.died = true
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
	m := t.Msg(slot)
	if l := t.many(m); l != nil {
		l.refs++
	} else {
		m.refs++
	}
}

// Unref says that a Ref was dropped. An Observer may call it.
func (t *Table) Unref(slot uint32) {
	m := t.Msg(slot)
	if l := t.many(m); l != nil {
		l.refs--
	} else {
		m.refs--
	}
	t.collect(slot)
}

// collect frees the slot of a dead message that nothing names any more.
func (t *Table) collect(slot uint32) {
	m := t.Msg(slot)
	if m.flags&msgDead == 0 || m.refs > 0 {
		return
	}
	if l := t.many(m); l != nil {
		if l.refs > 0 {
			return
		}
		*l = list{}
		t.freeMany = append(t.freeMany, *m.link())
	}
	if m.flags&msgLate != 0 {
		t.late.Delete(m.ID)
	}
	t.freeSlot(slot)
}

// Reserve makes room in an empty table for so many queues.
func (t *Table) Reserve(queues int) {
	t.byName.Reserve(queues)
	t.queues = slices.Grow(t.queues, queues)
}

// QueueNumber interns a queue name.
func (t *Table) QueueNumber(name []byte) uint32 {
	if q, ok := t.byName.Get(string(name)); ok {
		return q
	}
	return t.newQueue(string(name))
}

// QueueNamed is QueueNumber for a name that is a string already, which the table keeps.
func (t *Table) QueueNamed(name string) uint32 {
	if q, ok := t.byName.Get(name); ok {
		return q
	}
	return t.newQueue(name)
}

func (t *Table) newQueue(name string) uint32 {
	q := uint32(len(t.queues))
	for n := len(t.freeQ); n > 0; n = len(t.freeQ) {
		f := t.freeQ[n-1]
		t.freeQ = t.freeQ[:n-1]
		if int(f) < len(t.queues) && t.queues[f] == nil {
			q = f
			break
		}
	}
	if int(q) == len(t.queues) {
		t.queues = append(t.queues, nil)
	}
	e := &Queue{Name: name}
	t.queues[q] = e
	t.byName.Put(e.Name, q)
	return q
}

// FindQueue looks a queue up by name.
func (t *Table) FindQueue(name string) (uint32, bool) { return t.byName.Get(name) }

// Queue is the queue with a number, nil if none has it. The pointer is valid while the
// queue is in the table.
func (t *Table) Queue(q uint32) *Queue { return t.queues[q] }

// Queues is one more than the highest number of a queue.
func (t *Table) Queues() int { return len(t.queues) }

// ForgetQueue gives the number of a queue back if nothing is left of it: no recipient, and
// no state of its own. Apply does so itself.
func (t *Table) ForgetQueue(q uint32) {
	if int(q) >= len(t.queues) || t.queues[q] == nil {
		return
	}
	e := t.queues[q]
	if e.Live != 0 || e.State != (mailq.QueueState{}) {
		return
	}
	if t.Observer != nil {
		t.Observer.QueueGone(q)
	}
	t.byName.Delete(e.Name)
	t.queues[q] = nil
	t.freeQ = append(t.freeQ, q)
	// Memory follows the number of queues, not the most there ever were.
	n := len(t.queues)
	for n > 0 && t.queues[n-1] == nil {
		n--
	}
	if t.queues = t.queues[:n]; n < cap(t.queues)/4 && cap(t.queues) > 1024 {
		t.queues = append(make([]*Queue, 0, 2*n), t.queues...)
		free := t.freeQ
		t.freeQ = nil
		for _, f := range free {
			if int(f) < n {
				t.freeQ = append(t.freeQ, f)
			}
		}
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
func (t *Table) ForEach(fn func(slot uint32)) { t.ForEachFrom(0, t.Slots(), fn) }

// Loaded is the highest ID that came from a checkpoint. What has it, or a lower one, is where it was loaded: ForEach comes to
// such messages in the order of their IDs.
func (t *Table) Loaded() uint64 { return t.loaded }

// Intact reports whether no message has died yet: then ForEach comes to what was not loaded in the order in which it was enqueued, behind
// what was.
func (t *Table) Intact() bool { return !t.died }

// ForEachFrom is ForEach for about so many slots from one on, whatever is in them. It returns
// the slot to go on at, which is Slots at the end.
func (t *Table) ForEachFrom(slot, most uint32, fn func(slot uint32)) (next uint32) {
	i, end := slot/slabSize, min((slot+most+slabSize-1)/slabSize, uint32(len(t.slab)))
	for ; i < end; i++ {
		chunk := t.slab[i]
		if chunk == nil {
			continue
		}
		for j := range chunk {
			if chunk[j].flags&msgThere != 0 {
				fn(i*slabSize + uint32(j))
			}
		}
	}
	return i * slabSize
}
