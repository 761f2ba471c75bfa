package mailqtest

import (
	"bytes"
	"context"
	"io"

	"github.com/mtawal/mtawal/mailq"
)

var stagedTests = []test{
	{"read back while it is written", stagedReadBeside, []need{staging}},
	{"the caller's bytes are his again", stagedSlices, []need{staging}},
	{"written further after a refusal", stagedFurther, []need{staging}},
	{"a settle with a staged bounce", stagedBounce, []need{staging}},
	{"refused with the rest of its batch", stagedInBadBatch, []need{staging}},
	{"of another store", stagedElsewhere, []need{staging}},
	{"of no store", stagedForeign, []need{staging}},
	{"by Submit", stagedSubmit, []need{staging}},
	{"a key seen before takes it", stagedKey, []need{staging, keys}},
	{"over once it is taken", stagedOver, []need{staging}},
	{"a size that can't be", stagedSize, []need{staging}},
	{"its context bounds the Writes alone", stagedContext, []need{staging}},
	{"a Write that failed is final", stagedFinal, []need{staging, maxMessage}},
	{"as long as a message may be", stagedLongest, []need{staging, maxMessage}},
	{"after Close", stagedClosed, []need{staging}},
	{"while the store shuts down", stagedDraining, []need{staging}},
	{"not there after a crash", stagedCrashed, []need{staging, crash}},
	{"Stats counts them", stagedCounted, []need{staging}},
}

// lengths are bodies that an engine may keep in memory, and that it hardly will.
func (e *env) lengths() []int {
	most := int64(1 << 20)
	if e.caps.MaxMessage > 0 {
		most = min(most, e.caps.MaxMessage)
	}
	return []int{0, 1, 5000, int(most) / 3, int(most)}
}

// reads fails unless the staged body is these bytes.
func (e *env) reads(s mailq.Staged, want []byte) {
	e.Helper()
	got := make([]byte, len(want)+1)
	n, err := s.ReadAt(got, 0)
	if n != len(want) || err != io.EOF || !bytes.Equal(got[:n], want) || s.Size() != int64(n) {
		e.Errorf("of a staged body of %d bytes ReadAt gave %d and %v, Size %d, or other bytes", len(want), n, err, s.Size())
	}
}

// comesBack fails unless the next delivery of the queue has this body.
func (e *env) comesBack(queue string, want []byte) {
	e.Helper()
	d := e.claim(queue)
	if e.body(d) != string(want) {
		e.Error("the staged body came back changed")
	}
	e.settleAll(d, mailq.Delivered)
}

func stagedReadBeside(e *env) {
	want := noise(5, e.lengths()[4])
	s, err := e.store.Stage(e.ctx, int64(len(want)))
	e.must(err)
	wg := e.team()
	written := make(chan int, 1) // how much is there at least
	read := make(chan struct{})  // what came first was read back
	reads := func(there int) {
		from := max(0, there-10_000)
		got := make([]byte, there-from)
		if n, err := s.ReadAt(got, int64(from)); n != len(got) || err != nil && err != io.EOF || !bytes.Equal(got, want[from:there]) {
			e.Errorf("ReadAt of %d bytes that were written, at %d: %d, %v, or other bytes", len(got), from, n, err)
		}
	}
	wg.Go(func() {
		for off := 0; off < len(want); {
			n := min(7000, len(want)-off)
			if m, err := s.Write(want[off : off+n]); m != n || err != nil {
				e.Errorf("Write: %d, %v", m, err)
				n = len(want) - off // nobody is to wait for more
			}
			if off > 0 {
				<-written
			}
			off += n
			written <- off
			if off == n {
				<-read // so that it is once for sure, before more has come
			}
		}
	})
	for there := 0; there < len(want) && !e.Failed(); {
		first := there == 0
		there = <-written
		written <- there
		reads(there)
		if first {
			close(read)
		}
	}
	wg.Wait()
	e.reads(s, want)
	if _, err := s.ReadAt(make([]byte, 1), -1); err == nil {
		e.Error("ReadAt at -1 passes")
	}
	e.send(staged("q", s))
	e.comesBack("q", want)
}

func stagedSlices(e *env) {
	for _, n := range e.lengths() {
		want := noise(9, n)
		mine := bytes.Clone(want)
		s, err := e.store.Stage(e.ctx, 0)
		e.must(err)
		_, err = s.Write(mine)
		e.must(err)
		clear(mine)
		e.reads(s, want)
		e.send(staged("q", s))
		e.comesBack("q", want)
	}
}

