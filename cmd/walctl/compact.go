package main

import (
	"context"
	"fmt"

	"github.com/mtawal/mtawal/wal"
	"github.com/spf13/cobra"
)

func newCompact() *cobra.Command {
	return &cobra.Command{
		Use:   "compact DIR",
		Short: "Give back the space of mail that was used",
		Long: `Compact opens the store, gives segments back in which nothing lives, and empties those in
which little does by moving it to the end of the log. A running owner does both by
itself as it becomes worth it. It may be interrupted: what was moved by then is moved.

It recovers the store first, as its owner would: what was being delivered at a kill is
in doubt from then on. The store must not be open elsewhere.`,
		Args: takes(1, 1),
		RunE: func(c *cobra.Command, args []string) error {
			return withStore(args[0], wal.Options{}, func(s *wal.Store) error {
				before := s.Stats()
				if err := s.Compact(context.WithoutCancel(c.Context())); err != nil {
					return err
				}
				after := s.Stats()
				fmt.Fprintf(c.OutOrStdout(), "segments %d, were %d; dead bytes %d, were %d\n",
					after.Segments, before.Segments, after.DeadBytes, before.DeadBytes)
				return nil
			})
		},
	}
}
