package journal

import (
	"errors"
	"io/fs"
	"slices"
	"strings"
	"sync"
	"testing"

	"github.com/mtawal/mtawal/internal/disk/memdisk"
	"github.com/mtawal/mtawal/segment"
)

func TestAppendAndRecover(t *testing.T) {
	r := newRig(t)
	for i := range 5 * perSegment {
		switch i % 7 {
		case 3:
			r.append(marker())
		case 5:
			r.put(5)
		default:
			r.put(1)
		}
	}
	if n := r.log.End().Segment(); n < 6 {
		t.Fatalf("%d segments are too few for a test", n)
	}
	var sum int64
	for i, h := range r.frames {
		if i > 0 && (h.Previous == 0 || h.Pos <= r.frames[i-1].Pos || h.Promise < r.frames[i-1].End()) {
			t.Errorf("frame %d: %+v", i, h)
		}
		sum += h.Len
	}
	if n := r.log.Appended(); n != sum+int64(r.log.End().Segment()-1)*block {
		t.Errorf("%d bytes appended, of %d and the Seals", n, sum)
	}
	r.crash().replays("after a kill", r.frames)
	cut := r.crash()
	cut.fs.PowerCutWith(func(int) int { return 0 }) // nothing that was not durable survives
	on(t, cut.fs).replays("after a power cut", r.frames)
	before := r.frames
	r.reopen()
	if got := withoutSeals(r.frames); !slices.Equal(got[:len(before)], before) || got[len(got)-1].Epoch != 2 {
		t.Errorf("reopened as %s", places(got))
	}
	if last := r.log.Last(); last.Total != before[len(before)-1].Total+1 {
		t.Errorf("the log has %d records, then an Open frame, and counts %d", before[len(before)-1].Total, last.Total)
	}
}

// A frame may be so long that nothing but header and Seal has room beside it.
func TestLongestFrame(t *testing.T) {
	r := newRig(t)
	most := r.log.FrameMax()
	if most != perSegment*block {
		t.Errorf("the longest frame has %d bytes", most)
	}
	h := r.put(perSegment)
	if h.Len != most || h.Pos.Offset() != block || h.Pos.Segment() != 2 {
		t.Errorf("the longest frame is %d bytes at %v", h.Len, h.Pos)
	}
	r.put(1)
	d := message(r.next, perSegment*block-511)
	if _, err := r.log.Append(d); err == nil {
		t.Error("a frame was appended that is longer than a segment takes")
	}
	r.put(1) // nothing has changed
	r.crash().replays("after a kill", r.frames)
}

// What no reader would take is not written.
func TestAppendRefuses(t *testing.T) {
	r := newRig(t)
	for name, d := range map[string]*Draft{
		"a table of an odd length": {Kind: segment.Data, Table: make([]byte, segment.FrameHeaderSize+12)},
		"no room for a header":     {Kind: segment.Data, Table: make([]byte, segment.FrameHeaderSize-8)},
		"a table that is too long": {Kind: segment.Data, Table: make([]byte, segment.FrameHeaderSize+segment.TableMax+8)},
	} {
		if h, err := r.log.Append(d); err == nil {
			t.Errorf("%s: appended as %+v", name, h)
		}
	}
	r.put(1)
	r.crash().replays("after a kill", r.frames)
}

// The size of segments may change between openings. A successor that stands ready was made in
// the old one: a frame that does not fit goes into the one behind.
func TestSegmentSizeGrows(t *testing.T) {
	for _, sizes := range [][2]int64{{segment.SizeMin, 4 * segment.SizeMin}, {4 * segment.SizeMin, segment.SizeMin}} {
		r := newRig(t)
		r.opt.SegmentSize = sizes[0]
		r.reopen()
		r.fill(0)
		r.put(1) // rotates: the one behind is made
		for !slices.Contains(r.files(), segment.Name(r.log.End().Segment()+1)) {
			r.close() // which waits for it, unless it was not begun
			r.open()
		}
		r.close()
		r.opt.SegmentSize = sizes[1]
		r.open()
		for range 4 {
			r.put(int(r.log.FrameMax()/block) - 1)
			r.put(1)
		}
		r.crash().replays("after a kill", withoutSeals(r.frames))
		r.reopen()
	}
}

