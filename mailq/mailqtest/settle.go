package mailqtest

import (
	"context"
	"time"

	"github.com/mtawal/mtawal/mailq"
)

var settleTests = []test{
	{"the used-marks of a delivery", settleUsed, nil},
	{"a part at a time", settlePartly, nil},
	{"several outcomes at once", settleMixed, nil},
	{"All is what is not settled yet", settleAll, nil},
	{"twice is ErrSettled", settleTwice, nil},
	{"twice in one call is refused", settleDuplicate, nil},
	{"a foreign index is refused", settleForeign, nil},
	{"no outcome is refused", settleNone, nil},
	{"Deferred and due at once", settleDeferred, nil},
	{"Deferred is not handed out before its time", settleDeferredWaits, nil},
	{"Deferred for a long time", settleDeferredLong, nil},
	{"Deferred counts attempts", settleAttempts, nil},
	{"the note is replaced unless nil", settleNote, nil},
	{"Release gives back what is not settled", settleRelease, nil},
	{"Release may be called again and after Settle", settleReleaseAgain, nil},
	{"the context ends with the claim", settleContext, nil},
	{"an ended context bounds the wait, not the mark", settleEndedContext, nil},
	{"the token is the message's", settleToken, nil},
}

func settleUsed(e *env) {
	for _, r := range []mailq.Result{mailq.Delivered, mailq.Failed, mailq.Removed} {
		id := e.post("q", r.String())
		d := e.nextID(e.all(), id)
		e.settleAll(d, r)
		e.state(id, 0, mailq.Used)
	}
	want := mailq.UsedCounts{Delivered: 1, Failed: 1, Removed: 1}
	e.used(want)
	e.nothing(e.all(), "q")
	e.reopen()
	e.used(want)
	e.nothing(e.all(), "q")
}

func settlePartly(e *env) {
	id := e.send(mailTo("q", "x", 3))
	d := e.claim("q")
	if len(d.Recipients) != 3 {
		e.Fatalf("the delivery carries %d recipients, want 3", len(d.Recipients))
	}
	e.settle(d, outcome(1, mailq.Delivered))
	e.alive(d)
	e.state(id, 0, mailq.Claimed)
	e.state(id, 1, mailq.Used)
	e.state(id, 2, mailq.Claimed)
	e.check()
	e.settle(d, outcome(2, mailq.Failed), outcome(0, mailq.Delivered))
	e.ended(d)
	e.used(mailq.UsedCounts{Delivered: 2, Failed: 1})
}

func settleMixed(e *env) {
	id := e.send(mailTo("q", "x", 4))
	d := e.claim("q")
	e.settle(d, outcome(0, mailq.Delivered), outcome(1, mailq.Failed),
		mailq.Outcome{Recipient: 2, Result: mailq.Deferred, Until: time.Now().Add(time.Hour)}, outcome(3, mailq.Removed))
	e.ended(d)
	e.used(mailq.UsedCounts{Delivered: 1, Failed: 1, Removed: 1})
	e.state(id, 2, mailq.InDeferral)
	e.nothing(e.all(), "q")
}

func settleAll(e *env) {
	id := e.send(mailTo("q", "x", 3))
	d := e.claim("q")
	e.settle(d, outcome(1, mailq.Failed))
	e.settleAll(d, mailq.Delivered)
	e.used(mailq.UsedCounts{Delivered: 2, Failed: 1})
	e.wants("SettleAll with nothing left", d.SettleAll(e.ctx, mailq.Delivered), mailq.ErrSettled)
	e.used(mailq.UsedCounts{Delivered: 2, Failed: 1})
	for i := range 3 {
		e.state(id, i, mailq.Used)
	}
}

func settleTwice(e *env) {
	e.send(mailTo("q", "x", 2))
	for _, first := range []mailq.Result{mailq.Delivered, mailq.Deferred} {
		d := e.claim("q")
		i := d.Recipients[0].Index
		e.settle(d, outcome(i, first))
		e.same("a second settle", func() {
			for _, second := range []mailq.Result{mailq.Delivered, mailq.Failed, mailq.Deferred} {
				e.wants("a second settle", d.Settle(e.ctx, []mailq.Outcome{outcome(i, second)}), mailq.ErrSettled)
			}
		})
		e.release(d)
	}
}

func settleDuplicate(e *env) {
	e.send(mailTo("q", "x", 2))
	d := e.claim("q")
	e.same("a recipient twice in one settle", func() {
		err := d.Settle(e.ctx, []mailq.Outcome{outcome(0, mailq.Delivered), outcome(1, mailq.Delivered), outcome(0, mailq.Failed)})
		e.wants("a recipient twice in one settle", err, mailq.ErrInvalid, mailq.ErrSettled, mailq.ErrUsed)
	})
	e.settleAll(d, mailq.Delivered)
}

