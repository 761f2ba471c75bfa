package memdisk

import (
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
	s := sum{buf: make([]byte, 0, 4<<10)}
	s.h.SetSeed(seed)
	s.num(m.boot, m.mount)
	inodes := m.inodes()
	number := make(map[*inode]uint64, len(inodes))
	for i, ino := range inodes {
		number[ino] = uint64(i + 1)
		ino.hash(&s)
	}
	for _, d := range m.sortedDirs() {
		for _, names := range [...]map[string]*inode{d.live, d.durable} {
			s.num(uint64(len(names)))
			for _, name := range slices.Sorted(maps.Keys(names)) {
				s.text(name)
				s.num(number[names[name]])
			}
		}
		for _, op := range d.pending {
			s.text(op.add)
			s.text(op.drop)
			s.num(number[op.ino])
		}
	}
	s.h.Write(s.buf)
	return s.h.Sum64()
}

// sum is a hash of numbers, names and pages.
type sum struct {
	h   maphash.Hash
	buf []byte // what is not in h yet: small pieces cost a call each
}

func (s *sum) num(list ...uint64) {
	for _, n := range list {
		s.buf = binary.LittleEndian.AppendUint64(s.buf, n)
	}
}

func (s *sum) text(t string) {
	s.num(uint64(len(t)))
	s.buf = append(s.buf, t...)
}

func (s *sum) page(i int, p *page) {
	if p != nil && p != &zeroPage {
		if n := p.sum(); n != zeroSum {
			s.num(uint64(i), n)
		}
	}
}

func (ino *inode) hash(s *sum) {
	s.num(uint64(ino.size), uint64(ino.devSize), uint64(ino.links), uint64(len(ino.sizes)))
	for _, size := range ino.sizes {
		s.num(uint64(size))
	}
	for i, p := range ino.dev {
		s.page(i, p)
	}
	for _, i := range slices.Sorted(maps.Keys(ino.dirty)) {
		s.num(uint64(i), uint64(len(ino.dirty[i])))
		for _, p := range ino.dirty[i] {
			s.page(i, p)
		}
		s.page(i, ino.cached(i))
	}
	for _, i := range slices.Sorted(maps.Keys(ino.limbo)) {
		s.num(uint64(i))
		s.page(i, ino.cached(i))
	}
}

// zeroSum is the hash of a page of zeros.
const zeroSum = 1

var pageSeed = maphash.MakeSeed()

// sum is a hash of a page, which is taken once.
func (p *page) sum() uint64 {
	n := p.hash.Load()
	if n == 0 {
		if n = zeroSum; p.b != zeroPage.b {
			n = max(maphash.Bytes(pageSeed, p.b[:]), zeroSum+1)
		}
		p.hash.Store(n)
	}
	return n
}
