package wal

import (
	"fmt"
	"math/rand/v2"
	"strings"
	"testing"
	"time"
)

// A million messages of which every tenth is used at random, then every second, then four of five: when segments are
// sparse by Options.CompactDead what comes back is what CompactSpace promises, while the store goes on
// working, and Compact leaves little more than what lives. Behind every second the log is hardly larger than that
// as it is; behind four of five it is far from it, and most of it has to be emptied.
func TestBytesComeBackAsPromised(t *testing.T) {
	t.Parallel()
	n := 1_000_000
	if testing.Short() {
		n = 20_000
	}
	segment := int64(n) / 10_000 << 16 // 160 of them or so
	segment = min(max(segment, 64<<10), 4<<20)
	s, err := Open(t.TempDir(), Options{SegmentSize: segment, CompactRate: 1 << 40})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = s.Close() })
	seed := rand.Uint64()
	t.Logf("seed %d, segments of %d bytes", seed, segment)
	random := rand.New(rand.NewPCG(seed, 0))
	body := []byte(strings.Repeat("dear all ", 30))
	post := func(k int) []ID {
		t.Helper()
		var b Batch
		for i := range k {
			b.Enqueue = append(b.Enqueue, Message{Body: body, Recipients: []Recipient{{Queue: fmt.Sprint("q", i%20), Address: "a"}}})
		}
		ids, err := s.Commit(t.Context(), b)
		if err != nil {
			t.Fatal(err)
		}
		return ids
	}
	use := func(ids []ID) {
		t.Helper()
		for len(ids) > 0 {
			var b Batch
			for _, id := range ids[:min(100, len(ids))] {
				b.Edit = append(b.Edit, Edit{ID: id, Outcomes: []Outcome{{Recipient: 0, Result: Delivered}}})
			}
			if _, err := s.Commit(t.Context(), b); err != nil {
				t.Fatal(err)
			}
			ids = ids[len(b.Edit):]
		}
	}
	var ids []ID
	for len(ids) < n {
		ids = append(ids, post(100)...)
	}
	// over is by how much the log is larger than is promised, what stands behind the older of two
	// checkpoints and what is being copied apart.
	over := func() (over, log, live int64) {
		for _, i := range s.segmentUses() {
			log += i.Size
		}
		live = s.Stats().LiveBytes
		behind := 2 * max(foldGrowth*s.folds.size.Load(), segment)
		return log - live*CompactSpaceDefault/100 - behind - 8*segment, log, live
	}
	for _, part := range []struct{ used, of int }{{1, 10}, {1, 2}, {4, 5}} {
		random.Shuffle(len(ids), func(i, j int) { ids[i], ids[j] = ids[j], ids[i] })
		k := len(ids) / part.of * part.used
		use(ids[:k])
		ids = ids[k:]
		var much, log, live int64
		i := 0
		for ; ; i++ { // copies are bounded by what is written, so something is
			if much, log, live = over(); much <= 0 || i == 1000 || part.of == 10 {
				break
			}
			use(post(10))
			time.Sleep(20 * time.Millisecond)
		}
		// A tenth of each segment is less than CompactDead: none is sparse yet.
		if much > 0 && part.of != 10 {
			t.Errorf("%d of %d used: %d bytes of log for %d live ones, %d more than is promised", part.used, part.of, log, live, much)
		}
		t.Logf("%d of %d used: %d bytes of log for %d live ones, after %d pieces of more work", part.used, part.of, log, live, i)
	}
	if err := s.Compact(t.Context()); err != nil {
		t.Fatal(err)
	}
	_, log, live := over()
	t.Logf("Compact: %d bytes of log for %d live ones", log, live)
	if log > live*2+4*segment { // CompactDead is 50
		t.Errorf("Compact left %d bytes of log for %d live ones", log, live)
	}
	if st := s.Stats(); st.WorkQueueLength != int64(len(ids)) || st.Unaccounted != 0 {
		t.Errorf("%d messages should be left: %+v", len(ids), st)
	}
}
