package segment

import (
	"bytes"
	"errors"
	"slices"
	"syscall"
	"testing"

	"github.com/mtawal/mtawal/mailq"
)

// started is a log with an Open frame and two more.
func started() (*image, []FrameHeader) {
	g := newImage(5, 0x5a17_0000_0001, 1<<20)
	b := &batch{}
	b.add(OpenSize, func(dst []byte, back int64) Record { return PutOpen(dst, back, OpenInfo{}) })
	return g, []FrameHeader{g.frame(Open, b), full(g), full(g)}
}

func scan(t *testing.T, s *Segment) (Stop, []FrameHeader, error) {
	t.Helper()
	var seen []FrameHeader
	stop, err := s.Scan(s.First(), FrameHeader{}, func(f *Frame) error {
		seen = append(seen, f.FrameHeader)
		return nil
	})
	return stop, seen, err
}

func headers(t *testing.T, s *Segment) (seen []FrameHeader) {
	t.Helper()
	if err := s.Headers(s.First(), s.Size, func(h *FrameHeader) { seen = append(seen, *h) }); err != nil {
		t.Fatal(err)
	}
	return seen
}

func TestScan(t *testing.T) {
	g, want := started()
	s, _ := g.open(t)
	stop, seen, err := scan(t, s)
	if err != nil || !slices.Equal(seen, want) {
		t.Fatalf("%d frames, %v", len(seen), err)
	}
	if stop.Off != g.off || stop.Finding != FrameBad || stop.Torn || stop.Sealed || stop.Last != want[2] || stop.Err != nil {
		t.Errorf("%+v", stop)
	}
	// From the middle, behind the frame before.
	n := 0
	if stop, err = s.Scan(want[1].Pos.Offset(), want[0], func(*Frame) error { n++; return nil }); err != nil || n != 2 || stop.Off != g.off {
		t.Errorf("from the second frame on: %d frames, %+v, %v", n, stop, err)
	}
	// Not chained to it.
	if stop, err = s.Scan(want[2].Pos.Offset(), want[0], func(*Frame) error { t.Error("a frame out of the chain"); return nil }); err != nil || stop.Torn || stop.Finding != FrameBad || stop.Off != want[2].Pos.Offset() {
		t.Errorf("behind a frame that it does not follow: %+v, %v", stop, err)
	}
	wrong := errors.New("enough")
	if _, err = s.Scan(s.First(), FrameHeader{}, func(*Frame) error { return wrong }); !errors.Is(err, wrong) {
		t.Errorf("the callback's error: %v", err)
	}
	if !slices.Equal(headers(t, s), want) {
		t.Error("Headers does not find the same")
	}
}

func TestScanEmptyAndFull(t *testing.T) {
	g := newImage(1, 9, SizeMin)
	s, _ := g.open(t)
	if stop, seen, err := scan(t, s); err != nil || len(seen) != 0 || stop.Off != g.First() || stop.Finding != FrameBad || stop.Torn {
		t.Errorf("zeros: %+v, %d frames, %v", stop, len(seen), err)
	}
	g = newImage(1, 9, SizeMin)
	g.next.Epoch = 0 // so that Marker frames follow nothing
	g.next.Nonce = 0
	for g.off < g.Size {
		g.frame(Marker, &batch{})
	}
	s, _ = g.open(t)
	if stop, seen, err := scan(t, s); err != nil || len(seen) != SizeMin/4096-1 || stop.Off != g.Size || stop.Finding != FrameBad || stop.Sealed {
		t.Errorf("full without a Seal: %+v, %d frames, %v", stop, len(seen), err)
	}
}

func TestScanEndsAtTheSeal(t *testing.T) {
	g, want := started()
	b := &batch{}
	b.add(SealSize, func(dst []byte, back int64) Record { return PutSeal(dst, back, 6, 1) })
	want = append(want, g.frame(Seal, b))
	end := g.off
	full(g) // chained, and yet not of this log
	s, _ := g.open(t)
	stop, seen, err := scan(t, s)
	if err != nil || !slices.Equal(seen, want) || !stop.Sealed || stop.Off != end || stop.Finding != Whole || stop.Last.Kind != Seal {
		t.Errorf("%+v, %d frames, %v", stop, len(seen), err)
	}
}

