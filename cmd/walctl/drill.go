package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"time"

	"github.com/mtawal/mtawal/internal/drill"
	"github.com/spf13/cobra"
)

// Defaults of a drill: about 20 seconds with the compiler's share, on two cores.
const (
	drillKills     = 12
	drillMessages  = 20_000
	drillProducers = 8
	drillConsumers = 8
)

// coreCommand is the hidden verb of the child process.
const coreCommand = "drill-core"

// engines are the stores that can be drilled, in the order of "both".
var engines = []drill.Engine{drill.Wal, drill.PerFile}

type drillOptions struct {
	drill.Config
	store  string
	with   string // companions
	json   bool
	seeded bool // the seed was given
}

func newDrill() *cobra.Command {
	o := &drillOptions{}
	c := &cobra.Command{
		Use:   "drill",
		Short: "Kill a mail core again and again, and audit what arrives",
		Long: `Drill starts a mail core in a child process on a fresh store. Producers enqueue as
fast as they can; consumers claim, hand over to a receiving store that lives
outside the child, and settle. The child is killed (SIGKILL) at random moments and
started again. At the end the queues are drained and the receiving store's
ledger is compared with what the store had promised.

  messages      messages that the store acknowledged, bounces not counted
  recipients    of these messages
  delivered     recipients for whom the receiving store has the message, or the
                bounce where it had refused the message for good
  lost          recipients of acknowledged messages for whom nothing arrived
  duplicated    hand-overs after an acknowledged used-mark, or repeated without
                being announced as in doubt
  in_doubt      repeats that were announced
  work_queue_length  recipients not marked used when nothing was left to deliver
  reopen_ms_max the longest opening after a kill
  verify        "ok" or the finding

Exit code 1: something was lost, repeated without notice, or left over. With
--store both, the exit code is about wal alone. When it is interrupted it says how far it
was, and leaves no core behind.`,
		Args: cobra.NoArgs,
		RunE: func(c *cobra.Command, args []string) error {
			o.seeded = c.Flags().Changed("seed")
			return o.run(c.Context(), c.OutOrStdout(), c.ErrOrStderr())
		},
	}
	f := c.Flags()
	f.IntVar(&o.Kills, "kills", drillKills, "how often the core is killed")
	f.IntVar(&o.Messages, "messages", drillMessages, "how many messages the store has to accept")
	f.IntVar(&o.Producers, "producers", drillProducers, "how many goroutines enqueue")
	f.IntVar(&o.Consumers, "consumers", drillConsumers, "how many goroutines deliver")
	f.StringVar(&o.Mail, "mail", "", "real messages instead of made ones: a Maildir, a directory of files, or an mbox (`DIR_OR_MBOX`)")
	f.Uint64Var(&o.Seed, "seed", 0, "seed of the load, the answers and the kills (random if not given)")
	f.StringVar(&o.Dir, "dir", "", "the store's directory, empty or to be made; it is kept (a temporary one, kept if there are findings)")
	f.StringVar(&o.store, "store", "wal", "what to drill: wal, perfile (the classic spool, a file per message), or both")
	f.StringVar(&o.with, "with", "", "what goes on beside the load, with commas between: compaction, fulldisk (little room), slowdisk (slow commits)")
	f.BoolVar(&o.json, "json", false, "print the figures as a JSON object")
	return c
}

func newDrillCore() *cobra.Command {
	return &cobra.Command{
		Use:    coreCommand,
		Short:  "The child process of drill",
		Hidden: true,
		Args:   cobra.NoArgs,
		RunE: func(c *cobra.Command, args []string) error {
			os.Exit(drill.RunCore(engines, os.Stdin, os.Stdout))
			return nil
		},
	}
}