func stagedFurther(e *env) {
	for _, n := range e.lengths() {
		want := noise(2, n)
		if e.caps.MaxMessage > 0 && int64(n)+300 > e.caps.MaxMessage {
			continue
		}
		s := e.stage(want)
		for i := range 3 {
			m := staged("q", s)
			m.ID = 1 << 60 // nobody reserved it
			_, err := e.store.Enqueue(e.ctx, m)
			e.refused("a message with an ID of nobody's", err, "ID")
			e.reads(s, want)
			more := noise(uint64(i), 100)
			_, err = s.Write(more)
			e.must(err)
			want = append(want, more...)
		}
		e.send(staged("q", s))
		e.comesBack("q", want)
	}
}

func stagedBounce(e *env) {
	for _, n := range e.lengths() {
		e.post("q", "x")
		d := e.claim("q")
		bounce := noise(4, n)
		e.commit(mailq.Batch{
			Settle:  []mailq.Settlement{{Delivery: d, Outcomes: []mailq.Outcome{outcome(0, mailq.Failed)}}},
			Enqueue: []mailq.Message{staged("bounces", e.stage(bounce)), mail("bounces", "another")},
		})
		e.ended(d)
		e.comesBack("bounces", bounce)
		e.comesBack("bounces", []byte("another"))
	}
}

func stagedInBadBatch(e *env) {
	want := noise(6, e.lengths()[3])
	s := e.stage(want)
	e.post("q", "x")
	d := e.claim("q")
	e.settleAll(d, mailq.Delivered)
	e.same("a batch that settles what is settled", func() {
		_, err := e.store.Commit(e.ctx, mailq.Batch{
			Settle:  []mailq.Settlement{{Delivery: d, Outcomes: []mailq.Outcome{outcome(0, mailq.Failed)}}},
			Enqueue: []mailq.Message{staged("q", s)},
		})
		e.wants("a batch that settles what is settled", err, mailq.ErrSettled, mailq.ErrUsed)
	})
	e.reads(s, want)
	e.send(staged("q", s))
	e.comesBack("q", want)
}

func stagedElsewhere(e *env) {
	o := e.second()
	s := o.stage([]byte("elsewhere"))
	e.same("a body that another store has", func() {
		_, err := e.store.Enqueue(e.ctx, staged("q", s))
		e.refused("a body that another store has", err, "Staged")
	})
	o.send(staged("q", s))
	o.comesBack("q", []byte("elsewhere"))
}

// foreign is a staged body of no engine.
type foreign struct{ bytes.Buffer }

func (foreign) ReadAt([]byte, int64) (int, error) { return 0, io.EOF }
func (foreign) Size() int64                       { return 0 }
func (foreign) Abort()                            {}

func stagedForeign(e *env) {
	e.same("a body that no store has", func() {
		_, err := e.store.Enqueue(e.ctx, staged("q", &foreign{}))
		e.refused("a body that no store has", err, "Staged")
	})
}

func stagedSubmit(e *env) {
	var tickets []mailq.Ticket
	for _, n := range e.lengths() {
		tickets = append(tickets, e.store.Submit(mailq.Batch{Enqueue: []mailq.Message{staged("q", e.stage(noise(8, n)))}}))
	}
	for i, n := range e.lengths() {
		if ids, err := tickets[i].Wait(e.ctx); err != nil || len(ids) != 1 {
			e.Errorf("Wait: %v, %v", ids, err)
		}
		e.comesBack("q", noise(8, n))
	}
}

func stagedKey(e *env) {
	m := mail("q", "first")
	m.Key = "k"
	id := e.send(m)
	s := e.stage(noise(1, e.lengths()[3]))
	again := staged("q", s)
	again.Key = "k"
	if got := e.send(again); got != id {
		e.Errorf("a key seen before gave %v, want %v", got, id)
	}
	if _, err := s.Write([]byte("x")); err == nil {
		e.Error("Write passes after the body was taken")
	}
	e.comesBack("q", []byte("first"))
}

func stagedOver(e *env) {
	for _, n := range e.lengths() {
		s := e.stage(noise(1, n))
		e.send(staged("q", s))
		for range 2 {
			if n, err := s.ReadAt(make([]byte, 1), 0); n != 0 || err == nil || err == io.EOF {
				e.Errorf("ReadAt after the body was taken: %d, %v", n, err)
			}
			_, err := s.Write([]byte("x"))
			e.refused("Write after the body was taken", err, "Staged")
			s.Abort()
		}
		e.comesBack("q", noise(1, n))
	}
}

func stagedSize(e *env) {
	if _, err := e.store.Stage(e.ctx, -1); err == nil {
		e.Error("Stage of a negative size passes")
	} else {
		e.refused("Stage of a negative size", err, "size")
	}
	for _, size := range []int64{1, 100, 1000} { // expected is not promised
		s, err := e.store.Stage(e.ctx, size)
		e.must(err)
		_, err = s.Write(noise(1, 100))
		e.must(err)
		e.send(staged("q", s))
		e.comesBack("q", noise(1, 100))
	}
}

