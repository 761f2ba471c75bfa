package wal

import (
	"cmp"
	"fmt"
	"maps"
	"math/rand/v2"
	"slices"
	"testing"
	"time"

	"github.com/mtawal/mtawal/mailq"
)

// schedModel drives the scheduler with random calls and a clock of its own, and knows of each
// recipient what it may be and of each consumer whose turn it may be.
type schedModel struct {
	*clocked
	rng   *rand.Rand
	log   []string
	rcpts map[state2]*schedRcpt
	order map[ID]int // of commits
	modes map[string]mailq.QueueMode
	cons  []*schedConsumer
	out   []*schedClaim
	since map[string]int // claims of a queue since one was of the oldest
}

type state2 struct {
	id  ID
	idx int
}

type schedRcpt struct {
	queue    string
	priority int8
	due, exp time.Time // exp zero: never
	late     bool      // due was set when it had expired
	held     bool
	by       *schedClaim
}

type schedClaim struct {
	d     *Delivery
	c     *schedConsumer
	group string // "" for one beside the groups
}

type schedConsumer struct {
	*consumer
	o      ConsumerOptions
	group  map[string]string
	limit  map[string]int
	paused map[string]time.Time
	turn   int // claims by Next
	served map[string]int
	waits  map[string]int // since which turn a group, or a queue in one, has something all the time
}

func TestSchedulerModel(t *testing.T) {
	t.Parallel()
	rounds := uint64(12)
	if testing.Short() {
		rounds = 3
	}
	for seed := range rounds {
		t.Run(fmt.Sprint("seed ", seed), func(t *testing.T) {
			m := &schedModel{clocked: newClocked(t), rng: rand.New(rand.NewPCG(seed, 7)), rcpts: map[state2]*schedRcpt{}, order: map[ID]int{},
				modes: map[string]mailq.QueueMode{}, since: map[string]int{}}
			for _, o := range []ConsumerOptions{{ManualStart: true}, {ManualStart: true, Prefix: "q", InFlight: 12, PerGroup: 4, MaxRecipients: 2}} {
				m.cons = append(m.cons, &schedConsumer{consumer: m.consumer(o), o: o, group: map[string]string{}, limit: map[string]int{},
					paused: map[string]time.Time{}, served: map[string]int{}, waits: map[string]int{}})
			}
			for range 1500 {
				m.step()
				m.recount()
			}
		})
	}
}

func (m *schedModel) fatal(format string, args ...any) {
	m.t.Helper()
	for _, l := range m.log[max(0, len(m.log)-40):] {
		m.t.Log(l)
	}
	m.t.Fatalf(format, args...)
}

func (m *schedModel) did(format string, args ...any) {
	m.log = append(m.log, fmt.Sprintf(format, args...))
}

func (m *schedModel) check(err error) {
	m.t.Helper()
	if err != nil {
		m.fatal("%v", err)
	}
}

func (m *schedModel) aQueue() string {
	return fmt.Sprint([]string{"q", "q", "q", "r"}[m.rng.IntN(4)], m.rng.IntN(4))
}

// aTime is on a whole second, mostly to come.
func (m *schedModel) aTime() time.Time {
	return m.now().Add(time.Duration(m.rng.IntN(3000)-300) * time.Second)
}

