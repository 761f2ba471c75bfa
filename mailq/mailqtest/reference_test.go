package mailqtest

import (
	"cmp"
	"context"
	"crypto/rand"
	"fmt"
	"iter"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/mtawal/mtawal/mailq"
)

// The reference engine: one lock, plain maps, every choice made by looking at
// everything. It has all features, keeps its stores in a map by directory, and
// proves that the suite can be passed. A mutant is the same engine with one
// rule broken (bug), and proves that the suite can be failed.

const (
	refMaxMessage    = 8 << 20
	refMaxRecipients = 2000
)

var refCaps = Caps{
	InDoubt: true, Edits: true, NotBefore: true, Flush: true, Holds: true, QueueStates: true, Keys: true, Expiry: true,
	Replacement: true, Staging: true, Priority: true, Groups: true,
	Crash: func(t *testing.T, dir string, s mailq.Store) string {
		s.(*refStore).end(true)
		return dir
	},
	MaxMessage: refMaxMessage, MaxRecipients: refMaxRecipients,
}

// refDisk is what outlives a store: it is reached by directory.
type refDisk struct {
	uuid     string
	lastID   mailq.ID
	reserved map[mailq.ID]bool // by NewID, not used yet
	messages []*refMessage     // in commit order; the dead are gone
	keys     map[string]mailq.ID
	queues   map[string]mailq.QueueState
	enqueued int64
	used     mailq.UsedCounts
	unclean  int64
	open     bool
}

type refMessage struct {
	mailq.Message
	at    time.Time
	rcpts []*refRcpt
}

type refRcpt struct {
	mailq.Recipient // NotBefore: when a deferred one is due
	m               *refMessage
	index           int
	attempts        int
	inDoubt, held   bool
	late            bool // deferred when it had expired already
	used            mailq.Result
	claim           *refClaim      // who has it
	started         bool           // by its claim
	edit            *mailq.Outcome // applies when it comes back
}

var refDisks sync.Map // directory: *refDisk

type refStore struct {
	bug       string
	mu        sync.Mutex
	d         *refDisk
	closed    bool
	draining  bool
	wake      chan struct{} // closed and made anew when anything changes
	consumers []*refConsumer
	claims    map[*refClaim]bool
	staged    map[*refStaged]bool
	commits   int64
	turn      int64          // counts claims, for fairness
	skipped   map[string]int // claims of a queue since one was of the oldest
}

// refOpen opens the engine with one rule broken, or none.
func refOpen(bug string) OpenFunc {
	return func(dir string) (mailq.Store, error) {
		v, _ := refDisks.LoadOrStore(dir, &refDisk{uuid: rand.Text(), reserved: map[mailq.ID]bool{}, keys: map[string]mailq.ID{}, queues: map[string]mailq.QueueState{}})
		d := v.(*refDisk)
		if d.open {
			return nil, fmt.Errorf("open %s: it is open", dir)
		}
		d.open = true
		return &refStore{bug: bug, d: d, wake: make(chan struct{}), claims: map[*refClaim]bool{}, skipped: map[string]int{}, staged: map[*refStaged]bool{}}, nil
	}
}

// TestReference runs the suite against the reference engine.
func TestReference(t *testing.T) { Run(t, refOpen(""), refCaps) }

// changed wakes everyone who waits. The lock is held, as in all that follows.
func (s *refStore) changed() {
	close(s.wake)
	s.wake = make(chan struct{})
}

// end closes the store, as a crash does it or in order.
func (s *refStore) end(crashed bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.closed {
		return
	}
	s.closed = true
	for c := range s.claims {
		s.giveBack(c, mailq.ErrClosed)
	}
	if crashed {
		s.d.unclean++
	}
	switch s.bug {
	case "forgets on reopen":
		if n := len(s.d.messages); n > 0 {
			s.d.messages = s.d.messages[:n-1]
		}
	case "forgets deferrals on reopen":
		s.each(func(r *refRcpt) { r.NotBefore = time.Time{} })
	case "forgets counts on reopen":
		s.d.used.Removed = 0
	case "repeats IDs after a crash":
		if crashed {
			s.d.lastID -= mailq.ID(len(s.d.reserved))
		}
	}
	if s.bug == "leaves a goroutine" {
		time.AfterFunc(0, func() { select {} })
	}
	s.d.open = false
	s.changed()
}

func (s *refStore) Close() error { s.end(false); return nil }

func (s *refStore) Shutdown(ctx context.Context) error {
	s.mu.Lock()
	s.draining = true
	s.changed()
	for !s.closed && len(s.claims) > 0 && ctx.Err() == nil && s.bug != "does not wait in Shutdown" {
		wake := s.wake
		s.mu.Unlock()
		select {
		case <-wake:
		case <-ctx.Done():
		}
		s.mu.Lock()
	}
	s.mu.Unlock()
	s.end(false)
	return ctx.Err()
}

func (s *refStore) NewID() mailq.ID {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.closed {
		return 0
	}
	s.d.lastID++
	s.d.reserved[s.d.lastID] = true
	return s.d.lastID
}

// each calls f with every recipient that is not used.
func (s *refStore) each(f func(*refRcpt)) {
	for _, m := range s.d.messages {
		for _, r := range m.rcpts {
			if r.used == 0 {
				f(r)
			}
		}
	}
}

func (r *refRcpt) expired(now time.Time) bool {
	return !r.m.ExpiresAt.IsZero() && !r.m.ExpiresAt.After(now)
}

func (r *refRcpt) state(now time.Time) mailq.State {
	switch {
	case r.used != 0:
		return mailq.Used
	case r.claim != nil:
		return mailq.Claimed
	case r.held:
		return mailq.OnHold
	case r.NotBefore.After(now) && (r.late || !r.expired(now)):
		return mailq.InDeferral
	}
	return mailq.Pending
}

