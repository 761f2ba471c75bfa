package main

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"math/rand/v2"
	"slices"
	"strings"
	"time"

	"github.com/mtawal/mtawal/torture/internal/blocks"
	"github.com/mtawal/mtawal/torture/internal/core"
	"github.com/mtawal/mtawal/torture/internal/mail"
	"github.com/mtawal/mtawal/torture/internal/realfs"
)

const (
	crashesPerLoad = 16
	chainMax       = 4 // loads in a row on one store, each after a crash
	depthMax       = 3 // crashes inside a recovery, and inside that one's
	innerCrashes   = 3
)

// crashed is what a power cut has left, and what was promised until then.
type crashed struct {
	image  *blocks.Image
	ledger *mail.Ledger
	maker  uint64 // seed of the messages
}

// powercut cuts the power of loads until the run has had enough crashes.
func (r *rig) powercut(run *run, i int) error {
	rng := rand.New(rand.NewPCG(run.Seed, uint64(i)))
	at := &crashed{r.blank, mail.NewLedger(), rng.Uint64()}
	for n := range chainMax {
		next, err := r.load(run, rng, at, fmt.Sprintf("%d.%d", i, n))
		if err != nil || next == nil {
			return err
		}
		at = next
		if rng.IntN(3) == 0 || run.enough() {
			break
		}
	}
	return nil
}

// record is a life of the store as the disk below saw it.
type record struct {
	from   *crashed
	events []blocks.Event
	resp   *core.Response
	config core.Config
	tears  func(int64) bool
}

// Marks that begin and end a life.
const (
	openedMark = "O "
	killedMark = "K"
	endedMark  = "C"
)

// ledgers calls f for each place at which the record is to be cut, in order, with what
// was promised until then, and atOpen for each opening behind a kill.
func (rec *record) ledgers(places []int, f func(n int, l *mail.Ledger) error, atOpen func(*mail.Ledger, *mail.Observation)) error {
	l := rec.from.ledger.Clone()
	opened, killed, done := false, false, 0
	for _, n := range places {
		for ; done < n; done++ {
			e := rec.events[done]
			switch {
			case e.Kind != blocks.Mark:
			case strings.HasPrefix(e.Text, openedMark):
				var seen mail.Observation
				if err := json.Unmarshal([]byte(e.Text[len(openedMark):]), &seen); err != nil {
					return fmt.Errorf("read what the store showed: %w", err)
				}
				if killed {
					c := l.Clone()
					c.DurableStart = c.DurableStart || c.Killed // what was started is known exactly
					atOpen(c, &seen)
				}
				opened, killed = true, false
				l.Open(&seen, rec.config.DurableStart)
			case e.Text == killedMark:
				if killed = true; opened { // else what counts is how the life before ended
					l.Kill(e.At)
				}
			default:
				if err := l.Read(e.Text, e.At); err != nil {
					return err
				}
			}
		}
		if opened && !l.Killed {
			l.EndedAt = rec.events[min(n, len(rec.events)-1)].At
		}
		if err := f(n, l.Clone()); err != nil {
			return err
		}
	}
	return nil
}

// load runs one load from a crashed disk on, cuts it many times, and returns one of the
// outcomes, or none if there is nothing to go on with.
func (r *rig) load(run *run, rng *rand.Rand, from *crashed, life string) (*crashed, error) {
	config := configOf(rng)
	config.NoSync = run.Canary
	rec := &record{from: from, config: config}
	r.device.Insert(from.image)
	r.device.Slow(time.Duration(rng.IntN(300))*time.Microsecond, time.Duration(rng.IntN(2000))*time.Microsecond)
	err := r.mounted(rng, func() (err error) {
		q := &core.Request{Load: true, Dir: r.store(), Mark: r.disk.Mark, Seed: from.maker, Life: life, Config: config}
		if rng.IntN(3) == 0 {
			// Killed first, and opened again on what is in the page cache alone.
			if rec.resp, err = r.doKilled(q, time.Duration(50+rng.IntN(500))*time.Millisecond); rec.resp == nil && err == nil {
				r.device.Mark(killedMark)
				q.Life += "k"
			}
		}
		if rec.resp == nil && err == nil {
			rec.resp, err = r.do(q)
		}
		rec.events = r.device.Take()
		return errors.Join(err, r.forget())
	})
	r.device.Slow(0, 0)
	if errors.Is(err, errNotMounted) {
		run.judged(r, from, life, config, &mail.Verdict{Refused: []string{err.Error()}})
		return nil, nil
	}
	if err != nil {
		return nil, err
	}
	if end := slices.IndexFunc(rec.events, func(e blocks.Event) bool { return e.Kind == blocks.Mark && e.Text == endedMark }); end >= 0 {
		rec.events = rec.events[:end]
	}
	if v := troubles(rec.resp); len(v.Findings()) > 0 {
		run.judged(r, from, life, config, v)
		return nil, nil
	}
	rec.tears = r.tears(rec.resp.Extents, func(int64) bool { return true })
	outcomes, err := r.crashes(run, rng, rec, crashesPerLoad, 0, life)
	if err != nil || len(outcomes) == 0 {
		return nil, err
	}
	return outcomes[rng.IntN(len(outcomes))], nil
}

