package wal

// Options.MaxBytes holds because bytes count before they are taken, whoever takes them having asked under one
// lock (diskRoom.taking), and until it is durable that they were given back (journal's maker, foldState.count).
// So what a crash brings back counted when it came.
//
// It can't hold where the store takes more already: when it is opened with a smaller one than before, or with
// larger segments, so that the reserve is another. Then marks need room all the same, for without them
// nothing is ever given back.

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
	if held+(marksSegments-1+openSegments)*s.opt.SegmentSize > most {
		most = held + reserveSegments*s.opt.SegmentSize
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
