package mailqtest

import (
	"fmt"
	"time"

	"github.com/mtawal/mtawal/mailq"
)

var scheduleTests = []test{
	{"NotBefore", scheduleNotBefore, []need{notBefore}},
	{"NotBefore in the past", schedulePast, []need{notBefore}},
	{"Flush makes a queue due", scheduleFlush, []need{flush}},
	{"an expired message is handed out as such", scheduleExpired, []need{expiry}},
	{"expiry ends a deferral", scheduleExpiry, []need{expiry}},
	{"expiry waits for a hold", scheduleExpiryHeld, []need{expiry, holds}},
	{"expiry takes all recipients at once", scheduleExpiryAll, []need{expiry, notBefore}},
	{"a deferral after expiry holds", scheduleExpiryDeferred, []need{expiry}},
	{"who replaces an expired one has expired", scheduleExpiryReplaced, []need{expiry, replacement}},
	{"higher priority first", schedulePriority, []need{priority}},
	{"lower priority does not starve", schedulePriorityOldest, []need{priority}},
}

func scheduleNotBefore(e *env) {
	until := time.Now().Round(0).Add(500 * time.Millisecond)
	m := mailTo("q", "x", 3)
	m.Recipients[1].NotBefore = until
	m.Recipients[2].NotBefore = time.Now().Add(time.Hour)
	id := e.send(m)
	c := e.consumer(mailq.ConsumerOptions{})
	d := e.nextID(c, id)
	if len(d.Recipients) != 1 || d.Recipients[0].Index != 0 {
		e.Fatalf("the delivery carries %+v, want recipient 0", d.Recipients)
	}
	e.settleAll(d, mailq.Delivered)
	d = e.nextID(c, id)
	if now := time.Now().Round(0); now.Before(until) || len(d.Recipients) != 1 || d.Recipients[0].Index != 1 {
		e.Errorf("%v before its time came %+v, want recipient 1", until.Sub(now), d.Recipients)
	}
	if n := d.Recipients[0].Attempts; n != 0 {
		e.Errorf("%d attempts of a recipient that was never tried", n)
	}
	e.settleAll(d, mailq.Delivered)
	e.reopen()
	e.nothing(e.all(), "q")
	x, _ := e.find(id, 2)
	if want := m.Recipients[2].NotBefore; x.State != mailq.InDeferral || x.NotBefore.Sub(want).Abs() > time.Second {
		e.Errorf("Entries lists %+v, want it deferred until %v", x, want)
	}
}

func schedulePast(e *env) {
	m := mail("q", "x")
	m.Recipients[0].NotBefore = time.Now().Add(-time.Hour)
	e.nextID(e.all(), e.send(m))
}

func scheduleFlush(e *env) {
	ids := append(e.posts("q", 3), e.posts("other", 1)...)
	c := e.all()
	for range ids {
		e.settle(e.next(c), later(time.Hour))
	}
	e.nothing(c, "q", "other")
	waiting := e.waiting(e.ctx, c)
	e.must(e.store.Flush(e.ctx, "q"))
	n := e.outcome(waiting)
	e.must(n.err)
	n.d.Release()
	e.reopen()
	c = e.all()
	for range 3 {
		if d := e.next(c); d.Queue != "q" || d.Recipients[0].Attempts < 1 {
			e.Errorf("after Flush of q came %q, slot %+v", d.Queue, d.Recipients[0])
		}
	}
	e.nothing(c, "q", "other")
	e.must(e.store.Flush(e.ctx, "no such queue"))
	e.refused("Flush of a queue that can't be", e.store.Flush(e.ctx, ""), "ueue")
}

func scheduleExpired(e *env) {
	m := mail("q", "x")
	m.ExpiresAt = time.Now().Add(-time.Minute)
	id := e.send(m)
	e.reopen()
	d := e.nextID(e.all(), id)
	if !d.Expired || d.ExpiresAt.Sub(m.ExpiresAt).Abs() > time.Second || e.body(d) != "x" {
		e.Errorf("expired %v at %v, want true at %v", d.Expired, d.ExpiresAt, m.ExpiresAt)
	}
	e.commit(mailq.Batch{Settle: settlement(d, outcome(mailq.All, mailq.Expired)), Enqueue: numbered("bounce", 0, 1)})
	e.used(mailq.UsedCounts{Expired: 1})
	if d := e.claim("bounce"); d.Expired || !d.ExpiresAt.IsZero() {
		e.Errorf("the bounce came expired %v at %v", d.Expired, d.ExpiresAt)
	}
	m.ExpiresAt = time.Now().Add(time.Hour)
	e.send(m)
	if d := e.claim("q"); d.Expired {
		e.Error("expired an hour before its time")
	}
}

func scheduleExpiry(e *env) {
	m := mail("q", "x")
	m.ExpiresAt = time.Now().Round(0).Add(100 * time.Millisecond)
	id := e.send(m)
	if e.caps.NotBefore { // one that was never tried
		m.Recipients[0].Queue, m.Recipients[0].NotBefore = "never", time.Now().Add(time.Hour)
		e.send(m)
		defer func() {
			if d := e.claim("never"); !d.Expired || time.Now().Round(0).Before(m.ExpiresAt) {
				e.Errorf("expired %v", d.Expired)
			}
		}()
	}
	d := e.claim("q")
	if d.Expired { // on a machine that slow there is nothing to see
		e.settleAll(d, mailq.Expired)
		return
	}
	o := later(time.Hour)
	o.Note = []byte("451 later")
	e.settle(d, o)
	d = e.claim("q")
	if now := time.Now().Round(0); now.Before(m.ExpiresAt) || !d.Expired || d.ID != id || string(d.Recipients[0].Note) != "451 later" {
		e.Errorf("%v before its expiry %v came, expired %v, %+v", m.ExpiresAt.Sub(now), d.ID, d.Expired, d.Recipients)
	}
	e.settleAll(d, mailq.Expired)
}

