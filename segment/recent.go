package segment

import (
	"sort"
	"sync"
	"unsafe"

	"github.com/mtawal/mtawal/internal/disk"
)

// Recent is the frames that a log wrote last, in the memory that they were laid out in: durable
// writes go past the page cache, so who reads what was written a moment ago would
// wait for the device. Safe for concurrent use.
//
// The bytes of a frame are those on the disk: a slab is written to by the one frame that is
// laid out in it, before that is written, and again only when nobody can find or holds what
// was in it.
type Recent struct {
	table, body int // of a slab

	mu       sync.Mutex
	slabs    []*Slab // the newest is last, and laid out in
	free     []*Slab
	detached int    // slabs that are held and can't be found any more
	arena    []byte // for the bodies of the next slabs; empty and not nil: used up
	bytes    int64  // see Bytes
}

// Room is what a frame asks for.
type Room struct{ Table, Body int }

const (
	// recentSlabs is how many slabs can be found: the one that is laid out in, and those before it.
	recentSlabs = 3
	// slabsMax is how many there may be for another one to be held: a reader that takes its
	// time is served by the device then, rather than by more memory.
	slabsMax = 4
)

// Slab is memory that frames are laid out in, one behind the other.
type Slab struct {
	table, body []byte // their lengths are what is taken
	frames      []recentFrame
	holds       int
	found       bool
}

// recentFrame is a frame that was written. Its bodies begin bodyOff behind its start.
type recentFrame struct {
	pos         Pos
	bodyOff     int64
	table, body []byte
}

// NewRecent returns an empty one for frames that ask for at most so much each. A slab takes one
// of them, or many that are smaller.
func NewRecent(frame Room) *Recent {
	return &Recent{table: int(roundUp(int64(frame.Table), AlignmentMin)), body: int(roundUp(int64(frame.Body), AlignmentMin))}
}

// Next returns a slab that has at least half the room of the largest frame left, and the memory for
// one, empty. It stays free until Take.
func (r *Recent) Next() (s *Slab, table, body []byte) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if n := len(r.slabs); n > 0 {
		s = r.slabs[n-1]
	}
	if s == nil || cap(s.table)-len(s.table) < r.table/2 || cap(s.body)-len(s.body) < r.body/2 {
		s = r.newest()
	}
	return s, s.table[len(s.table):][:0], s.body[len(s.body):][:0]
}

// newest makes room for another slab and returns it. mu is held.
func (r *Recent) newest() *Slab {
	if len(r.slabs) == recentSlabs {
		old := r.slabs[0]
		r.slabs = append(r.slabs[:0], r.slabs[1:]...)
		if old.found = false; old.holds > 0 {
			r.detached++
		} else {
			r.free = append(r.free, old)
		}
	}
	var s *Slab
	if n := len(r.free); n > 0 {
		s, r.free = r.free[n-1], r.free[:n-1]
	} else {
		s = &Slab{table: Aligned(r.table)[:0], body: r.slabBody()[:0]}
		r.bytes += int64(r.table)
	}
	s.table, s.body, s.found = s.table[:0], s.body[:0], true
	clear(s.frames)
	s.frames = s.frames[:0]
	r.slabs = append(r.slabs, s)
	return s
}

// Take says that what Next returned has become so long. The frame may be padded in place to a
// multiple of the least alignment; it returns both without more capacity than that. The slab is held
// until Keep or Drop.
func (r *Recent) Take(s *Slab, table, body []byte) (_, _ []byte) {
	r.mu.Lock()
	defer r.mu.Unlock()
	s.holds++
	return take(&s.table, table, 0), take(&s.body, body, AlignmentMin)
}

// take moves the end of what is taken to the block behind b and so much more.
func take(taken *[]byte, b []byte, more int) []byte {
	if len(b) == 0 {
		more = 0
	}
	n := min(roundUp(int64(len(b)+more), AlignmentMin), int64(cap(b)))
	*taken = (*taken)[:min(len(*taken)+int(n), cap(*taken))]
	return b[:len(b):n]
}

// Keep has a frame found that was written: its table with the header in front and its bodies, both padded. They
// are what Take returned. Frames are kept in the order of their positions.
func (r *Recent) Keep(s *Slab, h *FrameHeader, table, body []byte) {
	r.mu.Lock()
	defer r.mu.Unlock()
	s.frames = append(s.frames, recentFrame{pos: h.Pos, bodyOff: int64(h.BodyOff), table: table, body: body})
	r.letGo(s)
}

// Drop says that nothing was written of what Take returned.
func (r *Recent) Drop(s *Slab) { r.release(s) }

// hold finds the frame that a position lies in. Its bytes stay as they are until release.
func (r *Recent) hold(p Pos) (f recentFrame, s *Slab) {
	if r == nil {
		return f, nil
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	if len(r.slabs)+r.detached >= slabsMax {
		return f, nil
	}
	for i := len(r.slabs) - 1; i >= 0; i-- {
		s = r.slabs[i]
		if len(s.frames) > 0 && s.frames[0].pos <= p {
			k := sort.Search(len(s.frames), func(k int) bool { return s.frames[k].pos > p })
			f = s.frames[k-1]
			if p >= f.pos+Pos(max(int64(len(f.table)), f.bodyOff+int64(len(f.body)))) {
				return f, nil
			}
			s.holds++
			return f, s
		}
	}
	return f, nil
}

// at returns n bytes at a position, nil if they are not in one part of the frame.
func (f *recentFrame) at(p Pos, n int64) []byte {
	off := int64(p - f.pos)
	part := f.table
	if f.bodyOff <= off {
		part, off = f.body, off-f.bodyOff
	}
	if p < f.pos || n < 0 || off > int64(len(part)) || n > int64(len(part))-off {
		return nil
	}
	return part[off : off+n : off+n]
}

func (r *Recent) release(s *Slab) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.letGo(s)
}

// letGo ends a hold. mu is held.
func (r *Recent) letGo(s *Slab) {
	if s.holds--; s.holds == 0 && !s.found {
		r.detached--
		r.free = append(r.free, s)
	}
}

// Bytes is the memory that it has, held slabs included.
func (r *Recent) Bytes() int64 {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.bytes
}

// slabBody returns memory for the bodies of a slab. Direct writes are made from it again and again: the first ones are
// one piece, of huge pages. mu is held.
func (r *Recent) slabBody() []byte {
	if r.arena == nil && r.body >= disk.HugePage {
		r.arena = alignedTo(recentSlabs*r.body, disk.HugePage)
		r.bytes += int64(len(r.arena) + disk.HugePage)
		disk.AdviseHuge(r.arena)
	}
	if len(r.arena) == 0 {
		r.bytes += int64(r.body)
		return Aligned(r.body)
	}
	b := r.arena[:r.body:r.body]
	r.arena = r.arena[r.body:]
	return b
}

// Aligned returns n bytes that begin at a multiple of the least alignment, as direct
// writes want them.
func Aligned(n int) []byte { return alignedTo(n, AlignmentMin) }

func alignedTo(n, unit int) []byte {
	b := make([]byte, n+unit)
	skip := -int(uintptr(unsafe.Pointer(unsafe.SliceData(b)))) & (unit - 1)
	return b[skip : skip+n : skip+n]
}
