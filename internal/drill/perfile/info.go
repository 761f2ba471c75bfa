package perfile

import (
	"context"
	"errors"
	"fmt"
	"iter"

	"github.com/mtawal/mtawal/mailq"
)

// Submit commits before it returns.
func (s *Store) Submit(b mailq.Batch) mailq.Ticket {
	t := &ticket{done: make(chan struct{})}
	t.ids, t.err = s.Commit(context.Background(), b)
	close(t.done)
	return t
}

type ticket struct {
	done chan struct{}
	ids  []mailq.ID
	err  error
}

func (t *ticket) Done() <-chan struct{} { return t.done }

func (t *ticket) Wait(ctx context.Context) ([]mailq.ID, error) { return t.ids, t.err }

// Stats returns totals. Enqueued and Used count since Open, and Enqueued counts
// what Open found. WorkQueueLength is the number of recipients not marked on
// disk: with Pending, Deferred and Claimed at zero it shows the marks that the
// worker has not got to.
func (s *Store) Stats() mailq.Stats {
	s.mu.Lock()
	defer s.mu.Unlock()
	return mailq.Stats{
		Enqueued: s.enqueued, Used: s.used, Pending: s.pending, Deferred: s.waiting, Claimed: s.claimed, InDoubt: s.inDoubt,
		WorkQueueLength: s.marks.unmarked.Load(),
	}
}

// Admit refuses nothing that Enqueue would take.
func (s *Store) Admit(size int64) error {
	if size < 0 {
		return &mailq.FieldError{Field: "size", Reason: "is negative"}
	}
	if size > bodyMax {
		return &mailq.LimitError{Field: "Body", Size: size, Max: bodyMax}
	}
	return nil
}

// Stage is not supported.
func (s *Store) Stage(ctx context.Context, size int64) (mailq.Staged, error) {
	return nil, fmt.Errorf("stage: %w", errors.ErrUnsupported)
}

// MarkUsed is not supported.
func (s *Store) MarkUsed(ctx context.Context, id mailq.ID, recipients ...int) error {
	return fmt.Errorf("mark used: %w", errors.ErrUnsupported)
}

// SetQueue is not supported.
func (s *Store) SetQueue(ctx context.Context, queue string, q mailq.QueueState) error {
	return fmt.Errorf("set queue: %w", errors.ErrUnsupported)
}

// Flush is not supported.
func (s *Store) Flush(ctx context.Context, queue string) error {
	return fmt.Errorf("flush: %w", errors.ErrUnsupported)
}

// Entries is not supported: the sequence is one error.
func (s *Store) Entries(ctx context.Context, f mailq.Filter) iter.Seq2[mailq.Entry, error] {
	return func(yield func(mailq.Entry, error) bool) {
		yield(mailq.Entry{}, fmt.Errorf("entries: %w", errors.ErrUnsupported))
	}
}

// Queues is not supported: the sequence is one error.
func (s *Store) Queues(ctx context.Context) iter.Seq2[mailq.QueueInfo, error] {
	return func(yield func(mailq.QueueInfo, error) bool) {
		yield(mailq.QueueInfo{}, fmt.Errorf("queues: %w", errors.ErrUnsupported))
	}
}

var _ mailq.Store = (*Store)(nil)
