package mailqtest

import (
	"bytes"
	"fmt"
	"strings"
	"time"

	"github.com/mtawal/mtawal/mailq"
)

var refusedTests = []test{
	{"messages", refusedMessages, nil},
	{"messages in a batch", refusedInBatch, nil},
	{"names of queues", refusedNames, nil},
	{"a negative size", refusedSize, nil},
	{"a body over the limit", refusedBody, []need{maxMessage}},
	{"too many recipients", refusedRecipients, []need{maxRcpts}},
	{"body and staged", refusedBoth, []need{staging}},
	{"outcomes", refusedOutcomes, nil},
	{"a deferral without a time", refusedDeferral, nil},
	{"an outcome's note over the limit", refusedNote, nil},
	{"states of queues", refusedStates, []need{queueStates}},
	{"replacements", refusedReplace, []need{replacement}},
}

// badMessage is a message with one bad field.
type badMessage struct {
	what  string
	field string // that the error names
	spoil func(*mailq.Message)
}

var badMessages = []badMessage{
	{"no recipients", "Recipients", func(m *mailq.Message) { m.Recipients = nil }},
	{"an empty queue name", "Recipients[0].Queue", func(m *mailq.Message) { m.Recipients[0].Queue = "" }},
	{"a bad queue name in the second recipient", "Recipients[1].Queue", func(m *mailq.Message) {
		m.Recipients = append(m.Recipients, mailq.Recipient{Queue: "\x00"})
	}},
	{"an envelope over the limit", "Envelope", func(m *mailq.Message) { m.Envelope = make([]byte, mailq.EnvelopeMax+1) }},
	{"an address over the limit", "Recipients[0].Address", func(m *mailq.Message) {
		m.Recipients[0].Address = strings.Repeat("a", mailq.AddressMax+1)
	}},
	{"a note over the limit", "Recipients[0].Note", func(m *mailq.Message) { m.Recipients[0].Note = make([]byte, mailq.NoteMax+1) }},
	{"a key over the limit", "Key", func(m *mailq.Message) { m.Key = strings.Repeat("k", mailq.KeyMax+1) }},
}

// notTaken fails unless the message is refused, alone and in a batch, with
// nothing written.
func (e *env) notTaken(what, field string, m mailq.Message) {
	e.Helper()
	e.same(what, func() {
		id, err := e.store.Enqueue(e.ctx, m)
		e.refused(what, err, field)
		if id != 0 {
			e.Errorf("%s: ID %v came with the error", what, id)
		}
		_, err = e.store.Commit(e.ctx, mailq.Batch{Enqueue: []mailq.Message{mail("q", "x"), m}})
		e.refused(what+", second in a batch", err, field)
		_, err = e.store.Submit(mailq.Batch{Enqueue: []mailq.Message{m, mail("q", "x")}}).Wait(e.ctx)
		e.refused(what+", submitted", err, field)
	})
}

func refusedMessages(e *env) {
	for _, b := range badMessages {
		m := mail("q", "x")
		b.spoil(&m)
		e.notTaken(b.what, b.field, m)
	}
	e.post("q", "fine")
	e.reopen()
	e.deliverAll(e.all())
	e.used(mailq.UsedCounts{Delivered: 1})
}

func refusedInBatch(e *env) {
	e.send(mailTo("q", "x", 2))
	d := e.claim("q")
	for _, b := range badMessages {
		m := mail("bounce", "x")
		b.spoil(&m)
		e.same("a settle with a bad bounce", func() {
			_, err := e.store.Commit(e.ctx, mailq.Batch{Settle: settlement(d, outcome(0, mailq.Failed)), Enqueue: []mailq.Message{m}})
			e.refused("a settle with a bounce with "+b.what, err, b.field)
		})
	}
	e.settleAll(d, mailq.Delivered)
}

// badNames are names that no queue can have.
func badNames() []string {
	names := []string{"", string(noName(mailq.QueueNameMax + 1)), strings.Repeat("ü", 128), "\xff", "a\xc3", "\xed\xa0\x80", "\u0085", "a\u009f"}
	for c := range 0x20 {
		names = append(names, fmt.Sprintf("a%cb", c))
	}
	return append(names, "a\x7f", "\x00", "\n", "a\r\nb")
}

func refusedNames(e *env) {
	for _, n := range badNames() {
		e.notTaken(fmt.Sprintf("queue name %.40q of %d bytes", n, len(n)), "Recipients[0].Queue", mail(n, "x"))
	}
}

func refusedSize(e *env) {
	e.refused("Admit", e.store.Admit(-1), "size")
}

