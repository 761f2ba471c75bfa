package memdisk

import (
	"bytes"
	"errors"
	"maps"
	"slices"
	"sync"
	"sync/atomic"
	"unsafe"
)

// page is a page of the device, or of a folded cache. It never changes once it
// is reachable, so clones share it.
type page struct {
	b    [PageSize]byte
	hash atomic.Uint64 // of b; 0: not known yet
}

var zeroPage page

func pageCount(bytes int64) int { return int((bytes + PageSize - 1) / PageSize) }

// inode is a file, whatever its names are.
type inode struct {
	id      uint64
	name    string // the last one given
	special string // not a plain file: what it is instead
	shared  bool   // a reflink holds its blocks too
	links   int    // live names
	open    int    // handles and mappings
	has     []bool // by page: a block is allocated

	visit uint64 // the last of FS.inodes that came here
	nth   int    // its place in what that returned

	// The device.
	dev     []*page // nil: zeros, as is all behind it
	devSize int64   // nothing but zeros is in dev behind it

	// The cache. Until it is needed in one piece it is dev with over on top.
	size  int64
	over  map[int]*page
	cache []byte // zeros behind size

	sizes []int64         // what size has been since devSize was written, if the length is dirty
	dirty map[int][]*page // pages that differ from dev as far as is known, with states in between
	limbo map[int]bool    // pages that differ from dev and pass for clean, since a sync failed

	maps    int   // mappings of the living process
	written int64 // how much of the cache is mapped writable

	fault SyncFault
	bad   map[int]bool // unreadable pages
}

func (ino *inode) devPage(i int) *page {
	if i < len(ino.dev) && ino.dev[i] != nil {
		return ino.dev[i]
	}
	return &zeroPage
}

func (ino *inode) setDev(i int, p *page) {
	for len(ino.dev) <= i {
		ino.dev = append(ino.dev, nil)
	}
	ino.dev[i] = p
}

func (ino *inode) count() (n int64) {
	for _, h := range ino.has {
		if h {
			n++
		}
	}
	return n
}

// used are caches of file systems that were discarded, of the one size that most have.
var used sync.Pool

const usedSize = 64 << 10

// newCache is aligned to words, for the atomic stores of its users. It may be full of what was in it before.
func newCache(bytes int64) []byte {
	if bytes == usedSize {
		if b, ok := used.Get().(*byte); ok {
			return unsafe.Slice(b, usedSize)
		}
	}
	words := make([]uint64, pageCount(bytes)*PageSize/8)
	if len(words) == 0 {
		return []byte{}
	}
	return unsafe.Slice((*byte)(unsafe.Pointer(unsafe.SliceData(words))), len(words)*8)
}

// load brings the cache into one piece.
func (ino *inode) load() {
	if ino.cache != nil {
		return
	}
	ino.cache = newCache(max(ino.size, int64(len(ino.has))*PageSize))
	n := pageCount(ino.size)
	for i := range n {
		p := ino.over[i]
		if p == nil {
			p = ino.devPage(i)
		}
		copy(ino.cache[i*PageSize:], p.b[:])
	}
	clear(ino.cache[n*PageSize:])
	ino.over = nil
}

var errGrowsMapped = errors.New("the model can't extend a mapped file: allocate first")

// extend makes room in the cache.
func (ino *inode) extend(size int64) error {
	ino.load()
	if size <= int64(len(ino.cache)) {
		return nil
	}
	if ino.maps > 0 {
		return errGrowsMapped
	}
	old := ino.cache
	ino.cache = newCache(max(size, min(int64(len(old))*2, fileMax)))
	clear(ino.cache[copy(ino.cache, old):])
	return nil
}

// copyPage takes page i of the cache.
func (ino *inode) copyPage(i int) *page {
	p := new(page)
	src := ino.cache[i*PageSize : (i+1)*PageSize]
	if int64(i)*PageSize >= ino.written {
		copy(p.b[:], src)
		return p
	}
	copyWords((*words)(unsafe.Pointer(&p.b)), (*words)(unsafe.Pointer(unsafe.SliceData(src))))
	return p
}

// words is a page that others may store into just now: it is taken word by word, and the
// race detector does not look, which would cost more than all the rest of the model.
type words [PageSize / 8]uint64

//go:norace
func copyWords(to, from *words) {
	//lint:ignore S1001 a copy of the whole may tear words
	for k := range from {
		to[k] = from[k]
	}
}

//go:norace
func sameWords(a, b *words) bool {
	for k := range a {
		if a[k] != b[k] {
			return false
		}
	}
	return true
}

// cached is page i as the cache has it.
func (ino *inode) cached(i int) *page {
	if ino.cache != nil && i*PageSize < len(ino.cache) {
		return ino.copyPage(i)
	}
	if ino.cache != nil {
		return &zeroPage // cut off, and dirty for that
	}
	if p := ino.over[i]; p != nil {
		return p
	}
	return ino.devPage(i)
}

// versionsMax bounds the states in between that a page or length can come back in.
const versionsMax = 4

