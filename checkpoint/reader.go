package checkpoint

import (
	"bytes"
	"errors"
	"fmt"
	"math"
	"time"

	"github.com/mtawal/mtawal/internal/disk"
	"github.com/mtawal/mtawal/mailq"
	"github.com/mtawal/mtawal/segment"
	"github.com/mtawal/mtawal/state"
)

// File is an open checkpoint. Its header and directory were checked by Open;
// sections are checked as they are read.
type File struct {
	Info
	Name     string
	Size     int64
	Holds    int64 // bytes that it has blocks for; 0: not known
	sections [sectionCount]sectionRef
	names    []string
	states   []mailq.QueueState
	keys     []state.Key
	usage    map[uint32]Usage
	file     disk.File
	mapping  disk.Mapping
	verified bool
	counted  counted
	logBytes int64 // that there are: see Bound
}

// Open opens the checkpoint with a name and reads all of it but the messages. A
// file that is not a valid checkpoint of this store is segment.ErrCorrupt, one of
// a later version segment.ErrVersion.
func Open(dir disk.Dir, name string, uuid [16]byte) (*File, error) {
	f, err := dir.Open(name, false)
	if err != nil {
		return nil, fmt.Errorf("opening checkpoint: %w", err)
	}
	c := &File{Name: name, file: f, logBytes: math.MaxInt64}
	if err := c.open(uuid); err != nil {
		return nil, errors.Join(err, c.Close())
	}
	return c, nil
}

// ReadInfo reads the header alone: of a file that Open refuses it may be whole.
func ReadInfo(dir disk.Dir, name string, uuid [16]byte) (info Info, err error) {
	f, err := dir.Open(name, false)
	if err != nil {
		return info, fmt.Errorf("opening checkpoint: %w", err)
	}
	b := make([]byte, headerSize)
	_, err = f.ReadAt(b, 0)
	if err = errors.Join(err, f.Close()); err != nil {
		return info, fmt.Errorf("reading %s: %w", name, err)
	}
	if info, err = decodeInfo(b); err == nil && info.UUID != uuid {
		err = errors.New("a checkpoint of another store")
	}
	return info, err
}

func (c *File) corrupt(off int64, reason string) error {
	return &segment.CorruptError{File: c.Name, Offset: off, Reason: reason}
}

func (c *File) open(uuid [16]byte) error {
	size, err := c.file.Size()
	if err != nil {
		return fmt.Errorf("size of %s: %w", c.Name, err)
	}
	if size < headerSize+footerSize {
		return c.corrupt(0, fmt.Sprintf("a file of %d bytes is no checkpoint", size))
	}
	c.Size = size
	if c.mapping, err = c.file.Map(size); err != nil {
		return fmt.Errorf("mapping %s: %w", c.Name, err)
	}
	// What is read here is at both ends: around it the kernel would read megabytes of messages, of the older checkpoint
	// too, which are seldom looked at.
	c.mapping.Scattered(true)
	defer c.mapping.Scattered(false)
	return disk.Guard(c.mapping, func() error {
		b := c.mapping.Bytes()
		if err := c.mapping.Populate(0, headerSize); err != nil {
			return err
		}
		info, err := decodeInfo(b)
		if errors.Is(err, segment.ErrVersion) {
			return fmt.Errorf("%s: %w", c.Name, err)
		}
		if err != nil {
			return c.corrupt(0, err.Error())
		}
		if info.UUID != uuid {
			return c.corrupt(16, "a checkpoint of another store")
		}
		c.Info = info
		if pos, ok := ParseName(c.Name); ok && pos != info.Pos {
			return c.corrupt(32, "its position is not that of its name")
		}
		if err := c.directory(b); err != nil {
			return err
		}
		return c.small(b)
	})
}

