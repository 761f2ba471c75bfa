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

const (
	backgroundWorkers = 32
	// backgroundLoad is the part of the highest rate that is offered: what is measured is
	// the work's effect, not a queue in front of the system.
	backgroundLoad = 0.3
)

// backgrounds is enqueues at a fixed rate while a checkpoint, a compaction, or a drain with a cold
// cache runs, and without. Latency counts from the moment at which an enqueue was due, so what
// waits behind a stall counts too.
func backgrounds(c *Config) []Workload {
	if c.Quick {
		return nil
	}
	name := "background"
	return []Workload{{name, func(c *Config) error {
		var errs []error
		for _, s := range c.chosen(name, func(s system.Spec) bool {
			return s.Name == system.Mtawal.Name || s.Name == system.Pebble.Name
		}) {
			b, err := c.background(s)
			if err != nil {
				b.Error = err.Error()
				errs = append(errs, fmt.Errorf("%s: %w", s.Name, err))
			}
			b.Print(c.Out)
			c.Report.Backgrounds = append(c.Report.Backgrounds, b)
		}
		return errors.Join(errs...)
	}}}
}

func (c *Config) background(s system.Spec) (b report.Background, err error) {
	b = report.Background{System: s.Name, Size: size4K.mean, Workers: backgroundWorkers}
	sys, dir, err := c.open(s, backgroundWorkers)
	if err != nil {
		return b, err
	}
	defer func() { err = errors.Join(err, sys.Close(), gone(s, dir)) }()
	q, m := sys.(system.Queue), sys.(system.Maintainer)

	// The rate that is offered follows from a short closed loop.
	w := rate{producers: backgroundWorkers, size: size4K, recipients: 1,
		do: func(sys system.System, m system.Message) error { return sys.Enqueue(m) }}
	r := &running{sys: sys}
	for p := range backgroundWorkers {
		r.pay = append(r.pay, system.NewPayloads(uint64(p), size4K.draw))
	}
	for range 2 { // the first warms up
		h, _, took, err := w.load(r, c.Round, bytesMax/size4K.mean)
		if err != nil {
			return b, err
		}
		b.Rate = backgroundLoad * float64(h.Count()) / took.Seconds()
	}
	if err := sys.Clear(); err != nil {
		return b, err
	}
	// What sits in the way of a compaction: half of the backlog, here and there, is used, the rest is
	// deferred for long.
	if err := fill(sys, 2*c.Backlog, size4K.mean); err != nil {
		return b, err
	}
	if err := thin(q, 2*c.Backlog); err != nil {
		return b, err
	}
	if err := fill(sys, c.Backlog, size4K.mean); err != nil {
		return b, err
	}

	phases := []struct {
		name string
		work func(ctx context.Context) (times int, err error)
	}{
		{"nothing", func(ctx context.Context) (int, error) { <-ctx.Done(); return 0, nil }},
		{"checkpoints", func(ctx context.Context) (int, error) { return again(ctx, m.Checkpoint) }},
		{"a cold drain", func(ctx context.Context) (int, error) {
			if _, err := measure.DropCaches(dir, c.DropAll); err != nil {
				return 0, err
			}
			return drainSome(ctx, q, c.Backlog)
		}},
		{"compactions", func(ctx context.Context) (int, error) { return again(ctx, m.Compact) }},
	}
	for _, ph := range phases {
		ctx, cancel := context.WithTimeout(context.Background(), 6*c.Round)
		var times int
		var workErr error
		done := make(chan struct{})
		go func() {
			defer close(done)
			times, workErr = ph.work(ctx)
		}()
		h, err := openLoop(ctx, r, b.Rate)
		cancel()
		<-done
		if err := errors.Join(err, workErr); err != nil {
			return b, fmt.Errorf("beside %s: %w", ph.name, err)
		}
		p := report.PhaseOf(ph.name, h)
		p.Runs = times
		if len(b.Phases) > 0 && b.Phases[0].P99 > 0 {
			p.Worse = float64(p.P99) / float64(b.Phases[0].P99)
		}
		b.Phases = append(b.Phases, p)
	}
	return b, nil
}

// again repeats work until the time is over.
func again(ctx context.Context, work func() error) (n int, err error) {
	for ctx.Err() == nil {
		if err := work(); err != nil {
			return n, err
		}
		n++
		select {
		case <-ctx.Done():
		case <-time.After(10 * time.Millisecond):
		}
	}
	return n, nil
}

// parallel has several goroutines do something so many times in all.
func parallel(workers, n int, do func(i int) error) error {
	var left atomic.Int64
	left.Store(int64(n))
	errs := make([]error, workers)
	var wg sync.WaitGroup
	for w := range workers {
		wg.Go(func() {
			for {
				i := left.Add(-1)
				if i < 0 {
					return
				}
				if errs[w] = do(int(i)); errs[w] != nil {
					return
				}
			}
		})
	}
	wg.Wait()
	return errors.Join(errs...)
}

// thin uses every second message of a backlog and defers the others for long.
func thin(q system.Queue, n int) error {
	later := time.Now().Add(1000 * time.Hour)
	return parallel(64, n, func(i int) error {
		j, err := q.Claim(context.Background())
		if err != nil {
			return err
		}
		if i%2 == 0 {
			return j.Used()
		}
		return j.Defer(later)
	})
}

// drainSome claims, reads and uses until the time is over or so many are done.
func drainSome(ctx context.Context, q system.Queue, n int) (int, error) {
	var done atomic.Int64
	err := parallel(4, n, func(int) error {
		j, err := q.Claim(ctx)
		if ctx.Err() != nil {
			return nil
		}
		if err != nil {
			return err
		}
		if err := j.Read(system.Touch); err != nil {
			return err
		}
		done.Add(1)
		return j.Used()
	})
	return int(done.Load()), err
}

// openLoop offers enqueues at a fixed rate until the time is over.
func openLoop(ctx context.Context, r *running, perSecond float64) (*measure.Hist, error) {
	every := time.Duration(backgroundWorkers * float64(time.Second) / perSecond)
	hists, errs := make([]*measure.Hist, backgroundWorkers), make([]error, backgroundWorkers)
	var wg sync.WaitGroup
	start := time.Now()
	for w := range backgroundWorkers {
		hists[w] = measure.NewHist()
		wg.Go(func() {
			due := start.Add(every * time.Duration(w) / backgroundWorkers)
			for ctx.Err() == nil {
				time.Sleep(time.Until(due))
				if err := r.sys.Enqueue(system.Message{Body: r.pay[w].Next(), Recipients: 1}); err != nil {
					errs[w] = err
					return
				}
				hists[w].Record(time.Since(due))
				due = due.Add(every)
			}
		})
	}
	wg.Wait()
	h := measure.NewHist()
	for w := range hists {
		h.Merge(hists[w])
	}
	return h, errors.Join(errs...)
}
