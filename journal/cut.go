package journal

import (
	"cmp"
	"errors"
	"fmt"
	"slices"

	"github.com/mtawal/mtawal/internal/disk"
	"github.com/mtawal/mtawal/segment"
)

// A torn tail that recovery cuts is saved beside the log, for people: nothing reads it. So
// that a store that crashes often does not fill its disk with them, there are at most cutFiles
// of them, and together they take no more than one segment; the oldest go first.
const cutFiles = 8

// cutLeaves is how many segments Options.Room must have beside a tail for it to be saved.
const cutLeaves = 8

// cutName is the file for what was cut at a position, in the epoch before.
type cutName struct {
	from  segment.Pos
	epoch uint64
}

func (c cutName) String() string { return fmt.Sprintf("cut-%016x-%d", uint64(c.from), c.epoch) }

func parseCutName(name string) (c cutName, ok bool) {
	var from uint64
	if _, err := fmt.Sscanf(name, "cut-%016x-%d", &from, &c.epoch); err != nil {
		return c, false
	}
	c.from = segment.Pos(from)
	return c, c.String() == name
}

// saveCut copies the torn tail into a file of its own, with room made by dropping older
// ones; of a tail that is longer than all of the room its beginning. On a disk that is
// nearly full, and where Options.Room has none, it is not saved: the space is needed for more.
func (f *Found) saveCut(m *maker) (err error) {
	name, most := cutName{f.CutFrom, f.Last.Epoch}, m.l.opt.SegmentSize
	size := min(f.CutSize, most)
	dropped, err := f.dropCuts(name, most-size)
	if dropped > 0 {
		m.hold(dropped, func() { m.others -= dropped })
		err = errors.Join(err, m.gone("", dropped))
	}
	if err != nil {
		return err
	}
	if sp, err := f.dir.Space(); err != nil {
		return err
	} else if size > sp.Free/8 {
		return fmt.Errorf("%w: it would take more than an eighth of what is free", disk.ErrNoSpace)
	}
	takes := roundUp(size, int64(f.dir.Block()))
	if err := m.roomFor(takes+cutLeaves*most, false, func() { m.hold(0, func() { m.others += takes }) }); err != nil {
		return err
	}
	file, err := f.dir.Create(name.String())
	if err == nil {
		err = f.copyCut(file, size)
		if err == nil {
			err = file.Sync()
		}
		err = errors.Join(err, file.Close())
	}
	if err != nil {
		m.hold(takes, func() { m.others -= takes })
		err = errors.Join(err, m.gone(name.String(), takes))
	}
	return err
}

func (f *Found) copyCut(to disk.File, size int64) error {
	from := f.segments[f.CutFrom.Segment()].File
	b := make([]byte, min(size, 1<<20))
	for off := int64(0); off < size; off += int64(len(b)) {
		b = b[:min(int64(len(b)), size-off)]
		if _, err := from.ReadAt(b, f.CutFrom.Offset()+off); err != nil {
			return err
		}
		if _, err := to.WriteAt(b, off); err != nil {
			return err
		}
	}
	return nil
}

// dropCuts removes saved tails until there is a file less than there may be, and the rest
// take no more than so many bytes. One of the same name is of an opening that did not
// come to an end. dropped is how many bytes they took that went.
func (f *Found) dropCuts(name cutName, most int64) (dropped int64, err error) {
	list, err := f.dir.List()
	if err != nil {
		return 0, err
	}
	type saved struct {
		cutName
		size, takes int64
	}
	var cuts []saved
	var total int64
	for _, i := range list {
		if c, ok := parseCutName(i.Name); ok {
			cuts = append(cuts, saved{c, i.Size, max(i.Size, i.Blocks)})
			total += i.Size
		}
	}
	// The log is cut where it ends, so in the order of positions.
	slices.SortFunc(cuts, func(a, b saved) int {
		return cmp.Or(cmp.Compare(a.from, b.from), cmp.Compare(a.epoch, b.epoch))
	})
	n := len(cuts)
	for _, c := range cuts {
		if c.cutName != name && n < cutFiles && total <= most {
			continue
		}
		if err := f.dir.Remove(c.String()); err != nil {
			return dropped, err
		}
		n, total, dropped = n-1, total-c.size, dropped+c.takes
	}
	return dropped, nil
}
