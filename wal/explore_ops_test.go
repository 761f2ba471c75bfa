package wal

import (
	"errors"
	"fmt"
	"hash/maphash"
	"math/rand/v2"
	"os"
	"runtime"
	"runtime/debug"
	"strconv"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/mtawal/mtawal/internal/disk/memdisk"
	"github.com/mtawal/mtawal/segment"
)

// exploreOp is an operation of the histories that are gone through. It has no choices of its
// own, and reports false where there is nothing for it to do: such a history is another one
// with fewer operations.
type exploreOp struct {
	name string
	do   func(*branch) bool
}

// exploreOps is the alphabet. Between them they fill segments and seal them, kill what is in
// them, fold, recycle, empty sparse ones, and end the store in every way.
var exploreOps = []exploreOp{
	{"enqueue", func(b *branch) bool { return b.enqueue(600, "a", "b") }},
	{"enqueue long", func(b *branch) bool { return b.enqueue(3*segment.AlignmentMin, "a") }},
	{"claim", (*branch).claim},
	{"used", func(b *branch) bool { return b.settle(Delivered) }},
	{"defer", func(b *branch) bool { return b.settle(Deferred) }},
	{"bounce", func(b *branch) bool { return b.settle(Failed) }},
	{"fold", func(b *branch) bool { b.must("checkpoint", b.s.Checkpoint(bgCtx)); return true }},
	{"compact", func(b *branch) bool { b.must("compact", b.s.Compact(bgCtx)); return true }},
	{"marker", (*branch).marker},
	{"kill", func(b *branch) bool { b.fs.Kill(); return b.again(killed) }},
	{"power cut", func(b *branch) bool { b.fs.PowerCutWith(func(int) int { return 0 }); return b.again(power) }},
	{"close", func(b *branch) bool { b.must("close", b.s.Close()); return b.again(closed) }},
}

func (b *branch) enqueue(size int, queues ...string) bool {
	id, body := b.s.NewID(), make([]byte, size)
	for i := range body {
		body[i] = byte(uint64(id)>>(i%8)) ^ byte(i*7)
	}
	b.post(id, body, queues...)
	return true
}

// post enqueues a message under an ID that was reserved for it.
func (b *branch) post(id ID, body []byte, queues ...string) {
	m := Message{ID: id, Envelope: []byte("from"), Body: body}
	for _, q := range queues {
		m.Recipients = append(m.Recipients, Recipient{Queue: q, Address: "r@example.org"})
	}
	b.send(m)
}

func (b *branch) send(m Message) {
	b.show(m.ID)
	c := enqueued(m.ID, &m, m.Body, time.Now())
	b.asked(c)
	_, err := b.s.Enqueue(bgCtx, m)
	b.must("enqueue", err)
	b.acked(c)
}

// claim takes what is due. It is a start, and leaves no trace on the disk but in the claim
// table.
func (b *branch) claim() bool {
	d, ok := b.auto.TryNext("a")
	if !ok {
		return false
	}
	b.take(d)
	b.moment(b.history)
	return true
}

func (b *branch) take(d *Delivery) { b.history.take(d, false) }

// settle settles what was claimed first; where nothing is, it claims.
func (b *branch) settle(r Result) bool {
	if len(b.held) == 0 && !b.claim() {
		return false
	}
	if r != Failed {
		b.must("settle", b.trySettle(r))
		return true
	}
	id := b.s.NewID()
	b.show(id)
	b.must("settle", b.trySettle(r, Message{ID: id, Recipients: []Recipient{{Queue: "bounce", Address: "sender@example.org"}}}))
	return true
}