func (m *schedModel) step() {
	c := m.cons[m.rng.IntN(2)]
	switch n := m.rng.IntN(100); {
	case n < 20:
		m.enqueue()
	case n < 55:
		m.next(c)
	case n < 60:
		m.tryNext(c)
	case n < 78:
		m.settle()
	case n < 84:
		m.edit()
	case n < 86:
		q := m.aQueue()
		m.did("flush %s", q)
		m.check(m.Flush(m.t.Context(), q))
		for _, r := range m.rcpts {
			if r.queue == q && !r.held && r.due.After(m.now()) {
				r.due, r.late = m.now(), !r.exp.IsZero() && !r.exp.After(m.now())
			}
		}
	case n < 89:
		q, mode := m.aQueue(), mailq.QueueMode(m.rng.IntN(2))
		m.did("queue %s: mode %d", q, mode)
		m.check(m.SetQueue(m.t.Context(), q, QueueState{Mode: mode}))
		m.modes[q] = mode
	case n < 92:
		q, g := m.aQueue(), []string{"", "site", "q1"}[m.rng.IntN(3)]
		m.did("consumer %p: %s in group %q", c, q, g)
		c.SetGroup(q, g)
		c.group[q] = g
		delete(c.waits, c.groupOf(q)+"/"+q) // another ring
	case n < 94:
		g, l := m.aGroup(), m.rng.IntN(4)
		m.did("consumer %p: limit of %s is %d", c, g, l)
		c.Limit(g, l)
		c.limit[g] = l
	case n < 97:
		g, at := m.aGroup(), m.aTime()
		m.did("consumer %p: %s paused until %v", c, g, at)
		c.Pause(g, at)
		c.paused[g] = at
	default:
		m.advance(time.Duration(m.rng.IntN(400)) * time.Second)
		m.did("it is %v", m.now())
	}
}

func (m *schedModel) aGroup() string {
	if m.rng.IntN(3) == 0 {
		return "site"
	}
	return m.aQueue()
}

func (c *schedConsumer) groupOf(queue string) string { return cmp.Or(c.group[queue], queue) }

func (m *schedModel) enqueue() {
	msg := Message{Priority: []int8{0, 0, 0, 5, -5}[m.rng.IntN(5)]}
	if m.rng.IntN(3) == 0 {
		msg.ExpiresAt = m.aTime()
	}
	for range 1 + m.rng.IntN(3) {
		r := Recipient{Queue: m.aQueue()}
		if m.rng.IntN(4) == 0 {
			r.NotBefore = m.aTime()
		}
		msg.Recipients = append(msg.Recipients, r)
	}
	id, err := m.Enqueue(m.t.Context(), msg)
	m.check(err)
	m.order[id] = len(m.order)
	for i, r := range msg.Recipients {
		m.rcpts[state2{id, i}] = &schedRcpt{queue: r.Queue, priority: msg.Priority, due: r.NotBefore, exp: msg.ExpiresAt}
	}
	m.did("enqueued %v: %+v", id, msg)
}

func (m *schedModel) expired(r *schedRcpt) bool { return !r.exp.IsZero() && !r.exp.After(m.now()) }

// free reports whether a recipient is due and nobody's.
func (m *schedModel) free(r *schedRcpt) bool {
	return r.by == nil && !r.held && m.modes[r.queue] == mailq.Active && (!r.due.After(m.now()) || m.expired(r) && !r.late)
}

// open reports whether a consumer may get something of a queue, apart from what has
// expired.
func (c *schedConsumer) open(m *schedModel, queue string) bool {
	g := c.groupOf(queue)
	most := c.o.PerGroup
	if l := c.limit[g]; l > 0 && (most == 0 || l < most) {
		most = l
	}
	return c.serves(queue) && !c.paused[g].After(m.now()) && (most == 0 || c.count(m, g) < most)
}

// count counts the deliveries that are out, "" those of all groups.
func (c *schedConsumer) count(m *schedModel, group string) (n int) {
	for _, x := range m.out {
		if x.c == c && (group == "" || x.group == group) {
			n++
		}
	}
	return n
}

// recount notes since when groups and queues have had something without a break.
func (m *schedModel) recount() {
	for _, c := range m.cons {
		has := map[string]bool{}
		for _, r := range m.rcpts {
			if m.free(r) && !m.expired(r) && c.open(m, r.queue) {
				g := c.groupOf(r.queue)
				has[g], has[g+"/"+r.queue] = true, true
			}
		}
		maps.DeleteFunc(c.waits, func(k string, _ int) bool { return !has[k] })
		for k := range has {
			if _, ok := c.waits[k]; !ok {
				c.waits[k] = c.turn
			}
		}
	}
}

