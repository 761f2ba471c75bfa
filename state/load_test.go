package state

import (
	"fmt"
	"maps"
	"math/rand/v2"
	"slices"
	"testing"
	"unsafe"

	"github.com/mtawal/mtawal/segment"
)

// loadedWith is a table into which so many messages were loaded, of which so many were announced.
func loadedWith(n, announced int) *Table {
	t := NewTable()
	q := t.QueueNamed("q")
	l := t.Loader(announced)
	for i := range n {
		l.Add(&Entry{ID: uint64(i + 1), Loc: segment.MakePos(1, int64(i+1)*64), Weight: 4, Rcpts: []EntryRecipient{{Recipient: Recipient{Queue: q}}}})
	}
	l.Close()
	return t
}

// die takes the message with an ID out of a table.
func die(t *testing.T, table *Table, id uint64) {
	t.Helper()
	slot, ok := table.Find(id)
	if !ok {
		t.Fatalf("message %d is not there", id)
	}
	m := table.Msg(slot)
	m.one[0].Standing = Used
	table.addLive(m, -1)
	table.drop(slot)
}

// Whatever was announced, what was loaded is there, in its slot, and slots that are left are used before others.
func TestLoader(t *testing.T) {
	for _, n := range []int{0, 1, slabSize - 1, slabSize, slabSize + 1, 3*slabSize + 7, blockSlabs*slabSize + 5} {
		for _, announced := range []int{n, 0, n / 2, 2*n + 1} {
			table := loadedWith(n, announced)
			if table.Messages() != n || table.Loaded() != uint64(n) {
				t.Fatalf("%d of %d, up to %d", table.Messages(), n, table.Loaded())
			}
			for id := range uint64(n) {
				if slot, ok := table.Find(id + 1); !ok || table.Msg(slot).ID != id+1 || slot != uint32(id) {
					t.Fatalf("%d loaded, %d announced: message %d is in slot %d, %t", n, announced, id+1, slot, ok)
				}
			}
			slabs := len(table.slab)
			for i := n; i < (n+slabSize-1)/slabSize*slabSize; i++ {
				if slot := table.newMessage(uint64(i+1), 1); slot != uint32(i) {
					t.Fatalf("the next message is in slot %d, want %d", slot, i)
				}
			}
			if len(table.slab) != slabs {
				t.Errorf("%d slabs became %d before they were full", slabs, len(table.slab))
			}
		}
	}
}

// The memory of loaded messages is used again while some of a block live, and goes when none does.
func TestLoadedSlabsComeBack(t *testing.T) {
	const n = (blockSlabs + 3) * slabSize
	table := loadedWith(n, n)
	big := 0 // of the two blocks, either of which may be made first
	if table.blocks[0].n == 3 {
		big = 3
	}
	if b := table.blocks[table.slabs[big].block-1]; len(table.blocks) != 2 || b.first != uint32(big) || b.n != blockSlabs {
		t.Fatalf("the blocks are %+v", table.blocks)
	}
	kept := uint64((big + 5) * slabSize)
	first := unsafe.Pointer(table.slab[big])
	for id := range uint64(n) {
		if id+1 != kept {
			die(t, table, id+1)
		}
	}
	for i := range table.slab {
		if there := table.slab[i] != nil; there != (i >= big && i < big+blockSlabs) {
			t.Fatalf("slab %d of %d: there is memory: %t", i, len(table.slab), there)
		}
	}
	for i := range blockSlabs*slabSize - 1 {
		slot := table.newMessage(uint64(n+1+i), 1)
		if i := int(slot / slabSize); i < big || i >= big+blockSlabs {
			t.Fatalf("message %d of those that fit into the block is in slot %d", i, slot)
		}
		m := table.Msg(slot)
		table.addLive(m, 1)
	}
	if unsafe.Pointer(table.slab[big]) != first {
		t.Error("the block was made again")
	}
	die(t, table, kept)
	for i := range blockSlabs*slabSize - 1 {
		die(t, table, uint64(n+1+i))
	}
	for i, s := range table.slab {
		if s != nil {
			t.Fatalf("slab %d has memory though nothing lives", i)
		}
	}
	seen := make(map[uint32]string)
	for i := range 3 * slabSize {
		slot := table.newMessage(uint64(10*n+i), 1)
		if was, ok := seen[slot]; ok {
			t.Fatalf("slot %d was given twice: %s", slot, was)
		}
		seen[slot] = fmt.Sprint(i)
	}
}

// What was loaded is found, and nothing else is, however far IDs are apart, while messages die, slots are used again, and messages come
// whose IDs had been reserved below those that were loaded.
func TestFindsWhatWasLoaded(t *testing.T) {
	for seed := range uint64(30) {
		rng := rand.New(rand.NewPCG(seed, 7))
		table, slots := NewTable(), make(map[uint64]uint32)
		q := table.QueueNamed("q")
		l := table.Loader(2000)
		gap := 1 + rng.Uint64N(1<<rng.IntN(12))
		id := uint64(0)
		for range rng.IntN(5 * slabSize) {
			id += 1 + rng.Uint64N(gap)
			slots[id] = l.Add(&Entry{ID: id, Loc: segment.MakePos(1, int64(id)*64), Weight: 4, Rcpts: []EntryRecipient{{Recipient: Recipient{Queue: q}}}})
		}
		l.Close()
		dead := make(map[uint64]bool)
		check := func() {
			for id, want := range slots {
				if slot, ok := table.Find(id); !ok || slot != want || table.Msg(slot).ID != id {
					t.Fatalf("seed %d: message %d is in slot %d, %t, want %d", seed, id, slot, ok, want)
				}
			}
			for range 1000 {
				id := rng.Uint64N(id + 1000)
				if slot, ok := table.Find(id); ok && (slots[id] != slot || table.Msg(slot).ID != id) {
					t.Fatalf("seed %d: message %d is found in slot %d, and is not there", seed, id, slot)
				}
			}
			for id := range dead {
				if slot, ok := table.Find(id); ok {
					t.Fatalf("seed %d: message %d is dead, and found in slot %d", seed, id, slot)
				}
			}
		}
		check()
		for range 4 {
			part := rng.Float64()
			for _, id := range slices.Sorted(maps.Keys(slots)) {
				if rng.Float64() < part {
					if slot := slots[id]; rng.IntN(4) == 0 {
						table.Ref(slot) // the slot stays
					}
					die(t, table, id)
					delete(slots, id)
					dead[id] = true
				}
			}
			for range rng.IntN(3 * slabSize) {
				fresh := 1 + rng.Uint64N(id+500)
				if _, ok := slots[fresh]; ok || dead[fresh] {
					continue
				}
				slots[fresh] = table.newMessage(fresh, 1)
				table.addLive(table.Msg(slots[fresh]), 1)
			}
			check()
		}
	}
}
