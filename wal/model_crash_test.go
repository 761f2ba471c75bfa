package wal

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	iofs "io/fs"
	"math/rand/v2"
	"slices"
	"sync"
	"testing/synctest"
	"time"

	"github.com/mtawal/mtawal/checkpoint"
	"github.com/mtawal/mtawal/internal/disk"
	"github.com/mtawal/mtawal/internal/disk/memdisk"
	"github.com/mtawal/mtawal/segment"
)

// ending is how a store ended before it is opened again.
type ending uint8

const (
	closed ending = iota // by Close: what was out is in doubt, durably
	killed               // exactly what was started and not settled is in doubt
	power                // at least that of it which the log knows of
)

func (e ending) String() string { return [...]string{"closed", "killed", "power cut"}[e] }

func (h *history) anyCrash() ending { return []ending{killed, power}[h.rng.IntN(2)] }

func crash(fs *memdisk.FS, e ending, rng *rand.Rand) {
	if e == power {
		fs.PowerCut(rng)
	} else {
		fs.Kill()
	}
}

// crashAt has the file system crash at the n-th operation that changes something.
func (h *history) crashAt(n int, e ending) (reached func() bool) {
	ops, done := 0, false
	rng := rand.New(rand.NewPCG(h.rng.Uint64(), 2))
	var lock sync.Mutex
	fs := h.fs
	fs.OnOp(func(op disk.Op, _ string) {
		if !slices.Contains(changing, op) {
			return
		}
		lock.Lock()
		defer lock.Unlock()
		if ops++; ops == n {
			done = true
			crash(fs, e, rng)
		}
	})
	return func() bool {
		fs.OnOp(nil)
		lock.Lock()
		defer lock.Unlock()
		return done
	}
}

// worlds calls f with every state that the history may have left, the whole of it first,
// until f returns true.
func (h *history) worlds(f func(*world, string) bool) {
	for k := len(h.unknown); k >= 0; k-- {
		for subset := 1<<len(h.free) - 1; subset >= 0; subset-- {
			w := h.w.clone()
			all(h.unknown[:k]...)(w)
			for i, c := range h.free {
				if subset>>i&1 == 1 {
					c(w)
				}
			}
			if f(w, fmt.Sprintf("%d of %d under way, and %b of others", k, len(h.unknown), subset)) {
				return
			}
		}
	}
}

// settleDoubt puts recipients in doubt as an opening does, where have, the view that was
// found, says so. It reports one that is in doubt and may not be, or the other way
// round. Nobody holds a claim afterwards.
func (h *history) settleDoubt(w *world, have view, e ending) (bad string) {
	out, now := w.out, time.Now()
	w.out = map[ref]bool{}
	w.each(func(r ref) {
		w.rcpt(r).late = false
		doubted, m := newWorld(), *w.live[r.ID]
		m.rcpts, doubted.queues, doubted.live[r.ID] = slices.Clone(m.rcpts), w.queues, &m
		doubted.outcome(r, Outcome{Result: Uncertain}, true, now)(doubted)
		l, ok := have[r]
		doubted.rcpt(r).late = false
		came := ok && same(l, doubted.line(r, now))
		must, may := out[r], out[r]
		if e == power {
			_, ever := h.since[r]
			must, may = out[r] && h.durable[r], ever
		}
		switch {
		case came && !may:
			bad = fmt.Sprintf("%v came back in doubt and had not been started: %+v", r, l)
		case !came && must:
			bad = fmt.Sprintf("%v had been started and did not come back in doubt: %+v instead of %+v", r, l, doubted.line(r, now))
		case came:
			*w.rcpt(r) = m.rcpts[r.Index]
		}
	})
	return bad
}

// match finds the state that a store which was just opened has among those that it may
// have.
func (h *history) match(s *Store, e ending) *world {
	return h.matchView(h.view(s), func(w *world) string { return w.totals(s) }, e)
}

func (h *history) matchView(have view, totals func(*world) string, e ending) *world {
	var found *world
	why := ""
	h.worlds(func(w *world, which string) bool {
		bad := h.settleDoubt(w, have, e)
		if bad == "" {
			bad = have.diff(w.view(time.Now()))
		}
		if bad == "" {
			bad = totals(w)
		}
		if bad != "" {
			why += fmt.Sprintf("\nwith %s:\n%s", which, bad)
			return false
		}
		found = w
		return true
	})
	if found == nil {
		h.fail("%v, and what is there is none of the states that may be:%s", e, why)
	}
	return found
}

// administer has somebody else open what is left in between, who ends in any way, and returns what is to be expected of
// the owner's next opening: what it would have been without.
func (h *history) administer(e ending) ending {
	s, err := Open(spool, administered(h.opt))
	h.must("open to administer", err)
	switch h.rng.IntN(3) { // no time passes, in which what a Close has deferred would come nearer
	case 0:
		h.must("checkpoint", s.Checkpoint(bgCtx))
	case 1:
		h.must("compact", s.Compact(bgCtx))
	}
	end := []ending{closed, killed, power}[h.rng.IntN(3)]
	h.note("administered, %v", end)
	switch {
	case end != closed:
		crash(h.fs, end, h.rng)
		_ = s.Close()
	default:
		h.must("close", s.Close())
	}
	synctest.Wait()
	h.image(h.fs)
	if end == power {
		return power
	}
	return e
}

