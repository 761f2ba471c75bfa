package wal

import (
	"errors"
	"testing"

	"github.com/mtawal/mtawal/internal/disk/memdisk"
)

// What is refused says which argument of the call is wrong, by a name that the caller knows.
func TestRefusalsNameTheArgument(t *testing.T) {
	scenario(t, func(t *testing.T) {
		o := tiny(memdisk.New(memdisk.Config{}))
		s := started(t, o)
		id := posted(t, s, "mail")
		_, claim := s.Claim(t.Context(), "")
		_, consumer := s.Consumer(ConsumerOptions{Queues: []string{"q", ""}})
		_, stage := s.Stage(t.Context(), -1)
		_, open := Open("", o)
		_, inspect := Inspect("", o)
		for what, c := range map[string]struct {
			err  error
			want string
		}{
			"Claim":               {claim, "Queue: is empty"},
			"Consumer":            {consumer, "ConsumerOptions.Queues[1]: is empty"},
			"MarkUsed":            {s.MarkUsed(t.Context(), id, 0, -5), "recipients[1]: is negative"},
			"MarkUsed of nobody":  {s.MarkUsed(t.Context(), id), "recipients: names nobody"},
			"Admit":               {s.Admit(-1), "size: is negative"},
			"Stage":               {stage, "size: is negative"},
			"Open":                {open, "dir: is empty"},
			"Inspect":             {inspect, "dir: is empty"},
			"Snapshot":            {s.Snapshot(t.Context(), ""), "target: is empty"},
			"Snapshot of nothing": {Snapshot(t.Context(), "", copied, o), "dir: is empty"},
		} {
			if !errors.Is(c.err, ErrInvalid) || c.err.Error() != c.want {
				t.Errorf("%s: %v, want %s", what, c.err, c.want)
			}
		}
		ended(t, s)
	})
}
