package perfile

import (
	"context"
	"errors"
	"fmt"
	"hash/crc32"
	"math"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/mtawal/mtawal/mailq"
)

// Store is an open spool. It implements [mailq.Store]; all methods may be called
// by any number of goroutines.
type Store struct {
	dir     string
	dirFile *os.File // for syncs of the directory

	mu       sync.Mutex
	changed  chan struct{} // closed and replaced when something became due
	nextID   mailq.ID
	queues   map[string]*queue
	order    []string // names of queues, the order they are served in
	turn     int      // where in order the next claim looks first
	deferred []*job   // sorted by due
	wakeup   *time.Timer
	used     mailq.UsedCounts
	pending  int64
	waiting  int64 // deferred
	claimed  int64
	inDoubt  int64
	enqueued int64
	claims   map[*claim]struct{}
	closing  bool
	closed   bool
	failed   error

	marks marker
}

type queue struct{ due []*job }

// message is a file of the spool. Its name changes with its marks.
type message struct {
	id   mailq.ID
	head head

	mu    sync.Mutex // held while the file is renamed or opened
	marks uint64     // as the name on disk has it
}

// job is what waits: some recipients of a message that are in one queue.
type job struct {
	msg        *message
	queue      string
	recipients []slot
	due        time.Time
}

type slot struct {
	index    int
	note     []byte
	attempts int
	inDoubt  bool
}

// Open opens a spool, and makes the directory if it is missing. Every recipient
// that is not marked used is due at once.
func Open(dir string) (*Store, error) {
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return nil, fmt.Errorf("make the spool: %w", err)
	}
	d, err := os.Open(dir)
	if err != nil {
		return nil, fmt.Errorf("open the spool: %w", err)
	}
	s := &Store{
		dir: dir, dirFile: d, changed: make(chan struct{}), queues: map[string]*queue{}, claims: map[*claim]struct{}{},
		// Above all that an earlier run can have handed out, as long as the
		// clock does not go back.
		nextID: mailq.ID(time.Now().UnixNano()),
	}
	s.wakeup = time.AfterFunc(time.Duration(math.MaxInt64), s.promote)
	s.marks.init(s)
	if err := s.load(); err != nil {
		s.wakeup.Stop()
		d.Close()
		return nil, err
	}
	go s.marks.run()
	return s, nil
}

// load rebuilds the queues from the names and heads of the files.
func (s *Store) load() error {
	list, err := os.ReadDir(s.dir) // sorted, so by ID
	if err != nil {
		return fmt.Errorf("list the spool: %w", err)
	}
	for _, e := range list {
		path := filepath.Join(s.dir, e.Name())
		if strings.HasPrefix(e.Name(), tmpPrefix) || strings.HasSuffix(e.Name(), usedSuffix) {
			if err := os.Remove(path); err != nil {
				return fmt.Errorf("clean the spool: %w", err)
			}
			continue
		}
		id, marks, ok := parseName(e.Name())
		if !ok {
			return fmt.Errorf("the spool holds a file that is not its own: %q", e.Name())
		}
		f, err := os.Open(path)
		if err != nil {
			return fmt.Errorf("open a message file: %w", err)
		}
		h, _, err := readHead(f)
		f.Close()
		if err != nil {
			return fmt.Errorf("read message %s: %w", id, err)
		}
		s.nextID = max(s.nextID, id+1)
		s.add(&message{id: id, head: h, marks: marks})
	}
	return nil
}

// add queues the recipients of a message that are not marked. It is called with
// mu held, or before anyone else has the store.
func (s *Store) add(m *message) {
	var jobs []*job
next:
	for i, r := range m.head.Recipients {
		if m.marks&(1<<i) != 0 {
			continue
		}
		s.enqueued++
		s.marks.unmarked.Add(1)
		for _, j := range jobs {
			if j.queue == r.Queue && j.due.Equal(r.NotBefore) {
				j.recipients = append(j.recipients, slot{index: i, note: r.Note})
				continue next
			}
		}
		jobs = append(jobs, &job{msg: m, queue: r.Queue, recipients: []slot{{index: i, note: r.Note}}, due: r.NotBefore})
	}
	for _, j := range jobs {
		s.putLocked(j)
	}
}

// putLocked makes a job wait, in its queue or for its time.
func (s *Store) putLocked(j *job) {
	n := int64(len(j.recipients))
	if j.due.After(time.Now()) {
		s.waiting += n
		at, _ := slices.BinarySearchFunc(s.deferred, j, func(a, b *job) int { return a.due.Compare(b.due) })
		s.deferred = slices.Insert(s.deferred, at, j)
		if at == 0 && !s.closed {
			s.wakeup.Reset(time.Until(j.due))
		}
		return
	}
	q := s.queues[j.queue]
	if q == nil {
		q = &queue{}
		s.queues[j.queue] = q
		s.order = append(s.order, j.queue)
	}
	q.due = append(q.due, j)
	s.pending += n
	s.announceLocked()
}