// soil marks a page dirty before it changes.
func (ino *inode) soil(i int) {
	delete(ino.limbo, i)
	v, was := ino.dirty[i]
	if was && len(v) < versionsMax {
		v = append(slices.Clip(v), ino.cached(i))
	}
	if ino.dirty == nil {
		ino.dirty = map[int][]*page{}
	}
	ino.dirty[i] = v
}

func (ino *inode) setSize(n int64) {
	if n == ino.size {
		return
	}
	ino.size = n
	if len(ino.sizes) == versionsMax {
		ino.sizes = slices.Delete(slices.Clone(ino.sizes), 0, 1)
	}
	ino.sizes = append(slices.Clip(ino.sizes), n)
}

// write puts bytes into the cache, which has room.
func (ino *inode) write(p []byte, off int64) {
	end := off + int64(len(p))
	for i := int(off / PageSize); i < pageCount(end); i++ {
		ino.soil(i)
	}
	copy(ino.cache[off:], p)
	if end > ino.size {
		ino.setSize(end)
	}
}

// scan finds what was stored through a writable mapping.
func (ino *inode) scan() {
	for i := range pageCount(min(ino.written, int64(len(ino.cache)))) {
		if _, dirty := ino.dirty[i]; dirty || ino.limbo[i] {
			continue
		}
		if !sameWords((*words)(unsafe.Pointer(&ino.cache[i*PageSize])), (*words)(unsafe.Pointer(&ino.devPage(i).b))) {
			ino.soil(i)
		}
	}
}

// flush makes the sectors of [off, end) durable, and a length that reaches them.
func (ino *inode) flush(off, end int64) {
	off = off / SectorSize * SectorSize
	stop := (end + SectorSize - 1) / SectorSize * SectorSize
	for i := int(off / PageSize); i < pageCount(stop); i++ {
		base := int64(i) * PageSize
		from, to := max(off, base)-base, min(stop, base+PageSize)-base
		now, patched := ino.cached(i), &page{b: ino.devPage(i).b}
		copy(patched.b[from:to], now.b[from:to])
		ino.setDev(i, patched)
		if patched.b == now.b {
			delete(ino.dirty, i)
			delete(ino.limbo, i)
			continue
		}
		versions := slices.Clone(ino.dirty[i])
		for k, v := range versions {
			versions[k] = &page{b: v.b}
			copy(versions[k].b[from:to], now.b[from:to])
		}
		if len(versions) > 0 {
			ino.dirty[i] = versions
		}
	}
	ino.devSize = max(ino.devSize, end)
	ino.sizes = slices.DeleteFunc(slices.Clone(ino.sizes), func(s int64) bool { return s < end })
	if !slices.ContainsFunc(ino.sizes, func(s int64) bool { return s != ino.devSize }) {
		ino.sizes = nil
	}
}

// flushAll is what a sync of the file does.
func (ino *inode) flushAll() {
	ino.scan()
	for i := range ino.dirty {
		ino.setDev(i, ino.cached(i))
	}
	ino.dirty = nil
	if len(ino.sizes) > 0 {
		ino.devSize, ino.sizes = ino.size, nil
	}
	ino.clip()
}

// lose is what a failed sync does: all passes for clean, nothing is written.
func (ino *inode) lose() {
	ino.scan()
	if ino.limbo == nil {
		ino.limbo = map[int]bool{}
	}
	for i := range ino.dirty {
		ino.limbo[i] = true
	}
	ino.dirty, ino.sizes = nil, nil
}

// clip drops what lies behind the length on the device.
func (ino *inode) clip() {
	n := pageCount(ino.devSize)
	if n < len(ino.dev) {
		ino.dev = slices.Clone(ino.dev[:n])
	}
	if tail := ino.devSize % PageSize; tail > 0 && n <= len(ino.dev) && ino.dev[n-1] != nil && !bytes.Equal(ino.dev[n-1].b[tail:], zeroPage.b[tail:]) {
		p := &page{b: ino.dev[n-1].b}
		clear(p.b[tail:])
		ino.dev[n-1] = p
	}
}

// fold gives up the memory that a dead process may have mapped, and keeps what it
// held. The device is not touched.
func (ino *inode) fold() {
	ino.over = ino.folded()
	ino.cache, ino.maps, ino.written, ino.open = nil, 0, 0, 0
}

func (ino *inode) folded() map[int]*page {
	if ino.cache == nil {
		return maps.Clone(ino.over)
	}
	ino.scan()
	over := map[int]*page{}
	for i := range ino.dirty {
		over[i] = ino.cached(i)
	}
	for i := range ino.limbo {
		over[i] = ino.cached(i)
	}
	return over
}

// clone copies an inode as a killed process leaves it.
func (ino *inode) clone() *inode {
	c := *ino
	c.over = ino.folded()
	c.cache, c.maps, c.written, c.open = nil, 0, 0, 0
	c.visit = 0 // none of its own file system
	c.has = slices.Clone(ino.has)
	c.dev = slices.Clone(ino.dev)
	c.dirty = maps.Clone(ino.dirty)
	c.limbo = maps.Clone(ino.limbo)
	c.bad = maps.Clone(ino.bad)
	c.sizes = slices.Clone(ino.sizes)
	return &c
}
