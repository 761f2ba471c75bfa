package state

// extra is what few recipients have: 32 bytes without pointers. Those with a time are in a
// list of their queue.
type extra struct {
	notBefore  int64
	ref        Ref
	next, prev uint32 // in the list of the queue, or of free ones
	note       uint32 // index in notes; 0: the note in the log stands
}

// extras are the times and the notes that outcomes left.
type extras struct {
	slabs   []*[slabSize]extra // by number; 0 means none
	last    uint32             // highest number that was in use
	free    uint32
	linked  uint32 // extras up to this number are in the lists of their queues
	loading bool   // what is loaded is put there later: it takes long

	notes     [][]byte // by number; 0 means none
	freeNotes []uint32
}

// noExtras is the first slab of a table that has none yet: number 0 is read, and never written.
var noExtras [slabSize]extra

func (x *extras) init() {
	x.slabs = []*[slabSize]extra{&noExtras}
	x.notes = make([][]byte, 1)
}

func (x *extras) at(i uint32) *extra { return &x.slabs[i/slabSize][i%slabSize] }

// take returns the number of a free extra.
func (x *extras) take(ref Ref) uint32 {
	i := x.free
	if i != 0 {
		x.free = x.at(i).next
	} else {
		x.last++
		i = x.last
		if !x.loading && x.linked == i-1 {
			x.linked = i
		}
		switch {
		case i == 1:
			x.slabs[0] = new([slabSize]extra)
		case i%slabSize == 0:
			x.slabs = append(x.slabs, new([slabSize]extra))
		}
	}
	*x.at(i) = extra{ref: ref}
	return i
}

func (x *extras) give(i uint32) {
	*x.at(i) = extra{next: x.free}
	x.free = i
}

// setNote sets the note of an extra, which keeps the slice.
func (x *extras) setNote(e *extra, note []byte) {
	switch {
	case note == nil && e.note == 0:
	case note == nil:
		x.notes[e.note] = nil
		x.freeNotes = append(x.freeNotes, e.note)
		e.note = 0
	case e.note != 0:
		x.notes[e.note] = note
	default:
		if n := len(x.freeNotes); n > 0 {
			e.note = x.freeNotes[n-1]
			x.freeNotes = x.freeNotes[:n-1]
			x.notes[e.note] = note
		} else {
			e.note = uint32(len(x.notes))
			x.notes = append(x.notes, note)
		}
	}
}

// NotBefore is when a recipient is due, Unix ns; 0: at once.
func (t *Table) NotBefore(r *Recipient) int64 { return t.timed.at(r.extra).notBefore }

// Timed is how many recipients have a time, or a note that an outcome left, at the most.
func (t *Table) Timed() int { return int(t.timed.last) }

// Note is the note that an outcome left with a recipient; nil: the one it was
// enqueued with stands.
func (t *Table) Note(r *Recipient) []byte { return t.timed.notes[t.timed.at(r.extra).note] }

func (t *Table) setExtra(ref Ref, r *Recipient, notBefore int64, note []byte) {
	x := &t.timed
	if r.extra == 0 {
		if notBefore == 0 && note == nil {
			return
		}
		r.extra = x.take(ref)
	}
	e := x.at(r.extra)
	if e.notBefore != 0 && notBefore == 0 {
		t.unlist(r.Queue, r.extra)
	} else if e.notBefore == 0 && notBefore != 0 && r.extra <= x.linked {
		t.list(r.Queue, r.extra)
	}
	e.notBefore = notBefore
	x.setNote(e, note)
	if notBefore == 0 && note == nil {
		x.give(r.extra)
		r.extra = 0
	}
}

// list puts an extra into the list of its queue: what Flush goes through.
func (t *Table) list(q, i uint32) {
	first := &t.queues[q].timed
	e := t.timed.at(i)
	e.next, e.prev = *first, 0
	if *first != 0 {
		t.timed.at(*first).prev = i
	}
	*first = i
}

// LinkTimes puts so many times that were loaded from a checkpoint where Flush finds them.
// It reports whether there are more. Flush would do all of it first.
func (t *Table) LinkTimes(n int) (more bool) {
	x := &t.timed
	for ; n > 0 && x.linked < x.last; n-- {
		x.linked++
		if e := x.at(x.linked); e.notBefore != 0 {
			t.list(t.Rcpt(e.ref).Queue, x.linked)
		}
	}
	return x.linked < x.last
}

func (t *Table) unlist(q, i uint32) {
	if i > t.timed.linked {
		return
	}
	e := t.timed.at(i)
	if e.prev != 0 {
		t.timed.at(e.prev).next = e.next
	} else {
		t.queues[q].timed = e.next
	}
	if e.next != 0 {
		t.timed.at(e.next).prev = e.prev
	}
	e.next, e.prev = 0, 0
}
