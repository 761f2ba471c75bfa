package load

import (
	"context"
	"fmt"
	"time"

	"github.com/mtawal/mtawal/bench/system"
)

// deferrals is a backlog that no delivery succeeds for: each recipient is claimed, and
// deferred durably for a few milliseconds.
func deferrals(c *Config) (list []Workload) {
	if c.Quick {
		return nil
	}
	const waiting, producers = 5000, 64
	w := rate{group: "deferral", producers: producers, size: size4K, recipients: 1, want: isQueue, keep: true,
		title:   fmt.Sprintf("deferral churn: %d waiting messages of 4 KiB claimed and deferred, %d workers", waiting, producers),
		prepare: func(sys system.System) error { return fill(sys, waiting, size4K.mean) },
		do: func(sys system.System, _ system.Message) error {
			j, err := sys.(system.Queue).Claim(context.Background())
			if err != nil {
				return err
			}
			return j.Defer(time.Now().Add(5 * time.Millisecond))
		}}
	return []Workload{{w.title, w.run}}
}
