package state

import (
	"bytes"
	"cmp"
	"errors"
	"fmt"
	"runtime"
	"slices"
	"testing"

	"github.com/mtawal/mtawal/mailq"
	"github.com/mtawal/mtawal/segment"
	"pgregory.net/rapid"
)

func apply(t interface{ Fatalf(string, ...any) }, table *Table, frames ...*segment.Frame) {
	for _, f := range frames {
		if err := table.ApplyFrame(f); err != nil {
			t.Fatalf("%v", err)
		}
	}
}

// watcher is an observer that follows the state by what it is told, and complains if it
// was told wrong.
type watcher struct {
	table  *Table
	known  map[Ref]Recipient
	locs   map[segment.Pos]uint32 // slot by place in the log
	flush  int
	queues int
	errs   []string
	pinned map[uint32]uint64 // slots with a Ref, and the message
}

func watch(t *Table) *watcher {
	w := &watcher{table: t, known: map[Ref]Recipient{}, locs: map[segment.Pos]uint32{}, pinned: map[uint32]uint64{}}
	t.Observer = w
	return w
}

func (w *watcher) bad(format string, args ...any) {
	w.errs = append(w.errs, fmt.Sprintf(format, args...))
}

// plain is a recipient as the observer is told of it.
func plain(r Recipient) Recipient {
	r.extra = 0
	r.Flags &^= Started
	return r
}

func (w *watcher) Added(slot uint32, first, n int) {
	if id, ok := w.pinned[slot]; ok && id != w.table.Msg(slot).ID {
		w.bad("slot %d of message %d is used again for %d under a Ref", slot, id, w.table.Msg(slot).ID)
	}
	for i := first; i < first+n; i++ {
		ref := Ref{slot, uint32(i)}
		if _, ok := w.known[ref]; ok {
			w.bad("%v is added twice", ref)
		}
		w.known[ref] = plain(*w.table.Rcpt(ref))
	}
	if first == 0 {
		// A Ref is held from the first moment on, and dropped while the message dies.
		w.table.Ref(slot)
		w.locs[w.table.Msg(slot).Loc] = slot
	}
}

func (w *watcher) Changed(r Ref, was Recipient, _ int64) {
	if w.known[r] != plain(was) {
		w.bad("%v was %+v, said to be %+v", r, w.known[r], was)
	}
	now := plain(*w.table.Rcpt(r))
	if was.Standing == Used {
		w.bad("%v changes after it was used", r)
	}
	w.known[r] = now
}

func (w *watcher) Moved(slot uint32, from, to segment.Pos, _ int64) {
	if from == to {
		w.bad("moved from %v to itself", from)
	}
	if got, ok := w.locs[from]; ok {
		if got != slot {
			w.bad("%v belongs to slot %d, moved in %d", from, got, slot)
		}
		delete(w.locs, from)
		w.locs[to] = slot
	}
}

func (w *watcher) Dying(slot uint32) {
	m := w.table.Msg(slot)
	for i := range w.table.Len(slot) {
		ref := Ref{slot, uint32(i)}
		if w.known[ref].Standing != Used {
			w.bad("%v dies with %d", ref, w.known[ref].Standing)
		}
		delete(w.known, ref)
	}
	delete(w.locs, m.Loc)
	if found, ok := w.table.Find(m.ID); !ok || found != slot {
		w.bad("message %d is out of the index before it has died", m.ID)
	}
	if m.ID%3 == 0 { // the engine still holds on to it
		w.pinned[slot] = m.ID
		return
	}
	w.table.Unref(slot)
	if m.ID == 0 {
		w.bad("the slot is freed while the message dies")
	}
}

func (w *watcher) QueueChanged(uint32, mailq.QueueState) { w.queues++ }

func (w *watcher) QueueGone(q uint32) {
	e := w.table.Queue(q)
	for ref, r := range w.known {
		if r.Standing != Used && r.Queue == q {
			w.bad("queue %q is gone with %v in it", e.Name, ref)
		}
	}
	if e.Live != 0 || e.State != (mailq.QueueState{}) || e.timed != 0 {
		w.bad("gone: %+v", *e)
	}
}

func (w *watcher) Flushed(uint32, int64) { w.flush++ }

// release drops a Ref that was held on a dead message.
func (w *watcher) release() {
	for slot, id := range w.pinned {
		if w.table.Msg(slot).ID != id {
			w.bad("slot %d holds %d, under a Ref of %d", slot, w.table.Msg(slot).ID, id)
		}
		delete(w.pinned, slot)
		w.table.Unref(slot)
		return
	}
}

