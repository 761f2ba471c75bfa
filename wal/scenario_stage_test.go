package wal

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"runtime"
	"runtime/debug"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/mtawal/mtawal/internal/disk"
	"github.com/mtawal/mtawal/internal/disk/faultdisk"
	"github.com/mtawal/mtawal/internal/disk/memdisk"
)

// postStaged stages a text and enqueues it, and takes note. between runs when a part of the
// text is in the log.
func (a *account) postStaged(s *Store, text string, between func() error) error {
	a.note(a.sent, text)
	ctx := context.Background()
	st, err := s.Stage(ctx, 0)
	if err != nil {
		return err
	}
	defer st.Abort()
	for i, part := range []string{text[:len(text)/2], text[len(text)/2:]} {
		if _, err := st.Write([]byte(part)); err != nil {
			return err
		}
		if i == 0 {
			if err := errors.Join(st.(*stream).await(ctx, 0), between()); err != nil {
				return err
			}
		}
	}
	_, err = s.Enqueue(ctx, stagedMail(st))
	if err == nil {
		a.note(a.acked, text)
	}
	return err
}

// churn has the log go on to other segments, and checkpoints made, so often.
func (a *account) churn(s *Store, rounds int) error {
	for range rounds {
		for range 3 {
			if err := a.post(s, fmt.Sprint(len(a.sent), strings.Repeat(" long", 2400))); err != nil {
				return err
			}
			if err := a.deliver(s, Delivered); err != nil {
				return err
			}
		}
		if err := s.Compact(context.Background()); err != nil {
			return err
		}
	}
	return nil
}

// Rule 8.1. A crash at each step of bodies that are staged while the log is checkpointed and
// compacted around them: between chunks, behind the last, in the commit. Chunks lie in front
// of both checkpoints when the message that names them comes behind.
func TestScenario_CrashAtEveryStepOfStagedBodies(t *testing.T) {
	t.Parallel()
	open := errors.New("a body is left open")
	everyStep(t, func(s *Store, a *account) error {
		nothing := func() error { return nil }
		one := strings.Repeat("one ", 9000)
		if err := a.postStaged(s, one, func() error { return a.churn(s, 1) }); err != nil {
			return err
		}
		if err := a.churn(s, 1); err != nil {
			return err
		}
		// One that is given up, and one that is short.
		st, err := s.Stage(context.Background(), 0)
		if err != nil {
			return err
		}
		if _, err := st.Write([]byte(strings.Repeat("gone ", 7000))); err != nil {
			return err
		}
		st.Abort()
		if err := a.postStaged(s, "short", nothing); err != nil {
			return err
		}
		if err := a.deliver(s, Delivered); err != nil {
			return err
		}
		// Two at a time, one of which never becomes a message.
		if err := a.postStaged(s, strings.Repeat("two ", 9000), func() error {
			st, err := s.Stage(context.Background(), 0)
			if err != nil {
				return err
			}
			if _, err := st.Write([]byte(strings.Repeat("never ", 6000))); err != nil {
				return err
			}
			return errors.Join(s.Checkpoint(context.Background()), open)
		}); !errors.Is(err, open) {
			return err
		}
		return a.churn(s, 1)
	}, func(t *testing.T, s *Store) {
		if got := s.Stats().Staged; got != 1 {
			t.Errorf("%d bodies are staged, want the one left open", got)
		}
		s.mu.Lock()
		s.endAll(errAborted)
		s.mu.Unlock()
		if err := s.Compact(t.Context()); err != nil {
			t.Fatal(err)
		}
		if n := len(s.Segments()); n > 6 {
			t.Errorf("%d segments: the space of bodies that were given up did not come back", n)
		}
	})
}

// Rule 8.1. "Chunks without an Enqueue are garbage": the space of bodies that were aborted, ran out of
// time, or were open when their store ended comes back.
func TestScenario_SpaceOfStagedBodiesComesBack(t *testing.T) {
	for name, end := range map[string]func(t *testing.T, s *Store, st Staged) *Store{
		"abort":    func(_ *testing.T, s *Store, st Staged) *Store { st.Abort(); return s },
		"deadline": func(_ *testing.T, s *Store, _ Staged) *Store { time.Sleep(StageTimeoutDefault + time.Second); return s },
		"close": func(t *testing.T, s *Store, _ Staged) *Store {
			ended(t, s)
			return started(t, s.opt)
		},
	} {
		t.Run(name, func(t *testing.T) {
			scenario(t, func(t *testing.T) {
				s := started(t, tiny(memdisk.New(memdisk.Config{})))
				a := newAccount()
				if err := a.churn(s, 3); err != nil {
					t.Fatal(err)
				}
				before := s.Stats()
				st := stagedBody(t, s, strings.Repeat("x", 1<<20))
				if err := a.churn(s, 3); err != nil {
					t.Fatal(err)
				}
				if n := s.Stats().Segments - before.Segments; n < 16 {
					t.Fatalf("%d segments more with a body of 16 segments open", n)
				}
				s = end(t, s, st)
				if err := a.churn(s, 3); err != nil {
					t.Fatal(err)
				}
				if n := s.Stats().Segments - before.Segments; n > 1 {
					t.Errorf("%d segments more than before", n)
				}
				ended(t, s)
			})
		})
	}
}

