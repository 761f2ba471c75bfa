// Bench measures mtawal beside its peers and beside the physical floor: bare loops that
// make the same bytes durable and do nothing else. See README.md for the method and for
// what the numbers do not say.
package main

import (
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"regexp"
	"runtime/pprof"
	"strconv"
	"strings"
	"time"

	"github.com/mtawal/mtawal/bench/load"
	"github.com/mtawal/mtawal/bench/measure"
	"github.com/mtawal/mtawal/bench/report"
	"github.com/mtawal/mtawal/bench/system"
)

func main() {
	if len(os.Args) > 1 && os.Args[1] == load.ChildArg {
		if err := load.Child(os.Args[2:]); err != nil {
			fmt.Fprintln(os.Stderr, "bench child:", err)
			os.Exit(1)
		}
		return
	}
	o, err := parse(os.Args[1:])
	if err == nil {
		err = run(o)
	}
	os.Exit(end(err, os.Stderr))
}

// end says what went wrong and returns the exit code. Who asks for help has it by then.
func end(err error, stderr io.Writer) int {
	if err == nil || errors.Is(err, flag.ErrHelp) {
		return 0
	}
	fmt.Fprintln(stderr, "bench:", err)
	return 1
}

// options are the flags.
type options struct {
	load.Config
	json   bool
	cpu    string // file for a CPU profile; empty: none
	report string // directory of report.html and report.json; empty: none
}

func parse(args []string) (o options, err error) {
	f := flag.NewFlagSet("bench", flag.ContinueOnError)
	f.StringVar(&o.Dir, "dir", "", "directory to work in; a new one is made in it and removed (default: the current one)")
	f.BoolVar(&o.Quick, "quick", false, "few workloads, short rounds: under a minute")
	f.BoolVar(&o.Full, "full", false, "all sizes with all producers, every system at every backlog: hours")
	f.BoolVar(&o.json, "json", false, "print the report as JSON instead of tables")
	f.StringVar(&o.report, "report", ".", "directory for report.html and report.json; empty: do not write them")
	f.BoolVar(&o.DropAll, "drop-caches", false, "before a cold drain drop all caches of the machine (as root), not the pages of the files alone")
	f.StringVar(&o.cpu, "cpuprofile", "", "file for a CPU profile of this process: with --only, of one system in one workload")
	f.IntVar(&o.Rounds, "rounds", 0, "rounds of what takes turns (default 3, quick 2)")
	f.DurationVar(&o.Round, "round", 0, "how long a system's turn lasts at most (default 250ms, quick 150ms)")
	only := f.String("only", "", "run only what matches this regular expression as \"workload/system\", such as steady or /mtawal")
	pending := f.String("pending", "", "comma-separated numbers of pending messages for recovery (default 100000,1000000, quick 100000; 10000000 takes 11 GB of disk a system)")
	steady := f.Float64("steady", 0, "GiB of payload of a steady run (default 0.75, quick 0.125)")
	f.IntVar(&o.Deferred, "deferred", 0, "messages that are retried in a steady run (default 50000, quick 5000)")
	if err := f.Parse(args); err != nil {
		return o, err
	}
	if f.NArg() > 0 {
		return o, fmt.Errorf("%q is not understood", f.Args())
	}
	if o.Only, err = regexp.Compile(*only); err != nil {
		return o, fmt.Errorf("--only: %w", err)
	}
	set := func(v *int, normal, quick int) {
		if *v == 0 {
			*v = normal
			if o.Quick {
				*v = quick
			}
		}
	}
	set(&o.Rounds, 3, 2)
	set(&o.Deferred, 50_000, 5000)
	if o.Round == 0 {
		o.Round = 250 * time.Millisecond
		if o.Quick {
			o.Round = 150 * time.Millisecond
		}
	}
	if *steady == 0 {
		*steady = 0.75
		if o.Quick {
			*steady = 0.125
		}
	}
	o.Steady = int64(*steady * (1 << 30))
	if *pending == "" {
		*pending = "100000,1000000"
		if o.Quick {
			*pending = "100000"
		}
	}
	for n := range strings.SplitSeq(*pending, ",") {
		v, err := strconv.Atoi(n)
		if err != nil || v < 1 {
			return o, fmt.Errorf("--pending: %q is not a number of messages", n)
		}
		o.Pending = append(o.Pending, v)
	}
	o.Backlog = 10_000
	o.Systems, o.Out = system.All(), os.Stdout
	return o, nil
}

func run(o options) (err error) {
	if o.Dir == "" {
		o.Dir = "."
	}
	if o.Dir, err = os.MkdirTemp(o.Dir, "mtawal-bench-"); err != nil {
		return err
	}
	defer func() { err = errors.Join(err, os.RemoveAll(o.Dir)) }()
	if o.Dir, err = filepath.Abs(o.Dir); err != nil {
		return err
	}
	start := time.Now()
	r := &report.Report{Environment: measure.Environment(o.Dir), Command: os.Args[1:], Systems: describe(o.Systems, o.Dir)}
	o.Report = r
	if o.json {
		o.Out = io.Discard
	}
	r.PrintHead(o.Out)
	o.Done = func() error { // a run that is cut short has a report of what it came to
		r.Took = time.Since(start).Round(time.Second).String()
		if o.report == "" {
			return nil
		}
		return r.WriteFiles(o.report)
	}
	runErr := o.profiled(func() error { return load.Run(&o.Config) })
	if o.json {
		e := json.NewEncoder(os.Stdout)
		e.SetIndent("", "  ")
		if err := e.Encode(r); err != nil {
			return err
		}
	}
	if o.report != "" {
		fmt.Fprintf(o.Out, "\n%s; wrote %s\n", r.Took, filepath.Join(o.report, "report.html"))
	}
	return runErr
}

// profiled does something under a CPU profile, if one is asked for.
func (o *options) profiled(do func() error) error {
	if o.cpu == "" {
		return do()
	}
	f, err := os.Create(o.cpu)
	if err != nil {
		return err
	}
	if err := pprof.StartCPUProfile(f); err != nil {
		return errors.Join(err, f.Close())
	}
	err = do()
	pprof.StopCPUProfile()
	return errors.Join(err, f.Close())
}

// describe is what the report says of the systems.
func describe(specs []system.Spec, dir string) (list []report.System) {
	modules := measure.Environment(dir).Modules
	for _, s := range specs {
		list = append(list, report.System{Name: s.Name, Version: modules[s.Module], Durable: s.Durable, Queue: s.Queue, Floor: s.Floor})
	}
	return list
}
