package mailqtest

import (
	"fmt"
	"slices"
	"time"

	"github.com/mtawal/mtawal/mailq"
)

var reopenTests = []test{
	{"an empty store", reopenEmpty, nil},
	{"the state is what it was", reopenState, nil},
	{"the state is what it was after a crash", reopenStateCrash, []need{crash}},
	{"what was acknowledged is there after a crash", reopenAcknowledged, []need{crash}},
	{"deferred stays deferred and comes in time", reopenDeferred, nil},
	{"many times", reopenMany, nil},
	{"many times, crashing", reopenManyCrashes, []need{crash}},
	{"unsettled claims come back", reopenClaims, nil},
	{"a crash is counted", reopenUnclean, []need{crash}},
}

func reopenEmpty(e *env) {
	for range 3 {
		e.reopen()
	}
	e.post("q", "x")
	e.deliverAll(e.all())
}

func reopenState(e *env)      { e.survives(e.reopen) }
func reopenStateCrash(e *env) { e.survives(e.crash) }

// survives makes some of everything that has no claim, and compares.
func (e *env) survives(again func()) {
	e.Helper()
	for i := range 5 {
		m := mailTo(fmt.Sprint("q", i%2), fmt.Sprint("body ", i), 3)
		m.Recipients[1].Note = fmt.Append(nil, "note ", i)
		m.Recipients[2].Queue = "other"
		e.send(m)
	}
	c := e.consumer(mailq.ConsumerOptions{Prefix: "q"})
	for i := range 3 {
		d := e.next(c)
		e.settle(d, mailq.Outcome{Recipient: i % 2, Result: mailq.Deferred, Until: time.Now().Add(time.Duration(i+1) * time.Hour), Note: fmt.Append(nil, "4xx ", i)},
			outcome(mailq.All, mailq.Delivered))
	}
	e.markUsed(e.post("q0", "x"), 0)
	look := func() string {
		e.Helper()
		s := ""
		for _, x := range e.entries(mailq.Filter{}) {
			if x.Err != nil {
				e.Errorf("Entries: %v has %v", x.ID, x.Err)
			}
			// Times are instants: neither the zone nor the monotonic clock counts.
			s += fmt.Sprintf("%v/%d %q %q %q %v doubt=%v %d %v %v %q %d\n", x.ID, x.Recipient, x.Queue, x.Address, x.Note, x.State,
				x.InDoubt, x.Attempts, x.NotBefore.UnixMilli(), x.EnqueuedAt.UnixMilli(), x.Envelope, x.Size)
		}
		return s
	}
	want := look()
	for range 2 {
		again()
		if got := look(); got != want {
			e.Fatalf("the state is\n%s\nit was\n%s", got, want)
		}
	}
	e.stands("at the end", 8+1, 3, 0, 4)
}

func reopenAcknowledged(e *env) {
	var want []mailq.ID
	for i := range 5 {
		ids := e.posts("q", 4)
		e.markUsed(ids[1], 0)
		c := e.consumer(mailq.ConsumerOptions{Queues: []string{"q"}})
		d := e.next(c)
		first := d.ID
		e.settleAll(d, mailq.Delivered)
		want = slices.DeleteFunc(append(want, ids...), func(id mailq.ID) bool { return id == first || id == ids[1] })
		e.crash()
		if got := len(e.entries(mailq.Filter{})); got != len(want) {
			e.Fatalf("crash %d: %d are left, want %d", i, got, len(want))
		}
	}
	e.came(e.deliverAll(e.all()), want)
}

func reopenDeferred(e *env) {
	soon, late := e.post("q", "soon"), e.post("q", "late")
	c := e.all()
	first, second := e.nextID(c, soon), e.nextID(c, late)
	until := time.Now().Round(0).Add(20 * time.Millisecond)
	e.settle(first, mailq.Outcome{Recipient: 0, Result: mailq.Deferred, Until: until, Note: []byte("451")})
	e.settle(second, later(time.Hour))
	e.reopen()
	d := e.nextID(e.all(), soon)
	if now := time.Now().Round(0); now.Before(until) {
		e.Errorf("the deferred one came %v before its time", until.Sub(now))
	}
	if s := d.Recipients[0]; s.Attempts != 1 || s.InDoubt || string(s.Note) != "451" {
		e.Errorf("slot %+v", s)
	}
	e.state(late, 0, mailq.InDeferral)
}

func reopenMany(e *env)        { e.many(e.reopen) }
func reopenManyCrashes(e *env) { e.many(e.crash) }

func (e *env) many(again func()) {
	e.Helper()
	var want []mailq.ID
	for i := range 8 {
		want = append(want, e.posts("q", i)...)
		again()
	}
	e.came(e.deliverAll(e.all()), want)
	again()
	e.stands("drained", 0, 0, 0, int64(len(want)))
}

func reopenClaims(e *env) {
	ids := e.posts("q", 3)
	c := e.all()
	for _, id := range ids {
		e.nextID(c, id)
	}
	e.reopen()
	e.came(e.deliverAll(e.all()), ids)
}

func reopenUnclean(e *env) {
	e.post("q", "x")
	e.crash()
	if n := e.store.Stats().UncleanOpens; n != 1 {
		e.Errorf("%d unclean openings after a crash, want 1", n)
	}
	e.reopen()
	if n := e.store.Stats().UncleanOpens; n != 1 {
		e.Errorf("%d unclean openings after a crash and a Close, want 1", n)
	}
}
