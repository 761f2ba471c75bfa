package checkpoint

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"slices"
	"testing"

	"github.com/mtawal/mtawal/internal/disk/memdisk"
	"github.com/mtawal/mtawal/journal"
	"github.com/mtawal/mtawal/segment"
	"github.com/mtawal/mtawal/state"
	"pgregory.net/rapid"
)

func TestPlan(t *testing.T) {
	at := func(n uint32) segment.Pos { return segment.MakePos(n, 8192) }
	use := func(n ...uint32) map[uint32]Usage {
		m := map[uint32]Usage{}
		for _, i := range n {
			m[i] = Usage{Messages: 1}
		}
		return m
	}
	all := []uint32{1, 2, 3, 4, 5, 6}
	for _, c := range []struct {
		name         string
		newer, older *Summary
		want         []uint32
	}{
		{"no checkpoint", nil, nil, nil},
		{"one checkpoint", &Summary{at(5), nil}, nil, nil},
		{"two in the first segment", &Summary{at(1), nil}, &Summary{at(1), nil}, nil},
		{"the older is what counts", &Summary{at(6), nil}, &Summary{at(3), nil}, []uint32{1, 2}},
		{"whichever way they are given", &Summary{at(3), nil}, &Summary{at(6), nil}, []uint32{1, 2}},
		{"the newer says what lives", &Summary{at(5), use(2)}, &Summary{at(4), use(1, 2, 3)}, []uint32{1, 3}},
		{"all of it lives", &Summary{at(5), use(1, 2, 3)}, &Summary{at(4), nil}, nil},
	} {
		if got := Plan(all, c.newer, c.older); !slices.Equal(got, c.want) {
			t.Errorf("%s: %v, want %v", c.name, got, c.want)
		}
	}
	if got := Plan([]uint32{2, 9}, &Summary{at(12), nil}, &Summary{at(8), nil}); !slices.Equal(got, []uint32{2}) {
		t.Errorf("of segments that are not in a row: %v", got)
	}
}

// oracle is a store that recycles, beside the whole of its log kept elsewhere.
type oracle struct {
	*world
	kept []*File // the checkpoints that are kept, the newest last
}

// publish makes the next checkpoint and lets the oldest go, as the store does.
func (o *oracle) publish() {
	o.Helper()
	var base *File
	if len(o.kept) > 0 {
		base = o.kept[len(o.kept)-1]
		if base.Pos == o.table.Applied {
			return
		}
	}
	c, err := Publish(context.Background(), o.dir, base, o.log, testUUID, o.table.Applied, 0)
	o.ok(err)
	o.note("checkpoint")
	o.kept = append(o.kept, c)
	if len(o.kept) > 2 {
		o.ok(errors.Join(o.kept[0].Close(), o.dir.Remove(o.kept[0].Name)))
		o.kept = o.kept[1:]
	}
}

func (o *oracle) summaries() (newer, older *Summary) {
	if n := len(o.kept); n == 2 {
		a, b := o.kept[1].Summary(), o.kept[0].Summary()
		newer, older = &a, &b
	}
	return newer, older
}

// plan is what may go. Chunks that no message names yet are nobody's but the store's, which
// keeps their segments; so does this.
func (o *oracle) plan() []uint32 {
	newer, older := o.summaries()
	return Plan(numbers(o.log), newer, older)
}

func (o *oracle) withoutStray(dead []uint32) []uint32 {
	return slices.DeleteFunc(dead, func(n uint32) bool {
		return slices.ContainsFunc(o.stray, func(c strayChunk) bool { return c.ref.Pos.Segment() == n })
	})
}

// opens replays what is left of a disk from each of the checkpoints that are kept, and
// reports the first that does not come to the state of want with every byte of its
// messages.
func (o *oracle) opens(image *memdisk.FS, gone []uint32, want []byte, to segment.Pos) (err error) {
	dir, err := image.OpenDir(store, false)
	if err != nil {
		return err
	}
	for _, n := range gone {
		if err := dir.Remove(segment.Name(n)); err != nil {
			return err
		}
	}
	oldest := o.kept[0].Pos.Segment()
	for _, c := range o.kept {
		if err := opensFrom(image, c.Name, oldest, want, to); err != nil {
			return fmt.Errorf("from %s: %w", c.Name, err)
		}
	}
	return nil
}

