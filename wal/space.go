package wal

import (
	"time"

	"github.com/mtawal/mtawal/mailq"
)

const (
	// spaceEvery is how often the room on the disk is looked at, beside each change of
	// segment.
	spaceEvery = time.Second
	// reserveSegments is how many segments' worth of room intake leaves, beside two
	// checkpoints: what used-marks, deferrals and folds need to go on.
	reserveSegments = 2
)

// measure looks at the room there is, for Admit, which does no I/O.
func (s *Store) measure() {
	_, bytes := s.log.Files()
	bytes += claimsSize + s.folds.bytes()
	s.diskUse.Store(bytes)
	reserve := reserveSegments*s.opt.SegmentSize + 2*s.folds.size.Load()
	room := int64(1<<63 - 1)
	if most := s.opt.MaxBytes; most > 0 {
		room = most - bytes - reserve
		s.bounded.Store(true)
	}
	if sp, err := s.dir.Space(); err == nil && sp.Free-reserve < room {
		room = sp.Free - reserve
		s.bounded.Store(false)
	}
	s.room.Store(room)
}

// admitSpace refuses what would eat into the reserve.
func (s *Store) admitSpace(size int64) error {
	room := s.room.Load()
	if s.full.Load() {
		room = 0
	}
	if room > 0 && size <= room {
		return nil
	}
	why := "disk"
	if s.bounded.Load() {
		why = "MaxBytes"
	}
	return &mailq.FullError{Reason: why, Need: size, Free: room}
}
