package wal

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"maps"
	"slices"
	"strings"

	"github.com/mtawal/mtawal/checkpoint"
	"github.com/mtawal/mtawal/internal/disk"
	"github.com/mtawal/mtawal/journal"
	"github.com/mtawal/mtawal/mailq"
	"github.com/mtawal/mtawal/segment"
)

// A copy of a store has one checkpoint, folded for it from the log that is copied, and the
// segments in which something lives by its word, with the headers changed to the new UUID and
// every other byte as it was; of the segment in which the position lies, what is before it.
//
// Until the last step every name in the target begins with copyPrefix, or META is missing: Open
// refuses both.
//
//  1. copy-ckpt-*, copy-seg-*: written, synced
//  2. renamed to their final names, the directory synced, read back
//  3. META, by a rename
const copyPrefix = "copy-"

// source is a store that is copied: files that stand still.
type source struct {
	dir   disk.Dir
	meta  meta
	bases []*checkpoint.File // the newest first
	log   interface {
		checkpoint.Log
		Acquire(number uint32) (*segment.Segment, error)
	}
	to segment.Pos // behind a durable frame that is no Seal
	// done, if set, is told of each segment that is not needed any more, or, once, of all that
	// may be needed yet.
	done func(number uint32, keep map[uint32]struct{})
}

func (s *source) close() error {
	var errs []error
	for _, c := range s.bases {
		errs = append(errs, c.Close())
	}
	return errors.Join(errs...)
}

// copyStore makes a copy in a directory that is not there or empty.
func copyStore(ctx context.Context, from *source, o *Options, target string) (err error) {
	inside, err := from.dir.Holds(target)
	if err != nil {
		return err
	}
	if inside {
		// It would go with the store, and be in its way.
		return &mailq.FieldError{Field: "target", Reason: "lies in the directory of the store"}
	}
	d, err := o.fs.OpenDir(target, true)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, d.Close()) }()
	lock, err := d.Lock(lockName)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, lock.Close()) }()
	if err := mayCopyInto(d); err != nil {
		return err
	}
	c := &copier{ctx: ctx, from: from, dir: d, meta: meta{ready: true, copied: true, at: o.now().Unix(), pos: from.to}}
	if c.meta.uuid, err = newUUID(); err != nil {
		return err
	}
	if err := c.run(); err != nil {
		if errors.Is(err, disk.ErrNoSpace) {
			err = fmt.Errorf("%w: %w", ErrFull, err)
		}
		return errors.Join(err, c.undo())
	}
	return nil
}

// mayCopyInto refuses a directory that holds anything but a lock file.
func mayCopyInto(d disk.Dir) error {
	list, err := d.List()
	if err != nil {
		return fmt.Errorf("listing %s: %w", d.Path(), err)
	}
	for _, f := range list {
		switch {
		case f.Name == lockName:
		case strings.HasPrefix(f.Name, copyPrefix):
			return fmt.Errorf("%s holds %q, of a copy that was not finished: %w", d.Path(), f.Name, ErrNotStore)
		default:
			return occupiedError{fmt.Sprintf("%s is not empty: it holds %q", d.Path(), f.Name)}
		}
	}
	return nil
}

// occupiedError says what is in the way of a copy. It matches ErrNotStore, and does not say so: it may well
// be a store.
type occupiedError struct{ text string }

func (e occupiedError) Error() string { return e.text }

func (e occupiedError) Is(target error) bool { return target == ErrNotStore }

// copier makes one copy.
type copier struct {
	ctx  context.Context
	from *source
	dir  disk.Dir
	meta meta
	ckpt string   // the final name of the checkpoint, "" if there is none
	made []string // final names of what stands under a temporary one, or, later, under these
}

func (c *copier) run() error {
	need, err := c.checkpoint()
	if err != nil {
		return err
	}
	if c.from.done != nil {
		c.from.done(0, need)
	}
	numbers := slices.Sorted(maps.Keys(need))
	if err := c.room(numbers); err != nil {
		return err
	}
	for _, n := range numbers {
		if err := c.segment(n); err != nil {
			return fmt.Errorf("copying %s: %w", segment.Name(n), err)
		}
		if c.from.done != nil {
			c.from.done(n, nil)
		}
	}
	for _, name := range c.made {
		if err := c.dir.Rename(copyPrefix+name, name); err != nil {
			return err
		}
	}
	if err := c.dir.Sync(); err != nil {
		return err
	}
	if err := c.check(); err != nil {
		return fmt.Errorf("reading the copy back: %w", err)
	}
	if err := context.Cause(c.ctx); err != nil {
		return err
	}
	c.made = append(c.made, metaName)
	return writeMeta(c.dir, &c.meta)
}

