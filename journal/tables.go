package journal

import (
	"slices"
	"sort"
	"sync"

	"github.com/mtawal/mtawal/segment"
)

// tables are headers and tables of the frames that landed since the newest checkpoint, for the next one. The log is
// written past the page cache: read back from the device, a stretch of it costs as many reads as it has frames, in the
// way of commits, and with what the device reads around each about as many bytes as were written. What is
// here is what was written: a frame is checked against its checksums and the chain when it is read, wherever it
// comes from.
type tables struct {
	mu     sync.Mutex
	frames []tableFrame // in the order of the log, with gaps
	bytes  int
	chunk  []byte // the rest of what was allocated last
}

// tableFrame is a frame without its bodies: the header, and the table behind it.
type tableFrame struct {
	pos segment.Pos
	b   []byte
}

const (
	// tablesMax is how many bytes are kept. Those of a segment full of messages of 4 KiB are 4 MiB or so; where bodies
	// are small, or there are none, the rest is read from the device.
	tablesMax   = 16 << 20
	tablesChunk = 256 << 10
)

// add keeps a copy of a frame that has landed, if there is room.
func (t *tables) add(pos segment.Pos, b []byte) {
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.bytes+len(b) > tablesMax {
		return
	}
	var c []byte
	if len(b) > tablesChunk/16 {
		c = make([]byte, len(b)) // the rest of the chunk is for smaller ones
	} else {
		if len(b) > len(t.chunk) {
			t.chunk = make([]byte, min(tablesChunk, max(t.bytes, tablesChunk/16)))
		}
		c, t.chunk = t.chunk[:len(b):len(b)], t.chunk[len(b):]
	}
	copy(c, b)
	t.frames = append(t.frames, tableFrame{pos, c})
	t.bytes += len(b)
}

// forget lets go of the frames before a position.
func (t *tables) forget(pos segment.Pos) {
	t.mu.Lock()
	defer t.mu.Unlock()
	n := sort.Search(len(t.frames), func(i int) bool { return t.frames[i].pos >= pos })
	for _, f := range t.frames[:n] {
		t.bytes -= len(f.b)
	}
	t.frames = slices.Delete(t.frames, 0, n)
}

// at returns n bytes at a position, nil if they are not here. They are never written to again.
func (t *tables) at(pos segment.Pos, n int64) []byte {
	t.mu.Lock()
	defer t.mu.Unlock()
	i := sort.Search(len(t.frames), func(i int) bool { return t.frames[i].pos > pos }) - 1
	if i < 0 {
		return nil
	}
	f := t.frames[i]
	if off := int64(pos - f.pos); off <= int64(len(f.b)) && n <= int64(len(f.b))-off {
		return f.b[off : off+n : off+n]
	}
	return nil
}

// scan is segment.ScanTables with what is here.
func (t *tables) scan(s *segment.Segment, off int64, prev segment.FrameHeader, fn func(*segment.Frame) error) (segment.Stop, error) {
	return s.ScanTables(off, prev, func(off, n int64) []byte { return t.at(segment.MakePos(s.Number, off), n) }, fn)
}

// Forget says that the log before a position is not to be folded again: a checkpoint has been published there.
func (l *Log) Forget(pos segment.Pos) { l.tables.forget(pos) }
