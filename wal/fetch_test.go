package wal

import (
	"math/rand/v2"
	"slices"
	"testing"

	"github.com/mtawal/mtawal/segment"
)

// What is read is all that was asked for, in order, in reads that are bounded where one piece alone is not longer, and with
// next to nothing between the pieces.
func TestJoinedReads(t *testing.T) {
	const seed = 7
	rnd := rand.New(rand.NewPCG(seed, seed))
	for range 200 {
		var list []span
		var bytes int64
		for at := int64(0); len(list) < 100; {
			at += rnd.Int64N(3 * fetchGap)
			n := 1 + rnd.Int64N(fetchGap)
			if rnd.IntN(20) == 0 {
				n = 2 * fetchMax
			}
			list = append(list, span{at, at + n})
			at, bytes = at+n, bytes+n
		}
		wanted := slices.Clone(list)
		rnd.Shuffle(len(list), func(i, j int) { list[i], list[j] = list[j], list[i] })
		got := joined(list)
		var read int64
		for i, x := range got {
			if i > 0 && x.from < got[i-1].till {
				t.Fatalf("seed %d: %v after %v", seed, x, got[i-1])
			}
			if n := x.till - x.from; n > fetchMax && !slices.Contains(wanted, x) {
				t.Errorf("seed %d: a read of %d bytes", seed, n)
			}
			read += x.till - x.from
		}
		if most := bytes + int64(len(wanted)-len(got))*fetchGap; read > most {
			t.Errorf("seed %d: %d bytes are read for %d", seed, read, bytes)
		}
		for _, w := range wanted {
			if !slices.ContainsFunc(got, func(x span) bool { return x.from <= w.from && w.till <= x.till }) {
				t.Errorf("seed %d: %v is not read", seed, w)
			}
		}
		if len(got) == len(wanted) {
			t.Errorf("seed %d: nothing was joined", seed)
		}
	}
}

// Pieces are taken together as far as one segment goes, and a frame's table.
func TestPiecesOfAFrame(t *testing.T) {
	at := func(n uint32, off int64) heldPiece { return heldPiece{pos: segment.MakePos(n, off)} }
	list := []heldPiece{at(1, 4096), at(1, 4200), at(1, 4096+frameSpan), at(1, 4097+frameSpan), at(2, 4097+frameSpan), at(2, 4098+frameSpan)}
	var got []int
	for len(list) > 0 {
		n := inOneFrame(list)
		got, list = append(got, n), list[n:]
	}
	if !slices.Equal(got, []int{3, 1, 2}) {
		t.Errorf("taken together: %v", got)
	}
	if n := inOneFrame(slices.Repeat([]heldPiece{at(1, 4096)}, 2*frameMost)); n != frameMost {
		t.Errorf("%d at once", n)
	}
}
