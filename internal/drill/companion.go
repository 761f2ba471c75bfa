package drill

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"strings"
	"time"

	"github.com/mtawal/mtawal/mailq"
)

// Companion is something that goes on beside the load, or several of them together.
type Companion uint8

// The companions. An engine that knows nothing of one goes without.
const (
	// Compaction: segments are small, and the store is compacted all the time.
	Compaction Companion = 1 << iota
	// FullDisk: the store may have little room, so that it is full again and again.
	FullDisk
	// SlowDisk: commits are held up once they are durable, before anybody is told.
	SlowDisk
)

var companionNames = []string{"compaction", "fulldisk", "slowdisk"}

// ParseCompanions reads names with commas between them; "" is none.
func ParseCompanions(list string) (Companion, error) {
	var c Companion
	if list == "" {
		return 0, nil
	}
next:
	for word := range strings.SplitSeq(list, ",") {
		for i, name := range companionNames {
			if word == name {
				c |= 1 << i
				continue next
			}
		}
		return 0, fmt.Errorf("no companion is called %q: there are %s", clip(word), strings.Join(companionNames, ", "))
	}
	return c, nil
}

// String returns what ParseCompanions reads.
func (c Companion) String() string {
	var names []string
	for i, name := range companionNames {
		if c&(1<<i) != 0 {
			names = append(names, name)
		}
	}
	return strings.Join(names, ",")
}

// compact compacts the store until the core ends; every other life it leaves that to the store.
func (c *core) compact() error {
	s, ok := c.store.(interface{ Compact(context.Context) error })
	if !ok || c.Life%2 == 0 {
		return nil
	}
	rng := rand.New(rand.NewPCG(c.Seed, uint64(c.Life)))
	ctx, stop := context.WithCancel(context.Background())
	defer stop()
	go func() {
		select {
		case <-c.ended:
			stop()
		case <-ctx.Done():
		}
	}()
	for {
		select {
		case <-ctx.Done():
			return nil
		case <-time.After(time.Duration(rng.Int64N(int64(50 * time.Millisecond)))):
		}
		if err := s.Compact(ctx); err != nil && !errors.Is(err, mailq.ErrFull) && !errors.Is(err, context.Canceled) {
			return fmt.Errorf("compact: %w", err)
		}
	}
}
