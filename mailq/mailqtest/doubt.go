package mailqtest

import (
	"time"

	"github.com/mtawal/mtawal/mailq"
)

var doubtTests = []test{
	{"an unsettled claim after Close", doubtClose, []need{doubt}},
	{"an unsettled claim after a crash", doubtCrash, []need{doubt, crash}},
	{"only what is not settled", doubtPart, []need{doubt}},
	{"a used recipient is not in doubt", doubtUsed, []need{doubt}},
	{"Release of a started delivery", doubtRelease, []need{doubt}},
	{"Uncertain", doubtUncertain, []need{doubt}},
	{"Uncertain until a time", doubtUncertainUntil, []need{doubt}},
	{"stays through further crashes", doubtStays, []need{doubt, crash}},
	{"a deferral does not answer it", doubtDeferred, []need{doubt}},
	{"ManualStart and no Start", doubtNotStarted, []need{doubt}},
	{"ManualStart and no Start, crashing", doubtNotStartedCrash, []need{doubt, crash}},
	{"Start of some recipients", doubtStarted, []need{doubt}},
	{"Start of some recipients, crashing", doubtStartedCrash, []need{doubt, crash}},
	{"Start of all", doubtStartAll, []need{doubt}},
	{"Start of what is not there", doubtStartBad, []need{doubt}},
	{"Start where a claim is one", doubtStartAnyway, []need{doubt}},
}

// comes claims a message of one queue and fails unless its slots are as told:
// one letter for each recipient: "-" as new, "?" in doubt after one attempt.
func (e *env) comes(queue string, id mailq.ID, want string) *mailq.Delivery {
	e.Helper()
	d := e.claim(queue)
	if d.ID != id || len(d.Recipients) != len(want) {
		e.Fatalf("%v came with %d recipients, want %v with %d", d.ID, len(d.Recipients), id, len(want))
	}
	for i, s := range d.Recipients {
		attempts := 0
		if want[i] == '?' {
			attempts = 1
		}
		if s.InDoubt != (want[i] == '?') || s.Attempts != attempts {
			e.Errorf("recipient %d of %v came in doubt=%v after %d attempts, want %v and %d", s.Index, id, s.InDoubt, s.Attempts, want[i] == '?', attempts)
		}
	}
	return d
}

func doubtClose(e *env) { e.unsettled(e.reopen) }
func doubtCrash(e *env) { e.unsettled(e.crash) }

func (e *env) unsettled(again func()) {
	e.Helper()
	started := e.send(mailTo("q", "x", 2))
	pending := e.post("p", "x")
	e.claim("q")
	again()
	for i := range 2 {
		if x, _ := e.find(started, i); x.State != mailq.Pending || !x.InDoubt || x.Attempts != 1 {
			e.Errorf("Entries lists %+v, want it pending, in doubt after 1 attempt", x)
		}
	}
	if n := e.store.Stats().InDoubt; n != 2 {
		e.Errorf("%d in doubt, want 2", n)
	}
	e.comes("q", started, "??")
	e.comes("p", pending, "-")
}

func doubtPart(e *env) {
	id := e.send(mailTo("q", "x", 3))
	d := e.claim("q")
	e.settle(d, outcome(0, mailq.Delivered), outcome(2, mailq.Deferred))
	e.reopen()
	d = e.claim("q")
	for _, s := range d.Recipients {
		if d.ID != id || s.Index == 0 || s.Attempts != 1 || s.InDoubt != (s.Index == 1) {
			e.Errorf("%v came with slot %+v", d.ID, s)
		}
	}
}

func doubtUsed(e *env) {
	id := e.send(mailTo("q", "x", 2))
	e.claim("q")
	e.markUsed(id, 0)
	e.reopen()
	d := e.comes("q", id, "?")
	e.markUsed(id, 1)
	e.ended(d)
	if n := e.store.Stats().InDoubt; n != 0 {
		e.Errorf("%d in doubt when all are used", n)
	}
}

func doubtRelease(e *env) {
	id := e.send(mailTo("q", "x", 2))
	e.release(e.claim("q"))
	e.comes("q", id, "??")
	e.reopen()
	if x, _ := e.find(id, 0); !x.InDoubt {
		e.Error("the doubt of a released delivery is gone after reopening")
	}
}

func doubtUncertain(e *env) {
	id := e.send(mailTo("q", "x", 2))
	d := e.claim("q")
	e.settle(d, mailq.Outcome{Recipient: mailq.All, Result: mailq.Uncertain, Note: []byte("connection lost")})
	e.ended(d)
	e.bodyEnds(d.Body, mailq.ErrSettled)
	d = e.comes("q", id, "??")
	if n := string(d.Recipients[0].Note); n != "connection lost" {
		e.Errorf("the note is %q", n)
	}
	e.settleAll(d, mailq.Delivered)
	if n := e.store.Stats().InDoubt; n != 0 {
		e.Errorf("%d in doubt when all are used", n)
	}
}

