package journal

import (
	"bytes"
	"errors"
	"fmt"
	"math"
	"slices"
	"syscall"
	"testing"

	"github.com/mtawal/mtawal/internal/disk"
	"github.com/mtawal/mtawal/internal/disk/memdisk"
	"github.com/mtawal/mtawal/segment"
)

// edit changes the bytes of a segment of a log that is not open, on the device.
func (r *rig) edit(number uint32, change func(b []byte)) {
	r.Helper()
	b := r.bytes(number)
	change(b)
	r.ok(r.fs.Put(r.path(number), b))
}

func (r *rig) wipe(h segment.FrameHeader) {
	r.Helper()
	r.edit(h.Pos.Segment(), func(b []byte) { clear(b[h.Pos.Offset():h.End().Offset()]) })
}

// goesOn opens what is left, appends, and recovers again: twice, as after two crashes.
func (r *rig) goesOn(what string) {
	r.Helper()
	for range 2 {
		r.open()
		r.put(1)
		n := r.crash()
		n.fs.PowerCutWith(func(int) int { return 0 })
		n = on(r.TB, n.fs)
		n.replays(what+", gone on", withoutSeals(r.frames))
		r.close()
	}
}

// Every frame of a log in turn is damaged: below the promise of a later one that is damage,
// unless only a body is hit; the last is a torn tail, unless somebody else promises it.
func TestDamage(t *testing.T) {
	r := newRig(t)
	for range perSegment + 3 {
		r.put(2)
	}
	frames, end := r.frames, r.log.End()
	for i, h := range frames {
		last := i == len(frames)-1
		for _, hit := range []struct {
			name string
			off  int64
			body bool
		}{{"header", 60, false}, {"table", segment.FrameHeaderSize + 20, false}, {"body", int64(h.BodyOff) + 9, true}} {
			if hit.body && h.BodyLen == 0 {
				continue
			}
			for _, promise := range []segment.Pos{0, h.Pos, end} {
				n := r.crash()
				n.edit(h.Pos.Segment(), func(b []byte) { b[h.Pos.Offset()+hit.off] ^= 4 })
				rec, err := n.recover(Start{}, 1, promise)
				what := fmt.Sprintf("%s of frame %d of %d, promise %v", hit.name, i, len(frames), promise)
				switch promised := !last || promise == end; {
				case promised && !hit.body:
					if !isCorrupt(err) {
						t.Errorf("%s: %v", what, err)
					}
				case err != nil:
					t.Errorf("%s: %v", what, err)
				case promised:
					if got := withoutSeals(rec.headers); !slices.Equal(got, frames) || rec.CutSize != 0 || rec.End != end {
						t.Errorf("%s: %s, cut %d", what, places(got), rec.CutSize)
					}
				default:
					if got := withoutSeals(rec.headers); !slices.Equal(got, frames[:i]) || rec.End != h.Pos {
						t.Errorf("%s: %s, end %v", what, places(got), rec.End)
					}
					// A header that is gone says nothing of what was there.
					if want := h.Len; hit.name != "header" && (rec.CutSize != want || rec.CutFrom != h.Pos) {
						t.Errorf("%s: cut %d at %v", what, rec.CutSize, rec.CutFrom)
					}
				}
				if err == nil {
					n.ok(rec.Close())
				}
			}
		}
	}
}

// A promise that a later segment alone still makes counts, even that of a torn frame.
func TestPromiseInALaterSegment(t *testing.T) {
	r := newRig(t)
	r.fill(0)
	r.put(2) // the first of segment 2
	tail := r.frames[len(r.frames)-2:]
	for name, spoil := range map[string]func(n *rig){
		"whole": func(*rig) {},
		"torn": func(n *rig) {
			n.edit(2, func(b []byte) { b[tail[1].Pos.Offset()+segment.FrameHeaderSize+4] ^= 1 })
		},
	} {
		n := r.crash()
		n.edit(1, func(b []byte) { clear(b[tail[0].Pos.Offset():]) }) // the Seal too
		spoil(n)
		if _, err := n.recover(Start{}, 1, 0); !isCorrupt(err) {
			t.Errorf("%s: %v", name, err)
		}
	}
	n := r.crash()
	n.edit(1, func(b []byte) { clear(b[tail[0].Pos.Offset():]) })
	n.wipe(tail[1])
	n.replays("nothing promises it", r.frames[:len(r.frames)-2])
	n.goesOn("a successor that stands ready")
}

