package wal

import (
	"cmp"
	"context"
	"fmt"
	"slices"
	"sort"
	"sync"

	"github.com/mtawal/mtawal/mailq"
	"github.com/mtawal/mtawal/segment"
	"github.com/mtawal/mtawal/state"
)

// slotState is where a recipient of a claim stands.
type slotState uint8

const (
	slotOpen     slotState = iota
	slotSettling           // an outcome is under way
	slotDone               // settled or released
	slotLost               // somebody else marked it used
)

// claimRcpt is a recipient in a claim.
type claimRcpt struct {
	index   uint32
	st      slotState
	started bool
	noted   bool // its Attempt record is in a group
}

// claim is a delivery in somebody's hands. Its fields are under Store.mu.
type claim struct {
	s     *Store
	c     *consumer
	q     *queue
	group *site
	slot  uint32 // of the message; a Ref for each recipient not done keeps it
	id    uint64
	rcpts []claimRcpt // by index
	open  int         // not done and not lost
	runs  []claimRun
	since segment.Pos // what the log held when it was claimed
	body  *body
	// handed is what the caller holds; nil before.
	handed *Delivery

	loc     segment.Pos
	extents []state.Extent
	pins    []*segment.Segment
	durable bool // every start of it is durable
	noting  int  // groups in flight that have Attempt records of it
	expired bool // when it was claimed

	ctxMu  sync.Mutex
	ctx    context.Context
	cancel context.CancelCauseFunc
	over   bool

	// Memory for what nearly all claims need.
	rcptMemory [1]claimRcpt
	runMemory  [1]claimRun
	pinMemory  [1]*segment.Segment
}

// claimRun is a run of recipients in the claim table.
type claimRun struct{ slot, first, count uint32 }

func (c *claim) find(index int) int {
	if index < 0 || index >= segment.RecipientsMax {
		return -1
	}
	// Only the index is read, which never changes: it may be asked for without the lock.
	pos := sort.Search(len(c.rcpts), func(i int) bool { return int(c.rcpts[i].index) >= index })
	if pos == len(c.rcpts) || int(c.rcpts[pos].index) != index {
		return -1
	}
	return pos
}

// start marks recipients as started, in the claim table and for an Attempt record.
// Store.mu is held.
func (c *claim) start(which func(*claimRcpt) bool) {
	any := false
	for i := range c.rcpts {
		if r := &c.rcpts[i]; r.st == slotOpen && !r.started && which(r) {
			r.started, any = true, true
		}
	}
	if !any {
		return
	}
	c.writeRuns()
	c.durable = false
	c.s.armMarker(markerAfter)
	c.s.attempts = append(c.s.attempts, c)
}

// writeRuns brings the claim table up to date: the new runs first, then the old ones
// go, so that at no instant a started recipient is missing. A run that has not changed keeps its
// slot.
func (c *claim) writeRuns() {
	if c.open == 0 {
		for _, r := range c.runs {
			c.s.freeSlot(r.slot)
		}
		c.runs = nil
		return
	}
	old := c.runs // by first, as the new ones
	if c.runs = nil; len(old) == 0 {
		c.runs = c.runMemory[:0]
	}
	var gone []claimRun
	ok := true
	c.eachRun(func(r *claimRcpt) bool { return r.started }, func(first, count uint32) {
		for len(old) > 0 && old[0].first < first {
			gone, old = append(gone, old[0]), old[1:]
		}
		if len(old) > 0 && old[0].first == first && old[0].count == count {
			c.runs, old = append(c.runs, old[0]), old[1:]
			return
		}
		var slot uint32
		if ok {
			// Not what it holds now: the frame that ends a part of the run may end the rest of it too.
			slot, ok = c.s.claims.put(run{id: c.id, first: first, count: count, pos: c.since})
		}
		if ok {
			c.runs = append(c.runs, claimRun{slot, first, count})
		}
	})
	gone = append(gone, old...)
	if !ok {
		// No free slot for a smaller run: the old ones name more than is out. What
		// was settled in them is told by the log, until a checkpoint lies behind that: then
		// it is in doubt after a kill.
		c.runs = append(c.runs, gone...)
		slices.SortFunc(c.runs, func(a, b claimRun) int { return cmp.Compare(a.first, b.first) })
		return
	}
	for _, r := range gone {
		c.s.freeSlot(r.slot)
	}
}

// freeSlot empties a slot of the claim table, and wakes those who wait for one. Store.mu is held.
func (s *Store) freeSlot(slot uint32) {
	s.claims.clear(slot)
	if s.starved {
		s.starved = false
		s.wakeConsumers()
	}
}

