package mailqtest

import (
	"context"
	"fmt"
	"slices"
	"time"

	"github.com/mtawal/mtawal/mailq"
)

var batchTests = []test{
	{"a settle with its bounce", batchBounce, nil},
	{"IDs come in order", batchIDs, nil},
	{"a batch in the queue in order", batchOrder, nil},
	{"settles of several deliveries", batchSettles, nil},
	{"empty is refused", batchEmpty, nil},
	{"one bad element and nothing is applied", batchBad, nil},
	{"a delivery nobody claimed is refused", batchNoClaim, nil},
	{"a delivery of another store is refused", batchOtherStore, nil},
	{"whole after a crash", batchCrash, []need{crash}},
	{"edits by ID", batchEdits, []need{edits}},
	{"an edit of a claimed recipient", batchEditClaimed, []need{edits}},
	{"an edit of what is not there", batchEditUnknown, []need{edits}},
	{"Submit commits in order", submitOrder, nil},
	{"Submit sees what was submitted before", submitDepends, nil},
	{"Wait may be called again", submitWait, nil},
	{"a bad batch's ticket", submitBad, nil},
}

func batchBounce(e *env) {
	id := e.send(mailTo("q", "x", 2))
	d := e.claim("q")
	ids := e.commit(mailq.Batch{
		Settle:  settlement(d, outcome(0, mailq.Delivered), outcome(1, mailq.Failed)),
		Enqueue: []mailq.Message{mail("bounce", "no such user")},
	})
	if len(ids) != 1 || ids[0] == id || ids[0] == 0 {
		e.Fatalf("Commit returned %v", ids)
	}
	e.ended(d)
	e.used(mailq.UsedCounts{Delivered: 1, Failed: 1})
	e.reopen()
	b := e.nextID(e.all(), ids[0])
	if b.Queue != "bounce" || e.body(b) != "no such user" {
		e.Errorf("the bounce came in %q with body %q", b.Queue, e.body(b))
	}
}

// numbered is n messages, told apart by their bodies.
func numbered(queue string, from, n int) []mailq.Message {
	var list []mailq.Message
	for i := range n {
		list = append(list, mail(queue, fmt.Sprint(from+i)))
	}
	return list
}

func batchIDs(e *env) {
	list := numbered("q", 0, 20)
	list[7].ID = e.store.NewID()
	ids := e.commit(mailq.Batch{Enqueue: list})
	if len(ids) != len(list) || ids[7] != list[7].ID {
		e.Fatalf("Commit returned %v", ids)
	}
	c := e.all()
	for range ids {
		d := e.next(c)
		if i := slices.Index(ids, d.ID); i < 0 || e.body(d) != fmt.Sprint(i) {
			e.Errorf("message %v has body %q, its place is %d", d.ID, e.body(d), i)
		}
	}
}

func batchOrder(e *env) {
	var want []mailq.ID
	for i := range 3 {
		want = append(want, e.commit(mailq.Batch{Enqueue: numbered("q", i*5, 5)})...)
	}
	if got := e.deliverAll(e.all()); !slices.Equal(got, want) {
		e.Errorf("they came as %v, want %v", got, want)
	}
}

func batchSettles(e *env) {
	e.posts("a", 1)
	e.posts("b", 1)
	c := e.all()
	one, two := e.next(c), e.next(c)
	e.commit(mailq.Batch{Settle: append(settlement(one, outcome(mailq.All, mailq.Delivered)), settlement(two, outcome(0, mailq.Failed))...)})
	e.ended(one)
	e.ended(two)
	e.used(mailq.UsedCounts{Delivered: 1, Failed: 1})
}

func batchEmpty(e *env) {
	e.same("an empty batch", func() {
		_, err := e.store.Commit(e.ctx, mailq.Batch{})
		e.wants("an empty batch", err, mailq.ErrInvalid)
		_, err = e.store.Submit(mailq.Batch{}).Wait(e.ctx)
		e.wants("an empty batch, submitted", err, mailq.ErrInvalid)
	})
}

