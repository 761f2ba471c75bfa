package wal

import (
	"sync"
	"testing"
	"time"
)

// A group waits for those who were answered; after one that waited in vain so many do not, twice as
// many each time, until one has not.
func TestGatherInVain(t *testing.T) {
	var w gatherer
	if _, ok := w.worth(); ok {
		t.Error("nobody is missing, and is waited for")
	}
	skipped := func() (n int) {
		for {
			if _, ok := w.worth(); ok {
				return n
			}
			n++
		}
	}
	for _, want := range []int{0, 1, 3, 7, 15, 31, 63, gatherSkips, gatherSkips} {
		w.missing.Store(4)
		if n := skipped(); n != want {
			t.Errorf("%d groups did not wait, want %d", n, want)
		}
		w.skip = 0
		wait, _ := w.worth()
		w.came++ // less than half of them
		w.judge(wait)
	}
	w.skip = 0
	wait, _ := w.worth()
	if wait.asked != 4 {
		t.Errorf("%+v, want 4", wait)
	}
	w.came += 2
	w.judge(wait)
	if n := skipped(); n != 0 {
		t.Errorf("%d groups did not wait after one that had half of them", n)
	}
}

// One waits at a time, until those who are missing have come, and nobody is held up by one that
// waits for too long.
func TestGatherIsForOne(t *testing.T) {
	var w gatherer
	if !w.gather() || w.since.Load() != 0 {
		t.Error("nobody is missing, and somebody waits")
	}
	w.since.Store(time.Now().Add(time.Hour).UnixNano())
	if w.gather() {
		t.Error("two wait")
	}
	w.since.Store(time.Now().Add(-time.Hour).UnixNano())
	if !w.gather() {
		t.Error("one that has waited for an hour is left to wait")
	}
	w.since.Store(0)
	w.missing.Store(3)
	var all sync.WaitGroup
	for range 3 {
		all.Go(func() { w.missing.Add(-1) })
	}
	if !w.gather() || w.since.Load() != 0 {
		t.Error("it still waits")
	}
	all.Wait()
}
