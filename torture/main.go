// Command torture cuts the power of real file systems under a store, recovers, and audits.
//
//	go -C torture run . --fs ext4 --crashes 500 --seed 1   method A: images of power cuts
//	go -C torture run . --fs xfs --cuts 500                method B: FS_IOC_SHUTDOWN
//
// It prints a table and exits with 1 on a finding, with 2 if it could not be run, and with
// 3 where the machine lacks what it needs. README.md says how it works.
package main

import (
	"context"
	"encoding/json"
	"flag"
	"fmt"
	"io"
	"math/rand/v2"
	"os"
	"os/signal"
	"strings"
	"sync"
	"sync/atomic"
	"text/tabwriter"
	"time"

	"github.com/mtawal/mtawal/torture/internal/core"
	"github.com/mtawal/mtawal/torture/internal/realfs"
)

type options struct {
	fs            string
	crashes, cuts int
	seed          uint64
	jobs          int
	canary, json  bool
	keep, replay  string
}

func main() {
	if len(os.Args) == 2 && os.Args[1] == core.Verb {
		signal.Ignore(os.Interrupt)
		if err := core.Serve(os.Stdin, os.Stdout); err != nil {
			fmt.Fprintln(os.Stderr, err)
			os.Exit(2)
		}
		return
	}
	var o options
	f := flag.CommandLine
	f.StringVar(&o.fs, "fs", "ext4", "file system: "+strings.Join(realfs.Names(), ", "))
	f.IntVar(&o.crashes, "crashes", 0, "how many power cuts, as images of the disk (method A)")
	f.IntVar(&o.cuts, "cuts", 0, "how many times the file system is cut off under load (method B)")
	f.Uint64Var(&o.seed, "seed", 0, "seed (random if 0)")
	f.IntVar(&o.jobs, "jobs", 4, "how many disks at a time")
	f.BoolVar(&o.canary, "canary", false, "a store that acknowledges before the sync: must be caught")
	f.BoolVar(&o.json, "json", false, "print the figures as JSON")
	f.StringVar(&o.keep, "keep", "", "where the images of findings go (a temporary directory)")
	f.StringVar(&o.replay, "replay", "", "look again at a finding that was kept in this `directory`")
	flag.Parse()
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt)
	defer stop()
	code, err := o.run(ctx, os.Stdout, os.Stderr)
	if err != nil {
		fmt.Fprintln(os.Stderr, "torture:", err)
	}
	os.Exit(code)
}

// Exit codes.
const (
	exitClean = iota
	exitFindings
	exitBroken
	exitMissing
)

func (o *options) run(ctx context.Context, stdout, stderr io.Writer) (int, error) {
	if o.replay != "" {
		return o.again(stdout, stderr)
	}
	kind, err := realfs.ByName(o.fs)
	if err != nil {
		return exitBroken, err
	}
	if why := realfs.Missing(kind); why != "" {
		fmt.Fprintf(stdout, "skipped: %s on %s: %s\n", "torture", kind.Name, why)
		return exitMissing, nil
	}
	if o.cuts > 0 && !kind.Shutdown {
		return exitBroken, fmt.Errorf("%s can't be cut off: it does not know FS_IOC_SHUTDOWN", kind.Name)
	}
	if o.crashes <= 0 && o.cuts <= 0 || o.jobs < 1 || o.jobs > 64 {
		return exitBroken, fmt.Errorf("--crashes or --cuts has to be above 0, and --jobs from 1 to 64")
	}
	if o.seed == 0 {
		o.seed = 1 + rand.Uint64N(1<<40)
	}
	if o.keep == "" {
		if o.keep, err = os.MkdirTemp("", "torture-findings-"); err != nil {
			return exitBroken, fmt.Errorf("make room for findings: %w", err)
		}
		defer os.Remove(o.keep) // if it is empty
	}
	var all []Totals
	for _, m := range []struct {
		name, flag string
		count      int
		work       func(*rig, *run, int) error
	}{{"power cut", "crashes", o.crashes, (*rig).powercut}, {"shutdown", "cuts", o.cuts, (*rig).cutOff}} {
		if m.count == 0 {
			continue
		}
		r := newRun(ctx, m.name, kind)
		r.Seed, r.Target, r.Canary, r.Keep, r.Log = o.seed, m.count, o.canary, o.keep, stderr
		r.Command = fmt.Sprintf("go -C torture run . --fs %s --%s %d --jobs %d", o.fs, m.flag, m.count, o.jobs)
		if o.canary {
			r.Command += " --canary"
		}
		err := o.rigs(r, kind, m.work)
		all = append(all, r.result())
		if err != nil {
			print(stdout, o.json, all)
			return exitBroken, err
		}
	}
	print(stdout, o.json, all)
	for _, t := range all {
		if t.Findings() > 0 {
			return exitFindings, nil
		}
	}
	return exitClean, nil
}

