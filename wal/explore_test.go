package wal

import (
	"fmt"
	"hash/maphash"
	"maps"
	"math/rand/v2"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing/synctest"
	"time"

	"github.com/mtawal/mtawal/internal/disk"
	"github.com/mtawal/mtawal/internal/disk/memdisk"
	"github.com/mtawal/mtawal/mailq"
	"github.com/mtawal/mtawal/segment"
	"github.com/mtawal/mtawal/state"
)

// explorer goes through every history of a few operations, and through every disk that a
// crash can leave: at each step that changes the disk in the last of the operations (shorter
// histories have had the others), by a kill and by power cuts that keep any of what was not
// durable, page by page. Each such image is recovered and compared with what was
// acknowledged. Those that depth is left for are opened as a store, and their recovery is
// crashed at each of its steps in turn.
type explorer struct {
	base *memdisk.FS // a store with some mail, closed
	seed *history    // what it holds
	ops  []exploreOp // that a history is made of

	// Of a longHistory.
	onward func(*branch) // what a store does that was opened behind a crash: to its end
	mixed  int           // power cuts of an image that keep any part of it, beside none and all; 0: as cuts has them
	each   bool          // of the images of the history all, and as many as mixed of those of a recovery
	whole  int64         // of so many images one is verified as a whole; 0: none
	again  int64         // of so many stores that are opened the opening of one is crashed; 0: of each
	opened atomic.Int64

	seedHash  maphash.Seed
	histories atomic.Int64
	levels    [exploreDepthMax + 1]atomic.Int64 // states, by how many crashes in recovery came before
}

const exploreDepthMax = 3

// image is a disk that a crash left, and what must be on it.
type image struct {
	fs  *memdisk.FS
	end ending
	h   *history // as it was
	at  string
}

// branch is one history under way.
type branch struct {
	*history
	x     *explorer
	mu    sync.Mutex
	seen  map[uint64]bool
	found []image
	watch bool
	now   *history // what the images of this moment must hold
	end   ending   // of the crashes so far
	where string
	ops   int      // disk operations
	done  []string // the same, by name
	// always holds before each of them; bad is what it found first.
	always func(*branch) error
	bad    error
	steps  *atomic.Int64
}

func (x *explorer) states() (n int64) {
	for i := range x.levels {
		n += x.levels[i].Load()
	}
	return n
}

// expected is the history as it stands, for images of this moment.
func (h *history) expected() *history {
	c := &history{opt: h.opt, w: h.w.clone(), since: map[ref]time.Time{}, durable: map[ref]bool{}, shown: maps.Clone(h.shown),
		touched: map[ref]bool{}, rng: rand.New(rand.NewPCG(1, 1))}
	c.unknown = slices.Clone(h.unknown)
	for r, t := range h.since {
		c.since[r] = t
	}
	for r := range h.durable {
		c.durable[r] = h.durable[r]
	}
	return c
}

// look has images taken of a file system before each of its operations that change
// something.
func (b *branch) look(fs *memdisk.FS) {
	fs.OnOp(func(op disk.Op, name string) {
		if !slices.Contains(changing, op) {
			return
		}
		b.mu.Lock()
		defer b.mu.Unlock()
		if b.ops++; b.watch {
			b.done = append(b.done, op.String()+" "+name)
			if b.always != nil && b.bad == nil {
				if b.bad = b.always(b); b.bad != nil {
					b.bad = fmt.Errorf("before disk operation %d, %v %s: %w", b.ops, op, name, b.bad)
				}
			}
			b.snap(fs, fmt.Sprintf("before disk operation %d, %v %s", b.ops, op, name))
		}
	})
}

// snap notes the image of this moment, if it is a new one. b.mu is held.
func (b *branch) snap(fs *memdisk.FS, at string) {
	c := fs.Clone()
	if sum := c.Fingerprint(b.x.seedHash); !b.seen[sum] {
		b.seen[sum] = true
		b.found = append(b.found, image{c, b.end, b.now, b.where + at})
	}
}

// moment says what images must hold from here on.
func (b *branch) moment(h *history) {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.momentLocked(h)
}

func (b *branch) momentLocked(h *history) {
	b.now = h.expected()
	clear(b.seen) // the same disk is another state when something else must be on it
}