func TestSuccessor(t *testing.T) {
	r := newRig(t)
	r.fill(0)
	r.put(1)
	other := newRig(t)
	other.settled()
	foreign := other.bytes(2)
	seal := segment.FrameHeader{}
	rec, err := r.crash().recover(Start{}, 1, 0)
	r.ok(err)
	for _, h := range rec.headers {
		if h.Kind == segment.Seal {
			seal = h
		}
	}
	r.ok(rec.Close())
	next, err := segment.DecodeHeader(r.bytes(2))
	r.ok(err)
	reseal := func(n *rig, number uint32, salt uint64) {
		n.edit(1, func(b []byte) {
			table := b[seal.Pos.Offset()+segment.FrameHeaderSize:][:segment.SealSize]
			segment.PutSeal(table, segment.FrameHeaderSize, number, salt)
			h := seal
			h.TableCRC = segment.TableSum(h.Salt, h.Pos, table)
			h.Encode(b[h.Pos.Offset():])
		})
	}
	for name, spoil := range map[string]func(n *rig){
		"missing":         func(n *rig) { n.ok(n.dir.Remove(segment.Name(2))) },
		"of another life": func(n *rig) { n.ok(n.fs.Put(n.path(2), foreign)) },
		"of another store": func(n *rig) {
			n.edit(2, func(b []byte) {
				h, err := segment.DecodeHeader(b)
				n.ok(err)
				h.UUID[3] ^= 1
				copy(b, h.Encode())
			})
		},
		"another number":                   func(n *rig) { n.ok(n.fs.Put(n.path(2), r.bytes(1))) },
		"no segment":                       func(n *rig) { n.edit(2, func(b []byte) { clear(b[:512]) }) },
		"too short":                        func(n *rig) { n.ok(n.fs.Put(n.path(2), r.bytes(2)[:segment.SizeMin-block])) },
		"empty":                            func(n *rig) { n.ok(n.fs.Put(n.path(2), nil)) },
		"of another number, says the Seal": func(n *rig) { reseal(n, 7, next.Salt) },
		"of another salt, says the Seal":   func(n *rig) { reseal(n, 2, next.Salt+1) },
		"not named by the Seal":            func(n *rig) { n.sealWith(seal) },
		"named by a Seal with more in it": func(n *rig) {
			n.sealWith(seal, sealRecord(2, next.Salt), sealRecord(2, next.Salt))
		},
		"replaced by something else in the Seal": func(n *rig) {
			n.sealWith(seal, func(b []byte, back int64) int {
				return len(segment.PutForget(b[:segment.ForgetSize], back, 0))
			})
		},
	} {
		n := r.crash()
		spoil(n)
		if _, err := n.recover(Start{}, 1, 0); !isCorrupt(err) {
			t.Errorf("a successor that is %s: %v", name, err)
		}
	}
	n := r.crash()
	n.ok(n.dir.Remove(segment.Name(1)))
	if _, err := n.recover(Start{}, 1, 0); !isCorrupt(err) {
		t.Errorf("no segment 1: %v", err)
	}
}

// sealWith writes a Seal over another, with these records.
func (r *rig) sealWith(h segment.FrameHeader, records ...func(b []byte, back int64) int) {
	r.Helper()
	table := make([]byte, 256)
	n := 0
	for _, put := range records {
		n += put(table[n:], int64(segment.FrameHeaderSize+n))
	}
	h.Records, h.TableLen = uint32(len(records)), uint32(n)
	h.TableCRC = segment.TableSum(h.Salt, h.Pos, table[:n])
	r.edit(h.Pos.Segment(), func(b []byte) {
		h.Encode(b[h.Pos.Offset():])
		copy(b[h.Pos.Offset()+segment.FrameHeaderSize:], table[:n])
	})
}

func sealRecord(number uint32, salt uint64) func(b []byte, back int64) int {
	return func(b []byte, back int64) int { return len(segment.PutSeal(b[:segment.SealSize], back, number, salt)) }
}