// TestScanTornFrame leaves every prefix, in sectors, of the last frame, and every
// single sector missing, over zeros and over the bytes of an earlier life.
func TestScanTornFrame(t *testing.T) {
	const sector = 512
	g, want := started()
	b := &batch{}
	for id := range uint64(40) {
		b.enqueue(100+id, simple("smtp:example.org", bytes.Repeat([]byte{byte(id), 1}, 100)))
	}
	before := g.off
	h := g.frame(Data, b)
	whole := slices.Clone(g.at(h))
	old := newImage(5, 0x01dbeef, 1<<20)
	old.off = before
	old.frame(Open, b)
	table := int64(FrameHeaderSize) + int64(h.TableLen)
	for _, under := range [][]byte{make([]byte, h.Len), old.data[before:][:h.Len]} {
		for k := range h.Len / sector {
			for _, prefix := range []bool{true, false} {
				frame := slices.Clone(whole)
				if prefix {
					copy(frame[k*sector:], under[k*sector:])
				} else {
					copy(frame[k*sector:(k+1)*sector], under[k*sector:])
				}
				copy(g.data[before:], frame)
				wantHeader := bytes.Equal(frame[:FrameHeaderSize], whole[:FrameHeaderSize])
				wantTable := wantHeader && bytes.Equal(frame[:table], whole[:table])
				wantWhole := wantTable && bytes.Equal(frame[h.BodyOff:int64(h.BodyOff)+h.BodyLen], whole[h.BodyOff:int64(h.BodyOff)+h.BodyLen])
				s, _ := g.open(t)
				stop, seen, err := scan(t, s)
				if err != nil || len(seen) != 3 && !wantTable || len(seen) != 4 && wantTable {
					t.Fatalf("sector %d, prefix %v: %d frames, %v", k, prefix, len(seen), err)
				}
				if torn := wantHeader && !wantTable; stop.Torn != torn || stop.Finding != FrameBad {
					t.Fatalf("sector %d, prefix %v: %+v, want torn %v", k, prefix, stop, torn)
				}
				if !wantTable {
					if !slices.Equal(seen, want) || stop.Off != before {
						t.Fatalf("sector %d, prefix %v: stops at %#x", k, prefix, stop.Off)
					}
					continue
				}
				f, ok, err := g.decode(before)
				if !ok || err != nil {
					t.Fatal(ok, err)
				}
				bad := 0
				got, err := s.CheckBodies(&f, func(Pos, Record) { bad++ })
				if err != nil || got != wantWhole || (bad == 0) != wantWhole {
					t.Fatalf("sector %d, prefix %v: whole %v with %d bad, want %v, %v", k, prefix, got, bad, wantWhole, err)
				}
			}
		}
	}
}

// TestStaleSecondFrame: two frames of equal length in flight, the first torn, the second
// durable; after reopening, a frame as long as the first takes its place. The second
// must not be valid behind it.
func TestStaleSecondFrame(t *testing.T) {
	g, want := started()
	before := g.prev
	a := full(g)
	stale := full(g)
	if a.Len != stale.Len {
		t.Fatal("the frames have different lengths")
	}
	// Reopened: the log was cut at a.
	g.off, g.prev = a.Pos.Offset(), before
	g.next.Epoch, g.next.Nonce = 2, 0xfeed
	b := &batch{}
	b.add(OpenSize, func(dst []byte, back int64) Record { return PutOpen(dst, back, OpenInfo{Cut: a.Len}) })
	b.place(make([]byte, a.Len-4096))
	open := g.frame(Open, b)
	if open.Len != a.Len {
		t.Fatalf("the new frame has %d bytes, the torn one %d", open.Len, a.Len)
	}
	s, _ := g.open(t)
	stop, seen, err := scan(t, s)
	if err != nil || !slices.Equal(seen, append(want, open)) || stop.Off != stale.Pos.Offset() || stop.Torn {
		t.Errorf("%d frames, %+v, %v", len(seen), stop, err)
	}
	if all := headers(t, s); !slices.Contains(all, stale) {
		t.Error("the stale frame is not there, the test shows nothing")
	}
	// Even if the CRC of the new header were, by chance, that of the old one.
	g.prev = open
	g.next.Epoch, g.next.Nonce = 1, 0x0123456789abcdef
	full(g)
	s, _ = g.open(t)
	if _, seen, err = scan(t, s); err != nil || len(seen) != 4 {
		t.Errorf("an older epoch is valid behind a newer one: %d frames, %v", len(seen), err)
	}
}

