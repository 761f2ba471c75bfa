package load

import (
	"errors"
	"fmt"
	"runtime"
	"sync"
	"sync/atomic"
	"time"

	"github.com/mtawal/mtawal/bench/measure"
	"github.com/mtawal/mtawal/bench/report"
	"github.com/mtawal/mtawal/bench/system"
)

// rate is a load that systems take turns at.
type rate struct {
	group      string
	title      string
	producers  int
	size       size
	recipients int
	floor      string
	want       func(system.Spec) bool
	prepare    func(system.System) error // after opening; may be nil
	do         func(sys system.System, m system.Message) error
	keep       bool // what is in the system stays from round to round
}

// bytesMax is what a round writes at most, so that it fits into recycled space.
const bytesMax = 160 << 20

// warmPart of a round goes before it and is not counted.
const warmPart = 5

// running is a system under a load, with what was measured.
type running struct {
	spec system.Spec
	sys  system.System
	dir  string
	pay  []*system.Payloads
	hist *measure.Hist
	row  report.Row
}

func (r *running) fails(err error) {
	switch {
	case r.row.Error != "":
	case errors.Is(err, system.ErrUnable):
		r.row.Error = system.ErrUnable.Error()
	default:
		r.row.Error = err.Error()
	}
}

// run lets the systems take turns. The order shifts by one each round.
func (w *rate) run(c *Config) (err error) {
	specs := c.chosen(w.title, w.want)
	if len(specs) == 0 {
		return nil
	}
	dev := measure.CounterFor(c.Dir)
	t := report.Rate{Group: w.group, Title: w.title, Producers: w.producers, Size: w.size.name, Recipients: w.recipients,
		Floor: w.floor, DeviceFrom: dev.What}
	var list []*running
	for _, s := range specs {
		r := &running{spec: s, hist: measure.NewHist(), row: report.Row{System: s.Name, Floor: s.Floor, Peer: isPeer(s)}}
		list = append(list, r)
		if r.sys, r.dir, err = c.open(s, w.producers); err != nil {
			r.sys = nil
			r.fails(err)
			continue
		}
		if w.prepare != nil {
			if err := w.prepare(r.sys); err != nil {
				r.fails(err)
			}
		}
		for p := range w.producers {
			r.pay = append(r.pay, system.NewPayloads(uint64(p), w.size.draw))
		}
	}
	for round := range c.Rounds + 1 { // the first is to warm up: space is made once and recycled from then on
		for i := range list {
			r := list[(round+i)%len(list)]
			if r.row.Error != "" {
				continue
			}
			if err := w.round(c, r, dev, round > 0); err != nil {
				r.fails(err)
			}
		}
	}
	var errs []error
	for _, r := range list {
		if r.sys != nil {
			if err := r.sys.Close(); err != nil {
				r.fails(err)
			}
		}
		if err := gone(r.spec, r.dir); err != nil {
			errs = append(errs, err)
		}
		if r.row.Error != "" && r.row.Error != system.ErrUnable.Error() {
			errs = append(errs, fmt.Errorf("%s: %s", r.spec.Name, r.row.Error))
		}
		r.row.Curve = r.hist.Curve()
		t.Rows = append(t.Rows, r.row)
	}
	t.Finish()
	t.Print(c.Out)
	c.Report.Rates = append(c.Report.Rates, t)
	return errors.Join(errs...)
}

func (w *rate) round(c *Config, r *running, dev *measure.Counter, count bool) error {
	runtime.GC()
	ops := max(bytesMax/w.size.mean, 2*w.producers)
	if _, _, _, err := w.load(r, c.Round/warmPart, ops/warmPart); err != nil {
		return err
	}
	dev.Settle(settleMax)
	own, before := measure.OwnBytes(), dev.Read()
	h, bytes, took, err := w.load(r, c.Round, ops)
	if err != nil {
		return err
	}
	dev.Settle(settleMax) // what is written behind counts too
	if count && h.Count() > 0 {
		r.hist.Merge(h)
		r.row.Rounds = append(r.row.Rounds, report.Round{
			PerSecond: float64(h.Count()) / took.Seconds(), P50: h.At(50), P99: h.At(99), P999: h.At(99.9),
			Device: part(dev.Read()-before, bytes), Own: part(measure.OwnBytes()-own, bytes),
		})
	}
	if w.keep {
		return nil
	}
	return r.sys.Clear()
}

// settleMax is how long background work of the round before may take to end: space that is made ahead,
// tables that are written, files that are removed, of whichever system.
const settleMax = time.Second

func part(a float64, b int64) float64 {
	if a < 0 || b == 0 {
		return 0
	}
	return a / float64(b)
}

// load runs operations from all producers until so many are done, or the time is over.
func (w *rate) load(r *running, most time.Duration, ops int) (h *measure.Hist, bytes int64, took time.Duration, err error) {
	n := w.producers
	hists, errs, sums := make([]*measure.Hist, n), make([]error, n), make([]int64, n)
	var left atomic.Int64
	left.Store(int64(ops))
	var wg sync.WaitGroup
	start := time.Now()
	end := start.Add(most)
	for p := range n {
		hists[p] = measure.NewHist()
		wg.Go(func() {
			at := time.Now()
			for at.Before(end) && left.Add(-1) >= 0 {
				m := system.Message{Body: r.pay[p].Next(), Recipients: w.recipients}
				if err := w.do(r.sys, m); err != nil {
					errs[p] = err
					return
				}
				now := time.Now()
				hists[p].Record(now.Sub(at))
				at = now
				sums[p] += int64(len(m.Body))
			}
		})
	}
	wg.Wait()
	took = time.Since(start)
	h = measure.NewHist()
	for p := range n {
		h.Merge(hists[p])
		bytes += sums[p]
	}
	return h, bytes, took, errors.Join(errs...)
}
