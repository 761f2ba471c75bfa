package segment

import "github.com/mtawal/mtawal/internal/disk"

// aheadRun is how much is asked for at once where all of it will be read.
const aheadRun = 1 << 20

// Ahead asks for what Scan will read of [off, end) to be brought into memory, most bytes at the most: headers and tables of
// long frames, all of short ones. It waits for headers, since they say where the next one is, and for nothing else. It ends at
// what is no frame, or when goOn says so, and returns how much it asked for.
func (s *Segment) Ahead(off, end, most int64, goOn func() bool) (asked int64) {
	m, err := s.Map()
	if err != nil {
		return 0 // whatever is wrong is found by who reads it
	}
	end = min(end, s.Size)
	till := max(off, 0)
	ask := func(to int64) {
		if n := min(to, end) - till; n > 0 {
			m.Prefetch(till, n)
			till, asked = till+n, asked+n
		}
	}
	run := int64(readTable)
	for off >= 0 && off+FrameHeaderSize <= end && asked < most && goOn() {
		if till = max(till, off); off+FrameHeaderSize > till {
			ask(off + run)
		}
		if m.Populate(off, FrameHeaderSize) != nil {
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
	return asked
}
