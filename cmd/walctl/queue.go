package main

import (
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
                  redeliver it at once, hold it, or defer it by --delay

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
			return withStore(args[0], wal.Options{}, func(s *wal.Store) error {
				var st wal.QueueState
				for q, err := range s.Queues(c.Context()) {
					if err != nil {
						return err
					}
					if q.Name == args[1] {
						st = q.State
					}
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
				return s.SetQueue(c.Context(), args[1], st)
			})
		},
	}
	c.Flags().StringVar(&mode, "mode", "", "active, hold or suspend")
	c.Flags().StringVar(&doubt, "doubt", "", "redeliver, hold or defer")
	c.Flags().DurationVar(&delay, "delay", 0, "for --doubt defer")
	return c
}
