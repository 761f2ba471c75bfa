package checkpoint

import (
	"context"
	"errors"
	"fmt"
	"io"
	"time"

	"github.com/mtawal/mtawal/internal/barrier"
	"github.com/mtawal/mtawal/internal/disk"
	"github.com/mtawal/mtawal/segment"
	"github.com/mtawal/mtawal/state"
)

// Log is the stretch of the log that is folded.
type Log interface {
	// Frames calls fn with each frame that lies in [from, to), in order, chained,
	// without bodies. It is an error if they do not reach exactly to to.
	Frames(from, to segment.Pos, prev segment.FrameHeader, fn func(*segment.Frame) error) error
}

// fold is the state of the messages that a stretch of the log touches, and the
// checkpoint that holds the others.
type fold struct {
	ctx      context.Context
	base     *File // nil: from the beginning
	table    *state.Table
	touched  map[uint64]struct{}
	flushed  map[string]struct{}
	logBytes int64
}

// Fold writes the checkpoint at position to: base, nil for the beginning of the
// log, and the log from there on. Memory is bounded by the stretch of the log, not
// by what base holds. It reads what is in files only, though what log has of it may be in memory. Soon after the context has ended it returns its cause.
func Fold(ctx context.Context, out io.Writer, base *File, log Log, uuid [16]byte, to segment.Pos) error {
	log, out = untilDone{log, ctx}, interruptible{ctx, out}
	f := &fold{ctx: ctx, base: base, table: state.NewTable(), touched: make(map[uint64]struct{}), flushed: make(map[string]struct{})}
	if base == nil {
		return f.run(out, log, uuid, to)
	}
	return disk.Guard(base.mapping, func() error { return f.run(out, log, uuid, to) })
}

func (f *fold) run(out io.Writer, log Log, uuid [16]byte, to segment.Pos) error {
	var from segment.Pos
	var prev segment.FrameHeader
	if f.base != nil {
		from, f.logBytes = f.base.Pos, f.base.LogBytes
		prev = f.base.LastHeader()
	}
	err := log.Frames(from, to, prev, func(fr *segment.Frame) error {
		f.logBytes += fr.Len
		return fr.ForEach(f.collect)
	})
	if err != nil {
		return fmt.Errorf("reading the log from %v to %v: %w", from, to, err)
	}
	if f.base != nil {
		if err := f.load(); err != nil {
			return err
		}
	}
	if err := log.Frames(from, to, prev, f.table.ApplyFrame); err != nil {
		return fmt.Errorf("folding the log from %v to %v: %w", from, to, err)
	}
	if f.table.Applied != to {
		return fmt.Errorf("the log ends at %v, not at %v: %w", f.table.Applied, to, segment.ErrCorrupt)
	}
	w, err := newWriter(out, tableInfo(f.table, uuid, f.logBytes))
	if err != nil {
		return err
	}
	if err := writeTable(w, f.table, f.untouched(w)); err != nil {
		return err
	}
	return w.finish(ownQueues(f.table), f.table.Keys())
}

// LastHeader is what a checkpoint knows of the last frame that it covers: enough
// for the next to be chained to it.
func (c *Info) LastHeader() segment.FrameHeader {
	return segment.FrameHeader{Pos: c.Last, CRC: c.Chain, Epoch: c.Epoch, Nonce: c.Nonce, Len: int64(c.Pos - c.Last)}
}

// collect notes which messages a record is about.
func (f *fold) collect(_ segment.Pos, r segment.Record) error {
	if r.MovedFrom() != 0 {
		f.touched[r.Holder()] = struct{}{}
		return nil
	}
	switch r.Kind() {
	case segment.KindSettle, segment.KindAttempt, segment.KindRecipients:
		f.touched[r.ID()] = struct{}{}
	case segment.KindFlush:
		name, _ := r.Flush()
		f.flushed[string(name)] = struct{}{}
	}
	return nil
}

// touches reports whether the log may change a message of the base.
func (f *fold) touches(e *state.Entry) bool {
	if _, ok := f.touched[e.ID]; ok {
		return true
	}
	if len(f.flushed) > 0 {
		for i := range e.Rcpts {
			r := &e.Rcpts[i]
			if r.Standing == state.Used {
				continue
			}
			if _, ok := f.flushed[f.base.names[r.Queue]]; ok {
				return true
			}
		}
	}
	return false
}

// load puts what the log touches into the table, and checks the base as a whole.
func (f *fold) load() error {
	if _, err := f.base.section(sectionMessages); err != nil {
		return err
	}
	f.base.prepare(f.table)
	it := f.base.entries()
	for {
		if f.ctx.Err() != nil {
			return context.Cause(f.ctx)
		}
		e, err := it.next()
		if e == nil || err != nil {
			return err
		}
		if f.touches(e) {
			f.table.Load(e)
		}
	}
}

