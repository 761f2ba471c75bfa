package core

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"os"
	"sync"
	"sync/atomic"
	"time"

	"github.com/mtawal/mtawal/torture/internal/mail"
	"github.com/mtawal/mtawal/wal"
	"golang.org/x/sys/unix"
)

// load runs producers, consumers and the companions that the configuration asks for.
func (l *life) load() error {
	ctx, stop := context.WithTimeout(context.Background(), l.Config.For)
	defer stop()
	var wg sync.WaitGroup
	var serial, handouts atomic.Int64
	for i := range l.Config.Producers {
		p := &producer{life: l, rng: rand.New(rand.NewPCG(l.Seed, uint64(i))), serial: &serial}
		wg.Go(func() { l.guard(ctx, p.run) })
	}
	for i := range l.Config.Consumers {
		c := &consumer{life: l, rng: rand.New(rand.NewPCG(l.Seed, uint64(1000+i))), handouts: &handouts}
		wg.Go(func() { l.guard(ctx, c.run) })
	}
	rng := rand.New(rand.NewPCG(l.Seed, 2000))
	every := func(on bool, pause time.Duration, what func(context.Context) error) {
		if !on {
			return
		}
		seed := rng.Uint64()
		wg.Go(func() {
			rng := rand.New(rand.NewPCG(seed, 0))
			for wait(ctx, time.Duration(rng.Int64N(int64(2*pause)))) {
				l.guard(ctx, what)
			}
		})
	}
	every(l.Config.Fold, 60*time.Millisecond, l.store.Checkpoint)
	every(l.Config.Compact, 150*time.Millisecond, l.store.Compact)
	every(l.Config.Operator, 20*time.Millisecond, l.remove)
	every(l.Config.Sync, 40*time.Millisecond, func(context.Context) error { return l.syncAll() })
	if l.Cut != "" {
		<-ctx.Done()
		if err := l.cut(); err != nil {
			return err
		}
		l.store.Close() // its last words went nowhere
	}
	wg.Wait()
	if l.Cut != "" {
		return nil
	}
	if err := l.extents(); err != nil {
		return err
	}
	if !l.Config.Close {
		l.mu.Lock()
		l.over = true // what follows is not recorded
		l.mu.Unlock()
		if l.file >= 0 {
			if _, err := unix.Write(l.file, []byte("C\n")); err != nil {
				return fmt.Errorf("note the end: %w", err)
			}
		}
		l.store.Close()
		return nil
	}
	if err := l.store.Close(); err != nil {
		l.trouble("close: %v", err)
	}
	return nil
}

// guard makes trouble of an error that nothing explains.
func (l *life) guard(ctx context.Context, what func(context.Context) error) {
	err := what(ctx)
	for _, known := range []error{nil, wal.ErrClosed, wal.ErrFull, wal.ErrTooLarge, wal.ErrUnknown, context.DeadlineExceeded, context.Canceled} {
		if errors.Is(err, known) {
			return
		}
	}
	l.trouble("under load: %v", err)
}

// wait reports whether there is time left after it.
func wait(ctx context.Context, d time.Duration) bool {
	select {
	case <-ctx.Done():
		return false
	case <-time.After(d):
		return ctx.Err() == nil
	}
}

// syncAll has the file system write all it holds back.
func (l *life) syncAll() error {
	d, err := os.Open(l.Dir)
	if err != nil {
		return err
	}
	defer d.Close()
	return unix.Syncfs(int(d.Fd()))
}

// remove marks a message used, whoever has it claimed.
func (l *life) remove(context.Context) error {
	l.mu.Lock()
	var key string
	var id wal.ID
	for key, id = range l.ids { // any
		break
	}
	delete(l.ids, key)
	l.mu.Unlock()
	if key == "" {
		return nil
	}
	msg, _, _ := l.maker.Head(key)
	codes := map[int]byte{}
	for i := range msg.Recipients {
		codes[i] = mail.Removed
	}
	l.mark(fmt.Sprintf("S %s 0 %s", key, mail.Codes(codes)))
	err := l.store.MarkUsed(context.Background(), id, wal.All)
	if errors.Is(err, wal.ErrNotFound) {
		return nil
	}
	if err != nil {
		return fmt.Errorf("mark message %s used: %w", key, err)
	}
	l.mark(fmt.Sprintf("T %s 0 %s", key, mail.Codes(codes)))
	return nil
}

// producer enqueues.
type producer struct {
	*life
	rng    *rand.Rand
	serial *atomic.Int64
}

func (p *producer) key() (string, bool) {
	n := p.serial.Add(1)
	return fmt.Sprintf("%s-%d", p.Life, n), n <= int64(p.Config.Messages)
}

func (p *producer) run(ctx context.Context) error {
	for ctx.Err() == nil {
		if p.rng.IntN(4) == 0 && !wait(ctx, time.Duration(p.rng.Int64N(int64(5*time.Millisecond)))) {
			return nil
		}
		key, ok := p.key()
		if !ok {
			return nil
		}
		var err error
		if p.Config.Batches && p.rng.IntN(6) == 0 {
			err = p.batch(key)
		} else {
			err = p.one(key)
		}
		if err != nil {
			return fmt.Errorf("enqueue message %s: %w", key, err)
		}
	}
	return nil
}

func (p *producer) one(key string) error {
	ctx := context.Background()
	msg := p.maker.Message(key)
	if p.rng.IntN(3) == 0 {
		msg.ID = p.store.NewID()
	}
	if p.Config.Staged && p.rng.IntN(4) == 0 {
		s, err := p.store.Stage(ctx, 0)
		if err != nil {
			return err
		}
		defer s.Abort()
		for b := msg.Body; len(b) > 0; {
			n := 1 + p.rng.IntN(len(b))
			if _, err := s.Write(b[:n]); err != nil {
				return err
			}
			b = b[n:]
		}
		if p.rng.IntN(8) == 0 {
			return nil // the sender went away
		}
		msg.Body, msg.Staged = nil, s
	}
	p.mark(fmt.Sprintf("I %s %d -", key, len(msg.Recipients)))
	id, err := p.store.Enqueue(ctx, msg)
	if err != nil {
		return err
	}
	p.accepted(key, id)
	return nil
}

// batch enqueues a few together.
func (p *producer) batch(key string) error {
	keys := []string{key}
	for range 1 + p.rng.IntN(3) {
		if k, ok := p.key(); ok {
			keys = append(keys, k)
		}
	}
	var b wal.Batch
	for _, k := range keys {
		msg := p.maker.Message(k)
		b.Enqueue = append(b.Enqueue, msg)
		p.mark(fmt.Sprintf("I %s %d %s", k, len(msg.Recipients), key))
	}
	ids, err := p.store.Commit(context.Background(), b)
	if err != nil {
		return err
	}
	for i, k := range keys {
		p.accepted(k, ids[i])
	}
	return nil
}