func batchBad(e *env) {
	e.send(mailTo("q", "x", 2))
	e.posts("q", 1)
	c := e.all()
	d, done := e.next(c), e.next(c)
	e.settleAll(done, mailq.Delivered)
	good := func() mailq.Batch {
		return mailq.Batch{Settle: settlement(d, outcome(0, mailq.Failed)), Enqueue: []mailq.Message{mail("bounce", "x")}}
	}
	for _, bad := range []struct {
		what  string
		spoil func(*mailq.Batch)
	}{
		{"a message without recipients", func(b *mailq.Batch) { b.Enqueue = append(b.Enqueue, mailq.Message{}) }},
		{"a message for a bad queue", func(b *mailq.Batch) { b.Enqueue = append(b.Enqueue, mail("a\nb", "x")) }},
		{"a settle of a settled delivery", func(b *mailq.Batch) {
			b.Settle = append(b.Settle, settlement(done, outcome(0, mailq.Delivered))...)
		}},
		{"a settle without outcome", func(b *mailq.Batch) { b.Settle = append(b.Settle, settlement(d)...) }},
		{"an outcome that is none", func(b *mailq.Batch) {
			b.Settle[0].Outcomes = append(b.Settle[0].Outcomes, mailq.Outcome{Recipient: 1})
		}},
		{"an edit of an unknown message", func(b *mailq.Batch) {
			b.Edit = []mailq.Edit{{ID: e.store.NewID(), Outcomes: []mailq.Outcome{outcome(0, mailq.Removed)}}}
		}},
		{"an edit without outcome", func(b *mailq.Batch) { b.Edit = []mailq.Edit{{ID: d.ID}} }},
	} {
		b := good()
		bad.spoil(&b)
		e.same("a batch with "+bad.what, func() {
			if ids, err := e.store.Commit(e.ctx, b); err == nil {
				e.Errorf("a batch with %s: %v and no error", bad.what, ids)
			}
		})
		e.alive(d)
	}
	e.commit(good()) // the claim is as good as it was
	e.used(mailq.UsedCounts{Delivered: 1, Failed: 1})
}

func batchNoClaim(e *env) {
	id := e.post("q", "x")
	for _, d := range []*mailq.Delivery{nil, {}, {ID: id, Queue: "q", Recipients: []mailq.Slot{{}}}} {
		e.same("a settle of a delivery nobody claimed", func() {
			_, err := e.store.Commit(e.ctx, mailq.Batch{Settle: settlement(d, outcome(0, mailq.Delivered))})
			e.wants("a settle of a delivery nobody claimed", err, mailq.ErrInvalid)
		})
	}
}

func batchOtherStore(e *env) {
	other := e.second()
	other.post("q", "x")
	d := other.claim("q")
	e.post("q", "x")
	e.claim("q")
	e.same("a settle of another store's delivery", func() {
		_, err := e.store.Commit(e.ctx, mailq.Batch{Settle: settlement(d, outcome(0, mailq.Delivered))})
		e.wants("a settle of another store's delivery", err, mailq.ErrInvalid)
	})
	other.settleAll(d, mailq.Delivered)
}

func batchCrash(e *env) {
	for i := range 3 {
		id := e.send(mailTo("q", "x", 2))
		d := e.nextID(e.all(), id)
		e.commit(mailq.Batch{Settle: settlement(d, outcome(mailq.All, mailq.Failed)), Enqueue: []mailq.Message{mail("bounce", fmt.Sprint(i))}})
		e.crash()
		b := e.claim("bounce")
		if e.body(b) != fmt.Sprint(i) {
			e.Errorf("bounce %d has body %q", i, e.body(b))
		}
		e.settleAll(b, mailq.Delivered)
		e.used(mailq.UsedCounts{Failed: int64(2 * (i + 1)), Delivered: int64(i + 1)})
	}
}

func edit(id mailq.ID, o ...mailq.Outcome) []mailq.Edit {
	return []mailq.Edit{{ID: id, Outcomes: o}}
}

func batchEdits(e *env) {
	one, two := e.send(mailTo("q", "x", 3)), e.send(mailTo("q", "y", 3))
	e.commit(mailq.Batch{Edit: append(edit(one, outcome(1, mailq.Removed)), edit(two, outcome(mailq.All, mailq.Removed))...)})
	e.state(one, 0, mailq.Pending)
	e.state(one, 1, mailq.Used)
	e.commit(mailq.Batch{Edit: edit(one, mailq.Outcome{Recipient: 0, Result: mailq.Deferred, Until: time.Now().Add(time.Hour), Note: []byte("n")})})
	x, _ := e.find(one, 0)
	if x.State != mailq.InDeferral || string(x.Note) != "n" {
		e.Errorf("after an edit Entries lists %+v", x)
	}
	e.same("an edit of a used recipient", func() {
		_, err := e.store.Commit(e.ctx, mailq.Batch{Edit: edit(one, outcome(1, mailq.Deferred))})
		e.wants("an edit of a used recipient", err, mailq.ErrUsed)
	})
	e.reopen()
	e.used(mailq.UsedCounts{Removed: 4})
	d := e.nextID(e.all(), one)
	if len(d.Recipients) != 1 || d.Recipients[0].Index != 2 {
		e.Errorf("the delivery carries %+v, want recipient 2", d.Recipients)
	}
}

