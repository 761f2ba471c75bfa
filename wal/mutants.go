package wal

import "fmt"

// What the store does when a barrier is gone, where that takes more than leaving something
// out. See package barrier: nothing here is called in a store that is built without its tag.

// goOn forgets that a write failed: those who waited for it hear of it, nobody else does.
// Store.mu is held.
func (s *Store) goOn(g *group, err error) {
	s.log.Retract(&g.flight)
	for _, t := range g.tickets {
		for _, k := range t.keys {
			delete(s.keysOut, k)
		}
		t.fail(fmt.Errorf("%w: %w", ErrFailed, err))
	}
}

// repeats reports whether a batch is nothing but messages whose keys were seen before, and
// gives it the IDs of the first ones.
func (t *ticket) repeats() bool {
	t.ids = t.ids[:0]
	for i := range t.plans {
		if !t.plans[i].shared {
			return false
		}
		t.ids = append(t.ids, ID(t.plans[i].id))
	}
	return len(t.ids) > 0 && len(t.settle)+len(t.edit)+len(t.moves) == 0 && t.chunk == nil && t.queue == nil
}
