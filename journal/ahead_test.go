package journal

import (
	"testing"

	"github.com/mtawal/mtawal/segment"
)

// Whatever stretch is asked for, the hint keeps nothing of the log open once it is done.
func TestAhead(t *testing.T) {
	r := newRig(t)
	for range 3 * perSegment {
		r.put(1)
	}
	end := r.log.End()
	if end.Segment() < 3 {
		t.Fatalf("the log ends in segment %d", end.Segment())
	}
	r.close()
	at := segment.MakePos
	for _, c := range [][2]segment.Pos{
		{0, end}, {at(1, block), end}, {at(2, 3*block), at(2, 4*block)}, {end, end}, {end, 0}, {at(3, 1<<40), at(3, 0)}, {at(1, 0), at(900, 0)}, {at(77, 0), at(78, 0)},
	} {
		Ahead(r.dir, testUUID, c[0], c[1])()
	}
	// What is still mapped keeps its blocks.
	for _, name := range r.files() {
		r.ok(r.dir.Remove(name))
	}
	r.ok(r.dir.Sync())
	if s, err := r.dir.Space(); err != nil || s.Free != s.Total {
		t.Errorf("%d of %d bytes are free when all files are gone: %v", s.Free, s.Total, err)
	}
	r.log = nil
}
