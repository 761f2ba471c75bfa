package checkpoint

import (
	"cmp"
	"encoding/binary"
	"fmt"
	"io"
	"maps"
	"slices"

	"github.com/mtawal/mtawal/mailq"
	"github.com/mtawal/mtawal/segment"
	"github.com/mtawal/mtawal/state"
)

// Usage is what live messages hold in one segment.
type Usage struct {
	Messages int64 // records and extents
	Bytes    int64
}

// NamedQueue is a queue with a state of its own.
type NamedQueue struct {
	Name  string
	State mailq.QueueState
}

// writer encodes a checkpoint, message by message in the order of their IDs. What
// it writes is a function of the state alone: queues are numbered as messages name
// them.
type writer struct {
	w        io.Writer
	off      int64
	buf      []byte
	cur      sectionRef
	sections []sectionRef
	prev     delta
	names    map[string]uint64
	order    []string
	usage    map[uint32]Usage
}

// numbering translates the queue numbers of one source of entries.
type numbering struct {
	w    *writer
	name func(uint32) string
	to   []uint64 // number+1
}

func (n *numbering) number(q uint32) uint64 {
	for int(q) >= len(n.to) {
		n.to = append(n.to, make([]uint64, int(q)+1-len(n.to)+64)...)
	}
	if n.to[q] == 0 {
		n.to[q] = n.w.intern(n.name(q)) + 1
	}
	return n.to[q] - 1
}

func (w *writer) intern(name string) uint64 {
	if i, ok := w.names[name]; ok {
		return i
	}
	i := uint64(len(w.order))
	w.names[name] = i
	w.order = append(w.order, name)
	return i
}

func newWriter(out io.Writer, info *Info) (*writer, error) {
	w := &writer{w: out, names: make(map[string]uint64), usage: make(map[uint32]Usage)}
	w.buf = append(w.buf, info.encode()...)
	if err := w.flush(); err != nil {
		return nil, err
	}
	w.begin(sectionMessages)
	return w, nil
}

const flushAt = 256 << 10

func (w *writer) flush() error {
	if w.cur.kind != 0 {
		w.cur.crc = segment.CRCUpdate(w.cur.crc, w.buf)
	}
	n, err := w.w.Write(w.buf)
	w.off += int64(n)
	w.buf = w.buf[:0]
	return err
}

func (w *writer) begin(kind byte) { w.cur = sectionRef{kind: kind, off: w.off} }

func (w *writer) end() error {
	if err := w.flush(); err != nil {
		return err
	}
	w.cur.length = w.off - w.cur.off
	w.sections = append(w.sections, w.cur)
	w.cur = sectionRef{}
	return nil
}

// message appends the next message.
func (w *writer) message(e *state.Entry, from *numbering) error {
	if e.ID <= w.prev.id {
		return fmt.Errorf("message %x after %x in a checkpoint", e.ID, w.prev.id)
	}
	w.buf = appendEntry(w.buf, &w.prev, e, from.number)
	w.cur.count++
	own := int64(e.Weight) * 8
	for _, x := range e.Extents {
		w.hold(x.Pos, int64(x.Weight))
		own -= int64(x.Weight)
	}
	w.hold(e.Loc, own)
	if len(w.buf) >= flushAt {
		return w.flush()
	}
	return nil
}

func (w *writer) hold(pos segment.Pos, bytes int64) {
	u := w.usage[pos.Segment()]
	u.Messages++
	u.Bytes += bytes
	w.usage[pos.Segment()] = u
}