// What the device can't read is its error, and nobody decides.
func TestUnreadable(t *testing.T) {
	r := newRig(t)
	for range perSegment + 2 {
		r.put(1)
	}
	r.put(3)
	last := r.frames[len(r.frames)-1]
	for number := uint32(1); number <= 2; number++ {
		for off := int64(0); off < segment.SizeMin; off += block {
			if number == 1 && off == segment.SizeMin-block {
				continue // kept for a frame that is Spare: nobody reads behind a Seal
			}
			n := r.crash()
			n.ok(n.fs.Unreadable(n.path(number), off, 1))
			rec, err := n.recover(Start{}, 1, 0)
			if err == nil {
				t.Errorf("block %d of segment %d can't be read, and %s were", off/block, number, places(rec.headers))
				n.ok(rec.Close())
			} else if isCorrupt(err) || !errors.Is(err, syscall.EIO) {
				t.Errorf("block %d of segment %d: %v", off/block, number, err)
			}
		}
	}
	// A body that was promised is not read.
	n := r.crash()
	n.ok(n.fs.Unreadable(n.path(2), last.Pos.Offset()+block, 1))
	rec, err := n.recover(Start{}, 1, last.End())
	if errors.Is(err, syscall.EIO) { // the look ahead reads headers, not bodies
		t.Errorf("a promised body was read: %v", err)
	} else if n.ok(err); rec.End != last.End() {
		t.Errorf("the log ends at %v", rec.End)
	}
	if err == nil {
		n.ok(rec.Close())
	}
}

// Where it is known how far the log was durable, and it goes as far, what stands ready behind it is not read: it may
// be 64 MiB, and on a device. Else a frame in it could promise more.
func TestWhatStandsReadyIsNotRead(t *testing.T) {
	r := newRig(t)
	r.put(1)
	last := r.put(1)
	r.settled()
	n := r.crash()
	n.ok(n.fs.Unreadable(n.path(2), 2*block, 1))
	if rec, err := n.recover(Start{}, 1, 0); !errors.Is(err, syscall.EIO) {
		if err == nil {
			n.ok(rec.Close())
		}
		t.Errorf("the end of the log is not known, and what stands ready was not looked at: %v", err)
	}
	rec, err := n.recover(Start{}, 1, last.End())
	n.ok(err)
	if rec.End != last.End() {
		t.Errorf("the log ends at %v", rec.End)
	}
	n.ok(rec.Close())
}

// What says how far the log was durable may be older than the log: a table that could not be written, or a copy of files of a
// store in use. A Seal that is missing is damage all the same, since frames promise more, or begin a later segment.
func TestToldOfLessThanThereIs(t *testing.T) {
	for name, others := range map[string]int{"frames behind it": 5, "one frame behind it": 0} {
		r := newRig(t)
		first := r.put(1)
		r.fill(0)
		last := r.put(2)
		for range others {
			r.put(1)
		}
		n := r.crash()
		whole, err := n.recover(Start{}, 1, 0)
		n.ok(err)
		n.ok(whole.Close())
		i := slices.IndexFunc(whole.headers, func(h segment.FrameHeader) bool { return h.Kind == segment.Seal })
		seal := whole.headers[i]
		if last.Pos.Segment() != 2 {
			t.Fatalf("%s: the last frame is at %v", name, last.Pos)
		}
		n.edit(1, func(b []byte) { clear(b[seal.Pos.Offset():]) })
		for _, told := range []segment.Pos{0, first.End(), whole.headers[i-1].Pos, seal.Pos} {
			if rec, err := n.recover(Start{}, 1, told); !isCorrupt(err) {
				t.Errorf("%s: told of %v, the log is said to end at %v: %v", name, told, rec.End, err)
				n.ok(rec.Close())
			}
		}
	}
}

// How much is cut is known also where not all behind the end is looked at.
func TestCutIsMeasuredWhereTheEndIsTold(t *testing.T) {
	r := newRig(t)
	before := r.put(1)
	torn := r.put(3)
	n := r.crash()
	n.edit(1, func(b []byte) { b[torn.Pos.Offset()+segment.FrameHeaderSize+4] ^= 1 })
	rec, err := n.recover(Start{}, 1, before.End())
	n.ok(err)
	if rec.End != before.End() || rec.CutFrom != before.End() || rec.CutSize != torn.Len {
		t.Errorf("the log ends at %v, and %d bytes are cut from %v, want %d from %v", rec.End, rec.CutSize, rec.CutFrom, torn.Len, before.End())
	}
	n.ok(rec.Close())
}

