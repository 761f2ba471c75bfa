package mailqtest

import (
	"time"

	"github.com/mtawal/mtawal/mailq"
)

var queueStateTests = []test{
	{"a held queue hands out nothing", queueHeld, []need{queueStates}},
	{"a suspended queue takes nothing", queueSuspended, []need{queueStates}},
	{"a state is kept and listed without mail", queueStateKept, []need{queueStates}},
	{"a claim that is out of a held queue", queueHeldClaimed, []need{queueStates}},
	{"doubt is redelivered by default", queueRedeliver, []need{queueStates, doubt}},
	{"doubt is held", queueHoldDoubt, []need{queueStates, doubt, holds}},
	{"doubt is deferred", queueDeferDoubt, []need{queueStates, doubt}},
}

func (e *env) setQueue(name string, s mailq.QueueState) {
	e.Helper()
	if err := e.store.SetQueue(e.ctx, name, s); err != nil {
		e.Fatalf("SetQueue %q %+v: %v", name, s, err)
	}
}

func queueHeld(e *env) {
	id := e.post("q", "x")
	e.setQueue("q", mailq.QueueState{Mode: mailq.HoldQueue})
	later := e.post("q", "later mail")
	for range 2 {
		c := e.all()
		e.nothing(c, "q")
		e.served(c)
		if q := e.queues(); len(q) != 1 || q[0].State.Mode != mailq.HoldQueue {
			e.Errorf("Queues lists %+v", q)
		}
		if s := e.store.Stats(); s.Pending+s.Held != 2 {
			e.Errorf("%d pending and %d held, want 2", s.Pending, s.Held)
		}
		e.post("other", "x")
		e.served(c, "other")
		e.reopen()
	}
	c := e.all()
	waiting := e.waiting(e.ctx, c)
	e.setQueue("q", mailq.QueueState{})
	n := e.outcome(waiting)
	e.must(n.err)
	if n.d.ID != id {
		e.Errorf("%v came, want %v", n.d.ID, id)
	}
	e.nextID(c, later)
}

func queueSuspended(e *env) {
	id := e.post("q", "x")
	e.setQueue("q", mailq.QueueState{Mode: mailq.Suspended})
	for range 2 {
		e.same("mail for a suspended queue", func() {
			if _, err := e.store.Enqueue(e.ctx, mail("q", "y")); err == nil {
				e.Error("a suspended queue takes new mail")
			}
			m := mail("other", "y")
			m.Recipients = append(m.Recipients, mailq.Recipient{Queue: "q"})
			if _, err := e.store.Enqueue(e.ctx, m); err == nil {
				e.Error("a suspended queue takes new mail for one of two recipients")
			}
		})
		e.nothing(e.all(), "q")
		e.reopen()
	}
	e.setQueue("q", mailq.QueueState{Mode: mailq.Active})
	e.nextID(e.all(), id)
	e.post("q", "y")
}

func queueStateKept(e *env) {
	want := mailq.QueueState{Mode: mailq.HoldQueue, Doubt: mailq.DeferDoubt, DoubtDelay: time.Hour}
	e.setQueue("q", want)
	for range 2 {
		if q := e.queues(); len(q) != 1 || q[0].Name != "q" || q[0].State != want || q[0].Oldest != 0 {
			e.Errorf("Queues lists %+v, want q with %+v", q, want)
		}
		e.reopen()
	}
	e.setQueue("q", mailq.QueueState{})
	if q := e.queues(); len(q) != 0 {
		e.Errorf("Queues lists %+v, want nothing", q)
	}
}

func queueHeldClaimed(e *env) {
	id := e.post("q", "x")
	e.post("q", "y")
	d := e.claim("q")
	e.setQueue("q", mailq.QueueState{Mode: mailq.HoldQueue})
	e.alive(d)
	e.settleAll(d, mailq.Delivered)
	e.state(id, 0, mailq.Used)
	e.nothing(e.all(), "q")
}

func queueRedeliver(e *env) {
	id := e.post("q", "x")
	e.setQueue("q", mailq.QueueState{Doubt: mailq.Redeliver})
	e.settleAll(e.claim("q"), mailq.Uncertain)
	e.comes("q", id, "?")
}

func queueHoldDoubt(e *env) {
	e.setQueue("q", mailq.QueueState{Doubt: mailq.HoldDoubt})
	ids := e.posts("q", 3)
	c := e.all()
	uncertain, released := e.nextID(c, ids[0]), e.nextID(c, ids[1])
	e.settleAll(uncertain, mailq.Uncertain)
	e.release(released)
	e.nextID(c, ids[2])
	e.reopen()
	for _, id := range ids {
		if x, _ := e.find(id, 0); x.State != mailq.OnHold || !x.InDoubt {
			e.Errorf("Entries lists %+v, want it held, in doubt", x)
		}
	}
	e.nothing(e.all(), "q")
	e.edit(ids[1], outcome(0, mailq.Released))
	e.comes("q", ids[1], "?")
}

func queueDeferDoubt(e *env) {
	e.setQueue("q", mailq.QueueState{Doubt: mailq.DeferDoubt, DoubtDelay: time.Hour})
	e.setQueue("soon", mailq.QueueState{Doubt: mailq.DeferDoubt, DoubtDelay: 20 * time.Millisecond})
	id, soon := e.post("q", "x"), e.post("soon", "x")
	e.settleAll(e.claim("q"), mailq.Uncertain)
	until := time.Now().Round(0).Add(20 * time.Millisecond)
	e.settleAll(e.claim("soon"), mailq.Uncertain)
	e.comes("soon", soon, "?")
	if now := time.Now().Round(0); now.Before(until) {
		e.Errorf("it came %v before its time", until.Sub(now))
	}
	if x, _ := e.find(id, 0); x.State != mailq.InDeferral || !x.InDoubt || time.Until(x.NotBefore) < 50*time.Minute {
		e.Errorf("Entries lists %+v, want it deferred for an hour, in doubt", x)
	}
	o := later(0) // a time of its own goes before the policy
	o.Result = mailq.Uncertain
	other := e.post("q", "y")
	e.settle(e.claim("q"), o)
	e.comes("q", other, "?")
}
