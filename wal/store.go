package wal

import (
	"context"
	"encoding/binary"
	"encoding/hex"
	"fmt"
	"io"
	"sync"
	"sync/atomic"
	"time"

	"github.com/mtawal/mtawal/internal/disk"
	"github.com/mtawal/mtawal/journal"
	"github.com/mtawal/mtawal/mailq"
	"github.com/mtawal/mtawal/segment"
	"github.com/mtawal/mtawal/state"
)

// Errors of the engine. ErrVersion and ErrCorrupt are those of package segment,
// ErrLocked is that of the file system.
var (
	// ErrVersion: the store was written by a version that this one does not know.
	ErrVersion = segment.ErrVersion
	// ErrCorrupt: bytes that had been durable are not there; the error is a
	// *CorruptError. Nothing was touched.
	ErrCorrupt = segment.ErrCorrupt
	// ErrLocked: another process, or another Store of this one, has the directory
	// open; the error is a *LockedError.
	ErrLocked = disk.ErrLocked
	// ErrNotStore: the directory is not a store, or not whole.
	ErrNotStore = fmt.Errorf("not a store")
)

type (
	// CorruptError says where damage was found.
	CorruptError = segment.CorruptError
	// LockedError says who holds the lock.
	LockedError = disk.LockedError
)

// Store is an open store. It implements mailq.Store; all its methods may be called by
// any number of goroutines.
//
// Locks, in the order in which they are taken: Store.mu, then the journal's, then a
// segment's. Store.mu is never held over a system call that waits for a device, but for stores into the claim table: into
// memory as a rule, but the kernel may make the page wait for its file system, and where that copies on write they are a pwrite.
type Store struct {
	opt   Options
	dir   disk.Dir
	lock  io.Closer
	uuid  [16]byte
	meta  meta
	token string // the UUID as it begins every Delivery.Token, but of mail that came with a copy
	log   *journal.Log

	mu         sync.Mutex
	table      *state.Table
	sched      scheduler
	claims     *claimTable
	claimed    map[state.Ref]*claim
	lost       []*claim // of which a frame that is being applied marked something used
	out        int      // claims that hold a recipient
	attempts   []*claim // started, and not in the log yet
	starting   int      // calls that wait for an attempt to be durable
	consumers  map[*consumer]struct{}
	wide       map[*consumer]struct{} // those that serve queues they do not name
	narrow     map[string][]*consumer // the others, by queue
	single     map[string]*consumer   // of Claim, by queue
	starved    bool                   // a consumer waits for room in the claim table
	applyNow   int64                  // Unix ns, for what is being applied
	clockPoke  chan struct{}
	nextID     uint64
	leased     uint64 // IDs below it may be handed out: durable
	leasing    uint64 // those that what is in flight leases
	reserved   reservations
	keysOut    map[string]uint64    // keys of commits under way, and the IDs they get
	growing    map[uint64]int       // recipients that messages will have, with what is under way, by ID
	streams    map[*stream]struct{} // bodies with chunks that no message names yet, and those that are staged
	staged     int                  // of them by Stage, and not over
	filling    *group
	spares     []*group
	cold       *group          // of copies, and waits until the tail is full
	recent     *segment.Recent // frames in memory: those that fill, and those written last
	committer  committer
	gatherer   gatherer
	roomy      *sync.Cond // on mu: filling has room again, or the store ends
	phase      phase
	failure    error           // why the store latched
	open       context.Context // ends, with why, when phase leaves running for closing or failed
	stop       context.CancelCauseFunc
	idle       chan struct{} // closed when out is 0 while the store is shutting down
	damaged    map[uint64]error
	suspended  int   // queues that take no mail
	placed     int64 // bytes of batches that have a place in a group and are not in the log
	adding     int64 // what those add to the next checkpoint
	nudged     bool  // the position of the log is to move, see nudge
	nudging    bool  // a group that moves it is in flight
	forgetting int   // keys that what is in flight drops
	oldest     oldest

	unaccounted atomic.Int64 // see audit
	stagedBytes atomic.Int64 // that they have, or were announced with
	stageBufs   [3]sync.Pool // of *[]byte, see stageBuf

	tickets sync.Pool     // of *ticket, for calls that wait
	work    chan struct{} // pokes run
	done    chan struct{} // run has ended, and nobody commits any more
	commits atomic.Int64
	shut    atomic.Bool // intake has ended, for Admit
	limits  groupLimits
	syncing [flightsMax]atomic.Int64 // Unix ns since when a write is under way, or 0

	folds      foldState
	compaction compaction
	space      diskRoom
	floor      floor // under mu
	rotated    chan struct{}
	segment    uint32 // of the last commit, for whoever commits
	closing    sync.Once
	bg         sync.WaitGroup
	copies     sync.WaitGroup // snapshots that are under way, or whose target hangs
}

// phase is where a store is in its life. It only grows.
type phase uint8