// Frames that a sender, an earlier life or an earlier epoch wrote are no frames, wherever
// they stand, though each is whole.
func TestForgedFrames(t *testing.T) {
	r := newRig(t)
	r.put(1)
	good := r.put(1)
	end := good.End()
	h := good
	h.Pos, h.Previous, h.Promise = end, good.CRC, end
	for name, forge := range map[string]func(h *segment.FrameHeader){
		"":                        func(*segment.FrameHeader) {},
		"another salt":            func(h *segment.FrameHeader) { h.Salt++ },
		"another segment":         func(h *segment.FrameHeader) { h.Pos = segment.MakePos(2, end.Offset()) },
		"another place":           func(h *segment.FrameHeader) { h.Pos += block },
		"another frame before it": func(h *segment.FrameHeader) { h.Previous++ },
		"another epoch":           func(h *segment.FrameHeader) { h.Epoch++ },
		"the epoch before":        func(h *segment.FrameHeader) { h.Epoch-- },
		"another nonce":           func(h *segment.FrameHeader) { h.Nonce++ },
		"an opening of no higher": func(h *segment.FrameHeader) { h.Kind = segment.Open },
		"too long":                func(h *segment.FrameHeader) { h.Len = segment.SizeMin },
		"no length":               func(h *segment.FrameHeader) { h.Len = 0 },
	} {
		n := r.crash()
		n.edit(1, func(b []byte) {
			to := b[end.Offset():][:good.Len]
			copy(to, b[good.Pos.Offset():])
			f := h
			forge(&f)
			f.TableCRC = segment.TableSum(f.Salt, f.Pos, to[segment.FrameHeaderSize:][:f.TableLen])
			f.Encode(to)
		})
		rec, err := n.recover(Start{}, 1, 0)
		n.ok(err)
		if want := name == ""; (len(rec.headers) == len(r.frames)+1) != want || !want && rec.End != end {
			t.Errorf("%q: %s, end %v", name, places(rec.headers), rec.End)
		}
		n.ok(rec.Close())
		if name != "" {
			n.goesOn(name)
		}
	}
	// Of a later version: refused, not cut.
	n := r.crash()
	n.edit(1, func(b []byte) {
		f := h
		f.Kind = 9
		f.TableLen, f.TableCRC, f.BodyLen, f.Records = 0, segment.TableSum(f.Salt, f.Pos, nil), 0, 0
		f.Encode(b[end.Offset():])
	})
	if _, err := n.recover(Start{}, 1, 0); !errors.Is(err, segment.ErrVersion) {
		t.Errorf("a frame of an unknown kind: %v", err)
	}
}

// Frames in flight, of equal lengths, of which the first is torn: those behind it stay cut, through
// three crashes in a row.
func TestStaleFramesStayCut(t *testing.T) {
	r := newRig(t)
	r.opt.NoSync = true
	r.reopen()
	r.put(1)
	kept := len(r.frames)
	for range 6 {
		r.put(1)
	}
	torn := r.frames[kept:]
	n := r.crash()
	n.opt.NoSync = false
	n.wipe(torn[0])
	for i := range 3 {
		rec, err := n.recover(Start{}, 1, 0)
		n.ok(err)
		// What stands behind is of the epoch that was cut only the first time.
		if want := torn[5].End() - torn[0].Pos; i == 0 && rec.CutSize != int64(want) {
			t.Errorf("cut %d of %d bytes", rec.CutSize, want)
		}
		if i > 0 && rec.CutSize != 0 {
			t.Errorf("crash %d: cut %d bytes again", i, rec.CutSize)
		}
		n.resume(rec)
		n.replaysNow(fmt.Sprintf("crash %d", i))
		n.put(1)
		n.replaysNow(fmt.Sprintf("crash %d, gone on", i))
		n.close()
	}
}

// replaysNow is replays for what a kill leaves of an open log.
func (r *rig) replaysNow(what string) {
	r.Helper()
	r.crash().replays(what, withoutSeals(r.frames))
}

