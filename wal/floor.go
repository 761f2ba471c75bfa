package wal

import (
	"time"

	"github.com/mtawal/mtawal/mailq"
)

// floor keeps the lowest value that a figure had over windows that end now: what it does not go
// below although the queue is drained. It is told of every change, so that no dip is missed,
// and keeps one lowest value for each stretch of a window, whatever happens in it. Its times
// are those of the monotonic clock: a wall clock that is set moves nothing. Store.mu guards it.
type floor struct {
	began   time.Time
	last    int64 // the value since the last change
	windows [3]floorWindow
}

// floorWindow is a window in stretches of one length, in a ring: 60 whole ones, and the one
// that has begun. So it reaches back by its length, and by up to one stretch more.
type floorWindow struct {
	stretch time.Duration
	newest  int64 // number of the stretch that has begun
	lows    [floorStretches + 1]int64
}

const floorStretches = 60

// init begins with a value. What was before is not known: for as long as a window reaches
// back behind this, it is the floor since then.
func (f *floor) init(now time.Time, v int64) {
	f.began, f.last = now, v
	for i, length := range [...]time.Duration{time.Minute, 10 * time.Minute, time.Hour} {
		w := &f.windows[i]
		w.stretch = length / floorStretches
		for j := range w.lows {
			w.lows[j] = v
		}
	}
}

// observe notes that from now on the value is v.
func (f *floor) observe(now time.Time, v int64) {
	since := now.Sub(f.began)
	for i := range f.windows {
		w := &f.windows[i]
		w.reach(since, f.last)
		low := &w.lows[w.newest%int64(len(w.lows))]
		*low = min(*low, v)
	}
	f.last = v
}

// reach begins the stretches up to now, through which the value was last.
func (w *floorWindow) reach(since time.Duration, last int64) {
	n := int64(since / w.stretch)
	for k := max(w.newest+1, n-floorStretches); k <= n; k++ {
		w.lows[k%int64(len(w.lows))] = last
	}
	w.newest = max(w.newest, n)
}

// lowest returns the floors now.
func (f *floor) lowest(now time.Time) mailq.Floors {
	f.observe(now, f.last)
	low := func(w *floorWindow) int64 {
		v := w.lows[0]
		for _, l := range w.lows {
			v = min(v, l)
		}
		return v
	}
	return mailq.Floors{Minute: low(&f.windows[0]), TenMinutes: low(&f.windows[1]), Hour: low(&f.windows[2])}
}
