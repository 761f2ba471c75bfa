package main

import (
	"encoding/json"
	"fmt"
	"io"
	"text/tabwriter"
	"time"

	"github.com/mtawal/mtawal/internal/drill"
	"github.com/mtawal/mtawal/wal"
	"github.com/spf13/cobra"
)

func newInspect() *cobra.Command {
	var asJSON bool
	c := &cobra.Command{
		Use:   "inspect DIR",
		Short: "Show segments, checkpoints and queues of a store",
		Long: `Inspect reads a store and shows what is in it. It takes no lock and writes
nothing, so it may run while the store is open. Recipients that a consumer of the
running owner has claimed are shown as pending: claims are not in the log.`,
		Args: cobra.ExactArgs(1),
		RunE: func(c *cobra.Command, args []string) error {
			in, err := wal.Inspect(args[0], wal.Options{})
			if err != nil {
				return err
			}
			if asJSON {
				return printJSON(c.OutOrStdout(), in)
			}
			return printInspection(c.OutOrStdout(), in)
		},
	}
	c.Flags().BoolVar(&asJSON, "json", false, "print one JSON object")
	return c
}

func printJSON(w io.Writer, v any) error {
	e := json.NewEncoder(w)
	e.SetIndent("", "  ")
	return e.Encode(v)
}

func printInspection(out io.Writer, in *wal.Inspection) error {
	w := tabwriter.NewWriter(out, 0, 0, 2, ' ', tabwriter.AlignRight)
	left := "open, or its owner died"
	if in.Clean {
		left = "closed"
	}
	fmt.Fprintf(out, "store %s, %s, log ends at %s", in.UUID, left, in.End)
	if in.InFlight > 0 {
		fmt.Fprintf(out, ", %d bytes of it perhaps in flight", in.InFlight)
	}
	if o := in.Origin; o != nil {
		fmt.Fprintf(out, "\na copy of store %s at %s, taken %s", o.UUID, o.Position, o.TakenAt.UTC().Format(time.RFC3339))
		if in.Copied {
			fmt.Fprint(out, ", not opened since: all of its mail is in doubt")
		}
	}
	fmt.Fprintf(out, "\n\nWork Queue Length %d  in doubt %d  messages %d\nenqueued %d  delivered %d  failed %d  expired %d  removed %d  replaced %d\n\n",
		in.WorkQueueLength, in.InDoubt, in.Messages, in.Enqueued, in.Used.Delivered, in.Used.Failed, in.Used.Expired, in.Used.Removed, in.Used.Replaced)
	fmt.Fprintln(w, "segment\tstate\tsize\tlive\tdead\tfree\tmessages\t")
	for _, s := range in.Segments {
		fmt.Fprintf(w, "%08x\t%s\t%d\t%d\t%d\t%d\t%d\t\n", s.Number, s.State, s.Size, s.Live, s.Dead, s.Free, s.Messages)
	}
	fmt.Fprintln(w, "\t\t\t\t\t\t\t\ncheckpoint\tposition\tbytes\tmessages\t\t\t\t")
	for _, p := range in.Checkpoints {
		fmt.Fprintf(w, "%s\t%s\t%d\t%d\t\t\t\t\n", p.Name, p.Position, p.Bytes, p.Messages)
	}
	if err := w.Flush(); err != nil {
		return err
	}
	for _, name := range in.Unusable {
		fmt.Fprintf(out, "checkpoint %s is damaged\n", drill.Printable(name))
	}
	fmt.Fprintln(out)
	w = tabwriter.NewWriter(out, 0, 0, 2, ' ', 0)
	fmt.Fprintln(w, "queue\tpending\tdeferred\theld\tin doubt\toldest\tsince")
	for _, q := range in.Queues {
		since := ""
		if !q.OldestAt.IsZero() {
			since = q.OldestAt.UTC().Format(time.RFC3339)
		}
		oldest := ""
		if q.Oldest != 0 {
			oldest = q.Oldest.String()
		}
		fmt.Fprintf(w, "%s\t%d\t%d\t%d\t%d\t%s\t%s\n", drill.Printable(q.Name), q.Pending, q.Deferred, q.Held, q.InDoubt, oldest, since)
	}
	return w.Flush()
}