func (s *refStore) Admit(size int64) error {
	if size < 0 {
		return &mailq.FieldError{Field: "size", Reason: "negative"}
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.closed || s.draining {
		return mailq.ErrClosed
	}
	return tooLarge("Body", size, refMaxMessage)
}

func (s *refStore) Stats() mailq.Stats {
	s.mu.Lock()
	defer s.mu.Unlock()
	t := mailq.Stats{Enqueued: s.d.enqueued, Used: s.d.used, Commits: s.commits, UncleanOpens: s.d.unclean, Messages: int64(len(s.d.messages))}
	var q mailq.QueueInfo
	for _, x := range s.list(mailq.Filter{}) {
		tally(&q, x)
	}
	t.Pending, t.Deferred, t.Held, t.Claimed, t.InDoubt = q.Pending, q.Deferred, q.Held, q.Claimed, q.InDoubt
	for g := range s.staged {
		t.Staged++
		t.StagedBytes += max(g.size, int64(len(g.b)))
	}
	t.WorkQueueLength = t.Enqueued - t.Used.Total()
	for _, m := range s.d.messages {
		if t.OldestPin.Since.IsZero() || m.at.Before(t.OldestPin.Since) {
			t.OldestPin = mailq.Pin{Kind: mailq.PinMessage, ID: m.ID, Since: m.at}
		}
	}
	if s.bug == "counts a claim as pending too" {
		t.Pending += t.Claimed
	}
	return t
}

// list is what Entries will list, by ID.
func (s *refStore) list(f mailq.Filter) []mailq.Entry {
	var all []mailq.Entry
	now := time.Now()
	s.each(func(r *refRcpt) {
		x := mailq.Entry{
			ID: r.m.ID, Recipient: r.index, Queue: r.Queue, Address: r.Address, Note: r.Note, State: r.state(now), InDoubt: r.inDoubt, Attempts: r.attempts,
			NotBefore: r.NotBefore, EnqueuedAt: r.m.at, ExpiresAt: r.m.ExpiresAt, Priority: r.m.Priority, Envelope: r.m.Envelope, Size: int64(len(r.m.Body)),
			Token: s.d.uuid + "-" + r.m.ID.String(),
		}
		if f.ID != 0 && f.ID != x.ID || f.Queue != "" && f.Queue != x.Queue || !strings.HasPrefix(x.Queue, f.Prefix) ||
			f.State != 0 && f.State != x.State || f.InDoubt && !x.InDoubt && s.bug != "ignores a filter" {
			return
		}
		all = append(all, x)
	})
	slices.SortStableFunc(all, func(a, b mailq.Entry) int { return cmp.Compare(a.ID, b.ID) })
	return all
}

func (s *refStore) Entries(ctx context.Context, f mailq.Filter) iter.Seq2[mailq.Entry, error] {
	return func(yield func(mailq.Entry, error) bool) {
		s.mu.Lock()
		list, err := s.list(f), s.usable(ctx)
		s.mu.Unlock()
		if err != nil {
			yield(mailq.Entry{}, err)
			return
		}
		for i, x := range list {
			if f.Limit > 0 && i == f.Limit || !yield(x, nil) {
				return
			}
		}
	}
}

// usable is the error of a call that only reads.
func (s *refStore) usable(ctx context.Context) error {
	if s.closed {
		return mailq.ErrClosed
	}
	return ctx.Err()
}

func (s *refStore) Queues(ctx context.Context) iter.Seq2[mailq.QueueInfo, error] {
	return func(yield func(mailq.QueueInfo, error) bool) {
		s.mu.Lock()
		err := s.usable(ctx)
		byName := map[string]*mailq.QueueInfo{}
		for name, state := range s.d.queues {
			byName[name] = &mailq.QueueInfo{Name: name, State: state}
		}
		for _, x := range s.list(mailq.Filter{}) {
			if byName[x.Queue] == nil {
				byName[x.Queue] = &mailq.QueueInfo{Name: x.Queue}
			}
			tally(byName[x.Queue], x)
		}
		s.mu.Unlock()
		if err != nil {
			yield(mailq.QueueInfo{}, err)
			return
		}
		var names []string
		for name := range byName {
			names = append(names, name)
		}
		slices.Sort(names)
		for _, name := range names {
			if !yield(*byName[name], nil) {
				return
			}
		}
	}
}

func (s *refStore) SetQueue(_ context.Context, queue string, q mailq.QueueState) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	err := badName("queue", queue)
	switch {
	case s.closed:
		return mailq.ErrClosed
	case err != nil:
		return err
	case q.Mode > mailq.Suspended:
		return &mailq.FieldError{Field: "Mode", Reason: "no such mode"}
	case q.Doubt > mailq.DeferDoubt:
		return &mailq.FieldError{Field: "Doubt", Reason: "no such policy"}
	case q.DoubtDelay < 0:
		return &mailq.FieldError{Field: "DoubtDelay", Reason: "negative"}
	}
	s.d.queues[queue] = q
	if q == (mailq.QueueState{}) {
		delete(s.d.queues, queue)
	}
	s.changed()
	return nil
}

func (s *refStore) Flush(_ context.Context, queue string) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.closed {
		return mailq.ErrClosed
	}
	if err := badName("queue", queue); err != nil {
		return err
	}
	s.each(func(r *refRcpt) {
		if r.Queue == queue || s.bug == "flushes every queue" {
			r.NotBefore = time.Time{}
		}
	})
	s.changed()
	return nil
}