func settleForeign(e *env) {
	m := mailTo("q", "x", 2)
	m.Recipients = append(m.Recipients, mailq.Recipient{Queue: "other"})
	e.send(m)
	d := e.claim("q")
	e.same("a settle of what the delivery does not hold", func() {
		for _, i := range []int{2, 3, 1 << 30, -2} {
			err := d.Settle(e.ctx, []mailq.Outcome{outcome(0, mailq.Delivered), outcome(i, mailq.Delivered)})
			e.wants("a settle of what the delivery does not hold", err, mailq.ErrNotFound, mailq.ErrInvalid, mailq.ErrSettled)
		}
	})
	e.settleAll(d, mailq.Delivered)
}

func settleNone(e *env) {
	e.post("q", "x")
	d := e.claim("q")
	e.wants("Settle without outcomes", d.Settle(e.ctx, nil), mailq.ErrInvalid)
	e.alive(d)
	e.settleAll(d, mailq.Delivered)
}

func settleDeferred(e *env) {
	id := e.post("q", "x")
	c := e.all()
	for i, until := range []time.Time{time.Unix(0, 0), time.Now().Add(-time.Hour), time.Now()} {
		d := e.nextID(c, id)
		if d.Recipients[0].Attempts != i {
			e.Errorf("%d attempts, want %d", d.Recipients[0].Attempts, i)
		}
		e.settle(d, mailq.Outcome{Recipient: 0, Result: mailq.Deferred, Until: until})
		e.ended(d)
	}
	e.nextID(c, id)
}

func settleDeferredWaits(e *env) {
	ids := map[mailq.ID]time.Time{}
	c := e.all()
	for i, id := range e.posts("q", 5) {
		ids[id] = time.Now().Round(0).Add(time.Duration(10+5*i) * time.Millisecond)
	}
	tried := map[mailq.ID]bool{} // on a slow machine the first is back before the last was tried
	for left := len(ids); left > 0; {
		d := e.next(c)
		if !tried[d.ID] {
			tried[d.ID] = true
			e.settle(d, mailq.Outcome{Recipient: 0, Result: mailq.Deferred, Until: ids[d.ID]})
			continue
		}
		left--
		if now := time.Now().Round(0); now.Before(ids[d.ID]) {
			e.Errorf("%v came %v before its time", d.ID, ids[d.ID].Sub(now))
		}
		if d.Recipients[0].Attempts != 1 {
			e.Errorf("%d attempts, want 1", d.Recipients[0].Attempts)
		}
		e.settleAll(d, mailq.Delivered)
	}
}

func settleDeferredLong(e *env) {
	id := e.post("q", "x")
	until := time.Now().Add(5 * 24 * time.Hour)
	e.settle(e.claim("q"), mailq.Outcome{Recipient: 0, Result: mailq.Deferred, Until: until})
	look := func() {
		e.Helper()
		x, ok := e.find(id, 0)
		if !ok || x.State != mailq.InDeferral || x.Attempts != 1 || x.NotBefore.Sub(until).Abs() > time.Second {
			e.Errorf("Entries lists %+v, want it deferred until %v after 1 attempt", x, until)
		}
		e.nothing(e.all(), "q")
	}
	look()
	e.reopen()
	look()
}

func settleAttempts(e *env) {
	id := e.send(mailTo("q", "x", 2))
	c := e.all()
	for i := range 5 {
		d := e.nextID(c, id)
		for _, s := range d.Recipients {
			if s.Attempts != i || s.InDoubt {
				e.Fatalf("slot %+v, want %d attempts and no doubt", s, i)
			}
		}
		e.settleAll(d, mailq.Deferred)
		if i == 2 {
			e.reopen()
			c = e.all()
		}
	}
	if x, _ := e.find(id, 1); x.Attempts != 5 {
		e.Errorf("Entries counts %d attempts, want 5", x.Attempts)
	}
}

func settleNote(e *env) {
	m := mail("q", "x")
	m.Recipients[0].Note = []byte("first")
	id := e.send(m)
	c := e.all()
	for _, step := range []struct {
		set  []byte
		want string
	}{{nil, "first"}, {[]byte("451 busy"), "451 busy"}, {nil, "451 busy"}, {[]byte{}, ""}, {nil, ""}, {[]byte("again"), "again"}} {
		e.settle(e.nextID(c, id), mailq.Outcome{Recipient: 0, Result: mailq.Deferred, Until: time.Now(), Note: step.set})
		if x, _ := e.find(id, 0); string(x.Note) != step.want {
			e.Errorf("after a settle with note %q it is %q, want %q", step.set, x.Note, step.want)
		}
	}
	e.reopen()
	d := e.next(e.all())
	if got := string(d.Recipients[0].Note); got != "again" {
		e.Errorf("the note of the slot after reopening is %q", got)
	}
}