// trySettle settles what was claimed first, with other mail in the same commit. If there is no room, nothing
// of it is there.
func (b *branch) trySettle(r Result, mail ...Message) error {
	k := b.held[0]
	o := Outcome{Recipient: All, Result: r}
	if r == Deferred {
		o.Until = time.Now().Add(time.Hour)
		o.Note = []byte("451 later")
	}
	batch := Batch{Settle: []Settlement{{Delivery: k.d, Outcomes: []Outcome{o}}}, Enqueue: mail}
	var list []change
	now := time.Now()
	for _, i := range k.left {
		list = append(list, b.w.outcome(ref{k.d.ID, i}, o, true, now))
	}
	for i := range mail {
		list = append(list, enqueued(mail[i].ID, &mail[i], mail[i].Body, now))
	}
	c := all(list...)
	b.asked(c)
	_, err := b.s.Commit(bgCtx, batch)
	if errors.Is(err, ErrFull) {
		b.acked(all())
		return err
	}
	b.must("settle", err)
	b.acked(c)
	return nil
}

// marker lets the time pass in which the last commit gets its promise, and starts get into
// the log.
func (b *branch) marker() bool {
	b.s.mu.Lock()
	wants := b.s.wantsMarker()
	b.s.mu.Unlock()
	if wants {
		time.Sleep(3 * markerAfter)
	}
	return wants
}

// again opens the store that has ended.
func (b *branch) again(e ending) bool {
	old := b.s
	b.mu.Lock()
	b.end = e
	b.mu.Unlock()
	_ = old.Close()
	synctest.Wait()
	s, err := Open(spool, b.on(b.fs))
	b.must("open", err)
	b.w = b.match(s, e)
	b.settled(s)
	return true
}

// settled goes on with a store of which it is known what is in it.
func (b *branch) settled(s *Store) {
	b.opened(s)
	b.held, b.unknown = nil, nil
	b.mu.Lock()
	b.end = closed
	b.mu.Unlock()
	b.moment(b.history)
}

// exploreBase makes the store that every history begins with: its segment is nearly full, a
// long message and a short one wait, and there is a checkpoint.
func exploreBase(t *testing.T) (fs *memdisk.FS, h *history) {
	h = newHistory(memdisk.Config{WholePages: true, OldOrNew: true}, Options{SegmentSize: segment.SizeMin, claims: 32})
	b := &branch{history: h, x: &explorer{}, seen: map[uint64]bool{}}
	err := h.inBubble(t, "the store that histories begin with", func() {
		s, err := Open(spool, h.opt)
		h.must("open", err)
		h.opened(s)
		b.enqueue(5*segment.AlignmentMin, "a")
		b.enqueue(600, "a")
		h.must("close", s.Close())
		h.old = nil
	})
	if err != nil {
		t.Fatal(err)
	}
	return h.fs, h
}

// exploreReach is how far TestExplore goes.
type exploreReach struct {
	ops    int    // histories of up to so many operations, all of them
	deep   [4]int // by depth, the longest histories whose recoveries are crashed so many times over
	states int64  // longer histories, at random, until there are so many states
}

var exploreReaches = map[string]exploreReach{
	"short": {1, [4]int{0, -1, -1, -1}, 0},
	"":      {2, [4]int{0, 1, 0, -1}, 0},
	"ci":    {3, [4]int{0, 2, 1, 0}, 1_010_000},
	"wide":  {5, [4]int{0, 2, 1, 0}, 0},
	"long":  {5, [4]int{0, 4, 3, 2}, 100_000_000},
}

