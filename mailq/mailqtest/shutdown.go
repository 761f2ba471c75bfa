package mailqtest

import (
	"context"
	"errors"
	"time"

	"github.com/mtawal/mtawal/mailq"
)

var shutdownTests = []test{
	{"returns at once when nothing is out", shutdownIdle, nil},
	{"ends intake and claims, and waits for what is out", shutdownWaits, nil},
	{"a settle passes with its bounce", shutdownBounce, nil},
	{"Release lets it return", shutdownRelease, nil},
	{"its context ends the wait", shutdownContext, nil},
	{"Close ends the wait", shutdownClose, nil},
}

func shutdownIdle(e *env) {
	e.post("q", "x")
	e.settle(e.claim("q"), later(time.Hour))
	s := e.store
	e.store = nil
	e.passes("Shutdown", func() error { return s.Shutdown(e.ctx) })
	_, err := s.Enqueue(e.ctx, mail("q", "x"))
	e.wants("Enqueue after Shutdown", err, mailq.ErrClosed)
	e.must(s.Close())
	e.openStore()
	e.stands("opened again", 0, 1, 0, 0)
	if n := e.store.Stats().UncleanOpens; n != 0 {
		e.Errorf("%d unclean openings after a Shutdown", n)
	}
}

// shutdown starts Shutdown and waits until intake has ended. What it took until
// then is in the queue "before".
func (e *env) shutdown(ctx context.Context) <-chan error {
	e.Helper()
	s := e.store
	done := make(chan error, 1)
	go func() { done <- s.Shutdown(ctx) }()
	e.eventually(func() error {
		_, err := s.Enqueue(e.ctx, mail("before", "x"))
		if err == nil {
			return errors.New("after Shutdown was called Enqueue passes")
		}
		e.wants("Enqueue while the store shuts down", err, mailq.ErrClosed)
		return nil
	})
	return done
}

func (e *env) wait(what string, done <-chan error) error {
	e.Helper()
	select {
	case err := <-done:
		return err
	case <-e.ctx.Done():
		e.Fatalf("%s did not return", what)
		return nil
	}
}

func shutdownWaits(e *env) {
	ids := e.posts("q", 3)
	c, idle := e.all(), e.consumer(mailq.ConsumerOptions{Queues: []string{"none"}})
	d, held := e.nextID(c, ids[0]), e.nextID(c, ids[1])
	waiting := e.waiting(e.ctx, idle)
	done := e.shutdown(e.ctx)

	e.wants("Next that waited", e.outcome(waiting).err, mailq.ErrClosed)
	_, err := c.Next(e.ctx)
	e.wants("Next", err, mailq.ErrClosed)
	if _, ok := c.TryNext("q"); ok {
		e.Error("TryNext gave something")
	}
	_, err = e.store.Commit(e.ctx, mailq.Batch{Enqueue: numbered("q", 0, 1)})
	e.wants("Commit of new mail", err, mailq.ErrClosed)
	e.wants("Admit", e.store.Admit(1), mailq.ErrClosed)
	e.alive(d)
	if e.body(d) != "q 0" {
		e.Error("the body is gone")
	}
	e.settleAll(d, mailq.Delivered)
	select {
	case err := <-done:
		e.Fatalf("Shutdown returned %v while a claim is out", err)
	default:
	}
	e.alive(held)
	e.settleAll(held, mailq.Failed)
	e.must(e.wait("Shutdown", done))
	s := e.store
	e.store = nil
	e.must(s.Close())
	e.openStore()
	e.state(ids[0], 0, mailq.Used)
	e.state(ids[1], 0, mailq.Used)
	d = e.claim("q")
	if d.ID != ids[2] || d.Recipients[0].InDoubt || d.Recipients[0].Attempts != 0 {
		e.Errorf("%v came with %+v, want %v as new", d.ID, d.Recipients, ids[2])
	}
}

func shutdownBounce(e *env) {
	e.send(mailTo("q", "x", 2))
	d := e.claim("q")
	done := e.shutdown(e.ctx)
	ids := e.commit(mailq.Batch{Settle: settlement(d, outcome(0, mailq.Failed)), Enqueue: numbered("bounce", 0, 1)})
	last, err := e.store.Submit(mailq.Batch{Settle: settlement(d, outcome(1, mailq.Failed)), Enqueue: numbered("bounce", 1, 1)}).Wait(e.ctx)
	e.must(err)
	e.must(e.wait("Shutdown", done))
	e.openStore()
	e.used(mailq.UsedCounts{Failed: 2})
	d = e.claim("bounce")
	if d.ID != ids[0] || len(last) != 1 {
		e.Errorf("%v came, want the first bounce %v", d.ID, ids[0])
	}
	e.state(last[0], 0, mailq.Pending)
}

func shutdownRelease(e *env) {
	id := e.post("q", "x")
	d := e.claim("q")
	done := e.shutdown(e.ctx)
	d.Release()
	e.must(e.wait("Shutdown", done))
	e.openStore()
	e.state(id, 0, mailq.Pending)
}

func shutdownContext(e *env) {
	id := e.post("q", "x")
	d := e.claim("q")
	ctx, cancel := context.WithCancel(context.Background())
	done := e.shutdown(ctx)
	cancel()
	if err := e.wait("Shutdown with a context that has ended", done); err != nil {
		e.wants("Shutdown with a context that has ended", err, context.Canceled)
	}
	e.ended(d)
	e.wants("Settle after it", d.SettleAll(e.ctx, mailq.Delivered), mailq.ErrClosed)
	e.openStore()
	x, ok := e.find(id, 0)
	if !ok || e.caps.InDoubt && !x.InDoubt {
		e.Errorf("Entries lists %v, %+v, want it in doubt", ok, x)
	}
}

func shutdownClose(e *env) {
	e.post("q", "x")
	d := e.claim("q")
	done := e.shutdown(e.ctx)
	s := e.store
	e.close()
	e.wait("Shutdown of a store that is closed", done)
	e.ended(d)
	e.passes("Close", s.Close)
}