func doubtUncertainUntil(e *env) {
	id := e.post("q", "x")
	o := later(time.Hour)
	o.Result = mailq.Uncertain
	e.settle(e.claim("q"), o)
	for range 2 {
		if x, _ := e.find(id, 0); x.State != mailq.InDeferral || !x.InDoubt || x.Attempts != 1 {
			e.Errorf("Entries lists %+v, want it deferred, in doubt after 1 attempt", x)
		}
		e.nothing(e.all(), "q")
		e.reopen()
	}
}

func doubtStays(e *env) {
	id := e.post("q", "x")
	e.claim("q")
	e.crash()
	e.crash() // nobody claimed it in between
	e.comes("q", id, "?")
	e.crash()
	d := e.claim("q")
	if s := d.Recipients[0]; !s.InDoubt || s.Attempts != 2 {
		e.Errorf("slot %+v, want it in doubt after 2 attempts", s)
	}
	e.settleAll(d, mailq.Delivered)
	e.crash()
	e.nothing(e.all(), "q")
}

// An attempt that was put off says nothing about the earlier one that may have
// been a delivery: a repeat of that is still to be announced.
func doubtDeferred(e *env) {
	e.post("q", "x")
	e.settleAll(e.claim("q"), mailq.Uncertain)
	e.settleAll(e.claim("q"), mailq.Deferred)
	for range 2 {
		d := e.claim("q")
		if s := d.Recipients[0]; !s.InDoubt || s.Attempts < 2 {
			e.Errorf("slot %+v, want it in doubt after two attempts", s)
		}
		e.reopen()
	}
}

// manual claims the first message of a queue for a consumer that starts by hand.
func (e *env) manual(queue string) *mailq.Delivery {
	e.Helper()
	return e.next(e.consumer(mailq.ConsumerOptions{Queues: []string{queue}, ManualStart: true}))
}

func doubtNotStarted(e *env)      { e.notStarted(e.reopen) }
func doubtNotStartedCrash(e *env) { e.notStarted(e.crash) }

func (e *env) notStarted(again func()) {
	e.Helper()
	id := e.send(mailTo("q", "x", 2))
	e.manual("q")
	again()
	d := e.comes("q", id, "--")
	e.settleAll(d, mailq.Delivered)
	id = e.post("q", "y")
	e.release(e.manual("q"))
	e.comes("q", id, "-")
}

func doubtStarted(e *env)      { e.started(e.reopen) }
func doubtStartedCrash(e *env) { e.started(e.crash) }

func (e *env) started(again func()) {
	e.Helper()
	id := e.send(mailTo("q", "x", 4))
	d := e.manual("q")
	e.must(d.Start(e.ctx, 1))
	e.must(d.Start(e.ctx, 3, 1))
	again()
	e.settleAll(e.comes("q", id, "-?-?"), mailq.Delivered)

	id = e.send(mailTo("q", "x", 2))
	d = e.manual("q")
	e.must(d.Start(e.ctx, 0))
	e.release(d)
	e.settleAll(e.comes("q", id, "?-"), mailq.Delivered)
}

func doubtStartAll(e *env) {
	id := e.send(mailTo("q", "x", 3))
	d := e.manual("q")
	e.settle(d, outcome(1, mailq.Delivered))
	e.must(d.Start(e.ctx))
	e.reopen()
	e.comes("q", id, "??")
}

func doubtStartBad(e *env) {
	id := e.send(mailTo("q", "x", 2))
	d := e.manual("q")
	for _, i := range []int{2, -2, 1 << 30} {
		e.wants("Start of a foreign index", d.Start(e.ctx, i), mailq.ErrNotFound, mailq.ErrInvalid, mailq.ErrSettled)
	}
	e.settle(d, outcome(0, mailq.Delivered))
	e.wants("Start of a settled recipient", d.Start(e.ctx, 0), mailq.ErrSettled)
	e.release(d)
	e.wants("Start after Release", d.Start(e.ctx, 1), mailq.ErrSettled)
	e.comes("q", id, "-")
}

func doubtStartAnyway(e *env) {
	id := e.post("q", "x")
	d := e.claim("q")
	e.must(d.Start(e.ctx))
	e.must(d.Start(e.ctx, 0))
	e.reopen()
	e.comes("q", id, "?") // one attempt, not three
}