// finish writes the other sections, the directory and the footer. queues are those
// with a state of their own, sorted by name.
func (w *writer) finish(queues []NamedQueue, keys []state.Key) error {
	if err := w.end(); err != nil {
		return err
	}
	w.begin(sectionQueues)
	states := make(map[string]mailq.QueueState, len(queues))
	for _, q := range queues {
		states[q.Name] = q.State
		w.intern(q.Name)
	}
	for _, name := range w.order {
		s := states[name]
		w.buf = appendString(w.buf, name)
		w.buf = append(w.buf, byte(s.Mode), byte(s.Doubt))
		w.buf = binary.AppendVarint(w.buf, int64(s.DoubtDelay))
		w.cur.count++
	}
	if err := w.end(); err != nil {
		return err
	}
	w.begin(sectionKeys)
	for _, k := range keys {
		w.buf = appendString(w.buf, k.Key)
		w.buf = binary.AppendUvarint(w.buf, k.ID)
		w.buf = binary.AppendVarint(w.buf, k.At)
		w.cur.count++
	}
	if err := w.end(); err != nil {
		return err
	}
	w.begin(sectionSegments)
	for _, n := range slices.Sorted(maps.Keys(w.usage)) {
		u := w.usage[n]
		w.buf = binary.AppendUvarint(w.buf, uint64(n))
		w.buf = binary.AppendUvarint(w.buf, uint64(u.Messages))
		w.buf = binary.AppendUvarint(w.buf, uint64(max(u.Bytes, 0)))
		w.cur.count++
	}
	if err := w.end(); err != nil {
		return err
	}
	for _, s := range w.sections {
		w.buf = append(w.buf, s.kind)
		w.buf = binary.AppendUvarint(w.buf, s.count)
		w.buf = binary.AppendUvarint(w.buf, uint64(s.off))
		w.buf = binary.AppendUvarint(w.buf, uint64(s.length))
		w.buf = le.AppendUint32(w.buf, s.crc)
	}
	n := len(w.buf)
	crc := segment.CRC(w.buf)
	w.buf = le.AppendUint32(w.buf, uint32(n))
	w.buf = le.AppendUint32(w.buf, crc)
	w.buf = append(w.buf, footerMagic...)
	return w.flush()
}

func appendString(b []byte, s string) []byte {
	return append(binary.AppendUvarint(b, uint64(len(s))), s...)
}

// Encode writes the state of a table as a checkpoint. It is what Fold must arrive
// at by another way; tests compare the two, and inspection of a store that has no
// checkpoint uses it.
func Encode(out io.Writer, t *state.Table, uuid [16]byte, logBytes int64) error {
	w, err := newWriter(out, tableInfo(t, uuid, logBytes))
	if err != nil {
		return err
	}
	if err := writeTable(w, t, nil); err != nil {
		return err
	}
	return w.finish(ownQueues(t), t.Keys())
}

func tableInfo(t *state.Table, uuid [16]byte, logBytes int64) *Info {
	return &Info{UUID: uuid, Pos: t.Applied, Last: t.Last, Chain: t.Chain, Epoch: t.Epoch, Nonce: t.Nonce, Lease: t.Lease, Counts: t.Counts, LogBytes: logBytes}
}

// ownQueues are the queues of a table with a state of their own, by name.
func ownQueues(t *state.Table) []NamedQueue {
	var list []NamedQueue
	for q := range t.Queues() {
		if e := t.Queue(uint32(q)); e != nil && e.State != (mailq.QueueState{}) {
			list = append(list, NamedQueue{e.Name, e.State})
		}
	}
	slices.SortFunc(list, func(a, b NamedQueue) int { return cmp.Compare(a.Name, b.Name) })
	return list
}

// writeTable merges the messages of a table with others, which next returns in the
// order of their IDs, nil at the end.
func writeTable(w *writer, t *state.Table, next func() (*state.Entry, *numbering, error)) error {
	slots := make([]uint32, 0, t.Messages())
	t.ForEach(func(slot uint32) { slots = append(slots, slot) })
	slices.SortFunc(slots, func(a, b uint32) int { return cmp.Compare(t.Msg(a).ID, t.Msg(b).ID) })
	own := &numbering{w: w, name: func(q uint32) string { return t.Queue(q).Name }}
	var e state.Entry
	var other *state.Entry
	var theirs *numbering
	advance := func() (err error) {
		if next != nil {
			other, theirs, err = next()
		}
		return err
	}
	if err := advance(); err != nil {
		return err
	}
	for len(slots) > 0 || other != nil {
		if other != nil && (len(slots) == 0 || other.ID < t.Msg(slots[0]).ID) {
			if err := w.message(other, theirs); err != nil {
				return err
			}
			if err := advance(); err != nil {
				return err
			}
			continue
		}
		t.Entry(slots[0], &e)
		slots = slots[1:]
		if err := w.message(&e, own); err != nil {
			return err
		}
	}
	return nil
}
