package journal

import (
	"crypto/rand"
	"encoding/binary"
	"errors"
	"fmt"
	"io/fs"
	"slices"
	"strings"
	"sync"
	"sync/atomic"

	"github.com/mtawal/mtawal/internal/barrier"
	"github.com/mtawal/mtawal/internal/disk"
	"github.com/mtawal/mtawal/segment"
)

// Prefixes of the names of files that may be removed at any opening.
const (
	freePrefix  = "free-"
	sparePrefix = freePrefix + "spare-"
	tempPrefix  = "tmp-"
)

// spareMax is how many spare files a log may have.
const spareMax = 16

// errStopped: the log is closing.
var errStopped = errors.New("log is closing")

// maker has the next segment ready before the log needs it, so that a rotation costs
// one small write. A dead segment is given another life: its blocks were written
// before, so a durable write into them is data and nothing else, about half the cost
// of blocks that were only allocated.
type maker struct {
	l *Log

	mu       sync.Mutex
	next     uint32 // to be made ready
	ready    map[uint32]*segment.Segment
	dead     []deadFile // segment files waiting to be renamed
	free     []string   // files that may be written over, in their order of preference from the end
	spare    []string   // files that were allocated ahead and never written
	moving   int64      // bytes of files that are being made, or whose removal is not durable yet
	unsure   int64      // those of them whose names there was no room to sync the removal of
	halfway  int64      // those of them that are under the name of next, which could not be made durable: it is renamed over
	others   int64      // of tails that were cut, and of files that could not be removed
	turn     uint64     // see Files
	spares   uint32     // number of the last one made
	tried    bool       // there was no room for another one
	keep     int        // spare files that are wanted, as long as free ones do not do
	named    uint32     // a segment that the disk had no room to name in a Seal, so that one may be there
	small    int64      // size of segments while the log is idle; 0: it is not
	err      error      // of the last try to make next
	names    error      // of a sync of the directory: nothing is built on its names any more
	last     bool       // whoever waits may have the last spare file
	stop     bool
	nameless []*segment.Segment // whose files were removed while they were mapped
	waited   atomic.Bool        // the log waits for a segment
	cold     *coldWish          // is to become next
	coldAt   uint32             // the cold segment that stands ready, and whose frame is to come
	moved    *sync.Cond         // ready, err, names or stop changed

	wake chan struct{}
	done chan struct{}

	collecting bool          // dead files are being taken away
	collected  chan struct{} // closed, and made anew, when they were
}

// deadFile is the file of a dead segment.
type deadFile struct {
	number uint32
	size   int64
	seg    *segment.Segment // nil: of an earlier opening
}

func newMaker(l *Log, dead []uint32, ready map[uint32]*segment.Segment) error {
	m := &maker{l: l, next: l.tail.Number + 1, ready: ready, wake: make(chan struct{}, 1), done: make(chan struct{}),
		collected: make(chan struct{})}
	m.moved = sync.NewCond(&m.mu)
	list, err := l.dir.List()
	if err != nil {
		return fmt.Errorf("listing %s: %w", l.dir.Path(), err)
	}
	removed := false
	for _, f := range list {
		if _, ok := parseCutName(f.Name); ok {
			m.others += max(f.Size, f.Blocks)
		}
		if n, ok := segment.ParseName(f.Name); ok && slices.Contains(dead, n) {
			m.dead = append(m.dead, deadFile{number: n, size: f.Size})
		}
		switch {
		case !f.Regular && (strings.HasPrefix(f.Name, freePrefix) || strings.HasPrefix(f.Name, tempPrefix)):
			// A directory that somebody made, say. It holds nothing of the store, so it is no reason to
			// refuse one that is whole.
			l.opt.Logger.Warn("not a file of the store, though its name is one; it is left alone", "name", f.Name)
		case strings.HasPrefix(f.Name, sparePrefix) && len(m.spare) <= spareMax && m.mayKeep(f.Name):
			// On a disk that is full this is what the log goes on in.
			m.spare = append(m.spare, f.Name)
			m.keep++
		case strings.HasPrefix(f.Name, freePrefix), strings.HasPrefix(f.Name, tempPrefix):
			if l.opt.Scrub && f.Regular && !barrier.Gone(barrier.ScrubLeft) {
				if err := wipe(l.dir, f.Name); err != nil {
					l.opt.Logger.Warn("what a crash left is removed without being wiped", "file", f.Name, "err", err)
				}
			}
			if err := l.dir.Remove(f.Name); err != nil {
				return fmt.Errorf("removing what a crash left: %w", err)
			}
			removed = true
		}
	}
	if l.opt.Scrub {
		// What was to be a cold segment holds copies.
		for n, s := range ready {
			if s.Size < l.opt.SegmentSize {
				if err := s.Release(); err != nil {
					return fmt.Errorf("closing %s: %w", segment.Name(n), err)
				}
				delete(ready, n)
				m.dead = append(m.dead, deadFile{number: n, size: s.Size})
			}
		}
	}
	if removed {
		// Their room is built on next: they must not come back beside what is made of it.
		if err := l.dir.Sync(); err != nil {
			return fmt.Errorf("removing what a crash left: %w", err)
		}
	}
	l.maker = m // it asks the log how much it has
	go m.run()
	m.poke()
	return nil
}