func (w *watcher) check(t interface{ Fatalf(string, ...any) }) {
	w.table.ForEach(func(slot uint32) {
		for i, r := range w.table.Recipients(slot) {
			got := w.known[Ref{slot, uint32(i)}]
			if got != plain(r) {
				w.bad("recipient %d of slot %d is %+v, known as %+v", i, slot, r, got)
			}
		}
		if w.locs[w.table.Msg(slot).Loc] != slot {
			w.bad("slot %d is not known at %v", slot, w.table.Msg(slot).Loc)
		}
	})
	if len(w.errs) > 0 {
		t.Fatalf("the observer: %q", w.errs)
	}
}

// TestModel applies random logs and compares with the model after each frame; then
// the same log again in all the ways in which it may come again.
func TestModel(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		w, table := newWriter(), NewTable()
		o := watch(table)
		for range rapid.IntRange(1, 25).Draw(t, "frames") {
			for range rapid.IntRange(0, 4).Draw(t, "records") {
				w.step(t)
			}
			f := w.frame()
			apply(t, table, f)
			if d := w.model.diff(table, true); d != "" {
				t.Fatalf("after the frame at %v: %s", f.Pos, d)
			}
			if table.Applied != f.End() || table.Last != f.Pos || table.Chain != f.CRC || table.Epoch != f.Epoch || table.Lease != f.Lease {
				t.Fatalf("the table is at %v behind %v, %x, epoch %d, lease %d", table.Applied, table.Last, table.Chain, table.Epoch, table.Lease)
			}
			if rapid.IntRange(0, 5).Draw(t, "again") == 0 {
				// What lies before the position changes nothing.
				apply(t, table, w.frames[rapid.IntRange(0, len(w.frames)-1).Draw(t, "from"):]...)
				if d := w.model.diff(table, true); d != "" || table.Applied != f.End() {
					t.Fatalf("frames applied twice: %s", d)
				}
			}
			if rapid.Bool().Draw(t, "release") {
				o.release()
			}
		}
		o.check(t)
		replay := NewTable()
		apply(t, replay, w.frames...)
		apply(t, replay, w.frames...)
		if d := w.model.diff(replay, true); d != "" {
			t.Fatalf("replayed twice, without an observer: %s", d)
		}
		checkLoad(t, w, table)
	})
}

// checkLoad takes the messages out and puts them into another table, as a checkpoint
// does, at a random point of the log, and applies the rest.
func checkLoad(t *rapid.T, w *writer, table *Table) {
	n := rapid.IntRange(0, len(w.frames)).Draw(t, "checkpoint")
	base := NewTable()
	apply(t, base, w.frames[:n]...)
	next := NewTable()
	// Queues have other numbers in the next table.
	next.QueueNumber([]byte("some other"))
	for q := base.Queues() - 1; q >= 0; q-- {
		if e := base.Queue(uint32(q)); e != nil {
			next.Queue(next.QueueNumber([]byte(e.Name))).State = e.State
		}
	}
	var e Entry
	load := next.Loader(base.Messages())
	var slots []uint32
	base.ForEach(func(slot uint32) { slots = append(slots, slot) })
	slices.SortFunc(slots, func(a, b uint32) int { return cmp.Compare(base.Msg(a).ID, base.Msg(b).ID) }) // as a checkpoint has them
	for _, slot := range slots {
		base.Entry(slot, &e)
		for i := range e.Rcpts {
			if r := &e.Rcpts[i]; r.Standing != Used {
				r.Queue = next.QueueNumber([]byte(base.Queue(r.Queue).Name))
			}
		}
		loaded := load.Add(&e)
		var back Entry
		next.Entry(loaded, &back)
		if fmt.Sprint(plainEntry(back)) != fmt.Sprint(plainEntry(e)) {
			t.Fatalf("loaded %+v, got back %+v", e, back)
		}
	}
	load.Close()
	for _, k := range base.Keys() {
		next.LoadKey(k)
	}
	next.Counts, next.Applied, next.Last, next.Chain = base.Counts, base.Applied, base.Last, base.Chain
	apply(t, next, w.frames...)
	if d := w.model.diff(next, true); d != "" {
		t.Fatalf("through a checkpoint behind frame %d: %s", n, d)
	}
	if next.Applied != table.Applied || next.Chain != table.Chain {
		t.Fatalf("through a checkpoint the table is at %v", next.Applied)
	}
}

func plainEntry(e Entry) Entry {
	rcpts := make([]EntryRecipient, len(e.Rcpts))
	for i, r := range e.Rcpts {
		r.extra = 0
		rcpts[i] = r
	}
	e.Rcpts = rcpts
	return e
}

func one(queue string) []mailq.Recipient { return []mailq.Recipient{{Queue: queue, Address: "a"}} }