const (
	running  phase = iota
	draining       // Shutdown: no intake, no new claims
	closing        // Close: nothing more is taken
	failed         // a write or sync of the log failed
)

// hangAfter is how long a write may take until Stats says that it hangs.
const hangAfter = 5 * time.Second

// NewID implements mailq.Store.
func (s *Store) NewID() ID {
	s.mu.Lock()
	defer s.mu.Unlock()
	for s.nextID >= s.leased {
		if s.phase != running {
			return 0
		}
		s.poke()
		s.roomy.Wait()
	}
	if s.phase != running {
		return 0
	}
	id := s.nextID
	s.nextID++
	s.reserved.add(id)
	return ID(id)
}

// tokenOf names a message among those of all stores. What came with a copy keeps the name that
// it had: the store that was copied may have delivered it.
func (s *Store) tokenOf(id ID) string {
	from := s.token
	for _, o := range s.meta.origins {
		if uint64(id) < o.below {
			from = hex.EncodeToString(o.uuid[:])
			break
		}
	}
	var raw [8]byte
	binary.BigEndian.PutUint64(raw[:], uint64(id))
	b := make([]byte, 0, 64)
	b = append(append(b, from...), '-')
	return string(hex.AppendEncode(b, raw[:])) // as ID.String has it
}

// Enqueue implements mailq.Store.
func (s *Store) Enqueue(ctx context.Context, m Message) (ID, error) {
	t := s.ticket(ctx)
	t.one[0] = m
	t.enqueue = t.one[:]
	if err := s.submit(ctx, t); err != nil {
		return 0, t.discard(err)
	}
	if err := t.wait(ctx); err != nil {
		return 0, err
	}
	id := t.ids[0]
	t.free()
	return id, nil
}

// Commit implements mailq.Store.
func (s *Store) Commit(ctx context.Context, b Batch) ([]ID, error) {
	t := s.ticket(ctx)
	t.fill(&b)
	if err := s.submit(ctx, t); err != nil {
		return nil, t.discard(err)
	}
	if err := t.wait(ctx); err != nil {
		return nil, err
	}
	ids := append([]ID(nil), t.ids...)
	t.free()
	return ids, nil
}

// Submit implements mailq.Store. It waits while the log has no room for the batch in the
// group that is filling: never longer than the writes that are under way.
func (s *Store) Submit(b Batch) Ticket {
	t := newTicket(s)
	t.fill(&b)
	if err := s.submit(context.Background(), t); err != nil {
		t.fail(err)
	}
	return submitted{t}
}

// submitted is a ticket in the hands of a caller of Submit.
type submitted struct{ t *ticket }

func (h submitted) Done() <-chan struct{} { return h.t.done }

func (h submitted) Wait(ctx context.Context) ([]ID, error) {
	select {
	case <-h.t.done:
	default:
		select {
		case <-h.t.done:
		case <-ctx.Done():
			return nil, unknown(ctx)
		}
	}
	if h.t.err != nil {
		return nil, h.t.err
	}
	return append([]ID(nil), h.t.ids...), nil
}

func unknown(ctx context.Context) error {
	return fmt.Errorf("%w: %w", ErrUnknown, context.Cause(ctx))
}

// MarkUsed implements mailq.Store.
func (s *Store) MarkUsed(ctx context.Context, id ID, recipients ...int) error {
	if len(recipients) == 0 {
		return &mailq.FieldError{Field: "recipients", Reason: "names nobody"}
	}
	outcomes := make([]Outcome, len(recipients))
	for i, r := range recipients {
		if r < 0 && r != All {
			return &mailq.FieldError{Field: fmt.Sprintf("recipients[%d]", i), Reason: "is negative"}
		}
		outcomes[i] = Outcome{Recipient: r, Result: Delivered}
	}
	_, err := s.Commit(ctx, Batch{Edit: []Edit{{ID: id, Outcomes: outcomes}}})
	return err
}

// gate is the error of a call that the phase of the store does not admit. settles
// says that the call ends a claim, which a store that is shutting down still takes.
func (s *Store) gate(settles bool) error {
	switch {
	case s.phase == failed:
		return s.failure
	case s.phase == closing, s.phase == draining && !settles:
		return ErrClosed
	}
	return nil
}

// latch ends the store after a write that failed: what is on disk is not known any
// more, so nobody gets another nil.
func (s *Store) latch(err error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.phase == failed {
		return
	}
	s.phase = failed
	s.shut.Store(true)
	s.failure = fmt.Errorf("%w: %w", ErrFailed, err)
	s.stop(s.failure)
	s.endAll(s.failure)
	s.opt.Logger.Error("the store failed; only reopening clears it", "dir", s.dir.Path(), "err", err)
	s.roomy.Broadcast()
	s.wakeConsumers()
}

func (s *Store) poke() {
	select {
	case s.work <- struct{}{}:
	default:
	}
}
