package main

import (
	"errors"

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

// withStore opens the store in a directory that holds one, for as long as f runs. It never
// makes a store.
func withStore(dir string, f func(*wal.Store) error) error {
	if _, err := wal.Inspect(dir, wal.Options{}); err != nil {
		return err
	}
	s, err := wal.Open(dir, wal.Options{})
	if err != nil {
		return err
	}
	return errors.Join(f(s), s.Close())
}
