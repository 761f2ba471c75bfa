package segment

import (
	"errors"
	"fmt"
	"sync"
	"sync/atomic"

	"github.com/mtawal/mtawal/internal/disk"
)

// Name is the final name of a segment's file. Whatever stands under it is a
// valid segment, or damage.
func Name(number uint32) string { return fmt.Sprintf("seg-%08x", number) }

// ParseName is the inverse of Name.
func ParseName(name string) (number uint32, ok bool) {
	if _, err := fmt.Sscanf(name, "seg-%08x", &number); err != nil || Name(number) != name || number == 0 {
		return 0, false
	}
	return number, true
}

// Segment is an open segment. The owner holds one reference; each reader takes
// another while it looks at bytes. Safe for concurrent use.
type Segment struct {
	Header
	File disk.File

	fresh atomic.Int64 // offset from which on nothing needs to be brought in
	begun int64        // where this owner began to write; of the goroutine that writes

	mu      sync.Mutex
	mapping disk.Mapping // made on first use
	refs    int          // the owner's included
	onLast  func()       // runs when the last reference goes
}

// OpenSegment opens the file of a segment and checks its header against its
// name, its size and the store. A file under a final name that is not a valid
// segment is ErrCorrupt, one of a later version ErrVersion.
func OpenSegment(dir disk.Dir, number uint32, uuid [16]byte, write bool) (*Segment, error) {
	name := Name(number)
	f, err := dir.Open(name, write)
	if err != nil {
		return nil, fmt.Errorf("opening segment: %w", err)
	}
	s, err := newSegment(f, number, uuid)
	if err != nil {
		return nil, errors.Join(err, f.Close())
	}
	return s, nil
}

func newSegment(f disk.File, number uint32, uuid [16]byte) (*Segment, error) {
	corrupt := func(reason string) error {
		return &CorruptError{Segment: number, File: f.Name(), Reason: reason}
	}
	size, err := f.Size()
	if err != nil {
		return nil, fmt.Errorf("size of %s: %w", f.Name(), err)
	}
	if size < SizeMin {
		return nil, corrupt(fmt.Sprintf("a file of %d bytes is no segment", size))
	}
	b := make([]byte, HeaderSize)
	if _, err := f.ReadAt(b, 0); err != nil {
		return nil, fmt.Errorf("reading the header of %s: %w", f.Name(), err)
	}
	h, err := DecodeHeader(b)
	switch {
	case errors.Is(err, ErrVersion):
		return nil, fmt.Errorf("%s: %w", f.Name(), err)
	case err != nil:
		return nil, corrupt(err.Error())
	case h.UUID != uuid:
		return nil, corrupt("a segment of another store")
	case h.Number != number:
		return nil, corrupt(fmt.Sprintf("holds segment %d", h.Number))
	case h.Size != size:
		return nil, corrupt(fmt.Sprintf("is %d bytes long, its header says %d", size, h.Size))
	}
	seg := &Segment{Header: h, File: f, refs: 1}
	seg.Sealed()
	return seg, nil
}

// Acquire takes a reference. The caller holds one already, directly or through
// the lock under which it found the segment.
func (s *Segment) Acquire() {
	s.mu.Lock()
	s.refs++
	s.mu.Unlock()
}

// Release gives a reference back. With the last one the mapping and the file go,
// and what Retire asked for is done.
func (s *Segment) Release() error {
	s.mu.Lock()
	s.refs--
	last := s.refs == 0
	m, fn := s.mapping, s.onLast
	if last {
		s.mapping = nil
	}
	s.mu.Unlock()
	if !last {
		return nil
	}
	var err error
	if m != nil {
		err = m.Close()
	}
	err = errors.Join(err, s.File.Close())
	if fn != nil {
		fn()
	}
	return err
}

// Retire gives the owner's reference back; fn runs when nobody reads the segment any
// more, on the goroutine that lets go last.
func (s *Segment) Retire(fn func()) error {
	s.mu.Lock()
	s.onLast = fn
	s.mu.Unlock()
	return s.Release()
}

// References is the number of references, the owner's included.
func (s *Segment) References() int {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.refs
}

