package journal

import (
	"sync"
	"time"

	"github.com/mtawal/mtawal/internal/disk"
	"github.com/mtawal/mtawal/segment"
)

const (
	// zeroStep is how much of a new file is written at a time: past the page cache, so that zeros
	// come to the device at its pace and not in one burst that commits would have to wait behind.
	zeroStep = 1 << 20
	// zeroStepCached is that where writes go through the cache. Where the kernel has large
	// folios, theirs is the size of the write that made them, and each commit into a folio of
	// 2 MiB costs a walk over 512 blocks of it.
	zeroStepCached = 64 << 10
	// zerosUpTo is the length of frames above which a log that waits for a segment gets it without zeros.
	zerosUpTo = 2 << 20
	// zeroRest is how long the maker rests between two steps while there is time: at 100 MB/s a next segment is
	// there soon enough, and a slow device has room for commits in between.
	zeroRest = 10 * time.Millisecond
	// typicalOver is how many frames the typical length is the mean of, the last ones most.
	typicalOver = 16
)

// zeros is what new files are filled with. Nobody writes to it.
var zeros = sync.OnceValue(func() []byte { return segment.Aligned(zeroStep) })

// fillNew allocates a new file and writes zeros over it once, so that no later write has to
// convert an extent, which costs a journal commit each. Before each step it asks whether to go on, and leaves
// the rest as it is if not.
func fillNew(dir disk.Dir, f disk.File, size int64, goOn func() bool) error {
	if err := f.Allocate(size); err != nil {
		return err
	}
	step, write := int64(zeroStep), writer(f, dir.CopyOnWrite())
	if dir.CopyOnWrite() {
		step = zeroStepCached
	}
	zeros := zeros()
	for off := int64(0); off < size && goOn(); off += step {
		if err := write(off, zeros[:min(step, size-off)]); err != nil {
			return err
		}
	}
	return nil
}

// writer writes into a file at an offset: durably, or loosely into the page cache.
func writer(f disk.File, loose bool) func(off int64, b []byte) error {
	if loose {
		return func(off int64, b []byte) error { _, err := f.WriteAt(b, off); return err }
	}
	return func(off int64, b []byte) error { return f.WriteDurable(off, b) }
}

// goOn is what the maker does between two steps of zeros, as long as nobody waits: it takes dead files away, which else
// would take room beside all others until the new one is done, and rests if there is time. It reports whether a new file
// gets more zeros: not when the log waits for it, and frames are so long that twice the bytes would cost more than the
// conversions do.
func (m *maker) goOn() bool {
	switch {
	case m.waited.Load() || m.stopping():
	case m.l.opt.Scrub: // what is dead is to be written over, which takes as long as this
		m.rest()
	default:
		if collected := m.collectDead(); !m.dropSpare() && !collected {
			m.rest()
		}
	}
	return !m.waited.Load() || m.l.typical.Load() <= zerosUpTo
}

// rest waits a little if the next segment will be there soon enough all the same.
func (m *maker) rest() {
	if size := m.l.opt.SegmentSize; size >= 8*zeroStep && m.l.End().Offset() < size/2 {
		time.Sleep(zeroRest)
	}
}

// noteLength has the typical length of a frame follow that of one that has landed.
func (l *Log) noteLength(n int64) {
	l.typical.Store(l.typical.Load() + (n-l.typical.Load())/typicalOver)
}