func (c *File) directory(b []byte) error {
	foot := c.Size - footerSize
	if err := c.mapping.Populate(foot, footerSize); err != nil {
		return err
	}
	if string(b[foot+8:]) != footerMagic {
		return c.corrupt(foot, "no footer")
	}
	n := int64(le.Uint32(b[foot:]))
	at := foot - n
	if at < headerSize {
		return c.corrupt(foot, "directory is longer than the file")
	}
	if err := c.bring(at, n); err != nil {
		return err
	}
	if segment.CRC(b[at:foot]) != le.Uint32(b[foot+4:]) {
		return c.corrupt(foot, "directory fails its checksum")
	}
	cur := cursor{b: b[at:foot]}
	end := int64(headerSize)
	for i := range c.sections {
		s := &c.sections[i]
		s.kind = cur.byte()
		s.count = cur.uvarint()
		s.off, s.length = int64(cur.uvarint()), int64(cur.uvarint())
		s.crc = cur.uint32()
		if cur.bad || s.off != end || s.length < 0 || s.length > at-end || s.count > uint64(s.length) {
			return c.corrupt(at, "directory is malformed")
		}
		if s.kind != byte(i+1) {
			return fmt.Errorf("%s: section kind %d: %w", c.Name, s.kind, segment.ErrVersion)
		}
		end += s.length
	}
	if end != at || cur.left() != 0 {
		return c.corrupt(at, "sections do not fill the file")
	}
	return nil
}

// bring brings bytes in, all of them at once as far as the device goes.
func (c *File) bring(off, n int64) error {
	if n == 0 {
		return nil
	}
	c.mapping.Prefetch(off, n)
	return c.mapping.Populate(off, n)
}

// section returns the bytes of a section after it was brought in and checked.
func (c *File) section(kind int) ([]byte, error) {
	s := &c.sections[kind-1]
	if err := c.bring(s.off, s.length); err != nil {
		return nil, err
	}
	b := c.mapping.Bytes()[s.off : s.off+s.length]
	if segment.CRC(b) != s.crc {
		return nil, c.corrupt(s.off, fmt.Sprintf("section %d fails its checksum", kind))
	}
	return b, nil
}

// small reads the sections behind the messages.
func (c *File) small([]byte) error {
	b, err := c.section(sectionQueues)
	if err != nil {
		return err
	}
	cur := cursor{b: b}
	q := &c.sections[sectionQueues-1]
	room := min(q.count, uint64(q.length)/5) // the shortest has five bytes
	seen := make(map[string]struct{}, room)
	c.names, c.states = make([]string, 0, room), make([]mailq.QueueState, 0, room)
	for range q.count {
		n := cur.uvarint()
		if n == 0 || n > mailq.QueueNameMax {
			cur.bad = true
			break
		}
		name := string(cur.bytes(n))
		// Messages name queues by their place here, so a name that came twice would shift them.
		if _, twice := seen[name]; twice || cur.bad {
			cur.bad = true
			break
		}
		seen[name] = struct{}{}
		s := mailq.QueueState{Mode: mailq.QueueMode(cur.byte()), Doubt: mailq.DoubtPolicy(cur.byte())}
		s.DoubtDelay = time.Duration(cur.varint())
		if !segment.KnownQueueState(s) {
			cur.bad = true
			break
		}
		c.names, c.states = append(c.names, name), append(c.states, s)
	}
	if cur.bad || cur.left() != 0 {
		return c.corrupt(c.sections[sectionQueues-1].off, "a queue in it is malformed")
	}
	if b, err = c.section(sectionKeys); err != nil {
		return err
	}
	cur = cursor{b: b}
	for range c.sections[sectionKeys-1].count {
		n := cur.uvarint()
		k := state.Key{Key: string(cur.bytes(n))}
		k.ID, k.At = cur.uvarint(), cur.varint()
		if cur.bad {
			break
		}
		c.keys = append(c.keys, k)
	}
	if cur.bad || cur.left() != 0 {
		return c.corrupt(c.sections[sectionKeys-1].off, "a key in it is malformed")
	}
	if b, err = c.section(sectionSegments); err != nil {
		return err
	}
	cur = cursor{b: b}
	c.usage = make(map[uint32]Usage)
	for range c.sections[sectionSegments-1].count {
		n := cur.uvarint()
		u := Usage{Messages: int64(cur.uvarint()), Bytes: int64(cur.uvarint())}
		if n == 0 || n > segment.NumberMax {
			cur.bad = true
			break
		}
		c.usage[uint32(n)] = u
	}
	if cur.bad || cur.left() != 0 {
		return c.corrupt(c.sections[sectionSegments-1].off, "a segment in it is malformed")
	}
	return nil
}

