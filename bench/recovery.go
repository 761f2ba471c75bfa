package main

import (
	"bufio"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strconv"
	"sync"
	"text/tabwriter"
	"time"

	"github.com/cockroachdb/pebble/v2"
	"github.com/mtawal/mtawal/wal"
)

// childArg as the first argument makes this program a child of itself: the process that
// is killed, and the fresh ones that open what it left.
const childArg = "-bench-child"

// recoverySize is the body of a pending message.
const recoverySize = 1 << 10

// filler is how a system is filled, and how it is opened afterwards.
type filler struct {
	name string
	fill func(dir string, n int) error
	open func(dir string, n int) (opened, error)
}

// opened is what a fresh process saw.
type opened struct {
	OpenNS  int64   `json:"open_ns"`
	ReadyNS int64   `json:"ready_ns"` // until the first claim, or all was iterated; open included
	Heap    float64 `json:"heap_bytes_per_message"`
}

var fillers = []filler{
	{mtawalMaker.name, fillMtawal, reopenMtawal},
	{pebbleMaker.name, fillPebble, reopenPebble},
}

// recoveryTable is reopening after SIGKILL with so many messages pending.
type recoveryTable struct {
	Pending int           `json:"pending"`
	Rows    []recoveryRow `json:"rows"`
}

type recoveryRow struct {
	System string   `json:"system"`
	FillMS int64    `json:"fill_ms"`
	Runs   []opened `json:"runs"`
	Open   float64  `json:"open_ms"`
	Ready  float64  `json:"ready_ms"`
	Heap   float64  `json:"heap_bytes_per_message"`
	ToPeer float64  `json:"ready_to_peer,omitempty"`
}

// recovery fills each system in a process that is killed without warning, and opens it
// in fresh ones. The openings of the systems alternate. An opening leaves a log too, and
// is killed like the filling.
func recovery(c config, n int) (t recoveryTable, err error) {
	t.Pending = n
	var dirs []string
	var which []filler
	defer func() {
		for _, d := range dirs {
			err = errors.Join(err, os.RemoveAll(d))
		}
	}()
	for _, f := range fillers {
		if !c.only.MatchString(fmt.Sprintf("recovery %d/%s", n, f.name)) {
			continue
		}
		dir := filepath.Join(c.dir, "recovery-"+slug(f.name))
		if err := os.Mkdir(dir, 0o700); err != nil {
			return t, err
		}
		dirs, which = append(dirs, dir), append(which, f)
		start := time.Now()
		if err := inChild(nil, "fill", f.name, dir, n); err != nil {
			return t, err
		}
		t.Rows = append(t.Rows, recoveryRow{System: f.name, FillMS: time.Since(start).Milliseconds()})
	}
	for range min(c.rounds, 5) {
		for i, f := range which {
			var o opened
			if err := inChild(&o, "open", f.name, dirs[i], n); err != nil {
				return t, err
			}
			t.Rows[i].Runs = append(t.Rows[i].Runs, o)
		}
	}
	for i := range t.Rows {
		r := &t.Rows[i]
		r.Open = median(pick(r.Runs, func(o opened) float64 { return float64(o.OpenNS) / 1e6 }))
		r.Ready = median(pick(r.Runs, func(o opened) float64 { return float64(o.ReadyNS) / 1e6 }))
		r.Heap = median(pick(r.Runs, func(o opened) float64 { return o.Heap }))
	}
	ready := func(o opened) float64 { return float64(o.ReadyNS) }
	for i := range t.Rows {
		if p := &t.Rows[len(t.Rows)-1]; p.System == pebbleMaker.name {
			t.Rows[i].ToPeer = over(pick(t.Rows[i].Runs, ready), pick(p.Runs, ready))
		}
	}
	return t, nil
}

func (t *recoveryTable) print(w io.Writer) {
	fmt.Fprintf(w, "\nreopening %d pending messages of 1 KiB after SIGKILL, warm cache (median of %d)\n", t.Pending, len(t.Rows[0].Runs))
	tw := tabwriter.NewWriter(w, 0, 0, 2, ' ', tabwriter.AlignRight)
	fmt.Fprintln(tw, "system\topen\tready\tto peer\theap bytes/message\tfilled in\t")
	for i := range t.Rows {
		r := &t.Rows[i]
		fmt.Fprintf(tw, "%s\t%.0f ms\t%.0f ms\t%s\t%.1f\t%.1f s\t\n", r.System, r.Open, r.Ready, times(r.ToPeer), r.Heap, float64(r.FillMS)/1e3)
	}
	tw.Flush()
	fmt.Fprintln(w, "ready: mtawal has handed out the first message; pebble has iterated over all, as a queue above it must to know what is there.")
}

