package main

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"time"
)

// workload is a load that systems take turns at.
type workload struct {
	name    string
	shape   shape
	ops     int // a round, fixed, so that what a round writes fits into recycled space
	warm    int // before the clock runs, every round
	cycle   bool
	floor   string // the system that is 1.00 in the first ratio
	peer    string // and in the second
	systems []maker
}

// throughputs is the plan.
func throughputs(c config) []workload {
	const size = 4096
	// A message of 4 KiB with header and record takes two pages.
	sh := func(producers int) shape { return shape{producers: producers, size: size, frame: 2 * 4096} }
	bare, group := split(floors)
	few := []int{1, 64}
	if !c.quick {
		few = []int{1, 8, 64, 256}
	}
	var list []workload
	for _, n := range few {
		w := workload{name: fmt.Sprintf("enqueue 4 KiB, producers=%d", n), shape: sh(n), ops: 40000, warm: 4000,
			floor: "bare group, RWF_DSYNC", peer: pebbleMaker.name, systems: group}
		switch {
		case n == 1:
			w.ops, w.warm, w.floor, w.systems = 5000, 500, "bare O_DIRECT|O_DSYNC", bare
		case n < 64:
			w.ops, w.warm = 15000, 1500
		}
		w.systems = append(slices.Clone(w.systems), mtawalMaker, pebbleMaker)
		list = append(list, w)
	}
	list = append(list, workload{name: "cycle 4 KiB: enqueue, claim, used; producers=64", shape: sh(64), ops: 25000, warm: 2500,
		cycle: true, peer: pebbleMaker.name, systems: []maker{mtawalMaker, pebbleMaker}})
	return list
}

// split parts the floors of one writer from those with a group commit.
func split(all []maker) (bare, group []maker) {
	for _, m := range all {
		if strings.HasPrefix(m.name, "bare group") {
			group = append(group, m)
		} else {
			bare = append(bare, m)
		}
	}
	return bare, group
}

// running is a system under a load, with what was measured.
type running struct {
	maker
	sys system
	pay []*payloads
	row row
}

// run lets the systems take turns, round after round, so that the drift of the machine
// hits all alike.
func (w *workload) run(c config) (t table, err error) {
	t = table{Workload: w.name, Floor: w.floor, Peer: w.peer}
	var list []*running
	defer func() {
		for _, r := range list {
			err = errors.Join(err, r.sys.Close(), os.RemoveAll(filepath.Join(c.dir, slug(r.name))))
		}
	}()
	for i, m := range w.systems {
		if !c.only.MatchString(w.name + "/" + m.name) {
			continue
		}
		dir := filepath.Join(c.dir, slug(m.name))
		if err := os.Mkdir(dir, 0o700); err != nil {
			return t, err
		}
		sys, err := m.open(dir, w.shape)
		if err != nil {
			return t, fmt.Errorf("%s: %w", m.name, err)
		}
		r := &running{maker: m, sys: sys, row: row{System: m.name, Durable: m.durable}}
		for p := range w.shape.producers {
			// A pool each for a few, shared between the rest: caches see the same.
			if p < 4 {
				r.pay = append(r.pay, newPayloads(uint64(i*1000+p), w.shape.size))
			} else {
				q := *r.pay[p%4]
				q.rnd = newPayloads(uint64(p), w.shape.size).rnd
				r.pay = append(r.pay, &q)
			}
		}
		list = append(list, r)
	}
	dev := counterFor(c.dir)
	t.DeviceFrom = dev.what
	for round := range c.rounds + 1 { // the first is to warm up: space is made once and recycled from then on
		for i := range list {
			r := list[(round+i)%len(list)]
			if err := w.round(r, dev, round > 0); err != nil {
				return t, fmt.Errorf("%s: %w", r.name, err)
			}
		}
	}
	for _, r := range list {
		t.Rows = append(t.Rows, r.row)
	}
	t.finish()
	return t, nil
}

func slug(s string) string {
	return strings.Map(func(r rune) rune {
		if r >= 'a' && r <= 'z' || r >= '0' && r <= '9' {
			return r
		}
		return '-'
	}, strings.ToLower(s))
}

func (w *workload) round(r *running, dev *counter, count bool) error {
	ops, warm := w.ops, w.warm
	if r.most > 0 && r.most < ops {
		ops, warm = r.most, r.most/10
	}
	if _, err := w.load(r, warm); err != nil {
		return err
	}
	settle()
	own, before := ownBytes(), dev.read()
	start := time.Now()
	lat, err := w.load(r, ops)
	if err != nil {
		return err
	}
	took := time.Since(start)
	settle() // what is written behind counts too
	if count {
		n := float64(len(lat))
		payload := n * float64(w.shape.size)
		slices.Sort(lat)
		r.row.Rounds = append(r.row.Rounds, round{
			PerSecond: n / took.Seconds(),
			P50:       lat[len(lat)/2], P99: lat[len(lat)*99/100], P999: lat[len(lat)*999/1000],
			Device: ratio(dev.read()-before, payload), Own: ratio(ownBytes()-own, payload),
		})
	}
	return r.sys.Reset()
}

// settle gives background work of the round before a moment to end.
func settle() { time.Sleep(100 * time.Millisecond) }

func ratio(a, b float64) float64 {
	if a < 0 {
		return 0
	}
	return a / b
}

// load runs ops operations from all producers and returns how long each took.
func (w *workload) load(r *running, ops int) ([]time.Duration, error) {
	do := r.sys.Enqueue
	if w.cycle {
		c, ok := r.sys.(cycler)
		if !ok {
			return nil, errors.New("has no queues")
		}
		do = c.Cycle
	}
	n := w.shape.producers
	lats, errs := make([][]time.Duration, n), make([]error, n)
	var left atomic.Int64
	left.Store(int64(ops))
	var wg sync.WaitGroup
	for p := range n {
		wg.Go(func() {
			lat := make([]time.Duration, 0, 2*ops/n)
			at := time.Now()
			for left.Add(-1) >= 0 {
				if err := do(p, r.pay[p].next()); err != nil {
					errs[p] = err
					break
				}
				now := time.Now()
				lat = append(lat, now.Sub(at))
				at = now
			}
			lats[p] = lat
		})
	}
	wg.Wait()
	return slices.Concat(lats...), errors.Join(errs...)
}
