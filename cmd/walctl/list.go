package main

import (
	"bufio"
	"encoding/json"
	"fmt"
	"io"
	"time"

	"github.com/mtawal/mtawal/internal/drill"
	"github.com/mtawal/mtawal/wal"
	"github.com/spf13/cobra"
)

func newList() *cobra.Command {
	var asJSON bool
	var f wal.Filter
	var id, in string
	c := &cobra.Command{
		Use:   "list DIR",
		Short: "List the messages that wait, the oldest first",
		Long: `List prints a line for every recipient that is not used: message and index, when it was
enqueued, size, state, queue, address; then, where there is something to say, when it is
due, how often it was tried, whether a delivery may have happened (in doubt), and the
last note. It takes no lock and writes nothing, so it may run while the store is open;
what a consumer has claimed is shown as pending. It reads no bodies: what is damaged is
shown as it would be if it were not, and "verify" finds it.`,
		Args: takes(1, 1),
		RunE: func(c *cobra.Command, args []string) (err error) {
			if id != "" {
				if f.ID, err = wal.ParseID(id); err != nil {
					return err
				}
			}
			if in != "" {
				if f.State.UnmarshalText([]byte(in)) != nil {
					return fmt.Errorf("--state %s: it is pending, deferred or held", drill.Printable(in))
				}
			}
			if f.Limit < 0 {
				return fmt.Errorf("--limit %d is below 0", f.Limit)
			}
			if note := notListed[f.State]; note != "" {
				fmt.Fprintln(c.ErrOrStderr(), "walctl:", note)
			}
			w := bufio.NewWriter(c.OutOrStdout())
			enc := json.NewEncoder(w)
			err = wal.List(args[0], wal.Options{}, f, func(e *wal.Entry) error {
				if asJSON {
					return enc.Encode(jsonEntry(e))
				}
				return printEntry(w, e)
			})
			if ferr := w.Flush(); err == nil {
				err = ferr
			}
			return err
		},
	}
	c.Flags().StringVar(&f.Queue, "queue", "", "only in this queue")
	c.Flags().StringVar(&f.Prefix, "prefix", "", "only in queues whose name begins so")
	c.Flags().StringVar(&id, "id", "", "only of this message")
	c.Flags().StringVar(&in, "state", "", "only those that are pending, deferred or held")
	c.Flags().BoolVar(&f.InDoubt, "in-doubt", false, "only those in doubt")
	c.Flags().IntVar(&f.Limit, "limit", 0, "at most so many")
	c.Flags().BoolVar(&asJSON, "json", false, "print one JSON object a line")
	return c
}

// notListed says why nothing is listed that is in a state.
var notListed = map[wal.State]string{
	wal.Damaged: "bodies are not read here: what is damaged is listed in the state that it has in the log; walctl verify finds it",
	wal.Claimed: "claims are not in the log: what a consumer has claimed is listed as pending",
	wal.Used:    "what is used is not listed; walctl dump shows the used-marks that are still in the log",
}

// entryJSON is an Entry for programs: the note as text, and what is wrong with it.
type entryJSON struct {
	*wal.Entry
	Note  string `json:"note,omitempty"`
	Error string `json:"error,omitempty"`
}

func jsonEntry(e *wal.Entry) entryJSON {
	j := entryJSON{Entry: e, Note: string(e.Note)}
	if e.Err != nil {
		j.Error = e.Err.Error()
	}
	return j
}

func printEntry(w io.Writer, e *wal.Entry) error {
	more := ""
	add := func(format string, args ...any) { more += fmt.Sprintf("  "+format, args...) }
	if e.State.String() == "deferred" {
		add("until %s", e.NotBefore.UTC().Format(time.RFC3339))
	}
	if e.Attempts > 0 {
		add("attempts %d", e.Attempts)
	}
	if e.Priority != 0 {
		add("priority %d", e.Priority)
	}
	if e.InDoubt {
		add("in doubt")
	}
	if len(e.Note) > 0 {
		add("%s", drill.Printable(string(e.Note)))
	}
	if e.Err != nil {
		add("UNREADABLE: %s", drill.Printable(e.Err.Error()))
	}
	_, err := fmt.Fprintf(w, "%v %d  %s  %9s  %-8s  %s  %s%s\n", e.ID, e.Recipient, e.EnqueuedAt.UTC().Format(time.RFC3339), size(e.Size), e.State,
		drill.Printable(e.Queue), drill.Printable(e.Address), more)
	return err
}
