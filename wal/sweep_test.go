package wal

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"syscall"
	"testing"
	"testing/synctest"
	"time"

	"github.com/mtawal/mtawal/internal/disk"
	"github.com/mtawal/mtawal/internal/disk/faultdisk"
	"github.com/mtawal/mtawal/internal/disk/memdisk"
	"github.com/mtawal/mtawal/mailq"
	"github.com/mtawal/mtawal/segment"
)

// sweeper is a history on a disk on which operations fail. It goes on after errors: what a
// call returned nil for must be there, what was refused must not, and of the rest the
// first so many.
type sweeper struct {
	*history
	script func(*sweeper)
	plan   faultdisk.Plan
	disk   *faultdisk.FS
	tries  int // openings that failed, one behind the other
	hits   int // operations that were made to fail
	// heals: the disk is well again within the patience of every call, and the store must go on.
	heals bool
}

// patience bounds every call, in the time of the bubble.
const patience = time.Second

func (f *sweeper) ctx() (context.Context, context.CancelFunc) {
	ctx, cancel := context.WithTimeout(bgCtx, patience)
	if !f.heals {
		return ctx, cancel
	}
	t := time.AfterFunc(patience/2, f.heal)
	return ctx, func() {
		t.Stop()
		cancel()
	}
}

// heal ends the plan, if an operation has failed by now.
func (f *sweeper) heal() {
	if f.hits += f.disk.Failed(); f.disk.Failed() > 0 {
		f.disk.Set(faultdisk.Plan{})
	}
}

// alive opens the store where it is not open, and reports whether it could.
func (f *sweeper) alive() bool {
	for f.s == nil && f.tries < 2 {
		s, err := Open(spool, f.opt)
		if err != nil {
			f.note("open: %v", err)
			f.tries++
			if f.heals {
				f.heal()
			}
			continue
		}
		f.tries = 0
		f.opened(s)
		f.resolve(killed)
	}
	return f.s != nil
}

// resolve finds out what of the unknown took place.
func (f *sweeper) resolve(e ending) {
	f.w = f.match(f.s, e)
	f.held, f.unknown = nil, nil
	f.tidy()
}

// end closes the store, in bounded time. Nothing may be done with it afterwards.
func (f *sweeper) end() {
	if f.s == nil {
		return
	}
	f.rest()
	from := time.Now()
	err := f.s.Close()
	f.note("close: %v", err)
	if d := time.Since(from); d > 2*closeWait {
		f.fail("Close took %v", d)
	}
	if _, err := f.s.Enqueue(bgCtx, Message{Recipients: []Recipient{{Queue: "a"}}}); !errors.Is(err, ErrClosed) && !errors.Is(err, ErrFailed) {
		f.fail("a closed store said %v", err)
	}
	f.s = nil
}

// outcome notes what became of a call. A store that failed is closed.
func (f *sweeper) outcome(what string, err error, c change) {
	f.note("%s: %v", what, err)
	switch {
	case err == nil:
		if len(f.unknown) > 0 {
			f.fail("%s was acknowledged after something that was not", what)
		}
		f.apply(c)
	case f.heals && !errors.Is(err, ErrFull):
		f.fail("%s: %v, and the disk was full for %v", what, err, patience/2)
	case errors.Is(err, ErrUnknown), errors.Is(err, ErrFailed):
		f.unknown = append(f.unknown, c)
		f.end()
	case errors.Is(err, ErrFull), errors.Is(err, context.DeadlineExceeded):
	default:
		f.fail("%s: %v is no error of the contract", what, err)
	}
	f.tidy()
	if f.s != nil {
		f.rest()
	}
}

func (f *sweeper) enqueue(size, rcpts int) {
	if !f.alive() {
		return
	}
	m := Message{ID: f.s.NewID(), Body: make([]byte, size), Envelope: []byte("from")}
	if m.ID == 0 {
		f.end()
		return
	}
	f.show(m.ID)
	for i := range rcpts {
		m.Recipients = append(m.Recipients, Recipient{Queue: []string{"a", "b"}[i%2], Address: fmt.Sprint(i)})
	}
	f.fill(m.Body)
	ctx, cancel := f.ctx()
	defer cancel()
	_, err := f.s.Enqueue(ctx, m)
	f.outcome(fmt.Sprintf("enqueue %v %d bytes to %d", m.ID, size, rcpts), err, enqueued(m.ID, &m, m.Body, time.Unix(0, 0)))
}