// explore looks at an image, at what power cuts make of it, and at the crashes of the
// recoveries of each.
func (b *branch) explore(im image, level, depth int) {
	im.end = max(im.end, killed)
	whole := im.fs // which stays as it is for the power cuts to come
	im.fs = whole.Clone()
	b.one(im, level, depth)
	seen := map[uint64]bool{}
	b.x.cuts(whole, level, func(fs *memdisk.FS, path []int) {
		sum := fs.Fingerprint(b.x.seedHash)
		if seen[sum] {
			return
		}
		seen[sum] = true
		b.one(image{fs, power, im.h, fmt.Sprintf("%s, power cut %v", im.at, path)}, level, depth)
	})
}

// cuts is the cuts that are looked at.
func (x *explorer) cuts(fs *memdisk.FS, level int, f func(*memdisk.FS, []int)) {
	if x.mixed == 0 || x.each && level == 0 {
		cuts(fs, f)
		return
	}
	try := tryCuts(fs, f)
	if len(try(nothingMore)) == 0 {
		return // nothing is left to chance
	}
	try(allOfIt)
	for i := range x.mixed {
		try(rand.New(rand.NewPCG(uint64(x.states()), uint64(i))).IntN)
	}
}

// tryCuts returns a function that calls f with what a power cut makes of a file system, and returns how many
// alternatives there were of each thing.
func tryCuts(fs *memdisk.FS, f func(*memdisk.FS, []int)) func(choose func(int) int) (ns []int) {
	return func(choose func(int) int) (ns []int) {
		var ks []int
		c := fs.Clone()
		c.PowerCutWith(func(n int) int {
			k := choose(n)
			ns, ks = append(ns, n), append(ks, k)
			return k
		})
		f(c, ks)
		return ns
	}
}

// cutsMax bounds the power cuts of one image that are gone through: behind it come none, all
// and each alone of what may be there.
const cutsMax = 64

// cuts calls f with what power cuts may make of a file system.
func cuts(fs *memdisk.FS, f func(*memdisk.FS, []int)) {
	try := tryCuts(fs, f)
	total := 1
	ns := try(nothingMore)
	for _, n := range ns {
		if total *= n; total > cutsMax {
			break
		}
	}
	if total <= cutsMax {
		for c := new(memdisk.Choices); ; {
			try(c.Choose)
			if !c.Next() {
				return
			}
		}
	}
	try(allOfIt)
	for i := range ns {
		for _, most := range []bool{false, true} {
			at := -1
			try(func(n int) int {
				at++
				if (at == i) != most {
					return n - 1
				}
				return 0
			})
		}
	}
}

// one recovers one image and audits what came of it.
func (b *branch) one(im image, level, depth int) {
	b.x.levels[level].Add(1)
	b.steps.Add(1)
	b.note("%s%s, %v", strings.Repeat(" ", level), im.at, im.end)
	if b.x.whole > 0 && level == 0 && b.x.states()%b.x.whole == 0 {
		b.image(im.fs)
	}
	if depth == 0 {
		b.judge(im, im.h.audit(im.fs, im.end))
		im.fs.Discard()
		return
	}
	sub := &branch{history: im.h.expected(), x: b.x, seen: map[uint64]bool{}, watch: b.x.again == 0 || b.x.opened.Add(1)%b.x.again == 0, steps: b.steps, end: im.end, where: im.at + "; in recovery "}
	sub.fs = im.fs
	sub.moment(sub.history)
	sub.look(sub.fs)
	s, err := Open(spool, sub.on(sub.fs))
	if err != nil {
		b.judge(im, fmt.Errorf("open: %w", err))
	}
	sub.w = sub.match(s, im.end)
	// What the store that was just opened shows has to hold from now on.
	sub.where = im.at + "; recovered, "
	sub.settled(s)
	synctest.Wait()
	sub.mu.Lock()
	if sub.watch {
		sub.snap(sub.fs, "at rest")
	}
	sub.mu.Unlock()
	sub.fs.OnOp(nil)
	if b.x.onward != nil {
		b.x.onward(sub)
	} else {
		sub.fs.Kill()
		_ = s.Close() // it can't write any more
	}
	synctest.Wait()
	for _, next := range sub.found {
		b.explore(next, level+1, depth-1)
	}
}

func (b *branch) judge(im image, err error) {
	if err != nil {
		b.fail("%s, %v: %v", im.at, im.end, err)
	}
}

