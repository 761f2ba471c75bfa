package wal

import (
	"errors"
	"fmt"
	"maps"
	"math/rand/v2"
	"slices"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"pgregory.net/rapid"

	"github.com/mtawal/mtawal/internal/disk/memdisk"
)

// operation is one thing that a history may do, as often as its weight says. Details it takes
// from h.rng; what it did is in h.w, or among h.unknown, when it returns. Whoever adds to
// the engine adds an operation here, and to world what it changes.
type operation struct {
	weight int
	do     func(*history)
}

var operations = map[string]operation{
	"enqueue":    {10, (*history).enqueue},
	"batch":      {6, func(h *history) { h.commit(h.rng.IntN(3), h.rng.IntN(3), h.rng.IntN(3)) }},
	"claim":      {14, (*history).claim},
	"settle":     {8, func(h *history) { h.commit(1, 0, 0) }},
	"bounce":     {4, func(h *history) { h.commit(1, 0, 1) }},
	"edit":       {4, func(h *history) { h.commit(0, 1, 0) }},
	"start":      {3, (*history).start},
	"release":    {3, (*history).release},
	"mark used":  {2, (*history).markUsed},
	"set queue":  {2, (*history).setQueue},
	"flush":      {1, (*history).flush},
	"refused":    {2, (*history).refused},
	"cancelled":  {1, (*history).cancelled},
	"abandon":    {1, (*history).abandon},
	"new ID":     {1, func(h *history) { h.show(h.s.NewID()) }},
	"checkpoint": {3, func(h *history) { h.must("checkpoint", h.s.Checkpoint(bgCtx)) }},
	"compact":    {1, func(h *history) { h.must("compact", h.s.Compact(bgCtx)) }},
	"snapshot":   {2, (*history).snapshot},
	"marker":     {3, func(*history) { time.Sleep(3 * markerAfter) }},
	"wait":       {2, func(h *history) { time.Sleep(time.Duration(1+h.rng.IntN(60)) * time.Second) }},

	"burst":     {6, (*history).burst},
	"probe":     {3, func(h *history) { h.probe(h.anyCrash()) }},
	"reopen":    {1, (*history).closeAndOpen},
	"crash":     {3, (*history).crashNow},
	"crash end": {2, (*history).crashClosing},
}

// step is an operation with the seed of its details.
type step struct {
	what string
	seed uint64
}

// run runs a history to its end.
func (h *history) run(steps []step) {
	s, err := Open(spool, h.opt)
	h.must("open", err)
	h.opened(s)
	for i, st := range steps {
		h.rng = rand.New(rand.NewPCG(st.seed, uint64(len(st.what))))
		h.note("%d: %s", i, st.what)
		operations[st.what].do(h)
		h.tidy()
		h.rest()
		h.compare()
	}
	h.probe(h.anyCrash())
	h.closeAndOpen()
	h.must("close", h.s.Close())
	h.image(h.fs)
}

// TestModel drives random histories and compares with a plain map. A failing one is made
// smaller and printed with its seed; goroutines still differ from run to run in what they
// do beside each other.
func TestModel(t *testing.T) {
	t.Parallel()
	var kinds []string
	for _, name := range slices.Sorted(maps.Keys(operations)) {
		for range operations[name].weight {
			kinds = append(kinds, name)
		}
	}
	steps := rapid.SliceOfN(rapid.Custom(func(t *rapid.T) step {
		return step{rapid.SampledFrom(kinds).Draw(t, "what"), rapid.Uint64().Draw(t, "seed")}
	}), 20, 120)
	rapid.Check(t, func(rt *rapid.T) {
		cfg := memdisk.Config{CopyOnWrite: rapid.Bool().Draw(rt, "copy on write"), Garbage: rapid.Bool().Draw(rt, "garbage")}
		if rapid.Bool().Draw(rt, "any names") {
			cfg.Names = memdisk.NamesSubset
		}
		if rapid.Bool().Draw(rt, "late writes") {
			var n atomic.Int64
			cfg.LateWrite = func(string, int64) bool { return n.Add(1) == 1 } // one was under way; nobody begins another
		}
		list := steps.Draw(rt, "steps")
		h := newHistory(cfg, Options{SegmentSize: 64 << 10, claims: 1024, DurableStart: rapid.Bool().Draw(rt, "durable start")})
		if err := h.inBubble(t, fmt.Sprint(list), func() { h.run(list) }); err != nil {
			rt.Fatal(err)
		}
	})
}