func (m *maker) poke() {
	select {
	case m.wake <- struct{}{}:
	default:
	}
}

// take waits for the segment with a number. Where the file system is full it returns
// disk.ErrNoSpace, and the next call tries again. The last spare file is for last.
func (m *maker) take(number uint32, last bool) (*segment.Segment, error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.err, m.last = nil, last
	defer func() { m.last = false }()
	defer m.waited.Store(false)
	m.poke()
	for {
		if m.stop {
			return nil, errStopped
		}
		if m.names != nil {
			return nil, m.names
		}
		if s := m.ready[number]; s != nil {
			m.next = number + 1 // it stays ready until it is in the log
			m.poke()
			return s, nil
		}
		if m.err != nil {
			return nil, fmt.Errorf("making %s: %w", segment.Name(number), m.err)
		}
		m.waited.Store(true)
		m.moved.Wait()
	}
}

// putBack returns a segment that was taken and not used. The Seal that names it may be on the disk.
func (m *maker) putBack(s *segment.Segment) {
	m.mu.Lock()
	m.next, m.named = s.Number, s.Number
	m.mu.Unlock()
}

// give takes the file of a dead segment that nobody reads any more. Log.mu is held.
func (m *maker) give(s *segment.Segment) {
	m.mu.Lock()
	m.dead = append(m.dead, deadFile{s.Number, s.Size, s})
	m.turn++
	m.mu.Unlock()
	m.poke()
}

func (m *maker) close() error {
	m.mu.Lock()
	m.stop = true
	m.moved.Broadcast()
	m.mu.Unlock()
	m.poke()
	<-m.done
	m.mu.Lock()
	ready := m.ready
	m.ready = make(map[uint32]*segment.Segment)
	m.mu.Unlock()
	var errs []error
	for _, s := range ready {
		errs = append(errs, s.Release())
	}
	return errors.Join(errs...)
}

func (m *maker) run() {
	defer close(m.done)
	defer m.refuseCold()
	for range m.wake {
		for {
			if m.collectDead() {
				continue
			}
			if m.makeCold() {
				continue
			}
			if m.stopping() {
				return
			}
			m.mu.Lock()
			number := m.next
			if number == m.coldAt && m.ready[number] != nil {
				number++ // what goes on behind it is needed as soon
			}
			missing := m.ready[number] == nil && m.err == nil && m.names == nil
			m.mu.Unlock()
			if !missing {
				if m.shrink() || m.dropSpare() || m.addSpare() {
					continue
				}
				break
			}
			s, err := m.make(number)
			m.lost(err)
			m.mu.Lock()
			m.err = err
			switch {
			case err == nil:
				m.ready[number] = s
				m.moving -= m.l.opt.SegmentSize + m.halfway
				m.halfway = 0
			case errors.Is(err, errNames):
				m.halfway += m.l.opt.SegmentSize
			}
			m.turn++
			m.moved.Broadcast()
			m.mu.Unlock()
		}
	}
}

func (m *maker) stopping() bool {
	m.mu.Lock()
	defer m.mu.Unlock()
	return m.stop
}

// lost notes a failed sync of the directory, after which a later one may say that all is
// well when it is not. Where there is only no room, it is tried again.
func (m *maker) lost(err error) {
	if !errors.Is(err, errNames) || errors.Is(err, disk.ErrNoSpace) || barrier.Gone(barrier.NamesLatch) {
		return
	}
	m.mu.Lock()
	m.names = err
	m.moved.Broadcast()
	m.mu.Unlock()
}

// errNames: the directory could not be synced.
var errNames = errors.New("names of segments may not be durable")

func syncNames(dir disk.Dir) error {
	if err := dir.Sync(); err != nil {
		return fmt.Errorf("%w: %w", errNames, err)
	}
	return nil
}

// collectDead takes away the files of the segments that are dead by now, and reports whether there were any.
func (m *maker) collectDead() bool {
	m.mu.Lock()
	dead := slices.Clone(m.dead)
	m.collecting = len(dead) > 0 && !m.stop
	collecting := m.collecting
	m.mu.Unlock()
	if collecting {
		m.collect(dead)
	}
	return collecting
}

