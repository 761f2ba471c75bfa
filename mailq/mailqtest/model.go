package mailqtest

import (
	"cmp"
	"fmt"
	"maps"
	"math/rand/v2"
	"slices"
	"strings"
	"time"

	"github.com/mtawal/mtawal/mailq"
)

var modelTests = []test{
	{"a random history against a map", modelHistory, nil},
}

// modelRcpt is what the model knows of a recipient that is not used.
type modelRcpt struct {
	queue, address, note string
	state                mailq.State // Pending, InDeferral or Claimed
	attempts             int
	inDoubt              bool
}

// modelClaim is a delivery that is out.
type modelClaim struct {
	d    *mailq.Delivery
	held map[int]bool // recipients neither settled nor marked used meanwhile
	took map[int]bool // recipients that were marked used meanwhile
}

// model is a store as a map, driven through one random history by a single
// goroutine, so that it can tell the outcome of every call beforehand.
type model struct {
	*env
	rng    *rand.Rand
	c      mailq.Consumer
	rcpts  map[slot]*modelRcpt
	bodies map[mailq.ID]string
	claims []*modelClaim
	used   mailq.UsedCounts
	all    int64    // recipients ever enqueued
	log    []string // what was done, for the report of a failure
}

func modelHistory(e *env) {
	for round := range uint64(3) {
		m := &model{env: e.second(), rng: rand.New(rand.NewPCG(e.caps.Seed, round)), rcpts: map[slot]*modelRcpt{}, bodies: map[mailq.ID]string{}}
		m.c = m.env.all()
		m.did("seed %d, round %d", e.caps.Seed, round)
		steps := []struct {
			weight int
			do     func()
		}{
			{20, m.enqueue}, {25, m.claim}, {25, m.settle}, {6, m.release}, {6, m.mark}, {4, m.bad}, {4, m.compare}, {2, m.again},
		}
		for range 150 {
			n := m.rng.IntN(92)
			for _, s := range steps {
				if n -= s.weight; n < 0 {
					s.do()
					break
				}
			}
			if m.Failed() {
				m.Fatalf("after\n%s", strings.Join(m.log, "\n"))
			}
		}
		m.compare()
		if m.Failed() {
			m.Fatalf("after\n%s", strings.Join(m.log, "\n"))
		}
	}
}

func (m *model) did(format string, args ...any) { m.log = append(m.log, fmt.Sprintf(format, args...)) }

// random makes a message and what the model will know of it once it has an ID.
func (m *model) random() mailq.Message {
	msg := mail("", fmt.Sprintf("%x", noise(m.rng.Uint64(), m.rng.IntN(3000))))
	msg.Recipients = nil
	for i := range 1 + m.rng.IntN(4) {
		msg.Recipients = append(msg.Recipients, mailq.Recipient{
			Queue: fmt.Sprint("q", m.rng.IntN(3)), Address: fmt.Sprint("r", i), Note: fmt.Append(nil, "n", m.rng.IntN(5)),
		})
	}
	if m.rng.IntN(3) == 0 {
		msg.ID = m.store.NewID()
	}
	return msg
}

func (m *model) learn(id mailq.ID, msg mailq.Message) {
	m.bodies[id] = string(msg.Body)
	for i, r := range msg.Recipients {
		m.rcpts[slot{id, i}] = &modelRcpt{queue: r.Queue, address: r.Address, note: string(r.Note), state: mailq.Pending}
		m.all++
	}
	m.did("enqueued %v, %d recipients", id, len(msg.Recipients))
}

func (m *model) learnAll(ids []mailq.ID, b mailq.Batch) {
	if len(ids) != len(b.Enqueue) {
		m.Fatalf("Commit of %d messages returned %d IDs", len(b.Enqueue), len(ids))
	}
	for i, id := range ids {
		m.learn(id, b.Enqueue[i])
	}
}

func (m *model) enqueue() {
	if m.rng.IntN(4) > 0 {
		msg := m.random()
		m.learn(m.send(msg), msg)
		return
	}
	b := mailq.Batch{Enqueue: []mailq.Message{m.random(), m.random()}}
	m.learnAll(m.commit(b), b)
}