// TestCase14_MarksTwiceBeforeAndWithoutTheirEnqueue: a used-mark twice, before, and without its enqueue.
func TestCase14_MarksTwiceBeforeAndWithoutTheirEnqueue(t *testing.T) {
	delivered := segment.SettleRun{First: 0, Count: 1, Result: mailq.Delivered}
	w, table := newWriter(), NewTable()
	w.settle(1, delivered) // before its enqueue
	w.settle(9, delivered) // without one
	id := w.enqueue(&mailq.Message{Recipients: append(one("local"), one("local")...)}, &segment.EnqueueFields{})
	w.settle(id, delivered)
	w.settle(id, delivered)
	w.settle(id, segment.SettleRun{First: 0, Count: 1, Result: mailq.Deferred, Until: 5, Note: []byte("451")})
	w.settle(id, segment.SettleRun{First: 0, Count: 1, Result: mailq.Failed})
	w.settle(id, segment.SettleRun{First: 0, Count: 1, Result: mailq.Released})
	w.attempt(id, 0, 1)
	apply(t, table, w.frame())
	slot, ok := table.Find(id)
	if !ok {
		t.Fatal("the message died of a mark for one of two recipients, or of one that came before it")
	}
	if r := table.Rcpt(Ref{slot, 0}); r.Standing != Used || r.Reason != mailq.Delivered || r.Flags != 0 || table.Note(r) != nil || table.NotBefore(r) != 0 {
		t.Errorf("used is not final: %+v", r)
	}
	if r := table.Rcpt(Ref{slot, 1}); r.Standing != Pending {
		t.Errorf("the other recipient: %+v", r)
	}
	if c := table.Counts; c.Enqueued != 2 || c.Used.Total() != 1 || c.Used.Delivered != 1 {
		t.Errorf("%+v", c)
	}
	w.settle(id, segment.SettleRun{First: 0, Count: 2, Result: mailq.Expired})
	w.settle(id, delivered)
	w.attempt(id, 0, 2)
	apply(t, table, w.frame())
	if _, ok := table.Find(id); ok || table.Messages() != 0 || table.Counts.Used.Expired != 1 || table.Counts.Used.Total() != 2 || table.Counts.Weight != 0 {
		t.Errorf("%d messages, %+v", table.Messages(), table.Counts)
	}
	if d := w.model.diff(table, true); d != "" {
		t.Error(d)
	}
}

// TestMoveOfADeadMessage: the mover read "pending", the mark went first.
func TestMoveOfADeadMessage(t *testing.T) {
	w, table := newWriter(), NewTable()
	id := w.enqueue(&mailq.Message{Recipients: one("local")}, &segment.EnqueueFields{BodyLen: 10})
	original := w.places[0]
	w.settle(id, segment.SettleRun{Count: 1, Result: mailq.Delivered})
	w.move(original)
	apply(t, table, w.frame())
	if table.Messages() != 0 || table.Counts.Enqueued != 1 || table.Counts.Weight != 0 {
		t.Errorf("the copy brought the message back: %+v", table.Counts)
	}
	// Two movers: the second copied what the first had moved already.
	id = w.enqueue(&mailq.Message{Recipients: one("local")}, &segment.EnqueueFields{})
	original = w.places[len(w.places)-1]
	w.move(original)
	first := w.places[len(w.places)-1].pos
	w.move(original)
	apply(t, table, w.frame())
	if slot, ok := table.Find(id); !ok || table.Msg(slot).Loc != first {
		t.Error("a copy of what was moved already changed the location")
	}
}

func TestApplyRefuses(t *testing.T) {
	w, table := newWriter(), NewTable()
	id := w.enqueue(&mailq.Message{Recipients: one("local")}, &segment.EnqueueFields{})
	apply(t, table, w.frame())
	m := &mailq.Message{Recipients: one("local")}
	for _, c := range []struct {
		name string
		add  func()
	}{
		{"an ID a second time", func() {
			w.add(segment.EnqueueSize(m, 0), func(b []byte, back int64) segment.Record {
				return segment.PutEnqueue(b, back, m, &segment.EnqueueFields{ID: id})
			})
		}},
		{"ID 0", func() {
			w.add(segment.EnqueueSize(m, 0), func(b []byte, back int64) segment.Record {
				return segment.PutEnqueue(b, back, m, &segment.EnqueueFields{})
			})
		}},
		{"an ID that was not to be handed out", func() {
			w.add(segment.EnqueueSize(m, 0), func(b []byte, back int64) segment.Record {
				return segment.PutEnqueue(b, back, m, &segment.EnqueueFields{ID: 1 << 40})
			})
		}},
		{"recipients with a gap", func() {
			w.add(segment.RecipientsSize(m.Recipients), func(b []byte, back int64) segment.Record {
				return segment.PutRecipients(b, back, id, 2, m.Recipients)
			})
		}},
		{"recipients that are there", func() {
			w.add(segment.RecipientsSize(m.Recipients), func(b []byte, back int64) segment.Record {
				return segment.PutRecipients(b, back, id, 0, m.Recipients)
			})
		}},
	} {
		c.add()
		at := table.Applied
		if err := table.ApplyFrame(w.frame()); !errors.Is(err, segment.ErrCorrupt) || table.Applied != at {
			t.Errorf("%s: %v", c.name, err)
		}
		if table.Messages() != 1 || table.Counts.Enqueued != 1 {
			t.Errorf("%s: it changed the table", c.name)
		}
	}
}

