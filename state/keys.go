package state

// keyWindow is the idempotency keys that are remembered, oldest first.
type keyWindow struct {
	by    map[string]keyed
	order []Key
	first int // what is before it in order was forgotten
}

type keyed struct {
	id uint64
	at int64
}

// Key is an idempotency key and the message it came with.
type Key struct {
	Key string
	ID  uint64
	At  int64 // Unix ns
}

func (k *keyWindow) add(key []byte, id uint64, at int64) {
	if k.by == nil {
		k.by = make(map[string]keyed)
	}
	s := string(key)
	k.by[s] = keyed{id, at}
	k.order = append(k.order, Key{s, id, at})
}

func (k *keyWindow) forget(n uint64) {
	for ; n > 0 && k.first < len(k.order); n-- {
		e := &k.order[k.first]
		// The same key may have come again after it had been forgotten by time.
		if k.by[e.Key] == (keyed{e.ID, e.At}) {
			delete(k.by, e.Key)
		}
		*e = Key{}
		k.first++
	}
	if k.first > 1024 && k.first*2 > len(k.order) {
		k.order = append([]Key(nil), k.order[k.first:]...)
		k.first = 0
	}
}

// FindKey is the message that a key was first seen with, since it was last forgotten, and
// when that was, in Unix ns.
func (t *Table) FindKey(key string) (id uint64, at int64, ok bool) {
	k, ok := t.keys.by[key]
	return k.id, k.at, ok
}

// Keys are the keys remembered, oldest first, a view.
func (t *Table) Keys() []Key { return t.keys.order[t.keys.first:] }
