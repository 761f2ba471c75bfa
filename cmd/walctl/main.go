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
	"os/signal"
	"runtime/debug"
	"syscall"

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
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	code := execute(ctx, newRoot(), os.Args[1:])
	stop()
	os.Exit(code)
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
		Use:           "walctl",
		Short:         "Look at a mail queue's store, and drill it",
		Version:       version(),
		SilenceErrors: true,
		SilenceUsage:  true,
		Args:          cobra.NoArgs,
		RunE:          func(c *cobra.Command, args []string) error { return c.Help() },
	}
	root.CompletionOptions.HiddenDefaultCmd = true
	root.AddCommand(
		newInspect(), newList(), newWhy(), newVerify(), newDump(),
		newHold(), newRelease(), newRemove(), newFlush(), newQueue(),
		newCheckpoint(), newCompact(), newSnapshot(), newDrill(), newDrillCore(),
	)
	return root
}

// version is what the build knows of itself.
func version() string {
	info, ok := debug.ReadBuildInfo()
	if !ok || info.Main.Version == "" {
		return "unknown"
	}
	return info.Main.Version
}
