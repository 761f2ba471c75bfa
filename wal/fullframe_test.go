package wal

import (
	"fmt"
	"testing"

	"github.com/mtawal/mtawal/internal/disk/memdisk"
)

// A batch that fills a frame leaves no room for the attempts that would ride along: they go with
// the next frame, and the batch is committed.
func TestScenario_AttemptsBesideAFullFrame(t *testing.T) {
	for short := 0; short < 5000; short += 500 {
		t.Run(fmt.Sprint(short, " short"), func(t *testing.T) {
			scenario(t, func(t *testing.T) {
				s := started(t, tiny(memdisk.New(memdisk.Config{})))
				for n := range 120 {
					posted(t, s, fmt.Sprint("mail ", n))
				}
				var b Batch
				left := int(s.limits.frame) - 2000 - short
				for left > 0 {
					n := min(left, s.limits.chunk)
					m := mailing("large")
					m.Body = make([]byte, n)
					b.Enqueue = append(b.Enqueue, m)
					left -= n
				}
				c, err := s.Consumer(ConsumerOptions{})
				if err != nil {
					t.Fatal(err)
				}
				for range 120 { // started
					if _, err := c.Next(t.Context()); err != nil {
						t.Fatal(err)
					}
				}
				if _, err := s.Commit(t.Context(), b); err != nil {
					t.Fatalf("%d messages: %v", len(b.Enqueue), err)
				}
				posted(t, s, "after")
				s.mu.Lock()
				waiting := len(s.attempts)
				s.mu.Unlock()
				if waiting > 0 {
					t.Errorf("%d attempts did not ride with the frame behind", waiting)
				}
				ended(t, s)
			})
		})
	}
}
