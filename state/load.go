package state

import (
	"slices"
	"sync"
	"sync/atomic"
	"unsafe"

	"github.com/mtawal/mtawal/internal/disk"
)

// Loader puts the messages of a checkpoint into an empty table, in the order of their IDs. The index has none of them, which would
// cost another fifth of an opening: see Table.findLoaded.
type Loader struct {
	t      *Table
	slab   *[slabSize]Message
	n      int         // slots of slab that are filled
	block  []Message   // for the next slabs
	blocks [][]Message // for what was announced
	taken  atomic.Int64
	more   chan []Message
	enough chan struct{}
	done   sync.WaitGroup
}

// blockSlabs is how many slabs are made in one piece, of 6 MiB: enough for huge pages. It goes when all of them are empty.
const blockSlabs = 512

// pageMessages are as many as fit into the least page.
const pageMessages = (4 << 10) / int(unsafe.Sizeof(Message{}))

// Loader returns one for about so many messages; the table has no message yet and never had one, and is not to be used
// until Close but for its queues and keys.
func (t *Table) Loader(messages int) *Loader {
	l := &Loader{t: t, more: make(chan []Message), enough: make(chan struct{})}
	// All at once, and nothing in them touched yet: with one at a time the collector of garbage would see the heap double again and again.
	for slabs := (messages + slabSize - 1) / slabSize; slabs > 0; slabs -= blockSlabs {
		block := make([]Message, min(slabs, blockSlabs)*slabSize)
		disk.AdviseHuge(block)
		l.blocks = append(l.blocks, block)
	}
	l.done.Go(l.touchBlocks)
	return l
}

// touchBlocks has the next block ready, its pages faulted in: to do that takes as long as to decode what
// goes into them.
func (l *Loader) touchBlocks() {
	defer close(l.more)
	for {
		block := l.takeBlock()
		if block == nil {
			return
		}
		for i := 0; i < len(block); i += pageMessages {
			block[i].ID = 0
		}
		select {
		case l.more <- block:
		case <-l.enough:
			return
		}
	}
}

// takeBlock returns a block that nobody has touched, nil when there is none.
func (l *Loader) takeBlock() []Message {
	n := l.taken.Add(1) - 1
	if n >= int64(len(l.blocks)) {
		return nil
	}
	return l.blocks[n]
}

// Add adds a message. Totals are not touched: the checkpoint has them too. The ID must be above that of the one
// before.
func (l *Loader) Add(e *Entry) (slot uint32) {
	slot, m := l.take(e.ID)
	l.t.resize(m, len(e.Rcpts))
	l.t.load(slot, m, e)
	return slot
}

// AddPlain is Add for a message of which there is little to say.
func (l *Loader) AddPlain(p *Plain) {
	_, m := l.take(p.ID)
	m.Loc, m.Weight, m.Expires, m.Enqueued, m.flags = p.Loc, p.Weight, p.Expires, p.Enqueued, msgThere
	m.one[0].Queue = p.Queue
	l.t.setLate(m, p.Late)
	l.t.queues[p.Queue].Live++
}

// take returns the next slot, and the message in it with its ID and nothing else.
func (l *Loader) take(id uint64) (slot uint32, m *Message) {
	t := l.t
	if l.slab == nil || l.n == slabSize {
		l.next()
		t.firsts = append(t.firsts, id)
	}
	slot = uint32(len(t.slab)-1)*slabSize + uint32(l.n)
	m = &l.slab[l.n]
	l.n++
	t.messages++
	m.ID, t.loaded = id, id
	return slot, m
}

