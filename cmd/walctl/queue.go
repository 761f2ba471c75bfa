package main

import (
	"context"
	"fmt"
	"time"

	"github.com/mtawal/mtawal/internal/drill"
	"github.com/mtawal/mtawal/wal"
	"github.com/spf13/cobra"
)

func newQueue() *cobra.Command {
	var mode, doubt string
	var delay time.Duration
	c := &cobra.Command{
		Use:   "queue DIR QUEUE",
		Short: "Hold, suspend or reopen a queue, and say what it does with mail in doubt",
		Long: `Queue sets the durable state of a queue, which is in force for later mail too. Flags that
are not given leave things as they are.

  --mode active   hands out what is due; hold: hands out nothing; suspend: takes no new
                  mail either
  --doubt         what becomes of a recipient whose delivery may have happened:
                  redeliver it at once, hold it, or defer it by --delay. With redeliver it
                  is what the owner's Options.Doubt says

A queue in which nothing waits yet may be given a state before mail comes. It is kept until
it is active and redeliver again.

The store must not be open elsewhere.`,
		Args: takes(2, 2),
		RunE: func(c *cobra.Command, args []string) error {
			var set wal.QueueState
			switch {
			case mode == "" && doubt == "" && !c.Flags().Changed("delay"):
				return fmt.Errorf("nothing to set: give --mode, --doubt or --delay")
			case mode != "" && set.Mode.UnmarshalText([]byte(mode)) != nil:
				return fmt.Errorf("--mode %s: it is active, hold or suspend", drill.Printable(mode))
			case doubt != "" && set.Doubt.UnmarshalText([]byte(doubt)) != nil:
				return fmt.Errorf("--doubt %s: it is redeliver, hold or defer", drill.Printable(doubt))
			}
			return withStore(c.Context(), args[0], wal.Options{}, func(s *wal.Store) error {
				q, err := findQueue(c.Context(), s, args[1])
				if err != nil {
					return err
				}
				var st wal.QueueState
				if q != nil {
					st = q.State
				}
				if mode != "" {
					st.Mode = set.Mode
				}
				if doubt != "" {
					st.Doubt = set.Doubt
				}
				if c.Flags().Changed("delay") {
					st.DoubtDelay = delay
				}
				if err := s.SetQueue(c.Context(), args[1], st); err != nil {
					return err
				}
				is := ""
				if q == nil {
					is = " is new: nothing waits there yet. It"
				}
				_, err = fmt.Fprintf(c.OutOrStdout(), "queue %s%s has mode %v, and doubt %s\n", drill.Printable(args[1]), is, st.Mode, doubtOf(st))
				return err
			})
		},
	}
	c.Flags().StringVar(&mode, "mode", "", "active, hold or suspend")
	c.Flags().StringVar(&doubt, "doubt", "", "redeliver, hold or defer")
	c.Flags().DurationVar(&delay, "delay", 0, "for --doubt defer")
	return c
}

// findQueue is what a store has of a queue, or nil where nothing waits in it and it has no state of its own.
func findQueue(ctx context.Context, s *wal.Store, name string) (*wal.QueueInfo, error) {
	for q, err := range s.Queues(ctx) {
		if err != nil {
			return nil, err
		}
		if q.Name == name {
			return &q, nil
		}
	}
	return nil, nil
}

// noQueue says that there is none with this name, which may be mistyped.
func noQueue(name string) string {
	return fmt.Sprintf("there is no queue %s: nothing waits there; inspect shows those that there are", drill.Printable(name))
}

// doubtOf says what a queue does with what is in doubt.
func doubtOf(s wal.QueueState) string {
	if s.Doubt == wal.DeferDoubt {
		return fmt.Sprintf("%v by %v", s.Doubt, s.DoubtDelay)
	}
	return s.Doubt.String()
}