// untouched returns the messages of the base that the log left alone.
func (f *fold) untouched(w *writer) func() (*state.Entry, *numbering, error) {
	if f.base == nil {
		return nil
	}
	names := &numbering{w: w, name: func(q uint32) string { return f.base.names[q] }}
	it := f.base.entries()
	return func() (*state.Entry, *numbering, error) {
		for {
			e, err := it.next()
			if e == nil || err != nil {
				return nil, nil, err
			}
			if !f.touches(e) {
				return e, names, nil
			}
		}
	}
}

// untilDone is a log that ends with a context.
type untilDone struct {
	Log
	ctx context.Context
}

func (l untilDone) Frames(from, to segment.Pos, prev segment.FrameHeader, fn func(*segment.Frame) error) error {
	return l.Log.Frames(from, to, prev, func(f *segment.Frame) error {
		if l.ctx.Err() != nil {
			return context.Cause(l.ctx)
		}
		return fn(f)
	})
}

// interruptible is a writer that ends with a context.
type interruptible struct {
	ctx context.Context
	out io.Writer
}

func (w interruptible) Write(b []byte) (int, error) {
	if w.ctx.Err() != nil {
		return 0, context.Cause(w.ctx)
	}
	return w.out.Write(b)
}

// SpareName is the name of the file that holds blocks for the next checkpoint.
const SpareName = "spare-ckpt"

// Publish makes the checkpoint at a position and gives it its final name: written
// over the file SpareName, if it is there, under a temporary name, synced, renamed, the directory
// synced, then read back from the device and counted. When it returns nil the checkpoint is
// durable, was seen to be readable, and adds up. On an error nothing is left under the final name
// that was not fully written, or that was seen not to be so. It ends with the context until the
// checkpoint has its final name.
//
// room is for how many bytes SpareName holds blocks; File.Holds says what the checkpoint has.
func Publish(ctx context.Context, dir disk.Dir, base *File, log Log, uuid [16]byte, to segment.Pos, room int64) (*File, error) {
	name := Name(to)
	tmp := TempPrefix + name
	if err := dir.Remove(tmp); err != nil && !isNotExist(err) {
		return nil, fmt.Errorf("removing an old %s: %w", tmp, err)
	}
	holds, err := write(ctx, dir, tmp, base, log, uuid, to, room)
	if err != nil {
		return nil, err
	}
	if err := dir.Rename(tmp, name); err != nil {
		return nil, fmt.Errorf("publishing %s: %w", name, err)
	}
	if !barrier.Gone(barrier.CheckpointName) {
		if err := dir.Sync(); err != nil {
			return nil, fmt.Errorf("publishing %s: %w", name, err)
		}
	}
	c, err := Open(dir, name, uuid)
	if err != nil {
		return nil, fmt.Errorf("reading %s back: %w", name, err)
	}
	if barrier.Gone(barrier.ReadBack) {
		return c, nil
	}
	if err = c.Check(true); err == nil {
		err = c.AddsUp()
	}
	if err != nil {
		// The page cache may hold it right until the next power cut, so that an opening would
		// take it for good.
		return nil, errors.Join(fmt.Errorf("reading %s back: %w", name, err), c.Close(), dir.Remove(name))
	}
	c.Holds = max(holds, c.Size)
	return c, nil
}

// Write folds into a new file with a name that is no checkpoint's, and syncs it. The UUID is
// that of the store that the file is for, which may be a copy of the one that base is of. On an
// error nothing is left under the name.
func Write(ctx context.Context, dir disk.Dir, name string, base *File, log Log, uuid [16]byte, to segment.Pos) error {
	f, err := dir.Create(name)
	if err != nil {
		return fmt.Errorf("making %s: %w", name, err)
	}
	_, err = foldInto(ctx, dir, f, base, log, uuid, to)
	if err == nil && !barrier.Gone(barrier.CheckpointSync) {
		err = f.Sync()
	}
	if err = errors.Join(err, f.Close()); err != nil {
		return errors.Join(fmt.Errorf("writing %s: %w", name, err), ignoreNotExist(dir.Remove(name)))
	}
	return nil
}

// write folds into the spare file, or a new one, under a temporary name, and syncs it.
func write(ctx context.Context, dir disk.Dir, tmp string, base *File, log Log, uuid [16]byte, to segment.Pos, room int64) (holds int64, err error) {
	f, spare, err := create(dir, tmp)
	if err != nil {
		return 0, fmt.Errorf("making %s: %w", tmp, err)
	}
	out, err := foldInto(ctx, dir, f, base, log, uuid, to)
	if err == nil && spare {
		holds, err = out.end(room)
	}
	if err == nil && !barrier.Gone(barrier.CheckpointSync) {
		err = f.Sync()
	}
	if err = errors.Join(err, f.Close()); err != nil {
		err = fmt.Errorf("writing %s: %w", tmp, err)
		if spare { // its blocks are for the next try
			return 0, errors.Join(err, dir.Rename(tmp, SpareName))
		}
		return 0, errors.Join(err, ignoreNotExist(dir.Remove(tmp)))
	}
	return holds, nil
}

