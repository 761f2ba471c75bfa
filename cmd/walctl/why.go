package main

import (
	"fmt"
	"io"
	"strconv"
	"strings"

	"github.com/mtawal/mtawal/internal/drill"
	"github.com/mtawal/mtawal/wal"
	"github.com/spf13/cobra"
)

func newWhy() *cobra.Command {
	var asJSON bool
	c := &cobra.Command{
		Use:   "why DIR [SEGMENT]",
		Short: "Say for every segment why it is still there",
		Long: `Why says what keeps each segment file of a store, or one of them, from being given
back: messages that wait (how many, and the oldest), a checkpoint that a restart may
begin with, that it is being written. A segment is named as inspect shows it; the
mail in one that is named is read, and damage in it is said.

It takes no lock and writes nothing, so it may run while the store is open. Then the
store may also hold segments for deliveries that are out and for bodies that are
staged, which the files do not tell.`,
		Args: takes(1, 2),
		RunE: func(c *cobra.Command, args []string) error {
			var number uint64
			if len(args) == 2 {
				var err error
				name := strings.TrimPrefix(args[1], "seg-")
				if number, err = strconv.ParseUint(name, 16, 32); err != nil || number == 0 {
					return fmt.Errorf("%q is no segment: it is a hexadecimal number such as 0000001f", args[1])
				}
			}
			list, err := wal.Why(args[0], wal.Options{}, uint32(number))
			if err != nil {
				return err
			}
			if asJSON {
				return printJSON(c.OutOrStdout(), list)
			}
			return printWhy(c.OutOrStdout(), list)
		},
	}
	c.Flags().BoolVar(&asJSON, "json", false, "print a JSON array")
	return c
}

func printWhy(out io.Writer, list []wal.SegmentInfo) error {
	for _, s := range list {
		if _, err := fmt.Fprintf(out, "%08x %s: %s live, %s dead, %s free\n", s.Number, s.State, size(s.Live), size(s.Dead), size(s.Free)); err != nil {
			return err
		}
		for _, r := range s.Why {
			if _, err := fmt.Fprintf(out, "    %s\n", drill.Printable(r.String())); err != nil {
				return err
			}
		}
	}
	return nil
}

// size is bytes for people.
func size(n int64) string {
	const units = "KMGTPE"
	if n < 1024 {
		return fmt.Sprintf("%d B", n)
	}
	f, i := float64(n)/1024, 0
	for f >= 1023.95 && i < len(units)-1 {
		f, i = f/1024, i+1
	}
	return fmt.Sprintf("%.1f %ciB", f, units[i])
}
