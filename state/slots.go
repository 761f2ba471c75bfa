package state

// slabSize is how many messages memory is taken for at a time: 12 KiB, which is a size class of the runtime's.
const slabSize = 256

// slabUse is how a slab is used.
type slabUse struct {
	used  uint16
	free  uint16 // index+1 of a list of free ones through Message.link; 0: none
	block uint32 // place+1 in Table.blocks of the block that it is in; 0: it is memory of its own
}

// slabBlock is slabs that are one piece of memory, which goes when all of them are empty.
type slabBlock struct {
	first, n uint32
	used     uint32 // slabs that are not empty
}

// slabsIdle is how many empty slabs are kept.
const slabsIdle = 4

// takeSlot returns a free slot.
func (t *Table) takeSlot() uint32 {
	for n := len(t.open); n > 0; n = len(t.open) {
		i := t.open[n-1]
		u := &t.slabs[i]
		if u.free == 0 {
			t.open = t.open[:n-1]
			continue
		}
		slot := i*slabSize + uint32(u.free) - 1
		if u.used == 0 && u.block == 0 {
			t.idle--
		} else if u.used == 0 {
			t.blocks[u.block-1].used++
		}
		u.free = uint16(*t.Msg(slot).link())
		u.used++
		return slot
	}
	var i uint32
	if n := len(t.gone); n > 0 {
		i = t.gone[n-1]
		t.gone = t.gone[:n-1]
	} else {
		i = uint32(len(t.slab))
		t.slab, t.slabs = append(t.slab, nil), append(t.slabs, slabUse{})
	}
	s := new([slabSize]Message)
	for j := range s {
		*s[j].link() = uint32(j+2) % (slabSize + 1)
	}
	t.slab[i], t.slabs[i] = s, slabUse{free: 1}
	t.open = append(t.open, i)
	t.idle++
	return t.takeSlot()
}

// freeSlot gives a slot back, and its slab where that is empty and there are others.
func (t *Table) freeSlot(slot uint32) {
	i := slot / slabSize
	u := &t.slabs[i]
	if u.free == 0 {
		t.open = append(t.open, i)
	}
	m := t.Msg(slot)
	*m = Message{}
	*m.link() = uint32(u.free)
	u.free = uint16(slot%slabSize + 1)
	if u.used--; u.used > 0 {
		return
	}
	if u.block != 0 {
		b := &t.blocks[u.block-1]
		if b.used--; b.used > 0 {
			return // its memory is there anyway, for the next ones
		}
		for i := b.first; i < b.first+b.n; i++ {
			t.slab[i], t.slabs[i] = nil, slabUse{}
			t.gone = append(t.gone, i)
		}
		return
	}
	if t.idle++; t.idle > slabsIdle {
		t.idle--
		t.slab[i], u.free = nil, 0
		t.gone = append(t.gone, i)
	}
}
