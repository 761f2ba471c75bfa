package main

import (
	"encoding/json"
	"fmt"
	"io"
	"strings"
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
running owner has claimed are shown as pending: claims are not in the log. No bodies
are read: damage to them is found by "verify".`,
		Args: takes(1, 1),
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
	fmt.Fprintf(out, "\n\nWork Queue Length %d: pending %d, deferred %d, held %d; in doubt %d of them; messages %d\n",
		in.WorkQueueLength, in.Pending, in.Deferred, in.Held, in.InDoubt, in.Messages)
	u := &in.Used
	fmt.Fprintf(out, "enqueued %d = used %d (delivered %d, failed %d, expired %d, removed %d, replaced %d) + %d\n",
		in.Enqueued, u.Total(), u.Delivered, u.Failed, u.Expired, u.Removed, u.Replaced, in.WorkQueueLength)
	fmt.Fprintln(out, "bodies were not read: walctl verify finds what is damaged")
	if in.Unaccounted != 0 {
		fmt.Fprintf(out, "THIS DOES NOT ADD UP: %d recipients are unaccounted for\n", in.Unaccounted)
	}
	fmt.Fprintf(out, "segments: %s live, %s used and not reclaimed, %s free", size(in.LiveBytes), size(in.DeadBytes), size(in.FreeBytes))
	if p := in.OldestPin; p.Kind != "" {
		fmt.Fprintf(out, "; the oldest %s is %v, since %s", p.Kind, p.ID, p.Since.UTC().Format(time.RFC3339))
	}
	if in.TailCut > 0 || in.UncleanOpens > 0 {
		fmt.Fprintf(out, "\nits owner died, and it was opened again: %d times; %d bytes of torn tail were cut", in.UncleanOpens, in.TailCut)
	}
	fmt.Fprint(out, "\n\n")
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
		name := drill.Printable(q.Name) + modeOf(q.State)
		since := ""
		if !q.OldestAt.IsZero() {
			since = q.OldestAt.UTC().Format(time.RFC3339)
		}
		oldest := ""
		if q.Oldest != 0 {
			oldest = q.Oldest.String()
		}
		fmt.Fprintf(w, "%s\t%d\t%d\t%d\t%d\t%s\t%s\n", name, q.Pending, q.Deferred, q.Held, q.InDoubt, oldest, since)
	}
	return w.Flush()
}

// modeOf says what a queue does that not every queue does.
func modeOf(s wal.QueueState) string {
	var list []string
	if s.Mode != wal.Active {
		list = append(list, s.Mode.String())
	}
	if s.Doubt != wal.Redeliver {
		list = append(list, "doubt: "+doubtOf(s))
	}
	if len(list) == 0 {
		return ""
	}
	return " (" + strings.Join(list, ", ") + ")"
}
