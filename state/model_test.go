package state

import (
	"bytes"
	"fmt"
	"maps"
	"slices"

	"github.com/mtawal/mtawal/mailq"
	"github.com/mtawal/mtawal/segment"
)

// model is the state of a store in plain maps, told of operations, not of records.
type model struct {
	msgs     map[uint64]*modelMsg
	queues   map[string]mailq.QueueState // those that were ever named
	keys     []Key
	enqueued int64
	used     map[mailq.Result]int64
	cut      int64
	unclean  int64
}

type modelMsg struct {
	loc               segment.Pos
	priority          int8
	expires, enqueued uint32
	order             uint64
	keyed             bool
	weight            int64
	rcpts             []modelRcpt
	extents           []Extent
}

type modelRcpt struct {
	queue                      string
	standing                   Standing
	reason                     mailq.Result
	inDoubt, started, deferred bool
	attempts                   int
	due                        int64
	note                       []byte
}

func newModel() *model {
	return &model{msgs: make(map[uint64]*modelMsg), queues: make(map[string]mailq.QueueState), used: make(map[mailq.Result]int64)}
}

func (m *model) know(queue string) {
	if _, ok := m.queues[queue]; !ok {
		m.queues[queue] = mailq.QueueState{}
	}
}

func (m *model) add(g *modelMsg, list []mailq.Recipient) {
	for _, r := range list {
		m.know(r.Queue)
		g.rcpts = append(g.rcpts, modelRcpt{queue: r.Queue, due: segment.Nanos(r.NotBefore)})
	}
	m.enqueued += int64(len(list))
}

func (m *model) settle(id uint64, runs []segment.SettleRun) {
	g := m.msgs[id]
	if g == nil {
		return
	}
	for _, s := range runs {
		for i := range g.rcpts {
			if i < s.First || i >= s.First+s.Count {
				continue
			}
			if r := &g.rcpts[i]; r.standing != Used {
				m.outcome(r, &s)
			}
		}
	}
	for i := range g.rcpts {
		if g.rcpts[i].standing != Used {
			return
		}
	}
	delete(m.msgs, id)
}

func (m *model) outcome(r *modelRcpt, s *segment.SettleRun) {
	if !s.Edit {
		r.attempts, r.started = s.Attempts, false
	}
	if s.Note != nil {
		r.note = s.Note
	}
	switch s.Result {
	case mailq.Deferred:
		r.deferred, r.due = true, s.Until
	case mailq.Uncertain:
		r.deferred, r.inDoubt = false, true
		if s.Until != 0 {
			r.due = s.Until
		}
	case mailq.Held:
		r.standing = Held
	case mailq.Released:
		r.standing, r.deferred, r.due = Pending, false, 0
	default:
		*r = modelRcpt{queue: r.queue, standing: Used, reason: s.Result, attempts: r.attempts}
		m.used[s.Result]++
	}
}

func (m *model) attempt(id uint64, first, count int) {
	if g := m.msgs[id]; g != nil {
		for i := first; i < min(first+count, len(g.rcpts)); i++ {
			if r := &g.rcpts[i]; r.standing != Used {
				r.started = true
			}
		}
	}
}

func (m *model) flush(queue string, at int64) {
	for _, g := range m.msgs {
		for i := range g.rcpts {
			if r := &g.rcpts[i]; r.queue == queue && r.standing == Pending && r.due > at {
				r.due = at
			}
		}
	}
}

func (m *model) forget(n int) { m.keys = m.keys[min(n, len(m.keys)):] }

// holderOf is the message that holds a chunk.
func (m *model) holderOf(chunk segment.Pos) (id uint64, ok bool) {
	for id, g := range m.msgs {
		for _, x := range g.extents {
			if x.Pos == chunk {
				return id, true
			}
		}
	}
	return 0, false
}

func (m *model) moved(kind segment.Kind, id uint64, from, to segment.Pos) {
	if kind == segment.KindChunk {
		id, _ = m.holderOf(from)
	}
	g := m.msgs[id]
	if g == nil {
		return
	}
	if g.loc == from {
		g.loc = to
		return
	}
	for i := range g.extents {
		if g.extents[i].Pos == from {
			g.extents[i].Pos = to
			return
		}
	}
}

func (m *model) findKey(key string) (id uint64, ok bool) {
	for _, k := range m.keys {
		if k.Key == key {
			id, ok = k.ID, true
		}
	}
	return id, ok
}