func refusedBody(e *env) {
	m := mail("q", "")
	m.Body = make([]byte, e.caps.MaxMessage+1)
	e.notTaken("a body over the limit", "Body", m)
	if err := e.store.Admit(e.caps.MaxMessage + 1); err == nil {
		e.Error("Admit lets a body over the limit pass")
	} else {
		e.wants("Admit of a body over the limit", err, mailq.ErrTooLarge)
	}
	e.must(e.store.Admit(e.caps.MaxMessage))
	e.must(e.store.Admit(0))
}

func refusedRecipients(e *env) {
	if e.caps.MaxRecipients > 100_000 {
		e.Skip("so many recipients are too many for a quick test")
	}
	e.notTaken("too many recipients", "Recipients", mailTo("q", "x", e.caps.MaxRecipients+1))
	e.send(mailTo("q", "x", e.caps.MaxRecipients))
}

func refusedBoth(e *env) {
	s, err := e.store.Stage(e.ctx, 0)
	e.must(err)
	defer s.Abort()
	m := mail("q", "body")
	m.Staged = s
	e.notTaken("a body and a staged one", "Body|Staged", m)
}

func refusedOutcomes(e *env) {
	e.send(mailTo("q", "x", 2))
	d := e.claim("q")
	e.same("an outcome that is none", func() {
		for _, r := range []mailq.Result{0, mailq.Released + 1, 255} {
			e.refused(fmt.Sprintf("result %d", r), d.Settle(e.ctx, []mailq.Outcome{outcome(1, mailq.Delivered), outcome(0, r)}), "Result")
		}
		o := outcome(0, mailq.Delivered)
		o.Replace = []mailq.Recipient{{Queue: "q"}}
		e.refused("replacements for a delivered recipient", d.Settle(e.ctx, []mailq.Outcome{o}), "Replace")
	})
	e.alive(d)
	e.settleAll(d, mailq.Delivered)
}

func refusedDeferral(e *env) {
	id := e.post("q", "x")
	d := e.claim("q")
	o := mailq.Outcome{Recipient: 0, Result: mailq.Deferred}
	e.same("a deferral without a time", func() {
		e.refused("Settle", d.Settle(e.ctx, []mailq.Outcome{o}), "Outcomes[0].Until")
		e.refused("SettleAll", d.SettleAll(e.ctx, mailq.Deferred), "Outcomes[0].Until")
		if e.caps.Edits {
			_, err := e.store.Commit(e.ctx, mailq.Batch{Edit: edit(id, o)})
			e.refused("an edit", err, "Outcomes[0].Until")
		}
	})
	e.alive(d)
	e.settleAll(d, mailq.Delivered)
}

func refusedNote(e *env) {
	id := e.post("q", "x")
	d := e.claim("q")
	o := mailq.Outcome{Recipient: 0, Result: mailq.Deferred, Until: time.Now(), Note: bytes.Repeat([]byte{'n'}, mailq.NoteMax+1)}
	e.same("a note over the limit", func() {
		e.refused("a note over the limit", d.Settle(e.ctx, []mailq.Outcome{o}), "Note")
	})
	o.Note = []byte("a shorter one")
	e.settle(d, o)
	e.state(id, 0, mailq.Pending)
}

func refusedStates(e *env) {
	for _, n := range badNames() {
		e.refused(fmt.Sprintf("SetQueue of %.40q", n), e.store.SetQueue(e.ctx, n, mailq.QueueState{Mode: mailq.HoldQueue}), "ueue")
	}
	e.refused("SetQueue with a mode that is none", e.store.SetQueue(e.ctx, "q", mailq.QueueState{Mode: 200}), "Mode")
	e.refused("SetQueue with a policy that is none", e.store.SetQueue(e.ctx, "q", mailq.QueueState{Doubt: 200}), "Doubt")
	e.refused("SetQueue with a negative delay", e.store.SetQueue(e.ctx, "q", mailq.QueueState{Doubt: mailq.DeferDoubt, DoubtDelay: -1}), "DoubtDelay")
	if list := e.queues(); len(list) != 0 {
		e.Errorf("Queues lists %+v", list)
	}
}

func refusedReplace(e *env) {
	e.post("work", "x")
	d := e.claim("work")
	e.same("a bad replacement", func() {
		o := outcome(0, mailq.Replaced)
		o.Replace = []mailq.Recipient{{Queue: "q"}, {Queue: "a\nb"}}
		e.refused("a replacement in a bad queue", d.Settle(e.ctx, []mailq.Outcome{o}), "Replace[1].Queue")
		o.Replace[1] = mailq.Recipient{Queue: "q", Address: strings.Repeat("a", mailq.AddressMax+1)}
		e.refused("a replacement with a long address", d.Settle(e.ctx, []mailq.Outcome{o}), "Replace[1].Address")
	})
	e.settleAll(d, mailq.Delivered)
}
