package main

import (
	"context"
	"errors"
	"fmt"
	"slices"

	"github.com/mtawal/mtawal/wal"
	"github.com/spf13/cobra"
)

// editing is what hold, release and remove have in common: an outcome for recipients that are
// named by message, by queue, or by both.
type editing struct {
	verb   string // "held"
	result wal.Result
	state  wal.State // only those in this state; 0: any

	queue  string
	asJSON bool
}

// edited is what was done.
type edited struct {
	Recipients int      `json:"recipients"`
	Messages   int      `json:"messages"`
	NotFound   []wal.ID `json:"not_found"`          // named, and with nothing to do
	NoQueue    bool     `json:"no_queue,omitempty"` // the one that was named is none
}

// editMax is how many messages one commit changes.
const editMax = 500

func newEdit(verb, short, long string, e editing) *cobra.Command {
	c := &cobra.Command{
		Use:   verb + " DIR [ID...]",
		Short: short,
		Long: long + `

Messages are named by the IDs that list shows, or by --queue: then it is all that waits in
that queue now. With both it is what these messages have in that queue. IDs for which
there is nothing to do are printed, and the exit code is 1; so it is where there is no
such queue.

The store must not be open elsewhere: beside a running owner the command refuses and
changes nothing, since only the owner may write to the log.`,
		Args: takes(1, -1),
		RunE: func(c *cobra.Command, args []string) error {
			ids := make([]wal.ID, 0, len(args)-1)
			for _, a := range args[1:] {
				id, err := wal.ParseID(a)
				if err != nil {
					return err
				}
				if !slices.Contains(ids, id) {
					ids = append(ids, id)
				}
			}
			if len(ids) == 0 && e.queue == "" {
				return fmt.Errorf("name messages by ID, or a queue with --queue")
			}
			done := edited{NotFound: []wal.ID{}}
			err := withStore(c.Context(), args[0], wal.Options{}, func(s *wal.Store) error { return e.run(c.Context(), s, ids, &done) })
			// Also after an error: what was committed by then is done.
			if err == nil || done.Messages > 0 {
				err = errors.Join(err, e.say(c, &done))
			}
			if err == nil && (len(done.NotFound) > 0 || done.NoQueue) {
				return errFindings
			}
			return err
		},
	}
	c.Flags().StringVar(&e.queue, "queue", "", "what waits in this queue")
	c.Flags().BoolVar(&e.asJSON, "json", false, "print one JSON object")
	return c
}

func (e *editing) say(c *cobra.Command, done *edited) error {
	out := c.OutOrStdout()
	if e.asJSON {
		return printJSON(out, done)
	}
	if done.NoQueue {
		_, err := fmt.Fprintln(out, noQueue(e.queue))
		return err
	}
	for _, id := range done.NotFound {
		if _, err := fmt.Fprintf(out, "%v: nothing to be %s\n", id, e.verb); err != nil {
			return err
		}
	}
	_, err := fmt.Fprintf(out, "%s %d recipients of %d messages\n", e.verb, done.Recipients, done.Messages)
	return err
}

// run commits the outcomes, so many messages at a time.
func (e *editing) run(ctx context.Context, s *wal.Store, ids []wal.ID, done *edited) error {
	if e.queue != "" {
		if q, err := findQueue(ctx, s, e.queue); err != nil || q == nil {
			done.NoQueue, done.NotFound = err == nil, append(done.NotFound, ids...)
			return err
		}
	}
	var b wal.Batch
	n := 0
	flush := func() error {
		if len(b.Edit) == 0 {
			return nil
		}
		if _, err := s.Commit(ctx, b); err != nil {
			return err
		}
		done.Messages += len(b.Edit)
		done.Recipients += n
		b.Edit, n = b.Edit[:0], 0
		return nil
	}
	collect := func(f wal.Filter) (found bool, err error) {
		for x, err := range s.Entries(ctx, f) {
			if err != nil {
				return found, err
			}
			last := len(b.Edit) - 1
			if last < 0 || b.Edit[last].ID != x.ID {
				if len(b.Edit) == editMax {
					if err := flush(); err != nil {
						return found, err
					}
				}
				b.Edit = append(b.Edit, wal.Edit{ID: x.ID})
				last = len(b.Edit) - 1
			}
			b.Edit[last].Outcomes = append(b.Edit[last].Outcomes, wal.Outcome{Recipient: x.Recipient, Result: e.result})
			n, found = n+1, true
		}
		return found, nil
	}
	if len(ids) == 0 {
		if _, err := collect(wal.Filter{Queue: e.queue, State: e.state}); err != nil {
			return err
		}
	}
	for _, id := range ids {
		found, err := collect(wal.Filter{ID: id, Queue: e.queue, State: e.state})
		if err != nil {
			return err
		}
		if !found {
			done.NotFound = append(done.NotFound, id)
		}
	}
	return flush()
}

// withStore opens the store in a directory that holds one, for as long as f runs. It never
// makes a store, leaves to its owner what the owner's options decide, and goes on with segments of the
// size that it has.
func withStore(ctx context.Context, dir string, o wal.Options, f func(*wal.Store) error) error {
	in, err := wal.Inspect(dir, wal.Options{})
	if err != nil {
		return err
	}
	if err := ctx.Err(); err != nil {
		return err
	}
	o.Administer = true
	if n := len(in.Segments); n > 0 {
		o.SegmentSize = in.Segments[n-1].Size
	}
	s, err := wal.Open(dir, o)
	if errors.Is(err, wal.ErrLocked) {
		return fmt.Errorf("the store is in use, and only who has it open may change it; nothing was done: %w", err)
	}
	if err != nil {
		return err
	}
	if err = ctx.Err(); err == nil {
		err = f(s)
	}
	if cerr := s.Close(); cerr != nil {
		return errors.Join(err, cerr)
	}
	return err
}
