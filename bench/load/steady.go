package load

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"math/rand/v2"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/mtawal/mtawal/bench/measure"
	"github.com/mtawal/mtawal/bench/report"
	"github.com/mtawal/mtawal/bench/system"
)

const (
	steadyProducers = 64
	steadyWindows   = 16
	// steadySlices is how often the load and the bare loop take turns in a window: what the disk and the
	// processors give changes by the second.
	steadySlices = 8
	// floorPart is the part of the load's time for which the bare loop runs behind it.
	floorPart = 8
	// deferredSize is the body of a message that is retried.
	deferredSize = 1 << 10
	// retriedPerSecond is how many of the deferred are due each second.
	retriedPerSecond = 5000
)

// steadies is long runs: enqueue, claim, used, over and over, with 1 % of the messages held for
// the whole run; and with many deferred messages that are retried, and deferred again, all
// the time.
func steadies(c *Config) (list []Workload) {
	for _, kind := range []string{"held", "deferred"} {
		name := "steady " + kind
		list = append(list, Workload{name, func(c *Config) error {
			var errs []error
			for _, s := range c.chosen(name, func(s system.Spec) bool {
				return s.Name == system.Mtawal.Name || s.Name == system.Pebble.Name && (c.Full || !c.Quick && kind == "held")
			}) {
				r, err := c.steady(s, kind)
				if err != nil {
					r.Error = err.Error()
					errs = append(errs, fmt.Errorf("%s: %w", s.Name, err))
				}
				r.Print(c.Out)
				c.Report.Steadies = append(c.Report.Steadies, r)
			}
			return errors.Join(errs...)
		}})
	}
	return list
}

// steadyRun is a long run.
type steadyRun struct {
	c     *Config
	q     system.Queue
	dir   string
	kind  string
	pay   []*system.Payloads
	start time.Time
	every time.Duration // between the attempts of a deferred message

	payload atomic.Int64 // bytes enqueued by the load
	live    atomic.Int64 // bytes of bodies that are not used
	retried atomic.Int64
	folding atomic.Bool // a fold or a compaction is under way
	folds   atomic.Int64

	mu          sync.Mutex
	busy, quiet *measure.Hist
	samples     []report.Sample
}

func (c *Config) steady(s system.Spec, kind string) (r report.Steady, err error) {
	r = report.Steady{System: s.Name, Kind: kind, Size: size4K.mean, Producers: steadyProducers}
	if s.Name == system.Mtawal.Name {
		s = system.MtawalTraced
	}
	sys, dir, err := c.open(s, steadyProducers)
	if err != nil {
		return r, err
	}
	defer func() { err = errors.Join(err, sys.Close(), gone(s, dir)) }()
	fs := system.FloorGroupBuffered
	if fs.Open == nil {
		return r, system.ErrUnable
	}
	floor, _, err := c.open(fs, steadyProducers)
	if err != nil {
		return r, err
	}
	defer func() { err = errors.Join(err, floor.Close()) }()

	t := &steadyRun{c: c, q: sys.(system.Queue), dir: dir, kind: kind, busy: measure.NewHist(), quiet: measure.NewHist()}
	for p := range steadyProducers {
		t.pay = append(t.pay, system.NewPayloads(uint64(p), size4K.draw))
	}
	if kind == "deferred" {
		r.Waiting = c.Deferred
		if err := t.deferMany(sys, c.Deferred); err != nil {
			return r, err
		}
	}
	// Space is made once and recycled from then on: that is not counted.
	if _, _, err := t.window(min(c.Steady/10, 512<<20)); err != nil {
		return r, err
	}
	t.busy, t.quiet = measure.NewHist(), measure.NewHist()
	t.payload.Store(0)
	t.retried.Store(0)
	t.folds.Store(0)

	m, _ := t.q.(*system.MtawalQueue)
	var logBefore, movedBefore int64
	if m != nil {
		logBefore, movedBefore = m.Log()
	}
	t.start = time.Now()
	stop := make(chan struct{})
	var watching sync.WaitGroup
	watching.Go(func() { t.watch(stop) })
	watching.Go(func() { t.sample(stop) })
	err = t.windows(&r, floor)
	close(stop)
	watching.Wait()
	r.Took = time.Since(t.start)
	r.Payload, r.Retried, r.Samples, r.Folds = t.payload.Load(), t.retried.Load(), t.samples, int(t.folds.Load())
	r.Busy, r.Quiet = report.PhaseOf("a fold or a compaction", t.busy), report.PhaseOf("nothing", t.quiet)
	if m != nil {
		log, moved := m.Log()
		r.Log, r.Moved = part(float64(log-logBefore), r.Payload), part(float64(moved-movedBefore), r.Payload)
	}
	if kind == "held" {
		r.Waiting = t.q.Pending()
	}
	r.Finish()
	return r, err
}

