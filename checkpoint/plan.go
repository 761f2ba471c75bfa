package checkpoint

import (
	"errors"
	"io/fs"

	"github.com/mtawal/mtawal/internal/barrier"
	"github.com/mtawal/mtawal/segment"
)

// Summary is what Plan needs to know of a checkpoint.
type Summary struct {
	Pos   segment.Pos
	Usage map[uint32]Usage
}

// Summary of an open checkpoint.
func (c *File) Summary() Summary { return Summary{Pos: c.Pos, Usage: c.usage} }

// Plan says which of the segments are dead: nothing will ever read them again, so
// they may be recycled once no reader holds them. It takes the two newest
// checkpoints, each of which was read back and verified; while there is only one,
// nothing is dead.
//
// A segment is dead if and only if both checkpoints start behind it, and in the
// newer no live message has a record, a chunk or a copy in it. Chunks that stand before the
// newer checkpoint and are named only behind it are not known to it: their segments are the
// caller's to keep.
//
// Theorem: no replay from a checkpoint that is kept can meet an enqueue without
// meeting its used-mark, and none needs bytes of a dead segment. Proof: a replay from
// a kept checkpoint C reads only segments from C's position on; none of them is dead, so the
// log it reads has no gap, and a used-mark, which lies behind its enqueue, is
// read whenever the enqueue is. An enqueue that lies before C is known to C's state
// together with every used-mark before C, and those behind C are read. A message that
// is alive at the end of the log, and was enqueued before the newer checkpoint N, was
// alive at N, for used is final; so N's usage names every segment with bytes of
// it as of N, and what a later move copied lies behind N. A message
// that is alive for a replay from the older checkpoint O in the course of the
// replay, but not at N, is not alive at the replay's end, which is not before N's position: its
// bytes are never asked for, because replay reads no bodies and nothing is handed out
// before it has ended.
func Plan(segments []uint32, newer, older *Summary) (dead []uint32) {
	if newer == nil || older == nil {
		return nil
	}
	from := min(newer.Pos.Segment(), older.Pos.Segment())
	if barrier.Gone(barrier.OlderStart) {
		from = newer.Pos.Segment()
	}
	for _, n := range segments {
		if n < from && newer.Usage[n].Messages == 0 {
			dead = append(dead, n)
		}
	}
	return dead
}

func isNotExist(err error) bool { return errors.Is(err, fs.ErrNotExist) }

func ignoreNotExist(err error) error {
	if isNotExist(err) {
		return nil
	}
	return err
}
