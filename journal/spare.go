package journal

import (
	"errors"
	"fmt"

	"github.com/mtawal/mtawal/internal/barrier"
)

// Spare files are the log's reserve against a disk that others fill: blocks that are
// allocated and not in use. They are taken when there is no room for a new segment: all but
// the last by whatever is appended, the last one only by the frame that begins an epoch, so
// that a store on a full disk opens.

// Reserve says how many files beyond the one that is made ahead the log is to hold allocated,
// dead ones that wait for another life included; 0 gives the spare ones back. They are
// made in the background as far as there is room: to be asked for again and again.
func (l *Log) Reserve(files int) { l.maker.reserve(files) }

func (m *maker) reserve(files int) {
	m.mu.Lock()
	m.keep = min(files, spareMax)
	if files > 0 {
		m.small = 0
	}
	act := len(m.free)+len(m.spare) != m.keep
	m.tried = false
	m.mu.Unlock()
	if act {
		m.poke()
	}
}

// dropSpare removes a spare file that is beyond what is wanted, and reports whether it did.
func (m *maker) dropSpare() bool {
	m.mu.Lock()
	beyond, keep := len(m.free)+len(m.spare) > m.keep, m.keep
	m.mu.Unlock()
	if !beyond {
		return false
	}
	name := m.pop(&m.spare, b2i(keep > 0)) // dead files come and go, the one for the Open frame stays
	if name == "" {
		return false
	}
	m.removed(name, m.gone(name, m.l.opt.SegmentSize))
	return true
}

// addSpare makes a spare file if there are fewer than are wanted, and reports whether it did.
func (m *maker) addSpare() bool {
	m.mu.Lock()
	enough, tried := len(m.free)+len(m.spare) >= m.keep, m.tried
	m.mu.Unlock()
	if enough || tried {
		return false
	}
	name, err := m.newSpare()
	m.mu.Lock()
	defer m.mu.Unlock()
	defer m.moved.Broadcast()
	if err != nil {
		// A reserve that there is no room for is asked for again at the next look.
		m.tried = true
		m.l.opt.Logger.Debug("no spare file", "err", err)
		return false
	}
	m.moving -= m.l.opt.SegmentSize
	m.turn++
	m.spare = append(m.spare, name)
	return true
}

func (m *maker) newSpare() (string, error) {
	if err := m.room(false); err != nil {
		return "", err
	}
	m.mu.Lock()
	m.spares++
	name := fmt.Sprintf("%s%08x", sparePrefix, m.spares)
	m.mu.Unlock()
	err := m.fillSpare(name)
	if err != nil {
		err = errors.Join(err, m.gone(name, m.l.opt.SegmentSize))
	}
	return name, err
}

func (m *maker) fillSpare(name string) error {
	if err := removeIfThere(m.l.dir, name); err != nil {
		return err
	}
	f, err := m.l.dir.Create(name)
	if err != nil {
		return err
	}
	err = f.Allocate(m.l.opt.SegmentSize)
	if err == nil && !barrier.Gone(barrier.SpareSync) {
		err = f.Sync() // its blocks are to be its own after a power cut too
	}
	err = errors.Join(err, f.Close())
	if err == nil && !barrier.Gone(barrier.SpareSync) {
		err = m.l.dir.Sync()
	}
	return err
}

// mayKeep reports whether a spare file of an earlier opening is as one of this would be.
func (m *maker) mayKeep(name string) bool {
	var n uint32
	if _, err := fmt.Sscanf(name, sparePrefix+"%08x", &n); err != nil || name != fmt.Sprintf("%s%08x", sparePrefix, n) {
		return false
	}
	f, err := m.l.dir.Open(name, true)
	if err != nil {
		return false
	}
	err = mayReuse(f, m.l.opt.SegmentSize)
	if err = errors.Join(err, f.Close()); err != nil {
		return false
	}
	m.spares = max(m.spares, n)
	return true
}

func b2i(b bool) int {
	if b {
		return 1
	}
	return 0
}
