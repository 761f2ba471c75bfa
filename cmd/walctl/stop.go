package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/signal"
	"syscall"

	"github.com/spf13/cobra"
)

// stoppable has a signal end the context of verbs that have something to bring to an end, and a second one the
// process. A verb that only looks has nothing, so the first one ends it.
func stoppable(list ...*cobra.Command) {
	for _, c := range list {
		run := c.RunE
		c.RunE = func(c *cobra.Command, args []string) error {
			ctx, stop := signal.NotifyContext(c.Context(), os.Interrupt, syscall.SIGTERM)
			defer stop()
			defer context.AfterFunc(ctx, stop)()
			c.SetContext(ctx)
			err := run(c, args)
			if err == nil || ctx.Err() == nil || errors.Is(err, errFindings) {
				return err
			}
			if err.Error() == ctx.Err().Error() {
				return errors.New("interrupted")
			}
			return fmt.Errorf("interrupted: %w", err)
		}
	}
}