// So may the alignment, when the store moves to another device.
func TestAlignmentChanges(t *testing.T) {
	const large = 4 * block
	for _, blocks := range [][2]int{{block, large}, {large, block}} {
		r := newRigOn(t, memdisk.New(memdisk.Config{Block: blocks[0]}))
		r.fill(9)
		r.close()
		moved := memdisk.New(memdisk.Config{Block: blocks[1]})
		n := on(t, moved)
		for _, name := range r.files() {
			b, err := r.fs.Device(logDir + "/" + name)
			r.ok(err)
			r.ok(moved.Put(logDir+"/"+name, b))
		}
		n.open()
		for range 6 {
			n.put(int(n.log.FrameMax() / block))
			n.put(1)
		}
		n.crash().replays("after a kill", withoutSeals(n.frames))
		n.reopen()
	}
}

func TestFrames(t *testing.T) {
	r := newRig(t)
	for range 3*perSegment + 4 {
		r.put(1)
	}
	headers := r.frames
	reads := func(from, to segment.Pos, prev segment.FrameHeader) ([]segment.FrameHeader, error) {
		var got []segment.FrameHeader
		err := r.log.Frames(from, to, prev, func(f *segment.Frame) error {
			got = append(got, f.FrameHeader)
			return nil
		})
		return withoutSeals(got), err
	}
	for i := -1; i < len(headers); i++ {
		for j := i; j < len(headers); j++ {
			var from, to segment.Pos
			var prev segment.FrameHeader
			if i >= 0 {
				from, prev = headers[i].End(), headers[i]
			}
			if j >= 0 {
				to = headers[j].End()
			}
			got, err := reads(from, to, prev)
			if err != nil || !slices.Equal(got, headers[i+1:j+1]) {
				t.Fatalf("from %v to %v: %s, %v", from, to, places(got), err)
			}
		}
	}
	end, last := r.log.End(), headers[len(headers)-1]
	for name, f := range map[string]func() error{
		"behind the end":       func() error { _, err := reads(0, end+block, segment.FrameHeader{}); return err },
		"inside of a frame":    func() error { _, err := reads(0, end-512, segment.FrameHeader{}); return err },
		"in a segment to come": func() error { _, err := reads(0, segment.MakePos(99, block), segment.FrameHeader{}); return err },
		"from a segment to come": func() error {
			_, err := reads(segment.MakePos(98, block), segment.MakePos(99, block), last)
			return err
		},
		"behind another frame": func() error { _, err := reads(headers[3].End(), end, headers[2]); return err },
		"backwards":            func() error { _, err := reads(headers[9].End(), headers[3].End(), headers[9]); return err },
	} {
		if err := f(); !isCorrupt(err) {
			t.Errorf("%s: %v", name, err)
		}
	}
	mine := errors.New("mine")
	if err := r.log.Frames(0, end, segment.FrameHeader{}, func(*segment.Frame) error { return mine }); err != mine {
		t.Errorf("an error of the reader comes back as %v", err)
	}
	for _, i := range r.log.Segments() {
		if i.Readers != 0 {
			t.Errorf("segment %d is still read by %d", i.Number, i.Readers)
		}
	}
	// The beginning of a segment is as good a place as the end of the Seal before it.
	if got, err := reads(0, segment.MakePos(2, block), segment.FrameHeader{}); err != nil || len(got) != perSegment {
		t.Errorf("to the beginning of segment 2: %s, %v", places(got), err)
	}
	// As found, not resumed.
	n := r.crash()
	rec, err := n.recover(Start{}, 1, 0)
	n.ok(err)
	count := 0
	if err := rec.Frames(headers[2].End(), end, headers[2], func(*segment.Frame) error { count++; return nil }); err != nil || count != len(headers)-3+3 {
		t.Errorf("%d frames found, %v", count, err)
	}
	if _, err := rec.Acquire(77); !isCorrupt(err) {
		t.Errorf("a segment that is not there: %v", err)
	}
	if list := rec.Segments(); len(list) < 4 || !slices.IsSortedFunc(list, func(a, b *segment.Segment) int { return int(a.Number) - int(b.Number) }) {
		t.Errorf("%d segments found", len(list))
	}
	r.ok(rec.Close())
}

