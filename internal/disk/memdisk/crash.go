package memdisk

import (
	"bytes"
	"maps"
	"math/rand/v2"
	"slices"
)

// Kill ends the process as SIGKILL does: its handles and locks are gone; what it
// wrote, and stored into mappings, stays in the cache.
func (m *FS) Kill() {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.kill()
}

func (m *FS) kill() {
	m.process++
	for _, d := range m.dirs {
		clear(d.locks)
	}
	m.used = 0
	for _, ino := range m.inodes() {
		ino.fold()
		if ino.links > 0 {
			m.used += ino.count()
		} else {
			ino.has = nil
		}
	}
}

// PowerCut ends the process and the cache. What was not durable is there, or
// not, or in part, as rng says.
func (m *FS) PowerCut(rng *rand.Rand) { m.PowerCutWith(rng.IntN) }

// PowerCutWith is PowerCut, with each thing that is left to chance asked of choose: which
// of n alternatives, n being 2 or more. See [Choices].
func (m *FS) PowerCutWith(choose func(n int) int) {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.kill()
	m.boot++
	m.mount++
	for _, d := range m.sortedDirs() {
		d.powerCut(m.cfg.Names, choose)
	}
	// Names come first, since a file that no name leads to needs no choice.
	m.used = 0
	for _, ino := range m.recount() {
		ino.powerCut(m.cfg, choose)
		ino.has = slices.Repeat([]bool{true}, pageCount(ino.size))
		m.used += ino.count()
	}
}

// recount counts the links again, and gives the inodes that have one.
func (m *FS) recount() []*inode {
	inodes := m.inodes()
	for _, ino := range inodes {
		ino.links = 0
	}
	for _, d := range m.dirs {
		for _, ino := range d.live {
			ino.links++
		}
	}
	return inodes
}

func (d *directory) powerCut(model NameModel, choose func(n int) int) {
	keep := d.pending
	switch {
	case len(keep) == 0:
	case model == NamesPrefix:
		keep = keep[:choose(len(keep)+1)]
	default:
		keep = nil
		for _, op := range d.pending {
			if choose(2) == 1 {
				keep = append(keep, op)
			}
		}
	}
	for _, op := range keep {
		op.apply(d.durable)
	}
	d.pending = nil
	d.live = maps.Clone(d.durable)
}

// powerCut decides what a folded file comes back as.
func (ino *inode) powerCut(c Config, choose func(n int) int) {
	sizes := []int64{ino.devSize}
	between := ino.sizes
	if c.OldOrNew && len(between) > 0 {
		between = between[len(between)-1:]
	}
	for _, s := range between {
		if !slices.Contains(sizes, s) {
			sizes = append(sizes, s)
		}
	}
	size := sizes[0]
	if len(sizes) > 1 {
		size = sizes[choose(len(sizes))]
	}
	for _, i := range sortedKeys(ino.dirty) {
		if visible := size - int64(i)*PageSize; visible > 0 {
			ino.cutPage(c, i, int(min(visible, PageSize)), choose)
		}
	}
	ino.size, ino.devSize, ino.sizes = size, size, nil
	ino.over, ino.dirty, ino.limbo = nil, nil, nil
	ino.clip()
}

// cutPage decides on one dirty page, of which some bytes can be seen.
func (ino *inode) cutPage(c Config, i, visible int, choose func(n int) int) {
	states := []*page{ino.devPage(i)}
	between := ino.dirty[i]
	if c.OldOrNew {
		between = nil
	}
	for _, p := range append(slices.Clone(between), ino.cached(i)) {
		if !slices.ContainsFunc(states, func(q *page) bool { return bytes.Equal(p.b[:visible], q.b[:visible]) }) {
			states = append(states, p)
		}
	}
	if len(states) == 1 {
		return
	}
	// By sector, the contents that it may have.
	var sectors [][][]byte
	torn := 0
	for at := 0; at < visible && !c.WholePages; at += SectorSize {
		var alt [][]byte
		for _, p := range states {
			s := p.b[at:min(at+SectorSize, visible)]
			if !slices.ContainsFunc(alt, func(t []byte) bool { return bytes.Equal(s, t) }) {
				alt = append(alt, s)
			}
		}
		sectors = append(sectors, alt)
		if len(alt) > 1 {
			torn++
		}
	}
	n := len(states)
	mix, garbage := -1, -1
	if torn > 1 {
		mix, n = n, n+1
	}
	if c.Garbage {
		garbage, n = n, n+1
	}
	k := choose(n)
	switch k {
	case mix:
		p := &page{b: states[0].b}
		for s, alt := range sectors {
			if len(alt) > 1 {
				copy(p.b[s*SectorSize:], alt[choose(len(alt))])
			}
		}
		ino.setDev(i, p)
	case garbage:
		p := new(page)
		for j := range p.b {
			p.b[j] = 0xA5
		}
		ino.setDev(i, p)
	default:
		ino.setDev(i, states[k])
	}
}

// Remount is a clean unmount and a mount under the same boot: all that is dirty
// is written, and what only passed for clean is lost.
func (m *FS) Remount() {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.kill()
	m.mount++
	for _, d := range m.dirs {
		d.durable, d.pending = maps.Clone(d.live), nil
	}
	for _, ino := range m.inodes() {
		ino.flushAll()
		ino.over, ino.limbo = nil, nil
		ino.size = ino.devSize
	}
}

// Clone is a copy of the file system at this instant as a killed process leaves it,
// without the hook. The original goes on. Its cost is that of what is dirty,
// and one pointer a page for the rest.
func (m *FS) Clone() *FS {
	m.mu.Lock()
	defer m.mu.Unlock()
	c := &FS{
		cfg: m.cfg, process: m.process + 1, boot: m.boot, mount: m.mount,
		cap: m.cap, lastID: m.lastID, dirs: make(map[string]*directory, len(m.dirs)),
	}
	inodes := m.inodes()
	copies := make([]*inode, len(inodes))
	for i, ino := range inodes {
		n := ino.clone()
		if n.links > 0 {
			c.used += n.count()
		}
		copies[i] = n
	}
	translate := func(names map[string]*inode) map[string]*inode {
		t := make(map[string]*inode, len(names))
		for name, ino := range names {
			t[name] = copies[ino.nth]
		}
		return t
	}
	for path, d := range m.dirs {
		n := &directory{path: path, live: translate(d.live), durable: translate(d.durable), locks: map[string]*dirLock{}}
		for _, op := range d.pending {
			op.ino = copies[op.ino.nth]
			n.pending = append(n.pending, op)
		}
		c.dirs[path] = n
	}
	return c
}