func (m *schedModel) next(c *schedConsumer) {
	cl, _, err := c.take(nil)
	m.check(err)
	if cl == nil {
		m.idle(c, "")
		return
	}
	x := m.claimed(c, cl)
	c.turn++
	if x.group == "" {
		return
	}
	for _, k := range []string{x.group, x.group + "/" + x.d.Queue} {
		for h, since := range c.waits {
			sameKind := len(k) == len(x.group) // of groups with each other, of queues with those of the group
			if h == k || sameKind == slices.Contains([]byte(h), '/') || !sameKind && h[:min(len(h), len(x.group)+1)] != x.group+"/" {
				continue
			}
			if last := c.served[k]; last > 0 && since < last && c.served[h] < last {
				m.fatal("%s is served again at turn %d, %s waits since turn %d and was served at %d", k, c.turn, h, since, c.served[h])
			}
		}
		c.served[k] = c.turn
	}
}

func (m *schedModel) tryNext(c *schedConsumer) {
	q := m.aQueue()
	cl, _, err := c.take(&q)
	m.check(err)
	if cl == nil {
		m.idle(c, q)
		return
	}
	if cl.q.name != q {
		m.fatal("TryNext of %s gave one of %s", q, cl.q.name)
	}
	m.claimed(c, cl)
}

// idle fails if a consumer that was given nothing had to be given something.
func (m *schedModel) idle(c *schedConsumer, queue string) {
	m.did("consumer %p: nothing in %q", c, queue)
	if c.o.InFlight > 0 && c.count(m, "") >= c.o.InFlight {
		return
	}
	for s, r := range m.rcpts {
		if (queue == "" || r.queue == queue) && m.free(r) && c.open(m, r.queue) {
			m.fatal("nothing is handed out, recipient %d of %v waits: %+v", s.idx, s.id, *r)
		}
	}
}

// claimed checks a claim and notes it.
func (m *schedModel) claimed(c *schedConsumer, cl *claim) *schedClaim {
	d, err := c.deliver(m.t.Context(), cl)
	m.check(err)
	x := &schedClaim{d: d, c: c}
	if cl.group != &c.lapsed {
		x.group = cl.group.name
	}
	m.did("consumer %p: claimed %v of %s, group %q, expired %v: %v", c, d.ID, d.Queue, x.group, d.Expired, d.Recipients)
	if c.o.InFlight > 0 && c.count(m, "") >= c.o.InFlight {
		m.fatal("more are out than may be")
	}
	if x.group != "" && !c.open(m, d.Queue) || !c.serves(d.Queue) || x.group == "" && !d.Expired {
		m.fatal("its group is blocked")
	}
	if most := c.o.MaxRecipients; len(d.Recipients) == 0 || most > 0 && len(d.Recipients) > most {
		m.fatal("%d recipients", len(d.Recipients))
	}
	m.inOrder(d, x.group != "")
	for _, s := range d.Recipients {
		r := m.rcpts[state2{d.ID, s.Index}]
		switch {
		case r == nil:
			m.fatal("recipient %d was used", s.Index)
		case !m.free(r) || r.queue != d.Queue:
			m.fatal("recipient %d is not to be handed out: %+v", s.Index, *r)
		case d.Expired != m.expired(r):
			m.fatal("recipient %d came expired %v: %+v", s.Index, d.Expired, *r)
		}
		r.by = x
	}
	m.out = append(m.out, x)
	return x
}

