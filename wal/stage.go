package wal

import (
	"context"
	"fmt"
	"time"

	"github.com/mtawal/mtawal/mailq"
)

const (
	// stageChunk is how much of a staged body is kept in memory before it goes into the log, and
	// the longest that goes into its message's frame instead.
	stageChunk = 256 << 10
	// stageLives bounds the life of a body that is written to now and then, in
	// Options.StageTimeout.
	stageLives = 24
)

var (
	errTaken   = &mailq.FieldError{Field: "Staged", Reason: "is part of a message already"}
	errAborted = &mailq.FieldError{Field: "Staged", Reason: "was aborted"}
)

// Stage implements mailq.Store. Beside what Admit says, it is ErrFull while
// Options.StagedMax bodies are staged, or Options.StagedBytes of them. A body that nothing
// was written to for Options.StageTimeout is aborted.
//
// Up to 256 KiB of a body are kept in memory; what is more goes into the log, where
// it is garbage until its message is committed. Until then, or until the body is aborted,
// no segment of the log from its first byte on is given back.
func (s *Store) Stage(ctx context.Context, size int64) (Staged, error) {
	if size < 0 {
		return nil, &mailq.FieldError{Field: "size", Reason: "is negative"}
	}
	if err := ctx.Err(); err != nil {
		return nil, fmt.Errorf("staging a body: %w", context.Cause(ctx))
	}
	if err := s.Admit(size); err != nil {
		return nil, err
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if err := s.gate(false); err != nil {
		return nil, err
	}
	if s.staged >= s.opt.StagedMax {
		return nil, &mailq.FullError{Reason: fmt.Sprintf("%d bodies are staged", s.staged), Need: size}
	}
	if err := s.reserveStaged(size); err != nil {
		return nil, err
	}
	st := s.newStream(ctx)
	st.staged, st.reserved = true, size
	st.opened = s.opt.now()
	st.touched = st.opened
	s.staged++
	return st, nil
}

// reserveStaged counts bytes of staged bodies.
func (s *Store) reserveStaged(n int64) error {
	if have := s.stagedBytes.Add(n); have > s.opt.StagedBytes {
		s.stagedBytes.Add(-n)
		return &mailq.FullError{Reason: "staged bodies", Need: n, Free: s.opt.StagedBytes - have + n}
	}
	return nil
}

// writing is the user of a stream while something is written to it.
var writing any = "written to"

// use has the stream to oneself: for a Write, or for a batch.
func (st *stream) use(user any) error {
	st.checkDeadline()
	st.mu.Lock()
	defer st.mu.Unlock()
	switch {
	case st.over != nil:
		return st.over
	case st.bad != nil && user == writing:
		return st.bad
	case st.bad != nil:
		return fmt.Errorf("staged body: a Write to it failed: %w", st.bad)
	case st.user == writing:
		return &mailq.FieldError{Field: "Staged", Reason: "is being written to"}
	case st.user == user:
		return &mailq.FieldError{Field: "Staged", Reason: "is in the batch twice"}
	case st.user != nil:
		return &mailq.FieldError{Field: "Staged", Reason: "is in a batch"}
	}
	st.user = user
	return nil
}

// Write implements mailq.Staged. It waits while the log has no room; the context that was
// given to Stage bounds that.
func (st *stream) Write(p []byte) (int, error) {
	if err := st.use(writing); err != nil {
		return 0, err
	}
	n, err := st.write(p)
	st.mu.Lock()
	defer st.mu.Unlock()
	st.user, st.touched = nil, st.s.opt.now()
	if st.over != nil {
		err = st.over
	}
	st.bad = err
	st.drop()
	return n, err
}

// write returns how many bytes the stream has taken.
func (st *stream) write(p []byte) (n int, err error) {
	s := st.s
	if err := st.reserve(len(p)); err != nil {
		return 0, err
	}
	for len(p) > 0 {
		var k int
		if len(st.buf) == 0 && len(p) >= s.limits.stage {
			k = min(len(p), s.limits.chunk) // spared the way through the buffer
			err = st.put(st.ctx, p[:k], false)
		} else {
			k = st.fill(p)
			if len(st.buf) == s.limits.stage {
				err = st.put(st.ctx, st.buf, false)
			}
		}
		if err != nil {
			return n, err
		}
		n, p = n+k, p[k:]
	}
	return n, nil
}

// reserve refuses a Write of n bytes that can't become part of a message.
func (st *stream) reserve(n int) error {
	s := st.s
	if s.shut.Load() {
		s.mu.Lock()
		defer s.mu.Unlock()
		return s.gate(false)
	}
	if err := st.ctx.Err(); err != nil {
		return fmt.Errorf("writing to a staged body: %w", context.Cause(st.ctx))
	}
	st.mu.Lock()
	defer st.mu.Unlock()
	size := st.length + int64(len(st.buf)) + int64(n)
	switch {
	case st.over != nil:
		return st.over
	case size > s.opt.MaxMessage:
		return &mailq.LimitError{Field: "Body", Size: size, Max: s.opt.MaxMessage}
	case size <= st.reserved:
		return nil
	}
	if err := s.reserveStaged(size - st.reserved); err != nil {
		return err
	}
	st.reserved = size
	return nil
}

// fill buffers as much of p as the buffer takes. The buffer grows with what is in it: most
// bodies are short.
func (st *stream) fill(p []byte) int {
	st.mu.Lock()
	defer st.mu.Unlock()
	most := st.s.limits.stage
	p = p[:min(len(p), most-len(st.buf))]
	if need := len(st.buf) + len(p); need > cap(st.buf) {
		was := st.buf
		st.buf = append(st.s.stageBuf(need), was...)
		st.s.freeStageBuf(was)
	}
	st.buf = append(st.buf, p...)
	return len(p)
}

// drop gives the buffer of a stream that has ended back when nobody uses it any more. mu
// is held.
func (st *stream) drop() {
	if st.over == nil || st.user != nil {
		return
	}
	st.s.freeStageBuf(st.buf)
	st.buf = nil
}

// stageSize is the length of the buffers of a class, each eight times that of the one before.
func (s *Store) stageSize(class int) int {
	return s.limits.stage >> (3 * (len(s.stageBufs) - 1 - class))
}

// stageBuf returns an empty buffer with room for n bytes, at most limits.stage.
func (s *Store) stageBuf(n int) []byte {
	class := 0
	for s.stageSize(class) < n {
		class++
	}
	if b, ok := s.stageBufs[class].Get().(*[]byte); ok {
		return *b
	}
	return make([]byte, 0, s.stageSize(class))
}

func (s *Store) freeStageBuf(b []byte) {
	b = b[:0]
	for class := range s.stageBufs {
		if cap(b) == s.stageSize(class) {
			s.stageBufs[class].Put(&b)
			return
		}
	}
}

// Size implements mailq.Staged.
func (st *stream) Size() int64 {
	st.mu.Lock()
	defer st.mu.Unlock()
	return st.length + int64(len(st.buf))
}

// Abort implements mailq.Staged.
func (st *stream) Abort() { st.abort(errAborted) }

// abort ends a stream, or asks the batch that has it to do so if it is refused.
func (st *stream) abort(why error) {
	s := st.s
	s.mu.Lock()
	defer s.mu.Unlock()
	st.mu.Lock()
	st.unwanted = st.inBatch()
	wait := st.unwanted
	st.mu.Unlock()
	if !wait {
		st.end(why)
	}
}

// late says why a stream that nobody uses should end. mu is held.
func (st *stream) late(now time.Time) error {
	most := st.s.opt.StageTimeout
	switch {
	case !st.staged || st.over != nil || st.user != nil:
	case now.Sub(st.touched) >= most:
		return fmt.Errorf("staged body: nothing was written to it for %v: %w", most, context.DeadlineExceeded)
	case now.Sub(st.opened) >= stageLives*most:
		return fmt.Errorf("staged body: not used within %v: %w", stageLives*most, context.DeadlineExceeded)
	}
	return nil
}

func (st *stream) checkDeadline() {
	st.mu.Lock()
	why := st.late(st.s.opt.now())
	st.mu.Unlock()
	if why != nil {
		st.abort(why)
	}
}

// endLate ends the streams that are over their deadline.
func (s *Store) endLate() {
	s.mu.Lock()
	defer s.mu.Unlock()
	now := s.opt.now()
	for st := range s.streams {
		st.mu.Lock()
		why, size := st.late(now), st.length
		st.mu.Unlock()
		if why != nil {
			st.end(why)
			s.opt.Logger.Warn("a staged body was given up", "bytes in the log", size, "err", why)
		}
	}
}
