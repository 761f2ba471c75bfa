package wal

import (
	"context"
	"errors"
	"sync/atomic"
	"testing"
	"time"

	"github.com/mtawal/mtawal/segment"
)

// racing marks messages used while the store is at an operation of the disk: the mark is placed before it, and goes
// with the next commit.
type racing struct {
	at   int // the operation since it is on; 0: none
	pick func(*branch) []ID
	on   bool

	ops  int
	mark Ticket
	done change
}

// step is what holds before each operation. branch.mu is held.
func (r *racing) step(b *branch) error {
	if r.on {
		r.ops++
	}
	if r.on && r.ops == r.at {
		c, batch := b.using(r.pick(b)...)
		r.done, r.mark = c, b.s.Submit(batch)
		b.unknown = []change{c}
		b.momentLocked(b.history)
	}
	if r.mark == nil {
		return nil
	}
	ctx, cancel := context.WithCancel(bgCtx)
	cancel()
	if _, err := r.mark.Wait(ctx); errors.Is(err, ErrUnknown) {
		return nil // not yet
	} else if err != nil {
		return err
	}
	r.mark, b.unknown = nil, nil
	b.apply(r.done)
	b.momentLocked(b.history)
	return nil
}

// aShortOfRoom is a store that has taken all that MaxBytes lets it, whose bounces have used their part of the
// reserve, and that empties segments while room is short: one message of three lives in each.
func aShortOfRoom(r *racing) longHistory {
	var during atomic.Pointer[Store]
	var moved, short atomic.Int64
	trace := &Trace{Compacted: func(CompactInfo) {
		if s := during.Load(); s != nil {
			moved.Add(1)
			short.Add(int64(b2i(s.short())))
		}
	}}
	const size, bounce = 12_000, 30_000
	return longHistory{
		opt: Options{SegmentSize: segment.SizeMin, claims: 256, MaxBytes: 24 * segment.SizeMin, Trace: trace, fold: segment.SizeMin},
		before: func(b *branch) {
			for range 2 {
				for i := 0; b.s.Admit(size) == nil; i++ {
					b.enqueue([]int{size / 6, size, size}[i%3], "a")
					b.rest()
				}
				time.Sleep(2 * spaceEvery)
			}
			for err := error(nil); err == nil; {
				b.claim()
				id := b.s.NewID()
				err = b.trySettle(Failed, Message{ID: id, Body: make([]byte, bounce), Recipients: []Recipient{{Queue: "bounce"}}})
				b.rest()
			}
			b.must("deferring", b.trySettle(Deferred))
			if room := b.s.bounceRoom(); room > bounceSegments*segment.SizeMin/2 {
				b.fail("bounces have %d bytes left", room)
			}
		},
		do: func(b *branch) {
			during.Store(b.s)
			var gone, bounces []ID
			for _, id := range b.live() {
				switch b.w.live[id].size {
				case size:
					gone = append(gone, id)
				case bounce:
					bounces = append(bounces, id)
				}
			}
			b.use(gone...)
			b.use(bounces...)
			b.mu.Lock()
			r.on = true
			b.mu.Unlock()
			time.Sleep(5 * spaceEvery)
			b.mu.Lock()
			r.on = false
			b.mu.Unlock()
			b.must("what is moved is marked, and", r.step(b))
			if err := b.s.Admit(size); err != nil {
				b.fail("segments were not emptied: %v; %s; %+v", err, roomOf(b.s), b.s.Segments())
			}
			during.Store(nil)
			if r.at == 0 && moved.Load() == 0 {
				b.fail("nothing was moved")
			}
		},
		ops: []string{"Rename seg-", "Rename spare-ckpt"},
		lacks: func() string {
			if r.at == 0 && short.Load() == 0 { // whether it still is by then hangs on who is first
				return "room was never short while segments were emptied"
			}
			return ""
		},
		always: func(b *branch) error { return errors.Join(named(b), r.step(b)) },
		full:   true,
	}
}

// Segments are emptied out of the reserve when MaxBytes is reached.
func TestScenario_CrashAtEveryStepOfEmptyingSegmentsWhileRoomIsShort(t *testing.T) {
	t.Parallel()
	untilWhole(t, func() string {
		l := aShortOfRoom(&racing{})
		return l.look(t, reachOf(t))
	})
}

// While that goes on messages are marked used that are being moved, at each operation of the disk in
// turn. They are used, also for who opens the store after a crash; the others are where they were, or were copied to.
func TestScenario_UsedWhileSegmentsAreEmptiedForRoom(t *testing.T) {
	t.Parallel()
	reach := reachOf(t)
	step := 1
	if !reach.each {
		step, reach.opened = 12*reach.opened, 16
	}
	pick := func(b *branch) (ids []ID) {
		for i, id := range b.live() {
			if i%4 == 1 {
				ids = append(ids, id)
			}
		}
		return ids
	}
	for at := 1; ; at += step {
		var r racing
		untilWhole(t, func() string {
			r = racing{at: at, pick: pick}
			l := aShortOfRoom(&r)
			return l.look(t, reach)
		})
		if r.ops < at {
			break
		}
	}
}
