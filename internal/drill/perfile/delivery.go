package perfile

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"slices"
	"sync"
	"time"

	"github.com/mtawal/mtawal/mailq"
)

// claim is the spool's side of a delivery. Its maps are under the store's mu.
type claim struct {
	store    *Store
	consumer *consumer
	job      *job
	manual   bool
	open     map[int]*slot // recipients not settled, by index
	started  map[int]bool
	over     bool
	ctx      context.Context
	cancel   context.CancelFunc
}

// Start notes, in memory, that delivery begins.
func (c *claim) Start(ctx context.Context, recipients []int) error {
	c.store.mu.Lock()
	defer c.store.mu.Unlock()
	if c.over {
		return mailq.ErrSettled
	}
	if len(recipients) == 0 {
		for i := range c.open {
			c.started[i] = true
		}
	}
	for _, i := range recipients {
		if c.open[i] == nil {
			return mailq.ErrSettled
		}
		c.started[i] = true
	}
	return nil
}

// Settle records outcomes in memory. Used-marks go onto the worker's list.
func (c *claim) Settle(ctx context.Context, outcomes []mailq.Outcome) error {
	s := c.store
	s.mu.Lock()
	defer s.mu.Unlock()
	switch {
	case s.failed != nil:
		return s.failed
	case s.closed:
		return mailq.ErrClosed
	case c.over:
		return mailq.ErrSettled
	case len(outcomes) == 0:
		return &mailq.FieldError{Field: "Outcomes", Reason: "is empty"}
	}
	byIndex := map[int]mailq.Outcome{}
	for n, o := range outcomes {
		switch o.Result {
		case mailq.Delivered, mailq.Failed, mailq.Expired, mailq.Removed, mailq.Deferred, mailq.Uncertain:
		default:
			return fmt.Errorf("result %v: %w", o.Result, errors.ErrUnsupported)
		}
		if o.Result == mailq.Deferred && o.Until.IsZero() {
			return &mailq.FieldError{Field: fmt.Sprintf("Outcomes[%d].Until", n), Reason: "is not set"}
		}
		if o.Recipient == mailq.All {
			for i := range c.open {
				if _, named := byIndex[i]; !named {
					byIndex[i] = o
				}
			}
			continue
		}
		if _, twice := byIndex[o.Recipient]; twice {
			return &mailq.FieldError{Field: fmt.Sprintf("Outcomes[%d]", n), Reason: "names a recipient again"}
		}
		if c.open[o.Recipient] == nil {
			return mailq.ErrSettled
		}
		byIndex[o.Recipient] = o
	}
	var bits uint64
	var again []*job
	for i, o := range byIndex {
		sl := c.open[i]
		delete(c.open, i)
		s.claimed--
		if o.Result.IsUsed() {
			bits |= 1 << i
			s.countUsedLocked(o.Result, sl)
			continue
		}
		back := *sl
		back.attempts++
		s.setDoubtLocked(&back, sl.inDoubt || o.Result == mailq.Uncertain)
		if o.Note != nil {
			back.note = slices.Clone(o.Note)
		}
		again = append(again, &job{msg: c.job.msg, queue: c.job.queue, recipients: []slot{back}, due: o.Until})
	}
	for _, j := range again {
		s.putLocked(j)
	}
	if bits != 0 {
		s.marks.add(mark{msg: c.job.msg, bits: bits})
	}
	if len(c.open) == 0 {
		c.endLocked()
	}
	return nil
}

func (s *Store) setDoubtLocked(sl *slot, doubt bool) {
	if sl.inDoubt && !doubt {
		s.inDoubt--
	}
	if !sl.inDoubt && doubt {
		s.inDoubt++
	}
	sl.inDoubt = doubt
}

func (s *Store) countUsedLocked(r mailq.Result, sl *slot) {
	s.setDoubtLocked(sl, false)
	switch r {
	case mailq.Delivered:
		s.used.Delivered++
	case mailq.Failed:
		s.used.Failed++
	case mailq.Expired:
		s.used.Expired++
	case mailq.Removed:
		s.used.Removed++
	}
}

// Release ends the claim without an outcome.
func (c *claim) Release() {
	s := c.store
	s.mu.Lock()
	defer s.mu.Unlock()
	if c.over {
		return
	}
	j := &job{msg: c.job.msg, queue: c.job.queue, due: time.Time{}}
	for i, sl := range c.open {
		s.claimed--
		back := *sl
		if !c.manual || c.started[i] {
			back.attempts++
			s.setDoubtLocked(&back, true)
		}
		j.recipients = append(j.recipients, back)
		delete(c.open, i)
	}
	if len(j.recipients) > 0 {
		s.putLocked(j)
	}
	c.endLocked()
}

// Context ends when the claim has ended.
func (c *claim) Context() context.Context { return c.ctx }

func (c *claim) endLocked() {
	c.over = true
	c.consumer.out--
	delete(c.store.claims, c)
	c.cancel()
	c.store.announceLocked()
}

// body reads from the message's file, which is open from the first read to the
// end of the claim.
type body struct {
	claim *claim

	mu  sync.Mutex
	f   *os.File
	off int64 // where the body begins
}

func (b *body) Size() int64 { return b.claim.job.msg.head.Body }

func (b *body) file() (*os.File, error) {
	if b.claim.ctx.Err() != nil {
		return nil, mailq.ErrSettled
	}
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.f != nil {
		return b.f, nil
	}
	m := b.claim.job.msg
	m.mu.Lock()
	f, err := os.Open(filepath.Join(b.claim.store.dir, name(m.id, m.marks)))
	m.mu.Unlock()
	if err != nil {
		return nil, fmt.Errorf("open message %s: %w", m.id, err)
	}
	if _, b.off, err = readHead(f); err != nil {
		f.Close()
		return nil, fmt.Errorf("read message %s: %w", m.id, err)
	}
	b.f = f
	context.AfterFunc(b.claim.ctx, func() { f.Close() })
	return f, nil
}

func (b *body) ReadAt(p []byte, off int64) (int, error) {
	f, err := b.file()
	if err != nil {
		return 0, err
	}
	return io.NewSectionReader(f, b.off, b.Size()).ReadAt(p, off)
}

func (b *body) WriteTo(w io.Writer) (int64, error) {
	f, err := b.file()
	if err != nil {
		return 0, err
	}
	return io.Copy(w, io.NewSectionReader(f, b.off, b.Size()))
}

func (b *body) View(off, n int64, f func([]byte) error) error {
	p := make([]byte, n)
	if _, err := b.ReadAt(p, off); err != nil {
		return err
	}
	return f(p)
}