// Messages is the number of messages in the checkpoint.
func (c *File) Messages() int64 { return int64(c.sections[sectionMessages-1].count) }

// FirstID is the lowest ID of a message in the checkpoint, 0 if there is none.
func (c *File) FirstID() (id uint64, err error) {
	err = disk.Guard(c.mapping, func() error {
		s := &c.sections[sectionMessages-1]
		if err := c.mapping.Populate(s.off, min(s.length, readAhead)); err != nil {
			return err
		}
		e, err := c.entries().next()
		if e != nil {
			id = e.ID
		}
		return err
	})
	return id, err
}

// Usage is what live messages hold, by segment. It must not be changed.
func (c *File) Usage() map[uint32]Usage { return c.usage }

// Bound says how many bytes of log there are: all segments together. A checkpoint whose
// recipients could not be in so many is corrupt. So the memory that Load takes is in
// proportion to the files of the store, whatever a small file says.
func (c *File) Bound(logBytes int64) { c.logBytes = logBytes }

// entries reads the messages one by one.
type entries struct {
	c    *File
	cur  cursor
	d    delta
	left uint64
	room uint64 // of the log, for recipients, in the units of weights
	e    state.Entry
}

// entryLeast is how long the shortest message is: seven numbers of one byte.
const entryLeast = 7

// atMost is how many messages there are at most, whatever their count says.
func (it *entries) atMost() uint64 {
	return min(it.left, uint64(len(it.cur.b))/entryLeast, it.room/rcptWeight)
}

// readAhead is how much of the messages is brought in at a time.
const readAhead = 1 << 20

func (c *File) entries() *entries {
	s := &c.sections[sectionMessages-1]
	return &entries{c: c, cur: cursor{b: c.mapping.Bytes()[s.off : s.off+s.length]}, left: s.count, room: uint64(c.logBytes) / state.WeightUnit}
}

// next returns the next message, or nil at the end. The entry is valid until the
// call after.
func (it *entries) next() (*state.Entry, error) {
	if it.left == 0 {
		if it.cur.left() != 0 {
			return nil, it.c.corrupt(0, "more messages than it counts")
		}
		return nil, nil
	}
	it.left--
	if err := decodeEntry(&it.cur, &it.d, &it.e, uint64(len(it.c.names)), it.room); err != nil {
		return nil, it.c.corrupt(it.c.sections[0].off, err.Error())
	}
	if it.e.ID >= it.c.Lease {
		return nil, it.c.corrupt(it.c.sections[0].off, fmt.Sprintf("message %x is not below the lease of %x", it.e.ID, it.c.Lease))
	}
	it.room -= uint64(len(it.e.Rcpts)) * rcptWeight
	return &it.e, nil
}

// Verified reports whether all of the file was read back from the device since it was opened.
// It is for the goroutine that calls Check.
func (c *File) Verified() bool { return c.verified }

// Check reads every message and compares the section with its checksum. With fresh it
// reads the whole file from the device, past the page cache, where that is possible.
func (c *File) Check(fresh bool) error {
	err := disk.Guard(c.mapping, func() error {
		if fresh {
			if err := c.reread(); err != nil {
				return err
			}
		}
		if _, err := c.section(sectionMessages); err != nil {
			return err
		}
		it := c.entries()
		c.counted = counted{}
		for {
			e, err := it.next()
			if e == nil || err != nil {
				return err
			}
			c.counted.weight += int64(e.Weight) * state.WeightUnit
			for i := range e.Rcpts {
				if r := &e.Rcpts[i]; r.Standing != state.Used {
					c.counted.live++
					c.counted.doubt += int64(r.Flags & state.InDoubt)
				}
			}
		}
	})
	c.verified = c.verified || fresh && err == nil
	return err
}