// The frame that a power cut tears keeps any mix of its sectors, over zeros and over the frames
// of an earlier life: it is there with all of them, else not at all.
func TestCase01_PowerCutInsideAnAppend(t *testing.T) {
	for name, prepare := range map[string]func(r *rig){
		"zeros": func(r *rig) { r.put(1) },
		"an earlier life": func(r *rig) {
			for range 2 * perSegment {
				r.put(1)
			}
			r.settled()
			r.ok(r.log.Recycle([]uint32{1, 2}))
			for range 3 * perSegment {
				r.put(1)
			}
		},
	} {
		r := newRig(t)
		prepare(r)
		r.settled()
		i := slices.IndexFunc(r.frames, func(h segment.FrameHeader) bool { return h.Pos.Segment() == r.log.End().Segment() })
		start := Start{Pos: r.frames[i].End(), Last: r.frames[i]}
		before := r.frames[i+1:]
		var image *memdisk.FS
		r.fs.OnOp(func(op disk.Op, _ string) {
			if op == disk.OpFlush {
				image = r.fs.Clone()
			}
		})
		h := r.put(1)
		r.fs.OnOp(nil)
		seen := map[int]int{}
		for c := new(memdisk.Choices); ; {
			m := image.Clone()
			m.PowerCutWith(c.Choose)
			n := on(t, m)
			whole := bytes.Equal(n.bytes(h.Pos.Segment())[h.Pos.Offset():h.End().Offset()], r.bytes(h.Pos.Segment())[h.Pos.Offset():h.End().Offset()])
			rec, err := n.recover(start, start.Pos.Segment(), 0)
			n.ok(err)
			want := before
			if whole {
				want = append(slices.Clone(before), h)
			}
			if !slices.Equal(rec.headers, want) {
				t.Fatalf("over %s, %v: %s, should be %s", name, c.Path(), places(rec.headers), places(want))
			}
			seen[len(want)]++
			n.ok(rec.Keep(nil))
			n.resume(rec)
			n.put(1)
			n.close()
			again, err := n.recover(start, start.Pos.Segment(), 0)
			n.ok(err)
			if got := len(again.headers); got != len(want)+2 {
				t.Fatalf("over %s, %v: gone on, %d frames, should be %d", name, c.Path(), got, len(want)+2)
			}
			n.ok(again.Close())
			if !c.Next() {
				break
			}
		}
		if len(seen) != 2 || seen[len(before)] < 200 {
			t.Errorf("over %s: %v", name, seen)
		}
	}
}

// A frame that a kill left in the page cache alone is on the device before anything is built on it.
func TestTailIsWrittenAgain(t *testing.T) {
	r := newRig(t)
	r.put(1)
	var image *memdisk.FS
	r.fs.OnOp(func(op disk.Op, _ string) {
		if op == disk.OpFlush {
			image = r.fs.Clone()
		}
	})
	r.put(3)
	r.fs.OnOp(nil)
	n := on(t, image.Clone())
	rec, err := n.recover(Start{}, 1, 0)
	n.ok(err)
	log, err := rec.Resume(n.opt)
	n.ok(err)
	n.fs.PowerCutWith(func(int) int { return 0 })
	_ = log.Close() // its handles died with the power
	on(t, n.fs).replays("the power was cut after Resume", r.frames)
	for _, fault := range []memdisk.SyncFault{memdisk.SyncLost, memdisk.SyncWritten} {
		n := on(t, image.Clone())
		rec, err := n.recover(Start{}, 1, 0)
		n.ok(err)
		n.ok(n.fs.FailSync(n.path(1), fault))
		if _, err := rec.Resume(n.opt); !errors.Is(err, syscall.EIO) {
			t.Errorf("fault %d: resumed on a tail that could not be written: %v", fault, err)
		}
		n.ok(rec.Close())
	}
}

