package journal

import (
	"sync/atomic"

	"github.com/mtawal/mtawal/internal/disk"
	"github.com/mtawal/mtawal/segment"
)

const (
	// aheadMost is how much of the log Ahead asks for at most: replay that has more to read waits for the disk anyway.
	aheadMost = 128 << 20
	// aheadFiles is of how many segments.
	aheadFiles = 4
	// aheadMapped is the size of segments above which nothing is asked for: replay maps them too, and there may be no room
	// for both where addresses have 32 bits.
	aheadMapped = 256 << 20
)

// aheadStep is as much as the kernel takes at a time: of a longer stretch it reads the beginning (force_page_cache_ra).
const aheadStep = 128 << 10

// Ahead asks for what a replay of [from, to) will read to be brought into memory, and waits for none of it: commits
// went past the page cache, so the end of the log is read from the device, at its pace. done is to be called
// when the replay has ended, or was not begun: it waits for what is being asked for just then, and no more is. What can't be had is left to the replay, which says what is wrong.
func Ahead(dir disk.Dir, from, to segment.Pos) (done func()) {
	var maps []disk.Mapping
	var hints []func()
	var ended atomic.Bool
	left := int64(aheadMost)
	for n := max(from.Segment(), 1); n <= to.Segment() && left > 0 && len(maps) < aheadFiles; n++ {
		m, size := mapNamed(dir, segment.Name(n))
		if m == nil {
			break
		}
		maps = append(maps, m)
		var off int64
		if n == from.Segment() {
			off = min(from.Offset(), size)
		}
		if n == to.Segment() {
			size = min(size, to.Offset())
		}
		length := max(min(size-off, left), 0)
		left -= length
		hints = append(hints, func() {
			for end := off + length; off < end && !ended.Load(); off += aheadStep {
				m.Prefetch(off, min(aheadStep, end-off))
			}
		})
	}
	asked := make(chan struct{})
	go func() {
		defer close(asked)
		for _, hint := range hints { // each may wait until the device takes more
			hint()
		}
	}()
	return func() {
		ended.Store(true)
		<-asked
		for _, m := range maps {
			_ = m.Close()
		}
	}
}

// mapNamed is nil where there is no such file.
func mapNamed(dir disk.Dir, name string) (m disk.Mapping, size int64) {
	f, err := dir.Open(name, false)
	if err != nil {
		return nil, 0
	}
	defer f.Close()
	size, err = f.Size()
	if err != nil || size > aheadMapped {
		return nil, 0
	}
	if m, err = f.Map(size); err != nil {
		return nil, 0
	}
	return m, size
}