// TestForgedFramesInBodies: a body holds frames at every phase of the alignment, right in
// all but what only the store knows. None is ever taken for one, whole or torn.
func TestForgedFramesInBodies(t *testing.T) {
	const size = 64 << 10
	const knowsAll = "knows the salt" // the control: found, so the others could be
	for _, forger := range []string{"guesses the salt", "salt 0", "salt of the previous life", "sends the log itself", "sends the frame it lies in", knowsAll} {
		found := 0
		for phase := int64(0); phase < AlignmentMin; phase += 512 {
			g, want := started()
			at := g.off
			fake := *g
			switch forger {
			case "guesses the salt":
				fake.Salt = g.Salt ^ 0xffff
			case "salt 0":
				fake.Salt = 0
			case "salt of the previous life":
				fake.Salt = 0x0b5e55ed
			}
			inner := &batch{}
			inner.enqueue(666, simple("local", []byte("forged")))
			body := make([]byte, size)
			for off := phase; off+AlignmentMin <= size; off += AlignmentMin {
				// As long as phase is that of the body area, off is where the body's byte off
				// will stand relative to a frame boundary.
				place := at + 1024 + off
				fake.next.Promise = MakePos(g.Number, 1<<19)
				_, frame := fake.encode(Data, inner, place)
				switch forger {
				case "sends the log itself":
					frame = g.data[want[1].Pos.Offset():][:want[1].Len]
				case "sends the frame it lies in":
					copy(body[off:], frame) // so that there is something at all
					continue
				}
				copy(body[off:], frame)
			}
			b := &batch{}
			b.enqueue(7, simple("local", body))
			for (int64(FrameHeaderSize+len(b.table))+511)&^511 != 1024 {
				b.add(AttemptSize, func(dst []byte, back int64) Record { return PutAttempt(dst, back, 1, 0, 1) })
			}
			if forger == "sends the frame it lies in" {
				_, frame := g.encode(Data, b, at)
				for off := phase; off+AlignmentMin <= size; off += AlignmentMin {
					copy(body[off:], frame[:AlignmentMin])
				}
				b.body, b.table, b.records = nil, nil, 0
				b.enqueue(7, simple("local", body))
				for (int64(FrameHeaderSize+len(b.table))+511)&^511 != 1024 {
					b.add(AttemptSize, func(dst []byte, back int64) Record { return PutAttempt(dst, back, 1, 0, 1) })
				}
			}
			h := g.frame(Data, b)
			if h.BodyOff != 1024 {
				t.Fatalf("the body area begins at %d", h.BodyOff)
			}
			after := full(g)
			whole := slices.Clone(g.data)

			s, _ := g.open(t)
			all := append(slices.Clone(want), h, after)
			if _, seen, err := scan(t, s); err != nil || !slices.Equal(seen, all) {
				t.Fatalf("%s, phase %d: %d frames, %v", forger, phase, len(seen), err)
			}
			found += len(headers(t, s)) - len(all)

			// The same torn: its first k blocks are missing, what is behind never came.
			for _, k := range []int64{1, 2, 5} {
				copy(g.data, whole)
				clear(g.data[at : at+k*AlignmentMin])
				clear(g.data[after.Pos.Offset():][:after.Len])
				s, _ := g.open(t)
				stop, seen, err := scan(t, s)
				if err != nil || !slices.Equal(seen, want) || stop.Off != at || stop.Torn {
					t.Fatalf("%s, phase %d, %d blocks missing: %d frames, %+v, %v", forger, phase, k, len(seen), stop, err)
				}
				found += len(headers(t, s)) - len(want)
				for off := at; off < h.End().Offset(); off += AlignmentMin {
					if f, ok, err := g.decode(off); ok || err != nil {
						found++
						if ok && forger != knowsAll {
							t.Fatalf("%s, phase %d: a frame at %#x: %+v, %v", forger, phase, off, f.FrameHeader, err)
						}
					}
				}
			}
		}
		if forger == knowsAll {
			if found == 0 {
				t.Error("not even frames with the right salt are found: the test shows nothing")
			}
		} else if found != 0 {
			t.Errorf("%s: %d forged frames found", forger, found)
		}
	}
}

