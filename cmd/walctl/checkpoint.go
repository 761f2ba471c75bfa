package main

import (
	"github.com/mtawal/mtawal/wal"
	"github.com/spf13/cobra"
)

func newCheckpoint() *cobra.Command {
	return &cobra.Command{
		Use:   "checkpoint DIR",
		Short: "Make a checkpoint, so that the next opening is quick",
		Long: `Checkpoint opens the store and makes a checkpoint: the state of the queues as a file, so
that the next opening reads little of the log. A running owner makes them by itself;
this is for a store whose owner was killed and that is to be opened quickly, or copied.

It recovers the store first, but leaves to the owner what becomes of mail that was being
delivered at a kill. The store must not be open elsewhere.`,
		Args: takes(1, 1),
		RunE: func(c *cobra.Command, args []string) error {
			return withStore(c.Context(), args[0], wal.Options{}, func(s *wal.Store) error { return s.Checkpoint(c.Context()) })
		},
	}
}