// checkpoint folds the log for the copy, and says which segments are needed.
func (c *copier) checkpoint() (need map[uint32]struct{}, err error) {
	var lease, first uint64
	need = map[uint32]struct{}{max(c.from.to.Segment(), 1): {}}
	if c.from.to != 0 {
		if err := c.fold(); err != nil {
			return nil, err
		}
		k, err := checkpoint.Open(c.dir, copyPrefix+c.ckpt, c.meta.uuid)
		if err != nil {
			return nil, fmt.Errorf("reading the checkpoint back: %w", err)
		}
		for n := range k.Usage() {
			need[n] = struct{}{}
		}
		lease = k.Lease
		first, err = k.FirstID()
		if err = errors.Join(err, k.Close()); err != nil {
			return nil, err
		}
	}
	// The stores from which mail came that still lives, and the one that is copied.
	list := slices.Clone(c.from.meta.origins)
	list = slices.DeleteFunc(list, func(o origin) bool { return first == 0 || o.below <= first })
	list = append(list, origin{c.from.meta.uuid, lease})
	c.meta.origins = list[max(0, len(list)-originsMax):]
	return need, nil
}

// fold makes the checkpoint from the newest one that is readable.
func (c *copier) fold() error {
	c.ckpt = checkpoint.Name(c.from.to)
	bases := c.from.bases
	if len(bases) == 0 {
		bases = []*checkpoint.File{nil}
	}
	var errs []error
	for _, b := range bases {
		err := checkpoint.Write(c.ctx, c.dir, copyPrefix+c.ckpt, b, c.from.log, c.meta.uuid, c.from.to)
		if err == nil {
			c.made = append(c.made, c.ckpt)
			return nil
		}
		if errs = append(errs, err); !errors.Is(err, segment.ErrCorrupt) {
			break
		}
	}
	return errors.Join(errs...)
}

// room refuses to begin what would not fit.
func (c *copier) room(numbers []uint32) error {
	var need int64
	for _, n := range numbers {
		s, err := c.from.log.Acquire(n)
		if err != nil {
			return err
		}
		need += s.Size
		if err := s.Release(); err != nil {
			return err
		}
	}
	if sp, err := c.dir.Space(); err == nil && sp.Free < need {
		return &mailq.FullError{Reason: "disk", Need: need, Free: sp.Free}
	}
	return nil
}

const (
	copyStep = 1 << 20
	// copySync keeps the dirty pages of a copy from being written in one burst that commits would
	// have to wait behind.
	copySync = 8 << 20
)

// segment copies one, and syncs it. What is behind the position is zeros.
func (c *copier) segment(number uint32) (err error) {
	s, err := c.from.log.Acquire(number)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, s.Release()) }()
	name := segment.Name(number)
	f, err := c.dir.Create(copyPrefix + name)
	if err != nil {
		return err
	}
	c.made = append(c.made, name)
	defer func() { err = errors.Join(err, f.Close()) }()
	if err := f.Allocate(s.Size); err != nil {
		return err
	}
	h := s.Header
	h.UUID = c.meta.uuid
	if _, err := f.WriteAt(h.Encode(), 0); err != nil {
		return err
	}
	end := s.Size
	if number == c.from.to.Segment() {
		end = c.from.to.Offset()
	} else if c.from.to == 0 {
		end = s.First()
	}
	b := make([]byte, copyStep)
	for off := s.First(); off < s.Size; off += int64(len(b)) {
		if err := context.Cause(c.ctx); err != nil {
			return err
		}
		b = b[:min(copyStep, s.Size-off)]
		n := min(max(end-off, 0), int64(len(b)))
		if n > 0 {
			if _, err := s.File.ReadAt(b[:n], off); err != nil {
				return err
			}
		}
		clear(b[n:])
		if _, err := f.WriteAt(b, off); err != nil {
			return err
		}
		if off/copySync != (off+int64(len(b)))/copySync {
			if err := f.Sync(); err != nil {
				return err
			}
		}
	}
	return f.Sync()
}

// check reads the checkpoint back from the device, and sees that a log begins and ends where it
// does: what an opening of the copy will ask for.
func (c *copier) check() (err error) {
	var start journal.Start
	if c.ckpt != "" {
		k, err := checkpoint.Open(c.dir, c.ckpt, c.meta.uuid)
		if err != nil {
			return err
		}
		start = startOf(&k.Info)
		if err := errors.Join(k.Check(true), k.Close()); err != nil {
			return err
		}
	}
	found, err := journal.Recover(c.dir, c.meta.uuid, start, journal.Known{}, true, func(f *segment.Frame) error {
		return &CorruptError{Segment: f.Pos.Segment(), File: segment.Name(f.Pos.Segment()), Offset: f.Pos.Offset(), Reason: "a frame behind the end of the copy"}
	})
	if err != nil {
		return err
	}
	return found.Close()
}

// undo removes what was made.
func (c *copier) undo() error {
	var errs []error
	for _, name := range slices.Backward(c.made) {
		for _, n := range []string{name, copyPrefix + name, checkpoint.TempPrefix + name} {
			if err := c.dir.Remove(n); err != nil && !errors.Is(err, fs.ErrNotExist) {
				errs = append(errs, fmt.Errorf("removing what was copied: %w", err))
			}
		}
	}
	return errors.Join(append(errs, c.dir.Sync())...)
}
