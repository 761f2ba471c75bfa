package main

import (
	"fmt"

	"github.com/mtawal/mtawal/internal/drill"
	"github.com/mtawal/mtawal/wal"
	"github.com/spf13/cobra"
)

func newVerify() *cobra.Command {
	var asJSON bool
	c := &cobra.Command{
		Use:   "verify DIR",
		Short: "Check every checksum and invariant of a store",
		Long: `Verify reads all of a store and compares it with its checksums, replays the log
from both checkpoints and compares the states, and checks the totals against a
count. It takes no lock and changes nothing. It prints "ok", or the findings and
exits with 1.`,
		Args: takes(1, 1),
		RunE: func(c *cobra.Command, args []string) error {
			found, err := wal.Verify(args[0], wal.Options{})
			if err != nil {
				return err
			}
			out := c.OutOrStdout()
			switch {
			case asJSON:
				if found == nil {
					found = []wal.Finding{}
				}
				if err := printJSON(out, map[string]any{"ok": len(found) == 0, "findings": found}); err != nil {
					return err
				}
			case len(found) == 0:
				fmt.Fprintln(out, "ok")
			default:
				for _, f := range found {
					fmt.Fprintln(out, drill.Printable(f.String()))
				}
			}
			if len(found) > 0 {
				return errFindings
			}
			return nil
		},
	}
	c.Flags().BoolVar(&asJSON, "json", false, "print one JSON object")
	return c
}
