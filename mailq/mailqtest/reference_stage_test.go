package mailqtest

import (
	"context"
	"io"

	"github.com/mtawal/mtawal/mailq"
)

// refStaged is a body that is not a message yet. Its fields are under the store's lock.
type refStaged struct {
	s    *refStore
	ctx  context.Context
	size int64 // announced
	b    []byte
	over bool  // taken or aborted
	bad  error // of a Write
}

func (s *refStore) Stage(ctx context.Context, size int64) (mailq.Staged, error) {
	if size < 0 {
		return nil, &mailq.FieldError{Field: "size", Reason: "negative"}
	}
	if err := first(ctx.Err(), s.Admit(size)); err != nil {
		return nil, err
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	g := &refStaged{s: s, ctx: ctx, size: size}
	s.staged[g] = true
	return g, nil
}

// gone is the error of every call to a body that is no more. The lock is held.
func (g *refStaged) gone() error {
	switch {
	case g.s.closed && g.s.bug != "leaves staged bodies open":
		return mailq.ErrClosed
	case g.over:
		return &mailq.FieldError{Field: "Staged", Reason: "taken or aborted"}
	}
	return nil
}

// end takes the body out of the store. The lock is held.
func (g *refStaged) end() {
	if g.s.bug != "counts what was staged for ever" {
		delete(g.s.staged, g)
	}
	g.over = true
}

func (g *refStaged) Write(p []byte) (int, error) {
	s := g.s
	s.mu.Lock()
	defer s.mu.Unlock()
	if err := first(g.gone(), g.bad); err != nil {
		return 0, err
	}
	if s.draining && s.bug != "leaves staged bodies open" {
		g.bad = mailq.ErrClosed
	}
	if g.bad = first(g.bad, g.ctx.Err(), tooLarge("Body", int64(len(g.b)+len(p)), refMaxMessage)); g.bad != nil {
		return 0, g.bad
	}
	if s.bug == "keeps the caller's slices" && len(g.b) == 0 {
		g.b = p
	} else {
		g.b = append(g.b[:len(g.b):len(g.b)], p...)
	}
	return len(p), nil
}

func (g *refStaged) ReadAt(p []byte, off int64) (int, error) {
	g.s.mu.Lock()
	defer g.s.mu.Unlock()
	if err := g.gone(); err != nil {
		return 0, err
	}
	b := g.b
	if g.s.bug == "does not read back what came last" {
		b = b[:len(b)&^0xff]
	}
	return readAt(b, p, off)
}

func (g *refStaged) Size() int64 {
	g.s.mu.Lock()
	defer g.s.mu.Unlock()
	return int64(len(g.b))
}

func (g *refStaged) Abort() {
	g.s.mu.Lock()
	defer g.s.mu.Unlock()
	if g.s.bug != "ignores Abort" {
		g.end()
	}
}

// checkStaged is the error of a message with a staged body, which it marks in taken. The
// lock is held.
func (s *refStore) checkStaged(m mailq.Message, taken map[any]bool) (size int64, err error) {
	g, ok := m.Staged.(*refStaged)
	if !ok || g.s != s && s.bug != "takes another store's body" || g.over && s.bug != "takes a body twice" || taken[g] || m.Body != nil {
		return 0, &mailq.FieldError{Field: "Staged", Reason: "not of this store, taken, aborted, or beside a Body"}
	}
	if g.bad != nil && s.bug != "takes half a body" {
		return 0, g.bad
	}
	taken[g] = true
	return int64(len(g.b)), nil
}

func readAt(b, p []byte, off int64) (int, error) {
	if off < 0 {
		return 0, &mailq.FieldError{Field: "off", Reason: "negative"}
	}
	n := 0
	if off < int64(len(b)) {
		n = copy(p, b[off:])
	}
	if n < len(p) {
		return n, io.EOF
	}
	return n, nil
}