func TestSeconds(t *testing.T) {
	for _, c := range []struct {
		ns   int64
		want uint32
	}{{0, 0}, {1, 1}, {1e9, 1}, {1e9 + 1, 2}, {-1, 1}, {-1 << 63, 1}, {1<<63 - 1, 1<<32 - 1}, {(1<<32 - 1) * 1e9, 1<<32 - 1}, {(1<<32-1)*1e9 + 1, 1<<32 - 1}} {
		if got := seconds(c.ns); got != c.want {
			t.Errorf("%d ns: %d, want %d", c.ns, got, c.want)
		}
	}
}

func TestWeightStops(t *testing.T) {
	w, table := newWriter(), NewTable()
	f := &segment.EnqueueFields{}
	for range 64 {
		f.Chunks = append(f.Chunks, segment.ChunkRef{Pos: 1, Len: segment.SizeMax})
		f.BodyLen += segment.SizeMax
	}
	id := w.enqueue(&mailq.Message{Recipients: one("local")}, f)
	apply(t, table, w.frame())
	slot, _ := table.Find(id)
	if got := table.Msg(slot).Bytes(); got != (1<<32-1)*8 || table.Counts.Weight != got {
		t.Errorf("64 GiB weigh %d, %d in all", got, table.Counts.Weight)
	}
	w.settle(id, segment.SettleRun{Count: 1, Result: mailq.Removed})
	apply(t, table, w.frame())
	if table.Counts.Weight != 0 {
		t.Errorf("%d bytes are left of it", table.Counts.Weight)
	}
}

// One outcome for many recipients has one note in the log, and one in memory.
func TestNoteOfARunIsShared(t *testing.T) {
	const n = 5000
	w, table := newWriter(), NewTable()
	list := make([]mailq.Recipient, n)
	for i := range list {
		list[i] = one("local")[0]
	}
	id := w.enqueue(&mailq.Message{Recipients: list}, &segment.EnqueueFields{})
	apply(t, table, w.frame())
	note := bytes.Repeat([]byte("n"), mailq.NoteMax)
	w.settle(id, segment.SettleRun{Count: n, Result: mailq.Deferred, Until: 5, Note: note})
	f := w.frame()
	var before, after runtime.MemStats
	runtime.ReadMemStats(&before)
	apply(t, table, f)
	clear(f.Table)
	slot, _ := table.Find(id)
	var e Entry
	table.Entry(slot, &e)
	loaded := NewTable()
	loaded.QueueNumber([]byte("local"))
	load := loaded.Loader(1)
	load.Add(&e)
	load.Close()
	runtime.ReadMemStats(&after)
	if used := after.TotalAlloc - before.TotalAlloc; used > n*mailq.NoteMax*3/4 {
		t.Errorf("%d bytes were allocated for a note of %d", used, len(note))
	}
	for _, x := range []*Table{table, loaded} {
		slot, _ := x.Find(id)
		for i := range uint32(n) {
			if !bytes.Equal(x.Note(x.Rcpt(Ref{slot, i})), note) {
				t.Fatalf("recipient %d has another note", i)
			}
		}
	}
}

// TestCase14_TheSameLogReplayedTwice: what lies before the position of the state changes nothing.
func TestCase14_TheSameLogReplayedTwice(t *testing.T) {
	w, table := newWriter(), NewTable()
	id := w.enqueue(&mailq.Message{Recipients: append(one("local"), one("other")...)}, &segment.EnqueueFields{})
	w.frame()
	w.settle(id, segment.SettleRun{First: 0, Count: 1, Result: mailq.Delivered})
	w.settle(id, segment.SettleRun{First: 1, Count: 1, Result: mailq.Uncertain, Attempts: 1})
	w.frame()
	w.enqueue(&mailq.Message{Recipients: one("local")}, &segment.EnqueueFields{})
	w.frame()
	apply(t, table, w.frames...)
	counts := table.Counts
	apply(t, table, w.frames...)
	apply(t, table, w.frames[1])
	if d := w.model.diff(table, true); d != "" || table.Counts != counts || table.Counts.Enqueued != 3 {
		t.Errorf("replayed twice: %s %+v, was %+v", d, table.Counts, counts)
	}
}