// The cut tail is kept for people, where there is room.
func TestCutIsSaved(t *testing.T) {
	r := newRig(t)
	r.put(1)
	h := r.put(3)
	for _, room := range []bool{true, false} {
		n := r.crash()
		n.edit(1, func(b []byte) { b[h.Pos.Offset()+int64(h.BodyOff)] ^= 1 })
		want := n.bytes(1)[h.Pos.Offset():h.End().Offset()]
		rec, err := n.recover(Start{}, 1, 0)
		n.ok(err)
		if !room {
			n.fs.SetCapacity(0)
		}
		log, err := rec.Resume(n.opt)
		n.ok(err)
		n.fs.SetCapacity(1 << 40)
		n.ok(log.Close())
		name := fmt.Sprintf("cut-%016x-1", uint64(h.Pos))
		_, err = n.fs.Device(logDir + "/" + name)
		if !room {
			if err == nil {
				t.Error("half of a cut tail was left on a full disk")
			}
			continue
		}
		n.ok(err)
		f, err := n.dir.Open(name, false)
		n.ok(err)
		got := make([]byte, len(want))
		_, err = f.ReadAt(got, 0)
		n.ok(errors.Join(err, f.Close()))
		if !bytes.Equal(got, want) {
			t.Error("other bytes were saved than were cut")
		}
	}
}

// A checkpoint's position and frame must be in the log as they were.
func TestStart(t *testing.T) {
	r := newRig(t)
	for range perSegment + 3 {
		r.put(1)
	}
	at := func(i int) Start { // what a checkpoint knows of the frame
		h := r.frames[i]
		return Start{Pos: h.End(), Last: segment.FrameHeader{Pos: h.Pos, CRC: h.CRC, Epoch: h.Epoch, Nonce: h.Nonce, Len: h.Len}}
	}
	for i := range r.frames {
		n := r.crash()
		rec, err := n.recover(at(i), at(i).Pos.Segment(), 0)
		n.ok(err)
		if got := withoutSeals(rec.headers); !slices.Equal(got, r.frames[i+1:]) {
			t.Errorf("from frame %d: %s", i, places(got))
		}
		if rec.Last.Total == 0 || rec.Last.CRC != r.frames[len(r.frames)-1].CRC {
			t.Errorf("from frame %d: the last is %+v", i, rec.Last)
		}
		n.ok(rec.Close())
	}
	change := func(f func(*Start)) Start { s := at(4); f(&s); return s }
	n := r.crash()
	for name, s := range map[string]Start{
		"another chain value":             change(func(s *Start) { s.Last.CRC++ }),
		"another end":                     change(func(s *Start) { s.Pos += block }),
		"another frame":                   change(func(s *Start) { s.Last.Pos = r.frames[3].Pos }),
		"another segment":                 change(func(s *Start) { s.Last.Pos = segment.MakePos(2, block) }),
		"before the first":                change(func(s *Start) { s.Last.Pos = segment.MakePos(1, 0) }),
		"behind the last":                 change(func(s *Start) { s.Last.Pos = segment.MakePos(1, segment.SizeMin-64) }),
		"a missing segment":               change(func(s *Start) { s.Pos, s.Last.Pos = segment.MakePos(99, 2*block), segment.MakePos(99, block) }),
		"another chain value, at the end": func() Start { s := at(len(r.frames) - 1); s.Last.CRC++; return s }(),
		"another end, at the end":         func() Start { s := at(len(r.frames) - 1); s.Pos += block; return s }(),
		"no segment":                      change(func(s *Start) { s.Pos, s.Last.Pos = 0x5000, 0x4000 }),
		"the end of everything":           change(func(s *Start) { s.Pos, s.Last.Pos = math.MaxUint64, math.MaxUint64-block }),
	} {
		if rec, err := n.recover(s, 1, 0); !isCorrupt(err) {
			t.Errorf("%s: %v", name, err)
			if err == nil {
				n.ok(rec.Close())
			}
		}
	}
	// The log must reach the position.
	n.wipe(r.frames[len(r.frames)-1])
	if _, err := n.recover(at(len(r.frames)-1), 1, 0); !isCorrupt(err) {
		t.Errorf("a log that ends before the checkpoint: %v", err)
	}
}

