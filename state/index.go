package state

import "math/bits"

// index finds the slot of a message by ID: open addressing with linear probing,
// four bytes an entry, in shards that grow one at a time, so that no insertion
// copies more than a 256th of it.
//
// IDs are handed out one behind the other, so eight neighbours share a cache
// line; groups of eight are spread by a multiplicative hash, so that survivors at
// regular distances do not pile up.
type index struct {
	shards [256]shard
}

type shard struct {
	slots []uint32 // slot+1; 0: free
	used  int
}

const fib = 0x9E3779B97F4A7C15

func split(id uint64) (sh int, home uint64) {
	h := (id >> 3) * fib
	return int(h >> 56), (h>>32)<<3 | id&7
}

func (x *index) find(t *Table, id uint64) (uint32, bool) {
	sh, home := split(id)
	s := &x.shards[sh]
	if s.used == 0 {
		return 0, false
	}
	mask := uint64(len(s.slots) - 1)
	for i := home & mask; ; i = (i + 1) & mask {
		v := s.slots[i]
		if v == 0 {
			return 0, false
		}
		if t.Msg(v-1).ID == id {
			return v - 1, true
		}
	}
}

// insert adds an ID that is not there.
func (x *index) insert(t *Table, id uint64, slot uint32) {
	sh, _ := split(id)
	s := &x.shards[sh]
	if (s.used+1)*8 > len(s.slots)*7 {
		s.grow(t, max(16, 1<<bits.Len(uint((s.used+1)*8/7))))
	}
	s.put(id, slot)
	s.used++
}

func (s *shard) put(id uint64, slot uint32) {
	_, home := split(id)
	mask := uint64(len(s.slots) - 1)
	i := home & mask
	for s.slots[i] != 0 {
		i = (i + 1) & mask
	}
	s.slots[i] = slot + 1
}

func (s *shard) grow(t *Table, n int) {
	old := s.slots
	s.slots = make([]uint32, n)
	for _, v := range old {
		if v != 0 {
			s.put(t.Msg(v-1).ID, v-1)
		}
	}
}

// remove takes an ID out and closes the gap, so that no tombstones gather. A shard
// that is nearly empty shrinks.
func (x *index) remove(t *Table, id uint64) {
	sh, home := split(id)
	s := &x.shards[sh]
	if s.used == 0 {
		return
	}
	mask := uint64(len(s.slots) - 1)
	i := home & mask
	for s.slots[i] == 0 || t.Msg(s.slots[i]-1).ID != id {
		if s.slots[i] == 0 {
			return
		}
		i = (i + 1) & mask
	}
	s.used--
	for j := i; ; {
		j = (j + 1) & mask
		v := s.slots[j]
		if v == 0 {
			break
		}
		_, h := split(t.Msg(v - 1).ID)
		// The entry at j may move to i unless its home lies cyclically in (i, j].
		if (j-h)&mask >= (j-i)&mask {
			s.slots[i] = v
			i = j
		}
	}
	s.slots[i] = 0
	if len(s.slots) > 64 && s.used*8 < len(s.slots) {
		s.grow(t, len(s.slots)/4)
	}
}
