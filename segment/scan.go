package segment

import (
	"fmt"

	"github.com/mtawal/mtawal/internal/barrier"
	"github.com/mtawal/mtawal/internal/disk"
)

// readAhead is how much of a segment is brought in at a time while frames are
// read one behind the other. Bodies longer than that are skipped, not read.
const readAhead = 64 << 10

// readTable is that where no more is to be read than is looked at: the header of a frame and most
// tables.
const readTable = 16 << 10

// headersAhead is how much is asked for at once where all of it is looked through.
const headersAhead = 8 << 20

// window brings the bytes of a segment in, a stretch at a time.
type window struct {
	seg        *Segment
	exact      bool // the system is not to read around what is asked for
	long       bool // the last frame was: so may the next one be
	memory     func(off, n int64) []byte
	from, till int64
	copied     []byte // stands in for the mapping where that can't be read
}

// at returns n bytes at off, without going beyond the end.
func (w *window) at(off, n int64) ([]byte, error) {
	n = min(n, w.seg.Size-off)
	if w.memory != nil {
		if b := w.memory(off, n); b != nil {
			return b, nil
		}
	}
	m, err := w.seg.Map()
	if err != nil {
		return nil, err
	}
	if off < w.from || off+n > w.till {
		ahead, exact := int64(readAhead), w.exact || w.long
		if exact {
			ahead = readTable
		}
		end := min(max(off+n, off+ahead), w.seg.Size)
		w.copied = nil
		if exact {
			m.Prefetch(off, end-off) // what is asked for is read, and nothing around it
		}
		if err := m.Populate(off, end-off); err != nil {
			// A second, uncached read of just what is asked for decides.
			end = off + n
			w.copied = make([]byte, n)
			if _, err2 := w.seg.File.ReadUncached(w.copied, off); err2 != nil {
				w.from, w.till = 0, 0
				return nil, fmt.Errorf("reading %s at %d: %w", w.seg.File.Name(), off, err2)
			}
		}
		w.from, w.till = off, end
	}
	if w.copied != nil {
		return w.copied[off-w.from : off-w.from+n], nil
	}
	return m.Bytes()[off : off+n], nil
}

// frame reads header and table of the frame at off. The finding is Whole if both
// are valid (bodies are not looked at), FrameBad, or Unreadable with the error
// of the device. A valid frame that can't be understood (see NewFrame) comes as an
// error with FrameBad.
func (w *window) frame(off int64) (Frame, Finding, error) {
	if off+FrameHeaderSize > w.seg.Size {
		return Frame{}, FrameBad, nil
	}
	b, err := w.at(off, FrameHeaderSize)
	if err != nil {
		return Frame{}, Unreadable, err
	}
	h, ok, err := DecodeFrameHeader(&w.seg.Header, off, b)
	if !ok || err != nil {
		return Frame{FrameHeader: h}, FrameBad, err
	}
	b, err = w.at(off, FrameHeaderSize+int64(h.TableLen))
	if err != nil {
		return Frame{FrameHeader: h}, Unreadable, err
	}
	f, ok, err := NewFrame(h, b)
	if !ok || err != nil {
		return f, FrameBad, err
	}
	return f, Whole, nil
}

// Stop is where a scan ended, and why.
type Stop struct {
	Off     int64
	Finding Finding // FrameBad or Unreadable; Whole after a Seal or if fn ended it
	Err     error   // of the device, with Unreadable
	Torn    bool    // a frame header that belongs here stands here, its table does not match
	Last    FrameHeader
	Sealed  bool
}

// Scan reads the frames from an offset on, each chained to the one before, and
// hands them to fn without their bodies; the frame is valid until fn returns. It ends behind a Seal, at the first place
// where no valid frame stands, or with the error of fn. A chained frame that was
// written whole and can't be understood is an error: ErrVersion or ErrCorrupt.
func (s *Segment) Scan(off int64, prev FrameHeader, fn func(*Frame) error) (Stop, error) {
	return s.scan(window{seg: s}, off, prev, fn)
}