// audit recovers an image without opening it, and compares all that is in it.
func (h *history) audit(fs *memdisk.FS, e ending) error {
	d, err := fs.OpenDir(spool, false)
	if err != nil {
		return err
	}
	defer d.Close()
	m, err := readMeta(d)
	if err != nil {
		return err
	}
	r, err := recoverStore(d, m.uuid, true)
	if err != nil {
		return err
	}
	defer func() { _ = r.close() }()
	have, err := r.view()
	if err != nil {
		return err
	}
	h.matchView(have, func(w *world) string {
		c := &r.table.Counts
		if c.Enqueued != w.enqueued || c.Used != w.used || r.table.Messages() != len(w.live) {
			return fmt.Sprintf("totals are %+v and %d messages; want %d enqueued, used %+v, %d messages", c, r.table.Messages(), w.enqueued, w.used, len(w.live))
		}
		return ""
	}, e)
	return nil
}

// view is what a store would list if it were opened, without opening it. Every body is read
// and checked.
func (r *recovered) view() (view, error) {
	v := view{}
	var failed error
	now := time.Now().UnixNano()
	r.table.ForEach(func(slot uint32) {
		m := r.table.Msg(slot)
		l := listed{id: m.ID, loc: m.Loc, extents: r.table.Extents(m)}
		for _, x := range append([]state.Extent{{Pos: m.Loc}}, l.extents...) {
			if seg, err := r.found.Acquire(x.Pos.Segment()); err == nil {
				l.pins = append(l.pins, seg)
			}
		}
		defer release(l.pins)
		list := r.table.Recipients(slot)
		for i := range list {
			rc := &list[i]
			if rc.Standing == state.Used {
				continue
			}
			e := Entry{ID: ID(m.ID), Recipient: i, Queue: r.table.Queue(rc.Queue).Name, InDoubt: rc.Flags&state.InDoubt != 0,
				Attempts: int(rc.Attempts), NotBefore: segment.Time(r.table.NotBefore(rc)), Priority: m.Priority, Note: r.table.Note(rc)}
			if _, doubt := r.doubt[state.Ref{Slot: slot, Index: uint32(i)}]; doubt {
				e.InDoubt = true
				e.Attempts++
			}
			if e.State = mailq.Pending; rc.Standing == state.Held {
				e.State = mailq.OnHold
			} else if r.table.NotBefore(rc) > now {
				e.State = mailq.InDeferral
			}
			l.entries = append(l.entries, e)
		}
		l.fill()
		for i := range l.entries {
			if l.entries[i].Err != nil {
				failed = l.entries[i].Err
				return
			}
			v.add(&l.entries[i])
		}
		if err := checkMessage(r, slot); err != nil {
			failed = err
		}
	})
	return v, failed
}

// follow runs a history whose last operation is explored, and reports whether each of its
// operations had something to do.
func (b *branch) follow(path []int, depth int) bool {
	b.fs = b.x.base.Clone()
	b.look(b.fs)
	b.watch = len(path) == 0
	b.moment(b.history)
	s, err := Open(spool, b.on(b.fs))
	b.must("open", err)
	b.w = b.match(s, closed)
	b.settled(s)
	b.rest()
	for i, n := range path {
		op := &b.x.ops[n]
		b.note("%s", op.name)
		b.where = op.name + ", "
		if i == len(path)-1 {
			b.begin()
		}
		if done := op.do(b); !done {
			b.fs.OnOp(nil)
			b.fs.Kill()
			return false
		}
		b.rest()
	}
	b.moment(b.history)
	b.mu.Lock()
	if b.watch {
		b.snap(b.fs, "at rest")
	}
	b.mu.Unlock()
	b.compare()
	b.fs.OnOp(nil)
	b.image(b.fs)
	b.fs.Kill()
	_ = b.s.Close()
	synctest.Wait()
	for _, im := range b.found {
		b.explore(im, 0, depth)
	}
	b.x.histories.Add(1)
	return true
}

// begin has the images of the operation that comes taken.
func (b *branch) begin() {
	b.moment(b.history)
	b.mu.Lock()
	b.watch = true
	b.mu.Unlock()
}

// acked says that what was asked for is acknowledged: all images from here on have it.
func (b *branch) acked(c change) {
	b.apply(c)
	b.unknown = nil
	b.tidy()
	b.moment(b.history)
}

// asked says that a change is asked for: the images from here on may have it.
func (b *branch) asked(c change) {
	b.unknown = []change{c}
	b.moment(b.history)
}

// paths calls f with every history of n operations.
func (x *explorer) paths(n int, f func([]int)) {
	path := make([]int, n)
	for {
		f(slices.Clone(path))
		i := n - 1
		for ; i >= 0; i-- {
			if path[i]++; path[i] < len(x.ops) {
				break
			}
			path[i] = 0
		}
		if i < 0 {
			return
		}
	}
}
