package state

import (
	"fmt"
	"testing"

	"github.com/mtawal/mtawal/mailq"
	"github.com/mtawal/mtawal/segment"
)

// TestSlotsAreHeldByRefs: the slot of a dead message is not used again while a Ref is
// held, also one that was taken when the message had a single recipient.
func TestSlotsAreHeldByRefs(t *testing.T) {
	for _, more := range []bool{false, true} {
		w, table := newWriter(), NewTable()
		id := w.enqueue(&mailq.Message{Recipients: one("local")}, &segment.EnqueueFields{})
		apply(t, table, w.frame())
		slot, _ := table.Find(id)
		table.Ref(slot)
		if more {
			w.recipients(id, one("routing"))
			apply(t, table, w.frame())
		}
		table.Ref(slot)
		w.settle(id, segment.SettleRun{Count: 2, Result: mailq.Delivered})
		apply(t, table, w.frame())
		if _, ok := table.Find(id); ok {
			t.Fatal("a dead message is found")
		}
		taken := map[uint32]bool{}
		fresh := func() {
			id := w.enqueue(&mailq.Message{Recipients: one("local")}, &segment.EnqueueFields{})
			apply(t, table, w.frame())
			s, _ := table.Find(id)
			if taken[s] {
				t.Fatalf("slot %d has two messages", s)
			}
			taken[s] = true
		}
		for range 2 {
			fresh()
			if taken[slot] {
				t.Fatalf("more %v: the slot is used again under a Ref", more)
			}
			if r := table.Rcpt(Ref{slot, 0}); r.Standing != Used || table.Msg(slot).ID != id {
				t.Fatalf("more %v: what the Ref names is gone: %+v", more, r)
			}
			if live := liveIn(table); live != int64(len(taken)) {
				t.Fatalf("%d live", live)
			}
			table.Unref(slot)
		}
		fresh()
		if !taken[slot] {
			t.Errorf("more %v: the slot is not used again when nothing names it", more)
		}
		for range 3 * slabSize {
			fresh()
		}
		if d := w.model.diff(table, true); d != "" {
			t.Error(d)
		}
	}
}

// liveIn counts the recipients of all queues.
func liveIn(table *Table) (n int64) {
	for q := range table.Queues() {
		if e := table.Queue(uint32(q)); e != nil {
			n += e.Live
		}
	}
	return n
}

// TestUnrefOfALiveMessage frees nothing.
func TestUnrefOfALiveMessage(t *testing.T) {
	w, table := newWriter(), NewTable()
	id := w.enqueue(&mailq.Message{Recipients: one("local")}, &segment.EnqueueFields{})
	apply(t, table, w.frame())
	slot, _ := table.Find(id)
	table.Ref(slot)
	table.Unref(slot)
	if again, ok := table.Find(id); !ok || again != slot || w.model.diff(table, true) != "" {
		t.Error(w.model.diff(table, true))
	}
}

// TestMemoryIsReused: what comes and goes does not grow the table.
func TestMemoryIsReused(t *testing.T) {
	w, table := newWriter(), NewTable()
	list := append(one("local"), mailq.Recipient{Queue: "routing", NotBefore: segment.Time(5)})
	var slots, multis, notes int
	var extras uint32
	for round := range 80 {
		for range 20 {
			id := w.enqueue(&mailq.Message{Recipients: list, Key: "k"}, &segment.EnqueueFields{})
			w.settle(id, segment.SettleRun{Count: 1, Result: mailq.Deferred, Until: 9, Note: []byte("451")})
			w.forget(1)
			w.recipients(id, list)
			w.settle(id, segment.SettleRun{Count: 4, Result: mailq.Delivered})
		}
		apply(t, table, w.frame())
		w.frames = nil
		if round == 0 {
			slots, multis, notes, extras = len(table.slab), len(table.multis), len(table.timed.notes), table.timed.last
		}
	}
	if len(table.slab) != slots || len(table.timed.notes) != notes || len(table.multis) != multis || table.timed.last != extras || len(table.extents) != 0 || len(table.keys.by) != 0 {
		t.Errorf("%d slabs, %d lists, %d extras after round 1; %d, %d, %d after round 80", slots, multis, extras, len(table.slab), len(table.multis), table.timed.last)
	}
	if len(table.keys.order) > 4096 {
		t.Errorf("%d forgotten keys are kept", len(table.keys.order))
	}
}

