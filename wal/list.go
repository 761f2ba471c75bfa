package wal

import (
	"cmp"
	"encoding/hex"
	"errors"
	"slices"
	"strings"
	"time"

	"github.com/mtawal/mtawal/internal/disk"
	"github.com/mtawal/mtawal/mailq"
	"github.com/mtawal/mtawal/segment"
	"github.com/mtawal/mtawal/state"
)

// matching lists the recipients of a message that a filter selects, with what the state knows
// of them. at says in which state one is, and whether in doubt.
func matching(t *state.Table, f *Filter, slot uint32, at func(ref state.Ref, r *state.Recipient) (mailq.State, bool)) []Entry {
	m := t.Msg(slot)
	rs := t.Recipients(slot)
	var list []Entry
	for i := range rs {
		r := &rs[i]
		st, doubt := at(state.Ref{Slot: slot, Index: uint32(i)}, r)
		if st == mailq.Used || f.State != 0 && f.State != st || f.InDoubt && !doubt {
			continue
		}
		name := t.Queue(r.Queue).Name
		if f.Queue != "" && f.Queue != name || !strings.HasPrefix(name, f.Prefix) {
			continue
		}
		e := Entry{ID: ID(m.ID), Recipient: i, Queue: name, State: st, InDoubt: doubt, Attempts: int(r.Attempts),
			NotBefore: segment.Time(t.NotBefore(r)), Priority: m.Priority}
		if n := t.Note(r); n != nil {
			e.Note = slices.Clone(n)
		}
		list = append(list, e)
	}
	return list
}

// List calls fn with every recipient of a store that a filter selects, the oldest message first. It
// needs no lock and writes nothing, so it may run beside the owner; what the owner's consumers
// have claimed is pending there. What can't be read of a message is in Entry.Err. fn's
// error ends it and is returned. It costs what an opening does.
func List(dir string, o Options, f Filter, fn func(*Entry) error) error {
	l := &lister{filter: f, fn: fn}
	err := readOnly(dir, o, func(d disk.Dir, m meta, o Options) error {
		before, err := d.List()
		if err != nil {
			return err
		}
		r, err := recoverStore(d, m.uuid, true)
		if err != nil {
			return err
		}
		return errors.Join(l.run(r, before, o.now()), r.close())
	})
	if l.ended != nil {
		return l.ended
	}
	return err
}

type lister struct {
	filter Filter
	fn     func(*Entry) error
	given  int
	last   uint64 // order of the last message given
	ended  error  // of fn
}

func (l *lister) run(r *recovered, before []disk.Info, now time.Time) error {
	t := r.table
	var slots []uint32
	if l.filter.ID != 0 {
		if slot, ok := t.Find(uint64(l.filter.ID)); ok {
			slots = append(slots, slot)
		}
	} else {
		t.ForEach(func(slot uint32) { slots = append(slots, slot) })
		slices.SortFunc(slots, func(a, b uint32) int { return cmp.Compare(t.Order(t.Msg(a)), t.Order(t.Msg(b))) })
	}
	at := func(ref state.Ref, rc *state.Recipient) (mailq.State, bool) {
		_, started := r.doubt[ref]
		return r.stateOf(ref, rc, now), started || rc.Flags&state.InDoubt != 0
	}
	for _, slot := range slots {
		m := t.Msg(slot)
		order := t.Order(m)
		if order <= l.last {
			continue // given by a look that had to be repeated
		}
		x := t.Extents(m)
		e := listed{id: m.ID, loc: m.Loc, extents: x, entries: matching(t, &l.filter, slot, at)}
		if len(e.entries) == 0 {
			continue
		}
		e.pins = r.acquire(m.Loc, x)
		e.fill()
		release(e.pins)
		if err := e.entries[0].Err; err != nil {
			// A segment that the owner has recycled meanwhile looks like damage.
			if after, lerr := r.dir.List(); lerr != nil || !slices.Equal(before, after) {
				return errors.Join(err, lerr)
			}
		}
		for i := range e.entries {
			if l.filter.Limit > 0 && l.given == l.filter.Limit {
				return nil
			}
			l.given++
			e.entries[i].Token = hex.EncodeToString(r.uuid[:]) + "-" + e.entries[i].ID.String()
			if l.ended = l.fn(&e.entries[i]); l.ended != nil {
				return errStop
			}
		}
		l.last = order
	}
	return nil
}

// acquire takes references to every segment that a message has bytes in, as far as they are there.
func (r *recovered) acquire(loc segment.Pos, extents []state.Extent) []*segment.Segment {
	var pins []*segment.Segment
	add := func(p segment.Pos) {
		if s, err := r.found.Acquire(p.Segment()); err == nil {
			pins = append(pins, s)
		}
	}
	add(loc)
	for _, x := range extents {
		add(x.Pos)
	}
	return pins
}
