package wal

import (
	"errors"
	"time"

	"github.com/mtawal/mtawal/internal/disk"
	"github.com/mtawal/mtawal/mailq"
)

// snapshot copies the store, beside the owner or as a kill would leave it, and opens the copy: it
// holds what the store holds, all of it in doubt.
func (h *history) snapshot() {
	const dir = "/copy"
	var fs disk.FS = h.fs
	if h.rng.IntN(2) == 0 {
		h.note("beside the owner")
		h.must("snapshot", h.s.Snapshot(bgCtx, dir))
	} else {
		h.note("of what a kill leaves")
		fs = h.fs.Clone()
		h.must("snapshot", Snapshot(bgCtx, spool, dir, h.on(fs)))
	}
	if found, err := Verify(dir, h.on(fs)); err != nil || len(found) > 0 {
		h.fail("the copy: %v, %v", found, err)
	}
	from := time.Now()
	s, err := Open(dir, h.on(fs))
	h.must("opening the copy", err)
	have, err := viewOf(s)
	h.must("entries of the copy", err)
	bad := ""
	h.worlds(func(w *world, _ string) bool {
		bad = have.diff(w.copied(have, from))
		return bad == ""
	})
	if bad != "" {
		h.fail("the copy is not the store:\n%s", bad)
	}
	if st := s.Stats(); st.InDoubt != int64(len(have)) || st.WorkQueueLength != st.InDoubt {
		h.fail("of %d recipients the copy says %+v", len(have), st)
	}
	h.must("closing the copy", s.Close())
	if found, err := Verify(dir, h.on(fs)); err != nil || len(found) > 0 {
		h.fail("the copy, when it was opened: %v, %v", found, err)
	}
	h.must("removing the copy", func() error {
		d, err := fs.OpenDir(dir, false)
		if err != nil {
			return err
		}
		list, err := d.List()
		for _, i := range list {
			err = errors.Join(err, d.Remove(i.Name))
		}
		return errors.Join(err, d.Sync(), d.Close())
	}())
}

// copied is what a copy lists that was opened at a time. Where the count of attempts, and the time
// of a deferral by policy, may be one or the other, have decides.
func (w *world) copied(have view, at time.Time) view {
	w.out = map[ref]bool{}
	w.each(func(r ref) {
		v, q := w.rcpt(r), w.queues[w.rcpt(r).queue]
		v.doubt, v.late = true, false
		v.held = v.held || q.Doubt == mailq.HoldDoubt
		l, ok := have[r]
		if q.Doubt == mailq.DeferDoubt {
			until := at.Add(q.DoubtDelay).UnixNano()
			if v.due = max(v.due, until); ok && l.due > v.due && l.due < v.due+int64(time.Second) {
				v.due = l.due
			}
		}
		if ok && l.attempts == v.attempts+1 { // it was under way, and the log knows
			v.attempts++
		}
	})
	return w.view(time.Now())
}
