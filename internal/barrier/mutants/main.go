// Mutants takes away one barrier of crash safety at a time and runs the tests that should
// notice. It prints a table of barrier, test and what the test said, and exits 1 if one was
// not noticed, or if a test fails with all barriers in place.
//
//	go run ./internal/barrier/mutants            the tests that are known to notice; a minute or two
//	go run ./internal/barrier/mutants -all       every test of every package, for each barrier
//	go run ./internal/barrier/mutants -only salt
//
// A test that hangs has not noticed: it says so within the time limit or it does not count.
package main

import (
	"bytes"
	"context"
	"flag"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"runtime"
	"strings"
	"sync"
	"time"

	"github.com/mtawal/mtawal/internal/barrier"
)

const module = "github.com/mtawal/mtawal/"

var (
	all     = flag.Bool("all", false, "run every test, and name all that notice")
	only    = flag.String("only", "", "one barrier")
	limit   = flag.Duration("limit", 2*time.Minute, "of one run of the tests of a package")
	workers = flag.Int("workers", runtime.GOMAXPROCS(0), "runs at a time")
)

// packages are those that have tests which may notice, the quick ones first.
var packages = []string{"internal/disk", "segment", "journal", "checkpoint", "wal"}

func main() {
	flag.Parse()
	if err := run(); err != nil {
		fmt.Fprintln(os.Stderr, "mutants:", err)
		os.Exit(1)
	}
}

func run() error {
	bin, err := os.MkdirTemp("", "mutants-")
	if err != nil {
		return err
	}
	defer os.RemoveAll(bin)
	for _, p := range packages {
		build := exec.Command("go", "test", "-c", "-tags", "barriermutant", "-o", binary(bin, p), module+p)
		if out, err := build.CombinedOutput(); err != nil {
			return fmt.Errorf("building the tests of %s: %w\n%s", p, err, out)
		}
	}
	if err := control(bin); err != nil {
		return err
	}
	list := barrier.All()
	verdicts := make([]verdict, len(list))
	slots := make(chan struct{}, *workers)
	var wg sync.WaitGroup
	for i, b := range list {
		if *only != "" && b.String() != *only {
			continue
		}
		wg.Go(func() {
			slots <- struct{}{}
			defer func() { <-slots }()
			verdicts[i] = try(bin, b)
		})
	}
	wg.Wait()
	missed := 0
	fmt.Printf("%-20s %-7s %s\n", "barrier", "", "noticed by")
	for i, b := range list {
		v := verdicts[i]
		if *only != "" && b.String() != *only {
			continue
		}
		what := "caught"
		if !v.caught {
			what = "MISSED"
			missed++
		}
		fmt.Printf("%-20s %-7s %s\n", b, what, strings.Join(v.by, "\n"+strings.Repeat(" ", 29)))
	}
	if missed > 0 {
		return fmt.Errorf("%d barriers are missed by nobody", missed)
	}
	return nil
}

func binary(bin, pkg string) string { return filepath.Join(bin, strings.ReplaceAll(pkg, "/", "-")) }

// control runs the tests with every barrier in place: they must pass.
func control(bin string) error {
	if *all {
		return nil // that is what go test does
	}
	for _, b := range barrier.All() {
		w := watchers[b]
		out, err := exec.Command(binary(bin, w.pkg), "-test.list", w.test).Output()
		if err != nil || !strings.HasPrefix(string(out), "Test") {
			return fmt.Errorf("%s: there is no test %q in %q that could notice (%v)", b, w.test, w.pkg, err)
		}
	}
	for _, p := range packages {
		var names []string
		for _, w := range watchers {
			if w.pkg == p {
				names = append(names, w.test)
			}
		}
		if len(names) == 0 {
			continue
		}
		if r := tests(bin, p, strings.Join(names, "|"), barrier.None); !r.passed {
			return fmt.Errorf("%s with all barriers in place:\n%s", p, r.out)
		}
	}
	return nil
}

type verdict struct {
	caught bool
	by     []string
}

func try(bin string, b barrier.Barrier) (v verdict) {
	for _, p := range packages {
		pattern := "."
		if !*all {
			w, ok := watchers[b]
			if !ok || w.pkg != p {
				continue
			}
			pattern = w.test
		}
		r := tests(bin, p, pattern, b)
		for _, f := range r.failed {
			v.caught = true
			v.by = append(v.by, p+": "+f)
		}
		if !r.passed && len(r.failed) == 0 {
			v.by = append(v.by, p+": hung or died: "+lastLine(r.out))
		}
	}
	return v
}

type result struct {
	passed bool
	failed []string // tests
	out    string
}

var failLine = regexp.MustCompile(`(?m)^--- FAIL: (\S+)`)

// tests runs tests of a package with a barrier gone. What has hung, or was stopped by a
// test's own watchdog, is no failure that counts.
func tests(bin, pkg, pattern string, b barrier.Barrier) (r result) {
	ctx, cancel := context.WithTimeout(context.Background(), *limit+10*time.Second)
	defer cancel()
	c := exec.CommandContext(ctx, binary(bin, pkg), "-test.short", "-test.run", pattern, "-test.timeout", limit.String(), "-rapid.nofailfile")
	if pkg != "wal" && pkg != "state" {
		c.Args = c.Args[:len(c.Args)-1]
	}
	c.Dir = filepath.Join(".", filepath.FromSlash(pkg))
	c.Env = append(os.Environ(), "MTAWAL_BARRIER="+b.String())
	var out bytes.Buffer
	c.Stdout, c.Stderr = &out, &out
	r.passed = c.Run() == nil
	r.out = out.String()
	for _, m := range failLine.FindAllStringSubmatch(r.out, -1) {
		r.failed = append(r.failed, m[1])
	}
	return r
}

func lastLine(s string) string {
	for line := range strings.Lines(s) {
		if strings.HasPrefix(line, "panic:") || strings.Contains(line, "hangs") {
			return strings.TrimSpace(line)
		}
	}
	return "no reason given"
}