// TestExplore goes through all short histories and all that crashes can make of them, then
// through longer ones at random. MTAWAL_MODEL=ci makes it 10^6 states, MTAWAL_MODEL=long 10^8
// at least, most of them of recoveries that are crashed over and over; MTAWAL_MODEL=wide has all of the histories that long has, as deep
// as ci. MTAWAL_MODEL_SEED replays what was random. MTAWAL_MODEL_PART=2/8 is the second part of eight,
// which have all of it between them: for several machines, or for several nights.
func TestExplore(t *testing.T) {
	t.Parallel()
	how := os.Getenv("MTAWAL_MODEL")
	if how == "" && testing.Short() {
		how = "short"
	}
	reach, ok := exploreReaches[how]
	if !ok {
		t.Fatalf("MTAWAL_MODEL=%s is none of them", how)
	}
	seed, err := strconv.ParseUint(os.Getenv("MTAWAL_MODEL_SEED"), 10, 64)
	if err != nil {
		seed = rand.Uint64()
	}
	part, parts := 1, 1
	if p := os.Getenv("MTAWAL_MODEL_PART"); p != "" {
		if n, _ := fmt.Sscanf(p, "%d/%d", &part, &parts); n != 2 || part < 1 || part > parts {
			t.Fatalf("MTAWAL_MODEL_PART=%s is no part", p)
		}
	}
	fs, h := exploreBase(t)
	x := &explorer{base: fs, seed: h, ops: exploreOps, seedHash: maphash.MakeSeed()}
	if how != "" && how != "short" { // alone in the process
		defer debug.SetGCPercent(debug.SetGCPercent(800))
	}
	var paths [][]int
	for n := range reach.ops + 1 {
		x.paths(n, func(p []int) { paths = append(paths, p) })
	}
	began := time.Now()
	defer x.tell(t)()
	mine := func(n int) int { return n*parts + part - 1 }
	x.all(t, func(n int) (path []int, depth int, ok bool) {
		if n = mine(n); n >= len(paths) {
			return nil, 0, false
		}
		for d, most := range reach.deep {
			if len(paths[n]) <= most {
				depth = d
			}
		}
		return paths[n], depth, true
	})
	whole := x.histories.Load()
	x.all(t, func(n int) (path []int, depth int, ok bool) {
		rng := rand.New(rand.NewPCG(seed, uint64(mine(n))))
		for range reach.ops + 1 + rng.IntN(4) {
			path = append(path, rng.IntN(len(x.ops)))
		}
		return path, b2i(rng.IntN(8) == 0), x.states() < reach.states/int64(parts)
	})
	t.Logf("%d states in %v: part %d of %d of the histories, all %d of up to %d operations and %d longer ones with seed %d; %d images of a crash, %d of one in their recovery, %d of one in the recovery of that, %d of one in the recovery after",
		x.states(), time.Since(began).Round(time.Millisecond), part, parts, whole, reach.ops, x.histories.Load()-whole, seed,
		x.levels[0].Load(), x.levels[1].Load(), x.levels[2].Load(), x.levels[3].Load())
}

// tell says now and then how far it is, with -v at once, until it is told to end. One history may take an hour.
func (x *explorer) tell(t *testing.T) (end func()) {
	stop, stopped := make(chan struct{}), make(chan struct{})
	tick := time.NewTicker(time.Minute)
	go func() {
		defer close(stopped)
		for {
			select {
			case <-stop:
				return
			case <-tick.C:
				t.Logf("%d states, %d histories", x.states(), x.histories.Load())
			}
		}
	}()
	return func() {
		tick.Stop()
		close(stop)
		<-stopped
	}
}

// all runs one history after the other on every core, as next gives them by number.
func (x *explorer) all(t *testing.T, next func(n int) (path []int, depth int, ok bool)) {
	var number atomic.Int64
	t.Run("histories", func(t *testing.T) {
		for range runtime.GOMAXPROCS(0) {
			t.Run("", func(t *testing.T) {
				t.Parallel()
				for !t.Failed() {
					path, depth, ok := next(int(number.Add(1)) - 1)
					if !ok {
						return
					}
					x.run(t, path, depth)
				}
			})
		}
	})
}

// run explores one history.
func (x *explorer) run(t *testing.T, path []int, depth int) {
	h := newHistory(memdisk.Config{}, x.seed.opt)
	h.w = x.seed.w.clone()
	b := &branch{history: h, x: x, seen: map[uint64]bool{}, steps: &h.steps}
	name := ""
	for _, n := range path {
		name += " " + x.ops[n].name + ","
	}
	if err := h.inBubble(t, "the history"+name, func() { b.follow(path, depth) }); err != nil {
		t.Errorf("the history%s depth %d: %v", name, depth, err)
	}
}
