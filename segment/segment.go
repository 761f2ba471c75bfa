package segment

import (
	"errors"
	"fmt"
	"strconv"
	"strings"
	"sync"

	"github.com/mtawal/mtawal/internal/barrier"
	"github.com/mtawal/mtawal/internal/disk"
)

// Name is the final name of a segment's file. Whatever stands under it is a
// valid segment, or damage.
func Name(number uint32) string { return fmt.Sprintf(namePrefix+"%08x", number) }

const namePrefix = "seg-"

// ParseName is the inverse of Name.
func ParseName(name string) (number uint32, ok bool) {
	digits, _ := strings.CutPrefix(name, namePrefix)
	n, err := strconv.ParseUint(digits, 16, 32)
	if number = uint32(n); err != nil || number == 0 || Name(number) != name {
		return 0, false
	}
	return number, true
}

// Segment is an open segment. The owner holds one reference; each reader takes
// another while it looks at bytes. Safe for concurrent use.
type Segment struct {
	Header
	File disk.File

	recent *Recent // nil: nothing is written to it

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
	return &Segment{Header: h, File: f, refs: 1}, nil
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
	last := s.refs == 0 || s.onLast != nil && barrier.Gone(barrier.ReaderPin)
	m, fn := s.mapping, s.onLast
	if last {
		s.mapping = nil
	}
	s.mu.Unlock()
	if !last {
		return nil
	}
	var err error
	if m != nil && !(fn != nil && barrier.Gone(barrier.Unmap)) {
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

// Mapped reports whether the file is mapped.
func (s *Segment) Mapped() bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.mapping != nil
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

// Scattered says whether few of its messages will be read, here and there. The caller holds a reference.
func (s *Segment) Scattered(yes bool) error {
	m, err := s.Map()
	if err != nil {
		return err
	}
	m.Scattered(yes)
	return nil
}

// Unread lets go of what was read of [off, Size), where it is about to be written, see disk.Mapping.Drop. The caller holds a reference.
func (s *Segment) Unread(off int64) {
	s.mu.Lock()
	m := s.mapping
	s.mu.Unlock()
	if m != nil {
		m.Drop(off, s.Size-off)
	}
}

// Remember has the frames that are written to the segment from now on read from memory, as
// long as recent finds them there. To be called before anybody else has the segment.
func (s *Segment) Remember(recent *Recent) { s.recent = recent }

// View calls f with n bytes at an offset, from memory if they were written a moment ago, else from the mapping,
// into which they are brought in first. A fault in it is an error. The bytes are valid until f returns.
func (s *Segment) View(off, n int64, f func([]byte) error) error {
	pos := MakePos(s.Number, off)
	if frame, slab := s.recent.hold(pos); slab != nil {
		defer s.recent.release(slab)
		if b := frame.at(pos, n); b != nil {
			return f(b)
		}
	}
	m, err := s.Map()
	if err != nil {
		return err
	}
	if err := m.Warm(off, n); err != nil {
		return err
	}
	return disk.Guard(m, func() error { return f(m.Bytes()[off : off+n : off+n]) })
}

func (s *Segment) corrupt(off int64, reason string) error {
	return &CorruptError{Segment: s.Number, File: s.File.Name(), Offset: off, Reason: reason}
}

// Record reads one record that a message holds (Enqueue, Recipients, Chunk) and the
// place of its bytes in the file, without the rest of its frame: what is found
// there is checked against its CRC, the header of its frame and the ID. It is a copy, but if it is
// long: then it is a view of the mapping, and may fault.
func (s *Segment) Record(off int64, id uint64) (r Record, body int64, err error) {
	return s.record(off, func(r Record) bool { return r.ID() == id && (r.Kind() == KindEnqueue || r.Kind() == KindRecipients) })
}

// AnyRecord is Record for a kind of record whose ID is not known.
func (s *Segment) AnyRecord(off int64, k Kind) (r Record, body int64, err error) {
	return s.record(off, func(r Record) bool { return r.Kind() == k })
}

func (s *Segment) record(off int64, match func(Record) bool) (r Record, body int64, err error) {
	r, body, err = s.recentRecord(off, match)
	if r == nil && err == nil {
		r, body, err = s.mappedRecord(off, match)
	}
	if err != nil {
		return nil, 0, fmt.Errorf("reading record %s+%#x: %w", s.File.Name(), off, err)
	}
	return r, body, nil
}

// recordCopyMax is the longest record that is copied. Lists of many recipients are read again and
// again. Of the mapping any page may go, with the large folio that it is in, when the log writes
// a block beside it, and may not come back.
const recordCopyMax = 64 << 10

var errNotRecent = errors.New("not in memory any more")

// recentRecord is nil where the record is not in memory, or too long to be copied.
func (s *Segment) recentRecord(off int64, match func(Record) bool) (Record, int64, error) {
	if off < 0 {
		return nil, 0, nil
	}
	f, slab := s.recent.hold(MakePos(s.Number, off))
	if slab == nil {
		return nil, 0, nil
	}
	defer s.recent.release(slab)
	r, body, err := s.parse(off, match, func(off, n int64) ([]byte, error) {
		b := f.at(MakePos(s.Number, off), n)
		if b == nil || n > recordCopyMax {
			return nil, errNotRecent
		}
		return b, nil
	})
	if err != nil {
		if errors.Is(err, errNotRecent) {
			err = nil
		}
		return nil, 0, err
	}
	return append(Record(nil), r...), body, nil
}

func (s *Segment) mappedRecord(off int64, match func(Record) bool) (r Record, body int64, err error) {
	m, err := s.Map()
	if err != nil {
		return nil, 0, err
	}
	err = disk.Guard(m, func() error {
		from, till := int64(0), int64(0) // whole pages that are there
		r, body, err = s.parse(off, match, func(off, n int64) ([]byte, error) {
			if off < from || off+n > till {
				if err := m.Warm(off, n); err != nil {
					return nil, err
				}
				from, till = off&^(AlignmentMin-1), roundUp(off+n, AlignmentMin)
			}
			return m.Bytes()[off : off+n], nil
		})
		if err == nil && len(r) <= recordCopyMax {
			r = append(Record(nil), r...)
		}
		return err
	})
	return r, body, err
}

// parse reads the record at an offset by at, which is asked for bytes that lie in the segment.
func (s *Segment) parse(off int64, match func(Record) bool, at func(off, n int64) ([]byte, error)) (Record, int64, error) {
	if off < 0 || off > s.Size-RecordHeaderSize {
		return nil, 0, s.corrupt(off, "no record fits here")
	}
	b, err := at(off, RecordHeaderSize)
	if err != nil {
		return nil, 0, err
	}
	n := RecordLen(b)
	if n < RecordHeaderSize || n > s.Size-off {
		return nil, 0, s.corrupt(off, "record length out of range")
	}
	if b, err = at(off, n); err != nil {
		return nil, 0, err
	}
	r, ok, err := DecodeRecord(b)
	if err != nil {
		return nil, 0, fmt.Errorf("%s: record at %d: %w", s.File.Name(), off, err)
	}
	if !ok {
		return nil, 0, s.corrupt(off, "record fails its checksum")
	}
	if !match(r) {
		return nil, 0, s.corrupt(off, "a record of something else")
	}
	frame := off - r.Back()
	if frame < 0 || frame > s.Size-FrameHeaderSize {
		return nil, 0, s.corrupt(off, "record points out of the segment")
	}
	if b, err = at(frame, FrameHeaderSize); err != nil {
		return nil, 0, err
	}
	h, ok, err := DecodeFrameHeader(&s.Header, frame, b)
	if err != nil {
		return nil, 0, err
	}
	if !ok {
		return nil, 0, s.corrupt(frame, "frame header fails its checksum")
	}
	own, _ := r.body()
	if r.Back() < FrameHeaderSize || r.Back()+n > FrameHeaderSize+int64(h.TableLen) || !own.within(h.BodyLen) {
		return nil, 0, s.corrupt(off, "record or its body lies outside its frame")
	}
	return r, frame + int64(h.BodyOff) + own.off, nil
}