// reopen opens what is left, and goes on with it.
func (h *history) reopen(e ending) {
	h.image(h.fs)
	for !h.faulty && h.rng.IntN(3) == 0 {
		e = h.administer(e)
	}
	s, err := Open(spool, h.opt)
	h.must("open", err)
	h.opened(s)
	h.w = h.match(h.s, e)
	for _, k := range h.held {
		if err := k.d.SettleAll(bgCtx, Delivered); err == nil {
			h.fail("%v was settled through a store that had ended", k.d.ID)
		}
		if _, err := k.d.Body.ReadAt(make([]byte, 1), 0); !errors.Is(err, ErrClosed) && !errors.Is(err, ErrSettled) && !errors.Is(err, ErrFailed) {
			h.fail("the body of %v in a store that had ended: %v", k.d.ID, err)
		}
	}
	h.held, h.unknown, h.free = nil, nil, nil
	h.tidy()
	h.rest()
}

// crashed ends the store that was crashed, crashes some openings after it, and opens what
// is left.
func (h *history) crashed(e ending) {
	_ = h.s.Close() // it can't write any more, and says so or not
	synctest.Wait()
	for range h.rng.IntN(3) {
		again, n := h.anyCrash(), 1+h.rng.IntN(30)
		reached := h.crashAt(n, again)
		o := h.opt
		if h.rng.IntN(3) == 0 {
			o = administered(o)
		}
		s, err := Open(spool, o)
		if err == nil {
			h.old = append(h.old, s)
			synctest.Wait()
		}
		if !reached() {
			h.must("opening, with a crash to come", err)
			crash(h.fs, again, h.rng)
		}
		h.note("opening, %v at operation %d: %v", again, n, err)
		if s != nil {
			_ = s.Close()
		}
		synctest.Wait()
		e = max(e, again)
	}
	h.reopen(e)
}

// probe crashes a copy, opens that, compares and drains it; the store itself goes on.
func (h *history) probe(e ending) {
	c := h.fs.Clone()
	if e == power {
		c.PowerCut(rand.New(rand.NewPCG(h.rng.Uint64(), 1)))
	}
	h.note("on a copy: %v", e)
	if !h.faulty {
		h.image(c)
	}
	s, err := Open(spool, h.on(c))
	h.must("opening a copy", err)
	h.old = append(h.old, s)
	h.drain(s, h.match(s, e))
	h.must("closing a copy", s.Close())
	h.image(c)
}

func (h *history) on(fs disk.FS) Options {
	o := h.opt
	o.fs = fs
	return o
}

// image checks what is on the disk before anybody opens it: it is whole; replaying it
// twice gives the same; a fold of the log gives what a replay does; and without the newest
// checkpoint the older one, or the log alone, leads to the same state.
func (h *history) image(fs *memdisk.FS) {
	c := fs.Clone()
	found, err := Verify(spool, h.on(c))
	if errors.Is(err, ErrNotStore) || errors.Is(err, iofs.ErrNotExist) {
		return // not made yet
	}
	if err != nil || len(found) > 0 {
		h.fail("verify: %v, %v", found, err)
	}
	if h.faulty {
		return // there are very many of them, and the rest is about no fault
	}
	once, newest, err := replayed(c)
	h.must("replaying what is there", err)
	if twice, _, err := replayed(c); err != nil || !bytes.Equal(once, twice) {
		h.fail("replayed twice, it is not the same: %v", err)
	}
	if newest == "" {
		return
	}
	old, err := c.Device(spool + "/" + newest)
	h.must("reading the checkpoint", err)
	at := h.rng.IntN(len(old))
	h.must("damage", c.Damage(spool+"/"+newest, int64(at), []byte{^old[at]}))
	older, _, err := replayed(c)
	if errors.Is(err, segment.ErrVersion) {
		return // if that is what the damage made of it
	}
	if err != nil || !bytes.Equal(once, older) {
		h.fail("with %s damaged at %d it is another state: %v", newest, at, err)
	}
}

// replayed reads the store on a disk as an opening would, and returns the state as the bytes
// of a checkpoint at the end of the log. A fold of the log makes the same bytes.
func replayed(fs disk.FS) (state []byte, newest string, err error) {
	d, err := fs.OpenDir(spool, false)
	if err != nil {
		return nil, "", err
	}
	defer d.Close()
	m, err := readMeta(d)
	if err != nil || !m.ready {
		return nil, "", err
	}
	r, err := recoverStore(d, m.uuid, true)
	if err != nil {
		return nil, "", err
	}
	defer func() { err = errors.Join(err, r.close()) }()
	encode := func(logBytes int64) []byte {
		var b bytes.Buffer
		err = errors.Join(err, checkpoint.Encode(&b, r.table, m.uuid, logBytes))
		return b.Bytes()
	}
	logBytes := r.found.ReplayedBytes
	if r.newest != nil {
		newest = r.newest.Name
		logBytes += r.newest.LogBytes
	}
	if r.table.Applied != 0 {
		var folded bytes.Buffer
		if err := checkpoint.Fold(context.Background(), &folded, r.newest, r.found, m.uuid, r.table.Applied); err != nil {
			return nil, newest, fmt.Errorf("folding: %w", err)
		}
		if !bytes.Equal(folded.Bytes(), encode(logBytes)) {
			return nil, newest, fmt.Errorf("at %v a fold and a replay differ", r.table.Applied)
		}
	}
	return encode(0), newest, err
}
