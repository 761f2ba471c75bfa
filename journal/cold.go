package journal

import (
	"errors"
	"fmt"

	"github.com/mtawal/mtawal/internal/barrier"
	"github.com/mtawal/mtawal/internal/disk"
	"github.com/mtawal/mtawal/segment"
)

// A cold segment is as large as the one frame that it is for: copies of what waits for long, which among fresh mail would
// have to be copied again and again. Their bodies are written ahead, at the caller's pace, into a file that is no segment yet. That
// then takes the place behind the tail, and the segment that stood ready there makes way. When the tail is full what is left to be written is
// the frame's header and table, a moment between two frames of others, and the log goes on in a segment as all others are.
//
// Before its frame it is a successor that stands ready, with bytes in it that no header speaks of. Where the frame does not come it stays
// what it is, a small one.

// ErrNoCold: the log has no place for a cold segment now.
var ErrNoCold = errors.New("no cold segment can stand ready now")

// coldName is the name of its file until it is a segment.
const coldName = freePrefix + "cold"

// coldStep is how much of the bodies is written at a time.
const coldStep = 256 << 10

// coldWish is what the maker is asked for.
type coldWish struct {
	size int64
	made chan coldMade // takes one
}

// coldMade is what has become of it.
type coldMade struct {
	number uint32
	taken  bool // the file has its final name, durably or not, and is counted there
	err    error
}

// Cold makes the segment behind the tail a cold one, for a single frame, with a table of so many bytes, its header not included, and these bodies,
// and writes them, durably but for the first few. It returns the number of the segment, for Draft.Cold, and how many bytes of the bodies are
// left for Draft.Body. wrote is called with each piece that was written; an error that it returns ends it.
// After ErrNoCold, and after disk.ErrNoSpace, the log is as it was. One call at a time.
func (l *Log) Cold(table int64, bodies []byte, wrote func(n int) error) (number uint32, head int, err error) {
	a := uint32(l.dir.Block())
	h := segment.FrameHeader{TableLen: uint32(table), BodyLen: int64(len(bodies))}
	h.Layout(a)
	size := max(roundUp(segment.SizeMin, int64(a)), h.Len+3*int64(a)) // the header, the Seal and a Marker
	bound := roundUp(int64(h.BodyOff), int64(a))
	head = int(min(int64(len(bodies)), bound-int64(h.BodyOff)))
	if size > l.opt.SegmentSize/2 || l.opt.Scrub { // it gains nothing; what waits in it would have to be wiped
		return 0, 0, fmt.Errorf("a segment of %d bytes: %w", size, ErrNoCold)
	}
	m := l.maker
	if err := m.roomFor(size, false, func() { m.hold(size, nil) }); err != nil {
		return 0, 0, err
	}
	made := coldMade{err: l.fillCold(size, int64(a)+bound, bodies[head:], wrote)}
	if made.err == nil {
		made = m.stand(size)
	}
	if err = made.err; err != nil {
		err = fmt.Errorf("a cold segment: %w", err)
	}
	if !made.taken {
		err = errors.Join(err, m.gone(coldName, size))
	}
	return made.number, head, err
}

// fillCold writes the file of a cold segment: bodies at an offset, zeros before and behind.
func (l *Log) fillCold(size, at int64, bodies []byte, wrote func(n int) error) error {
	if err := removeIfThere(l.dir, coldName); err != nil { // of a try that failed
		return err
	}
	f, err := l.dir.Create(coldName)
	if err != nil {
		return err
	}
	return errors.Join(l.fillColdFile(f, size, at, bodies, wrote), f.Close())
}

