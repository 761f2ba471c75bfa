package wal

import (
	"sync"
	"time"
)

// floor is the lowest value that a figure had over the last minutes: what it does not go
// below although the queue is drained. It keeps one lowest value a minute.
type floor struct {
	mu   sync.Mutex
	lows [floorMinutes]int64
	when [floorMinutes]int64
}

const floorMinutes = 10

// observe notes a value and returns the floor.
func (f *floor) observe(now time.Time, v int64) int64 {
	f.mu.Lock()
	defer f.mu.Unlock()
	minute := now.Unix() / 60
	i := int(minute % floorMinutes)
	if f.when[i] != minute || v < f.lows[i] {
		f.when[i], f.lows[i] = minute, v
	}
	low := v
	for j := range f.lows {
		if minute-f.when[j] < floorMinutes && f.lows[j] < low {
			low = f.lows[j]
		}
	}
	return low
}