func (m *model) claim() {
	q := fmt.Sprint("q", m.rng.IntN(3))
	due := map[mailq.ID][]int{}
	for s, r := range m.rcpts {
		if r.queue == q && r.state == mailq.Pending {
			due[s.id] = append(due[s.id], s.index)
		}
	}
	d, ok := m.c.TryNext(q)
	if !ok {
		if len(due) != 0 {
			m.Errorf("TryNext(%q) gives nothing, due is %v", q, due)
		}
		return
	}
	m.did("claimed %v in %s, %d recipients", d.ID, q, len(d.Recipients))
	c := &modelClaim{d: d, held: map[int]bool{}, took: map[int]bool{}}
	var got []int
	for _, s := range d.Recipients {
		got = append(got, s.Index)
		c.held[s.Index] = true
		r := m.rcpts[slot{d.ID, s.Index}]
		if r == nil || r.state != mailq.Pending || r.queue != q || d.Queue != q {
			m.Errorf("recipient %d of %v was handed out for %q, the model has %+v", s.Index, d.ID, q, r)
			return
		}
		if s.Address != r.address || string(s.Note) != r.note || m.caps.InDoubt && (s.Attempts != r.attempts || s.InDoubt != r.inDoubt) {
			m.Errorf("slot %+v of %v, the model has %+v", s, d.ID, *r)
		}
		r.state = mailq.Claimed
	}
	slices.Sort(got)
	if want := slices.Sorted(slices.Values(due[d.ID])); !slices.Equal(got, want) {
		m.Errorf("a delivery of %v with recipients %v, due are %v", d.ID, got, want)
	}
	if m.body(d) != m.bodies[d.ID] {
		m.Errorf("the body of %v is another", d.ID)
	}
	m.claims = append(m.claims, c)
}

// pick returns a claim that is out, or nil.
func (m *model) pick() *modelClaim {
	if len(m.claims) == 0 {
		return nil
	}
	return m.claims[m.rng.IntN(len(m.claims))]
}

// over forgets a claim that has ended.
func (m *model) over(c *modelClaim) {
	m.claims = slices.DeleteFunc(m.claims, func(x *modelClaim) bool { return x == c })
	m.ended(c.d)
}

func (m *model) settle() {
	c := m.pick()
	if c == nil {
		return
	}
	results := []mailq.Result{mailq.Delivered, mailq.Failed, mailq.Removed, mailq.Deferred}
	if m.caps.InDoubt {
		results = append(results, mailq.Uncertain)
	}
	var outcomes []mailq.Outcome
	lost := false
	for _, s := range c.d.Recipients {
		if m.rng.IntN(3) == 0 || !c.held[s.Index] && (!c.took[s.Index] || m.rng.IntN(3) > 0) {
			continue
		}
		o := outcome(s.Index, results[m.rng.IntN(len(results))])
		if m.rng.IntN(2) == 0 {
			o.Note = fmt.Append(nil, "note ", m.rng.IntN(100))
		}
		if o.Result == mailq.Deferred {
			o.Until = time.Now().Add(time.Duration(m.rng.IntN(2)) * time.Hour)
		}
		outcomes = append(outcomes, o)
		lost = lost || c.took[s.Index]
	}
	if len(outcomes) == 0 {
		return
	}
	b := mailq.Batch{Settle: settlement(c.d, outcomes...)}
	if m.rng.IntN(2) == 0 {
		b.Enqueue = []mailq.Message{m.random()}
	}
	ids, err := m.store.Commit(m.ctx, b)
	m.did("settled %v with %+v and %d bounces: %v", c.d.ID, outcomes, len(b.Enqueue), err)
	if lost {
		m.wants("a settle of a recipient used meanwhile", err, mailq.ErrUsed)
		return
	}
	if err != nil {
		m.Errorf("Commit: %v", err)
		return
	}
	m.learnAll(ids, b)
	for _, o := range outcomes {
		m.apply(slot{c.d.ID, o.Recipient}, o)
		delete(c.held, o.Recipient)
	}
	if len(c.held) == 0 {
		m.over(c)
	}
}

