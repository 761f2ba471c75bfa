package mailqtest

import (
	"time"

	"github.com/mtawal/mtawal/mailq"
)

var replaceTests = []test{
	{"a recipient by others", replaceSettle, []need{replacement}},
	{"together with a bounce", replaceBatch, []need{replacement}},
	{"by an edit", replaceEdit, []need{replacement, edits}},
	{"work queue, routing, destinations", replaceRoute, []need{replacement}},
}

func replaced(recipient int, by ...mailq.Recipient) mailq.Outcome {
	return mailq.Outcome{Recipient: recipient, Result: mailq.Replaced, Replace: by}
}

func replaceSettle(e *env) {
	m := mailTo("work", "one body", 2)
	id := e.send(m)
	d := e.claim("work")
	by := map[string]mailq.Recipient{
		"a": {Queue: "x", Address: "a", Note: []byte("na")},
		"b": {Queue: "x", Address: "b"},
		"c": {Queue: "y", Address: "c"},
	}
	token := d.Token
	e.settle(d, replaced(1, by["a"], by["b"], by["c"]))
	e.used(mailq.UsedCounts{Replaced: 1})
	e.alive(d)
	e.settle(d, outcome(0, mailq.Delivered))
	e.ended(d)
	if s := e.store.Stats(); s.Enqueued != 5 || s.WorkQueueLength != 3 || s.Messages != 1 {
		e.Errorf("enqueued %d, work queue length %d, messages %d, want 5, 3, 1", s.Enqueued, s.WorkQueueLength, s.Messages)
	}
	e.reopen()
	c := e.all()
	seen := map[int]bool{0: true, 1: true}
	for range 2 {
		d := e.nextID(c, id)
		if e.body(d) != "one body" || d.Token != token || string(d.Envelope) != string(m.Envelope) {
			e.Errorf("the replacement has body %q, token %q", e.body(d), d.Token)
		}
		for _, s := range d.Recipients {
			r := by[s.Address]
			if seen[s.Index] || r.Queue != d.Queue || string(s.Note) != string(r.Note) || s.Attempts != 0 || s.InDoubt {
				e.Errorf("queue %q: slot %+v, its index seen before: %v", d.Queue, s, seen[s.Index])
			}
			seen[s.Index] = true
			delete(by, s.Address)
		}
		e.settleAll(d, mailq.Delivered)
	}
	if len(by) != 0 {
		e.Errorf("%+v did not come", by)
	}
}

func replaceBatch(e *env) {
	e.post("work", "x")
	d := e.claim("work")
	bad := mailq.Batch{Settle: settlement(d, replaced(0, mailq.Recipient{Queue: "x"})), Enqueue: []mailq.Message{{}}}
	e.same("a replacement in a bad batch", func() {
		_, err := e.store.Commit(e.ctx, bad)
		e.refused("a replacement in a bad batch", err, "Recipients")
	})
	bad.Enqueue = numbered("y", 0, 1)
	e.commit(bad)
	e.served(e.all(), "x", "y")
}

func replaceEdit(e *env) {
	id := e.send(mailTo("old", "x", 2))
	d := e.claim("old")
	e.settle(d, later(time.Hour))
	e.edit(id, replaced(0, mailq.Recipient{Queue: "new", Address: "moved"}))
	d = e.claim("new")
	if d.ID != id || d.Recipients[0].Address != "moved" {
		e.Errorf("%v came with %+v", d.ID, d.Recipients)
	}
	e.state(id, 0, mailq.Used)
	e.state(id, 1, mailq.InDeferral)
}

func replaceRoute(e *env) {
	work := e.consumer(mailq.ConsumerOptions{Queues: []string{"work"}})
	var ids []mailq.ID
	for range 5 {
		ids = append(ids, e.send(mailTo("work", "x", 2)))
	}
	for _, id := range ids {
		d := e.nextID(work, id)
		e.settle(d, replaced(0, mailq.Recipient{Queue: "smtp:a"}, mailq.Recipient{Queue: "smtp:b"}), replaced(1, mailq.Recipient{Queue: "smtp:b"}))
	}
	e.reopen()
	for _, q := range []string{"smtp:a", "smtp:b"} { // each in the order of arrival
		c := e.consumer(mailq.ConsumerOptions{Queues: []string{q}})
		for _, id := range ids {
			e.settleAll(e.nextID(c, id), mailq.Delivered)
		}
	}
}