// announceLocked wakes whoever waits for work.
func (s *Store) announceLocked() {
	close(s.changed)
	s.changed = make(chan struct{})
}

// promote moves what is due from the deferred to its queue.
func (s *Store) promote() {
	s.mu.Lock()
	defer s.mu.Unlock()
	now := time.Now()
	n := 0
	for n < len(s.deferred) && !s.deferred[n].due.After(now) {
		n++
	}
	ripe := slices.Clone(s.deferred[:n])
	s.deferred = slices.Delete(s.deferred, 0, n)
	for _, j := range ripe {
		s.waiting -= int64(len(j.recipients))
		s.putLocked(j)
	}
	if len(s.deferred) > 0 && !s.closed {
		s.wakeup.Reset(time.Until(s.deferred[0].due))
	}
}

// NewID reserves an ID.
func (s *Store) NewID() mailq.ID {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.nextID++
	return s.nextID - 1
}

// Enqueue writes a message. nil: durable.
func (s *Store) Enqueue(ctx context.Context, m mailq.Message) (mailq.ID, error) {
	ids, err := s.Commit(ctx, mailq.Batch{Enqueue: []mailq.Message{m}})
	if err != nil {
		return 0, err
	}
	return ids[0], nil
}

// Commit enqueues, then settles. A spool of files can do no better: the two are
// not one, and a death in between leaves the first alone.
func (s *Store) Commit(ctx context.Context, b mailq.Batch) ([]mailq.ID, error) {
	if len(b.Edit) > 0 {
		return nil, fmt.Errorf("edit: %w", errors.ErrUnsupported)
	}
	if len(b.Enqueue)+len(b.Settle) == 0 {
		return nil, &mailq.FieldError{Field: "Batch", Reason: "is empty"}
	}
	if err := ctx.Err(); err != nil {
		return nil, err
	}
	for _, st := range b.Settle {
		c, ok := st.Delivery.Claim().(*claim)
		if !ok || c.store != s {
			return nil, &mailq.FieldError{Field: "Settle", Reason: "is of another store"}
		}
	}
	ids := make([]mailq.ID, 0, len(b.Enqueue))
	for _, m := range b.Enqueue {
		id, err := s.enqueue(m, len(b.Settle) > 0)
		if err != nil {
			return nil, err
		}
		ids = append(ids, id)
	}
	for _, st := range b.Settle {
		if err := st.Delivery.Settle(ctx, st.Outcomes); err != nil {
			return nil, err
		}
	}
	return ids, nil
}

func (s *Store) enqueue(m mailq.Message, settles bool) (mailq.ID, error) {
	if m.Staged != nil || m.Key != "" {
		return 0, fmt.Errorf("staged bodies and keys: %w", errors.ErrUnsupported)
	}
	if len(m.Recipients) == 0 {
		return 0, &mailq.FieldError{Field: "Recipients", Reason: "is empty"}
	}
	if len(m.Recipients) > recipientsMax {
		return 0, &mailq.LimitError{Field: "Recipients", Size: int64(len(m.Recipients)), Max: recipientsMax}
	}
	if int64(len(m.Body)) > bodyMax {
		return 0, &mailq.LimitError{Field: "Body", Size: int64(len(m.Body)), Max: bodyMax}
	}
	s.mu.Lock()
	err := s.failed
	if s.closed || s.closing && !settles {
		err = mailq.ErrClosed
	}
	s.mu.Unlock()
	if err != nil {
		return 0, err
	}
	id := m.ID
	if id == 0 {
		id = s.NewID()
	}
	h := head{
		Envelope: m.Envelope, Recipients: m.Recipients, Body: int64(len(m.Body)), BodyCRC: crc32.ChecksumIEEE(m.Body),
		At: time.Now().UnixNano(),
	}
	if err := s.writeFile(id, h, m.Body); err != nil {
		return 0, err
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	s.add(&message{id: id, head: h})
	return id, nil
}

// Shutdown ends intake and claims, waits for the claims that are out and for the
// marks on the list, or until ctx ends, and closes.
func (s *Store) Shutdown(ctx context.Context) error {
	s.mu.Lock()
	s.closing = true
	s.announceLocked()
	for len(s.claims) > 0 && !s.closed && ctx.Err() == nil {
		changed := s.changed
		s.mu.Unlock()
		select {
		case <-changed:
		case <-ctx.Done():
		}
		s.mu.Lock()
	}
	s.mu.Unlock()
	s.marks.drain(ctx)
	return s.Close()
}

// Close ends everything. Marks that the worker has not got to are forgotten.
func (s *Store) Close() error {
	s.mu.Lock()
	if s.closed {
		s.mu.Unlock()
		return nil
	}
	s.closed, s.closing = true, true
	s.wakeup.Stop()
	for c := range s.claims {
		c.cancel()
	}
	s.announceLocked()
	s.mu.Unlock()
	s.marks.stop()
	if err := s.dirFile.Close(); err != nil {
		return fmt.Errorf("close the spool: %w", err)
	}
	return nil
}
