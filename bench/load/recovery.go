package load

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strconv"
	"time"

	"github.com/mtawal/mtawal/bench/measure"
	"github.com/mtawal/mtawal/bench/report"
	"github.com/mtawal/mtawal/bench/system"
)

// ChildArg as the first argument makes this program a child of itself: the process that
// is killed, and the fresh ones that open what it left.
const ChildArg = "-bench-child"

const (
	// recoverySize is the body of a pending message.
	recoverySize = 1 << 10
	// slowPending bounds the backlog of systems that take long to fill, unless all is asked for.
	slowPending = 100_000
	// recoveryRuns is how often each store is opened.
	recoveryRuns = 3
	// recoveryRest is how long a process lives on when its step is done: Badger, killed while it
	// removes a memtable that it has flushed, does not open again ("Create a new file").
	recoveryRest = 300 * time.Millisecond
)

// recoveries is opening with a backlog after SIGKILL.
func recoveries(c *Config) (list []Workload) {
	for _, n := range c.Pending {
		name := fmt.Sprintf("recovery %d", n)
		list = append(list, Workload{name, func(c *Config) error { return c.recovery(name, n) }})
	}
	return list
}

// recovery fills each system in a process that is killed without warning, and opens it
// in fresh ones. The openings of the systems take turns. An opening leaves a log too, and
// is killed like the filling.
func (c *Config) recovery(name string, n int) (err error) {
	specs := c.chosen(name, func(s system.Spec) bool { return !s.Floor && (!s.Slow || n <= slowPending || c.Full) })
	if len(specs) == 0 {
		return nil
	}
	b := report.Backlog{Pending: n, Size: recoverySize}
	dirs := make([]string, len(specs))
	defer func() {
		for _, d := range dirs {
			err = errors.Join(err, os.RemoveAll(d))
		}
	}()
	fails := func(i int, e error) {
		b.Rows[i].Error = e.Error()
		err = errors.Join(err, fmt.Errorf("%s: %w", specs[i].Name, e))
	}
	for i, s := range specs {
		dirs[i] = filepath.Join(c.Dir, "recovery-"+slug(s.Name))
		b.Rows = append(b.Rows, report.BacklogRow{System: s.Name})
		if err := os.Mkdir(dirs[i], 0o700); err != nil {
			return err
		}
		start := time.Now()
		if err := inChild(nil, "fill", s.Name, dirs[i], n); err != nil {
			fails(i, err)
			continue
		}
		b.Rows[i].FillMS = time.Since(start).Milliseconds()
		used, err := measure.DiskUse(dirs[i])
		if err != nil {
			return err
		}
		b.Rows[i].Disk = float64(used) / float64(n*recoverySize)
	}
	for range recoveryRuns {
		for i, s := range specs {
			if b.Rows[i].Error != "" {
				continue
			}
			var o report.Opened
			if err := inChild(&o, "open", s.Name, dirs[i], n); err != nil {
				fails(i, err)
				continue
			}
			b.Rows[i].Runs = append(b.Rows[i].Runs, o)
		}
	}
	b.Finish(system.Mtawal.Name)
	b.Print(c.Out)
	c.Report.Backlogs = append(c.Report.Backlogs, b)
	return err
}

// inChild runs one step in a process of its own, which is killed by SIGKILL as soon as it says
// that it is done.
func inChild(result any, args ...any) error {
	self, err := os.Executable()
	if err != nil {
		return err
	}
	list := []string{ChildArg}
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

// Child does a step, says so, and waits to be killed.
func Child(args []string) error {
	if len(args) != 4 {
		return fmt.Errorf("arguments %q", args)
	}
	n, err := strconv.Atoi(args[3])
	if err != nil {
		return err
	}
	for _, s := range system.All() {
		if s.Name != args[1] {
			continue
		}
		var o report.Opened
		if args[0] == "fill" {
			err = childFill(s, args[2], n)
		} else {
			o, err = childOpen(s, args[2], n)
		}
		if err != nil {
			return err
		}
		time.Sleep(recoveryRest)
		if err := json.NewEncoder(os.Stdout).Encode(o); err != nil {
			return err
		}
		_, _ = io.Copy(io.Discard, os.Stdin)
		return nil
	}
	return fmt.Errorf("no system %q", args[1])
}

func childFill(s system.Spec, dir string, n int) error {
	sys, err := s.Open(dir, system.Options{Producers: 1})
	if err != nil {
		return err
	}
	return fill(sys, n, recoverySize)
}

func childOpen(s system.Spec, dir string, n int) (o report.Opened, err error) {
	before := measure.MemoryNow()
	start := time.Now()
	sys, err := s.Open(dir, system.Options{Producers: 1})
	if err != nil {
		return o, err
	}
	o.OpenNS = int64(time.Since(start))
	q := sys.(system.Queue)
	j, err := q.Claim(context.Background())
	if err != nil {
		return o, err
	}
	if err := j.Read(system.Touch); err != nil {
		return o, err
	}
	o.ReadyNS = int64(time.Since(start))
	if got := q.Pending(); got != n {
		return o, fmt.Errorf("%d messages are pending where %d were left", got, n)
	}
	after := measure.MemoryNow()
	o.Heap = float64(after.Heap-before.Heap) / float64(n)
	o.Anon = float64(after.Anon-before.Anon) / float64(n)
	runtime.KeepAlive(sys)
	return o, nil
}
