package main

import (
	"github.com/mtawal/mtawal/wal"
	"github.com/spf13/cobra"
)

func newFlush() *cobra.Command {
	return &cobra.Command{
		Use:   "flush DIR QUEUE",
		Short: "Make all that is deferred in a queue due now",
		Long: `Flush makes all that is deferred in a queue due now, as when its host is up again. The
store must not be open elsewhere.`,
		Args: takes(2, 2),
		RunE: func(c *cobra.Command, args []string) error {
			return withStore(args[0], wal.Options{}, func(s *wal.Store) error { return s.Flush(c.Context(), args[1]) })
		},
	}
}
