package state

// keyWindow is the idempotency keys that are remembered, oldest first.
type keyWindow struct {
	by    map[string]uint64
	order []Key
	first int // what is before it in order was forgotten
}

// Key is an idempotency key and the message it came with.
type Key struct {
	Key string
	ID  uint64
	At  int64 // Unix ns
}

func (k *keyWindow) add(key []byte, id uint64, at int64) {
	if k.by == nil {
		k.by = make(map[string]uint64)
	}
	s := string(key)
	k.by[s] = id
	k.order = append(k.order, Key{s, id, at})
}

func (k *keyWindow) forget(n uint64) {
	for ; n > 0 && k.first < len(k.order); n-- {
		e := &k.order[k.first]
		// The same key may have come again after it had been forgotten by time.
		if k.by[e.Key] == e.ID {
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

// FindKey is the message that a key was first seen with.
func (t *Table) FindKey(key string) (id uint64, ok bool) {
	id, ok = t.keys.by[key]
	return id, ok
}

// Keys are the keys remembered, oldest first, a view.
func (t *Table) Keys() []Key { return t.keys.order[t.keys.first:] }
