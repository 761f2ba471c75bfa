package mailqtest

import (
	"bytes"
	"context"
	"fmt"
	"math/rand/v2"
	"testing"
	"time"

	"github.com/mtawal/mtawal/mailq"
)

var enqueueTests = []test{
	{"a message comes back as it went in", enqueueFields, nil},
	{"bodies of all sizes", enqueueBodies, nil},
	{"1, 5 and 1000 recipients over several queues", enqueueRecipients, nil},
	{"opaque fields take any byte", enqueueOpaque, nil},
	{"names of queues are opaque", enqueueNames, nil},
	{"fields at their limits", enqueueLimits, nil},
	{"the caller's slices are his again", enqueueCopies, nil},
	{"the largest body", enqueueLargest, []need{maxMessage}},
	{"a context that has ended bounds the wait", enqueueEndedContext, nil},
}

// noise is n bytes that do not compress and differ by seed.
func noise(seed uint64, n int) []byte {
	r := rand.NewChaCha8([32]byte{byte(seed), byte(seed >> 8), byte(seed >> 16)})
	b := make([]byte, n)
	r.Read(b)
	return b
}

func enqueueFields(e *env) {
	before := time.Now().Round(0).Add(-time.Second) // a store may keep time more coarsely than the clock does
	m := mailq.Message{
		Envelope: []byte("MAIL FROM:<a@example.org> SIZE=5"),
		Body:     []byte("hello"),
		Recipients: []mailq.Recipient{
			{Queue: "smtp:example.org", Address: "b@example.org", Note: []byte("ORCPT=rfc822;b")},
			{Queue: "smtp:example.org", Address: "c@example.org"},
		},
	}
	id := e.send(m)
	for _, x := range e.entries(mailq.Filter{}) {
		r := m.Recipients[x.Recipient]
		if x.ID != id || x.Queue != r.Queue || x.Address != r.Address || !bytes.Equal(x.Note, r.Note) || x.State != mailq.Pending ||
			x.Attempts != 0 || x.InDoubt || x.Size != 5 || !bytes.Equal(x.Envelope, m.Envelope) || !x.ExpiresAt.IsZero() {
			e.Errorf("Entries lists %+v", x)
		}
	}
	d := e.next(e.all())
	if d.ID != id || d.Queue != "smtp:example.org" || !bytes.Equal(d.Envelope, m.Envelope) || d.Expired || !d.ExpiresAt.IsZero() {
		e.Errorf("the delivery is %+v", d)
	}
	if now := time.Now().Round(0).Add(time.Second); d.EnqueuedAt.Before(before) || d.EnqueuedAt.After(now) {
		e.Errorf("EnqueuedAt is %v, not within %v and %v", d.EnqueuedAt, before, now)
	}
	if d.Token == "" {
		e.Error("Token is empty")
	}
	if len(d.Recipients) != 2 {
		e.Fatalf("the delivery carries %+v, want both recipients", d.Recipients)
	}
	for i, s := range d.Recipients {
		r := m.Recipients[i]
		if s.Index != i || s.Address != r.Address || !bytes.Equal(s.Note, r.Note) || s.Attempts != 0 || s.InDoubt {
			e.Errorf("slot %d is %+v", i, s)
		}
	}
	if b := e.body(d); b != "hello" {
		e.Errorf("the body is %q", b)
	}
	e.alive(d)
	e.state(id, 0, mailq.Claimed)
	e.settleAll(d, mailq.Delivered)
	e.ended(d)
	e.used(mailq.UsedCounts{Delivered: 2})
}

func enqueueBodies(e *env) {
	sizes := []int{0, 1, 100, 511, 512, 513, 4095, 4096, 4097, 65535, 65536, 65537, 1 << 20, 3<<20 + 1}
	bodies := map[mailq.ID][]byte{}
	for i, n := range sizes {
		if e.caps.MaxMessage > 0 && int64(n) > e.caps.MaxMessage {
			continue
		}
		m := mail("q", "")
		m.Body = noise(uint64(i), n)
		bodies[e.send(m)] = m.Body
	}
	verify := func(when string) {
		e.Helper()
		c := e.all()
		var out []*mailq.Delivery
		for range bodies {
			d := e.next(c)
			out = append(out, d)
			if want := bodies[d.ID]; e.body(d) != string(want) {
				e.Errorf("%s the body of %d bytes is another", when, len(want))
			}
		}
		for _, d := range out {
			e.release(d)
		}
	}
	verify("at first")
	e.reopen()
	verify("after reopening")
	e.deliverAll(e.all())
}

func enqueueRecipients(e *env) {
	for _, n := range []int{1, 5, 1000} {
		e.Run(fmt.Sprint(n), func(t *testing.T) {
			if e.caps.MaxRecipients > 0 && n > e.caps.MaxRecipients {
				t.Skipf("the engine takes %d recipients", e.caps.MaxRecipients)
			}
			e := newEnv(t, e.open, e.caps)
			m := mail("", "one body")
			m.Recipients = nil
			for i := range n {
				m.Recipients = append(m.Recipients, mailq.Recipient{
					Queue: fmt.Sprintf("q%d", i%7), Address: fmt.Sprintf("r%d@example.org", i), Note: fmt.Append(nil, "note ", i),
				})
			}
			id := e.send(m)
			e.reopen()
			c := e.all()
			seen := make([]bool, n)
			for left := n; left > 0; {
				d := e.next(c)
				if d.ID != id || e.body(d) != "one body" {
					e.Fatalf("delivery of %v", d.ID)
				}
				for _, s := range d.Recipients {
					r := m.Recipients[s.Index]
					if seen[s.Index] || d.Queue != r.Queue || s.Address != r.Address || !bytes.Equal(s.Note, r.Note) {
						e.Fatalf("queue %q: slot %+v, seen before: %v, want %+v", d.Queue, s, seen[s.Index], r)
					}
					seen[s.Index] = true
					left--
				}
				e.settleAll(d, mailq.Delivered)
			}
			e.used(mailq.UsedCounts{Delivered: int64(n)})
		})
	}
}

