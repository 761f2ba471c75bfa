package main

import (
	"fmt"
	"os"
	"os/signal"
	"syscall"

	"github.com/mtawal/mtawal/internal/drill"
	"github.com/mtawal/mtawal/wal"
	"github.com/spf13/cobra"
)

func newSnapshot() *cobra.Command {
	return &cobra.Command{
		Use:   "snapshot DIR TARGET",
		Short: "Copy a store that nobody has open, and verify the copy",
		Long: `Snapshot copies a store into TARGET, which must not be there or be empty, nor lie in DIR. The copy is
a store of its own, with another UUID; all of its mail is in doubt, since the store
that was copied may go on delivering it. The store itself is not changed.

Snapshot takes the lock of the store. Beside a running owner it refuses, with the
owner's process: segments are written over while it runs, so only the owner itself can
make a copy that is whole, by (*wal.Store).Snapshot.

When it is interrupted it removes what it made. The copy is verified as "verify" does;
exit 1 with the findings, and the copy stays for inspection.`,
		Args: takes(2, 2),
		RunE: func(c *cobra.Command, args []string) error {
			if err := wal.Snapshot(c.Context(), args[0], args[1], wal.Options{}); err != nil {
				return err
			}
			// The copy is there; what follows only looks, and may take as long.
			signal.Reset(os.Interrupt, syscall.SIGTERM)
			if err := c.Context().Err(); err != nil {
				return fmt.Errorf("the copy is whole, and was not verified: %w", err)
			}
			found, err := wal.Verify(args[1], wal.Options{})
			if err != nil {
				return err
			}
			out := c.OutOrStdout()
			for _, f := range found {
				fmt.Fprintln(out, drill.Printable(f.String()))
			}
			if len(found) > 0 {
				return errFindings
			}
			in, err := wal.Inspect(args[1], wal.Options{})
			if err != nil {
				return err
			}
			fmt.Fprintf(out, "store %s is a copy of %s at %s: Work Queue Length %d, in doubt %d, verified\n",
				in.UUID, in.Origin.UUID, in.Origin.Position, in.WorkQueueLength, in.InDoubt)
			return nil
		},
	}
}
