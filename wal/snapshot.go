package wal

import (
	"context"
	"encoding/hex"
	"errors"
	"fmt"
	"io/fs"
	"time"

	"github.com/mtawal/mtawal/checkpoint"
	"github.com/mtawal/mtawal/mailq"
	"github.com/mtawal/mtawal/segment"
)

// Origin says of which store a copy was made.
type Origin struct {
	UUID     string    `json:"uuid"`     // of the store that was copied
	Position string    `json:"position"` // where its log ended, as the copy has it
	TakenAt  time.Time `json:"taken_at"`
}

// origin is nil for what is no copy.
func (m *meta) origin() *Origin {
	if len(m.origins) == 0 {
		return nil
	}
	from := m.origins[len(m.origins)-1]
	return &Origin{UUID: hex.EncodeToString(from.uuid[:]), Position: m.pos.String(), TakenAt: time.Unix(m.at, 0)}
}

// Origin reports whether the store began as a copy that Snapshot made, and of what.
func (s *Store) Origin() (Origin, bool) {
	if o := s.meta.origin(); o != nil {
		return *o, true
	}
	return Origin{}, false
}

// Snapshot copies the store, as it is at a moment between the call and the return, into a target
// directory that is not there or empty, and not in that of the store. The store goes on meanwhile; it keeps segments that are
// dead until they are copied, so that intake may end (ErrFull) where there is little room.
//
// When it returns nil the copy is durable, and a store of its own with another UUID. All of its
// mail is in doubt, since this store goes on delivering it, under the tokens that it has here;
// queue states and keys come along, claims and staged bodies do not. See Origin. The copy is as
// private as the store: it holds the same mail, and what was not written over yet of mail that
// was used.
//
// After an error the directory holds no store, and what was made in it is removed; a kill leaves
// files that Open and Snapshot refuse. When ctx ends, Snapshot returns at once, and a write that
// hangs holds nothing up, but was only the last rename under way the copy may become whole.
//
// Errors: ErrInvalid if the directory is none for a copy, ErrNotStore if it holds something; ErrLocked if somebody uses it; ErrFull if
// its file system has no room; ErrCorrupt if this store's log can't be read; ErrClosed; ErrFailed;
// those of the file system and of ctx.
func (s *Store) Snapshot(ctx context.Context, target string) error {
	if target == "" {
		return &mailq.FieldError{Field: "target", Reason: "is empty"}
	}
	s.mu.Lock()
	if err := s.gate(true); err != nil {
		s.mu.Unlock()
		return err
	}
	s.copies.Add(1)
	s.mu.Unlock()
	ctx, cancel := context.WithCancelCause(ctx)
	p, done := new(pin), make(chan error, 1)
	go func() {
		defer s.copies.Done()
		done <- s.snapshot(ctx, p, target)
	}()
	var err error
	select {
	case err = <-done:
	case <-ctx.Done():
		err = context.Cause(ctx)
	case <-s.open.Done():
		s.mu.Lock()
		err = s.gate(true)
		s.mu.Unlock()
	}
	cancel(err)
	s.folds.unpin(p)
	if err != nil {
		return fmt.Errorf("copying the store into %s: %w", target, err)
	}
	return nil
}

// pin keeps segments from being recycled while a snapshot copies them.
type pin struct {
	from  map[uint32]struct{}
	since time.Time
}

func (f *foldState) unpin(p *pin) {
	f.mu.Lock()
	delete(f.pins, p)
	f.mu.Unlock()
	f.poke() // what was pinned may be dead by now
}

// reads counts who reads in checkpoints by a handle of their own: none of them is written over meanwhile.
func (f *foldState) reads(n int) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.readers += n
}

// copied lets go of one of the segments, or of all that are not in keep.
func (f *foldState) copied(p *pin, number uint32, keep map[uint32]struct{}) {
	f.mu.Lock()
	defer f.mu.Unlock()
	delete(p.from, number)
	for n := range p.from {
		if _, ok := keep[n]; keep != nil && !ok {
			delete(p.from, n)
		}
	}
}

// pinned reports whether a snapshot needs the segment. mu is held.
func (f *foldState) pinned(number uint32) bool {
	for p := range f.pins {
		if _, ok := p.from[number]; ok {
			return true
		}
	}
	return false
}

