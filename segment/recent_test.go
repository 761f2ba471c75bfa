package segment

import (
	"bytes"
	"encoding/binary"
	"math/rand/v2"
	"sync"
	"testing"
)

// layOut fills a frame's memory as a group does: bytes that say where they stand.
func layOut(r *Recent, rng *rand.Rand, pos Pos, most Room) (s *Slab, h FrameHeader, table, body []byte) {
	s, table, body = r.Next()
	most.Table, most.Body = min(most.Table, cap(table)-AlignmentMin), min(most.Body, cap(body)-AlignmentMin)
	table = table[:FrameHeaderSize+8*rng.IntN(1+(most.Table-FrameHeaderSize)/8)]
	body = body[:rng.IntN(most.Body)]
	stamp(table, pos)
	stamp(body, pos+1)
	table, body = r.Take(s, table, body)
	h = FrameHeader{Pos: pos, TableLen: uint32(len(table) - FrameHeaderSize), BodyLen: int64(len(body))}
	h.Layout(AlignmentMin)
	return s, h, table, body
}

func stamp(b []byte, pos Pos) {
	for i := range len(b) / 8 {
		binary.LittleEndian.PutUint64(b[8*i:], uint64(pos)+uint64(i))
	}
	for i := len(b) &^ 7; i < len(b); i++ {
		b[i] = byte(pos)
	}
}

func stamped(b []byte, pos Pos) bool {
	want := make([]byte, len(b))
	stamp(want, pos)
	return bytes.Equal(b, want)
}

// What is found is what was written, however long a reader holds it, and there is a bound on
// the memory that readers can keep.
func TestRecentFindsWhatWasWritten(t *testing.T) {
	seed := rand.Uint64()
	t.Logf("seed %d", seed)
	rng := rand.New(rand.NewPCG(seed, 1))
	room := Room{Table: 16 << 10, Body: 64 << 10}
	r := NewRecent(room)
	type held struct {
		slab *Slab
		h    FrameHeader
		t, b []byte
	}
	var all []FrameHeader
	var holds []held
	check := func(h *FrameHeader, table, body []byte) {
		t.Helper()
		if !stamped(table, h.Pos) || !stamped(body, h.Pos+1) {
			t.Fatalf("the frame at %v is not what was written", h.Pos)
		}
	}
	pos, found := MakePos(1, 4096), 0
	for range 1000 {
		if rng.IntN(50) == 0 {
			pos = MakePos(pos.Segment()+1, 4096)
		}
		s, h, table, body := layOut(r, rng, pos, Room{Table: 1 + rng.IntN(room.Table-AlignmentMin-FrameHeaderSize-8) + FrameHeaderSize, Body: 1 + rng.IntN(room.Body-AlignmentMin)})
		if rng.IntN(10) > 0 { // else its write failed
			r.Keep(s, &h, table, body)
			all = append(all, h)
			pos = h.End()
		} else {
			r.Drop(s)
		}
		if len(all) == 0 {
			continue
		}
		k := all[max(0, len(all)-1-rng.IntN(40))]
		if f, s := r.hold(k.Pos + Pos(rng.Int64N(k.Len))); s != nil {
			found++
			x := held{s, k, f.at(k.Pos, FrameHeaderSize+int64(k.TableLen)), f.at(k.Pos+Pos(k.BodyOff), k.BodyLen)}
			check(&x.h, x.t, x.b)
			if f.at(k.Pos+Pos(k.BodyOff), k.Len) != nil || f.at(k.Pos-1, 1) != nil || f.at(k.Pos, -1) != nil {
				t.Fatal("bytes that are not in one part of the frame")
			}
			holds = append(holds, x)
		}
		for len(holds) > 0 && rng.IntN(3) > 0 {
			i := rng.IntN(len(holds))
			check(&holds[i].h, holds[i].t, holds[i].b)
			r.release(holds[i].slab)
			holds = append(holds[:i], holds[i+1:]...)
		}
		if most := int64(slabsMax+recentSlabs-1) * int64(r.table+r.body); r.Bytes() > most {
			t.Fatalf("%d bytes of memory, of at most %d", r.Bytes(), most)
		}
		if _, s := r.hold(MakePos(pos.Segment()+1, 4096)); s != nil {
			t.Fatal("a frame that was never written is found")
		}
	}
	if found < 50 {
		t.Errorf("only %d frames were found", found)
	}
	for _, x := range holds {
		check(&x.h, x.t, x.b)
		r.release(x.slab)
	}
	if r.detached != 0 || r.Bytes() > int64(slabsMax+recentSlabs-1)*int64(r.table+r.body) {
		t.Errorf("%d slabs, %d bytes are left when nobody reads", r.detached, r.Bytes())
	}
}

// Readers beside the one that lays frames out, for the race detector.
func TestRecentBesideReaders(t *testing.T) {
	rng := rand.New(rand.NewPCG(1, 2))
	r := NewRecent(Room{Table: 16 << 10, Body: 32 << 10})
	var wg sync.WaitGroup
	headers := make(chan FrameHeader, 16)
	for range 4 {
		wg.Go(func() {
			for h := range headers {
				f, s := r.hold(h.Pos)
				if s == nil {
					continue
				}
				if b := f.at(h.Pos+Pos(h.BodyOff), h.BodyLen); b != nil && !stamped(b, h.Pos+1) {
					t.Errorf("the frame at %v is not what was written", h.Pos)
				}
				r.release(s)
			}
		})
	}
	pos := MakePos(1, 4096)
	for range 2000 {
		s, h, table, body := layOut(r, rng, pos, Room{Table: 4 << 10, Body: 8 << 10})
		r.Keep(s, &h, table, body)
		headers <- h
		pos = h.End()
	}
	close(headers)
	wg.Wait()
}
