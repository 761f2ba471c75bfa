package wal

import (
	"context"
	"fmt"
	"maps"
	"slices"
	"strings"
	"time"

	"github.com/mtawal/mtawal/mailq"
	"github.com/mtawal/mtawal/segment"
)

// ref names a recipient in the tests.
type ref struct {
	ID    ID
	Index int
}

// world is what a store holds, from the contract and not from the code: a plain map, and
// what is in the hands of consumers.
type world struct {
	live     map[ID]*mail
	keys     map[string]ID
	queues   map[string]QueueState // other than the zero value
	used     UsedCounts
	enqueued int64
	out      map[ref]bool // claimed; true: started
}

// mail is a message that has a recipient not used.
type mail struct {
	envelope          string
	body              uint64 // hash
	size              int64
	priority          int8
	expires, enqueued int64 // Unix ns, 0: never
	rcpts             []rcpt
}

type rcpt struct {
	queue, address, note string
	used, held, doubt    bool
	due                  int64
	attempts             int
	late                 bool // due was set when the message had expired; not in the log
}

func newWorld() *world {
	return &world{live: map[ID]*mail{}, keys: map[string]ID{}, queues: map[string]QueueState{}, out: map[ref]bool{}}
}

func (w *world) clone() *world {
	c := *w
	c.live = map[ID]*mail{}
	for id, m := range w.live {
		n := *m
		n.rcpts = slices.Clone(m.rcpts)
		c.live[id] = &n
	}
	c.keys, c.queues, c.out = maps.Clone(w.keys), maps.Clone(w.queues), maps.Clone(w.out)
	return &c
}

func (w *world) rcpt(r ref) *rcpt { return &w.live[r.ID].rcpts[r.Index] }

// Changes: what calls do to a world.

// change is one thing that a call asked for, with every value that the engine works out
// when it gives it its place in the log.
type change func(w *world)

// all is changes that are one commit.
func all(list ...change) change {
	return func(w *world) {
		for _, c := range list {
			c(w)
		}
	}
}

// enqueued is a message under an ID, taken in at a time.
func enqueued(id ID, m *Message, text []byte, at time.Time) change {
	key := m.Key
	n := mail{envelope: string(m.Envelope), body: sumOf(text), size: int64(len(text)), priority: m.Priority,
		expires: segment.Nanos(m.ExpiresAt), enqueued: at.UnixNano()}
	list := asRcpts(m.Recipients)
	return func(w *world) {
		if key != "" {
			if _, seen := w.keys[key]; seen {
				return
			}
			w.keys[key] = id
		}
		m := n
		m.rcpts = slices.Clone(list)
		w.live[id] = &m
		w.enqueued += int64(len(list))
	}
}

func asRcpts(list []Recipient) []rcpt {
	var out []rcpt
	for _, r := range list {
		out = append(out, rcpt{queue: r.Queue, address: r.Address, note: string(r.Note), due: segment.Nanos(r.NotBefore)})
	}
	return out
}

// outcome is what an Outcome for one recipient does. With claimed it ends its claim.
func (w *world) outcome(r ref, o Outcome, claimed bool, now time.Time) change {
	have := *w.rcpt(r)
	attempts, over := have.attempts, w.expired(r.ID, now)
	if claimed && o.Result != Held && o.Result != Released {
		attempts++
	}
	until, hold := segment.Nanos(o.Until), false
	if o.Result == Uncertain && until == 0 {
		switch q := w.queues[have.queue]; q.Doubt {
		case mailq.DeferDoubt:
			until = now.Add(q.DoubtDelay).UnixNano()
		case mailq.HoldDoubt:
			hold = true
		}
	}
	return func(w *world) {
		if claimed {
			delete(w.out, r)
		}
		if w.live[r.ID] == nil || w.rcpt(r).used {
			return
		}
		w.live[r.ID].rcpts = append(w.live[r.ID].rcpts, asRcpts(o.Replace)...)
		w.enqueued += int64(len(o.Replace))
		v := w.rcpt(r)
		v.attempts = attempts
		was := v.due
		if o.Note != nil {
			v.note = string(o.Note)
		}
		switch o.Result {
		case Deferred:
			v.due = until
		case Uncertain:
			v.doubt, v.held = true, v.held || hold
			if until != 0 {
				v.due = until
			}
		case Held:
			v.held = true
		case Released:
			v.held, v.due = false, 0
		default:
			w.mark(r, o.Result)
			return
		}
		if v.due != was {
			v.late = over
		}
	}
}

// mark marks a recipient used.
func (w *world) mark(r ref, reason Result) {
	w.rcpt(r).used = true
	delete(w.out, r)
	*map[Result]*int64{Delivered: &w.used.Delivered, Failed: &w.used.Failed, Expired: &w.used.Expired,
		Removed: &w.used.Removed, Replaced: &w.used.Replaced}[reason]++
	if !slices.ContainsFunc(w.live[r.ID].rcpts, func(o rcpt) bool { return !o.used }) {
		delete(w.live, r.ID)
	}
}

// queueSet is SetQueue.
func queueSet(name string, s QueueState) change {
	return func(w *world) {
		w.queues[name] = s
		if s == (QueueState{}) {
			delete(w.queues, name)
		}
	}
}

// flushed is Flush.
func flushed(queue string, at time.Time) change {
	return func(w *world) {
		for _, m := range w.live {
			for i := range m.rcpts {
				if r := &m.rcpts[i]; r.queue == queue && !r.used && !r.held {
					r.due = min(r.due, at.UnixNano())
				}
			}
		}
	}
}

// Views: what Entries must list.

