package wal

import (
	"errors"
	"fmt"
	"io/fs"
	"maps"
	"slices"
	"strings"
	"sync/atomic"

	"github.com/mtawal/mtawal/checkpoint"
	"github.com/mtawal/mtawal/internal/disk"
)

// The next checkpoint is written over a file whose blocks are its own already, so that it is
// made also when others have filled the disk: without it nothing is ever given back. When it is
// published the oldest one's file is the next to be written over, and so on: so each of the three holds
// blocks, behind the end of what is in it, for twice what the next checkpoint may take. The rest is
// for the times of deferrals, which no batch is refused for, and for notes, which are kept as far
// as it goes.
//
// Blocks that are held count as used, so the reserve is what they do not cover yet.

// foldRoom is the blocks that are held for checkpoints.
type foldRoom struct {
	keep atomic.Bool  // they are wanted
	none atomic.Bool  // this platform has none
	open atomic.Int64 // what was wanted when intake was last open

	// Under foldState.mu, by name of the file.
	of    map[string]int64 // for how many bytes of a checkpoint it has blocks, as far as is known
	takes map[string]int64 // what it takes of the disk, and what else is no segment: not less than a crash may leave
}

// foldFiles is how many files there are: the two checkpoints and the one that is written over next.
const foldFiles = 3

// nextSize bounds the size of the next checkpoint: what is in it was in the last one, or in a
// record since. What a deferral adds without a note is not counted.
func (f *foldState) nextSize() int64 { return f.size.Load() + f.growth.Load() + checkpointFixed }

// heldBefore stands for the blocks behind the end of a file that an earlier opening had it hold, how many
// nobody knows: they are found when it is asked to hold more, and given back when it is not.
const heldBefore = 1

// checkpointFixed is more than a checkpoint of nothing takes.
const checkpointFixed = 16 << 10

// wanted is for how many bytes each file is to hold blocks. While intake is shut it is not more than it
// was then: what grows grows into it.
func (f *foldState) wanted() int64 {
	next := f.nextSize()
	if !f.s.space.shut.Load() {
		f.room.open.Store(2 * next)
	}
	return max(next, min(f.room.open.Load(), 2*next))
}

// uncovered is how much each of the files having so many bytes would take of the disk.
func (f *foldState) uncovered(n int64) int64 {
	f.mu.Lock()
	defer f.mu.Unlock()
	n = wholeBlocks(n)
	more := foldFiles * n
	for name, have := range f.room.of {
		more -= min(max(have, f.room.takes[name]), n)
	}
	return max(more, 0)
}

func wholeBlocks(n int64) int64 { return (n + disk.Alignment - 1) &^ (disk.Alignment - 1) }

// covered is the size of a checkpoint for which every file holds blocks.
func (f *foldState) covered() int64 {
	f.mu.Lock()
	defer f.mu.Unlock()
	if len(f.room.of) < foldFiles {
		return 0
	}
	return slices.Min(slices.Collect(maps.Values(f.room.of)))
}

// bytes is what the files of the store take that are no segments and not the claim table.
func (f *foldState) bytes() (n int64) {
	f.mu.Lock()
	defer f.mu.Unlock()
	for _, have := range f.room.takes {
		n += have
	}
	return n
}

// count looks what the files take. Those that are gone were durably removed: a crash does not bring back
// what does not count.
func (f *foldState) count() error {
	list, err := f.s.dir.List()
	if err != nil {
		return fmt.Errorf("counting files: %w", err)
	}
	takes := make(map[string]int64)
	for _, i := range list {
		_, ok := checkpoint.ParseName(i.Name)
		if ok || i.Name == checkpoint.SpareName || i.Name == metaName || i.Name == lockName || strings.HasPrefix(i.Name, checkpoint.TempPrefix) {
			takes[i.Name] = max(i.Size, i.Blocks)
		}
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	f.room.takes = takes
	return nil
}

// takesAtLeast has a file count for so many bytes.
func (f *foldState) takesAtLeast(name string, bytes int64) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.room.takes[name] = max(f.room.takes[name], bytes)
}