// Endings.

func (h *history) closeAndOpen() {
	h.must("close", h.s.Close())
	h.must("closing twice", h.s.Close())
	if h.chance(3) {
		h.note("power cut after it")
		h.fs.PowerCut(h.rng)
	}
	h.reopen(closed)
}

func (h *history) crashNow() {
	e := h.anyCrash()
	h.note("%v", e)
	crash(h.fs, e, h.rng)
	h.crashed(e)
}

// crashClosing crashes somewhere in Close.
func (h *history) crashClosing() {
	e, n := h.anyCrash(), 1+h.rng.IntN(20)
	reached := h.crashAt(n, e)
	err := h.s.Close()
	synctest.Wait()
	h.note("close, %v at operation %d: %v", e, n, err)
	if !reached() {
		h.must("close", err)
		crash(h.fs, e, h.rng)
		h.reopen(closed)
		return
	}
	h.crashed(e)
}

// burst submits batches one behind the other without waiting, and crashes somewhere in
// between. Others work on the store meanwhile.
func (h *history) burst() {
	e := h.anyCrash()
	n := 1 + h.rng.IntN(25)
	h.note("burst, %v at operation %d", e, n)
	now := time.Now()
	var large *Message
	if h.chance(3) {
		id := h.s.NewID()
		h.show(id)
		large = &Message{ID: id, Body: make([]byte, 15_000+h.rng.IntN(100_000)), Recipients: []Recipient{{Queue: "large"}}}
	}
	reached := h.crashAt(n, e)
	var beside sync.WaitGroup
	if h.chance(3) {
		work := h.s.Checkpoint
		if h.chance(2) {
			work = h.s.Compact
		}
		beside.Go(func() { _ = work(bgCtx) }) // its failure changes nothing, which is what is checked
	}
	var largeErr error
	if large != nil {
		beside.Go(func() { _, largeErr = h.s.Enqueue(bgCtx, *large) })
	}
	if len(h.held) > 0 && h.chance(3) {
		// Back in doubt by its own commit, or by the next opening: it comes to the same.
		k := h.held[h.rng.IntN(len(h.held))]
		for _, i := range k.left {
			r := ref{k.d.ID, i}
			if h.touched[r] = true; !h.w.out[r] {
				delete(h.w.out, r)
			}
		}
		h.note("release %v", k.d.ID)
		k.d.Release()
	}
	type sent struct {
		t Ticket
		d *draft
	}
	var list []sent
	for range 1 + h.rng.IntN(8) {
		d := h.draft(h.rng.IntN(2), h.rng.IntN(2), h.rng.IntN(3), true)
		if len(d.batch.Settle)+len(d.batch.Edit)+len(d.batch.Enqueue) == 0 || d.blocked {
			continue
		}
		h.note("submit%s", d.text)
		list = append(list, sent{h.s.Submit(d.batch), d})
	}
	lost := false
	for i, x := range list {
		ids, err := x.t.Wait(bgCtx)
		h.note("%d: %v %v", i, ids, err)
		if err == nil {
			if lost {
				h.fail("submission %d was acknowledged after one before it had failed", i)
			}
			h.accept(x.d, ids)
			h.apply(x.d.change(ids, now))
			continue
		}
		lost = true
		if !errors.Is(err, ErrFailed) && !errors.Is(err, ErrClosed) {
			h.fail("submission %d: %v", i, err)
		}
		if ids := x.t.(submitted).t.ids; len(ids) == len(x.d.batch.Enqueue) {
			h.unknown = append(h.unknown, x.d.change(ids, now))
		}
	}
	beside.Wait()
	switch {
	case large == nil:
	case largeErr == nil:
		h.apply(enqueued(large.ID, large, large.Body, now))
	default:
		h.free = append(h.free, enqueued(large.ID, large, large.Body, now))
	}
	synctest.Wait()
	if !reached() {
		h.tidy()
		h.rest()
		crash(h.fs, e, h.rng)
	}
	h.crashed(e)
}