// inChild runs one step in a process of its own, which is killed by SIGKILL as soon as it says
// that it is done.
func inChild(result any, args ...any) error {
	self, err := os.Executable()
	if err != nil {
		return err
	}
	list := []string{childArg}
	for _, a := range args {
		list = append(list, fmt.Sprint(a))
	}
	cmd := exec.Command(self, list...)
	cmd.Stderr = os.Stderr
	out, err := cmd.StdoutPipe()
	if err != nil {
		return err
	}
	in, err := cmd.StdinPipe() // open as long as we live: the child ends with us
	if err != nil {
		return err
	}
	defer in.Close()
	if err := cmd.Start(); err != nil {
		return err
	}
	line, err := bufio.NewReader(out).ReadBytes('\n')
	killErr := cmd.Process.Kill()
	_ = cmd.Wait() // killed
	if err != nil {
		return fmt.Errorf("child %v: %w", args, err)
	}
	if killErr != nil {
		return killErr
	}
	if result != nil {
		return json.Unmarshal(line, result)
	}
	return nil
}

// child does a step, says so, and waits to be killed.
func child(args []string) error {
	if len(args) != 4 {
		return fmt.Errorf("arguments %q", args)
	}
	n, err := strconv.Atoi(args[3])
	if err != nil {
		return err
	}
	for _, f := range fillers {
		if f.name != args[1] {
			continue
		}
		var o opened
		if args[0] == "fill" {
			err = f.fill(args[2], n)
		} else {
			o, err = f.open(args[2], n)
		}
		if err != nil {
			return err
		}
		if err := json.NewEncoder(os.Stdout).Encode(o); err != nil {
			return err
		}
		_, _ = io.Copy(io.Discard, os.Stdin)
		return nil
	}
	return fmt.Errorf("no system %q", args[1])
}

// fillWith makes n messages from several goroutines, so that groups form.
func fillWith(n int, put func(bodies [][]byte) error) error {
	const producers, batch = 4, 256
	errs := make([]error, producers)
	var wg sync.WaitGroup
	for p := range producers {
		wg.Go(func() {
			pay := newPayloads(uint64(p), recoverySize)
			from, to := n*p/producers, n*(p+1)/producers
			for ; from < to; from += batch {
				bodies := make([][]byte, min(batch, to-from))
				for i := range bodies {
					bodies[i] = pay.next()
				}
				if err := put(bodies); err != nil {
					errs[p] = err
					return
				}
			}
		})
	}
	wg.Wait()
	return errors.Join(errs...)
}

func fillMtawal(dir string, n int) error {
	s, err := wal.Open(dir, wal.Options{})
	if err != nil {
		return err
	}
	return fillWith(n, func(bodies [][]byte) error {
		b := wal.Batch{Enqueue: make([]wal.Message, len(bodies))}
		for i := range bodies {
			b.Enqueue[i] = message(bodies[i])
		}
		_, err := s.Commit(ctx, b)
		return err
	})
}

func reopenMtawal(dir string, n int) (o opened, err error) {
	heap := heapNow()
	start := time.Now()
	s, err := wal.Open(dir, wal.Options{})
	if err != nil {
		return o, err
	}
	o.OpenNS = int64(time.Since(start))
	d, err := s.Claim(ctx, queueName)
	if err != nil {
		return o, err
	}
	if err := d.Body.View(0, d.Body.Size(), func(b []byte) error { touch(b); return nil }); err != nil {
		return o, err
	}
	o.ReadyNS = int64(time.Since(start))
	if got := s.Stats().WorkQueueLength; got != int64(n) {
		return o, fmt.Errorf("%d messages are pending where %d were left", got, n)
	}
	o.Heap = float64(heapNow()-heap) / float64(n)
	runtime.KeepAlive(s)
	return o, nil
}

func heapNow() int64 {
	runtime.GC()
	runtime.GC()
	var m runtime.MemStats
	runtime.ReadMemStats(&m)
	return int64(m.HeapAlloc)
}

func fillPebble(dir string, n int) error {
	sys, err := openPebble(dir, shape{})
	if err != nil {
		return err
	}
	p := sys.(*peb)
	return fillWith(n, func(bodies [][]byte) error {
		b := p.db.NewBatch()
		for _, body := range bodies {
			if err := b.Set(key(p.next.Add(1)), body, nil); err != nil {
				return err
			}
		}
		return errors.Join(b.Commit(pebble.Sync), b.Close())
	})
}

func reopenPebble(dir string, n int) (o opened, err error) {
	heap := heapNow()
	start := time.Now()
	sys, err := openPebble(dir, shape{})
	if err != nil {
		return o, err
	}
	o.OpenNS = int64(time.Since(start))
	it, err := sys.(*peb).db.NewIter(nil)
	if err != nil {
		return o, err
	}
	got := 0
	for ok := it.First(); ok; ok = it.Next() {
		got++
	}
	if err := errors.Join(it.Error(), it.Close()); err != nil {
		return o, err
	}
	o.ReadyNS = int64(time.Since(start))
	if got != n {
		return o, fmt.Errorf("%d messages are there where %d were left", got, n)
	}
	o.Heap = float64(heapNow()-heap) / float64(n)
	runtime.KeepAlive(sys)
	return o, nil
}
