package mailqtest

import (
	"errors"
	"fmt"
	"slices"
	"strings"

	"github.com/mtawal/mtawal/mailq"
)

// check fails unless the identity of Stats holds and Stats, Entries and Queues
// tell the same story. The identity always holds; the three are asked one after
// another, so they get time to agree (a Release does not wait).
func (e *env) check() {
	e.Helper()
	if err := identity(e.store.Stats()); err != nil {
		e.Error(err)
		return
	}
	e.eventually(func() error {
		was := e.store.Stats()
		list := e.entries(mailq.Filter{})
		queues := e.queues()
		is := e.store.Stats()
		return errors.Join(identity(is), agree(was, list, queues), agree(is, list, queues))
	})
}

// identity is the sentence that stands above mailq.Stats.
func identity(s mailq.Stats) error {
	sum := s.Used.Total() + s.Pending + s.Deferred + s.Held + s.Claimed + s.Damaged
	if s.Enqueued != sum {
		return fmt.Errorf("enqueued %d = used %d + pending %d + deferred %d + held %d + claimed %d + damaged %d does not hold",
			s.Enqueued, s.Used.Total(), s.Pending, s.Deferred, s.Held, s.Claimed, s.Damaged)
	}
	if s.WorkQueueLength != s.Enqueued-s.Used.Total() {
		return fmt.Errorf("WorkQueueLength is %d, want enqueued %d - used %d", s.WorkQueueLength, s.Enqueued, s.Used.Total())
	}
	if f := s.WorkQueueFloor; f.Hour < 0 || f.Hour > f.TenMinutes || f.TenMinutes > f.Minute || f.Minute > s.WorkQueueLength {
		return fmt.Errorf("WorkQueueFloor %+v does not rise from 0 to WorkQueueLength %d", f, s.WorkQueueLength)
	}
	if s.Unaccounted != 0 {
		return fmt.Errorf("%d recipients are unaccounted for", s.Unaccounted)
	}
	return nil
}

// tally adds an entry to the counts of its queue.
func tally(q *mailq.QueueInfo, x mailq.Entry) error {
	switch x.State {
	case mailq.Pending:
		q.Pending++
	case mailq.InDeferral:
		q.Deferred++
	case mailq.OnHold:
		q.Held++
	case mailq.Claimed:
		q.Claimed++
	case mailq.Damaged:
		q.Damaged++
	default:
		return fmt.Errorf("listing: Entries lists recipient %d of %v as %v", x.Recipient, x.ID, x.State)
	}
	if x.InDoubt {
		q.InDoubt++
	}
	if q.Oldest == 0 || x.ID < q.Oldest {
		q.Oldest, q.OldestAt = x.ID, x.EnqueuedAt
	}
	return nil
}

// agree compares the three ways to look at a store.
func agree(s mailq.Stats, list []mailq.Entry, queues []mailq.QueueInfo) error {
	var all mailq.QueueInfo
	messages := map[mailq.ID]bool{}
	byName := map[string]*mailq.QueueInfo{}
	for i, x := range list {
		if i > 0 && list[i-1].ID == x.ID && list[i-1].Recipient == x.Recipient {
			return fmt.Errorf("listing: Entries lists recipient %d of %v twice", x.Recipient, x.ID)
		}
		if byName[x.Queue] == nil {
			byName[x.Queue] = &mailq.QueueInfo{Name: x.Queue}
		}
		if err := errors.Join(tally(&all, x), tally(byName[x.Queue], x)); err != nil {
			return err
		}
		messages[x.ID] = true
	}
	stats := mailq.QueueInfo{Pending: s.Pending, Deferred: s.Deferred, Held: s.Held, Claimed: s.Claimed, InDoubt: s.InDoubt, Damaged: s.Damaged}
	if a := counts(all); a != counts(stats) {
		return fmt.Errorf("listing: Entries counts %+v, Stats %+v", a, counts(stats))
	}
	if s.Messages != int64(len(messages)) {
		return fmt.Errorf("listing: Entries lists %d messages, Stats says %d", len(messages), s.Messages)
	}
	if !slices.IsSortedFunc(queues, func(a, b mailq.QueueInfo) int { return strings.Compare(a.Name, b.Name) }) {
		return fmt.Errorf("listing: Queues is not sorted by name: %+v", queues)
	}
	for _, q := range queues {
		want := mailq.QueueInfo{Name: q.Name}
		if byName[q.Name] != nil {
			want = *byName[q.Name]
		}
		delete(byName, q.Name)
		if counts(q) != counts(want) || q.Oldest != want.Oldest || !q.OldestAt.Equal(want.OldestAt) {
			return fmt.Errorf("queue %q: Queues says %+v, Entries %+v", q.Name, q, want)
		}
	}
	for name := range byName {
		return fmt.Errorf("queue %q holds mail and is not in Queues", name)
	}
	return nil
}

// counts is what a queue counts, nothing else of it.
func counts(q mailq.QueueInfo) [6]int64 {
	return [6]int64{q.Pending, q.Deferred, q.Held, q.Claimed, q.InDoubt, q.Damaged}
}
