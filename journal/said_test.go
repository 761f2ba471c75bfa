package journal

import (
	"errors"
	"fmt"
	"slices"
	"testing"

	"github.com/mtawal/mtawal/segment"
)

// startAt is what a checkpoint at the end of a frame knows of it.
func startAt(h segment.FrameHeader) Start {
	return Start{Pos: h.End(), Last: segment.FrameHeader{Pos: h.Pos, CRC: h.CRC, Epoch: h.Epoch, Nonce: h.Nonce, Len: h.Len}}
}

// saying is a log over several segments. All of it is promised but the last frame, behind which
// there is room.
func saying(t *testing.T) *rig {
	r := newRig(t)
	for i := range 2*perSegment + 3 {
		r.put(1 + i%3)
	}
	for r.log.off > 4*block {
		r.put(1)
	}
	r.append(marker())
	r.put(3)
	return r
}

// A checkpoint that is not usable though what it says is true promises what it always did: the
// log opens as it is, and not with a byte less.
func TestSaidTruly(t *testing.T) {
	r := saying(t)
	last := r.frames[len(r.frames)-1]
	for i, h := range r.frames {
		n := r.crash()
		for from := -1; from < i; from += 1 + i/3 {
			start := Start{}
			if from >= 0 {
				start = startAt(r.frames[from])
			}
			rec, err := n.recoverKnowing(start, 1, Known{Said: []Start{startAt(h)}})
			n.ok(err)
			if got := withoutSeals(rec.headers); !slices.Equal(got, r.frames[from+1:]) {
				t.Errorf("frame %d is said to be there, from %d on there are %s", i, from, places(got))
			}
			if written := len(rec.rewrite) == 0; written != (h == last) {
				t.Errorf("frame %d is said to be there: %d stretches are written again", i, len(rec.rewrite))
			}
			n.ok(rec.Close())
		}
	}
	said := Known{Said: []Start{startAt(last)}}
	for _, h := range r.frames[len(r.frames)-5:] {
		n := r.crash()
		for _, gone := range r.frames {
			if gone.Pos >= h.Pos {
				n.wipe(gone)
			}
		}
		if _, err := n.recoverKnowing(Start{}, 1, said); !isCorrupt(err) {
			t.Errorf("all from %v on is gone: %v", h.Pos, err)
		}
	}
	// A body below a promise has decayed; above, it is torn.
	n := r.crash()
	n.edit(last.Pos.Segment(), func(b []byte) { b[last.Pos.Offset()+int64(last.BodyOff)] ^= 1 })
	for _, k := range []Known{said, {}} {
		rec, err := n.recoverKnowing(Start{}, 1, k)
		n.ok(err)
		if cut := rec.CutSize > 0; cut != (len(k.Said) == 0) {
			t.Errorf("%d said: %d bytes cut", len(k.Said), rec.CutSize)
		}
		n.ok(rec.Close())
	}
}

// A checkpoint of another log promises nothing: neither is this one refused for what it never
// held, nor is a torn tail taken for one that was durable.
func TestSaidFalsely(t *testing.T) {
	r := saying(t)
	last := r.frames[len(r.frames)-1]
	before := r.frames[len(r.frames)-2]
	end, far := last.End(), last.End()+20*block
	size := segment.MakePos(last.Pos.Segment(), segment.SizeMin)
	for name, s := range map[string]Start{
		"another chain value":              {end, segment.FrameHeader{Pos: last.Pos, CRC: last.CRC + 1}},
		"another chain value, and further": {end + block, segment.FrameHeader{Pos: last.Pos, CRC: last.CRC + 1}},
		"the right frame, and further":     {end + block, segment.FrameHeader{Pos: last.Pos, CRC: last.CRC}},
		"the right frame, not all of it":   {end - block, segment.FrameHeader{Pos: last.Pos, CRC: last.CRC}},
		"from within a frame":              {end, segment.FrameHeader{Pos: last.Pos + block, CRC: 7}},
		"within a frame":                   {end - block, segment.FrameHeader{Pos: last.Pos + block, CRC: 7}},
		"two frames for one":               {end, segment.FrameHeader{Pos: before.Pos, CRC: before.CRC}},
		"far, from an early frame":         {far, segment.FrameHeader{Pos: before.Pos, CRC: 7}},
		"in an early segment":              {segment.MakePos(1, 3*block), segment.FrameHeader{Pos: segment.MakePos(1, 2*block), CRC: 7}},
		"behind a Seal":                    {segment.MakePos(1, segment.SizeMin), segment.FrameHeader{Pos: segment.MakePos(1, segment.SizeMin-block), CRC: 7}},
		"not on a boundary":                {end + block + 512, segment.FrameHeader{Pos: end, CRC: 7}},
		"not from a boundary":              {end + block, segment.FrameHeader{Pos: end + 512, CRC: 7}},
		"beyond the file":                  {size + block, segment.FrameHeader{Pos: end, CRC: 7}},
		"from one segment into the next":   {segment.MakePos(9, 2*block), segment.FrameHeader{Pos: end, CRC: 7}},
		"backwards":                        {end, segment.FrameHeader{Pos: end + block, CRC: 7}},
		"nothing":                          {},
	} {
		n := r.crash()
		rec, err := n.recoverKnowing(Start{}, 1, Known{Said: []Start{s}})
		if err != nil {
			t.Errorf("%s: %v", name, err)
			continue
		}
		if got := withoutSeals(rec.headers); !slices.Equal(got, r.frames) || len(rec.rewrite) != 1 {
			t.Errorf("%s: %s, %d stretches to be written again", name, places(got), len(rec.rewrite))
		}
		n.ok(rec.Close())
		n.edit(last.Pos.Segment(), func(b []byte) { b[last.Pos.Offset()+int64(last.BodyOff)] ^= 1 })
		rec, err = n.recoverKnowing(Start{}, 1, Known{Said: []Start{s}})
		if err != nil {
			t.Errorf("%s, the tail torn: %v", name, err)
			continue
		}
		if rec.CutSize != last.Len || rec.End != last.Pos {
			t.Errorf("%s, the tail torn: the log ends at %v, %d bytes cut", name, rec.End, rec.CutSize)
		}
		n.ok(rec.Close())
	}
}