func batchEditClaimed(e *env) {
	id := e.send(mailTo("q", "x", 2))
	d := e.claim("q")
	until := time.Now().Add(time.Hour)
	e.commit(mailq.Batch{Edit: edit(id, outcome(0, mailq.Removed), mailq.Outcome{Recipient: 1, Result: mailq.Deferred, Until: until})})
	e.used(mailq.UsedCounts{Removed: 1})
	e.alive(d)
	e.state(id, 1, mailq.Claimed)
	e.wants("a settle of what an edit removed", d.Settle(e.ctx, []mailq.Outcome{outcome(0, mailq.Delivered)}), mailq.ErrUsed)
	e.release(d)
	e.state(id, 1, mailq.InDeferral) // the rest of the edit applies when it comes back
}

func batchEditUnknown(e *env) {
	id := e.send(mailTo("q", "x", 2))
	dead := e.post("q", "y")
	e.markUsed(dead, mailq.All)
	e.same("an edit of what is not there", func() {
		for _, list := range [][]mailq.Edit{
			edit(e.store.NewID(), outcome(0, mailq.Removed)),
			edit(dead, outcome(mailq.All, mailq.Removed)),
			edit(id, outcome(0, mailq.Removed), outcome(2, mailq.Removed)),
		} {
			_, err := e.store.Commit(e.ctx, mailq.Batch{Edit: list})
			e.wants(fmt.Sprintf("an edit of what is not there, %+v", list), err, mailq.ErrNotFound)
		}
	})
}

func submitOrder(e *env) {
	var tickets []mailq.Ticket
	for i := range 50 {
		tickets = append(tickets, e.store.Submit(mailq.Batch{Enqueue: numbered("q", i*2, 2)}))
	}
	ids := make([][]mailq.ID, len(tickets))
	for i, t := range slices.Backward(tickets) {
		var err error
		ids[i], err = t.Wait(e.ctx)
		e.must(err)
		// Commits are in order: all before it are done as well.
		for _, before := range tickets[:i] {
			select {
			case <-before.Done():
			case <-e.ctx.Done():
				e.Fatal("a ticket is not done, a later one is")
			}
		}
	}
	if got, want := e.deliverAll(e.all()), slices.Concat(ids...); !slices.Equal(got, want) {
		e.Errorf("they came as %v, want %v", got, want)
	}
}

func submitDepends(e *env) {
	var tickets []mailq.Ticket
	for range 20 {
		e.post("q", "x")
		d := e.claim("q")
		tickets = append(tickets, e.store.Submit(mailq.Batch{Settle: settlement(d, outcome(0, mailq.Delivered))}))
		again := e.store.Submit(mailq.Batch{Settle: settlement(d, outcome(0, mailq.Failed)), Enqueue: numbered("bounce", 0, 1)})
		_, err := again.Wait(e.ctx)
		e.wants("a second settle, submitted behind the first", err, mailq.ErrSettled)
	}
	for _, t := range tickets {
		_, err := t.Wait(e.ctx)
		e.must(err)
	}
	e.used(mailq.UsedCounts{Delivered: 20})
	if n := e.store.Stats().Enqueued; n != 20 {
		e.Errorf("%d enqueued, want 20: a bounce of a refused batch is there", n)
	}
}

func submitWait(e *env) {
	t := e.store.Submit(mailq.Batch{Enqueue: numbered("q", 0, 3)})
	ended, cancel := context.WithCancel(context.Background())
	cancel()
	if ids, err := t.Wait(ended); err != nil {
		e.wants("Wait with a context that has ended", err, mailq.ErrUnknown)
	} else if len(ids) != 3 {
		e.Errorf("Wait returned %v", ids)
	}
	first, err := t.Wait(e.ctx)
	e.must(err)
	select {
	case <-t.Done():
	default:
		e.Error("Done is open after Wait has returned the outcome")
	}
	second, err := t.Wait(e.ctx)
	e.must(err)
	if len(first) != 3 || !slices.Equal(first, second) {
		e.Errorf("Wait returned %v, then %v", first, second)
	}
}

func submitBad(e *env) {
	t := e.store.Submit(mailq.Batch{Enqueue: []mailq.Message{mail("q", "x"), {}}})
	for range 2 {
		_, err := t.Wait(e.ctx)
		e.refused("a bad batch, submitted", err, "Recipients")
	}
	select {
	case <-t.Done():
	default:
		e.Error("Done is open after Wait has returned the error")
	}
	if n := e.store.Stats().Enqueued; n != 0 {
		e.Errorf("%d enqueued by a bad batch", n)
	}
}
