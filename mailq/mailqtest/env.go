package mailqtest

import (
	"context"
	"errors"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/mtawal/mtawal/mailq"
	"go.uber.org/goleak"
)

// env is what a subtest works with: a store on a directory of its own.
type env struct {
	*testing.T
	caps  Caps
	open  OpenFunc
	dir   string
	store mailq.Store     // nil once the subtest has closed it for good
	ctx   context.Context // ends when patience does
	teams []*sync.WaitGroup
}

func newEnv(t *testing.T, open OpenFunc, caps Caps) *env {
	t.Helper()
	running := goleak.IgnoreCurrent()
	ctx, cancel := context.WithTimeout(context.Background(), caps.Patience)
	e := &env{T: t, caps: caps, open: open, dir: t.TempDir(), ctx: ctx}
	t.Cleanup(func() {
		defer cancel()
		if s := e.store; s != nil {
			if !t.Failed() {
				e.check()
			}
			e.close()
		}
		for _, wg := range e.teams { // none may report to a test that is over
			e.within("a goroutine of the subtest", wg.Wait)
		}
		if !t.Failed() {
			goleak.VerifyNone(t, running)
		}
	})
	e.openStore()
	return e
}

// second is another store, on a directory of its own, for this subtest.
func (e *env) second() *env {
	e.Helper()
	o := &env{T: e.T, caps: e.caps, open: e.open, dir: e.TempDir(), ctx: e.ctx}
	e.Cleanup(func() {
		if o.store != nil {
			o.close()
		}
	})
	o.openStore()
	return o
}

func (e *env) openStore() {
	e.Helper()
	s, err := e.open(e.dir)
	if err != nil {
		e.Fatalf("open: %v", err)
	}
	e.store = s
}

// within fails the test if f, which no context bounds, does not return.
func (e *env) within(what string, f func()) {
	e.Helper()
	done := make(chan struct{})
	go func() { defer close(done); f() }()
	select {
	case <-done:
	case <-time.After(e.caps.Patience): // of its own: what failed before may have used up the context's
		e.Fatalf("%s did not return", what)
	}
}

// passes fails the test if f, which no context bounds, fails or does not return.
func (e *env) passes(what string, f func() error) {
	e.Helper()
	e.within(what, func() {
		if err := f(); err != nil {
			e.Errorf("%s: %v", what, err)
		}
	})
}

// team is for goroutines that report to the subtest. It ends after them, also
// when it fails early.
func (e *env) team() *sync.WaitGroup {
	wg := new(sync.WaitGroup)
	e.teams = append(e.teams, wg)
	return wg
}

// close closes the store, which must work, and forgets it.
func (e *env) close() {
	e.Helper()
	s := e.store
	e.store = nil
	e.passes("Close", s.Close)
}

// reopen closes and opens the store, over which no total may change.
func (e *env) reopen() {
	e.Helper()
	e.again(e.close)
}

// crash ends the store as a kill of its process would, and opens it.
func (e *env) crash() {
	e.Helper()
	e.again(func() {
		s := e.store
		e.store = nil
		e.dir = e.caps.Crash(e.T, e.dir, s)
	})
}

func (e *env) again(end func()) {
	e.Helper()
	was := e.store.Stats()
	end()
	e.openStore()
	is := e.store.Stats()
	if is.Enqueued != was.Enqueued || is.Used != was.Used {
		e.Fatalf("reopening changed the totals: enqueued %d, used %+v; they were %d, %+v", is.Enqueued, is.Used, was.Enqueued, was.Used)
	}
	if is.Claimed != 0 {
		e.Fatalf("%d recipients are claimed in a store just opened", is.Claimed)
	}
	e.check()
}

func (e *env) must(err error) {
	e.Helper()
	if err != nil {
		e.Fatal(err)
	}
}

// wants fails unless err is one of the targets.
func (e *env) wants(what string, err error, targets ...error) {
	e.Helper()
	for _, t := range targets {
		if errors.Is(err, t) {
			return
		}
	}
	e.Errorf("%s: error is %v, want one of %q", what, err, targets)
}

// refused fails unless err says, in its type too, that a field is not
// acceptable. Fields are named by suffix: in a batch the name has a prefix.
// Alternatives are parted by "|".
func (e *env) refused(what string, err error, field string) {
	e.Helper()
	var f *mailq.FieldError
	var l *mailq.LimitError
	var named string
	switch {
	case errors.As(err, &f):
		named = f.Field
		e.wants(what, err, mailq.ErrInvalid)
		if f.Reason == "" {
			e.Errorf("%s: the error gives no reason: %v", what, err)
		}
	case errors.As(err, &l):
		named = l.Field
		e.wants(what, err, mailq.ErrTooLarge)
		if l.Size <= l.Max {
			e.Errorf("%s: the error says that %d is over %d", what, l.Size, l.Max)
		}
	default:
		e.Errorf("%s: error is %v, want a *FieldError or *LimitError", what, err)
		return
	}
	for f := range strings.SplitSeq(field, "|") {
		if strings.HasSuffix(named, f) {
			return
		}
	}
	e.Errorf("%s: the error names field %q, want %q", what, named, field)
}

// eventually polls for what need not be true at once.
func (e *env) eventually(f func() error) {
	e.Helper()
	for {
		err := f()
		if err == nil {
			return
		}
		select {
		case <-e.ctx.Done():
			e.Fatal(err)
		case <-time.After(time.Millisecond):
		}
	}
}