// inOrder fails unless a delivery is the best of its queue, or the oldest.
func (m *schedModel) inOrder(d *Delivery, turn bool) {
	if d.Expired {
		if turn {
			m.since[d.Queue] = 0
		}
		return
	}
	var best, oldest *schedRcpt
	var bestID, oldestID ID
	for s, r := range m.rcpts {
		if r.queue != d.Queue || !m.free(r) || m.expired(r) {
			continue
		}
		if best == nil || cmp.Or(cmp.Compare(best.priority, r.priority), cmp.Compare(m.order[s.id], m.order[bestID])) < 0 {
			best, bestID = r, s.id
		}
		if oldest == nil || m.order[s.id] < m.order[oldestID] {
			oldest, oldestID = r, s.id
		}
	}
	if d.ID != bestID && d.ID != oldestID {
		m.fatal("%v came, the best is %v, the oldest %v", d.ID, bestID, oldestID)
	}
	if m.since[d.Queue]++; d.ID == oldestID {
		m.since[d.Queue] = 0
	}
	if m.since[d.Queue] >= oldestWithin {
		m.fatal("the oldest of %s has not come in %d claims", d.Queue, m.since[d.Queue])
	}
}

// put applies an outcome to the model.
func (m *schedModel) put(s state2, o Outcome) {
	r := m.rcpts[s]
	switch o.Result {
	case Deferred:
		r.due, r.late = o.Until, m.expired(r)
	case Held:
		r.held = true
	case Released:
		r.held, r.due, r.late = false, time.Time{}, false
	default:
		if r.by != nil {
			m.lose(r, s)
		}
		delete(m.rcpts, s)
	}
}

// lose takes a recipient that was used from who has it.
func (m *schedModel) lose(r *schedRcpt, s state2) {
	x := r.by
	r.by = nil
	for i := range x.d.Recipients {
		if o := m.rcpts[state2{s.id, x.d.Recipients[i].Index}]; o != nil && o.by == x {
			return
		}
	}
	m.out = slices.DeleteFunc(m.out, func(y *schedClaim) bool { return x == y })
}

func (m *schedModel) settle() {
	if len(m.out) == 0 {
		return
	}
	x := m.out[m.rng.IntN(len(m.out))]
	var list []Outcome
	for _, s := range x.d.Recipients {
		if r := m.rcpts[state2{x.d.ID, s.Index}]; r == nil || r.by != x {
			continue
		}
		o := Outcome{Recipient: s.Index, Result: Delivered}
		if m.rng.IntN(2) == 0 {
			o.Result, o.Until = Deferred, m.aTime()
		}
		list = append(list, o)
	}
	if m.rng.IntN(4) == 0 {
		m.did("released %v", x.d.ID)
		x.d.Release()
	} else {
		m.did("settled %v: %+v", x.d.ID, list)
		m.check(x.d.Settle(m.t.Context(), list))
		for _, o := range list {
			m.put(state2{x.d.ID, o.Recipient}, o)
		}
	}
	for _, r := range m.rcpts {
		if r.by == x {
			r.by = nil
		}
	}
	m.out = slices.DeleteFunc(m.out, func(y *schedClaim) bool { return x == y })
}

func (m *schedModel) edit() {
	if len(m.rcpts) == 0 {
		return
	}
	all := slices.SortedFunc(maps.Keys(m.rcpts), func(a, b state2) int { return cmp.Or(cmp.Compare(a.id, b.id), cmp.Compare(a.idx, b.idx)) })
	s := all[m.rng.IntN(len(all))]
	o := Outcome{Recipient: s.idx, Result: []Result{Held, Released, Released, Deferred, Removed}[m.rng.IntN(5)]}
	if o.Result == Deferred {
		o.Until = m.aTime()
	}
	if m.rcpts[s].by != nil && o.Result == Deferred {
		return // what becomes of that is the business of other tests
	}
	m.did("edited %v: %+v", s.id, o)
	_, err := m.Commit(m.t.Context(), Batch{Edit: []Edit{{ID: s.id, Outcomes: []Outcome{o}}}})
	m.check(err)
	m.put(s, o)
}