// claim takes what is due, as far as it can be read, and settles of it what result says; of
// the others it keeps the claim.
func (f *sweeper) claim(queue string, most int, result func(n int) Result) {
	for n := range most {
		if !f.alive() {
			return
		}
		d, ok := f.auto.TryNext(queue)
		if !ok {
			return
		}
		f.take(d, false)
		r := result(n)
		if r == 0 {
			continue
		}
		o := Outcome{Recipient: All, Result: r}
		if r == Deferred {
			o.Until = time.Now().Add(time.Hour)
		}
		var list []change
		now := time.Now()
		for _, s := range d.Recipients {
			list = append(list, f.w.outcome(ref{d.ID, s.Index}, o, true, now))
		}
		b := Batch{Settle: []Settlement{{Delivery: d, Outcomes: []Outcome{o}}}}
		if r == Failed {
			id := f.s.NewID()
			if id == 0 {
				f.end()
				return
			}
			f.show(id)
			m := Message{ID: id, Recipients: []Recipient{{Queue: "bounce"}}}
			b.Enqueue = []Message{m}
			list = append(list, enqueued(id, &m, m.Body, time.Unix(0, 0)))
		}
		ctx, cancel := f.ctx()
		_, err := f.s.Commit(ctx, b)
		cancel()
		f.outcome(fmt.Sprintf("settle %v %v", d.ID, r), err, all(list...))
	}
}

// do is a call whose failure changes nothing.
func (f *sweeper) do(what string, call func(context.Context) error) {
	if !f.alive() {
		return
	}
	ctx, cancel := f.ctx()
	defer cancel()
	err := call(ctx)
	f.note("%s: %v", what, err)
	if errors.Is(err, ErrFailed) {
		f.end()
	}
}

// mixedScript is the history of all that a store does: segments fill and die, checkpoints come and go, bodies go in
// chunks, claims stay out over an end.
func (f *sweeper) mixedScript() {
	f.disk.Set(f.plan)
	mixed := func(n int) Result { return []Result{Delivered, Deferred, Failed, 0}[n%4] }
	gone := func(int) Result { return Delivered }
	f.enqueue(900, 3)
	f.enqueue(30_000, 2)
	f.enqueue(0, 1)
	f.claim("a", 3, mixed)
	f.do("checkpoint", func(ctx context.Context) error { return f.s.Checkpoint(ctx) })
	for range 4 {
		f.enqueue(12_000, 2)
	}
	if f.alive() {
		ctx, cancel := f.ctx()
		f.outcome("set queue", f.s.SetQueue(ctx, "b", QueueState{Doubt: mailq.HoldDoubt}), queueSet("b", QueueState{Doubt: mailq.HoldDoubt}))
		cancel()
	}
	f.claim("a", 9, gone)
	f.claim("b", 9, gone)
	f.enqueue(500, 2)
	f.claim("b", 2, mixed)
	f.end()
	f.do("compact", func(ctx context.Context) error { return f.s.Compact(ctx) })
	for range 6 {
		f.enqueue(9_000, 1)
	}
	f.claim("a", 4, mixed)
	time.Sleep(2 * markerAfter)
	f.enqueue(10, 1)
	f.end()
}

// coldScript is the history of copies that go into a cold segment.
func (f *sweeper) coldScript() {
	gone := func(int) Result { return Delivered }
	for range 4 {
		f.enqueue(24_000, 1)
	}
	f.enqueue(900, 3)
	f.claim("a", 3, gone)
	f.enqueue(24_000, 1)
	f.do("checkpoint", func(ctx context.Context) error { return f.s.Checkpoint(ctx) })
	f.disk.Set(f.plan) // what comes before is in the other history
	var done chan error
	f.do("copies", func(context.Context) error {
		s := f.s
		done = make(chan error, 1)
		go func() {
			done <- s.background(bgCtx, func() error { return errors.Join(<-copies(s), s.settleFolds()) })
		}()
		synctest.Wait()
		return nil
	})
	f.enqueue(90_000, 1) // too long for the tail
	if f.alive() && f.hits+f.disk.Failed() == 0 && len(coldOnes(f.s)) != 1 {
		f.fail("nothing was copied")
	}
	f.claim("a", 1, gone)
	f.end() // which ends the copies too
	if done != nil {
		<-done
	}
	f.enqueue(10, 1)
	f.end()
}

// run runs the script with its plan, then heals the disk and looks at what is there: as a
// power cut would leave it, and as it is.
func (f *sweeper) run() {
	f.rng = rand.New(rand.NewPCG(1, 2))
	f.script(f)
	f.hits += f.disk.Failed()
	f.disk.Set(faultdisk.Plan{})
	synctest.Wait()
	f.image(f.fs)
	if f.plan.Lie {
		f.forgotten(f.plan.Forever)
	} else {
		f.probe(power)
	}
	f.tries = 0
	if !f.alive() {
		f.fail("a disk that works again does not open")
	}
	f.enqueue(100, 2)
	f.claim("a", 100, func(int) Result { return Delivered })
	if len(f.unknown) > 0 {
		f.fail("a disk that works again fails")
	}
	if d := f.view(f.s).diff(f.w.view(time.Now())); d != "" {
		f.fail("the state is not the model's:\n%s", d)
	}
	f.must("close", f.s.Close())
	f.image(f.fs)
}