func (m *model) apply(s slot, o mailq.Outcome) {
	r := m.rcpts[s]
	switch o.Result {
	case mailq.Delivered:
		m.used.Delivered++
	case mailq.Failed:
		m.used.Failed++
	case mailq.Removed:
		m.used.Removed++
	}
	if o.Result.IsUsed() {
		delete(m.rcpts, s)
		return
	}
	if o.Note != nil {
		r.note = string(o.Note)
	}
	r.attempts++
	r.inDoubt = r.inDoubt || o.Result == mailq.Uncertain
	r.state = mailq.Pending
	if o.Until.After(time.Now()) {
		r.state = mailq.InDeferral
	}
}

// back is what becomes of the recipients of a claim that ends unsettled.
func (m *model) back(c *modelClaim) {
	for i := range c.held {
		r := m.rcpts[slot{c.d.ID, i}]
		r.state = mailq.Pending
		r.attempts++
		r.inDoubt = true
	}
}

func (m *model) release() {
	if c := m.pick(); c != nil {
		m.did("released %v", c.d.ID)
		m.env.release(c.d)
		m.back(c)
		m.over(c)
	}
}

func (m *model) mark() {
	slots := slices.SortedFunc(maps.Keys(m.rcpts), func(a, b slot) int {
		return cmp.Or(cmp.Compare(a.id, b.id), cmp.Compare(a.index, b.index))
	})
	if len(slots) == 0 {
		return
	}
	s := slots[m.rng.IntN(len(slots))]
	index := s.index
	if m.rng.IntN(3) == 0 {
		index = mailq.All
	}
	m.did("marked %v %d used", s.id, index)
	m.markUsed(s.id, index)
	for _, x := range slots {
		if x.id != s.id || index != mailq.All && x.index != index {
			continue
		}
		for _, c := range slices.Clone(m.claims) {
			if c.d.ID == x.id && c.held[x.index] {
				delete(c.held, x.index)
				c.took[x.index] = true
				if len(c.held) == 0 {
					m.over(c)
				}
			}
		}
		delete(m.rcpts, x)
		m.used.Delivered++
	}
}

// bad commits a batch that must not be taken.
func (m *model) bad() {
	b := mailq.Batch{Enqueue: []mailq.Message{m.random(), {Recipients: []mailq.Recipient{{Queue: "q0"}, {}}}}}
	if c := m.pick(); c != nil {
		for i := range c.held {
			b.Settle = settlement(c.d, outcome(i, mailq.Delivered))
		}
	}
	_, err := m.store.Commit(m.ctx, b)
	m.did("a bad batch: %v", err)
	m.refused("a bad batch", err, "Recipients[1].Queue")
}

// again reopens the store, or crashes it.
func (m *model) again() {
	if m.caps.Crash != nil && m.rng.IntN(2) == 0 {
		m.did("crashed")
		m.crash()
	} else {
		m.did("reopened")
		m.reopen()
	}
	for _, c := range m.claims {
		m.back(c)
	}
	m.claims = nil
	m.c = m.env.all()
	m.compare()
}

// compare fails unless the store is what the model is.
func (m *model) compare() {
	m.check()
	left := maps.Clone(m.rcpts)
	for _, x := range m.entries(mailq.Filter{}) {
		s := slot{x.ID, x.Recipient}
		r := left[s]
		delete(left, s)
		if r == nil {
			m.Errorf("Entries lists %+v, the model has no such recipient", x)
			continue
		}
		if x.Queue != r.queue || x.Address != r.address || string(x.Note) != r.note || x.State != r.state ||
			m.caps.InDoubt && (x.InDoubt != r.inDoubt || x.Attempts != r.attempts && x.State != mailq.Claimed) {
			m.Errorf("Entries lists %+v, the model has %+v", x, *r)
		}
	}
	for s, r := range left {
		m.Errorf("Entries does not list recipient %d of %v, the model has %+v", s.index, s.id, *r)
	}
	s := m.store.Stats()
	if s.Enqueued != m.all || s.Used != m.used {
		m.Errorf("enqueued %d, used %+v, the model has %d and %+v", s.Enqueued, s.Used, m.all, m.used)
	}
}