func (l *Log) fillColdFile(f disk.File, size, at int64, bodies []byte, wrote func(n int) error) error {
	if err := f.Allocate(size); err != nil {
		return err
	}
	// Where writes copy each would be written twice; the segment is synced before it stands.
	write := writer(f, l.opt.NoSync || barrier.Gone(barrier.ColdSync) || l.dir.CopyOnWrite())
	buf := segment.Aligned(coldStep)
	end := at + int64(len(bodies))
	for off := int64(0); off < size; {
		n := min(coldStep, size-off)
		b := buf[:n]
		clear(b)
		if from, till := max(off, at), min(off+n, end); from < till {
			copy(b[from-off:], bodies[from-at:till-at])
		}
		if err := write(off, b); err != nil {
			return err
		}
		if err := wrote(int(n)); err != nil {
			return err
		}
		off += n
	}
	return nil
}

// ColdStands reports whether a cold segment stands behind the tail, for whoever is about to place a frame.
func (l *Log) ColdStands(number uint32) bool {
	m := l.maker
	m.mu.Lock()
	defer m.mu.Unlock()
	return number == l.tail.Number+1 && m.coldAt == number && m.ready[number] != nil
}

// Unused says that no frame comes for the cold segment: it is one as any other.
func (l *Log) Unused(number uint32) {
	m := l.maker
	m.mu.Lock()
	if m.coldAt == number {
		m.coldAt = 0
	}
	m.mu.Unlock()
	m.poke()
}

// stand has the file that holds what a cold segment holds become the successor of the tail.
func (m *maker) stand(size int64) coldMade {
	w := &coldWish{size, make(chan coldMade, 1)}
	m.mu.Lock()
	if m.stop {
		m.mu.Unlock()
		return coldMade{err: errStopped}
	}
	m.cold = w
	m.mu.Unlock()
	m.poke()
	return <-w.made
}

// makeCold does so for whoever waits in stand, and reports whether somebody did.
func (m *maker) makeCold() bool {
	m.mu.Lock()
	w, number := m.cold, m.next
	m.cold = nil
	next := m.ready[number]
	var err error
	switch {
	case w == nil:
	case m.stop:
		err = errStopped
	case m.names != nil:
		err = m.names
	case m.small > 0, m.waited.Load(), next == nil && m.err != nil, number == m.named, next != nil && next.Size != m.l.opt.SegmentSize, m.ready[number+1] != nil:
		err = ErrNoCold
	case next != nil:
		delete(m.ready, number)
		m.moving += next.Size
		m.turn++
	}
	m.mu.Unlock()
	if w == nil {
		return false
	}
	if err == nil && next != nil {
		err = m.makeWay(next)
	}
	if err != nil {
		w.made <- coldMade{err: err}
	} else {
		w.made <- m.makeColdAt(number, w.size)
	}
	return true
}

// refuseCold tells whoever waits in stand that the log has ended.
func (m *maker) refuseCold() {
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.cold != nil {
		m.cold.made <- coldMade{err: errStopped}
	}
}

// makeWay takes the name off a segment that stands ready, which no Seal names: its file waits for another life.
func (m *maker) makeWay(s *segment.Segment) error {
	name, to := segment.Name(s.Number), fmt.Sprintf("%sready-%08x", freePrefix, s.Number)
	err := errors.Join(s.Release(), m.l.dir.Rename(name, to))
	if err == nil && !barrier.Gone(barrier.DeadName) {
		err = syncNames(m.l.dir)
	}
	m.lost(err)
	m.mu.Lock()
	defer m.mu.Unlock()
	m.moving -= s.Size
	m.turn++
	if err != nil {
		m.others += s.Size // under one name or the other
		return err
	}
	m.free = append(m.free, to)
	return nil
}

// makeColdAt gives the file of a cold segment its number.
func (m *maker) makeColdAt(number uint32, size int64) coldMade {
	opt := m.l.opt
	opt.SegmentSize = size
	s, err := makeSegment(m.l.dir, coldName, number, m.l.uuid, opt, nil)
	m.lost(err)
	m.mu.Lock()
	defer m.mu.Unlock()
	switch {
	case err == nil:
		m.ready[number], m.coldAt = s, number
		m.moving -= size
	case errors.Is(err, errNames):
		m.halfway += size
	}
	m.turn++
	m.moved.Broadcast()
	return coldMade{number, err == nil || errors.Is(err, errNames), err}
}
