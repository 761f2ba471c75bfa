package main

import (
	"github.com/mtawal/mtawal/wal"
	"github.com/spf13/cobra"
)

func newCheckpoint() *cobra.Command {
	return &cobra.Command{
		Use:   "checkpoint DIR",
		Short: "Open a store that nobody has open, and make a checkpoint",
		Args:  cobra.ExactArgs(1),
		RunE: func(c *cobra.Command, args []string) error {
			return withStore(args[0], func(s *wal.Store) error { return s.Checkpoint(c.Context()) })
		},
	}
}