func opensFrom(image *memdisk.FS, name string, oldest uint32, want []byte, to segment.Pos) (err error) {
	dir, err := image.OpenDir(store, false)
	if err != nil {
		return err
	}
	c, err := Open(dir, name, testUUID)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, c.Close()) }()
	table := state.NewTable()
	if err := c.Load(table); err != nil {
		return err
	}
	found, err := journal.Recover(dir, testUUID, journal.Start{Pos: c.Pos, Last: c.LastHeader()}, journal.Known{}, true, func(f *segment.Frame) error {
		if f.Pos >= to {
			return nil
		}
		return table.ApplyFrame(f)
	})
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, found.Close()) }()
	if err := found.Keep(oldest, usage(table)); err != nil {
		return err
	}
	var b bytes.Buffer
	if err := Encode(&b, table, testUUID, 0); err != nil {
		return err
	}
	if !bytes.Equal(b.Bytes(), want) {
		return errors.New("another state")
	}
	return readAll(found, table)
}

// subsets are sets of the dead to remove: each, if they are few, else some.
func (o *oracle) subsets(dead []uint32) [][]uint32 {
	var sets [][]uint32
	pick := func(bits int) {
		var set []uint32
		for i, n := range dead {
			if bits>>i&1 != 0 {
				set = append(set, n)
			}
		}
		sets = append(sets, set)
	}
	if len(dead) <= 3 {
		for bits := range 1 << len(dead) {
			pick(bits)
		}
		return sets
	}
	pick(-1)
	for range 6 {
		pick(o.c.intn(1 << min(len(dead), 20)))
	}
	return sets
}

// sound removes dead segments in every combination, now that the log has gone on, and
// looks whether something is missing.
func (o *oracle) sound(dead []uint32) {
	o.Helper()
	want := encoded(o, o.table, 0)
	for _, gone := range o.subsets(dead) {
		if err := o.opens(o.fs.Clone(), gone, want, o.table.Applied); err != nil {
			o.fail("segments %v of the dead %v removed: %v", gone, dead, err)
		}
	}
}

// complete removes each segment that is said to be needed, and looks whether it was, at
// the moment of the checkpoint.
func (o *oracle) complete(dead []uint32) {
	o.Helper()
	want := encoded(o, o.table, 0)
	for _, n := range numbers(o.log) {
		err := o.opens(o.fs.Clone(), []uint32{n}, want, o.table.Applied)
		if (err == nil) != slices.Contains(dead, n) {
			o.fail("segment %d of %v, dead %v, removed alone: %v", n, numbers(o.log), dead, err)
		}
	}
}

// Random histories with checkpoints: what Plan calls dead can go, in any combination and
// at any time after, and a replay from either checkpoint comes to the same state, with every byte
// of every message that lives. What it does not call dead is needed.
func TestPlanOracle(t *testing.T) {
	seen, tried := 0, 0
	rapid.Check(t, func(t *rapid.T) {
		o := &oracle{world: newWorld(t, drawn{t})}
		defer func() {
			for _, c := range o.kept {
				o.ok(c.Close())
			}
			o.close()
		}()
		var dead []uint32
		for range rapid.IntRange(1, 6).Draw(t, "lives") {
			for range rapid.IntRange(0, 40).Draw(t, "steps") {
				o.step()
			}
			for range rapid.IntRange(0, 4).Draw(t, "ends") {
				o.finish()
			}
			if len(dead) > 0 {
				o.sound(dead)
				if rapid.Bool().Draw(t, "recycle") {
					o.note("recycle %v", dead)
					o.ok(o.log.Recycle(dead))
				}
			}
			o.publish()
			if len(o.kept) == 2 {
				all := o.plan()
				o.complete(all)
				dead = o.withoutStray(all)
				o.sound(dead)
				seen += len(dead)
			}
		}
		tried++
	})
	if seen < tried/2 {
		t.Errorf("in %d histories only %d segments died", tried, seen)
	}
}
