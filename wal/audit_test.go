package wal

import (
	"bytes"
	"context"
	"errors"
	"log/slog"
	"strings"
	"testing"

	"github.com/mtawal/mtawal/internal/disk/memdisk"
)

// What does not add up is said, loudly and until it does again, and the store goes on.
func TestAudit(t *testing.T) {
	for _, tt := range []struct {
		name  string
		spoil func(s *Store, by int64) // and again with -by
		says  string
		files bool
	}{
		{"in all", func(s *Store, by int64) { s.sched.counts[classHeld] += by }, "in all: counted are 4, there should be 3", false},
		{"in doubt", func(s *Store, by int64) { s.sched.doubt += by }, "in doubt", false},
		{"in a queue", func(s *Store, by int64) { s.queue(0).counts[classPending] += by }, "queue q: counted are 4, there should be 3", false},
		{"of memory and files", func(s *Store, by int64) {
			s.table.Counts.Enqueued += by
			s.table.Counts.Used.Delivered += by
		}, "memory", true},
	} {
		t.Run(tt.name, func(t *testing.T) {
			var log bytes.Buffer
			o := tiny(memdisk.New(memdisk.Config{}))
			o.CompactMin = 1 << 40 // copies would be segments too
			o.Logger = slog.New(slog.NewTextHandler(&log, nil))
			s := started(t, o)
			for range 3 {
				posted(t, s, strings.Repeat("m", 30_000))
			}
			round := func() error {
				id := posted(t, s, strings.Repeat("m", 30_000))
				if err := s.MarkUsed(t.Context(), id, 0); err != nil {
					t.Fatal(err)
				}
				return s.Checkpoint(t.Context())
			}
			spoil := func(by int64) {
				s.mu.Lock()
				defer s.mu.Unlock()
				tt.spoil(s, by)
			}
			if err := round(); err != nil || s.Stats().Unaccounted != 0 {
				t.Fatalf("%v, %d unaccounted", err, s.Stats().Unaccounted)
			}
			spoil(1)
			for range 6 {
				if err := round(); !errors.Is(err, ErrUnaccounted) || !strings.Contains(err.Error(), tt.says) {
					t.Errorf("Checkpoint says %v", err)
				}
			}
			if st := s.Stats(); st.Unaccounted != 1 {
				t.Errorf("%d unaccounted", st.Unaccounted)
			}
			// What is dead is given back, unless the files are in question.
			if n := deadSegments(s); (n > 0) != tt.files {
				t.Errorf("%d segments are dead and still there", n)
			}
			spoil(-1)
			for range 3 { // until both checkpoints start behind what is dead
				if err := round(); err != nil {
					t.Errorf("as it should be again: %v", err)
				}
			}
			if n := deadSegments(s); n > 0 || s.Stats().Unaccounted != 0 {
				t.Errorf("as it should be again: %d segments are dead and still there, %d recipients unaccounted for", n, s.Stats().Unaccounted)
			}
			ended(t, s) // a fold of the background may log until then
			if !strings.Contains(log.String(), "level=ERROR") || !strings.Contains(log.String(), "does not add up") {
				t.Errorf("logged is %s", log.String())
			}
		})
	}
}

// deadSegments is how many segments are there for no reason, while no fold of the background is about to recycle them.
func deadSegments(s *Store) (n int) {
	s.folds.running.Lock()
	defer s.folds.running.Unlock()
	for _, i := range s.Segments() {
		if i.Why[0].Kind == ReasonDead {
			n++
		}
	}
	return n
}

// While queues come and go, and everything is claimed and settled, every recipient stays accounted for.
func TestAuditUnderLoad(t *testing.T) {
	s := started(t, tiny(memdisk.New(memdisk.Config{})))
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan error)
	for w := range 4 {
		go func() {
			done <- func() error {
				for n := 0; ctx.Err() == nil; n++ {
					q := string(rune('a'+w)) + strings.Repeat("x", n%200)
					if _, err := s.Enqueue(t.Context(), to(q)); err != nil {
						return err
					}
					d, err := s.Claim(t.Context(), q)
					if err != nil {
						return err
					}
					if err := d.SettleAll(t.Context(), Delivered); err != nil {
						return err
					}
				}
				return nil
			}()
		}()
	}
	for range 20 {
		if err := s.Checkpoint(t.Context()); err != nil {
			t.Error(err)
		}
	}
	cancel()
	for range 4 {
		if err := <-done; err != nil {
			t.Error(err)
		}
	}
	if st := s.Stats(); st.Unaccounted != 0 || st.WorkQueueLength != 0 {
		t.Errorf("%+v", st)
	}
	ended(t, s)
	if f, err := Verify(spool, tiny(s.opt.fs)); err != nil || len(f) > 0 {
		t.Errorf("%v, %v", f, err)
	}
}
