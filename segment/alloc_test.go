package segment

import (
	"fmt"
	"testing"

	"github.com/mtawal/mtawal/mailq"
)

func TestHotPathDoesNotAllocate(t *testing.T) {
	m := simple("q0", nil)
	for i := range 30 {
		m.Recipients = append(m.Recipients, mailq.Recipient{Queue: fmt.Sprintf("q%d", i%fewQueues), Address: "x", Note: []byte("y")})
	}
	runs := []SettleRun{{First: 0, Count: 3, Result: mailq.Delivered}, {First: 4, Count: 1, Result: mailq.Deferred, Note: []byte("450")}}
	enq, set := make([]byte, EnqueueSize(m, 0)), make([]byte, SettleSize(runs))
	f := &EnqueueFields{ID: 1}
	g := newImage(1, 99, SizeMin)
	b := &batch{}
	b.enqueue(5, m)
	b.settle(5, runs...)
	h := g.frame(Data, b)
	raw := g.at(h)
	frame, ok, err := NewFrame(h, raw)
	if !ok || err != nil {
		t.Fatal(ok, err)
	}
	body, n := make([]byte, 4096), 0
	dst := make([]byte, FrameHeaderSize)
	for _, c := range []struct {
		name string
		f    func()
	}{
		{"EnqueueSize", func() { n += EnqueueSize(m, 0) }},
		{"PutEnqueue", func() { PutEnqueue(enq, 128, m, f) }},
		{"SettleSize", func() { n += SettleSize(runs) }},
		{"PutSettle", func() { PutSettle(set, 128, 5, 1, runs) }},
		{"PutAttempt", func() { PutAttempt(set[:AttemptSize], 128, 5, 1, 1) }},
		{"BodyCRC", func() { n += int(BodyCRC(7, body)) }},
		{"TableSum", func() { n += int(TableSum(1, 2, body)) }},
		{"FrameHeader.Encode", func() { h.Encode(dst) }},
		{"DecodeFrameHeader", func() { _, ok, _ = DecodeFrameHeader(&g.Header, 4096, raw) }},
		{"NewFrame", func() { _, ok, _ = NewFrame(h, raw) }},
		{"ForEach", func() { err = frame.ForEach(func(_ Pos, r Record) error { n += len(r); return nil }) }},
		{"Runs", func() { Record(set).Kind() }},
		{"Enqueue", func() {
			e := Record(enq).Enqueue()
			e.Addresses(0, func(_ int, a, _ []byte) bool { n += len(a); return true })
			e.QueueNames(func(i int, _ []byte) { n += i })
			n += len(e.Key()) + len(e.Envelope())
		}},
		{"Whole", func() { ok = frame.Whole() }},
	} {
		if a := testing.AllocsPerRun(100, c.f); a != 0 {
			t.Errorf("%s allocates %v times", c.name, a)
		}
	}
	if !ok || err != nil {
		t.Error(ok, err)
	}
}