// eachRun calls fn with the runs of recipients that are not done and match.
func (c *claim) eachRun(match func(*claimRcpt) bool, fn func(first, count uint32)) {
	for i := 0; i < len(c.rcpts); {
		in := func(r *claimRcpt) bool { return r.st <= slotSettling && match(r) }
		if !in(&c.rcpts[i]) {
			i++
			continue
		}
		j := i + 1
		for j < len(c.rcpts) && in(&c.rcpts[j]) && c.rcpts[j].index == c.rcpts[j-1].index+1 {
			j++
		}
		fn(c.rcpts[i].index, uint32(j-i))
		i = j
	}
}

// noteAttempt writes Attempt records for what was started and is open into a group. It
// reports whether the claim wants nothing more.
func (c *claim) noteAttempt(g *group) bool {
	wants := func(r *claimRcpt) bool { return r.started && !r.noted && r.st == slotOpen }
	n := 0
	c.eachRun(wants, func(uint32, uint32) { n++ })
	if n == 0 {
		c.durable = c.durable || c.noting == 0 // what was started has ended since
		return true
	}
	table := len(g.table) + n*segment.AttemptSize
	if table+segment.AlignmentMin > cap(g.table) || segment.FrameSize(int64(table), int64(len(g.body)), uint32(c.s.dir.Block())) > c.s.limits.frame {
		return false // a batch fills the frame: the next one takes it
	}
	c.eachRun(wants, func(first, count uint32) {
		at := len(g.table)
		g.table = g.table[:at+segment.AttemptSize]
		segment.PutAttempt(g.table[at:], int64(at), c.id, int(first), int(count))
		g.records++
	})
	for i := range c.rcpts {
		if wants(&c.rcpts[i]) {
			c.rcpts[i].noted = true
		}
	}
	g.attempts = append(g.attempts, c)
	c.noting++
	return true
}

// afterAttempts tells those who wait that their attempts are durable.
func (s *Store) afterAttempts(g *group) {
	for _, c := range g.attempts {
		c.noting--
		c.durable = c.noting == 0
		for i := range c.rcpts {
			if r := &c.rcpts[i]; r.started && !r.noted && r.st == slotOpen {
				c.durable = false // started after the group was taken
			}
		}
	}
	if s.starting > 0 && len(g.attempts) > 0 {
		s.roomy.Broadcast()
	}
}

// waitStarted waits until the starts of a claim are durable. Store.mu is held.
func (s *Store) waitStarted(ctx context.Context, c *claim) error {
	s.starting++
	defer func() { s.starting-- }()
	for !c.durable && c.open > 0 {
		if err := s.gate(true); err != nil {
			return err
		}
		if err := s.waitRoom(ctx); err != nil {
			return unknown(ctx)
		}
	}
	return nil
}

// claimsFailed is ErrFailed, and why, once the claim table can't be written: no delivery may be begun any more.
func (s *Store) claimsFailed() error {
	if err := s.claims.failed(); err != nil {
		return fmt.Errorf("%w: %w", ErrFailed, err)
	}
	return nil
}

// Start implements mailq.Claim.
func (c *claim) Start(ctx context.Context, recipients []int) error {
	s := c.s
	s.mu.Lock()
	defer s.mu.Unlock()
	if err := s.gate(true); err != nil {
		return err
	}
	for _, i := range recipients {
		pos := c.find(i)
		if pos < 0 {
			return fmt.Errorf("recipient %d: %w", i, ErrNotFound)
		}
		if err := c.rcpts[pos].err(); err != nil {
			return fmt.Errorf("recipient %d: %w", i, err)
		}
	}
	if c.open == 0 {
		return ErrSettled
	}
	if err := s.claimsFailed(); err != nil {
		return err // nothing is started
	}
	named := func(r *claimRcpt) bool { return len(recipients) == 0 || slices.Contains(recipients, int(r.index)) }
	need := 0 // runs, at the most
	for i := range c.rcpts {
		if r := &c.rcpts[i]; r.st == slotOpen && !r.started && named(r) {
			need++
		}
	}
	if len(s.claims.free) < need {
		return fmt.Errorf("%d deliveries under way, the claim table takes no more: %w", s.opt.claims, ErrFull)
	}
	c.start(named)
	if err := s.claimsFailed(); err != nil {
		return err
	}
	if s.opt.DurableStart {
		return s.waitStarted(ctx, c)
	}
	return nil
}

func (r *claimRcpt) err() error {
	switch r.st {
	case slotOpen:
		return nil
	case slotLost:
		return ErrUsed
	}
	return ErrSettled
}

// settlement names the claim in a batch as its caller would.
func (c *claim) settlement(outcomes []Outcome) Settlement {
	d := c.handed
	if d == nil {
		d = mailq.NewDelivery(Delivery{}, c)
	}
	return Settlement{Delivery: d, Outcomes: outcomes}
}