// windows runs the load in parts, in each of which it takes turns with the bare loop, which makes a body and a mark durable for
// each message. A message that is retried takes a mark alone: half of that.
func (t *steadyRun) windows(r *report.Steady, floor system.System) error {
	dev := measure.CounterFor(t.c.Dir)
	r.DeviceFrom = dev.What
	bare := rate{producers: steadyProducers, size: size4K, recipients: 1, do: bareCycle}
	fr := &running{sys: floor, pay: t.pay}
	loop := floor.(system.Loop)
	var all, own float64
	for range steadyWindows {
		var bytes, cycles, bareCycles int64
		var took, bareTook time.Duration
		var w report.Window
		before, ownBefore, loopBefore := dev.Read(), measure.OwnBytes(), loop.Wrote()
		retriedBefore := t.retried.Load()
		for range steadySlices {
			want := t.c.Steady / steadyWindows / steadySlices
			n, d, err := t.window(want)
			if err != nil {
				return err
			}
			// What the load has left to be done takes its time, not the bare loop's.
			took += d + dev.Settle(settleMax)
			bytes, cycles = bytes+want, cycles+n
			h, _, d, err := bare.load(fr, max(t.c.Round/steadySlices, d/floorPart), 1<<30)
			if err != nil {
				return err
			}
			bareCycles, bareTook = bareCycles+h.Count(), bareTook+d
		}
		w.PerSecond, w.Retried = float64(cycles)/took.Seconds(), float64(t.retried.Load()-retriedBefore)/took.Seconds()
		// What the store writes while it is the bare loop's turn counts: only what that wrote is taken off.
		others := float64(loop.Wrote() - loopBefore)
		w.Device, w.Own = part(dev.Read()-before-others, bytes), part(measure.OwnBytes()-ownBefore-others, bytes)
		w.Floor = float64(bareCycles) / bareTook.Seconds()
		w.Ratio = (w.PerSecond + w.Retried/2) / w.Floor
		all, own = all+w.Device, own+w.Own
		r.Windows = append(r.Windows, w)
	}
	r.Device, r.Own = all/steadyWindows, own/steadyWindows
	return nil
}

// retry marks the body of a message that is never delivered.
const retry = 0x7265747279

func retryBody(pay *system.Payloads) []byte {
	b := append([]byte(nil), pay.Next()...)
	binary.LittleEndian.PutUint64(b, retry)
	return b
}

// deferMany makes messages whose first attempts are spread over the time between two.
func (t *steadyRun) deferMany(sys system.System, n int) error {
	t.every = max(time.Duration(n)*time.Second/retriedPerSecond, 2*time.Second)
	pay := system.NewPayloads(99, system.Fixed(deferredSize))
	const group = 256
	for i := 0; i < n; i += group {
		list := make([][]byte, min(group, n-i))
		for j := range list {
			list[j] = retryBody(pay)
		}
		if err := sys.(system.Filler).Fill(list); err != nil {
			return err
		}
		due := time.Now().Add(time.Duration(rand.Int64N(int64(t.every))))
		// Claimed and deferred as an MTA would: the spread is within the group.
		err := parallel(64, len(list), func(int) error {
			j, err := t.q.Claim(context.Background())
			if err != nil {
				return err
			}
			return j.Defer(due)
		})
		if err != nil {
			return err
		}
	}
	t.live.Add(int64(n) * deferredSize)
	return nil
}

