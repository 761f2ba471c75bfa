package segment

import (
	"testing"

	"github.com/mtawal/mtawal/internal/disk"
)

// askedDir notes what is asked for of the segments that are opened in it.
type askedDir struct {
	disk.Dir
	asked *[]bool // by block
}

type askedFile struct {
	disk.File
	asked *[]bool
}

type askedMapping struct {
	disk.Mapping
	asked *[]bool
}

func (d askedDir) Open(name string, write bool) (disk.File, error) {
	f, err := d.Dir.Open(name, write)
	return askedFile{f, d.asked}, err
}

func (f askedFile) Map(n int64) (disk.Mapping, error) {
	m, err := f.File.Map(n)
	*f.asked = make([]bool, n/AlignmentMin)
	return askedMapping{m, f.asked}, err
}

func (m askedMapping) Populate(off, n int64) error {
	m.Prefetch(off, n)
	return m.Mapping.Populate(off, n)
}

func (m askedMapping) Prefetch(off, n int64) {
	for at := off / AlignmentMin; at*AlignmentMin < off+n; at++ {
		(*m.asked)[at] = true
	}
}

// Of long frames headers and tables are asked for, of short ones all; nothing behind the end, and no more than is said.
func TestAheadAsksForWhatIsRead(t *testing.T) {
	for _, c := range []struct {
		name string
		body int
		few  bool
	}{{"short", 2000, false}, {"long", 200 << 10, true}} {
		t.Run(c.name, func(t *testing.T) {
			var asked []bool
			s, frames := aheadSegment(t, c.body, &asked)
			end := frames[len(frames)-1].End().Offset()
			n, most := int64(0), int64(1<<40)
			may := func(bytes int64) bool {
				if n+bytes > most {
					return false
				}
				n += bytes
				return true
			}
			s.Ahead(s.First(), end, may)
			total := 0
			for _, a := range asked {
				if a {
					total++
				}
			}
			if int64(total)*AlignmentMin > n+AlignmentMin || n > end {
				t.Errorf("%d blocks were asked for, and %d bytes of %d said", total, n, end)
			}
			for _, h := range frames {
				first, last := h.Pos.Offset()/AlignmentMin, (h.Pos.Offset()+FrameHeaderSize+int64(h.TableLen)-1)/AlignmentMin
				for at := first; at <= last; at++ {
					if !asked[at] {
						t.Errorf("block %d of the frame at %v was not asked for", at-first, h.Pos)
					}
				}
			}
			if few := n < end/4; few != c.few {
				t.Errorf("%d bytes of %d were asked for", n, end)
			}
			for _, a := range asked[end/AlignmentMin:] {
				if a {
					t.Error("something behind the end was asked for")
				}
			}
			for _, off := range []int64{-1, s.Size, s.Size - 8, 1 << 62} {
				s.Ahead(off, 1<<62, may)
			}
			clear(asked)
			n, most = 0, readTable+1
			s.Ahead(s.First(), end, may)
			if n != readTable && c.few || n != 0 && n != readTable && !c.few {
				t.Errorf("%d bytes were asked for where it was to be %d at most", n, most)
			}
			for at, a := range asked {
				if a && int64(at)*AlignmentMin >= s.First()+n {
					t.Errorf("block %d was asked for, and %d bytes said", at, n)
				}
			}
		})
	}
}

// A scan of long frames brings in headers and tables, from the first one on: around what it misses beyond them the system would read megabytes.
func TestScanOfLongFramesReadsNoBodies(t *testing.T) {
	var asked []bool
	s, frames := aheadSegment(t, 200<<10, &asked)
	read := 0
	if _, err := s.Scan(s.First(), FrameHeader{Epoch: frames[0].Epoch, Nonce: frames[0].Nonce}, func(*Frame) error { read++; return nil }); err != nil {
		t.Fatal(err)
	}
	if read != len(frames) {
		t.Fatalf("%d frames of %d were read", read, len(frames))
	}
	for _, h := range frames {
		for off := h.Pos.Offset() + readTable; off < h.End().Offset(); off += AlignmentMin {
			if asked[off/AlignmentMin] {
				t.Fatalf("%d bytes behind the beginning of the frame at %v were brought in", off-h.Pos.Offset(), h.Pos)
			}
		}
	}
}

// aheadSegment has frames with bodies of a length.
func aheadSegment(t *testing.T, body int, asked *[]bool) (*Segment, []FrameHeader) {
	t.Helper()
	g := newImage(3, 77, 8<<20)
	var frames []FrameHeader
	for g.off < g.Size/2 {
		var b batch
		b.enqueue(uint64(len(frames)+1), simple("q", make([]byte, body)))
		frames = append(frames, g.frame(Data, &b))
	}
	fs, dir := testDir(t)
	put(t, fs, Name(g.Number), g.data)
	s, err := OpenSegment(askedDir{dir, asked}, g.Number, g.UUID, false)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := s.Release(); err != nil {
			t.Error(err)
		}
	})
	return s, frames
}
