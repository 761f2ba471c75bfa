package journal

import (
	"sync"
	"testing"
	"testing/synctest"

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
		AskAhead(r.dir, testUUID, c[0], c[1]).End()
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

// What may be asked for is bounded by what the replay has not read yet, and whoever waits for room is let go at the end.
func TestAheadWaitsForTheReplay(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		a := &Ahead{left: 100 << 10}
		a.roomy = sync.NewCond(&a.mu)
		got := make(chan bool, 2)
		ask := func(n int64) {
			a.asking.Go(func() { got <- a.may(n) })
			synctest.Wait()
		}
		ask(60 << 10)
		if len(got) != 1 || !<-got {
			t.Error("what there is room for may not be asked for")
		}
		ask(60 << 10)
		if len(got) != 0 {
			t.Errorf("%v: more may be asked for than there is room for", <-got)
		}
		a.Passed(&segment.FrameHeader{Len: 1 << 20, TableLen: 100})
		synctest.Wait()
		if len(got) != 0 {
			t.Errorf("%v: headers and tables make room for bodies", <-got)
		}
		a.Passed(&segment.FrameHeader{Len: 10 << 10, TableLen: 100})
		synctest.Wait()
		if len(got) != 1 || !<-got {
			t.Error("it may not be asked for what there is room for by now")
		}
		ask(60 << 10)
		a.End()
		if len(got) != 1 || <-got {
			t.Error("at the end it may be asked for more")
		}
	})
}