// Map returns the read-only mapping of the whole file. The caller holds a
// reference for as long as it uses it.
func (s *Segment) Map() (disk.Mapping, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.mapping == nil {
		m, err := s.File.Map(s.Size)
		if err != nil {
			return nil, fmt.Errorf("mapping %s: %w", s.File.Name(), err)
		}
		s.mapping = m
	}
	return s.mapping, nil
}

// freshBytes is how much of what was written last is taken to be in the page cache: little
// enough that it stays there as long as anything does, more than a log takes in while
// consumers who keep up are a few commits behind.
const freshBytes = 4 << 20

// Wrote says that the log has written from one offset to another, through the page cache,
// one stretch behind the other.
func (s *Segment) Wrote(from, to int64) {
	if s.fresh.Load() >= s.Size {
		s.begun = from
	}
	s.fresh.Store(max(s.begun, to-freshBytes))
}

// Sealed says that no more will be written: all of it may go cold.
func (s *Segment) Sealed() { s.fresh.Store(s.Size) }

// Populate brings bytes of the segment in, so that reading them in its mapping does not
// wait for the device in a page fault, which the scheduler does not see. What was written a
// moment ago is there without being asked for: the call costs more than reading a record
// does. Either way the reader is guarded.
func (s *Segment) Populate(m disk.Mapping, off, n int64) error {
	if off >= s.fresh.Load() {
		return nil
	}
	return m.Populate(off, n)
}

func (s *Segment) corrupt(off int64, reason string) error {
	return &CorruptError{Segment: s.Number, File: s.File.Name(), Offset: off, Reason: reason}
}

// Record reads one record that a message holds (Enqueue, Recipients, Chunk) and the
// place of its bytes in the file, without the rest of its frame: what is found
// there is checked against its CRC, the header of its frame and the ID.
func (s *Segment) Record(off int64, id uint64) (r Record, body int64, err error) {
	return s.record(off, func(r Record) bool { return r.ID() == id && (r.Kind() == KindEnqueue || r.Kind() == KindRecipients) })
}

// AnyRecord is Record for a kind of record whose ID is not known.
func (s *Segment) AnyRecord(off int64, k Kind) (r Record, body int64, err error) {
	return s.record(off, func(r Record) bool { return r.Kind() == k })
}

func (s *Segment) record(off int64, match func(Record) bool) (r Record, body int64, err error) {
	m, err := s.Map()
	if err != nil {
		return nil, 0, err
	}
	err = disk.Guard(m, func() error {
		b := m.Bytes()
		if off < 0 || off > int64(len(b))-RecordHeaderSize {
			return s.corrupt(off, "no record fits here")
		}
		if err := s.Populate(m, off, RecordHeaderSize); err != nil {
			return err
		}
		n := RecordLen(b[off:])
		if n < RecordHeaderSize || n > int64(len(b))-off {
			return s.corrupt(off, "record length out of range")
		}
		if off%AlignmentMin+n > AlignmentMin { // it goes on in the next page
			if err := s.Populate(m, off, n); err != nil {
				return err
			}
		}
		rec, ok, err := DecodeRecord(b[off : off+n])
		if err != nil {
			return fmt.Errorf("%s: record at %d: %w", s.File.Name(), off, err)
		}
		if !ok {
			return s.corrupt(off, "record fails its checksum")
		}
		if !match(rec) {
			return s.corrupt(off, "a record of something else")
		}
		at := off - rec.Back()
		if at < 0 {
			return s.corrupt(off, "record points before the segment")
		}
		if err := s.Populate(m, at, min(FrameHeaderSize, int64(len(b))-at)); err != nil {
			return err
		}
		h, ok, err := DecodeFrameHeader(&s.Header, at, b[at:])
		if err != nil {
			return err
		}
		if !ok {
			return s.corrupt(at, "frame header fails its checksum")
		}
		own, _ := rec.body()
		if rec.Back() < FrameHeaderSize || rec.Back()+n > FrameHeaderSize+int64(h.TableLen) || !own.within(h.BodyLen) {
			return s.corrupt(off, "record or its body lies outside its frame")
		}
		r, body = rec, at+int64(h.BodyOff)+own.off
		return nil
	})
	if err != nil {
		return nil, 0, fmt.Errorf("reading record %s+%#x: %w", s.File.Name(), off, err)
	}
	return r, body, nil
}