// Settle implements mailq.Claim.
func (c *claim) Settle(ctx context.Context, outcomes []Outcome) error {
	t := c.s.ticket(ctx)
	t.oneSettle[0] = c.settlement(outcomes)
	t.settle = t.oneSettle[:]
	if err := c.s.submit(ctx, t); err != nil {
		return t.discard(err)
	}
	if err := t.wait(ctx); err != nil {
		return err
	}
	t.free()
	return nil
}

// Release implements mailq.Claim.
func (c *claim) Release() {
	s := c.s
	s.mu.Lock()
	var idle []int
	var doubt []Outcome
	for pos := range c.rcpts {
		if r := &c.rcpts[pos]; r.st == slotOpen {
			if r.started {
				doubt = append(doubt, Outcome{Recipient: int(r.index), Result: Uncertain})
			} else {
				idle = append(idle, pos)
			}
		}
	}
	if len(idle) > 0 && s.phase < closing {
		s.endClaim(c, idle)
	}
	if len(doubt) == 0 || s.phase >= closing {
		s.mu.Unlock()
		return
	}
	s.bg.Add(1)
	s.mu.Unlock()
	// Durable before it is handed out again, but nobody waits for that here. If the store
	// ends first, the claim table tells the next owner.
	go func() {
		defer s.bg.Done()
		t := newTicket(s)
		t.settle = []Settlement{c.settlement(doubt)}
		if err := s.submit(context.Background(), t); err != nil {
			s.opt.Logger.Debug("released recipients were settled meanwhile", "id", ID(c.id).String(), "err", err)
		}
	}()
}

// Context implements mailq.Claim.
func (c *claim) Context() context.Context {
	c.ctxMu.Lock()
	defer c.ctxMu.Unlock()
	if c.ctx == nil {
		c.ctx, c.cancel = context.WithCancelCause(context.Background())
		if c.over {
			c.cancel(ErrSettled)
		}
	}
	return c.ctx
}

func (c *claim) endContext(cause error) {
	c.ctxMu.Lock()
	c.over = true
	cancel := c.cancel
	c.ctxMu.Unlock()
	if cancel != nil {
		cancel(cause)
	}
}

// endClaim ends a claim on some of its recipients, by position, and puts them where they
// belong. Store.mu is held.
func (s *Store) endClaim(c *claim, positions []int) {
	now := s.opt.now().UnixNano()
	started := false
	for _, pos := range positions {
		r := &c.rcpts[pos]
		if r.st >= slotDone {
			continue
		}
		r.st = slotDone
		started = started || r.started
		s.letGo(c, r, now)
	}
	if started {
		c.writeRuns()
	}
	s.ifOver(c, ErrSettled)
}

// letGo ends the claim on one recipient.
func (s *Store) letGo(c *claim, r *claimRcpt, now int64) {
	ref := state.Ref{Slot: c.slot, Index: r.index}
	rc := s.table.Rcpt(ref)
	was := classOf(rc)
	rc.Mem &^= memClaimed
	q := c.q
	s.count(q, was, classOf(rc))
	if rc.Standing != state.Used {
		s.settleDown(q, ref, rc, now)
	}
	delete(s.claimed, ref)
	c.open--
	s.table.Unref(c.slot)
}

// ifOver ends a delivery of which nothing is left.
func (s *Store) ifOver(c *claim, cause error) {
	if c.open > 0 || c.c == nil {
		return
	}
	con := c.c
	c.c = nil
	con.inFlight--
	c.group.out--
	c.group.update()
	con.poke()
	s.endSingle(con)
	s.out--
	if s.out == 0 && s.idle != nil {
		close(s.idle)
		s.idle = nil
	}
	if c.body != nil {
		c.body.end(ErrSettled)
	}
	if cause == ErrSettled || cause == ErrUsed {
		c.endContext(cause)
	}
}

// clearLost takes what records have marked used out of the claim table, once for all
// that a frame marked.
func (s *Store) clearLost() {
	for _, c := range s.lost {
		c.writeRuns()
	}
	clear(s.lost)
	s.lost = s.lost[:0]
}

// loseClaim ends a claim on a recipient that a record has marked used.
func (s *Store) loseClaim(ref state.Ref) {
	c := s.claimed[ref]
	if c == nil {
		return
	}
	pos := c.find(int(ref.Index))
	r := &c.rcpts[pos]
	own := r.st == slotSettling
	r.st = slotLost
	if own {
		r.st = slotDone
	}
	s.letGo(c, r, s.applyNow)
	if n := len(s.lost); r.started && (n == 0 || s.lost[n-1] != c) {
		s.lost = append(s.lost, c)
	}
	s.ifOver(c, ErrUsed)
}