// diff says what is different in a table, "" if nothing is. counts: also the totals
// that a checkpoint carries apart from its messages.
func (m *model) diff(t *Table, counts bool) string {
	if t.Messages() != len(m.msgs) {
		return fmt.Sprintf("%d messages, want %d", t.Messages(), len(m.msgs))
	}
	live, doubt, weight := map[string]int64{}, int64(0), int64(0)
	for _, id := range slices.Sorted(maps.Keys(m.msgs)) {
		g := m.msgs[id]
		slot, ok := t.Find(id)
		if !ok {
			return fmt.Sprintf("message %d is missing", id)
		}
		if d := g.diff(t, slot); d != "" {
			return fmt.Sprintf("message %d: %s", id, d)
		}
		weight += g.weight
		for _, r := range g.rcpts {
			if r.standing != Used {
				live[r.queue]++
			}
			if r.inDoubt {
				doubt++
			}
		}
	}
	seen := map[uint64]bool{}
	t.ForEach(func(slot uint32) { seen[t.Msg(slot).ID] = true })
	for id := range m.msgs {
		if !seen[id] {
			return fmt.Sprintf("ForEach passes over message %d", id)
		}
	}
	if len(seen) != len(m.msgs) {
		return fmt.Sprintf("ForEach finds %d messages", len(seen))
	}
	for name, state := range m.queues {
		q, ok := t.FindQueue(name)
		if gone := live[name] == 0 && state == (mailq.QueueState{}); gone || !ok {
			if ok || !gone {
				return fmt.Sprintf("queue %q: in the table %v, gone %v", name, ok, gone)
			}
			continue
		}
		if e := t.Queue(q); e.Name != name || e.State != state || e.Live != live[name] {
			return fmt.Sprintf("queue %q: %+v, want %+v with %d", name, *e, state, live[name])
		}
	}
	if !slices.Equal(t.Keys(), m.keys) {
		return fmt.Sprintf("keys %v, want %v", t.Keys(), m.keys)
	}
	for i := range keyNames {
		got, _, ok := t.FindKey(keyNames[i])
		if want, wantOK := m.findKey(keyNames[i]); got != want || ok != wantOK {
			return fmt.Sprintf("key %q: %d, %v, want %d, %v", keyNames[i], got, ok, want, wantOK)
		}
	}
	if !counts {
		return ""
	}
	want := Counts{Enqueued: m.enqueued, InDoubt: doubt, Weight: weight, TailCut: m.cut, UncleanOpens: m.unclean, Used: mailq.UsedCounts{
		Delivered: m.used[mailq.Delivered], Failed: m.used[mailq.Failed], Expired: m.used[mailq.Expired], Removed: m.used[mailq.Removed], Replaced: m.used[mailq.Replaced],
	}}
	if t.Counts != want {
		return fmt.Sprintf("counts %+v, want %+v", t.Counts, want)
	}
	var all int64
	for _, n := range live {
		all += n
	}
	if t.Counts.Enqueued != t.Counts.Used.Total()+all {
		return fmt.Sprintf("%d enqueued, %d used, %d live", t.Counts.Enqueued, t.Counts.Used.Total(), all)
	}
	return ""
}

func (g *modelMsg) diff(t *Table, slot uint32) string {
	m := t.Msg(slot)
	if m.Loc != g.loc || m.Priority != g.priority || m.Expires != g.expires || m.Enqueued != g.enqueued || t.Order(m) != g.order || m.Bytes() != g.weight {
		return fmt.Sprintf("%+v, want %+v", *m, *g)
	}
	if !slices.Equal(t.Extents(m), g.extents) {
		return fmt.Sprintf("extents %+v, want %+v", t.Extents(m), g.extents)
	}
	list := t.Recipients(slot)
	if t.Len(slot) != len(g.rcpts) || len(list) != len(g.rcpts) {
		return fmt.Sprintf("%d recipients, and %d, want %d", t.Len(slot), len(list), len(g.rcpts))
	}
	live := 0
	for i := range list {
		r, want := t.Rcpt(Ref{slot, uint32(i)}), &g.rcpts[i]
		if r != &list[i] {
			return fmt.Sprintf("recipient %d is found in two places", i)
		}
		queue := want.queue
		if r.Standing != Used {
			queue = t.Queue(r.Queue).Name
		} else if r.Queue != 0 {
			return fmt.Sprintf("recipient %d is used, in queue %d", i, r.Queue)
		}
		got := modelRcpt{
			queue: queue, standing: r.Standing, reason: r.Reason, attempts: int(r.Attempts), due: t.NotBefore(r),
			inDoubt: r.Flags&InDoubt != 0, started: r.Flags&Started != 0, deferred: r.Flags&Deferred != 0,
		}
		note, wantNote := t.Note(r), want.note
		w := *want
		w.note = nil
		if fmt.Sprint(got) != fmt.Sprint(w) || (note == nil) != (wantNote == nil) || !bytes.Equal(note, wantNote) {
			return fmt.Sprintf("recipient %d: %+v %q, want %+v %q", i, got, note, w, wantNote)
		}
		if r.Standing != Used {
			live++
		}
	}
	if t.Live(m) != live {
		return fmt.Sprintf("%d live, want %d", t.Live(m), live)
	}
	return ""
}
