package main

import (
	"bufio"
	"encoding/json"
	"fmt"
	"io"
	"strconv"
	"strings"
	"time"

	"github.com/mtawal/mtawal/internal/drill"
	"github.com/mtawal/mtawal/wal"
	"github.com/spf13/cobra"
)

func newDump() *cobra.Command {
	var asJSON, bodies bool
	c := &cobra.Command{
		Use:   "dump DIR",
		Short: "Print the records of the log, one a line",
		Long: `Dump prints every record that is still in the log, one a line, in order. It takes
no lock and writes nothing. Addresses and notes are printed with control
characters escaped. Bodies are mail: they are printed only with --bodies, quoted, or as
base64 with --json.`,
		Args: takes(1, 1),
		RunE: func(c *cobra.Command, args []string) error {
			w := bufio.NewWriter(c.OutOrStdout())
			enc := json.NewEncoder(w)
			err := wal.Dump(args[0], wal.Options{}, bodies, func(d *wal.DumpRecord) error {
				if asJSON {
					return enc.Encode(d)
				}
				return printRecord(w, d)
			})
			if ferr := w.Flush(); err == nil {
				err = ferr
			}
			return err
		},
	}
	c.Flags().BoolVar(&asJSON, "json", false, "print one JSON object a line")
	c.Flags().BoolVar(&bodies, "bodies", false, "print bodies too")
	return c
}

// recipientsShown is how many recipients or outcomes a line of text shows.
const recipientsShown = 8

func printRecord(w io.Writer, d *wal.DumpRecord) error {
	var b strings.Builder
	fmt.Fprintf(&b, "%-14s %-6s", d.Position, d.Frame)
	if d.Kind != "" {
		fmt.Fprintf(&b, " %-10s", d.Kind)
	}
	if d.ID != 0 {
		fmt.Fprintf(&b, " %v", d.ID)
	}
	if d.Kind == "" {
		fmt.Fprintf(&b, " promise %s", d.Promise)
	}
	if d.Moved != "" {
		fmt.Fprintf(&b, " moved from %s", d.Moved)
	}
	if d.Size > 0 || d.Kind == "enqueue" {
		fmt.Fprintf(&b, " %d bytes", d.Size)
	}
	if d.Chunks > 0 {
		fmt.Fprintf(&b, " in %d chunks", d.Chunks)
	}
	if d.Key != "" {
		fmt.Fprintf(&b, " key %s", strconv.QuoteToASCII(d.Key))
	}
	for i, r := range d.Recipients {
		if i == recipientsShown {
			fmt.Fprintf(&b, " ... %d recipients", len(d.Recipients))
			break
		}
		fmt.Fprintf(&b, " [%d] %s in %s", r.Index, drill.Printable(r.Address), drill.Printable(r.Queue))
	}
	for i, o := range d.Outcomes {
		if i == recipientsShown {
			fmt.Fprintf(&b, " ... %d runs", len(d.Outcomes))
			break
		}
		fmt.Fprintf(&b, " [%s] %v", span(o.DumpRun), o.Result)
		if !o.Until.IsZero() {
			fmt.Fprintf(&b, " until %s", o.Until.UTC().Format(time.RFC3339))
		}
		if o.Note != "" {
			fmt.Fprintf(&b, " %s", strconv.QuoteToASCII(o.Note))
		}
	}
	if d.Attempt != nil {
		fmt.Fprintf(&b, " [%s]", span(*d.Attempt))
	}
	if d.Queue != "" {
		fmt.Fprintf(&b, " %s", drill.Printable(d.Queue))
	}
	if d.State != nil {
		fmt.Fprintf(&b, " mode %v doubt %v delay %v", d.State.Mode, d.State.Doubt, d.State.DoubtDelay)
	}
	if o := d.Open; o != nil {
		fmt.Fprintf(&b, " epoch %d clean %t warm %t cut %d in doubt %d", d.Epoch, o.Clean, o.Warm, o.Cut, o.InDoubt)
	}
	if d.Successor != 0 {
		fmt.Fprintf(&b, " successor %08x", d.Successor)
	}
	if d.Body != nil {
		fmt.Fprintf(&b, " %s", strconv.QuoteToASCII(string(d.Body)))
	}
	b.WriteByte('\n')
	_, err := io.WriteString(w, b.String())
	return err
}

func span(r wal.DumpRun) string {
	if r.Count == 1 {
		return strconv.Itoa(r.First)
	}
	return fmt.Sprintf("%d-%d", r.First, r.First+r.Count-1)
}
