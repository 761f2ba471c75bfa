package mailqtest

import (
	"time"

	"github.com/mtawal/mtawal/mailq"
)

var usedTests = []test{
	{"by index", usedByIndex, nil},
	{"All", usedAll, nil},
	{"twice is no error", usedTwice, nil},
	{"unknown ID", usedUnknown, nil},
	{"index out of range", usedRange, nil},
	{"none named is refused", usedNone, nil},
	{"never handed out, also after reopening", usedForGood, nil},
	{"never handed out, also after a crash", usedForGoodCrash, []need{crash}},
	{"a deferred recipient", usedDeferred, nil},
	{"wins over a claim", usedClaimed, nil},
	{"wins over a part of a claim", usedClaimedPart, nil},
	{"frees the consumer's place", usedFreesPlace, nil},
	{"a settle of it is ErrUsed", usedThenSettled, nil},
	{"a batch that settles it is ErrUsed, bounce and all", usedThenBatch, nil},
	{"Release of a claim keeps the mark", usedThenReleased, nil},
}

func (e *env) markUsed(id mailq.ID, recipients ...int) {
	e.Helper()
	if err := e.store.MarkUsed(e.ctx, id, recipients...); err != nil {
		e.Fatalf("MarkUsed %v %v: %v", id, recipients, err)
	}
}

func usedByIndex(e *env) {
	id := e.send(mailTo("q", "x", 4))
	e.markUsed(id, 2)
	e.markUsed(id, 0, 3)
	for i, want := range []mailq.State{mailq.Used, mailq.Pending, mailq.Used, mailq.Used} {
		e.state(id, i, want)
	}
	e.used(mailq.UsedCounts{Delivered: 3})
	d := e.claim("q")
	if len(d.Recipients) != 1 || d.Recipients[0].Index != 1 {
		e.Errorf("the delivery carries %+v, want recipient 1", d.Recipients)
	}
}

func usedAll(e *env) {
	id := e.send(mailTo("q", "x", 3))
	other := e.post("q", "other")
	e.markUsed(id, 1)
	e.markUsed(id, mailq.All)
	e.used(mailq.UsedCounts{Delivered: 3})
	e.nextID(e.all(), other)
}

func usedTwice(e *env) {
	id := e.send(mailTo("q", "x", 2))
	e.markUsed(id, 0)
	e.markUsed(id, 0)
	e.markUsed(id, 0, 0)
	e.used(mailq.UsedCounts{Delivered: 1})
	e.markUsed(id, 0, 1)
	e.used(mailq.UsedCounts{Delivered: 2})
	// The message is dead now, and a store need not remember the dead.
	if err := e.store.MarkUsed(e.ctx, id, mailq.All); err != nil {
		e.wants("MarkUsed of a dead message", err, mailq.ErrNotFound)
	}
	e.used(mailq.UsedCounts{Delivered: 2})
}

func usedUnknown(e *env) {
	id := e.post("q", "x")
	e.same("MarkUsed of an unknown ID", func() {
		for _, unknown := range []mailq.ID{e.store.NewID(), 1<<64 - 1} {
			e.wants("MarkUsed of an unknown ID", e.store.MarkUsed(e.ctx, unknown, 0), mailq.ErrNotFound)
			e.wants("MarkUsed of an unknown ID", e.store.MarkUsed(e.ctx, unknown, mailq.All), mailq.ErrNotFound)
		}
		e.wants("MarkUsed of ID 0", e.store.MarkUsed(e.ctx, 0, mailq.All), mailq.ErrNotFound, mailq.ErrInvalid)
	})
	e.state(id, 0, mailq.Pending)
}

func usedRange(e *env) {
	id := e.send(mailTo("q", "x", 2))
	e.same("MarkUsed out of range", func() {
		for _, i := range []int{2, 3, 1 << 30, -2} {
			e.wants("MarkUsed out of range", e.store.MarkUsed(e.ctx, id, 0, i), mailq.ErrNotFound, mailq.ErrInvalid)
		}
	})
}

func usedNone(e *env) {
	id := e.post("q", "x")
	e.same("MarkUsed that names nobody", func() {
		e.wants("MarkUsed that names nobody", e.store.MarkUsed(e.ctx, id), mailq.ErrInvalid)
	})
}

func usedForGood(e *env)      { e.staysUsed(e.reopen) }
func usedForGoodCrash(e *env) { e.staysUsed(e.crash) }

