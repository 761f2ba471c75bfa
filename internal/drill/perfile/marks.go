package perfile

import (
	"context"
	"fmt"
	"math/bits"
	"os"
	"path/filepath"
	"sync"
	"sync/atomic"

	"github.com/mtawal/mtawal/mailq"
)

// marker is the background worker that marks recipients used, one rename after
// the other, in the order in which they were settled.
type marker struct {
	store *Store
	// unmarked is the number of recipients not marked on disk: what a restart
	// would hand out.
	unmarked atomic.Int64

	mu    sync.Mutex
	list  []mark
	busy  bool
	quit  bool
	moved *sync.Cond // the list, busy or quit changed
	ended chan struct{}
}

type mark struct {
	msg  *message
	bits uint64
}

func (k *marker) init(s *Store) {
	k.store = s
	k.moved = sync.NewCond(&k.mu)
	k.ended = make(chan struct{})
}

// add puts a mark on the list and does not wait for it.
func (k *marker) add(m mark) {
	k.mu.Lock()
	defer k.mu.Unlock()
	k.list = append(k.list, m)
	k.moved.Broadcast()
}

func (k *marker) run() {
	defer close(k.ended)
	for {
		k.mu.Lock()
		k.busy = false
		k.moved.Broadcast()
		for len(k.list) == 0 && !k.quit {
			k.moved.Wait()
		}
		if k.quit {
			k.mu.Unlock()
			return
		}
		m := k.list[0]
		k.list = k.list[1:]
		k.busy = true
		k.mu.Unlock()
		if err := k.apply(m); err != nil {
			k.store.fail(err)
			return
		}
	}
}

// apply renames the file; one without a recipient left is marked used as a whole
// and removed.
func (k *marker) apply(m mark) error {
	m.msg.mu.Lock()
	defer m.msg.mu.Unlock()
	from := filepath.Join(k.store.dir, name(m.msg.id, m.msg.marks))
	marks := m.msg.marks | m.bits
	done := bits.OnesCount64(marks) == len(m.msg.head.Recipients)
	to := filepath.Join(k.store.dir, name(m.msg.id, marks))
	if done {
		to += usedSuffix
	}
	if err := os.Rename(from, to); err != nil {
		return fmt.Errorf("mark a message used: %w", err)
	}
	k.unmarked.Add(-int64(bits.OnesCount64(marks) - bits.OnesCount64(m.msg.marks)))
	m.msg.marks = marks
	if done {
		if err := os.Remove(to); err != nil {
			return fmt.Errorf("remove a used message: %w", err)
		}
	}
	return nil
}

// drain waits until the list is empty or ctx ends.
func (k *marker) drain(ctx context.Context) {
	stop := context.AfterFunc(ctx, func() {
		k.mu.Lock()
		defer k.mu.Unlock()
		k.moved.Broadcast()
	})
	defer stop()
	k.mu.Lock()
	defer k.mu.Unlock()
	for (len(k.list) > 0 || k.busy) && !k.quit && ctx.Err() == nil {
		k.moved.Wait()
	}
}

func (k *marker) stop() {
	k.mu.Lock()
	k.quit = true
	k.moved.Broadcast()
	k.mu.Unlock()
	<-k.ended
}

// fail makes every later call say err.
func (s *Store) fail(err error) {
	s.mu.Lock()
	s.failed = fmt.Errorf("%w: %w", mailq.ErrFailed, err)
	s.announceLocked()
	s.mu.Unlock()
	s.marks.mu.Lock()
	defer s.marks.mu.Unlock()
	s.marks.quit = true
	s.marks.moved.Broadcast()
}
