package memdisk

import (
	"cmp"
	"encoding/binary"
	"hash/maphash"
	"maps"
	"slices"
)

// Fingerprint is a hash of all that whoever opens the file system next can see, or a power
// cut can bring up: names and files, in the cache and on the device, with what is not
// decided yet. Of two that are the same by it one needs no second look.
func (m *FS) Fingerprint(seed maphash.Seed) uint64 {
	m.mu.Lock()
	defer m.mu.Unlock()
	var h maphash.Hash
	h.SetSeed(seed)
	num := func(list ...uint64) {
		for _, n := range list {
			var b [8]byte
			binary.LittleEndian.PutUint64(b[:], n)
			h.Write(b[:])
		}
	}
	num(m.boot, m.mount)
	number := map[*inode]uint64{}
	for i, ino := range m.inodes() {
		number[ino] = uint64(i + 1)
		ino.hash(&h, num)
	}
	for _, d := range m.sortedDirs() {
		for _, names := range []map[string]*inode{d.live, d.durable} {
			num(uint64(len(names)))
			for _, name := range slices.Sorted(maps.Keys(names)) {
				h.WriteString(name)
				num(number[names[name]])
			}
		}
		for _, op := range d.pending {
			h.WriteString(op.add + "\x00" + op.drop)
			num(number[op.ino])
		}
	}
	return h.Sum64()
}

func (ino *inode) hash(h *maphash.Hash, num func(...uint64)) {
	num(uint64(ino.size), uint64(ino.devSize), uint64(ino.links), uint64(len(ino.sizes)))
	for _, s := range ino.sizes {
		num(uint64(s))
	}
	hashPage := func(i int, p *page) {
		if p != nil && *p != zeroPage {
			num(uint64(i))
			h.Write(p[:])
		}
	}
	for i, p := range ino.dev {
		hashPage(i, p)
	}
	for _, i := range slices.SortedFunc(maps.Keys(ino.dirty), cmp.Compare[int]) {
		num(uint64(i), uint64(len(ino.dirty[i])))
		for _, p := range ino.dirty[i] {
			hashPage(i, p)
		}
		hashPage(i, ino.cached(i))
	}
	for _, i := range slices.SortedFunc(maps.Keys(ino.limbo), cmp.Compare[int]) {
		num(uint64(i))
		hashPage(i, ino.cached(i))
	}
}