// dead is what of the segments of the log may be recycled, by what two checkpoints say.
func (f *foldState) dead(numbers []uint32, newer, older *checkpoint.Summary) []uint32 {
	f.mu.Lock()
	defer f.mu.Unlock()
	var list []uint32
	for _, n := range checkpoint.Plan(numbers, newer, older) {
		if !f.streams[n] && !f.pinned(n) {
			list = append(list, n)
		}
	}
	return list
}

// snapshot does what Snapshot promises, on a goroutine of its own. It looks at the store only
// to begin with; from then on it reads files.
func (s *Store) snapshot(ctx context.Context, p *pin, target string) error {
	s.folds.reads(1)
	from, err := s.beginCopy(ctx, p)
	if err == nil {
		err = copyStore(ctx, from, &s.opt, target)
	}
	if from != nil {
		err = errors.Join(err, from.close())
	}
	s.folds.reads(-1)
	if err != nil && ctx.Err() != nil {
		return context.Cause(ctx)
	}
	return err
}

// beginCopy takes the position, and pins what the copy may need: while no fold runs nothing is
// recycled.
func (s *Store) beginCopy(ctx context.Context, p *pin) (from *source, err error) {
	f := &s.folds
	f.running.Lock()
	defer f.running.Unlock()
	s.mu.Lock()
	from = &source{dir: s.dir, meta: s.meta, log: s.log, to: s.table.Applied}
	s.mu.Unlock()
	for _, c := range []*checkpoint.File{f.newest, f.older} {
		if c == nil {
			continue
		}
		// A handle of our own: the next folds remove the file, and may do so long before we are done. They do not write
		// over it, see published.
		own, err := checkpoint.Open(s.dir, c.Name, s.uuid)
		if errors.Is(err, segment.ErrCorrupt) {
			continue // decayed since; the one before may do
		}
		if err != nil {
			return from, err
		}
		from.bases = append(from.bases, own)
	}
	if err := s.log.Sync(from.to); err != nil {
		return from, err // only with NoSync
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	if ctx.Err() != nil { // whoever ended it has unpinned
		return from, context.Cause(ctx)
	}
	p.from = make(map[uint32]struct{})
	for _, n := range s.log.Numbers() {
		p.from[n] = struct{}{}
	}
	if f.pins == nil {
		f.pins = make(map[*pin]struct{})
	}
	f.pins[p] = struct{}{}
	p.since = s.opt.now()
	from.done = func(n uint32, keep map[uint32]struct{}) { f.copied(p, n, keep) }
	return from, nil
}

// Snapshot copies a store that nobody has open into a directory that is not there or empty, as
// (*Store).Snapshot does one that is open: that it is open is ErrLocked. It changes nothing in
// the store, and recovers nothing: a tail that an opening would cut is not copied.
func Snapshot(ctx context.Context, dir, target string, o Options) (err error) {
	if target == "" {
		return &mailq.FieldError{Field: "target", Reason: "is empty"}
	}
	o, err = o.withDefaults()
	if err != nil {
		return err
	}
	d, err := o.openDir(dir, false)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, d.Close()) }()
	m, err := readMeta(d)
	if errors.Is(err, fs.ErrNotExist) || err == nil && !m.ready {
		return fmt.Errorf("%s: no %s, or it is not finished: %w", dir, metaName, ErrNotStore)
	}
	if err != nil {
		return fmt.Errorf("reading the store in %s: %w", dir, err)
	}
	lock, err := d.Lock(lockName)
	if err != nil {
		return fmt.Errorf("%s: %w", dir, err)
	}
	defer func() { err = errors.Join(err, lock.Close()) }()
	r, err := recoverStore(d, m.uuid, true)
	if err != nil {
		return fmt.Errorf("reading the store in %s: %w", dir, err)
	}
	defer func() { err = errors.Join(err, r.close()) }()
	from := &source{dir: d, meta: m, log: r.found, to: r.found.Rest}
	for _, c := range []*checkpoint.File{r.newest, r.older} {
		if c != nil {
			from.bases = append(from.bases, c)
		}
	}
	if err := copyStore(ctx, from, &o, target); err != nil {
		return fmt.Errorf("copying the store in %s into %s: %w", dir, target, err)
	}
	return nil
}