// ScanTables is Scan beside a log that is being written: bodies, which were written past the page
// cache, are not brought into it. The system may read megabytes around a page that it misses,
// and has commits wait meanwhile. What memory has of the segment, n bytes at an offset and nil if it
// has not, is not read at all.
func (s *Segment) ScanTables(off int64, prev FrameHeader, memory func(off, n int64) []byte, fn func(*Frame) error) (Stop, error) {
	return s.scan(window{seg: s, exact: true, memory: memory}, off, prev, fn)
}

func (s *Segment) scan(w window, off int64, prev FrameHeader, fn func(*Frame) error) (Stop, error) {
	stop := Stop{Off: off, Last: prev}
	w.long = true // for all that is known
	m, err := s.Map()
	if err != nil {
		return stop, err
	}
	err = disk.Guard(m, func() error {
		var f Frame // one for all: fn gets its address, which would make each an allocation
		for stop.Off < s.Size {
			var finding Finding
			var err error
			f, finding, err = w.frame(stop.Off)
			if finding == Unreadable {
				stop.Finding, stop.Err = Unreadable, err
				return nil
			}
			follows := f.Len > 0 && f.Follows(&stop.Last)
			if err != nil && follows {
				return err // only if the frame belongs to this log
			}
			if finding != Whole || !follows {
				stop.Finding, stop.Torn = FrameBad, follows
				return nil
			}
			if err := fn(&f); err != nil {
				return err
			}
			stop.Off, stop.Last = stop.Off+f.Len, f.FrameHeader
			w.long = f.Len > readAhead
			if f.Kind == Seal {
				stop.Sealed = true
				return nil
			}
		}
		stop.Finding = FrameBad // no room for a frame, and no Seal
		return nil
	})
	return stop, err
}

// Headers calls fn with every valid frame header that begins in [off, end), chained
// or not, of a known kind or not: for promises made behind the place where the chain
// ends. An unreadable block ends it with the device's error.
func (s *Segment) Headers(off, end int64, fn func(*FrameHeader)) error {
	m, err := s.Map()
	if err != nil {
		return err
	}
	return disk.Guard(m, func() error {
		w := window{seg: s}
		var h FrameHeader // one for all, as in Scan
		asked := off
		for ; off < end && off+FrameHeaderSize <= s.Size; off += int64(s.Alignment) {
			if off >= asked {
				asked = min(off+headersAhead, end, s.Size)
				m.Prefetch(off, asked-off)
			}
			b, err := w.at(off, FrameHeaderSize)
			if err != nil {
				return err
			}
			var ok bool
			if h, ok, err = DecodeFrameHeader(&s.Header, off, b); ok || err != nil {
				fn(&h)
			}
		}
		return nil
	})
}

// CheckBodies reads the bodies of a frame and reports whether each matches its
// checksum; bad is called with the position of each record whose body does not.
func (s *Segment) CheckBodies(f *Frame, bad func(Pos, Record)) (whole bool, err error) {
	m, err := s.Map()
	if err != nil {
		return false, err
	}
	whole = true
	err = disk.Guard(m, func() error {
		from := f.Pos.Offset() + int64(f.BodyOff)
		body := m.Bytes()[from : from+f.BodyLen]
		if f.BodyLen > 0 {
			if err := m.Populate(from, f.BodyLen); err != nil {
				body = make([]byte, f.BodyLen)
				if _, err2 := s.File.ReadUncached(body, from); err2 != nil {
					return fmt.Errorf("reading bodies of %s at %d: %w", s.File.Name(), from, err2)
				}
			}
		}
		return f.ForEach(func(p Pos, r Record) error {
			if e, ok := r.body(); ok && !e.matches(body) && !barrier.Gone(barrier.TailChecksum) {
				whole = false
				if bad != nil {
					bad(p, r)
				}
			}
			return nil
		})
	})
	return whole, err
}

// FirstFrame is the header of the first frame of the segment, if a valid one stands
// there.
func (s *Segment) FirstFrame() (h FrameHeader, ok bool, err error) {
	m, err := s.Map()
	if err != nil {
		return h, false, err
	}
	err = disk.Guard(m, func() error {
		w := window{seg: s}
		b, err := w.at(s.First(), FrameHeaderSize)
		if err == nil {
			h, ok, err = DecodeFrameHeader(&s.Header, s.First(), b)
		}
		return err
	})
	return h, ok, err
}
