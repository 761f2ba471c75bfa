package memdisk

import (
	"encoding/binary"
	"hash/maphash"
	"sync"
)

// Fingerprint is a hash of all that whoever opens the file system next can see, or a power
// cut can bring up: names and files, in the cache and on the device, with what is not
// decided yet. Of two that are the same by it one needs no second look.
func (m *FS) Fingerprint(seed maphash.Seed) uint64 {
	m.mu.Lock()
	defer m.mu.Unlock()
	s := sums.Get().(*summed)
	*s = (*s)[:0]
	s.num(m.boot, m.mount)
	for _, ino := range m.inodes() {
		ino.hash(s)
	}
	for _, d := range m.sortedDirs() {
		for _, names := range [...]map[string]*inode{d.live, d.durable} {
			s.num(uint64(len(names)))
			for _, name := range sortedKeys(names) {
				s.text(name)
				s.num(uint64(names[name].nth))
			}
		}
		for _, op := range d.pending {
			s.text(op.add)
			s.text(op.drop)
			s.num(uint64(op.ino.nth))
		}
	}
	sum := maphash.Bytes(seed, *s)
	sums.Put(s)
	return sum
}

var sums = sync.Pool{New: func() any { return new(summed) }}

// summed is numbers, names and the hashes of pages, of which one hash is taken at the end: a call for each would cost more.
type summed []byte

func (s *summed) num(list ...uint64) {
	for _, n := range list {
		*s = binary.LittleEndian.AppendUint64(*s, n)
	}
}

func (s *summed) text(t string) {
	s.num(uint64(len(t)))
	*s = append(*s, t...)
}

func (s *summed) page(i int, p *page) {
	if p == nil {
		return
	}
	if n := p.sum(); n != zeroSum {
		s.num(uint64(i), n)
	}
}

func (ino *inode) hash(s *summed) {
	s.num(uint64(ino.size), uint64(ino.devSize), uint64(ino.links), uint64(len(ino.sizes)))
	for _, size := range ino.sizes {
		s.num(uint64(size))
	}
	for i, p := range ino.dev {
		s.page(i, p)
	}
	for _, i := range sortedKeys(ino.dirty) {
		s.num(uint64(i), uint64(len(ino.dirty[i])))
		for _, p := range ino.dirty[i] {
			s.page(i, p)
		}
		s.page(i, ino.cached(i))
	}
	for _, i := range sortedKeys(ino.limbo) {
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