// window runs the load until so many bytes went through, and returns how many messages that were, and how long it took. Who has
// no more to enqueue goes on ending messages: what is retried comes before them, and few would take long for it.
func (t *steadyRun) window(bytes int64) (n int64, took time.Duration, err error) {
	start := time.Now()
	n = max(bytes/int64(size4K.mean), steadyProducers)
	var left, ended atomic.Int64
	left.Store(n)
	ctx, over := context.WithCancel(context.Background())
	defer over()
	end := func() error {
		ok, err := t.end(ctx)
		if ok && ended.Add(1) == n {
			over()
		}
		return err
	}
	errs := make([]error, steadyProducers)
	var wg sync.WaitGroup
	for p := range steadyProducers {
		wg.Go(func() {
			busy, quiet := measure.NewHist(), measure.NewHist()
			for errs[p] == nil && left.Add(-1) >= 0 {
				if errs[p] = t.enqueue(p, busy, quiet); errs[p] == nil {
					errs[p] = end()
				}
			}
			for errs[p] == nil && ctx.Err() == nil {
				errs[p] = end()
			}
			if errs[p] != nil {
				over()
			}
			t.mu.Lock()
			t.busy.Merge(busy)
			t.quiet.Merge(quiet)
			t.mu.Unlock()
		})
	}
	wg.Wait()
	return n, time.Since(start), errors.Join(errs...)
}

func (t *steadyRun) enqueue(p int, busy, quiet *measure.Hist) error {
	// What runs when it begins is what counts. Were it also what began meanwhile, the longer an enqueue takes the more
	// likely it would be beside something, whatever that does to it.
	beside := t.folding.Load()
	at := time.Now()
	body := t.pay[p].Next()
	if err := t.q.Enqueue(system.Message{Body: body, Recipients: 1}); err != nil {
		return err
	}
	if beside {
		busy.Record(time.Since(at))
	} else {
		quiet.Record(time.Since(at))
	}
	t.payload.Add(int64(len(body)))
	t.live.Add(int64(len(body)))
	return nil
}

// end ends a message, unless the context ends before; deferred ones that come by are deferred again.
func (t *steadyRun) end(ctx context.Context) (ended bool, err error) {
	for {
		j, err := t.q.Claim(ctx)
		if err != nil && ctx.Err() != nil {
			return false, nil
		}
		if err != nil {
			return false, err
		}
		n, again := 0, false
		if err := j.Read(func(b []byte) {
			system.Touch(b)
			n, again = len(b), binary.LittleEndian.Uint64(b) == retry
		}); err != nil {
			return false, err
		}
		switch {
		case again:
			if err := j.Defer(time.Now().Add(t.every)); err != nil {
				return false, err
			}
			t.retried.Add(1)
			continue
		case t.kind == "held" && rand.IntN(100) == 0:
			return true, j.Defer(time.Now().Add(1000 * time.Hour))
		}
		if err := j.Used(); err != nil {
			return false, err
		}
		t.live.Add(-int64(n))
		return true, nil
	}
}

// watch notices folds and compactions of mtawal by their traces: the file that a fold writes,
// and the segments that a compaction is emptying.
func (t *steadyRun) watch(stop chan struct{}) {
	m, ok := t.q.(*system.MtawalQueue)
	if !ok {
		return
	}
	const look = 5 * time.Millisecond
	was := false
	for {
		select {
		case <-stop:
			return
		case <-time.After(look):
		}
		folding := m.Compacting()
		d, err := os.Open(t.dir)
		if err == nil {
			names, _ := d.Readdirnames(-1)
			_ = d.Close()
			for _, n := range names {
				folding = folding || strings.HasPrefix(n, "tmp-ckpt-")
			}
		}
		if folding && !was {
			t.folds.Add(1)
		}
		was = folding
		t.folding.Store(folding)
	}
}

// sample looks at the space that is taken.
func (t *steadyRun) sample(stop chan struct{}) {
	every := 200 * time.Millisecond
	for {
		disk, err := measure.DiskUse(filepath.Clean(t.dir))
		if err == nil {
			t.samples = append(t.samples, report.Sample{At: time.Since(t.start), Payload: t.payload.Load(), Live: t.live.Load(), Disk: disk})
		}
		if len(t.samples) >= 400 { // half of them are enough, from now on more rarely
			for i := range len(t.samples) / 2 {
				t.samples[i] = t.samples[2*i]
			}
			t.samples = t.samples[:len(t.samples)/2]
			every *= 2
		}
		select {
		case <-stop:
			return
		case <-time.After(every):
		}
	}
}