// Frames are read while others are appended behind them, and segments recycled before.
func TestReadersBesideTheWriter(t *testing.T) {
	r := newRig(t)
	type at struct {
		pos  segment.Pos
		prev segment.FrameHeader
	}
	var mu sync.Mutex     // of ends
	var life sync.RWMutex // nobody reads what is recycled
	ends := []at{{r.log.End(), r.log.Last()}}
	var wg sync.WaitGroup
	done := make(chan struct{})
	for range 3 {
		wg.Add(1)
		go func() {
			defer wg.Done()
			for {
				select {
				case <-done:
					return
				default:
				}
				life.RLock()
				mu.Lock()
				first, last := ends[max(0, len(ends)-30)], ends[len(ends)-1]
				mu.Unlock()
				n := segment.Pos(0)
				if err := r.log.Frames(first.pos, last.pos, first.prev, func(f *segment.Frame) error { n = f.End(); return nil }); err != nil || n != last.pos && first != last {
					t.Errorf("from %v to %v: read to %v, %v", first.pos, last.pos, n, err)
				}
				life.RUnlock()
				r.log.Segments()
				r.log.Files()
			}
		}()
	}
	wg.Add(1)
	go func() {
		defer wg.Done()
		for {
			select {
			case <-done:
				return
			default:
			}
			life.Lock()
			mu.Lock()
			before := ends[max(0, len(ends)-60)].pos.Segment()
			mu.Unlock()
			var dead []uint32
			for _, i := range r.log.Segments() {
				if i.Number < before {
					dead = append(dead, i.Number)
				}
			}
			if err := r.log.Recycle(dead); err != nil {
				t.Error(err)
			}
			life.Unlock()
		}
	}()
	for range 40 * perSegment {
		h := r.put(1)
		mu.Lock()
		ends = append(ends, at{h.End(), h})
		mu.Unlock()
	}
	close(done)
	wg.Wait()
}

// A dead segment's file is taken when its last reader is gone, and not before.
func TestRecycleWaitsForReaders(t *testing.T) {
	r := newRig(t)
	for range 3 * perSegment {
		r.put(1)
	}
	held, err := r.log.Acquire(1)
	r.ok(err)
	m, err := held.Map()
	r.ok(err)
	was := slices.Clone(m.Bytes())
	r.ok(r.log.Recycle([]uint32{1, 99})) // one that is not there is nobody's
	if _, err := r.log.Acquire(1); !isCorrupt(err) {
		t.Errorf("a dead segment is given out: %v", err)
	}
	r.ok(r.log.Recycle([]uint32{1}))
	for range 6 * perSegment { // whoever writes over it does it now
		r.put(1)
	}
	if !slices.Equal(m.Bytes(), was) || !slices.Contains(r.files(), segment.Name(1)) {
		t.Error("a segment under a reader was written over")
	}
	r.ok(held.Release())
	r.ok(r.log.Recycle([]uint32{2}))
	r.close()
	if names := r.files(); slices.Contains(names, segment.Name(1)) && slices.Contains(names, segment.Name(2)) && len(names) < 8 {
		t.Errorf("files: %v", names)
	}
}

// The tail is nobody's to recycle, nor what stands behind it.
func TestRecycleSparesTheTail(t *testing.T) {
	r := newRig(t)
	r.fill(0)
	r.ok(r.log.Recycle([]uint32{1, 2, 3}))
	r.put(1)
	r.crash().replays("after a kill", r.frames)
	if got := r.log.Segments(); len(got) != 2 || !got[0].Sealed || got[1].Sealed || got[0].End != segment.SizeMin-block || got[1].End != 2*block {
		t.Errorf("segments: %+v", got)
	}
	if f := r.log.Files(); f.Segments != 2 || f.Bytes < 2*segment.SizeMin {
		t.Errorf("%+v", f)
	}
}

// Somebody cut the tail's file: it is not sealed, and nothing goes on behind it.
func TestTailCutUnderTheStore(t *testing.T) {
	r := newRig(t)
	r.fill(0)
	f, err := r.dir.Open(segment.Name(1), true)
	r.ok(err)
	r.ok(errors.Join(f.Truncate(segment.SizeMin-block), f.Close()))
	for range 2 { // the second says the same
		if _, err := r.log.Append(marker()); !isCorrupt(err) || !strings.Contains(err.Error(), segment.Name(1)) {
			t.Errorf("rotated away from a file that was cut: %v", err)
		}
	}
}

func TestCloseWithReaders(t *testing.T) {
	r := newRig(t)
	r.put(2)
	s, err := r.log.Acquire(1)
	r.ok(err)
	r.close()
	m, err := s.Map()
	if err != nil || len(m.Bytes()) != segment.SizeMin {
		t.Errorf("a reader lost its segment when the log was closed: %v", err)
	}
	r.ok(s.Release())
	if _, err := s.File.Size(); !errors.Is(err, fs.ErrClosed) {
		t.Errorf("the file is still open: %v", err)
	}
}
