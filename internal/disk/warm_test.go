package disk

import (
	"math/rand/v2"
	"os"
	"testing"
)

// Pages are warm that were added, none beside them, and not for long.
func TestWarmPages(t *testing.T) {
	const pages = 200
	size := int64(os.Getpagesize())
	seed := rand.Uint64()
	rng := rand.New(rand.NewPCG(seed, 0))
	now := int64(1_000_000_000_000)
	w := warmPages{size: pages * os.Getpagesize()}
	if w.has(now, 0, 1) {
		t.Error("a page is warm that nobody added")
	}
	known := make([]bool, pages)
	for range 2000 {
		from := rng.Int64N(pages*size - 1)
		till := from + 1 + rng.Int64N(min(pages*size-from, 80*size))
		all := true
		for p := from / size; p <= (till-1)/size; p++ {
			all = all && known[p]
		}
		if w.has(now, from, till) != all {
			t.Fatalf("bytes from %d to %d are warm: %v, want %v; seed %d", from, till, !all, all, seed)
		}
		switch {
		case rng.IntN(3) == 0:
			w.add(from, till)
			for p := from / size; p <= (till-1)/size; p++ {
				known[p] = true
			}
		case rng.IntN(20) == 0:
			if now += int64(warmFor); rng.IntN(2) == 0 {
				now -= int64(3 * warmFor) // the clock was set
			}
			clear(known)
			if w.has(now, from, till) {
				t.Fatalf("bytes from %d to %d are warm for longer than %v; seed %d", from, till, warmFor, seed)
			}
		}
	}
}
