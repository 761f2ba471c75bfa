// Walctl looks at stores of the mail queue, and drills them.
//
// Exit codes: 0 all is well, 1 there are findings, 2 the command could not be
// carried out.
package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"runtime/debug"
	"slices"

	"github.com/mtawal/mtawal/internal/drill"
	"github.com/spf13/cobra"
)

// Exit codes.
const (
	exitFine     = 0
	exitFindings = 1
	exitError    = 2
)

// errFindings ends a command that worked and found something. What it found is
// said already.
var errFindings = errors.New("there are findings")

func main() {
	os.Exit(execute(context.Background(), newRoot(), os.Args[1:]))
}

// execute carries out a command line and returns the exit code.
func execute(ctx context.Context, root *cobra.Command, args []string) int {
	root.SetArgs(args)
	err := root.ExecuteContext(ctx)
	switch {
	case err == nil:
		return exitFine
	case errors.Is(err, errFindings):
		return exitFindings
	}
	fmt.Fprintln(root.ErrOrStderr(), "walctl:", drill.Printable(err.Error()))
	return exitError
}

func newRoot() *cobra.Command {
	root := &cobra.Command{
		Use:   "walctl",
		Short: "Look at a mail queue's store, change it, and drill it",
		Long: `Walctl looks at a mail queue's store, changes it, and drills it. DIR is the directory of
the store: the one that the mail server gives to wal.Open, with a META in it.

Of each message the store knows recipients: pending, deferred (due later), held, or used,
which is final. In doubt is who may have had the message already: the process died, or
the connection broke, before the answer came. The Work Queue Length is the number of
recipients that are not used; a floor of it that climbs says that something is not
marked, or not delivered.

Exit codes: 0 all is well, 1 there are findings, 2 the command could not be carried out.`,
		Example: `  walctl inspect DIR              is all well, and what waits where?
  walctl list DIR --queue local   who waits there, and what was said last?
  walctl why DIR                  why does the disk not get empty?
  walctl drill                    see it killed`,
		Version:       version(),
		SilenceErrors: true,
		SilenceUsage:  true,
		Args:          cobra.NoArgs,
		RunE:          func(c *cobra.Command, args []string) error { return c.Help() },
	}
	root.CompletionOptions.HiddenDefaultCmd = true
	group := func(id, title string, list ...*cobra.Command) {
		root.AddGroup(&cobra.Group{ID: id, Title: title})
		for _, c := range list {
			c.GroupID = id
		}
		root.AddCommand(list...)
	}
	group("look", "To look, beside a running owner too:", newInspect(), newList(), newWhy(), newVerify(), newDump())
	change := []*cobra.Command{newHold(), newRelease(), newRemove(), newFlush(), newQueue()}
	keep := []*cobra.Command{newCheckpoint(), newCompact(), newSnapshot()}
	drills, core := newDrill(), newDrillCore()
	group("change", "To change a store that nobody has open:", change...)
	group("keep", "To keep a store that nobody has open:", keep...)
	group("drill", "To see what it can take:", drills)
	root.AddCommand(core)
	stoppable(slices.Concat(change, keep, []*cobra.Command{drills, core})...)
	return root
}

// takes refuses a command line with fewer or more arguments, and says how it is to be.
func takes(least, most int) cobra.PositionalArgs {
	return func(c *cobra.Command, args []string) error {
		if len(args) < least || most >= 0 && len(args) > most {
			return fmt.Errorf("%d arguments are not what %s takes: %s", len(args), c.Name(), c.UseLine())
		}
		return nil
	}
}

// version is what the build knows of itself.
func version() string {
	info, ok := debug.ReadBuildInfo()
	if !ok || info.Main.Version == "" {
		return "unknown"
	}
	return info.Main.Version
}