func enqueueOpaque(e *env) {
	bytes256 := make([]byte, 256)
	for i := range bytes256 {
		bytes256[i] = byte(i)
	}
	m := mail("q", string(bytes256))
	m.Envelope = bytes256
	m.Recipients[0].Address = string(bytes256)
	m.Recipients[0].Note = bytes256
	e.send(m)
	e.reopen()
	d := e.next(e.all())
	s := d.Recipients[0]
	if !bytes.Equal(d.Envelope, bytes256) || s.Address != string(bytes256) || !bytes.Equal(s.Note, bytes256) || e.body(d) != string(bytes256) {
		e.Errorf("envelope %q, slot %+v", d.Envelope, s)
	}
	e.settleAll(d, mailq.Delivered)

	bare := mailq.Message{Recipients: []mailq.Recipient{{Queue: "q"}}}
	e.send(bare)
	e.reopen()
	d = e.next(e.all())
	if s := d.Recipients[0]; len(d.Envelope) != 0 || s.Address != "" || len(s.Note) != 0 || e.body(d) != "" {
		e.Errorf("the empty message came as envelope %q, slot %+v", d.Envelope, s)
	}
	e.settleAll(d, mailq.Delivered)
}

func enqueueNames(e *env) {
	names := []string{"../x", "a/b", "/", ".", "..", "-rf", "a b", " ", "*", "%00", "C:\\x", "bücher.example", "\U0001f4ee", "Q", "q", string(noName(mailq.QueueNameMax))}
	ids := map[string]mailq.ID{}
	for _, n := range names {
		ids[n] = e.post(n, n)
	}
	e.reopen()
	if got := e.queues(); len(got) != len(names) {
		e.Errorf("Queues lists %d, want %d", len(got), len(names))
	}
	for _, n := range names {
		d := e.claim(n)
		if d.ID != ids[n] || d.Queue != n || e.body(d) != n {
			e.Errorf("queue %q handed out %v of queue %q, want %v", n, d.ID, d.Queue, ids[n])
		}
		e.settleAll(d, mailq.Delivered)
	}
}

// noName is n times the same letter.
func noName(n int) []byte { return bytes.Repeat([]byte{'n'}, n) }

func enqueueLimits(e *env) {
	m := mail(string(noName(mailq.QueueNameMax)), "x")
	m.Envelope = noise(1, mailq.EnvelopeMax)
	m.Recipients[0].Address = string(noise(2, mailq.AddressMax))
	m.Recipients[0].Note = noise(3, mailq.NoteMax)
	e.send(m)
	e.reopen()
	d := e.next(e.all())
	if s := d.Recipients[0]; !bytes.Equal(d.Envelope, m.Envelope) || s.Address != m.Recipients[0].Address || !bytes.Equal(s.Note, m.Recipients[0].Note) {
		e.Error("a field of the largest size came back changed")
	}
	note := noise(4, mailq.NoteMax)
	e.settle(d, mailq.Outcome{Recipient: 0, Result: mailq.Deferred, Until: time.Now(), Note: note})
	if x, _ := e.find(d.ID, 0); !bytes.Equal(x.Note, note) {
		e.Error("a note of the largest size was not kept")
	}
}

func enqueueCopies(e *env) {
	m := mail("q", "body")
	m.Envelope = []byte("envelope")
	m.Recipients[0].Note = []byte("note")
	ticket := e.store.Submit(mailq.Batch{Enqueue: []mailq.Message{m}})
	spoil := func(b []byte) { copy(b, "XXXXXXXXXXXX") }
	spoil(m.Body)
	spoil(m.Envelope)
	spoil(m.Recipients[0].Note)
	m.Recipients[0] = mailq.Recipient{Queue: "other"}
	_, err := ticket.Wait(e.ctx)
	e.must(err)

	m = mail("q", "body")
	m.Envelope = []byte("envelope")
	m.Recipients[0].Note = []byte("note")
	e.send(m)
	spoil(m.Body)
	spoil(m.Envelope)
	spoil(m.Recipients[0].Note)

	c := e.all()
	for range 2 {
		d := e.next(c)
		if s := d.Recipients[0]; d.Queue != "q" || string(d.Envelope) != "envelope" || string(s.Note) != "note" || e.body(d) != "body" {
			e.Errorf("the store kept what the caller changed later: queue %q, envelope %q, note %q, body %q", d.Queue, d.Envelope, s.Note, e.body(d))
		}
	}
}

func enqueueLargest(e *env) {
	if e.caps.MaxMessage > 64<<20 {
		e.Skip("the largest body is too large for a quick test")
	}
	m := mail("q", "")
	m.Body = noise(9, int(e.caps.MaxMessage))
	e.send(m)
	e.reopen()
	d := e.next(e.all())
	if e.body(d) != string(m.Body) {
		e.Error("the largest body came back changed")
	}
	e.settleAll(d, mailq.Delivered)
}

func enqueueEndedContext(e *env) {
	ended, cancel := context.WithCancel(context.Background())
	cancel()
	m := mail("q", "x")
	m.ID = e.store.NewID()
	id, err := e.store.Enqueue(ended, m)
	if err == nil {
		if id != m.ID {
			e.Errorf("Enqueue returned ID %v, want %v", id, m.ID)
		}
		e.state(m.ID, 0, mailq.Pending)
		return
	}
	e.wants("Enqueue with a context that has ended", err, mailq.ErrUnknown, context.Canceled)
}
