package segment

import "github.com/mtawal/mtawal/internal/disk"

// aheadRun is how much is asked for at once where all of it will be read.
const aheadRun = 1 << 20

// AheadOf is about how much Ahead asks for of a frame.
func AheadOf(h *FrameHeader) int64 {
	if h.Len <= readAhead {
		return h.Len
	}
	return max(readTable, FrameHeaderSize+int64(h.TableLen))
}

// Ahead asks for what Scan will read of [off, end) to be brought into memory: headers and tables of
// long frames, all of short ones. It waits for headers, since they say where the next one is, and for nothing else. It ends at
// what is no frame, or when it may not ask for so many bytes more.
func (s *Segment) Ahead(off, end int64, may func(bytes int64) bool) {
	m, err := s.Map()
	if err != nil {
		return // whatever is wrong is found by who reads it
	}
	end = min(end, s.Size)
	till := max(off, 0)
	over := false
	ask := func(to int64) {
		if n := min(to, end) - till; n > 0 {
			if over = over || !may(n); over {
				return
			}
			m.Prefetch(till, n)
			till += n
		}
	}
	run := int64(readTable)
	for off >= 0 && off+FrameHeaderSize <= end && may(0) {
		if till = max(till, off); off+FrameHeaderSize > till {
			ask(off + run)
		}
		if over || m.Populate(off, FrameHeaderSize) != nil {
			break
		}
		var h FrameHeader
		ok := false
		err := disk.Guard(m, func() (err error) {
			h, ok, err = DecodeFrameHeader(&s.Header, off, m.Bytes()[off:off+FrameHeaderSize])
			return err
		})
		if err != nil || !ok || h.Len < FrameHeaderSize {
			break
		}
		ask(off + FrameHeaderSize + int64(h.TableLen))
		if run = readTable; h.Len <= readAhead {
			run = aheadRun
		}
		off += h.Len
	}
}