// next begins a slab.
func (l *Loader) next() {
	t := l.t
	if len(l.block) == 0 {
		select {
		case l.block = <-l.more:
		default: // none is ready: rather than to wait, this goroutine touches the pages of one as it goes
			l.block = l.takeBlock()
		}
		if l.block == nil {
			if l.block = <-l.more; l.block == nil { // there are more than was said
				l.block = make([]Message, slabSize)
			}
		}
		t.blocks = append(t.blocks, slabBlock{first: uint32(len(t.slab))})
	}
	l.slab, l.n, l.block = (*[slabSize]Message)(l.block), 0, l.block[slabSize:]
	b := &t.blocks[len(t.blocks)-1]
	b.n++
	b.used++
	t.slab, t.slabs = append(t.slab, l.slab), append(t.slabs, slabUse{used: slabSize, block: uint32(len(t.blocks))})
}

// Close ends the loading. The slots of the last slab that are left are free.
func (l *Loader) Close() {
	close(l.enough)
	l.done.Wait()
	if l.n == 0 || l.n == slabSize {
		return
	}
	i := len(l.t.slab) - 1
	l.t.slabs[i].used, l.t.slabs[i].free = uint16(l.n), uint16(l.n+1)
	for j := l.n; j < slabSize; j++ {
		*l.slab[j].link() = uint32(j+2) % (slabSize + 1)
	}
	l.t.open = append(l.t.open, uint32(i))
}

// findLoaded finds a message that a Loader brought. It is in the slab whose first ID is the last that is not above its own, no further
// from the first slot than its ID is from that one's, and stays there as long as it lives. Whatever has its ID there is it:
// slots are used again, but IDs are not.
func (t *Table) findLoaded(id uint64) (slot uint32, ok bool) {
	n, first := slices.BinarySearch(t.firsts, id)
	if !first {
		n--
	}
	if n < 0 || t.slab[n] == nil {
		return 0, false
	}
	slab, i := t.slab[n], int(min(id-t.firsts[n], slabSize-1))
	if slab[i].ID != id { // IDs do not follow each other; they are in order but for what was put in later
		lo := 0
		for hi := i; lo < hi; {
			if mid := (lo + hi) / 2; slab[mid].ID < id {
				lo = mid + 1
			} else {
				hi = mid
			}
		}
		if slab[lo].ID == id {
			i = lo
		}
		for i >= 0 && slab[i].ID != id {
			i--
		}
	}
	if i < 0 {
		return 0, false
	}
	return uint32(n*slabSize + i), slab[i].flags&msgDead == 0
}

// Load adds a message, as Loader.Add does, one by one to a table in use.
func (t *Table) Load(e *Entry) {
	slot := t.newMessage(e.ID, len(e.Rcpts))
	t.load(slot, t.Msg(slot), e)
}

// load fills a message that has its ID and room for its recipients.
func (t *Table) load(slot uint32, m *Message, e *Entry) {
	m.Loc, m.Weight, m.Expires, m.Priority = e.Loc, e.Weight, e.Expires, e.Priority
	m.Enqueued = e.Enqueued
	if e.Keyed {
		m.flags |= msgKeyed
	}
	if len(e.Extents) > 0 {
		t.setExtents(m, append([]Extent(nil), e.Extents...))
	}
	list := t.Recipients(slot)
	var from, note []byte
	for i := range list {
		r, s := &list[i], &e.Rcpts[i]
		*r = s.Recipient
		r.extra, r.Mem = 0, 0
		if r.Standing == Used {
			r.Queue = 0
			continue
		}
		if s.NotBefore != 0 || s.Note != nil {
			// Recipients that were written as alike share a note, as they did in the log.
			if s.Note == nil {
				note = nil
			} else if note == nil || unsafe.SliceData(s.Note) != unsafe.SliceData(from) || len(s.Note) != len(from) {
				note = append([]byte{}, s.Note...)
			}
			from = s.Note
			t.timed.loading = true
			t.setExtra(Ref{slot, uint32(i)}, r, s.NotBefore, note)
			t.timed.loading = false
		}
		t.addLive(m, 1)
		t.queues[r.Queue].Live++
	}
	t.setLate(m, e.Late) // what is in the first recipient was written over
}