// tears says which pages are in the store's files, and were before.
func (r *rig) tears(extents []realfs.Extent, before func(int64) bool) func(int64) bool {
	if r.kind.Name == "btrfs" { // whose map of files names no places on the disk
		return func(int64) bool { return false }
	}
	in := map[int64]bool{}
	for _, x := range extents {
		for p := x.Off / blocks.PageSize; p < (x.Off+x.Len)/blocks.PageSize; p++ {
			in[p] = before(p)
		}
	}
	return func(p int64) bool { return in[p] }
}

// metadata finds the pages that held metadata of XFS at some time, by their magic numbers:
// what is a file's in the end may have been a directory's before. ext4 gives no block of a
// directory back.
func metadata(events []blocks.Event) map[int64]bool {
	magic := [][]byte{[]byte("XDB3"), []byte("XDD3"), []byte("AB3B"), []byte("AB3C"), []byte("IAB3"), []byte("FIB3"), []byte("BMA3"), []byte("IN")}
	found := map[int64]bool{}
	for _, e := range events {
		for at := 0; e.Off%blocks.PageSize == 0 && at < len(e.Data); at += blocks.PageSize {
			for _, m := range magic {
				if bytes.HasPrefix(e.Data[at:], m) {
					found[e.Off/blocks.PageSize+int64(at/blocks.PageSize)] = true
				}
			}
		}
	}
	return found
}

// troubles is the verdict about a life itself.
func troubles(resp *core.Response) *mail.Verdict {
	v := &mail.Verdict{Silent: resp.Trouble}
	if resp.Refused != "" {
		v.Refused = []string{resp.Refused}
	}
	return v
}

// placesIn draws places to cut at. Two in three are moved back to where a write is pending.
func placesIn(events []blocks.Event, rng *rand.Rand, count int) []int {
	var places []int
	for range count {
		n := 1 + rng.IntN(len(events))
		if rng.IntN(3) > 0 {
			for n > 1 && events[n-1].Kind != blocks.Write {
				n--
			}
		}
		places = append(places, n)
	}
	slices.Sort(places)
	return places
}

// crashes cuts a record at random places, and audits what each cut leaves.
func (r *rig) crashes(run *run, rng *rand.Rand, rec *record, count, depth int, name string) ([]*crashed, error) {
	if len(rec.events) == 0 {
		return nil, nil
	}
	places := placesIn(rec.events, rng, count)
	h := blocks.NewHistory(rec.from.image, rec.events)
	meta := metadata(rec.events)
	h.Tears = func(p int64) bool { return !meta[p] && rec.tears(p) }
	var outcomes []*crashed
	err := rec.ledgers(places, func(n int, l *mail.Ledger) error {
		if run.enough() {
			return nil
		}
		image, pending := h.Crash(n, blocks.SurvivorsOf(rng), rng)
		run.pending(pending)
		c := &crashed{image, l, rec.from.maker}
		clean, err := r.audit(run, rng, c, rec, depth, fmt.Sprintf("%s@%d", name, n))
		if clean {
			outcomes = append(outcomes, c)
		}
		return err
	}, func(l *mail.Ledger, seen *mail.Observation) {
		if v := mail.Judge(l, seen); len(v.Findings()) > 0 {
			run.judged(r, nil, name+", opened after a kill", rec.config, v)
		}
	})
	return outcomes, err
}

// audit recovers what a crash has left and judges it; now and then it is cut again
// meanwhile.
func (r *rig) audit(run *run, rng *rand.Rand, c *crashed, of *record, depth int, name string) (clean bool, err error) {
	config := of.config
	q := &core.Request{
		Dir: r.store(), Mark: r.disk.Mark, Seed: c.maker, Life: name, Config: config, Reopen: rng.IntN(4) == 0, Keyed: keyed(rng, c),
	}
	r.device.Insert(c.image)
	rec := &record{from: c, config: config}
	err = r.mounted(rng, func() (err error) {
		rec.resp, err = r.do(q)
		rec.events = r.device.Take()
		return errors.Join(err, r.forget())
	})
	v := &mail.Verdict{}
	switch {
	case errors.Is(err, errNotMounted):
		v.Refused = []string{err.Error()}
	case err != nil:
		return false, err
	default:
		if rec.resp.Seen != nil && rec.resp.Refused == "" {
			v = mail.Judge(c.ledger, rec.resp.Seen)
		}
		t := troubles(rec.resp)
		v.Refused, v.Silent = append(v.Refused, t.Refused...), append(v.Silent, t.Silent...)
	}
	run.judged(r, c, name, config, v)
	if len(v.Findings()) > 0 {
		return false, nil
	}
	if depth < depthMax && rng.IntN(4) == 0 {
		// What was a file's may be a directory's since, which does not tear.
		rec.tears = r.tears(rec.resp.Extents, of.tears)
		if _, err := r.crashes(run, rng, rec, innerCrashes, depth+1, name); err != nil {
			return false, err
		}
	}
	return true, nil
}

// keyed draws some messages that were accepted with a key that the store must know.
func keyed(rng *rand.Rand, c *crashed) map[string]uint64 {
	some := map[string]uint64{}
	maker := mail.Maker{Seed: c.maker}
	for key, m := range c.ledger.Messages {
		if len(some) == 3 {
			break
		}
		if !m.Accepted || m.Batch != "" || mail.IsBounce(key) {
			continue
		}
		if _, _, keyed := maker.Head(key); keyed {
			some[key] = m.ID
		}
	}
	return some
}
