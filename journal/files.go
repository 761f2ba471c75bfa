package journal

import (
	"slices"

	"github.com/mtawal/mtawal/segment"
)

// Files is what the files of a log take, and what of that it can still write into.
type Files struct {
	Segments int   // in the log
	Bytes    int64 // of all files, those included that wait for a reader or are being made or removed
	// Left can be appended without another block of the disk: the rest of the tail, and files that stand ready. Where
	// those were made when segments had another size they count as one of this size, or, if they are smaller, which
	// not every frame fits into, not at all: so what is left is so many segments if it is so many bytes.
	Left   int64
	Ahead  int64 // what segments take that were made ahead
	Others int64 // in Bytes: tails that were cut, and what could not be removed
	// Unlinked is bytes of files that were removed while they were mapped: none.
	Unlinked int64
	// Turn changes with each file that comes to what is left or goes from it. Free space of the
	// disk that was read between two looks with the same turn is in neither Left nor on its way there.
	Turn uint64
}

// Files counts the files of the log, all at one moment.
func (l *Log) Files() Files {
	l.mu.Lock()
	defer l.mu.Unlock()
	var f Files
	end := l.End()
	for n, s := range l.segments {
		f.Segments++
		f.Bytes += s.Size
		if n == end.Segment() {
			f.Left = min(s.Size-end.Offset(), l.opt.SegmentSize)
		}
	}
	for _, i := range l.retired {
		f.Bytes += i.Size
	}
	m := l.maker
	m.mu.Lock()
	defer m.mu.Unlock()
	ready := int64(len(m.free)+len(m.spare)) * l.opt.SegmentSize
	for _, d := range m.dead {
		ready += d.size
	}
	for _, s := range m.ready {
		f.Ahead += s.Size
		if s.Size >= l.opt.SegmentSize {
			f.Left += l.opt.SegmentSize
		}
	}
	f.Left += ready
	f.Bytes += ready + f.Ahead + m.moving + m.others
	f.Others, f.Turn, f.Unlinked = m.others, m.turn, m.unlinkedBytes()
	return f
}

// hold counts bytes of files that are being made or removed, from the moment on at which then
// has taken them from where they were counted.
func (m *maker) hold(bytes int64, then func()) {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.moving += bytes
	m.turn++
	if then != nil {
		then()
	}
}

// entered says that a segment which stood ready is in the log. Log.mu is held.
func (m *maker) entered(number uint32) {
	m.mu.Lock()
	delete(m.ready, number)
	if number == m.coldAt {
		m.coldAt = 0
	}
	m.mu.Unlock()
}

// unlinked notes that the name of a segment's file is removed; whoever maps it then has the disk keep
// it. mu is held.
func (m *maker) unlinked(s *segment.Segment) {
	if s != nil && s.Mapped() {
		m.nameless = append(m.nameless, s)
	}
}

func (m *maker) unlinkedBytes() (n int64) {
	m.nameless = slices.DeleteFunc(m.nameless, func(s *segment.Segment) bool { return !s.Mapped() })
	for _, s := range m.nameless {
		n += s.Size
	}
	return n
}
