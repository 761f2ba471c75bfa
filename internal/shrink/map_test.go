package shrink

import (
	"math/rand/v2"
	"runtime"
	"testing"
)

func TestMap(t *testing.T) {
	var m Map[int, int]
	want := map[int]int{}
	rng := rand.New(rand.NewPCG(1, 1))
	for i := 1; i <= 200_000; i++ {
		k := rng.IntN(1 + 20_000*(1+i/40_000%2))
		if i/50_000%2 == 0 || rng.IntN(3) == 0 {
			m.Put(k, i)
			want[k] = i
		} else {
			m.Delete(k)
			delete(want, k)
		}
		if got, ok := m.Get(k); got != want[k] || ok != (want[k] != 0) || m.Len() != len(want) {
			t.Fatalf("step %d: %d is %d, %v; %d entries, want %d", i, k, got, ok, m.Len(), len(want))
		}
	}
}

func TestMapGivesMemoryBack(t *testing.T) {
	heap := func() int64 {
		var s runtime.MemStats
		runtime.GC()
		runtime.ReadMemStats(&s)
		return int64(s.HeapAlloc)
	}
	before := heap()
	var m Map[int, int]
	for i := range 1 << 18 {
		m.Put(i, i)
	}
	for i := range 1 << 18 {
		m.Delete(i)
	}
	if left := heap() - before; left > 1<<18 {
		t.Errorf("an empty map holds %d bytes", left)
	}
	runtime.KeepAlive(&m)
}