// line is an Entry that can be compared.
type line struct {
	rcpt
	state             State
	envelope          string
	size              int64
	priority          int8
	expires, enqueued int64
}

type view map[ref]line

// expired reports whether a message's time is over.
func (w *world) expired(id ID, now time.Time) bool {
	x := w.live[id].expires
	return x != 0 && x <= now.UnixNano()
}

// stateOf is where a recipient that is not used stands.
func (w *world) stateOf(r ref, now time.Time) State {
	v := w.rcpt(r)
	_, out := w.out[r]
	switch {
	case out:
		return mailq.Claimed
	case v.held:
		return mailq.OnHold
	case v.due > now.UnixNano() && (v.late || !w.expired(r.ID, now)):
		return mailq.InDeferral
	}
	return mailq.Pending
}

// due reports whether a recipient may be handed out now.
func (w *world) due(r ref, now time.Time) bool {
	v := w.rcpt(r)
	return !v.used && w.stateOf(r, now) == mailq.Pending && w.queues[v.queue].Mode == mailq.Active
}

func (w *world) line(r ref, now time.Time) line {
	m, v := w.live[r.ID], *w.rcpt(r)
	v.late = false
	return line{rcpt: v, state: w.stateOf(r, now), envelope: m.envelope, size: m.size, priority: m.priority,
		expires: m.expires, enqueued: m.enqueued}
}

// each calls f with every recipient that is not used, in order.
func (w *world) each(f func(ref)) {
	for _, id := range slices.Sorted(maps.Keys(w.live)) {
		for i, v := range w.live[id].rcpts {
			if !v.used {
				f(ref{id, i})
			}
		}
	}
}

func (w *world) view(now time.Time) view {
	v := view{}
	w.each(func(r ref) { v[r] = w.line(r, now) })
	return v
}

// viewOf is what Entries lists.
func viewOf(s *Store) (view, error) {
	v := view{}
	for e, err := range s.Entries(context.Background(), Filter{}) {
		if err == nil {
			err = e.Err
		}
		if err != nil {
			return nil, fmt.Errorf("entry %v[%d]: %w", e.ID, e.Recipient, err)
		}
		r := ref{e.ID, e.Recipient}
		if _, twice := v[r]; twice {
			return nil, fmt.Errorf("%v is listed twice", r)
		}
		v.add(&e)
	}
	return v, nil
}

func (v view) add(e *Entry) {
	v[ref{e.ID, e.Recipient}] = line{rcpt: rcpt{queue: e.Queue, address: e.Address, note: string(e.Note), doubt: e.InDoubt, attempts: e.Attempts,
		held: e.State == mailq.OnHold, due: segment.Nanos(e.NotBefore)}, state: e.State, envelope: string(e.Envelope), size: e.Size,
		priority: e.Priority, expires: segment.Nanos(e.ExpiresAt), enqueued: segment.Nanos(e.EnqueuedAt)}
}

// same reports whether two lines tell the same. Of what is claimed nobody tells whether it is held.
func same(a, b line) bool {
	if a.state == mailq.Claimed {
		a.held = b.held
	}
	return a == b
}

// diff says how a view differs from the one that it should be, in a few lines; "" if it does not.
func (v view) diff(want view) string {
	var out []string
	for r, l := range want {
		if have, ok := v[r]; !ok {
			out = append(out, fmt.Sprintf("%v is missing, want %+v", r, l))
		} else if !same(have, l) {
			out = append(out, fmt.Sprintf("%v is %+v, want %+v", r, have, l))
		}
	}
	for r, l := range v {
		if _, ok := want[r]; !ok {
			out = append(out, fmt.Sprintf("%v is there and should not be: %+v", r, l))
		}
	}
	slices.Sort(out)
	if len(out) > 6 {
		out = append(out[:6], fmt.Sprintf("and %d more", len(out)-6))
	}
	return strings.Join(out, "\n")
}

// totals compares what is not in the view: counts, and the queues.
func (w *world) totals(s *Store) string {
	st := s.Stats()
	sum := st.Pending + st.Deferred + st.Held + st.Claimed + st.Damaged
	if st.Enqueued != st.Used.Total()+sum || st.WorkQueueLength != sum {
		return fmt.Sprintf("enqueued = used + pending + deferred + held + claimed + damaged does not hold: %+v", st)
	}
	if st.Enqueued != w.enqueued || st.Used != w.used || st.Messages != int64(len(w.live)) || st.Damaged != 0 || st.Claimed != int64(len(w.out)) {
		return fmt.Sprintf("totals are %+v; want %d enqueued, used %+v, %d messages, %d claimed", st, w.enqueued, w.used, len(w.live), len(w.out))
	}
	var q QueueInfo
	queues := make(map[string]QueueState)
	for i, err := range s.Queues(context.Background()) {
		if err != nil {
			return fmt.Sprintf("queues: %v", err)
		}
		q.Pending, q.Deferred, q.Held = q.Pending+i.Pending, q.Deferred+i.Deferred, q.Held+i.Held
		q.Claimed, q.Damaged, q.InDoubt = q.Claimed+i.Claimed, q.Damaged+i.Damaged, q.InDoubt+i.InDoubt
		if i.State != (QueueState{}) {
			queues[i.Name] = i.State
		}
	}
	want := QueueInfo{Pending: st.Pending, Deferred: st.Deferred, Held: st.Held, Claimed: st.Claimed, Damaged: st.Damaged, InDoubt: st.InDoubt}
	if q != want {
		return fmt.Sprintf("the queues add up to %+v, the totals are %+v", q, want)
	}
	if !maps.Equal(queues, w.queues) {
		return fmt.Sprintf("the queues' states are %v, want %v", queues, w.queues)
	}
	return ""
}