func (e *env) staysUsed(again func()) {
	e.Helper()
	id := e.send(mailTo("q", "x", 3))
	ids := e.posts("q", 10)
	e.markUsed(id, 1)
	for _, i := range ids[:5] {
		e.markUsed(i, mailq.All)
	}
	for range 2 {
		again()
		c := e.all()
		d := e.nextID(c, id)
		for _, s := range d.Recipients {
			if s.Index == 1 {
				e.Error("the used recipient was handed out")
			}
		}
		for _, i := range ids[5:] {
			e.nextID(c, i)
		}
		e.nothing(c, "q")
		e.used(mailq.UsedCounts{Delivered: 6})
	}
}

func usedDeferred(e *env) {
	id := e.post("q", "x")
	e.settle(e.claim("q"), later(time.Hour))
	e.markUsed(id, 0)
	e.used(mailq.UsedCounts{Delivered: 1})
	e.check()
	e.reopen()
	e.nothing(e.all(), "q")
}

func usedClaimed(e *env) {
	id := e.post("q", "x")
	d := e.claim("q")
	e.markUsed(id, 0)
	e.ended(d)
	e.bodyEnds(d.Body, mailq.ErrSettled)
	e.used(mailq.UsedCounts{Delivered: 1})
	e.nothing(e.all(), "q")
	e.reopen()
	e.nothing(e.all(), "q")
}

func usedClaimedPart(e *env) {
	id := e.send(mailTo("q", "hello", 3))
	d := e.claim("q")
	e.markUsed(id, 1)
	e.alive(d)
	if e.body(d) != "hello" {
		e.Error("the body has changed")
	}
	e.settle(d, outcome(0, mailq.Delivered), outcome(2, mailq.Failed))
	e.ended(d)
	e.used(mailq.UsedCounts{Delivered: 2, Failed: 1})
}

func usedFreesPlace(e *env) {
	ids := e.posts("q", 2)
	c := e.consumer(mailq.ConsumerOptions{InFlight: 1, PerGroup: 1})
	e.nextID(c, ids[0])
	e.nothing(c, "q")
	e.markUsed(ids[0], mailq.All)
	e.nextID(c, ids[1])
}

func usedThenSettled(e *env) {
	id := e.send(mailTo("q", "x", 3))
	d := e.claim("q")
	e.markUsed(id, 1)
	e.same("a settle of a recipient used meanwhile", func() {
		for _, r := range []mailq.Result{mailq.Delivered, mailq.Failed, mailq.Deferred} {
			err := d.Settle(e.ctx, []mailq.Outcome{outcome(0, mailq.Delivered), outcome(1, r), outcome(2, mailq.Delivered)})
			e.wants("a settle of a recipient used meanwhile", err, mailq.ErrUsed)
		}
		// All, too: a bounce in the same batch would speak of recipient 1.
		e.wants("SettleAll with a recipient used meanwhile", d.SettleAll(e.ctx, mailq.Failed), mailq.ErrUsed)
	})
	e.settle(d, outcome(0, mailq.Delivered), outcome(2, mailq.Delivered))
	e.used(mailq.UsedCounts{Delivered: 3})

	id = e.post("q", "y")
	d = e.claim("q")
	e.markUsed(id, 0)
	e.wants("a settle of a delivery used meanwhile", d.SettleAll(e.ctx, mailq.Failed), mailq.ErrUsed)
	e.used(mailq.UsedCounts{Delivered: 4})
}

func usedThenBatch(e *env) {
	id := e.send(mailTo("q", "x", 2))
	d := e.claim("q")
	e.markUsed(id, 1)
	e.same("a batch that settles a recipient used meanwhile", func() {
		for _, o := range [][]mailq.Outcome{{outcome(1, mailq.Failed)}, {outcome(0, mailq.Delivered), outcome(1, mailq.Failed)}} {
			_, err := e.store.Commit(e.ctx, mailq.Batch{Settle: settlement(d, o...), Enqueue: []mailq.Message{mail("bounce", "failed")}})
			e.wants("a batch that settles a recipient used meanwhile", err, mailq.ErrUsed)
		}
	})
	e.nothing(e.consumer(mailq.ConsumerOptions{Queues: []string{"bounce"}}), "bounce")
	e.settle(d, outcome(0, mailq.Delivered))
	e.reopen()
	if s := e.store.Stats(); s.WorkQueueLength != 0 || s.Enqueued != 2 {
		e.Errorf("%d enqueued, %d not used, want 2 and 0: the bounce is there after reopening", s.Enqueued, s.WorkQueueLength)
	}
}

func usedThenReleased(e *env) {
	id := e.send(mailTo("q", "x", 2))
	d := e.claim("q")
	e.markUsed(id, 0)
	e.release(d)
	again := e.claim("q")
	if len(again.Recipients) != 1 || again.Recipients[0].Index != 1 {
		e.Errorf("after Release came %+v, want recipient 1", again.Recipients)
	}
	e.settleAll(again, mailq.Delivered)
}