// A crash in the middle of a body, and the log goes on: the chunks are garbage for the next
// owner, and for its checkpoints.
func TestScenario_ChunksOfAnEarlierLife(t *testing.T) {
	scenario(t, func(t *testing.T) {
		fs := memdisk.New(memdisk.Config{})
		s := started(t, tiny(fs))
		a := newAccount()
		stagedBody(t, s, long("never"))
		if err := a.post(s, "kept"); err != nil {
			t.Fatal(err)
		}
		for seed := range uint64(12) {
			left := fs.Clone()
			if seed > 0 {
				left.PowerCut(rand.New(rand.NewPCG(seed, 8)))
			}
			again := started(t, tiny(left))
			told := a.copy()
			if err := told.churn(again, 3); err != nil {
				t.Fatalf("seed (%d,8): %v", seed, err)
			}
			ended(t, again)
			if found, err := Verify(spool, tiny(left)); err != nil || len(found) > 0 {
				t.Errorf("seed (%d,8): %v, %v", seed, found, err)
			}
			if err := told.audit(left); err != nil {
				t.Errorf("seed (%d,8): %v", seed, err)
			}
		}
		ended(t, s)
	})
}

// Rule 4.4. A chunk that could not be written fails the store as any commit does: the body
// becomes no message.
func TestScenario_ChunkThatFails(t *testing.T) {
	scenario(t, func(t *testing.T) {
		inner := memdisk.New(memdisk.Config{})
		fs := faultdisk.New(inner)
		s := started(t, tiny(fs))
		a := newAccount()
		if err := a.post(s, "first"); err != nil {
			t.Fatal(err)
		}
		fs.Set(faultdisk.Plan{N: 3, Err: syscall.EIO, Only: []disk.Op{disk.OpWriteDurable}, Name: "seg-"})
		st, err := s.Stage(t.Context(), 0)
		if err != nil {
			t.Fatal(err)
		}
		_, err = st.Write([]byte(long("dear")))
		err2 := second(s.Enqueue(t.Context(), stagedMail(st)))
		if err != nil && !errors.Is(err, ErrFailed) || !errors.Is(err2, ErrFailed) {
			t.Errorf("Write: %v; Enqueue: %v", err, err2)
		}
		if err := s.Close(); !errors.Is(err, ErrFailed) {
			t.Errorf("close: %v", err)
		}
		if err := a.audit(inner); err != nil {
			t.Error(err)
		}
	})
}

// A body to 500 recipients is stored once.
func TestStagedBodyIsStoredOnce(t *testing.T) {
	s, err := Open(t.TempDir(), Options{})
	if err != nil {
		t.Fatal(err)
	}
	defer ended(t, s)
	body := benchBody(20 << 20)
	before := s.log.Appended()
	st, err := s.Stage(t.Context(), int64(len(body)))
	if err != nil {
		t.Fatal(err)
	}
	for rest := body; len(rest) > 0; {
		n := min(len(rest), 32<<10)
		if _, err := st.Write(rest[:n]); err != nil {
			t.Fatal(err)
		}
		rest = rest[n:]
	}
	m := Message{Staged: st}
	for i := range 500 {
		m.Recipients = append(m.Recipients, Recipient{Queue: fmt.Sprintf("smtp:%d.example.org", i%50), Address: fmt.Sprintf("member-%d@%d.example.org", i, i%50)})
	}
	if _, err := s.Enqueue(t.Context(), m); err != nil {
		t.Fatal(err)
	}
	if grew := s.log.Appended() - before; grew >= 21<<20 {
		t.Errorf("the log grew by %d bytes for a body of %d", grew, len(body))
	}
	d, err := s.Claim(t.Context(), "smtp:7.example.org")
	if err != nil || len(d.Recipients) != 10 {
		t.Fatalf("claim: %v", err)
	}
	if text, err := textOf(d); text != string(body) || err != nil {
		t.Errorf("the body came back changed, or %v", err)
	}
	d.Release()
}

// 100 bodies of 25 MiB at a time take less than 64 MiB of heap.
func TestStagedBodiesInConstantMemory(t *testing.T) {
	const streams = 100
	size := 25 << 20
	if testing.Short() {
		size = 2 << 20
	}
	s, err := Open(t.TempDir(), Options{NoSync: true})
	if err != nil {
		t.Fatal(err)
	}
	defer ended(t, s)
	defer debug.SetGCPercent(debug.SetGCPercent(100)) // whatever GOGC says
	inUse := func() uint64 {
		var m runtime.MemStats
		runtime.ReadMemStats(&m)
		return max(m.HeapAlloc, m.HeapInuse)
	}
	runtime.GC()
	before, most := inUse(), uint64(0)
	piece := benchBody(32 << 10)
	var wg sync.WaitGroup
	var under sync.WaitGroup
	under.Add(streams)
	for range streams {
		wg.Go(func() {
			st, err := s.Stage(context.Background(), 0)
			under.Done()
			if err != nil {
				t.Error(err)
				return
			}
			defer st.Abort()
			under.Wait() // all of them are open
			back := make([]byte, len(piece))
			for n := 0; n < size; n += len(piece) {
				if _, err := st.Write(piece); err != nil {
					t.Error(err)
					return
				}
				if n%(1<<20) == 0 {
					if _, err := st.ReadAt(back, int64(n/2)); err != nil {
						t.Error(err)
						return
					}
				}
			}
		})
	}
	done := make(chan struct{})
	go func() { wg.Wait(); close(done) }()
	for running := true; running; {
		select {
		case <-done:
			running = false
		case <-time.After(20 * time.Millisecond):
		}
		most = max(most, inUse())
	}
	t.Logf("%d MiB of heap before, %d at most", before>>20, most>>20)
	if most > before+64<<20 {
		t.Errorf("%d MiB of heap before, %d at most: that is more than 64 more", before>>20, most>>20)
	}
}
