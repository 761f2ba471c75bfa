package wal

import (
	"fmt"

	"github.com/mtawal/mtawal/internal/disk"
	"github.com/mtawal/mtawal/mailq"
)

// Options.MaxBytes holds because bytes count before they are taken, whoever takes them having asked under one
// lock (diskRoom.taking), and until it is durable that they were given back (journal's maker, foldState.count).
// So what a crash brings back counted when it came.
//
// It can't hold where the store takes more already: when it is opened with a smaller one than before, or with
// larger segments, so that the reserve is another. Then marks need room all the same, for without them
// nothing is ever given back.

// leastSegments is what intake must find besides the other files, or it does not resume once it has ended, though
// all mail is used: the reserve, the room beyond it, the tail, which may be full, and one for the checkpoints, which
// are as large as the mail that there was.
const leastSegments = reserveSegments + resumeSegments + 2

// leastBytes is the least MaxBytes with which a store takes mail, and takes mail again when that is used: else
// it would end for good where intake ends first.
func (o *Options) leastBytes(block int64) int64 {
	const meta = disk.Alignment
	return claimsSize(o.claims) + meta + foldFiles*wholeBlocks(2*checkpointFixed) + leastSegments*o.journal(block).SegmentSize
}

// checkBound refuses a MaxBytes that a new store could do nothing with.
func (o *Options) checkBound(block int64) error {
	if least := o.leastBytes(block); o.MaxBytes > 0 && o.MaxBytes < least {
		return &mailq.FieldError{Field: "Options.MaxBytes",
			Reason: fmt.Sprintf("is %d; a new store with segments of %d bytes needs %d", o.MaxBytes, o.SegmentSize, least)}
	}
	return nil
}

// findBound says what the files of the store may take: MaxBytes, if what mail holds leaves marks what
// they need, the two segments that they fill in turn and the one for the next Open frame. That is so in a store
// that had this MaxBytes before, with segments of this size: all that was admitted left them that, and
// what it did not leave is held by no mail and comes back. Else what mail holds, and the reserve: it
// ends with the mail, see lowerBound.
func (s *Store) findBound() {
	most := s.opt.MaxBytes
	if most == 0 {
		return
	}
	f := &s.folds
	live := liveUsage(s.table)
	files := s.log.Files()
	held := files.Others + claimsSize(s.opt.claims) + f.bytes() + f.uncovered(f.nextSize())
	if held += files.Ahead; files.Ahead >= s.opt.SegmentSize {
		held -= s.opt.SegmentSize // it is the first of the two
	}
	for _, i := range s.log.Segments() {
		if !i.Sealed || live[i.Number].Messages > 0 {
			held += i.Size
		}
	}
	above := held+(marksSegments-1+openSegments)*s.opt.SegmentSize > most
	if above {
		most = held + reserveSegments*s.opt.SegmentSize
	}
	switch least := s.opt.leastBytes(int64(s.dir.Block())); {
	case s.opt.MaxBytes < least:
		s.opt.Logger.Warn("MaxBytes is less than a store needs to go on taking mail; what it holds is delivered",
			"dir", s.dir.Path(), "held", held, "max", s.opt.MaxBytes, "may take", most, "needs", least)
	case above:
		s.opt.Logger.Warn("the store holds more than MaxBytes has room for; it takes no mail until enough of it is used",
			"dir", s.dir.Path(), "held", held, "max", s.opt.MaxBytes, "may take", most)
	}
	s.space.bound.Store(most)
}

// lowerBound brings a bound that is above MaxBytes down to what the reserve needs, which
// is less the more mail is used, and reports whether it still is above it. The caller holds looking.
func (s *Store) lowerBound(left *int64, reserve int64, bounded bool) (above bool) {
	sp := &s.space
	over := sp.bound.Load() - s.opt.MaxBytes
	if give := min(over, *left-reserve); bounded && give > 0 {
		sp.bound.Add(-give)
		*left -= give
		over -= give
	}
	return over > 0
}
