package wal

import (
	"cmp"
	"slices"

	"github.com/mtawal/mtawal/internal/eager"
)

// What waits for long is copied again with each segment that it shares with mail which does not. Emptying all sparse
// segments each time, the many with little and the one that the last time filled halfway, copies it as often as segments
// come; emptying those that are alike, as log-structured merge trees do, as often as that has digits. ADR 0007 has what
// each of these numbers costs.
const (
	// tierRatio is how many times as much as in all the emptier ones together may live in a segment for it to be
	// emptied with them. A segment of which one part in tierLeast lives goes with any.
	tierRatio = 4
	tierLeast = 64
	// costRatio is how many bytes must come back for each that is copied.
	costRatio = 8
	// coldRatio is that of a segment out of which copies go into a cold one, where they stay.
	coldRatio = 2
	// coldPart: there are none while less than a part of a segment in coldPart lives in all.
	coldPart = 5
)

// worthCompacting returns segments that are to be emptied, with what lives in them: none as long as the log is not nearly as
// large, for what lives, as CompactSpace says, or too little would come back. cold: what lives in them is to have a segment of its own.
func (s *Store) worthCompacting() (numbers map[uint32]bool, live int64, cold bool) {
	if s.log.Appended() < s.compaction.vain {
		return nil, 0, false
	}
	list := s.segmentUses()
	sparse := func(i segmentUse) bool { return s.sparse(&i) && !s.compaction.isStuck(&i) }
	if eager.Cold.Load() {
		numbers, live, _ = emptiest(byLive(list, sparse), cheap, coldMax)
		return numbers, live, true
	}
	o := compactOptions{size: s.opt.SegmentSize, space: s.opt.CompactSpace, least: s.opt.CompactMin, cost: 4 * s.folds.size.Load(),
		paced: s.log.Appended() < s.compaction.next}
	return o.choose(list, sparse)
}

// compactOptions is what choose goes by.
type compactOptions struct {
	size  int64 // of segments
	space int   // CompactSpace
	least int64 // CompactMin
	cost  int64 // of the checkpoints, in bytes
	paced bool  // copies are to rest
}

// choose returns the segments to empty, and what lives in them. The list is used up.
func (o *compactOptions) choose(list []segmentUse, sparse func(segmentUse) bool) (numbers map[uint32]bool, live int64, cold bool) {
	var sealed, all int64
	for _, i := range list {
		if i.Sealed && (i.Live > 0 || !i.Known) { // else the next checkpoint gives it back
			sealed += i.Size
			all += min(i.Live, i.Size)
		}
	}
	// It begins half a segment before that is reached: what is emptied comes back two checkpoints later.
	over := sealed - all/100*int64(o.space) - o.cost + o.size/2
	far := over > o.size // then all that is sparse is emptied, whatever it costs
	if over <= 0 || o.paced && !far {
		return nil, 0, false
	}
	list = byLive(list, sparse)
	// Copies that wait for the tail to be full let the log grow by another segment, which is to be within what CompactSpace and
	// the reserve leave; so one cold segment must do, and next to nothing is soon copied again.
	if all >= o.size/coldPart {
		if numbers, live, gain := emptiest(list, cheap, min(coldMax, o.size/2)); gain-o.cost > o.least && over-gain <= o.size/2 {
			return numbers, live, true
		}
	}
	if numbers, live, gain := emptiest(list, alike, compactPass); gain-o.cost > o.least {
		return numbers, live, false
	}
	// Where it takes several passes, what comes back counts for all of them: else a pass of little would never be worth it.
	var gain int64
	for _, i := range list {
		gain += i.Size - i.Live
	}
	if !far || gain-o.cost <= o.least {
		return nil, 0, false
	}
	numbers, live, _ = emptiest(list, whatever, compactPass)
	return numbers, live, false
}

// byLive returns those of the segments in which something lives that are sparse, the emptiest first. The list is used up.
func byLive(list []segmentUse, sparse func(segmentUse) bool) []segmentUse {
	list = slices.DeleteFunc(list, func(i segmentUse) bool { return i.Live == 0 || !sparse(i) })
	slices.SortFunc(list, func(a, b segmentUse) int { return cmp.Compare(a.Live, b.Live) })
	return list
}

// alike reports whether another segment is worth it beside those before it in a list that byLive has made, in which so much lives, and
// out of which so much comes back.
func alike(i *segmentUse, live, gain int64) bool {
	return (live == 0 || i.Live <= max(tierRatio*live, i.Size/tierLeast)) && (live+i.Live)*costRatio <= gain+i.Size-i.Live
}

// cheap is that of copies that go into a cold segment, where it does not matter what else does.
func cheap(i *segmentUse, _, _ int64) bool { return i.Live*coldRatio <= i.Size-i.Live }

// whatever is for what is to be given back at any cost.
func whatever(*segmentUse, int64, int64) bool { return true }

// emptiest returns the first of a list that byLive has made which are worth it, up to so many live bytes, or one. gain is what comes back.
func emptiest(list []segmentUse, worth func(i *segmentUse, live, gain int64) bool, most int64) (numbers map[uint32]bool, live, gain int64) {
	numbers = make(map[uint32]bool)
	for _, i := range list {
		if !worth(&i, live, gain) || live > 0 && live+i.Live > most {
			break
		}
		numbers[i.Number] = true
		live += i.Live
		gain += i.Size - i.Live
	}
	return numbers, live, gain
}

// isStuck reports whether nothing could be copied out of a segment, and that is how it still is: what lives there is damaged,
// say. It must not keep others from being emptied.
func (c *compaction) isStuck(i *segmentUse) bool {
	live, ok := c.stuck[i.Number]
	return ok && live == i.Live
}

// noteStuck notes those of the segments that were to be emptied in which something still lives. Others that are stuck
// stay so as they were: what has changed since is tried again.
func (c *compaction) noteStuck(tried map[uint32]bool, uses []segmentUse) {
	stuck := make(map[uint32]int64)
	for _, i := range uses {
		if live, was := c.stuck[i.Number]; tried[i.Number] && i.Live > 0 {
			stuck[i.Number] = i.Live
		} else if was {
			stuck[i.Number] = live
		}
	}
	c.stuck = stuck
}

// sparse reports whether a segment may be emptied: the newest checkpoint lies behind it, and
// little lives in it.
func (s *Store) sparse(i *segmentUse) bool {
	f := &s.folds
	f.mu.Lock()
	defer f.mu.Unlock()
	return i.Sealed && i.Known && !f.streams[i.Number] &&
		(i.Size-i.Live)*100 > i.Size*int64(s.opt.CompactDead)
}

// sparseSegments are the ones to empty next, those in which the least lives first, as of the
// newest checkpoint: as many as one pass takes, and while room is short half of what bounces may use.
func (s *Store) sparseSegments(before uint32) (numbers map[uint32]bool, live int64) {
	list := byLive(s.segmentUses(), func(i segmentUse) bool { return i.Number < before && s.sparse(&i) })
	short, most := s.short(), int64(compactPass)
	if short {
		most = min(most, s.bounceRoom()/2)
	}
	numbers, live, _ = emptiest(list, whatever, most)
	if short && live > most {
		return nil, 0 // not even the first
	}
	return numbers, live
}