func TestQueueNumbers(t *testing.T) {
	table := NewTable()
	var numbers []uint32
	for i := range 10 {
		numbers = append(numbers, table.QueueNumber(fmt.Appendf(nil, "q%d", i)))
	}
	for i, q := range numbers {
		if got, ok := table.FindQueue(fmt.Sprintf("q%d", i)); !ok || got != q || table.QueueNumber(fmt.Appendf(nil, "q%d", i)) != q || table.Queue(q).Name != fmt.Sprintf("q%d", i) {
			t.Errorf("q%d is %d, %v", i, got, ok)
		}
	}
	table.Queue(numbers[3]).Live = 1
	table.Queue(numbers[4]).State.Mode = mailq.HoldQueue
	for _, q := range numbers {
		table.ForgetQueue(q)
		table.ForgetQueue(q) // twice is once
	}
	for i := range numbers {
		if _, ok := table.FindQueue(fmt.Sprintf("q%d", i)); ok != (i == 3 || i == 4) {
			t.Errorf("q%d: %v", i, ok)
		}
	}
	seen := map[uint32]bool{numbers[3]: true, numbers[4]: true}
	for i := range 20 {
		q := table.QueueNumber(fmt.Appendf(nil, "new%d", i))
		if seen[q] || table.Queue(q).State != (mailq.QueueState{}) || table.Queue(q).Live != 0 {
			t.Errorf("new%d got number %d: %+v", i, q, table.Queue(q))
		}
		seen[q] = true
	}
	if table.Queues() != 22 {
		t.Errorf("%d numbers for 22 queues", table.Queues())
	}
}

func TestForEach(t *testing.T) {
	w, table := newWriter(), NewTable()
	want := map[segment.Pos]int{}
	for range 5 {
		id := w.enqueue(&mailq.Message{Recipients: one("local")}, &segment.EnqueueFields{})
		w.recipients(id, one("routing"))
		w.recipients(id, one("routing"))
	}
	w.settle(2, segment.SettleRun{Count: 9, Result: mailq.Delivered})
	apply(t, table, w.frame())
	for _, g := range w.model.msgs {
		for _, x := range g.extents {
			want[x.Pos]++
		}
	}
	table.ForEachExtent(func(x *Extent) { want[x.Pos]-- })
	for pos, n := range want {
		if n != 0 {
			t.Errorf("the extent at %v was shown %d times too few", pos, n)
		}
	}
	last := uint64(0)
	table.ForEach(func(slot uint32) {
		if m := table.Msg(slot); m.ID <= last || slot >= table.Slots() {
			t.Errorf("message %d in slot %d comes after %d", m.ID, slot, last)
		} else {
			last = m.ID
		}
	})
}

// TestFlush: what is held stays as it is until it is released, and so does what is
// due sooner, or in another queue.
func TestFlush(t *testing.T) {
	w, table := newWriter(), NewTable()
	later := func(queue string, at int64) mailq.Recipient {
		return mailq.Recipient{Queue: queue, NotBefore: segment.Time(at)}
	}
	id := w.enqueue(&mailq.Message{Recipients: []mailq.Recipient{later("a", 50), later("a", 5), later("b", 50), later("a", 50), later("a", 0)}}, &segment.EnqueueFields{})
	w.settle(id, segment.SettleRun{First: 3, Count: 1, Result: mailq.Held}, segment.SettleRun{First: 0, Count: 1, Result: mailq.Deferred, Until: 60, Note: []byte("451")})
	w.flush("a", 20)
	apply(t, table, w.frame())
	slot, _ := table.Find(id)
	for i, want := range []int64{20, 5, 50, 50, 0} {
		if r := table.Rcpt(Ref{slot, uint32(i)}); table.NotBefore(r) != want {
			t.Errorf("recipient %d is due at %d, want %d", i, table.NotBefore(r), want)
		}
	}
	if note := table.Note(table.Rcpt(Ref{slot, 0})); string(note) != "451" {
		t.Errorf("the note became %q", note)
	}
	if d := w.model.diff(table, true); d != "" {
		t.Error(d)
	}
}