// Segments before the oldest replay matter if something lives in them, and only then.
func TestKeep(t *testing.T) {
	r := newRig(t)
	for range 4 * perSegment {
		r.put(1)
	}
	i := len(r.frames) - 3
	start := Start{Pos: r.frames[i].End(), Last: r.frames[i]}
	oldest := start.Pos.Segment()
	live := func(n ...uint32) map[uint32]struct{} {
		m := map[uint32]struct{}{}
		for _, v := range n {
			m[v] = struct{}{}
		}
		return m
	}
	n := r.crash()
	n.edit(1, func(b []byte) { b[20] ^= 1 })
	n.ok(n.dir.Remove(segment.Name(3)))
	for _, c := range []struct {
		live    map[uint32]struct{}
		corrupt bool
	}{{live(1), true}, {live(3), true}, {live(2), false}, {live(2, 3), true}, {nil, false}} {
		rec, err := n.recover(start, oldest, 0)
		n.ok(err)
		if err := rec.Keep(c.live); isCorrupt(err) != c.corrupt || !c.corrupt && err != nil {
			t.Errorf("with %v alive: %v", c.live, err)
		}
		n.ok(rec.Close())
	}
	rec, err := n.recover(start, oldest, 0)
	n.ok(err)
	n.ok(rec.Keep(live(2)))
	n.resume(rec)
	for range 2 * perSegment { // the dead come first when a segment is made
		n.put(1)
	}
	n.settled()
	n.close()
	for _, name := range n.files() {
		if name == segment.Name(1) {
			t.Errorf("a dead segment kept its name: %v", n.files())
		}
	}
	if !slices.Contains(n.files(), segment.Name(2)) {
		t.Error("a segment with something alive is gone")
	}
}

// After an error of Resume, what was found can still be closed, and nothing stays open.
func TestResumeFails(t *testing.T) {
	r := newRig(t)
	r.put(1)
	r.settled()
	r.close()
	open := 0
	for _, leftover := range []string{freePrefix + "1", tempPrefix + "1"} {
		r.ok(r.fs.Put(logDir+"/"+leftover, []byte("x")))
		rec, err := r.recover(Start{}, 1, 0)
		r.ok(err)
		held := rec.Segments()
		r.fs.OnOp(func(op disk.Op, name string) {
			if op == disk.OpRemove && name == leftover { // it is gone when it is to be removed
				r.fs.OnOp(nil)
				r.ok(r.dir.Remove(leftover))
			}
		})
		if _, err := rec.Resume(r.opt); err == nil {
			t.Error("resumed though a leftover could not be removed")
		}
		r.ok(rec.Close())
		for _, s := range held {
			if _, err := s.File.Size(); err == nil {
				t.Errorf("%s is still open", s.File.Name())
			}
			open++
		}
	}
	if open < 4 {
		t.Errorf("%d segments are too few for a test", open)
	}
	r.open()
}

// Without syncs a frame promises only what Sync has made durable, and a power cut may take the
// rest, but never has the log refused.
func TestNoSync(t *testing.T) {
	r := newRig(t)
	r.opt.NoSync = true
	r.reopen()
	for range perSegment {
		r.put(1)
	}
	to, synced := r.log.End(), len(r.frames)
	r.ok(r.log.Sync(to))
	r.ok(r.log.Sync(to))
	for range perSegment {
		r.put(1)
	}
	for _, h := range r.frames[synced:] {
		if h.Promise != to {
			t.Errorf("a frame promises %v where %v was synced", h.Promise, to)
		}
	}
	r.replaysNow("after a kill")
	for seed := range 40 {
		m := r.fs.Clone()
		c := seeded(seed)
		m.PowerCutWith(c.choose)
		n := on(t, m)
		rec, err := n.recover(Start{}, 1, to)
		if err != nil {
			t.Errorf("seed %d: %v", seed, err)
			continue
		}
		if got := withoutSeals(rec.headers); len(got) < synced || !slices.Equal(got, withoutSeals(r.frames)[:len(got)]) {
			t.Errorf("seed %d: %s", seed, places(got))
		}
		n.opt.NoSync = false
		n.resume(rec)
		n.put(1)
		n.replaysNow(fmt.Sprint("seed ", seed))
		n.close()
	}
	n := r.crash()
	n.opt.NoSync = true
	n.open()
	n.put(1)
	n.ok(n.fs.FailSync(n.path(n.log.End().Segment()), memdisk.SyncLost))
	if err := n.log.Sync(n.log.End()); !errors.Is(err, syscall.EIO) {
		t.Errorf("a sync that failed: %v", err)
	}
}

// seeded is a source of choices.
type seeded uint64

func (s *seeded) choose(n int) int {
	*s = *s*6364136223846793005 + 1442695040888963407
	return int(uint64(*s)>>33) % n
}
