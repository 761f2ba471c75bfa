package wal

import (
	"fmt"
	"math/rand/v2"
	"slices"
	"sync/atomic"
	"testing"
	"time"

	"github.com/mtawal/mtawal/internal/disk/memdisk"
	"github.com/mtawal/mtawal/mailq"
	"github.com/mtawal/mtawal/state"
)

// What an opening builds from a table is what the table says, recipient by recipient, whatever came before: priorities, times, expiry, mail
// in doubt or held, lists, IDs that were reserved, slots that are used again.
func TestQueuesAreWhatTheTableSays(t *testing.T) {
	late := 0
	for seed := range uint64(20) {
		t.Run(fmt.Sprint("seed ", seed), func(t *testing.T) {
			r := restoreRig{t: t, rng: rand.New(rand.NewPCG(seed, 99))}
			late += r.run()
		})
	}
	if late == 0 {
		t.Error("no message was committed later than its ID says: the test shows less than it says")
	}
}

type restoreRig struct {
	t        *testing.T
	rng      *rand.Rand
	now      atomic.Int64
	s        *Store
	ids      []ID
	reserved []ID
}

func (r *restoreRig) ok(err error) {
	r.t.Helper()
	if err != nil {
		r.t.Fatal(err)
	}
}

func (r *restoreRig) queue() string { return fmt.Sprint("q", r.rng.IntN(6)) }

// later is a time within two hours, mostly.
func (r *restoreRig) later() time.Time {
	return time.Unix(0, r.now.Load()).Add(time.Duration(r.rng.IntN(7200)-60) * time.Second)
}

func (r *restoreRig) run() (late int) {
	fs := memdisk.New(memdisk.Config{})
	o := roomy(fs)
	o.now = func() time.Time { return time.Unix(0, r.now.Load()) }
	o.Doubt, o.DoubtDelay = mailq.DoubtPolicy(r.rng.IntN(3)), 0
	if o.Doubt == mailq.DeferDoubt {
		o.DoubtDelay = 30 * time.Minute
	}
	r.now.Store(time.Date(2030, 1, 1, 0, 0, 0, 0, time.UTC).UnixNano())
	r.s = must(Open(spool, o))(r.t)
	c := must(r.s.Consumer(ConsumerOptions{InFlight: 2000}))(r.t)
	r.live(c, 700)
	r.ok(r.s.Checkpoint(r.t.Context()))
	r.live(c, r.rng.IntN(2)*400)
	image := fs.Clone()
	r.ok(r.s.Close())
	r.now.Add(int64(time.Duration(r.rng.IntN(90)) * time.Minute))
	o.fs = image
	r.s = must(Open(spool, o))(r.t)
	late, left := r.check()
	// What is named once too often keeps its slot for ever.
	for _, id := range left {
		must(r.s.Commit(r.t.Context(), Batch{Edit: []Edit{{ID: id, Outcomes: []Outcome{{Recipient: All, Result: Removed}}}}}))(r.t)
	}
	r.s.mu.Lock()
	for r.s.handOut(1 << 20) {
	}
	for slot := range r.s.table.Slots() {
		if r.s.table.Taken(slot) {
			r.t.Errorf("slot %d is still named", slot)
		}
	}
	r.s.mu.Unlock()
	r.ok(r.s.Close())
	return late
}

// live does so many things to the store.
func (r *restoreRig) live(c mailq.Consumer, n int) {
	for range n {
		switch k := r.rng.IntN(40); {
		case k < 26:
			if r.rng.IntN(4) == 0 {
				r.reserved = append(r.reserved, r.s.NewID())
			}
			m := r.message()
			if len(r.reserved) > 0 && r.rng.IntN(4) == 0 {
				i := r.rng.IntN(len(r.reserved))
				m.ID = r.reserved[i]
				r.reserved = slices.Delete(r.reserved, i, i+1)
			}
			r.ids = append(r.ids, must(r.s.Enqueue(r.t.Context(), m))(r.t))
		case k < 35 && len(r.ids) > 0:
			o := Outcome{Recipient: r.rng.IntN(2), Result: []Result{Removed, Held, Released, Deferred, Uncertain, Uncertain}[r.rng.IntN(6)]}
			if o.Result == Deferred || o.Result == Uncertain && r.rng.IntN(2) == 0 {
				o.Until = r.later()
			}
			// It may be of a recipient that is not there any more, or is under delivery.
			_, _ = r.s.Commit(r.t.Context(), Batch{Edit: []Edit{{ID: r.ids[r.rng.IntN(len(r.ids))], Outcomes: []Outcome{o}}}})
		case k < 38:
			d, there := c.TryNext(r.queue())
			if !there {
				continue
			}
			switch r.rng.IntN(4) { // else it is left under delivery
			case 0:
				r.ok(d.SettleAll(r.t.Context(), Delivered))
			case 1:
				d.Release()
			case 2:
				r.ok(d.Settle(r.t.Context(), []Outcome{{Recipient: All, Result: Deferred, Until: r.later(), Note: []byte("later")}}))
			}
		case k == 38:
			r.ok(r.s.Flush(r.t.Context(), r.queue()))
		default:
			r.now.Add(int64(time.Second))
		}
	}
}

