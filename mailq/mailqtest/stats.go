package mailqtest

import (
	"time"

	"github.com/mtawal/mtawal/mailq"
)

var statsTests = []test{
	{"an empty store", statsEmpty, nil},
	{"the identity after every step", statsSteps, nil},
	{"work queue length goes to zero", statsDrain, nil},
	{"in doubt", statsDoubt, []need{doubt}},
	{"totals over the life of the store", statsLife, nil},
	{"commits are counted", statsCommits, nil},
}

func statsEmpty(e *env) {
	s := e.store.Stats()
	if s.Enqueued != 0 || s.Used != (mailq.UsedCounts{}) || s.WorkQueueLength != 0 || s.Messages != 0 || s.InDoubt != 0 ||
		s.TailCut != 0 || s.UncleanOpens != 0 || s.OldestPin != (mailq.Pin{}) || s.SyncHangs {
		e.Errorf("the statistics of an empty store are %+v", s)
	}
	e.reopen()
	if s := e.store.Stats(); s.UncleanOpens != 0 || s.TailCut != 0 {
		e.Errorf("after a clean Close %d unclean openings and %d bytes cut are counted", s.UncleanOpens, s.TailCut)
	}
}

// stands fails unless the store counts so many in each state.
func (e *env) stands(what string, pending, deferred, claimed, used int64) {
	e.Helper()
	e.check()
	s := e.store.Stats()
	if s.Pending != pending || s.Deferred != deferred || s.Claimed != claimed || s.Used.Total() != used || s.Held != 0 || s.Damaged != 0 {
		e.Errorf("%s: pending %d, deferred %d, claimed %d, used %d, held %d, damaged %d, want %d, %d, %d, %d, 0, 0",
			what, s.Pending, s.Deferred, s.Claimed, s.Used.Total(), s.Held, s.Damaged, pending, deferred, claimed, used)
	}
}

func statsSteps(e *env) {
	m := mailTo("a", "x", 4)
	m.Recipients[3].Queue = "b"
	id := e.send(m)
	e.stands("enqueued", 4, 0, 0, 0)
	a := e.claim("a")
	e.stands("a claimed", 1, 0, 3, 0)
	e.settle(a, outcome(0, mailq.Delivered))
	e.stands("one delivered", 1, 0, 2, 1)
	e.settle(a, mailq.Outcome{Recipient: 1, Result: mailq.Deferred, Until: time.Now().Add(time.Hour)})
	e.stands("one deferred", 1, 1, 1, 1)
	e.release(a)
	e.stands("released", 2, 1, 0, 1)
	b := e.claim("b")
	e.stands("b claimed", 1, 1, 1, 1)
	e.commit(mailq.Batch{Settle: settlement(b, outcome(3, mailq.Failed)), Enqueue: []mailq.Message{mailTo("bounce", "x", 2)}})
	e.stands("b failed with a bounce to two", 3, 1, 0, 2)
	e.markUsed(id, 1)
	e.stands("the deferred one marked used", 3, 0, 0, 3)
	e.reopen()
	e.stands("reopened", 3, 0, 0, 3)
	if s := e.store.Stats(); s.Enqueued != 6 || s.Messages != 2 || s.WorkQueueLength != 3 {
		e.Errorf("enqueued %d, messages %d, work queue length %d, want 6, 2, 3", s.Enqueued, s.Messages, s.WorkQueueLength)
	}
}

func statsDrain(e *env) {
	e.posts("a", 10)
	e.send(mailTo("b", "x", 10))
	if s := e.store.Stats(); s.WorkQueueLength != 20 || s.Messages != 11 || s.OldestPin.Since.IsZero() || s.OldestPin.Kind != mailq.PinMessage {
		e.Errorf("work queue length %d, messages %d, want 20 and 11; oldest pin %v", s.WorkQueueLength, s.Messages, s.OldestPin)
	}
	e.deliverAll(e.all())
	for range 2 {
		if s := e.store.Stats(); s.WorkQueueLength != 0 || s.WorkQueueFloor != (mailq.Floors{}) || s.Messages != 0 || s.Enqueued != 20 {
			e.Errorf("drained: work queue length %d, floor %v, messages %d, enqueued %d, want 0, 0, 0, 20", s.WorkQueueLength, s.WorkQueueFloor, s.Messages, s.Enqueued)
		}
		e.reopen()
	}
}

func statsDoubt(e *env) {
	e.posts("q", 3)
	c := e.all()
	e.settleAll(e.next(c), mailq.Uncertain)
	if n := e.store.Stats().InDoubt; n != 1 {
		e.Errorf("%d in doubt, want 1", n)
	}
	e.deliverAll(c)
	if n := e.store.Stats().InDoubt; n != 0 {
		e.Errorf("%d in doubt when all are delivered", n)
	}
}

func statsLife(e *env) {
	for i := range int64(3) {
		e.posts("q", 4)
		c := e.all()
		e.settleAll(e.next(c), mailq.Failed)
		e.settleAll(e.next(c), mailq.Removed)
		e.deliverAll(c)
		e.reopen()
		e.used(mailq.UsedCounts{Delivered: 2 * (i + 1), Failed: i + 1, Removed: i + 1})
		if n := e.store.Stats().Enqueued; n != 4*(i+1) {
			e.Errorf("%d enqueued, want %d", n, 4*(i+1))
		}
	}
}

func statsCommits(e *env) {
	was := e.store.Stats().Commits
	e.posts("q", 5) // one after the other: no two share a commit
	if is := e.store.Stats().Commits; is < was+5 {
		e.Errorf("%d commits after 5 enqueues, it were %d before", is, was)
	}
}
