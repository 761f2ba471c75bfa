package load

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"sync/atomic"
	"time"

	"github.com/mtawal/mtawal/bench/measure"
	"github.com/mtawal/mtawal/bench/report"
	"github.com/mtawal/mtawal/bench/system"
)

// drains is a backlog that is emptied after a restart with a cold cache.
func drains(c *Config) []Workload {
	if c.Quick {
		return nil
	}
	const workers = 64
	pending, name := c.Backlog, "drain"
	return []Workload{{name, func(c *Config) error {
		specs := c.chosen(name, isQueue)
		if len(specs) == 0 {
			return nil
		}
		d := report.Drain{Pending: pending, Size: size4K.mean, Workers: workers}
		var errs []error
		for _, s := range specs {
			r, how, err := c.drain(s, pending, workers)
			if how != "" {
				d.Caches = how
			}
			if err != nil {
				r.Error = err.Error()
				errs = append(errs, fmt.Errorf("%s: %w", s.Name, err))
			}
			d.Rows = append(d.Rows, r)
		}
		d.Print(c.Out)
		c.Report.Drains = append(c.Report.Drains, d)
		return errors.Join(errs...)
	}}}
}

func (c *Config) drain(s system.Spec, pending, workers int) (r report.DrainRow, how string, err error) {
	r.System = s.Name
	sys, dir, err := c.open(s, workers)
	if err != nil {
		return r, "", err
	}
	defer func() { err = errors.Join(err, gone(s, dir)) }()
	if err := errors.Join(fill(sys, pending, size4K.mean), sys.Close()); err != nil {
		return r, "", err
	}
	if how, err = measure.DropCaches(dir, c.DropAll); err != nil {
		return r, how, err
	}
	start := time.Now()
	if sys, err = s.Open(dir, system.Options{Producers: workers}); err != nil {
		return r, how, err
	}
	defer func() { err = errors.Join(err, sys.Close()) }()
	r.Open = time.Since(start)
	q := sys.(system.Queue)
	if n := q.Pending(); n != pending {
		return r, how, fmt.Errorf("%d messages are there where %d were left", n, pending)
	}
	hists, errList := make([]*measure.Hist, workers), make([]error, workers)
	var left, first atomic.Int64
	left.Store(int64(pending))
	var wg sync.WaitGroup
	for i := range workers {
		hists[i] = measure.NewHist()
		wg.Go(func() {
			for left.Add(-1) >= 0 {
				at := time.Now()
				j, err := q.Claim(context.Background())
				if err == nil {
					err = j.Read(system.Touch)
				}
				if err != nil {
					errList[i] = err
					return
				}
				hists[i].Record(time.Since(at))
				first.CompareAndSwap(0, int64(time.Since(start)))
				if errList[i] = j.Used(); errList[i] != nil {
					return
				}
			}
		})
	}
	wg.Wait()
	r.Total = time.Since(start)
	r.First = time.Duration(first.Load())
	r.PerSecond = float64(pending) / (r.Total - r.Open).Seconds()
	h := measure.NewHist()
	for i := range hists {
		h.Merge(hists[i])
	}
	r.P99 = h.At(99)
	if n := q.Pending(); n != 0 {
		errList = append(errList, fmt.Errorf("%d messages are left", n))
	}
	return r, how, errors.Join(errList...)
}