// collect takes the final names off dead segments, the first ones of the list: kept for
// another life as far as the pool goes, removed beyond it. A failure leaves a dead segment under
// its name, which is harmless: it is known as dead at the next opening too. It counts until then.
func (m *maker) collect(dead []deadFile) {
	var kept, others []string // under names that may be removed
	var removed, stuck int64  // bytes of files
	for _, d := range dead {
		m.mu.Lock()
		keep := len(m.free)+len(kept) < m.l.opt.PoolMax && d.size == m.l.opt.SegmentSize && m.small == 0
		m.mu.Unlock()
		name, to := segment.Name(d.number), fmt.Sprintf("%s%08x", freePrefix, d.number)
		var err error
		switch {
		case !keep && !m.l.opt.Scrub:
			m.hold(d.size, func() { m.drop(d); m.unlinked(d.seg) })
			removed += d.size
			err = m.l.dir.Remove(name)
		default:
			if err = m.l.dir.Rename(name, to); err != nil {
				break
			}
			if keep {
				kept = append(kept, to)
			} else {
				m.hold(d.size, func() { m.drop(d) })
				removed += d.size
				others = append(others, to)
			}
		}
		if err != nil {
			stuck += d.size
			m.l.opt.Logger.Warn("a dead segment could not be taken out of the log", "file", name, "err", err)
		}
	}
	var err error
	if !barrier.Gone(barrier.DeadName) {
		err = syncNames(m.l.dir)
	}
	if err == nil && m.l.opt.Scrub {
		kept, err = m.scrub(kept, others)
		others = nil
	}
	m.mu.Lock()
	for _, d := range dead {
		m.drop(d)
	}
	if m.unsure += removed; err == nil {
		m.moving -= m.unsure // durably gone
		m.unsure = 0
		m.free = append(m.free, kept...)
	} else {
		// They can't have another life while their old names may come back. The next opening removes them.
		stuck += int64(len(kept)+len(others)) * m.l.opt.SegmentSize
	}
	m.others += stuck
	m.turn++
	m.collecting = false
	close(m.collected)
	m.collected = make(chan struct{})
	m.mu.Unlock()
	if err != nil {
		m.l.opt.Logger.Warn("names of dead segments may come back", "err", err)
		m.lost(err)
	}
}

// waitCollected waits until every file of a dead segment was taken away.
func (m *maker) waitCollected(stop <-chan struct{}) {
	for {
		m.mu.Lock()
		left, collected := len(m.dead) > 0 || m.collecting, m.collected
		m.mu.Unlock()
		if !left {
			return
		}
		select {
		case <-collected:
		case <-stop:
			return
		}
	}
}

// drop takes a file off the list of dead ones. mu is held.
func (m *maker) drop(d deadFile) {
	m.dead = slices.DeleteFunc(m.dead, func(e deadFile) bool { return e == d })
}

// make makes the segment with a number, from a dead one if there is one, else from
// nothing, and where there is no room for that from a spare file. It gets its final name
// when it is whole and synced, and is returned when that name is durable.
func (m *maker) make(number uint32) (*segment.Segment, error) {
	from := ""
	if !m.idle() { // else dead files go, and the next one is small
		from = m.pop(&m.free, 0)
	}
	if from != "" {
		s, err := makeSegment(m.l.dir, from, number, m.l.uuid, m.l.opt, m.goOn)
		if err == nil || errors.Is(err, errNames) {
			return s, err
		}
		// It is in nobody's way if it can't be removed either; the next opening tries again.
		m.l.opt.Logger.Info("a dead segment is not recycled but removed", "file", from, "err", err, "removing", m.gone(from, m.l.opt.SegmentSize))
	}
	err := m.room(false)
	if err == nil {
		s, err2 := m.makeNew(number)
		if err = err2; err == nil || errors.Is(err, errNames) {
			return s, err
		}
	}
	if !errors.Is(err, disk.ErrNoSpace) {
		return nil, err
	}
	m.mu.Lock()
	last := m.last
	m.mu.Unlock()
	from = m.pop(&m.spare, b2i(!last))
	switch {
	case from == "" && last:
		// What begins an epoch is not kept out by a bound of our own, which may be another than that of
		// the epoch before: what is above it goes once the store is open.
		m.hold(m.l.opt.SegmentSize, nil)
		return m.makeNew(number)
	case from == "":
		if err := m.room(m.waited.Load()); err != nil {
			return nil, err
		}
		return m.makeNew(number)
	}
	s, err := makeSegment(m.l.dir, from, number, m.l.uuid, m.l.opt, m.goOn)
	if err != nil && !errors.Is(err, errNames) {
		err = errors.Join(err, m.gone(from, m.l.opt.SegmentSize))
	}
	return s, err
}

// makeNew makes the segment with a number from nothing. Its bytes are counted already.
func (m *maker) makeNew(number uint32) (*segment.Segment, error) {
	opt := m.l.opt
	opt.SegmentSize = m.size()
	s, err := makeSegment(m.l.dir, "", number, m.l.uuid, opt, m.goOn)
	if err != nil && !errors.Is(err, errNames) {
		// What it had made by then, it has removed.
		err = errors.Join(err, m.gone("", m.l.opt.SegmentSize))
	}
	return s, err
}