func (r *restoreRig) message() Message {
	m := to(r.queue())
	if r.rng.IntN(4) == 0 {
		m.Priority = int8(r.rng.IntN(3) - 1)
	}
	if r.rng.IntN(4) == 0 {
		m.ExpiresAt = r.later()
	}
	if r.rng.IntN(3) > 0 {
		return m
	}
	for i := range r.rng.IntN(4) {
		m.Recipients = append(m.Recipients, Recipient{Queue: r.queue(), Address: fmt.Sprint("a", i)})
	}
	for i := range m.Recipients {
		if r.rng.IntN(3) == 0 {
			m.Recipients[i].NotBefore = r.later()
		}
	}
	return m
}

// restoredQueue is what a queue is to be.
type restoredQueue struct {
	ready   map[int8][]entry // by priority
	lapsed  []entry
	lapse   int64
	counts  [classes]int64
	doubt   int64
	entries int
}

// check compares what was built with what the table says; left is the messages that there are.
func (r *restoreRig) check() (late int, left []ID) {
	t, s := r.t, r.s
	s.mu.Lock()
	defer s.mu.Unlock()
	now := r.now.Load()
	want := make(map[uint32]*restoredQueue)
	waits := make(map[dueEntry]int)
	s.table.ForEach(func(slot uint32) {
		m := s.table.Msg(slot)
		left = append(left, ID(m.ID))
		late += b2i(s.table.Order(m) != m.ID)
		list := s.table.Recipients(slot)
		for i := range list {
			rc, ref := &list[i], state.Ref{Slot: slot, Index: uint32(i)}
			if rc.Standing == state.Used {
				continue
			}
			q := want[rc.Queue]
			if q == nil {
				q = &restoredQueue{ready: make(map[int8][]entry)}
				want[rc.Queue] = q
			}
			q.doubt += int64(rc.Flags & state.InDoubt)
			e, expires, due := entry{s.table.Order(m), ref}, m.ExpiresAt(), s.table.NotBefore(rc)
			if due != 0 && expires != 0 {
				due = min(due, expires)
			}
			mem, class := memReady, classPending
			switch {
			case rc.Standing == state.Held:
				mem, class = 0, classHeld
			case due > now:
				mem, class = memWaiting, classDeferred
				waits[dueEntry{due, ref}]++
			case expires != 0 && expires <= now:
				q.lapsed = append(q.lapsed, e)
			default:
				q.ready[m.Priority] = append(q.ready[m.Priority], e)
				q.entries++
				if expires != 0 && (q.lapse == 0 || expires < q.lapse) {
					q.lapse = expires
				}
			}
			q.counts[class]++
			if rc.Mem != mem {
				t.Errorf("%v has the marks %#x, want %#x", ref, rc.Mem, mem)
			}
		}
	})
	for _, e := range s.sched.restored {
		waits[e]--
	}
	var counts [classes]int64
	var doubt int64
	for n := range s.table.Queues() {
		q := s.known(n)
		if q == nil {
			continue
		}
		w := want[uint32(n)]
		if w == nil {
			w = new(restoredQueue)
		}
		for _, e := range q.due {
			waits[e]--
		}
		for c := range counts {
			counts[c] += q.counts[c]
		}
		doubt += q.doubt
		if q.counts != w.counts || q.doubt != w.doubt || q.lapse != w.lapse || q.entries != w.entries {
			t.Errorf("queue %d: counts %v, in doubt %d, lapse %d, entries %d, want %+v", n, q.counts, q.doubt, q.lapse, q.entries, *w)
		}
		for i := range q.lanes {
			l := &q.lanes[i]
			if got, ready := inLane(s.table, l), w.ready[l.priority]; !sameTurns(got, ready) {
				t.Errorf("queue %d, priority %d: %v, want %v", n, l.priority, got, ready)
			}
		}
		if q.lapsed != nil || len(w.lapsed) > 0 {
			if got := inLane(s.table, q.lapsed); !sameTurns(got, w.lapsed) {
				t.Errorf("queue %d: %v has expired, want %v", n, got, w.lapsed)
			}
		}
		if at := q.wakeAt(); (at != 0) != (q.timer >= 0) || at != 0 && q.timerAt != at {
			t.Errorf("queue %d is to wake at %d, its timer is %d, at %d", n, at, q.timer, q.timerAt)
		}
	}
	for e, n := range waits {
		if n != 0 {
			t.Errorf("%v is to wait %d times more", e, n)
		}
	}
	if counts != s.sched.counts || doubt != s.sched.doubt {
		t.Errorf("counts %v and %d in doubt, of all queues %v and %d", s.sched.counts, s.sched.doubt, counts, doubt)
	}
	return late, left
}

// sameTurns reports whether entries are these, in the order of commits. Two of which the one had its ID reserved may be alike in that.
func sameTurns(got, want []entry) bool {
	inOrder := slices.IsSortedFunc(got, func(a, b entry) int { return b2i(b.before(a)) - b2i(a.before(b)) })
	in := make(map[entry]bool)
	for _, e := range want {
		in[e] = true
	}
	for _, e := range got {
		delete(in, e)
	}
	return inOrder && len(in) == 0 && len(got) == len(want)
}

// inLane is what a lane hands out, which is there again behind it.
func inLane(table *state.Table, l *lane) (list []entry) {
	if l == nil {
		return nil
	}
	for l.len() > 0 {
		e, back := l.first(table)
		l.pop(back)
		list = append(list, e)
	}
	for _, e := range list {
		l.push(e)
	}
	return list
}
