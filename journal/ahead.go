package journal

import (
	"sync/atomic"

	"github.com/mtawal/mtawal/internal/disk"
	"github.com/mtawal/mtawal/segment"
)

const (
	// aheadMost is how much of the log Ahead asks for at most: replay that has more to read waits for the disk anyway.
	aheadMost = 128 << 20
	// aheadMapped is the size of segments above which nothing is asked for: replay maps them too, and there may be no room
	// for both where addresses have 32 bits.
	aheadMapped = 256 << 20
)

// Ahead asks for what a replay of [from, to) will read to be brought into memory, and waits for none of it: commits
// went past the page cache, so the end of the log is read from the device, at its pace. done is to be called
// when the replay has ended, or was not begun: it waits for what is being asked for just then, and no more is. What can't be had is left to the replay, which says what is wrong.
func Ahead(dir disk.Dir, uuid [16]byte, from, to segment.Pos) (done func()) {
	var ended atomic.Bool
	goOn := func() bool { return !ended.Load() }
	asked := make(chan struct{})
	go func() {
		defer close(asked)
		left := int64(aheadMost)
		for n := max(from.Segment(), 1); n <= to.Segment() && left > 0 && goOn(); n++ {
			s, err := segment.OpenSegment(dir, n, uuid, false)
			if err != nil {
				return
			}
			off, end := s.First(), s.Size
			if n == from.Segment() {
				off = max(off, from.Offset())
			}
			if n == to.Segment() {
				end = to.Offset()
			}
			if s.Size <= aheadMapped {
				left -= s.Ahead(off, end, left, goOn)
			}
			if s.Release() != nil {
				return
			}
		}
	}()
	return func() {
		ended.Store(true)
		<-asked
	}
}
