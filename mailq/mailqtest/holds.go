package mailqtest

import (
	"time"

	"github.com/mtawal/mtawal/mailq"
)

var holdTests = []test{
	{"held by an edit and released", holdEdit, []need{holds}},
	{"held by a settle", holdSettle, []need{holds}},
	{"a deferred one held and released is due", holdDeferred, []need{holds}},
	{"a held one marked used", holdUsed, []need{holds}},
	{"an edit of a claimed one holds it when it comes back", holdClaimed, []need{holds}},
	{"an edit of a claimed one does not stop its delivery", holdClaimedDelivered, []need{holds}},
	{"operators work by the list", holdByList, []need{holds}},
}

func (e *env) edit(id mailq.ID, o ...mailq.Outcome) {
	e.Helper()
	e.commit(mailq.Batch{Edit: edit(id, o...)})
}

func holdEdit(e *env) {
	id := e.send(mailTo("q", "x", 3))
	c := e.all()
	e.edit(id, outcome(0, mailq.Held), mailq.Outcome{Recipient: 2, Result: mailq.Held, Note: []byte("virus?")})
	d := e.nextID(c, id)
	if len(d.Recipients) != 1 || d.Recipients[0].Index != 1 {
		e.Errorf("the delivery carries %+v, want recipient 1", d.Recipients)
	}
	e.settleAll(d, mailq.Delivered)
	e.reopen()
	c = e.all()
	e.nothing(c, "q")
	e.state(id, 0, mailq.OnHold)
	if x, _ := e.find(id, 2); x.State != mailq.OnHold || string(x.Note) != "virus?" {
		e.Errorf("Entries lists %+v", x)
	}
	if s := e.store.Stats(); s.Held != 2 {
		e.Errorf("%d held, want 2", s.Held)
	}
	waiting := e.waiting(e.ctx, c)
	e.edit(id, outcome(mailq.All, mailq.Released))
	n := e.outcome(waiting)
	e.must(n.err)
	if len(n.d.Recipients) != 2 {
		e.Errorf("released came %+v, want two recipients", n.d.Recipients)
	}
	for _, s := range n.d.Recipients {
		if s.Attempts != 0 || s.InDoubt {
			e.Errorf("slot %+v of a recipient that was never tried", s)
		}
	}
}

func holdSettle(e *env) {
	id := e.send(mailTo("q", "x", 2))
	d := e.claim("q")
	e.settle(d, outcome(0, mailq.Held), outcome(1, mailq.Delivered))
	e.ended(d)
	e.reopen()
	e.state(id, 0, mailq.OnHold)
	e.nothing(e.all(), "q")
	e.edit(id, outcome(0, mailq.Released))
	e.nextID(e.all(), id)
}

func holdDeferred(e *env) {
	id := e.post("q", "x")
	e.settle(e.claim("q"), later(time.Hour))
	e.edit(id, outcome(0, mailq.Held))
	e.state(id, 0, mailq.OnHold)
	e.edit(id, outcome(0, mailq.Released))
	d := e.nextID(e.all(), id)
	if n := d.Recipients[0].Attempts; n != 1 {
		e.Errorf("%d attempts, want 1", n)
	}
}

func holdUsed(e *env) {
	one, two := e.post("q", "x"), e.post("q", "y")
	e.edit(one, outcome(0, mailq.Held))
	e.edit(two, outcome(0, mailq.Held))
	e.markUsed(one, 0)
	e.edit(two, outcome(0, mailq.Removed))
	e.used(mailq.UsedCounts{Delivered: 1, Removed: 1})
	if s := e.store.Stats(); s.Held != 0 || s.WorkQueueLength != 0 {
		e.Errorf("%d held, work queue length %d", s.Held, s.WorkQueueLength)
	}
}

func holdClaimed(e *env) {
	id := e.send(mailTo("q", "x", 2))
	d := e.claim("q")
	e.edit(id, outcome(mailq.All, mailq.Held))
	e.alive(d)
	e.settle(d, outcome(0, mailq.Deferred))
	e.state(id, 0, mailq.OnHold)
	e.state(id, 1, mailq.Claimed)
	e.reopen() // the edit is as durable as any
	e.state(id, 0, mailq.OnHold)
	e.state(id, 1, mailq.OnHold)
	e.nothing(e.all(), "q")
}

func holdClaimedDelivered(e *env) {
	id := e.post("q", "x")
	d := e.claim("q")
	e.edit(id, outcome(0, mailq.Held))
	e.settleAll(d, mailq.Delivered)
	e.state(id, 0, mailq.Used)
	e.used(mailq.UsedCounts{Delivered: 1})
}

func holdByList(e *env) {
	e.posts("q", 10)
	e.posts("other", 2)
	for x, err := range e.store.Entries(e.ctx, mailq.Filter{Queue: "q"}) {
		e.must(err)
		e.edit(x.ID, outcome(x.Recipient, mailq.Held))
	}
	if n := len(e.entries(mailq.Filter{State: mailq.OnHold})); n != 10 {
		e.Errorf("%d on hold, want 10", n)
	}
	for x, err := range e.store.Entries(e.ctx, mailq.Filter{State: mailq.OnHold}) {
		e.must(err)
		e.edit(x.ID, outcome(x.Recipient, mailq.Removed))
	}
	e.used(mailq.UsedCounts{Removed: 10})
	e.served(e.consumer(mailq.ConsumerOptions{Queues: []string{"q"}}))
}