// take does so if there is room for them.
func (f *foldState) take(name string, bytes int64) bool {
	s := f.s
	s.space.taking.Lock()
	defer s.space.taking.Unlock()
	free, _ := s.freeBytes(s.log.Files().Bytes)
	f.mu.Lock()
	had := f.room.takes[name]
	f.mu.Unlock()
	if bytes <= had {
		return true
	}
	f.takesAtLeast(name, bytes)
	if free-(bytes-had) >= f.uncovered(f.nextSize()) { // of the others
		return true
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	f.room.takes[name] = had
	return false
}

func (f *foldState) setHolds(name string, bytes int64) {
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.room.of == nil {
		f.room.of = make(map[string]int64)
	}
	delete(f.room.of, name)
	if bytes > 0 {
		f.room.of[name] = bytes
	}
}

func (f *foldState) holds(name string) int64 {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.room.of[name]
}

// keepRoom brings the blocks to what is wanted, as far as there is room, or gives back what is
// not in use.
func (f *foldState) keepRoom(keep bool) {
	f.room.keep.Store(keep)
	if !f.running.TryLock() {
		return // the fold does so when it is done
	}
	defer f.running.Unlock()
	if err := f.keepRoomLocked(); err != nil {
		f.s.opt.Logger.Warn("the room for the next checkpoint could not be changed", "err", err)
	}
}

// keepRoomLocked is keepRoom while running is held.
func (f *foldState) keepRoomLocked() error {
	r := &f.room
	if r.none.Load() {
		return nil
	}
	want := f.wanted()
	switch {
	case !r.keep.Load():
		want = 0
	case !f.s.reserveIsWhole(want):
		want = min(want, f.nextSize()) // the rest would be taken from what marks need
	}
	var errs []error
	changed, removed := false, false
	for _, c := range []*checkpoint.File{nil, f.newest, f.older} { // the next one first
		name, size := checkpoint.SpareName, int64(0)
		if c != nil {
			name, size = c.Name, c.Size
		}
		have := f.holds(name)
		switch {
		case want == 0 && have > 0 && name == checkpoint.SpareName:
			errs = append(errs, removeIfThere(f.s.dir, name))
			f.setHolds(name, 0)
			changed, removed = true, true
		case want == 0 && have > size:
			errs = append(errs, f.change(name, func(d disk.File) error { return d.Truncate(size) }))
			f.setHolds(name, size)
			changed = true
		case have < want:
			// A little more than is wanted, or each message would have it grow.
			more := want
			if extra := min(want/4, 1<<20); f.s.plenty(foldFiles * (extra + disk.Alignment)) {
				more += extra
			}
			more = wholeBlocks(more)
			if !f.take(name, more) {
				continue
			}
			changed = true
			err := f.change(name, func(d disk.File) error { return d.Reserve(more) })
			if errors.Is(err, errors.ErrUnsupported) {
				r.none.Store(true)
				return errors.Join(removeIfThere(f.s.dir, checkpoint.SpareName), f.s.dir.Sync(), f.count())
			}
			if err == nil {
				f.setHolds(name, more)
			} else if !errors.Is(err, disk.ErrNoSpace) {
				errs = append(errs, err)
			}
		}
	}
	if removed {
		errs = append(errs, f.s.dir.Sync())
	}
	if changed {
		errs = append(errs, f.count())
	}
	return errors.Join(errs...)
}

// change has something done to the blocks of a file of checkpoints, durably. What is in it stays
// as it is.
func (f *foldState) change(name string, do func(disk.File) error) error {
	d := f.s.dir
	file, err := d.Open(name, true)
	fresh := errors.Is(err, fs.ErrNotExist) && name == checkpoint.SpareName
	if fresh {
		file, err = d.Create(name)
	}
	if err != nil {
		return err
	}
	if err = do(file); err == nil {
		err = file.Sync()
	}
	if err = errors.Join(err, file.Close()); err == nil && fresh {
		err = d.Sync()
	}
	if err != nil && fresh {
		err = errors.Join(err, removeIfThere(d, name))
	}
	return err
}

// published says that a checkpoint was written over the spare file, and that the file of another
// one, which was closed, is the next.
func (f *foldState) published(c, oldest *checkpoint.File) error {
	r := &f.room
	f.setHolds(checkpoint.SpareName, 0)
	f.setHolds(c.Name, c.Holds)
	if oldest == nil {
		return nil
	}
	holds := f.holds(oldest.Name)
	f.setHolds(oldest.Name, 0)
	f.mu.Lock()
	read := f.readers > 0
	f.mu.Unlock()
	if !r.keep.Load() || r.none.Load() || read {
		return nil // it is removed with the others, and whoever reads in it finds what was there
	}
	err := f.s.dir.Rename(oldest.Name, checkpoint.SpareName)
	if err == nil {
		// Its name is durably gone before a byte of it is written over.
		err = f.s.dir.Sync()
	}
	if err != nil {
		return fmt.Errorf("taking the oldest checkpoint away: %w", err)
	}
	f.setHolds(checkpoint.SpareName, holds)
	return nil
}

// unpublished looks what a checkpoint that was not made has left of the blocks.
func (f *foldState) unpublished() error {
	err := errors.Join(f.s.dir.Sync(), f.count())
	f.mu.Lock()
	defer f.mu.Unlock()
	if _, ok := f.room.takes[checkpoint.SpareName]; err != nil || !ok {
		delete(f.room.of, checkpoint.SpareName)
	}
	return err
}

// adoptRoom finds what an earlier opening kept: also as the checkpoint that it did not finish.
func (f *foldState) adoptRoom() error {
	list, err := f.s.dir.List()
	if err != nil {
		return fmt.Errorf("listing: %w", err)
	}
	var half disk.Info
	for _, i := range list {
		switch {
		case i.Name == checkpoint.SpareName:
			f.setHolds(i.Name, i.Size+heldBefore)
			half = disk.Info{}
		case strings.HasPrefix(i.Name, checkpoint.TempPrefix) && i.Regular && f.holds(checkpoint.SpareName) == 0:
			half = i
		}
	}
	if half.Name != "" {
		if err := f.s.dir.Rename(half.Name, checkpoint.SpareName); err != nil {
			return fmt.Errorf("keeping the room of a checkpoint that was not finished: %w", err)
		}
		f.setHolds(checkpoint.SpareName, half.Size+heldBefore)
	}
	return f.count()
}

func removeIfThere(d disk.Dir, name string) error {
	if err := d.Remove(name); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	return nil
}
