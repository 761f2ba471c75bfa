package main

import (
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

What is given back is written over with zeros. It recovers the store first, but leaves to
the owner what becomes of mail that was being delivered at a kill. The store must not be
open elsewhere.`,
		Args: takes(1, 1),
		RunE: func(c *cobra.Command, args []string) error {
			bar := newBar(c.ErrOrStderr(), "compact")
			defer bar.end()
			trace := &wal.Trace{Compacted: func(i wal.CompactInfo) {
				bar.show(float64(i.Moved)/float64(max(i.Moved+i.Left, 1)), "%s copied, %s left", size(i.Moved), size(i.Left))
			}}
			return withStore(c.Context(), args[0], wal.Options{Trace: trace}, func(s *wal.Store) error {
				before := s.Stats()
				err := s.Compact(c.Context())
				bar.end()
				if err != nil {
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