// TestUnknownFrameKind: a later version's frame in the chain is a question of version; out of it
// only its promise counts.
func TestUnknownFrameKind(t *testing.T) {
	g, want := started()
	h := g.frame(FrameKind(9), &batch{})
	s, _ := g.open(t)
	if _, seen, err := scan(t, s); !errors.Is(err, ErrVersion) || errors.Is(err, ErrCorrupt) || len(seen) != 3 {
		t.Errorf("in the chain: %d frames, %v", len(seen), err)
	}
	clear(g.data[want[2].Pos.Offset():][:want[2].Len])
	s, _ = g.open(t)
	stop, seen, err := scan(t, s)
	if err != nil || len(seen) != 2 || stop.Finding != FrameBad {
		t.Errorf("out of the chain: %d frames, %+v, %v", len(seen), stop, err)
	}
	if all := headers(t, s); len(all) != 3 || all[2].Promise != h.Promise || h.Promise <= want[2].Pos {
		t.Errorf("its promise is not found: %d headers", len(all))
	}
}

func TestUnreadable(t *testing.T) {
	g, want := started()
	path := "/log/" + Name(g.Number)
	s, fs := g.open(t)
	// Behind the log: brought in ahead, never needed.
	if err := fs.Unreadable(path, g.off+8192, 4096); err != nil {
		t.Fatal(err)
	}
	if stop, seen, err := scan(t, s); err != nil || len(seen) != 3 || stop.Finding != FrameBad {
		t.Errorf("unreadable behind the end: %d frames, %+v, %v", len(seen), stop, err)
	}
	if err := s.Headers(s.First(), s.Size, func(*FrameHeader) {}); !errors.Is(err, syscall.EIO) {
		t.Errorf("Headers over it: %v", err)
	}
	if err := fs.Unreadable(path, want[2].Pos.Offset(), 4096); err != nil {
		t.Fatal(err)
	}
	stop, seen, err := scan(t, s)
	if err != nil || len(seen) != 2 || stop.Finding != Unreadable || !errors.Is(stop.Err, syscall.EIO) || stop.Off != want[2].Pos.Offset() || stop.Torn {
		t.Errorf("unreadable in the log: %d frames, %+v, %v", len(seen), stop, err)
	}
	f, ok, err := g.decode(want[2].Pos.Offset())
	if !ok || err != nil {
		t.Fatal(ok, err)
	}
	if _, err := s.CheckBodies(&f, nil); !errors.Is(err, syscall.EIO) {
		t.Errorf("CheckBodies: %v", err)
	}
	if _, _, err := s.Record(want[2].Pos.Offset()+FrameHeaderSize, 5); err == nil || errors.Is(err, ErrCorrupt) {
		t.Errorf("a record in it: %v", err)
	}
}

func TestLongTableAndBody(t *testing.T) {
	g, want := started()
	b := &batch{}
	m := simple("local", bytes.Repeat([]byte("0123456789abcdef"), 10<<10))
	for i := range 4000 {
		m.Recipients = append(m.Recipients, mailq.Recipient{Queue: "local", Address: string(rune('a' + i%26))})
	}
	b.enqueue(50, m)
	want = append(want, g.frame(Data, b), full(g))
	if b := int64(len(b.table)); b <= readAhead {
		t.Fatalf("the table has %d bytes only", b)
	}
	s, _ := g.open(t)
	if _, seen, err := scan(t, s); err != nil || !slices.Equal(seen, want) {
		t.Errorf("%d frames, %v", len(seen), err)
	}
}

func TestFirstFrame(t *testing.T) {
	g, want := started()
	path := "/log/" + Name(g.Number)
	s, fs := g.open(t)
	if h, ok, err := s.FirstFrame(); !ok || err != nil || h != want[0] {
		t.Errorf("got %+v, %v, %v", h, ok, err)
	}
	if err := fs.Unreadable(path, s.First(), 4096); err != nil {
		t.Fatal(err)
	}
	if _, ok, err := s.FirstFrame(); ok || !errors.Is(err, syscall.EIO) {
		t.Errorf("unreadable: %v, %v", ok, err)
	}
	clear(g.data[want[0].Pos.Offset():][:8])
	s, _ = g.open(t)
	if _, ok, err := s.FirstFrame(); ok || err != nil {
		t.Errorf("none there: %v, %v", ok, err)
	}
	g = newImage(1, 1, AlignmentMax)
	g.Alignment = AlignmentMax
	copy(g.data, g.Header.Encode())
	s, _ = g.open(t)
	if _, ok, err := s.FirstFrame(); ok || err != nil {
		t.Errorf("no room for one: %v, %v", ok, err)
	}
	if stop, seen, err := scan(t, s); err != nil || len(seen) != 0 || stop.Finding != FrameBad {
		t.Errorf("no room for one: %+v, %v", stop, err)
	}
}
