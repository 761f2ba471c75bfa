package system

import "sync"

// grouper is a group commit for systems that have none: what callers bring while one
// commit is under way makes up the next. It gives them the batching that a user would write.
type grouper[T any] struct {
	commit func([]T) error

	mu      sync.Mutex
	busy    bool
	filling *gathering[T]
}

type gathering[T any] struct {
	items []T
	done  chan struct{}
	err   error
}

// do returns when the items were committed, with those of others.
func (g *grouper[T]) do(items ...T) error {
	g.mu.Lock()
	if g.filling == nil {
		g.filling = &gathering[T]{done: make(chan struct{})}
	}
	mine := g.filling
	mine.items = append(mine.items, items...)
	if g.busy {
		g.mu.Unlock()
		<-mine.done
		return mine.err
	}
	g.busy, g.filling = true, nil
	g.mu.Unlock()
	g.finish(mine)
	// Whoever came meanwhile has its commit made by a goroutine, so that this caller
	// need not work for others.
	g.mu.Lock()
	if g.filling == nil {
		g.busy = false
		g.mu.Unlock()
		return mine.err
	}
	g.mu.Unlock()
	go g.run()
	return mine.err
}

func (g *grouper[T]) finish(b *gathering[T]) {
	b.err = g.commit(b.items)
	close(b.done)
}

func (g *grouper[T]) run() {
	for {
		g.mu.Lock()
		b := g.filling
		g.filling = nil
		if b == nil {
			g.busy = false
			g.mu.Unlock()
			return
		}
		g.mu.Unlock()
		g.finish(b)
	}
}