func settleRelease(e *env) {
	id := e.send(mailTo("q", "x", 3))
	d := e.claim("q")
	e.settle(d, outcome(1, mailq.Delivered))
	e.release(d)
	e.ended(d)
	e.state(id, 0, mailq.Pending)
	e.state(id, 1, mailq.Used)
	e.wants("Settle after Release", d.SettleAll(e.ctx, mailq.Delivered), mailq.ErrSettled)
	e.wants("Settle after Release", d.Settle(e.ctx, []mailq.Outcome{outcome(0, mailq.Delivered)}), mailq.ErrSettled)
	again := e.claim("q")
	if again.ID != id || len(again.Recipients) != 2 || again.Recipients[0].Index == 1 || again.Recipients[1].Index == 1 {
		e.Errorf("after Release %v came with %+v, want recipients 0 and 2", again.ID, again.Recipients)
	}
	e.settleAll(again, mailq.Delivered)
	e.used(mailq.UsedCounts{Delivered: 3})
}

func settleReleaseAgain(e *env) {
	e.posts("q", 2)
	c := e.all()
	d := e.next(c)
	e.settleAll(d, mailq.Delivered)
	other := e.next(c)
	for range 3 {
		e.within("Release", d.Release)
	}
	e.alive(other)
	e.release(other)
	again := e.next(c)
	other.Release() // must not end the claim of another
	e.alive(again)
	e.settleAll(again, mailq.Delivered)
	e.used(mailq.UsedCounts{Delivered: 2})
}

func settleContext(e *env) {
	e.send(mailTo("q", "x", 2))
	c := e.all()
	for _, end := range []func(*mailq.Delivery){
		func(d *mailq.Delivery) { e.settleAll(d, mailq.Deferred) },
		func(d *mailq.Delivery) { d.Release() },
		func(d *mailq.Delivery) {
			e.settle(d, outcome(0, mailq.Delivered))
			e.alive(d)
			e.settle(d, outcome(1, mailq.Delivered))
		},
	} {
		d := e.next(c)
		e.alive(d)
		end(d)
		e.ended(d)
	}
}

func settleEndedContext(e *env) {
	e.post("q", "x")
	d := e.claim("q")
	ended, cancel := context.WithCancel(context.Background())
	cancel()
	if err := d.SettleAll(ended, mailq.Delivered); err != nil {
		e.wants("Settle with a context that has ended", err, mailq.ErrUnknown)
	}
	e.ended(d)
	e.used(mailq.UsedCounts{Delivered: 1})
}

func settleToken(e *env) {
	tokens := map[mailq.ID]string{}
	seen := map[string]mailq.ID{}
	m := mailTo("q", "x", 2)
	m.Recipients[1].Queue = "other" // two deliveries, one message, one token
	e.send(m)
	e.posts("q", 3)
	for round := range 3 {
		c := e.all()
		var out []*mailq.Delivery
		for range 5 {
			d := e.next(c)
			out = append(out, d)
			if was, ok := tokens[d.ID]; ok && was != d.Token {
				e.Errorf("round %d: the token of %v is %q, it was %q", round, d.ID, d.Token, was)
			}
			if id, ok := seen[d.Token]; ok && id != d.ID {
				e.Errorf("round %d: %v and %v have the same token %q", round, d.ID, id, d.Token)
			}
			tokens[d.ID], seen[d.Token] = d.Token, d.ID
			for _, x := range e.entries(mailq.Filter{ID: d.ID}) {
				if x.Token != d.Token {
					e.Errorf("round %d: Entries says that the token of %v is %q, the delivery %q", round, d.ID, x.Token, d.Token)
				}
			}
		}
		for _, d := range out {
			e.settleAll(d, mailq.Deferred)
		}
		if round == 1 {
			e.reopen()
		}
	}
	if len(tokens) != 4 {
		e.Errorf("%d tokens for 4 messages", len(tokens))
	}

	// Another store's first message may have the same ID, not the same token.
	other := e.second()
	other.posts("q", 4)
	c := other.all()
	for range 4 {
		if d := other.next(c); seen[d.Token] != 0 {
			e.Errorf("two stores gave out the same token %q", d.Token)
		}
	}
}