// forgotten cuts the power of a disk that has said of something that it was durable, and
// keeps none of it. The next opening refuses, or says which messages' bytes are gone, or all
// that was acknowledged is there. Of a disk that lied to the end nobody can tell what it had been told: then what is there
// is whole.
func (f *sweeper) forgotten(all bool) {
	c := f.fs.Clone()
	c.PowerCutWith(func(int) int { return 0 })
	s, err := Open(spool, f.on(c))
	if errors.Is(err, ErrCorrupt) || errors.Is(err, ErrNotStore) {
		f.note("a power cut: %v", err)
		return
	}
	f.must("opening what a disk left that lied", err)
	f.old = append(f.old, s)
	_, err = viewOf(s)
	switch {
	case errors.Is(err, ErrCorrupt): // a message whose bytes are not there is listed as such
		f.note("a power cut: %v", err)
		return
	case err != nil:
		f.fail("entries: %v", err)
	case !all:
		f.drain(s, f.match(s, power))
	}
	// Verify may still find a frame missing in front of the checkpoint, in which nothing lived.
	f.must("closing what a disk left that lied", s.Close())
}

func newSweeper(s *sweptHistory) *sweeper {
	h := newHistory(memdisk.Config{}, Options{SegmentSize: s.segment, CompactMin: s.compactMin, claims: 256})
	h.faulty = true
	f := &sweeper{history: h, script: s.script, disk: faultdisk.New(h.fs)}
	h.opt.fs = f.disk
	return f
}

// space is the operations that write, and may find the disk full or read-only; filling those of
// them that take room; opening those that take a descriptor.
var (
	opening = []disk.Op{disk.OpOpenDir, disk.OpLock, disk.OpCreate, disk.OpOpen, disk.OpMap, disk.OpMapWritable}
	space   = []disk.Op{disk.OpCreate, disk.OpWriteAt, disk.OpWriteDurable, disk.OpAllocate, disk.OpTruncate, disk.OpSync, disk.OpDirSync, disk.OpRename}
	filling = []disk.Op{disk.OpCreate, disk.OpWriteAt, disk.OpWriteDurable, disk.OpAllocate}
)

// sweep is a way in which operations fail.
type sweep struct {
	name  string
	plan  faultdisk.Plan
	heals bool
}

// sweeps are all the ways: with each error, once and from then on for ever, before anything
// was done, after it was done, after half of it; and syncs that lie.
func sweeps() []sweep {
	list := []sweep{
		{name: "error after it was done", plan: faultdisk.Plan{Err: syscall.EIO, After: true, Only: space}},
		{name: "error after it was done for ever", plan: faultdisk.Plan{Err: syscall.EIO, After: true, Only: space, Forever: true}},
		{name: "short write", plan: faultdisk.Plan{Err: syscall.EIO, ShortWrite: true}},
		{name: "short write for ever", plan: faultdisk.Plan{Err: syscall.EIO, ShortWrite: true, Forever: true}},
		{name: "full after half of it", plan: faultdisk.Plan{Err: syscall.ENOSPC, ShortWrite: true}},
		{name: "full after half of it for ever", plan: faultdisk.Plan{Err: syscall.ENOSPC, ShortWrite: true, Forever: true}},
		{name: "full for a while", plan: faultdisk.Plan{Err: syscall.ENOSPC, Only: filling, Forever: true}, heals: true},
		{name: "lie", plan: faultdisk.Plan{Lie: true}},
		{name: "lie for ever", plan: faultdisk.Plan{Lie: true, Forever: true}},
	}
	for _, e := range []struct {
		err  syscall.Errno
		only []disk.Op
	}{{syscall.EIO, nil}, {syscall.ENOSPC, space}, {syscall.EDQUOT, space}, {syscall.EROFS, space}, {syscall.EMFILE, opening}, {syscall.EINTR, nil}} {
		for _, forever := range []bool{false, true} {
			name := e.err.Error()
			if forever {
				name += " for ever"
			}
			list = append(list, sweep{name: name, plan: faultdisk.Plan{Err: e.err, Only: e.only, Forever: forever}})
		}
	}
	return list
}

// sweptHistory is a history of which each operation fails in turn.
type sweptHistory struct {
	name       string
	script     func(*sweeper)
	segment    int64
	compactMin int64
}

var sweptHistories = []sweptHistory{
	{name: "mixed", script: (*sweeper).mixedScript, segment: segment.SizeMin},
	{name: "cold", script: (*sweeper).coldScript, segment: 2 * segment.SizeMin, compactMin: 1 << 60},
}

// TestFaultSweep makes each operation of a history fail in each way that there is, once
// and for ever. Nothing acknowledged is lost, the store can be closed, and when the disk
// works again it goes on.
func TestFaultSweep(t *testing.T) {
	t.Parallel()
	for _, h := range sweptHistories {
		t.Run(h.name, h.sweep)
	}
}

func (h *sweptHistory) sweep(t *testing.T) {
	t.Parallel()
	for _, c := range sweeps() {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			n, step := 1, 1
			if testing.Short() {
				step = 9
			}
			for ; ; n += step {
				c.plan.N = n
				f := newSweeper(h)
				f.plan = c.plan
				f.heals = c.heals
				what := fmt.Sprintf("%s, at operation %d", c.name, n)
				if err := f.inBubble(t, what, f.run); err != nil {
					t.Fatalf("%s: %v\n%s", what, err, f.disk.Trace())
				}
				if f.hits == 0 {
					break
				}
			}
			t.Logf("%d operations", n-step)
		})
	}
}
