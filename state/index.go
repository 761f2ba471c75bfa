package state

// index finds the slot of a message by ID, but for those that a Loader brought. IDs are handed out one behind the other, so
// it is a hash table of groups of eight neighbours: a lookup costs one cache line, an ID
// that follows its neighbour costs none, and a message of a dense store about nine
// bytes. A lone survivor costs a group: 40 bytes.
//
// Open addressing with linear probing over the groups, in shards that grow one at a
// time, so that no insertion copies more than a 256th of the table.
type index struct {
	shards [256]shard
}

type shard struct {
	groups []idGroup
	used   int // groups that hold something
}

// idGroup is the slots of the IDs key*8-8 to key*8-1.
type idGroup struct {
	key   uint64    // 0: free
	slots [8]uint32 // slot+1; 0: none
}

// split is the shard of an ID, where its group would like to be in it, and the group's key. Four groups that follow
// each other do so in the table too: a miss of the cache brings in the next 32 IDs. Beyond that every bit
// of the key changes every bit of the place (Stafford's variant 13 of MurmurHash3's finalizer): with a
// multiplication alone there are distances, of IDs that are left over, that crowd them.
func split(id uint64) (sh int, home, key uint64) {
	key = id>>3 + 1
	h := key >> 2
	h = (h ^ h>>30) * 0xbf58476d1ce4e5b9
	h = (h ^ h>>27) * 0x94d049bb133111eb
	h ^= h >> 31
	return int(h >> 56), h + key&3, key
}

// group returns the index of the group with a key, or of the free one where it belongs.
func (s *shard) group(home, key uint64) uint64 {
	mask := uint64(len(s.groups) - 1)
	i := home & mask
	for s.groups[i].key != key && s.groups[i].key != 0 {
		i = (i + 1) & mask
	}
	return i
}

func (x *index) find(id uint64) (uint32, bool) {
	sh, home, key := split(id)
	s := &x.shards[sh]
	if s.used == 0 {
		return 0, false
	}
	v := s.groups[s.group(home, key)].slots[id&7]
	return v - 1, v != 0
}

// insert adds an ID that is not there.
func (x *index) insert(id uint64, slot uint32) {
	sh, home, key := split(id)
	s := &x.shards[sh]
	if (s.used+1)*4 > len(s.groups)*3 {
		s.resize(max(4, 2*len(s.groups)))
	}
	g := &s.groups[s.group(home, key)]
	if g.key == 0 {
		g.key = key
		s.used++
	}
	g.slots[id&7] = slot + 1
}

func (s *shard) resize(n int) {
	old := s.groups
	s.groups = make([]idGroup, n)
	for i := range old {
		if old[i].key != 0 {
			_, home, key := split((old[i].key - 1) << 3)
			s.groups[s.group(home, key)] = old[i]
		}
	}
}

// remove takes an ID out. A group that is empty goes, and the gap is closed, so that no
// tombstones gather; a shard that is nearly empty shrinks.
func (x *index) remove(id uint64) {
	sh, home, key := split(id)
	s := &x.shards[sh]
	if s.used == 0 {
		return
	}
	i := s.group(home, key)
	g := &s.groups[i]
	g.slots[id&7] = 0
	if g.key == 0 || g.slots != [8]uint32{} {
		return
	}
	s.used--
	mask := uint64(len(s.groups) - 1)
	for j := i; ; {
		j = (j + 1) & mask
		if s.groups[j].key == 0 {
			break
		}
		_, h, _ := split((s.groups[j].key - 1) << 3)
		// The group at j may move to i unless its home lies cyclically in (i, j].
		if (j-h)&mask >= (j-i)&mask {
			s.groups[i] = s.groups[j]
			i = j
		}
	}
	s.groups[i] = idGroup{}
	if len(s.groups) > 16 && s.used*8 < len(s.groups) {
		s.resize(len(s.groups) / 4)
	}
}