// run drills the stores that were asked for, one after the other.
func (o *drillOptions) run(ctx context.Context, stdout, stderr io.Writer) error {
	var chosen []drill.Engine
	for _, e := range engines {
		if o.store == e.Name || o.store == "both" {
			chosen = append(chosen, e)
		}
	}
	if len(chosen) == 0 {
		return fmt.Errorf("--store is %q and must be wal, perfile or both", o.store)
	}
	var err error
	if o.Companions, err = drill.ParseCompanions(o.with); err != nil {
		return fmt.Errorf("--with: %w", err)
	}
	if !o.seeded {
		// Short enough to be typed, and exact in every reader of JSON.
		o.Seed = rand.Uint64N(1 << 40)
	}
	exe, err := os.Executable()
	if err != nil {
		return fmt.Errorf("find this program: %w", err)
	}
	o.Core = func() *exec.Cmd { return exec.Command(exe, coreCommand) }

	dir, temporary := o.Dir, o.Dir == ""
	if temporary {
		if dir, err = tempDir(stderr); err != nil {
			return err
		}
	}
	keep := !temporary
	defer func() {
		if !keep {
			os.RemoveAll(dir)
		}
	}()
	var results []*drill.Result
	clean := true
	for _, e := range chosen {
		c := o.Config
		c.Engine, c.Dir = e, dir
		if temporary || len(chosen) > 1 {
			c.Dir = filepath.Join(dir, e.Name)
		}
		bar, began := newBar(stderr, e.Name), time.Now()
		var seen drill.Progress
		c.Progress = func(p drill.Progress) {
			seen = p
			bar.show(p.Done, "%d accepted, %d waiting, %d/%d kills, %.0f s", p.Accepted, p.State.Backlog(), p.Kills, c.Kills, time.Since(began).Seconds())
		}
		r, err := drill.Run(ctx, c)
		bar.end()
		if errors.Is(err, context.Canceled) {
			if len(results) > 0 {
				err = o.print(stdout, results)
			} else {
				err = nil
			}
			return errors.Join(err, fmt.Errorf("%s had accepted %d messages and settled %d of their %d recipients in %d kills; nothing was compared",
				e.Name, seen.Accepted, seen.Settled, seen.Recipients, seen.Kills))
		}
		if err != nil {
			return err
		}
		results = append(results, r)
		if !r.Clean() && (len(chosen) == 1 || e.Name == drill.Wal.Name) {
			clean, keep = false, true
			o.explain(stderr, r, c.Dir)
		} else if temporary {
			if err := os.RemoveAll(c.Dir); err != nil {
				return fmt.Errorf("remove the store: %w", err)
			}
		}
	}
	if err := o.print(stdout, results); err != nil {
		return err
	}
	if !clean {
		return errFindings
	}
	return nil
}

func (o *drillOptions) print(w io.Writer, results []*drill.Result) error {
	if !o.json {
		return drill.WriteTable(w, results...)
	}
	var v any = results[0]
	if len(results) > 1 {
		m := map[string]*drill.Result{}
		for _, r := range results {
			m[r.Store] = r
		}
		v = m
	}
	e := json.NewEncoder(w)
	e.SetIndent("", "  ")
	if err := e.Encode(v); err != nil {
		return fmt.Errorf("print the figures: %w", err)
	}
	return nil
}

// explain says what was found, and how to see it again.
func (o *drillOptions) explain(w io.Writer, r *drill.Result, dir string) {
	say := func(format string, args ...any) { fmt.Fprintln(w, drill.Printable(fmt.Sprintf(format, args...))) }
	for _, f := range r.Findings {
		say("%s: %s", r.Store, f)
	}
	if r.Verify != "ok" {
		say("%s: verify: %s", r.Store, r.Verify)
	}
	for _, f := range r.Audit.Findings {
		say("%s: %s", r.Store, f)
	}
	if r.WorkQueueLength != 0 {
		say("%s: the Work Queue Length is %d with nothing left to deliver", r.Store, r.WorkQueueLength)
	}
	if r.Stderr != "" {
		o.explainCore(say, r, dir)
	}
	again := fmt.Sprintf("walctl drill --store %s --seed %d --kills %d --messages %d --producers %d --consumers %d",
		r.Store, r.Seed, o.Kills, o.Messages, o.Producers, o.Consumers)
	if o.with != "" {
		again += " --with " + o.with
	}
	if o.Mail != "" {
		again += fmt.Sprintf(" --mail %q", o.Mail)
	}
	say("%s: the store is kept in %s; the same load and kills again: %s", r.Store, dir, again)
}

// explainCore shows what the last core wrote to its standard error: a few lines
// here, the stacks of a core that hung in a file beside the store.
func (o *drillOptions) explainCore(say func(string, ...any), r *drill.Result, dir string) {
	const linesMax = 12
	lines := strings.Split(strings.TrimRight(r.Stderr, "\n"), "\n")
	say("%s: the last core wrote:", r.Store)
	for i, line := range lines {
		if i == linesMax {
			path := dir + ".stderr"
			if err := os.WriteFile(path, []byte(r.Stderr), 0o600); err != nil {
				say("  ... (%d lines more; they could not be kept: %v)", len(lines)-i, err)
				return
			}
			say("  ... (%d lines more in %s)", len(lines)-i, path)
			return
		}
		say("  %s", strings.TrimSuffix(line, "\r"))
	}
}