func stagedContext(e *env) {
	ended, cancel := context.WithCancel(e.ctx)
	s, err := e.store.Stage(ended, 0)
	e.must(err)
	want := noise(3, e.lengths()[3])
	_, err = s.Write(want)
	e.must(err)
	late, err := e.store.Stage(ended, 0)
	e.must(err)
	cancel()
	_, err = e.store.Stage(ended, 0)
	e.wants("Stage with a context that has ended", err, context.Canceled)
	e.reads(s, want)
	e.send(staged("q", s))
	e.comesBack("q", want)
	_, err = late.Write([]byte("x"))
	e.wants("Write with a context that has ended", err, context.Canceled)
	late.Abort()
}

func stagedFinal(e *env) {
	if e.caps.MaxMessage > 64<<20 {
		e.Skip("the largest body is too large for a quick test")
	}
	for _, n := range []int64{1, e.caps.MaxMessage - 1, e.caps.MaxMessage} {
		want := noise(1, int(n))
		s := e.stage(want)
		_, err := s.Write(make([]byte, e.caps.MaxMessage-n+1))
		e.wants("Write over the limit", err, mailq.ErrTooLarge)
		if _, err := s.Write([]byte("x")); err == nil {
			e.Error("Write passes after one that failed")
		}
		back := make([]byte, n)
		if m, err := s.ReadAt(back, 0); m != len(back) || err != nil && err != io.EOF || !bytes.Equal(back, want) {
			e.Errorf("what was written before: %d bytes, %v, or other ones", m, err)
		}
		e.same("half a body", func() {
			if _, err := e.store.Enqueue(e.ctx, staged("q", s)); err == nil {
				e.Error("a body was taken of which a Write had failed")
			}
		})
		s.Abort()
	}
}

func stagedLongest(e *env) {
	if e.caps.MaxMessage > 64<<20 {
		e.Skip("the largest body is too large for a quick test")
	}
	want := noise(1, int(e.caps.MaxMessage))
	e.send(staged("q", e.stage(want)))
	e.comesBack("q", want)
}

func stagedClosed(e *env) {
	short, long := e.stage([]byte("x")), e.stage(noise(1, e.lengths()[4]))
	e.close()
	for _, s := range []mailq.Staged{short, long} {
		_, err := s.Write([]byte("y"))
		e.wants("Write", err, mailq.ErrClosed)
		_, err = s.ReadAt(make([]byte, 1), 0)
		e.wants("ReadAt", err, mailq.ErrClosed)
		s.Abort()
	}
}

func stagedDraining(e *env) {
	e.post("q", "x")
	d := e.claim("q")
	bounce := noise(1, e.lengths()[4]-10)
	s, writes := e.stage(bounce), e.stage([]byte("x"))
	done := e.shutdown(e.ctx)
	_, err := e.store.Stage(e.ctx, 0)
	e.wants("Stage", err, mailq.ErrClosed)
	_, err = writes.Write([]byte("y"))
	e.wants("Write", err, mailq.ErrClosed)
	_, err = e.store.Enqueue(e.ctx, staged("q", s))
	e.wants("Enqueue", err, mailq.ErrClosed)
	e.reads(s, bounce)
	e.commit(mailq.Batch{
		Settle:  []mailq.Settlement{{Delivery: d, Outcomes: []mailq.Outcome{outcome(0, mailq.Failed)}}},
		Enqueue: []mailq.Message{staged("bounces", s)},
	})
	e.must(e.wait("Shutdown", done))
	store := e.store
	e.store = nil
	e.must(store.Close())
	e.openStore()
	e.comesBack("bounces", bounce)
}

func stagedCrashed(e *env) {
	e.stage([]byte("x"))
	e.stage(noise(1, e.lengths()[4]))
	kept := noise(2, e.lengths()[4])
	e.send(staged("q", e.stage(kept)))
	e.crash()
	e.stands("opened", 1, 0, 0, 0)
	if n := e.store.Stats().Staged; n != 0 {
		e.Errorf("%d bodies are staged in a store just opened", n)
	}
	e.comesBack("q", kept)
}

func stagedCounted(e *env) {
	counts := func(bodies, size int64) {
		e.Helper()
		if s := e.store.Stats(); s.Staged != bodies || s.StagedBytes != size {
			e.Errorf("%d bodies are staged, %d bytes, want %d, %d", s.Staged, s.StagedBytes, bodies, size)
		}
	}
	counts(0, 0)
	a, b := e.stage(noise(1, 1000)), e.stage(nil)
	counts(2, 1000)
	c, err := e.store.Stage(e.ctx, 500) // announced
	e.must(err)
	counts(3, 1500)
	_, err = c.Write(noise(1, 600))
	e.must(err)
	counts(3, 1600)
	e.send(staged("q", a))
	counts(2, 600)
	b.Abort()
	b.Abort()
	c.Abort()
	counts(0, 0)
}
