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
		Short: "Open a store that nobody has open, and give back what is dead",
		Args:  cobra.ExactArgs(1),
		RunE: func(c *cobra.Command, args []string) error {
			return withStore(args[0], func(s *wal.Store) error {
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
