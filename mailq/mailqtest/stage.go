package mailqtest

import (
	"bytes"
	"io"

	"github.com/mtawal/mtawal/mailq"
)

var stageTests = []test{
	{"written, read back and enqueued", stageEnqueue, []need{staging}},
	{"after a crash", stageCrash, []need{staging, crash}},
	{"empty", stageEmpty, []need{staging}},
	{"aborted", stageAbort, []need{staging}},
	{"taken once", stageTwice, []need{staging}},
	{"a refused message leaves it", stageRefused, []need{staging}},
	{"over the limit", stageLimit, []need{staging, maxMessage}},
	{"many at once", stageMany, []need{staging}},
	{"one nobody wanted", stageForgotten, []need{staging}},
}

// stage writes a body in pieces of several sizes.
func (e *env) stage(body []byte) mailq.Staged {
	e.Helper()
	s, err := e.store.Stage(e.ctx, 0)
	e.must(err)
	rest := body
	for n := 1; len(rest) > 0; n = min(n*3+1, 100_000) {
		n := min(n, len(rest))
		if m, err := s.Write(rest[:n]); m != n || err != nil {
			e.Fatalf("Write of %d: %d, %v", n, m, err)
		}
		rest = rest[n:]
	}
	if s.Size() != int64(len(body)) {
		e.Fatalf("Size is %d, want %d", s.Size(), len(body))
	}
	return s
}

func staged(queue string, s mailq.Staged) mailq.Message {
	m := mail(queue, "")
	m.Body, m.Staged = nil, s
	return m
}

func stageEnqueue(e *env) { e.staged(e.reopen) }
func stageCrash(e *env)   { e.staged(e.crash) }

func (e *env) staged(again func()) {
	e.Helper()
	n := 300_000
	if e.caps.MaxMessage > 0 {
		n = int(min(int64(n), e.caps.MaxMessage))
	}
	body := noise(3, n)
	s := e.stage(body)
	back := make([]byte, len(body))
	if m, err := s.ReadAt(back, 0); m != n || err != nil && err != io.EOF || !bytes.Equal(back, body) {
		e.Fatalf("ReadAt: %d, %v, or other bytes", m, err)
	}
	if m, err := s.ReadAt(back[:10], int64(n-5)); m != 5 || err != io.EOF || !bytes.Equal(back[:5], body[n-5:]) {
		e.Errorf("ReadAt across the end: %d, %v, want 5 and io.EOF", m, err)
	}
	if len(e.entries(mailq.Filter{})) != 0 {
		e.Error("a staged body is listed")
	}
	id := e.send(staged("q", s))
	s.Abort() // does nothing now
	for range 2 {
		d := e.nextID(e.all(), id)
		if e.body(d) != string(body) {
			e.Error("the staged body came back changed")
		}
		e.release(d)
		again()
	}
}

func stageEmpty(e *env) {
	id := e.send(staged("q", e.stage(nil)))
	d := e.nextID(e.all(), id)
	if e.body(d) != "" {
		e.Error("the empty body has bytes")
	}
}

func stageAbort(e *env) {
	s := e.stage([]byte("x"))
	s.Abort()
	s.Abort()
	if _, err := s.Write([]byte("y")); err == nil {
		e.Error("Write after Abort passes")
	}
	e.same("a message with an aborted body", func() {
		_, err := e.store.Enqueue(e.ctx, staged("q", s))
		e.refused("a message with an aborted body", err, "Staged")
	})
}

func stageTwice(e *env) {
	s := e.stage([]byte("x"))
	e.same("a staged body twice in a batch", func() {
		_, err := e.store.Commit(e.ctx, mailq.Batch{Enqueue: []mailq.Message{staged("q", s), staged("q", s)}})
		e.refused("a staged body twice in a batch", err, "Staged")
	})
	e.send(staged("q", s))
	e.same("a staged body that was taken", func() {
		_, err := e.store.Enqueue(e.ctx, staged("q", s))
		e.refused("a staged body that was taken", err, "Staged")
	})
	if _, err := s.Write([]byte("y")); err == nil {
		e.Error("Write passes after the body was taken")
	}
}

func stageRefused(e *env) {
	s := e.stage([]byte("still here"))
	m := staged("q", s)
	m.Recipients = nil
	_, err := e.store.Enqueue(e.ctx, m)
	e.refused("a message without recipients", err, "Recipients")
	d := e.nextID(e.all(), e.send(staged("q", s)))
	if e.body(d) != "still here" {
		e.Errorf("the body is %q", e.body(d))
	}
}

func stageLimit(e *env) {
	if e.caps.MaxMessage > 64<<20 {
		e.Skip("the largest body is too large for a quick test")
	}
	if _, err := e.store.Stage(e.ctx, e.caps.MaxMessage+1); err == nil {
		e.Error("Stage of a size over the limit passes")
	} else {
		e.wants("Stage of a size over the limit", err, mailq.ErrTooLarge)
	}
	s, err := e.store.Stage(e.ctx, 0)
	e.must(err)
	defer s.Abort()
	piece := make([]byte, 1<<16)
	for n := int64(0); ; n += int64(len(piece)) {
		_, err := s.Write(piece)
		if err != nil {
			e.wants("Write over the limit", err, mailq.ErrTooLarge)
			if n+int64(len(piece)) <= e.caps.MaxMessage {
				e.Errorf("Write was refused at %d bytes, the limit is %d", n, e.caps.MaxMessage)
			}
			return
		}
		if n > e.caps.MaxMessage {
			e.Fatalf("%d bytes were taken, the limit is %d", n, e.caps.MaxMessage)
		}
	}
}

func stageMany(e *env) {
	store := e.store
	wg := e.team()
	bodies := make([][]byte, 8)
	ids := make([]mailq.ID, len(bodies))
	for g := range bodies {
		bodies[g] = noise(uint64(g), 50_000)
		wg.Go(func() {
			s, err := store.Stage(e.ctx, 50_000)
			if err != nil {
				e.Errorf("Stage: %v", err)
				return
			}
			for p := range 50 {
				if _, err := s.Write(bodies[g][p*1000:][:1000]); err != nil {
					e.Errorf("Write: %v", err)
				}
			}
			if ids[g], err = store.Enqueue(e.ctx, staged("q", s)); err != nil {
				e.Errorf("Enqueue: %v", err)
			}
		})
	}
	wg.Wait()
	e.reopen()
	c := e.all()
	for range bodies {
		d := e.next(c)
		for g, id := range ids {
			if id == d.ID && e.body(d) != string(bodies[g]) {
				e.Errorf("body %d came back changed", g)
			}
		}
	}
}

func stageForgotten(e *env) {
	s := e.stage([]byte("x"))
	e.reopen()
	if _, err := s.Write([]byte("y")); err == nil {
		e.Error("Write to a body of a closed store passes")
	}
	s.Abort()
	if _, err := e.store.Enqueue(e.ctx, staged("q", s)); err == nil {
		e.Error("a body of a closed store was taken")
	}
	e.stands("reopened", 0, 0, 0, 0)
}
