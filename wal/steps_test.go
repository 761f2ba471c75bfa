package wal

import (
	"fmt"
	"hash/maphash"
	"os"
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/mtawal/mtawal/internal/disk/memdisk"
)

// longHistory is one history of what a store does by itself, or for long, of which every disk is looked at
// that a crash can leave: before each operation of the disk, by a kill and by power cuts.
// Each is recovered and compared as explorer does it for short ones. Then it is opened, goes on, takes mail, and is
// drained. Some of these openings are crashed in turn, at each of their steps.
type longHistory struct {
	opt    Options
	before func(*branch) // makes what is there when it begins
	do     func(*branch)
	ops    []string // kinds of operations and prefixes of names that must have been among it

	// All may be nil.
	always func(*branch) error        // holds before each operation
	lacks  func() string              // what it has not of what it is about, beside ops
	full   bool                       // the disk that a crash left may have no room
	opened func(*branch)              // holds of a store that was opened behind a crash
	rested func(*branch)              // holds of a store that was opened behind a crash and drained
	left   func(*branch, *memdisk.FS) // holds of the disk when that store was closed
}

// longReach is how much of a long history is looked at.
type longReach struct {
	opened       int // of so many images one is opened and goes on
	mixed        int // this and the others: see explorer
	each         bool
	whole, again int64
}

var longReaches = map[string]longReach{
	"short": {opened: 8, mixed: 1, whole: 8, again: 1 << 40},
	"":      {opened: 1, mixed: 1, whole: 16, again: 40},
	"ci":    {opened: 1, mixed: 2, whole: 4, again: 4},
	"wide":  {opened: 1, mixed: 2, whole: 4, again: 4},
	"long":  {opened: 1, mixed: 2, each: true, whole: 1},
}

func (l *longHistory) run(t *testing.T) {
	t.Helper()
	untilWhole(t, func() string { return l.look(t, reachOf(t)) })
}

// untilWhole begins a history again while it has not all that it is about, as look says: which of its goroutines a store
// lets go first is not in the hands of the test.
func untilWhole(t *testing.T, look func() (missing string)) {
	t.Helper()
	missing := ""
	for range 10 {
		if missing = look(); missing == "" {
			return
		}
	}
	t.Error(missing)
}

func reachOf(t *testing.T) longReach {
	t.Helper()
	how := os.Getenv("MTAWAL_MODEL")
	if how == "" && testing.Short() {
		how = "short"
	}
	reach, ok := longReaches[how]
	if !ok {
		t.Fatalf("MTAWAL_MODEL=%s is none of them", how)
	}
	return reach
}

// look goes through a history and what crashes leave of it, but if it has not all that it should have: it
// returns what is missing.
func (l *longHistory) look(t *testing.T, reach longReach) (missing string) {
	t.Helper()
	h := newHistory(memdisk.Config{Names: memdisk.NamesSubset}, l.opt)
	x := &explorer{seedHash: maphash.MakeSeed(), onward: l.onward, mixed: reach.mixed, each: reach.each, again: reach.again, whole: reach.whole}
	b := &branch{history: h, x: x, seen: map[uint64]bool{}, steps: &h.steps, always: l.always}
	began := time.Now()
	err := h.inBubble(t, t.Name(), func() {
		s, err := Open(spool, h.opt)
		h.must("open", err)
		h.opened(s)
		b.moment(h)
		l.before(b)
		b.rest()
		b.look(b.fs)
		b.begin()
		l.do(b)
		b.rest()
		b.moment(h)
		b.mu.Lock()
		b.snap(b.fs, "at rest")
		b.mu.Unlock()
		h.must("what holds before each operation", b.bad)
		b.compare()
		h.fs.OnOp(nil)
		for _, op := range l.ops {
			if !slices.ContainsFunc(b.done, func(d string) bool { return strings.HasPrefix(d, op) }) {
				missing = fmt.Sprintf("among the operations there is no %q: %q", op, b.done)
			}
		}
		if l.lacks != nil && missing == "" {
			missing = l.lacks()
		}
		h.must("close", s.Close())
		if missing != "" {
			return
		}
		for i, im := range b.found {
			b.explore(im, 0, b2i(i%reach.opened == 0))
		}
	})
	if err != nil {
		t.Fatal(err)
	}
	t.Logf("%d operations, %d disks that a crash left, %d that one in their recovery left, in %v", len(b.done),
		x.levels[0].Load(), x.levels[1].Load(), time.Since(began).Round(time.Millisecond))
	return missing
}

// onward goes on with a store that was opened behind a crash, to its end.
func (l *longHistory) onward(b *branch) {
	if l.opened != nil {
		l.opened(b)
	}
	switch err := b.s.Admit(2000); {
	case err != nil && !l.full:
		b.fail("intake is shut: %v; %s", err, roomOf(b.s))
	case err == nil && b.x.states()%2 == 0: // else it may be empty from the beginning
		b.enqueue(600, "a", "b")
	}
	b.drain(b.s, b.w.clone())
	if l.full {
		b.fs.SetCapacity(1 << 40)
	}
	time.Sleep(3 * spaceEvery)
	b.must("a message for which there must be room", b.s.Admit(2000))
	if l.rested != nil {
		l.rested(b)
	}
	accounted(b)
	b.must("close", b.s.Close())
	if l.left != nil {
		l.left(b, b.fs)
	}
}

// accounted fails unless a store at rest knows what its files take, and keeps no other.
func accounted(b *branch) {
	synctest.Wait()
	list, err := b.s.dir.List()
	b.must("listing", err)
	var bytes int64
	for _, i := range list {
		switch {
		case strings.HasPrefix(i.Name, "seg-"), strings.HasPrefix(i.Name, "free-"):
			bytes += i.Size
		case strings.HasPrefix(i.Name, "cut-"):
			bytes += i.Blocks
		case strings.HasPrefix(i.Name, "tmp-"):
			b.fail("%s is left", i.Name)
		}
	}
	if f := b.s.log.Files(); f.Bytes != bytes {
		b.fail("the files of the log take %d bytes, counted are %+v: %v", bytes, f, list)
	}
	if err := named(b); err != nil {
		b.fail("%v", err)
	}
}

// named fails if a file is open or mapped, and has no name any more.
func named(b *branch) error {
	if n, m := b.fs.Nameless(), b.s.log.Files().Unlinked; n != 0 || m != 0 {
		return fmt.Errorf("%d bytes on the disk have no name, %d by what the store says", n, m)
	}
	return nil
}

// use marks all that is left of messages used, in one commit.
func (b *branch) use(ids ...ID) {
	c, batch := b.using(ids...)
	b.asked(c)
	_, err := b.s.Commit(bgCtx, batch)
	b.must("marking used", err)
	b.acked(c)
}

func (b *branch) using(ids ...ID) (change, Batch) {
	var batch Batch
	var list []change
	now, o := time.Now(), Outcome{Recipient: All, Result: Delivered}
	for _, id := range ids {
		batch.Edit = append(batch.Edit, Edit{ID: id, Outcomes: []Outcome{o}})
		for i, r := range b.w.live[id].rcpts {
			if !r.used {
				list = append(list, b.w.outcome(ref{id, i}, o, false, now))
			}
		}
	}
	return all(list...), batch
}

// live are the messages that are there, in the order of their IDs.
func (b *branch) live() (ids []ID) {
	b.w.each(func(r ref) {
		if len(ids) == 0 || ids[len(ids)-1] != r.ID {
			ids = append(ids, r.ID)
		}
	})
	return ids
}