// Behind a Seal the chain has left the segment, though nothing stands in its successor yet.
func TestSaidFalselyBehindASeal(t *testing.T) {
	r := newRig(t)
	r.put(2)
	last := r.put(perSegment) // it finds no room in segment 1
	r.wipe(last)
	at := r.frames[len(r.frames)-2].End() + 2*block
	rec, err := r.recoverKnowing(Start{}, 1, Known{Said: []Start{{at + block, segment.FrameHeader{Pos: at, CRC: 7}}}})
	r.ok(err)
	if rec.End != last.Pos || last.Pos.Segment() != 2 || len(rec.rewrite) != 1 {
		t.Errorf("the log ends at %v, %d stretches to be written again", rec.End, len(rec.rewrite))
	}
	r.ok(rec.Close())
}

// What nothing speaks against is believed: it may be all that is left of what was acknowledged.
func TestSaidOfWhatIsNotThere(t *testing.T) {
	r := saying(t)
	end := r.frames[len(r.frames)-1].End()
	for name, s := range map[string]Start{
		"the next frame":   {end + block, segment.FrameHeader{Pos: end, CRC: 7}},
		"a later frame":    {end + 3*block, segment.FrameHeader{Pos: end + block, CRC: 7}},
		"a later segment":  {segment.MakePos(9, 2*block), segment.FrameHeader{Pos: segment.MakePos(9, block), CRC: 7}},
		"one not made yet": {segment.MakePos(1<<31-1, 2*block), segment.FrameHeader{Pos: segment.MakePos(1<<31-1, block), CRC: 7}},
	} {
		if _, err := r.crash().recoverKnowing(Start{}, 1, Known{Said: []Start{s}}); !isCorrupt(err) || errors.Is(err, ErrStart) {
			t.Errorf("%s: %v", name, err)
		}
	}
}

// The frame that a checkpoint ends with is in front of the replay: where it has decayed, the one
// behind it vouches for it. There is none at the end of the log.
func TestStartBehindDamage(t *testing.T) {
	r := saying(t)
	for i, h := range r.frames {
		n := r.crash()
		n.edit(h.Pos.Segment(), func(b []byte) { b[h.Pos.Offset()+9+int64(i)] ^= 1 })
		rec, err := n.recover(startAt(h), 1, 0)
		if i == len(r.frames)-1 {
			if !errors.Is(err, ErrStart) {
				t.Errorf("the last frame: %v", err)
			}
			break
		}
		n.ok(err)
		if got := withoutSeals(rec.headers); !slices.Equal(got, r.frames[i+1:]) {
			t.Errorf("from frame %d: %s", i, places(got))
		}
		n.ok(rec.Close())
		for name, change := range map[string]func(*Start){
			"chain": func(s *Start) { s.Last.CRC++ }, "epoch": func(s *Start) { s.Last.Epoch += 2 }, "nonce": func(s *Start) { s.Last.Nonce++ },
		} {
			s := startAt(h)
			change(&s)
			if _, err := n.recover(s, 1, 0); !errors.Is(err, ErrStart) || !isCorrupt(err) {
				t.Error(fmt.Sprintf("from frame %d, another %s:", i, name), err)
			}
			if _, err := r.crash().recover(s, 1, 0); !errors.Is(err, ErrStart) || !isCorrupt(err) {
				t.Error(fmt.Sprintf("from frame %d, which is whole, another %s:", i, name), err)
			}
		}
	}
}
