package wal

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/mtawal/mtawal/internal/barrier"
	"github.com/mtawal/mtawal/journal"
	"github.com/mtawal/mtawal/mailq"
	"github.com/mtawal/mtawal/segment"
)

const (
	// closeWait bounds how long Close waits for a write that is under way.
	closeWait = 5 * time.Second
	// closeFold bounds what Close spends on a last checkpoint: the bytes of log, and of the
	// checkpoint before, that it may have to read.
	closeFold = 256 << 20
	// closeFoldWait bounds how long that takes, on a disk that is slow.
	closeFoldWait = 2 * time.Second
)

// Close implements mailq.Store. It returns within seconds, also while a write hangs; the
// lock on the directory is let go only when that write has returned, whenever that is.
func (s *Store) Close() (err error) {
	s.closing.Do(func() { // whoever comes second waits here, and gets nil
		finished := make(chan error, 1)
		s.beginClose()
		go func() { finished <- s.finishClose() }()
		t := time.NewTimer(closeWait)
		defer t.Stop()
		select {
		case err = <-finished:
			// A snapshot that was under way removes what it made; if its target hangs, without us.
			copied := make(chan struct{})
			go func() {
				s.copies.Wait()
				close(copied)
			}()
			select {
			case <-copied:
			case <-t.C:
			}
		case <-t.C:
			if barrier.Gone(barrier.LockOutlives) {
				_ = s.lock.Close()
			}
			err = fmt.Errorf("a write has hung for %v; the directory stays locked until it returns: %w", closeWait, ErrUnknown)
		}
	})
	return err
}

// beginClose shuts the store: nothing more is taken, and what was started and not settled
// is put in doubt with the last commit.
func (s *Store) beginClose() {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.phase >= closing {
		return
	}
	s.doubtAll()
	s.phase = closing
	s.shut.Store(true)
	s.stop(ErrClosed)
	s.endAll(ErrClosed)
	s.wakeConsumers()
	s.roomy.Broadcast()
	for _, c := range s.claimed {
		if c.body != nil {
			c.body.end(ErrClosed)
		}
		c.endContext(ErrClosed)
	}
	s.poke()
}

// doubtAll puts a settle record for every started claim into the group that fills, as far as
// it has room: the claim table tells the rest to the next owner.
func (s *Store) doubtAll() {
	seen := make(map[*claim]bool)
	for _, c := range s.claimed {
		if seen[c] {
			continue
		}
		seen[c] = true
		var outcomes []Outcome
		for i := range c.rcpts {
			if r := &c.rcpts[i]; r.st == slotOpen && r.started {
				outcomes = append(outcomes, Outcome{Recipient: int(r.index), Result: Uncertain})
			}
		}
		if len(outcomes) == 0 {
			continue
		}
		t := newTicket(s)
		t.settle = []Settlement{{Delivery: mailq.NewDelivery(Delivery{}, c), Outcomes: outcomes}}
		if s.plan(t) != nil {
			continue
		}
		if table, body := t.need(); !s.makeRoom(table, body) {
			s.rollback(t)
			continue
		}
		g := s.place(t, s.filling)
		g.encoding.Done()
	}
}

// finishClose waits for the committer, brings the log to a clean end and lets everything
// go.
func (s *Store) finishClose() error {
	<-s.done
	s.bg.Wait()
	var errs []error
	s.mu.Lock()
	whole := s.phase == closing
	if whole {
		// The committer may have ended on a full disk with work left.
		whole = s.filling != nil
	} else {
		errs = append(errs, s.failure)
	}
	// Whoever held a claim finds it ended.
	for _, c := range s.claimed {
		if c.body != nil {
			c.body.end(ErrClosed)
		}
		c.endContext(ErrClosed)
	}
	s.mu.Unlock()
	var end segment.Pos
	if whole {
		// The Marker first of all: it turns the last commit into a promise.
		if err := s.lastMarker(); err != nil {
			errs = append(errs, fmt.Errorf("closing the log: %w", err))
		} else {
			end = s.log.End()
			s.mu.Lock() // a claim may end meanwhile, of a body that can't be read say
			s.claims.setSynced(end)
			s.mu.Unlock()
			if s.folds.grown.Load() > 0 && s.folds.grown.Load()+s.folds.size.Load() <= closeFold {
				ctx, cancel := context.WithTimeout(context.Background(), closeFoldWait)
				defer cancel()
				if err := s.foldWithin(ctx); err != nil {
					s.opt.Logger.Warn("no checkpoint at close; the log is whole without it", "err", err)
				}
			}
		}
	}
	s.mu.Lock()
	s.claims.end(end)
	s.mu.Unlock()
	errs = append(errs, s.claims.close(end), s.folds.close(), s.log.Close(), s.lock.Close(), s.dir.Close())
	return errors.Join(errs...)
}

func (s *Store) lastMarker() error {
	if s.log.Last().Kind == segment.Marker {
		return nil
	}
	d := journal.Draft{Kind: segment.Marker, Table: segment.Aligned(2 * segment.AlignmentMin)[:segment.FrameHeaderSize], Lease: s.leased}
	h, err := s.log.Append(&d)
	if err != nil {
		return err
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if err := s.table.ApplyFrame(&segment.Frame{FrameHeader: h}); err != nil {
		return err
	}
	s.folds.grown.Add(h.Len)
	return nil
}

func (f *foldState) close() error {
	f.running.Lock()
	defer f.running.Unlock()
	var errs []error
	if f.newest != nil {
		errs = append(errs, f.newest.Close())
	}
	if f.older != nil {
		errs = append(errs, f.older.Close())
	}
	return errors.Join(errs...)
}