// gone removes a file, where there is a name, whose bytes count as moving, and counts them no more when
// that is durable: before, a crash would bring it back beside what was made in its room. One that can't be
// removed counts until the next opening tries again.
func (m *maker) gone(name string, bytes int64) (err error) {
	if name != "" {
		err = removeIfThere(m.l.dir, name)
	}
	others := int64(0)
	if err != nil {
		others = bytes
	} else if err = syncNames(m.l.dir); err != nil {
		m.lost(err)
	}
	m.mu.Lock()
	m.moving -= bytes
	m.others += others
	m.turn++
	m.mu.Unlock()
	return err
}

// pop takes a file off a list of more than least. It counts as moving from then on.
func (m *maker) pop(list *[]string, least int) string {
	m.mu.Lock()
	defer m.mu.Unlock()
	n := len(*list)
	if n <= least {
		return ""
	}
	name := (*list)[n-1]
	*list = (*list)[:n-1]
	m.moving += m.l.opt.SegmentSize
	m.turn++
	return name
}

// room asks whether the log may take another segment's worth of the disk. If so it counts as moving.
func (m *maker) room(last bool) error {
	return m.roomFor(m.l.opt.SegmentSize, last, func() { m.hold(m.l.opt.SegmentSize, nil) })
}

func (m *maker) roomFor(bytes int64, last bool, take func()) error {
	if m.l.opt.Room == nil {
		take()
		return nil
	}
	return m.l.opt.Room(func() int64 { return m.l.Files().Bytes }, bytes, last, take)
}

var errNotOurs = errors.New("of another size or shared with somebody, so it is not written over")

// MakeFirst makes segment 1 of a new store.
func MakeFirst(dir disk.Dir, uuid [16]byte, opt Options) error {
	s, err := makeSegment(dir, "", 1, uuid, opt, func() bool { return true })
	if err != nil {
		return err
	}
	return s.Release()
}

// makeSegment makes a segment from a file with a free name, or from nothing.
//
// A spare one is written to once, as a new one is.
func makeSegment(dir disk.Dir, from string, number uint32, uuid [16]byte, opt Options, goOn func() bool) (s *segment.Segment, err error) {
	var b [8]byte
	if _, err := rand.Read(b[:]); err != nil {
		return nil, fmt.Errorf("drawing a salt: %w", err)
	}
	if barrier.Gone(barrier.Salt) {
		b = [8]byte{1}
	}
	h := segment.Header{
		Alignment: uint32(dir.Block()), Number: number, Salt: binary.LittleEndian.Uint64(b[:]),
		Size: opt.SegmentSize, UUID: uuid, Created: opt.Now(),
	}
	fresh := from == ""
	var f disk.File
	if fresh {
		from = fmt.Sprintf("%snew-%08x", freePrefix, number)
		// A try that failed may have left it.
		if err := removeIfThere(dir, from); err != nil {
			return nil, err
		}
		f, err = dir.Create(from)
	} else {
		f, err = dir.Open(from, true)
	}
	if err != nil {
		return nil, err
	}
	if fresh {
		err = fillNew(dir, f, h.Size, goOn)
	} else {
		if err = mayReuse(f, h.Size); err == nil {
			f.Forget() // what it was before may have been read
		}
		if err == nil && strings.HasPrefix(from, sparePrefix) {
			err = fillNew(dir, f, h.Size, goOn)
		}
	}
	if err == nil {
		_, err = f.WriteAt(h.Encode(), 0)
	}
	if err == nil && !barrier.Gone(barrier.SuccessorSync) && !(from == coldName && barrier.Gone(barrier.ColdSync)) {
		err = f.Sync()
	}
	err = errors.Join(err, f.Close())
	if err == nil {
		err = dir.Rename(from, segment.Name(number))
	}
	if err != nil {
		if fresh { // half a segment takes room
			err = errors.Join(err, removeIfThere(dir, from))
		}
		return nil, err
	}
	if !barrier.Gone(barrier.SuccessorName) {
		if err := syncNames(dir); err != nil {
			return nil, err
		}
	}
	return segment.OpenSegment(dir, number, uuid, true)
}

func removeIfThere(dir disk.Dir, name string) error {
	if err := dir.Remove(name); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	return nil
}

// mayReuse reports whether a file can be written over: all of it, and seen by
// nobody else.
func mayReuse(f disk.File, size int64) error {
	n, err := f.Size()
	if err != nil {
		return err
	}
	own, err := f.Exclusive()
	if err != nil {
		return err
	}
	if n != size || !own {
		return errNotOurs
	}
	return nil
}
