package wal

import (
	"errors"
	"fmt"

	"github.com/mtawal/mtawal/state"
)

// ErrUnaccounted: what the store counts does not add up, or is not what its log says. It is a
// bug of the store, or of its memory; no mail is known to be lost by it.
var ErrUnaccounted = errors.New("recipients are unaccounted for")

// totals is what the state in memory counts at a position.
type totals struct {
	counts   state.Counts
	messages int64
}

// auditStep is how many queues are looked at under the lock at a time.
const auditStep = 1024

// auditSays bounds how many findings are logged.
const auditSays = 8

// audit checks, at each checkpoint, that every recipient is accounted for: that the newest
// checkpoint, which was made from files, counts what memory counted at its position; that
// Enqueued = Used + Pending + Deferred + Held + Claimed + Damaged; and that the same holds in each
// queue, where the left side is the recipients that came into it and were not used. What it finds
// is logged, stays in Stats.Unaccounted until the next one, and is the error. files says that
// memory and files differ: then nothing may be recycled on the word of either.
func (s *Store) audit(at totals) (files bool, err error) {
	f := &s.folds
	var off int64
	var errs []error
	differ := func(what string, have, want int64) {
		if have == want {
			return
		}
		off += max(have-want, want-have)
		if len(errs) < auditSays {
			errs = append(errs, fmt.Errorf("%s: counted are %d, there should be %d", what, have, want))
		}
	}
	if c := f.newest; c != nil {
		if c.Counts != at.counts || c.Messages() != at.messages {
			files = true
			off++
			errs = append(errs, fmt.Errorf("%s counts %+v in %d messages, memory %+v in %d", c.Name, c.Counts, c.Messages(), at.counts, at.messages))
		}
	}
	s.mu.Lock()
	n := s.sched.counts
	c := s.table.Counts
	differ("in all", n[classPending]+n[classDeferred]+n[classHeld]+n[classClaimed]+n[classDamaged], c.Enqueued-c.Used.Total())
	differ("in doubt", s.sched.doubt, c.InDoubt)
	for i := 0; i < s.table.Queues(); i++ {
		if i%auditStep == auditStep-1 {
			s.mu.Unlock()
			s.mu.Lock()
		}
		if i >= s.table.Queues() || s.table.Queue(uint32(i)) == nil {
			continue
		}
		q, have := s.table.Queue(uint32(i)), int64(0)
		if e := s.known(i); e != nil {
			k := &e.counts
			have = k[classPending] + k[classDeferred] + k[classHeld] + k[classClaimed] + k[classDamaged]
		}
		differ("queue "+q.Name, have, q.Live)
	}
	s.mu.Unlock()
	s.unaccounted.Store(off)
	if len(errs) > 0 {
		err = fmt.Errorf("%w: %w", ErrUnaccounted, errors.Join(errs...))
		s.opt.Logger.Error("the store does not add up", "dir", s.dir.Path(), "recipients", off, "err", err)
	}
	return files, err
}