// rigs runs histories on as many rigs as there are jobs.
func (o *options) rigs(r *run, kind realfs.FS, work func(*rig, *run, int) error) error {
	var (
		wg    sync.WaitGroup
		next  atomic.Int64
		once  sync.Once
		first error
	)
	var stop context.CancelFunc
	r.ctx, stop = context.WithCancel(r.ctx)
	defer stop()
	go r.show(30 * time.Second)
	for range o.jobs {
		wg.Go(func() {
			err := func() (err error) {
				g, err := newRig(kind)
				if err != nil {
					return err
				}
				defer func() {
					if cerr := g.close(); err == nil {
						err = cerr
					}
				}()
				for !r.enough() {
					if err := work(g, r, int(next.Add(1))); err != nil {
						return err
					}
				}
				return nil
			}()
			if err != nil {
				once.Do(func() { first = err })
				stop()
			}
		})
	}
	wg.Wait()
	return first
}

// again audits a crash that was kept.
func (o *options) again(stdout, stderr io.Writer) (int, error) {
	f, image, err := kept(o.replay)
	if err != nil {
		return exitBroken, err
	}
	kind, err := realfs.ByName(f.FS)
	if err != nil {
		return exitBroken, err
	}
	g, err := newRig(kind)
	if err != nil {
		return exitBroken, err
	}
	defer g.close()
	r := newRun(context.Background(), "replay", kind)
	r.Target, r.Log, r.Command = 1, stderr, "go -C torture run . --replay "+o.replay
	c := &crashed{image, f.Ledger, f.Maker}
	rng := rand.New(rand.NewPCG(1, 1))
	if _, err := g.audit(r, rng, c, &record{config: f.Config, tears: func(int64) bool { return false }}, depthMax, "replay"); err != nil {
		return exitBroken, err
	}
	print(stdout, o.json, []Totals{r.result()})
	if r.result().Findings() > 0 {
		return exitFindings, nil
	}
	return exitClean, nil
}

func print(w io.Writer, asJSON bool, all []Totals) {
	if asJSON {
		e := json.NewEncoder(w)
		for _, t := range all {
			e.Encode(t)
		}
		return
	}
	t := tabwriter.NewWriter(w, 0, 0, 2, ' ', 0)
	fmt.Fprintln(t, "method\tfile system\tkernel\tcrashes\tlost\tinvented\trepeated\tsilent\trefused\tannounced\tin window\toldest of it\tpending writes\tseed\ttook")
	for _, r := range all {
		fmt.Fprintf(t, "%s\t%s\t%s\t%d\t%d\t%d\t%d\t%d\t%d\t%d\t%d\t%v\t%.1f\t%d\t%v\n", r.Method, r.FileSystem, r.Kernel, r.Crashes,
			r.Lost, r.Invented, r.Repeated, r.Silent, r.Refused, r.Announced, r.InWindow, r.Late, float64(r.Pending)/float64(max(r.Crashes, 1)), r.Seed, r.Elapsed)
	}
	t.Flush()
}
