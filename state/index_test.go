package state

import (
	"fmt"
	"math/rand/v2"
	"testing"

	"pgregory.net/rapid"
)

// ids are what a table with an index alone would hold.
type ids struct {
	table *Table
	want  map[uint64]uint32
	order []uint64
}

func newIDs() *ids { return &ids{table: NewTable(), want: map[uint64]uint32{}} }

func (x *ids) insert(id uint64) {
	if _, ok := x.want[id]; ok || id == 0 {
		return
	}
	slot := x.table.newMessage(id, 1)
	x.table.addLive(x.table.Msg(slot), 1)
	x.want[id] = slot
	x.order = append(x.order, id)
}

func (x *ids) remove(i int) {
	id := x.order[i]
	x.order[i] = x.order[len(x.order)-1]
	x.order = x.order[:len(x.order)-1]
	slot := x.want[id]
	delete(x.want, id)
	x.table.addLive(x.table.Msg(slot), -1)
	x.table.drop(slot)
}

// check compares with the map, and the index with its own rules.
func (x *ids) check() error {
	for id, slot := range x.want {
		if got, ok := x.table.Find(id); !ok || got != slot {
			return fmt.Errorf("ID %#x: slot %d, %v, want %d", id, got, ok, slot)
		}
	}
	n := 0
	for i := range x.table.index.shards {
		s := &x.table.index.shards[i]
		groups := 0
		for j := range s.groups {
			g := &s.groups[j]
			if g.key == 0 {
				if *g != (idGroup{}) {
					return fmt.Errorf("shard %d: free group %d holds something", i, j)
				}
				continue
			}
			groups++
			if g.slots == [8]uint32{} {
				return fmt.Errorf("shard %d: group %d is empty and stays", i, j)
			}
			for k, v := range g.slots {
				if v == 0 {
					continue
				}
				n++
				if id := (g.key-1)<<3 + uint64(k); x.table.Msg(v-1).ID != id {
					return fmt.Errorf("slot %d is that of ID %#x, listed under %#x", v-1, x.table.Msg(v-1).ID, id)
				}
			}
		}
		if groups != s.used || groups*4 > len(s.groups)*3 {
			return fmt.Errorf("shard %d: %d groups in %d, %d counted", i, groups, len(s.groups), s.used)
		}
		if len(s.groups) > 16 && groups*8 < len(s.groups) {
			return fmt.Errorf("shard %d keeps %d for %d", i, len(s.groups), groups)
		}
	}
	if n != len(x.want) || x.table.Messages() != n {
		return fmt.Errorf("%d entries, %d messages, want %d", n, x.table.Messages(), len(x.want))
	}
	return nil
}

var strides = []uint64{1, 2, 3, 7, 8, 9, 10, 16, 64, 100, 256, 1000, 1024, 1 << 16, 1 << 20, 1 << 24, 1 << 28, 1<<32 - 1, 1 << 32, 1<<32 + 8, 1 << 35, 987 * 8, 0x9E3779B97F4A7C15, 1 << 40, 1 << 60}

func TestIndexModel(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		x := newIDs()
		stride := rapid.SampledFrom(strides).Draw(t, "stride")
		base := rapid.Uint64().Draw(t, "base")
		next := uint64(0)
		for range rapid.IntRange(1, 12).Draw(t, "rounds") {
			n := rapid.IntRange(1, 300).Draw(t, "n")
			switch rapid.IntRange(0, 3).Draw(t, "what") {
			case 0, 1:
				for range n {
					x.insert(base + next*stride)
					next++
				}
			case 2:
				for ; n > 0 && len(x.order) > 0; n-- {
					x.remove(rapid.IntRange(0, len(x.order)-1).Draw(t, "which"))
				}
			case 3:
				for range n % 20 {
					x.insert(rapid.Uint64().Draw(t, "id"))
				}
			}
			if err := x.check(); err != nil {
				t.Fatal(err)
			}
			for range 20 {
				id := base + rapid.Uint64Max(2*next+2).Draw(t, "absent")*stride + 1
				if _, ok := x.want[id]; !ok {
					if slot, ok := x.table.Find(id); ok {
						t.Fatalf("ID %#x is not there and was found in slot %d", id, slot)
					}
				}
			}
		}
		for len(x.order) > 0 {
			x.remove(len(x.order) - 1)
		}
		if err := x.check(); err != nil {
			t.Fatal(err)
		}
	})
}

// TestIndexSurvivors: many come in order and few stay, at regular distances or not, while
// more come: what stays is found, and the index shrinks.
func TestIndexSurvivors(t *testing.T) {
	const n, seed = 60_000, 1
	rng := rand.New(rand.NewPCG(seed, 0))
	for _, keep := range []uint64{2, 8, 64, 100, 1000} {
		x := newIDs()
		for id := uint64(1); id <= n; id++ {
			x.insert(id)
		}
		for i := len(x.order) - 1; i >= 0; i-- {
			if x.order[i]%keep != 0 {
				x.remove(i)
			}
		}
		if err := x.check(); err != nil {
			t.Fatalf("every %dth survives (seed %d): %v", keep, seed, err)
		}
		for range 5000 {
			x.insert(n + rng.Uint64N(n))
			x.remove(rng.IntN(len(x.order)))
		}
		if err := x.check(); err != nil {
			t.Fatalf("every %dth survives, others come and go (seed %d): %v", keep, seed, err)
		}
	}
}

// TestIndexProbes: IDs at a regular distance do not pile up.
func TestIndexProbes(t *testing.T) {
	const n, most = 30_000, 10
	for _, stride := range strides {
		if stride > 1<<35 && stride&(stride-1) == 0 {
			continue // farther apart than IDs ever are
		}
		x := newIDs()
		for i := range uint64(n) {
			x.insert(1 + i*stride)
		}
		probes := 0
		for id := range x.want {
			sh, home, key := split(id)
			s := &x.table.index.shards[sh]
			mask := uint64(len(s.groups) - 1)
			probes += int((s.group(home, key)-home)&mask) + 1
		}
		if probes > n*most {
			t.Errorf("distance %#x: %.1f probes a lookup", stride, float64(probes)/n)
		}
	}
}

// TestIndexDoesNotCrowd: whatever the distance of the IDs that are left, a group is found next to where it would
// like to be. Two groups further on is what chance does to a table that is three quarters full.
func TestIndexDoesNotCrowd(t *testing.T) {
	for _, stride := range strides {
		var x index
		for id := range uint64(50_000) {
			x.insert(1000+id*stride, uint32(id))
		}
		used, steps := 0, uint64(0)
		for i := range x.shards {
			s := &x.shards[i]
			used += s.used
			for j := range s.groups {
				if key := s.groups[j].key; key != 0 {
					_, home, _ := split((key - 1) << 3)
					steps += (uint64(j) - home) & uint64(len(s.groups)-1)
				}
			}
		}
		if mean := float64(steps) / float64(used); mean > 4 {
			t.Errorf("IDs %d apart: a group is %.1f further than its place", stride, mean)
		}
	}
}
