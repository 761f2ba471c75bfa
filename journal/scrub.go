package journal

import (
	"errors"

	"github.com/mtawal/mtawal/internal/barrier"
	"github.com/mtawal/mtawal/internal/disk"
)

// scrub writes zeros over dead segments, whose final names are durably gone: before they get
// another life, and before they are removed. It returns those that were kept and wiped. A crash in
// between leaves a file that the next opening wipes, if it is told to, and removes; so does the end of the log, which
// waits for one file and not for all. When it returns nil those that were removed are durably gone.
func (m *maker) scrub(kept, others []string) (wiped []string, err error) {
	for i, name := range append(kept[:len(kept):len(kept)], others...) {
		m.mu.Lock()
		stop := m.stop
		m.mu.Unlock()
		if stop {
			break
		}
		err := wipe(m.l.dir, name)
		if err != nil {
			m.l.opt.Logger.Warn("a dead segment is removed without being wiped", "file", name, "err", err)
		}
		if err == nil && i < len(kept) {
			wiped = append(wiped, name)
			continue
		}
		if err := removeIfThere(m.l.dir, name); err != nil {
			m.l.opt.Logger.Warn("a dead segment could not be removed", "file", name, "err", err)
			m.hold(0, func() { m.others += m.l.opt.SegmentSize })
		}
	}
	if len(wiped) < len(kept)+len(others) {
		return wiped, syncNames(m.l.dir)
	}
	return wiped, nil
}

// wipe writes zeros over a file, durably. One that somebody else has a share in is left to them.
func wipe(dir disk.Dir, name string) (err error) {
	f, err := dir.Open(name, true)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, f.Close()) }()
	size, err := f.Size()
	if err != nil {
		return err
	}
	if err := mayReuse(f, size); err != nil {
		return err
	}
	zeros := zeros()
	for off := int64(0); off < size; off += int64(len(zeros)) {
		b := zeros[:min(int64(len(zeros)), size-off)]
		if barrier.Gone(barrier.ScrubSync) {
			_, err = f.WriteAt(b, off)
		} else {
			err = f.WriteDurable(off, b)
		}
		if err != nil {
			return err
		}
	}
	return nil
}
