// Package shrink has a map that gives memory back.
package shrink

// few is up to how many entries a map need not shrink.
const few = 1024

// Map is a map whose memory follows what is in it: the built-in one keeps what it once
// needed. Deleting costs a constant time on average, now and then that of what is left. The
// zero value is empty.
type Map[K comparable, V any] struct {
	m    map[K]V
	peak int // most entries since it was made
}

// Reserve makes room in an empty map for so many entries.
func (m *Map[K, V]) Reserve(n int) {
	if len(m.m) == 0 {
		m.m, m.peak = make(map[K]V, n), n
	}
}

// Get returns what was put.
func (m *Map[K, V]) Get(k K) (V, bool) {
	v, ok := m.m[k]
	return v, ok
}

// Put adds or replaces an entry.
func (m *Map[K, V]) Put(k K, v V) {
	if m.m == nil {
		m.m = make(map[K]V)
	}
	m.m[k] = v
	m.peak = max(m.peak, len(m.m))
}

// Delete takes an entry out, if it is there.
func (m *Map[K, V]) Delete(k K) {
	delete(m.m, k)
	if m.peak <= few || len(m.m) > m.peak/8 {
		return
	}
	old := m.m
	m.m = make(map[K]V, len(old))
	for k, v := range old {
		m.m[k] = v
	}
	m.peak = max(len(old), few)
}

// Len is the number of entries.
func (m *Map[K, V]) Len() int { return len(m.m) }
