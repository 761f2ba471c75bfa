package main

import (
	"fmt"

	"github.com/mtawal/mtawal/internal/drill"
	"github.com/mtawal/mtawal/wal"
	"github.com/spf13/cobra"
)

func newFlush() *cobra.Command {
	return &cobra.Command{
		Use:   "flush DIR QUEUE",
		Short: "Make all that is deferred in a queue due now",
		Long: `Flush makes all that is deferred in a queue due now, as when its host is up again. Where
there is no such queue it says so, and the exit code is 1. The store must not be open
elsewhere.`,
		Args: takes(2, 2),
		RunE: func(c *cobra.Command, args []string) error {
			name, out := args[1], c.OutOrStdout()
			if name == "" {
				return fmt.Errorf("a queue has a name")
			}
			return withStore(c.Context(), args[0], wal.Options{}, func(s *wal.Store) error {
				q, err := findQueue(c.Context(), s, name)
				if err != nil {
					return err
				}
				if q == nil {
					fmt.Fprintln(out, noQueue(name))
					return errFindings
				}
				if q.Deferred > 0 {
					if err := s.Flush(c.Context(), name); err != nil {
						return err
					}
				}
				_, err = fmt.Fprintf(out, "flushed %d recipients in queue %s\n", q.Deferred, drill.Printable(name))
				return err
			})
		},
	}
}