// counted is what Check counts in the messages.
type counted struct{ live, doubt, weight int64 }

// AddsUp compares the totals in the header with what Check has counted: of a checkpoint that a
// fold dropped a message from, or put one into twice, every checksum is right, and the log
// that knows better would be recycled.
func (c *File) AddsUp() error {
	for _, t := range [...]struct {
		what       string
		have, want int64
	}{
		{"recipients that are not used", c.counted.live, c.Counts.Enqueued - c.Counts.Used.Total()},
		{"recipients in doubt", c.counted.doubt, c.Counts.InDoubt},
		{"bytes of the log that are held", c.counted.weight, c.Counts.Weight},
	} {
		if t.have != t.want {
			return c.corrupt(72, fmt.Sprintf("it has %d %s, by its totals it should have %d", t.have, t.what, t.want))
		}
	}
	return nil
}

// reread compares the device with the page cache, byte by byte: header and directory
// have no second checksum, and the sections are checked in the page cache.
func (c *File) reread() error {
	b := make([]byte, min(int64(piece), c.Size)) // commits wait behind longer ones
	for off := int64(0); off < c.Size; off += int64(len(b)) {
		b = b[:min(int64(len(b)), c.Size-off)]
		if _, err := c.file.ReadUncached(b, off); err != nil {
			return fmt.Errorf("reading %s back: %w", c.Name, err)
		}
		if err := c.mapping.Populate(off, int64(len(b))); err != nil {
			return err
		}
		if !bytes.Equal(b, c.mapping.Bytes()[off:off+int64(len(b))]) {
			return c.corrupt(off, "the device holds other bytes than were written")
		}
	}
	return nil
}

// Load puts the whole state into an empty table. After an error the table is of no
// use.
func (c *File) Load(t *state.Table) error {
	// Asked for first, in the order in which it is decoded. The checksum is computed beside the decoding, which trusts nothing anyway.
	c.mapping.Prefetch(c.sections[sectionMessages-1].off, c.sections[sectionMessages-1].length)
	sum := make(chan error, 1)
	go func() {
		sum <- disk.Guard(c.mapping, func() error {
			_, err := c.section(sectionMessages)
			return err
		})
	}()
	err := disk.Guard(c.mapping, func() error {
		c.prepare(t)
		it := c.entries()
		into := t.Loader(int(it.atMost()))
		defer into.Close()
		var p state.Plain
		for {
			if it.plain(&p) {
				into.AddPlain(&p)
				continue
			}
			e, err := it.next()
			if e == nil || err != nil {
				return err
			}
			into.Add(e)
		}
	})
	for q := range t.Queues() {
		t.ForgetQueue(uint32(q)) // no writer names one that holds nothing
	}
	return errors.Join(err, <-sum)
}

// prepare gives a table everything but the messages.
func (c *File) prepare(t *state.Table) {
	t.Applied, t.Last, t.Chain, t.Epoch, t.Nonce, t.Lease, t.Counts = c.Pos, c.Last, c.Chain, c.Epoch, c.Nonce, c.Lease, c.Counts
	t.Reserve(len(c.names))
	for i, name := range c.names {
		q := t.QueueNamed(name)
		t.Queue(q).State = c.states[i]
	}
	for _, k := range c.keys {
		t.LoadKey(k)
	}
}

// Close unmaps and closes the file.
func (c *File) Close() error {
	var err error
	if c.mapping != nil {
		err = c.mapping.Close()
	}
	return errors.Join(err, c.file.Close())
}
