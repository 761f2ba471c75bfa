// Bench measures mtawal beside a peer and beside the physical floor: bare loops that
// make the same bytes durable and do nothing else. See README.md for the method and for
// what the numbers do not say.
package main

import (
	"encoding/json"
	"flag"
	"fmt"
	"os"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"
)

// config is what the flags say.
type config struct {
	dir      string
	quick    bool
	json     bool
	only     *regexp.Regexp
	rounds   int
	recovery []int
}

func main() {
	if len(os.Args) > 1 && os.Args[1] == childArg {
		if err := child(os.Args[2:]); err != nil {
			fmt.Fprintln(os.Stderr, "bench child:", err)
			os.Exit(1)
		}
		return
	}
	c, err := parse(os.Args[1:])
	if err == nil {
		err = run(c)
	}
	if err != nil {
		fmt.Fprintln(os.Stderr, "bench:", err)
		os.Exit(1)
	}
}

func parse(args []string) (c config, err error) {
	f := flag.NewFlagSet("bench", flag.ExitOnError)
	f.StringVar(&c.dir, "dir", "", "directory to work in; a new one is made in it and removed (default: the current one)")
	f.BoolVar(&c.quick, "quick", false, "fewer rounds, recovery of 100,000 messages: under a minute")
	f.BoolVar(&c.json, "json", false, "print a JSON report instead of tables")
	f.IntVar(&c.rounds, "rounds", 0, "rounds (default 7, quick 3)")
	only := f.String("only", "", "run only rows whose \"workload/system\" matches this regular expression")
	pending := f.String("pending", "", "comma-separated numbers of pending messages for recovery (default 1000000, quick 100000; 10000000 takes 11 GB of disk a system)")
	if err := f.Parse(args); err != nil {
		return c, err
	}
	if c.only, err = regexp.Compile(*only); err != nil {
		return c, fmt.Errorf("--only: %w", err)
	}
	if c.rounds == 0 {
		c.rounds = 7
		if c.quick {
			c.rounds = 3
		}
	}
	if *pending == "" {
		*pending = "1000000"
		if c.quick {
			*pending = "100000"
		}
	}
	for n := range strings.SplitSeq(*pending, ",") {
		v, err := strconv.Atoi(n)
		if err != nil || v < 1 {
			return c, fmt.Errorf("--pending: %q is not a number of messages", n)
		}
		c.recovery = append(c.recovery, v)
	}
	return c, nil
}

func run(c config) (err error) {
	if c.dir == "" {
		c.dir = "."
	}
	work, err := os.MkdirTemp(c.dir, "mtawal-bench-")
	if err != nil {
		return err
	}
	defer func() {
		if rerr := os.RemoveAll(work); err == nil {
			err = rerr
		}
	}()
	if work, err = filepath.Abs(work); err != nil {
		return err
	}
	c.dir = work
	r := report{Environment: environment(work)}
	if !c.json {
		r.Environment.print(os.Stdout)
	}
	for _, w := range throughputs(c) {
		t, err := w.run(c)
		if err != nil {
			return fmt.Errorf("%s: %w", w.name, err)
		}
		if len(t.Rows) == 0 {
			continue
		}
		r.Throughput = append(r.Throughput, t)
		if !c.json {
			t.print(os.Stdout)
		}
	}
	for _, n := range c.recovery {
		t, err := recovery(c, n)
		if err != nil {
			return fmt.Errorf("recovery of %d: %w", n, err)
		}
		if len(t.Rows) == 0 {
			continue
		}
		r.Recovery = append(r.Recovery, t)
		if !c.json {
			t.print(os.Stdout)
		}
	}
	if c.json {
		e := json.NewEncoder(os.Stdout)
		e.SetIndent("", "  ")
		return e.Encode(r)
	}
	return nil
}
