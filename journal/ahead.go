package journal

import (
	"sync"

	"github.com/mtawal/mtawal/internal/disk"
	"github.com/mtawal/mtawal/segment"
)

const (
	// aheadMost is how much of the log is asked for before it is read, at most: what is brought in is not to push out what
	// was brought in before.
	aheadMost = 128 << 20
	// aheadMapped is the size of segments above which nothing is asked for: replay maps them too, and there may be no room
	// for both where addresses have 32 bits.
	aheadMapped = 256 << 20
	// aheadAtOnce is how many segments are asked for at a time: each header says where the next one is, so in one of them
	// the device does one thing after the other.
	aheadAtOnce = 4
)

// Ahead asks for what a replay will read to be brought into memory, and waits for none of it: commits went past the page
// cache, so the end of the log is read from the device, at its pace. What can't be had is left to the replay, which says
// what is wrong.
type Ahead struct {
	asking sync.WaitGroup

	mu    sync.Mutex
	roomy *sync.Cond
	left  int64
	next  uint32 // segment
	ended bool
}

// AskAhead begins to ask for what a replay of [from, to) will read, and what it looks at behind that, which counts as never read. End is to be called when it has ended, or was not begun.
func AskAhead(dir disk.Dir, uuid [16]byte, from, to segment.Pos) *Ahead {
	a := &Ahead{left: aheadMost, next: max(from.Segment(), 1)}
	a.roomy = sync.NewCond(&a.mu)
	for range min(aheadAtOnce, int(to.Segment())-int(from.Segment())+1) {
		a.asking.Go(func() {
			for n := a.take(); n <= to.Segment(); n = a.take() {
				if !a.ask(dir, uuid, n, from, to) {
					return
				}
			}
		})
	}
	return a
}

// Passed says that the replay has read a frame: as much more may be asked for.
func (a *Ahead) Passed(h *segment.FrameHeader) {
	a.mu.Lock()
	a.left += segment.AheadOf(h)
	a.mu.Unlock()
	a.roomy.Broadcast()
}

// End waits for what is being asked for just then, and no more is. Nothing of the log is open by then.
func (a *Ahead) End() {
	a.mu.Lock()
	a.ended = true
	a.mu.Unlock()
	a.roomy.Broadcast()
	a.asking.Wait()
}

func (a *Ahead) take() uint32 {
	a.mu.Lock()
	defer a.mu.Unlock()
	a.next++
	return a.next - 1
}

// may waits until so many bytes may be asked for, and reports whether they may.
func (a *Ahead) may(bytes int64) bool {
	a.mu.Lock()
	defer a.mu.Unlock()
	for !a.ended && bytes > 0 && a.left < bytes {
		a.roomy.Wait()
	}
	a.left -= bytes
	return !a.ended
}

// ask goes through a segment, and reports whether there may be another.
func (a *Ahead) ask(dir disk.Dir, uuid [16]byte, n uint32, from, to segment.Pos) bool {
	if !a.may(0) {
		return false
	}
	s, err := segment.OpenSegment(dir, n, uuid, false)
	if err != nil {
		return false
	}
	off, end := s.First(), s.Size
	if n == from.Segment() {
		off = max(off, from.Offset())
	}
	if n == to.Segment() {
		end = to.Offset()
	}
	if s.Size <= aheadMapped {
		s.Ahead(off, end, a.may)
		if m, err := s.Map(); err == nil && n == to.Segment() && a.may(lookAheadMost) {
			m.Prefetch(end, min(lookAheadMost, s.Size-end)) // what lookAhead looks at
		}
	}
	return s.Release() == nil
}