func scheduleExpiryHeld(e *env) {
	m := mail("q", "x")
	m.ExpiresAt = time.Now().Add(time.Hour)
	id := e.send(m)
	e.commit(mailq.Batch{Edit: edit(id, outcome(0, mailq.Held))})
	m.ExpiresAt = time.Now().Add(-time.Hour)
	gone := e.send(m)
	e.settleAll(e.nextID(e.all(), gone), mailq.Held)
	e.nothing(e.all(), "q")
	e.commit(mailq.Batch{Edit: append(edit(id, outcome(0, mailq.Released)), edit(gone, outcome(0, mailq.Released))...)})
	c := e.all()
	for range 2 {
		if d := e.next(c); d.Expired != (d.ID == gone) {
			e.Errorf("%v came expired %v", d.ID, d.Expired)
		}
	}
}

// What is left of a message is bounced in one batch, with the last reply of each.
func scheduleExpiryAll(e *env) {
	m := mailTo("q", "x", 4)
	m.ExpiresAt = time.Now().Round(0).Add(300 * time.Millisecond)
	m.Recipients[1].NotBefore = time.Now().Add(time.Hour)
	m.Recipients[3].NotBefore = time.Now().Add(2 * time.Hour)
	id := e.send(m)
	d := e.claim("q")
	if d.Expired {
		return // on a machine that slow there is nothing to see
	}
	e.settle(d, outcome(0, mailq.Delivered), mailq.Outcome{Recipient: 2, Result: mailq.Deferred, Until: time.Now().Add(3 * time.Hour), Note: []byte("451 later")})
	d = e.claim("q")
	if d.ID != id || !d.Expired || len(d.Recipients) != 3 || string(d.Recipients[1].Note) != "451 later" || d.Recipients[2].Attempts != 0 {
		e.Errorf("%v came, expired %v, with %+v, want 1, 2 and 3 of %v", d.ID, d.Expired, d.Recipients, id)
	}
	e.commit(mailq.Batch{Settle: settlement(d, outcome(mailq.All, mailq.Expired)), Enqueue: numbered("bounce", 0, 1)})
	e.used(mailq.UsedCounts{Delivered: 1, Expired: 3})
}

func scheduleExpiryDeferred(e *env) {
	m := mail("q", "x")
	m.ExpiresAt = time.Now().Add(-time.Minute)
	id := e.send(m)
	c := e.all()
	e.settle(e.nextID(c, id), later(time.Hour)) // no room for the bounce, say
	e.state(id, 0, mailq.InDeferral)
	e.nothing(c, "q")
	if e.caps.Edits {
		e.edit(id, mailq.Outcome{Recipient: 0, Result: mailq.Deferred, Until: time.Now().Add(20 * time.Millisecond)})
		if d := e.nextID(c, id); !d.Expired {
			e.Error("it comes back as if it had not expired")
		}
	}
}

func scheduleExpiryReplaced(e *env) {
	m := mail("q", "x")
	m.ExpiresAt = time.Now().Add(-time.Minute)
	id := e.send(m)
	o := outcome(0, mailq.Replaced)
	o.Replace = []mailq.Recipient{{Queue: "a", Address: "a"}, {Queue: "b", Address: "b", NotBefore: time.Now().Add(time.Hour)}}
	e.settle(e.claim("q"), o)
	for _, q := range []string{"a", "b"} {
		if d := e.claim(q); !d.Expired || d.ID != id {
			e.Errorf("%v came in %q, expired %v", d.ID, q, d.Expired)
		}
	}
}

func schedulePriority(e *env) {
	var want []mailq.ID
	byPriority := map[int8][]mailq.ID{}
	for i, p := range []int8{0, -5, 10, 0, 127, -128, 10} {
		m := mail("q", fmt.Sprint(i))
		m.Priority = p
		byPriority[p] = append(byPriority[p], e.send(m))
	}
	for _, p := range []int8{127, 10, 0, -5, -128} {
		want = append(want, byPriority[p]...)
	}
	e.reopen()
	for _, x := range e.entries(mailq.Filter{ID: want[0]}) {
		if x.Priority != 127 {
			e.Errorf("Entries lists priority %d, want 127", x.Priority)
		}
	}
	e.came(e.deliverAll(e.all()), want)
}

// Of any 16 deliveries of a queue at least one is of the oldest message.
func schedulePriorityOldest(e *env) {
	m := mail("q", "x")
	m.Priority = -1
	ids := []mailq.ID{e.send(m), e.send(m)}
	for range 2 {
		e.commit(mailq.Batch{Enqueue: numbered("q", 0, 25)})
	}
	c := e.all()
	for len(ids) > 0 {
		came := false
		for range 16 {
			if d := e.next(c); d.ID == ids[0] {
				came = true
				ids = ids[1:]
				break
			}
		}
		if !came {
			e.Fatalf("16 deliveries, and the oldest message, of a lower priority, was not among them")
		}
	}
}