// create makes the file that a checkpoint is written to, of the spare one if that is there and
// nobody else has its blocks.
func create(dir disk.Dir, tmp string) (f disk.File, spare bool, err error) {
	f, err = dir.Open(SpareName, true)
	if err == nil {
		own, err := f.Exclusive()
		if err == nil && own {
			if err = dir.Rename(SpareName, tmp); err == nil {
				// Else a power cut could keep the next renaming and not this one: a checkpoint that has
				// another name is refused, as a file that somebody else may write to.
				if !barrier.Gone(barrier.SpareTaken) {
					err = dir.Sync()
				}
				if err == nil {
					return f, true, nil
				}
				err = errors.Join(err, dir.Rename(tmp, SpareName))
			}
		}
		if err = errors.Join(err, f.Close()); err != nil {
			return nil, false, err
		}
	}
	if !isNotExist(err) {
		// Somebody has another name for it, say. It is left to them.
		if err := ignoreNotExist(dir.Remove(SpareName)); err != nil {
			return nil, false, err
		}
	}
	f, err = dir.Create(tmp)
	return f, false, err
}

// TempPrefix begins the names of files that may be removed at any opening.
const TempPrefix = "tmp-"

// piece is how much is written at a time at first, past the page cache where that can be. What a sync has written in one burst, and
// longer pieces, commits have to wait behind: see ADR 0002.
var piece = 64 << 10 // smaller in tests

// piecesMost is how many times as long a piece becomes on a device that takes pieceTime and more for one, as one does
// that has to write all it has at each: else a large checkpoint would take minutes.
const (
	piecesMost = 16
	pieceTime  = 5 * time.Millisecond
)

// syncEvery is how much goes through the page cache between two syncs, on file systems that do not write in place.
const syncEvery = 8 << 20

// fileWriter writes a checkpoint. What it has written is durable when the file is synced behind flush.
type fileWriter struct {
	f             disk.File
	direct        bool
	buf           []byte // not written yet; a piece is full where its capacity ends
	off, unsynced int64
}

// foldInto folds into a file, which is to be synced then.
func foldInto(ctx context.Context, dir disk.Dir, f disk.File, base *File, log Log, uuid [16]byte, to segment.Pos) (*fileWriter, error) {
	w := &fileWriter{f: f, direct: !dir.CopyOnWrite() && !barrier.Gone(barrier.CheckpointSync), buf: segment.Aligned(piece)[:0]}
	if err := Fold(ctx, w, base, log, uuid, to); err != nil {
		return nil, err
	}
	return w, w.flush()
}

// end cuts off what the file held before behind what was written. That gives blocks back, which
// are asked for again; holds is for how many bytes the file has some then.
func (w *fileWriter) end(room int64) (holds int64, err error) {
	size, err := w.f.Size()
	if err != nil || size <= w.off {
		return max(room, w.off), err
	}
	if err := w.f.Truncate(w.off); err != nil {
		return 0, err
	}
	if room > w.off && w.f.Reserve(room) == nil {
		return room, nil
	}
	return w.off, nil
}

func (w *fileWriter) Write(b []byte) (int, error) {
	n := 0
	for n < len(b) {
		k := copy(w.buf[len(w.buf):cap(w.buf)], b[n:])
		w.buf, n = w.buf[:len(w.buf)+k], n+k
		if len(w.buf) < cap(w.buf) {
			break
		}
		if err := w.flush(); err != nil {
			return n, err
		}
	}
	return n, nil
}

// flush writes what is left, of which a sync is still to come.
func (w *fileWriter) flush() error {
	next := w.buf[:0]
	if w.direct && len(w.buf) == cap(w.buf) {
		began := time.Now()
		if err := w.f.WriteDurable(w.off, w.buf); err != nil {
			return err
		}
		if n := 2 * cap(w.buf); n <= piecesMost*piece && time.Since(began) > pieceTime {
			next = segment.Aligned(n)[:0]
		}
	} else {
		if _, err := w.f.WriteAt(w.buf, w.off); err != nil {
			return err
		}
		w.unsynced += int64(len(w.buf))
	}
	w.off += int64(len(w.buf))
	w.buf = next
	if w.unsynced >= syncEvery {
		w.unsynced = 0
		return w.f.Sync()
	}
	return nil
}
