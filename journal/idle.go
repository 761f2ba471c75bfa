package journal

import (
	"errors"

	"github.com/mtawal/mtawal/segment"
)

// A log that nothing is written to, and in which nothing lives, needs no large segments. While it is
// idle dead files are removed rather than kept, and the segment that stands ready is replaced by
// a small one. A frame that is a Shrink goes on there; then the large one before is dead as any
// other is. Each segment says its own size, so an opening finds them as they are.

// Idle has the log make segments of a size, until one is wanted for something else than a
// Shrink, or Reserve asks for files.
func (l *Log) Idle(size int64) {
	m := l.maker
	m.mu.Lock()
	m.small = min(size, l.opt.SegmentSize)
	m.mu.Unlock()
	m.poke()
}

// Shrinks reports whether a Shrink would begin a smaller segment now.
func (l *Log) Shrinks() bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	m := l.maker
	m.mu.Lock()
	defer m.mu.Unlock()
	n := l.End().Segment()
	tail, next := l.segments[n], m.ready[n+1]
	return m.small > 0 && tail != nil && next != nil && next.Size <= m.small && next.Size < tail.Size
}

// busy says that a segment is wanted for what is written.
func (m *maker) busy() {
	m.mu.Lock()
	m.small = 0
	m.mu.Unlock()
}

// idle reports whether the log is.
func (m *maker) idle() bool {
	m.mu.Lock()
	defer m.mu.Unlock()
	return m.small > 0
}

// size is the size of the next new segment.
func (m *maker) size() int64 {
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.small > 0 {
		return m.small
	}
	return m.l.opt.SegmentSize
}

// shrink removes a file that an idle log does not need, and reports whether it did.
func (m *maker) shrink() bool {
	m.mu.Lock()
	idle, next := m.small, m.ready[m.next]
	large := idle > 0 && next != nil && next.Size > idle && next.Number != m.named
	if beyond := m.ready[m.next+1]; idle > 0 && beyond != nil {
		next, large = beyond, true // behind a cold one
	}
	large = large && m.coldAt == 0
	if large {
		delete(m.ready, next.Number)
		m.moving += next.Size
		m.turn++
	}
	m.mu.Unlock()
	if !large {
		name := ""
		if idle > 0 {
			name = m.pop(&m.free, 0)
		}
		if name == "" {
			return false
		}
		m.removed(name, m.gone(name, m.l.opt.SegmentSize))
		return true
	}
	// No Seal names it, nor can one be on the disk that was refused. Its name is durably gone before another segment gets it.
	m.removed(segment.Name(next.Number), errors.Join(next.Release(), m.gone(segment.Name(next.Number), next.Size)))
	return true
}

func (m *maker) removed(name string, err error) {
	if err != nil {
		m.l.opt.Logger.Warn("a file that the log does not need could not be removed", "file", name, "err", err)
	}
	m.mu.Lock()
	m.moved.Broadcast()
	m.mu.Unlock()
}
