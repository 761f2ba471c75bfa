package wal

import "testing"

// evenly is n sealed segments of a size, of which so many percent live, as a checkpoint says.
func evenly(n int, size int64, percent int64) (list []segmentUse) {
	for i := range n {
		var u segmentUse
		u.Number, u.Size, u.Sealed, u.Known, u.Live = uint32(i+1), size, true, true, size/100*percent
		list = append(list, u)
	}
	return list
}

func mostlyDead(u segmentUse) bool { return (u.Size-u.Live)*100 > u.Size*CompactDeadDefault }

// Where the log is much larger than CompactSpace says and emptying all that is sparse would pay, something is emptied, whatever
// the sizes are.
func TestSomethingIsEmptied(t *testing.T) {
	const mib = int64(1) << 20
	for _, size := range []int64{1, 64, 128, 256, 1024} {
		for _, percent := range []int64{0, 1, 5, 10, 20, 30, 40, 49} {
			for _, checkpoint := range []int64{0, 1, 12, 100} {
				for _, n := range []int{2, 8, 50, 400} {
					list := evenly(n, size*mib, percent)
					o := compactOptions{size: size * mib, space: CompactSpaceDefault, least: size * mib / 4 * 3, cost: 4 * checkpoint * mib}
					live, gain := int64(0), int64(0)
					for _, u := range list {
						live, gain = live+u.Live, gain+u.Size-u.Live
					}
					over := int64(n)*size*mib - live*2 - o.cost
					numbers, moved, _ := o.choose(list, mostlyDead)
					if percent > 0 && over > o.size/2 && gain-o.cost > o.least && len(numbers) == 0 {
						t.Errorf("%d segments of %d MiB, %d %% of them live, checkpoints of %d MiB: none is emptied", n, size, percent, checkpoint)
					}
					if over <= 0 && len(numbers) > 0 {
						t.Errorf("%d segments of %d MiB, %d %% of them live: %d are emptied within what is allowed", n, size, percent, len(numbers))
					}
					if want := int64(len(numbers)) * (size * mib / 100 * percent); moved != want {
						t.Errorf("%d bytes are to be copied out of %d segments, want %d", moved, len(numbers), want)
					}
				}
			}
		}
	}
}

// A bound that is never to be reached is none that wraps around.
func TestNothingIsEmptiedForMoreThanThereIs(t *testing.T) {
	o := compactOptions{size: 1 << 20, space: 100, least: 1<<63 - 1, cost: 1 << 20}
	if numbers, _, _ := o.choose(evenly(100, 1<<20, 1), mostlyDead); len(numbers) > 0 {
		t.Errorf("%d segments are emptied", len(numbers))
	}
}

// What is alike goes together, and is left alone beside what is not. Where one cold segment is enough it takes what is cheap.
func TestWhatIsAlikeIsEmptied(t *testing.T) {
	const size = 64 << 20
	list := func(n int) []segmentUse {
		l := evenly(n, size, 1)
		l[0].Live, l[1].Live = size/2, size/5*2 // from earlier times
		return l
	}
	o := compactOptions{size: size, space: CompactSpaceDefault, least: size / 4 * 3}
	few := evenly(12, size, 1)
	for i := range 8 {
		few[i].Live = size / 100 * 45
	}
	if numbers, _, cold := o.choose(few, mostlyDead); cold || len(numbers) != 4 || !numbers[12] {
		t.Errorf("%v are emptied, cold: %t, want those with one percent, and that is not enough", numbers, cold)
	}
	many := list(12)
	many[0].Live, many[1].Live, many[2].Live = size/100*49, size/100*49, size/8
	for i, u := range evenly(10, size/2, 100) { // cold ones
		u.Number = uint32(100 + i)
		many = append(many, u)
	}
	if numbers, _, cold := o.choose(many, mostlyDead); !cold || len(numbers) != 10 || numbers[1] || numbers[2] {
		t.Errorf("%v are emptied, cold: %t, want those with one percent, and the one with an eighth", numbers, cold)
	}
	// Where next to nothing lives it goes among fresh mail, and is copied again.
	little := evenly(6, size, 1)
	for i := range little {
		little[i].Live = size / 1000
	}
	little[0].Live, little[1].Live = size/12, size/12
	if numbers, _, cold := o.choose(little, mostlyDead); cold || len(numbers) != 4 || numbers[1] || numbers[2] {
		t.Errorf("%v are emptied, cold: %t, want those with a thousandth", numbers, cold)
	}
	o.paced = true
	o.space = 2140 // less than half a segment above that
	if numbers, _, _ := o.choose(list(24), mostlyDead); len(numbers) != 0 {
		t.Errorf("%v are emptied though copies rest", numbers)
	}
}

// Segments that wait for the next checkpoint, which gives them back, are no reason to copy others.
func TestWhatIsComingIsNotCounted(t *testing.T) {
	const size = 64 << 20
	list := func(known uint32) []segmentUse {
		l := evenly(10, size, 0)
		l[0].Live, l[1].Live = size/100*49, size/100*49
		for i := range l {
			l[i].Known = l[i].Number < known
		}
		return l
	}
	o := compactOptions{size: size, space: CompactSpaceDefault, least: size / 4 * 3}
	if numbers, _, _ := o.choose(list(11), mostlyDead); len(numbers) != 0 {
		t.Errorf("%v are emptied, and eight come back without it", numbers)
	}
	// What lives in all but two is not known: as long as that is so the log is too large.
	if numbers, _, _ := o.choose(list(3), mostlyDead); len(numbers) != 2 {
		t.Errorf("%v are emptied, want both in which something lives", numbers)
	}
}

// A segment out of which nothing can be copied does not keep the others from being emptied.
func TestWhatIsStuckIsPassedOver(t *testing.T) {
	const size = 64 << 20
	list := func(live int64) []segmentUse {
		l := evenly(51, size, 10)
		l[7].Live = live // of a message that is damaged
		return l
	}
	o := compactOptions{size: size, space: CompactSpaceDefault, least: size / 4 * 3}
	var c compaction
	sparse := func(u segmentUse) bool { return mostlyDead(u) && !c.isStuck(&u) }
	first, _, _ := o.choose(list(4<<10), sparse)
	if !first[8] {
		t.Fatalf("%v are emptied first", first)
	}
	c.noteStuck(map[uint32]bool{8: true}, list(4<<10)) // and nothing lives in the others any more
	next, _, _ := o.choose(list(4<<10), sparse)
	if len(next) == 0 || next[8] {
		t.Errorf("then %v are emptied", next)
	}
	// Something was used, so it may be another matter.
	if again, _, _ := o.choose(list(2<<10), sparse); !again[8] {
		t.Errorf("when it has changed %v are emptied", again)
	}
	// A pass over others has not tried it again.
	c.noteStuck(next, list(2<<10))
	if again, _, _ := o.choose(list(2<<10), sparse); !again[8] {
		t.Errorf("when it has changed, and others were emptied, %v are", again)
	}
}
