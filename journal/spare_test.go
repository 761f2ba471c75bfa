package journal

import (
	"errors"
	"slices"
	"strings"
	"testing"

	"github.com/mtawal/mtawal/internal/disk"
	"github.com/mtawal/mtawal/segment"
)

// spares are the names of the spare files.
func (r *rig) spares() []string {
	r.Helper()
	return slices.DeleteFunc(r.files(), func(n string) bool { return !strings.HasPrefix(n, sparePrefix) })
}

// reserve waits until the maker has done what it can to have so many files.
func (r *rig) reserve(files int) {
	r.Helper()
	r.settled()
	r.log.Reserve(files)
	m := r.log.maker
	m.mu.Lock()
	defer m.mu.Unlock()
	for len(m.free)+len(m.spare) != files && !m.tried {
		m.moved.Wait()
	}
}

// room sets Options.Room of a log that is settled.
func (r *rig) room(f func(func() int64, int64, bool, func()) error) {
	r.settled()
	r.log.opt.Room = f
}

// noRoom is an Options.Room that refuses.
func noRoom(func() int64, int64, bool, func()) error { return disk.ErrNoSpace }

// appendUntilFull appends frames of one block until there is no room for a segment.
func (r *rig) appendUntilFull() int {
	r.Helper()
	for n := 0; ; n++ {
		d := message(r.next, 1)
		h, err := r.log.Append(d)
		if errors.Is(err, disk.ErrNoSpace) {
			return n
		}
		r.ok(err)
		r.next++
		r.frames = append(r.frames, h)
	}
}

// Where there is no room for a new segment the log goes on in the spare files, but for the
// last one: that is for the next opening.
func TestSpareFiles(t *testing.T) {
	r := newRig(t)
	r.put(1)
	r.reserve(3)
	if n := len(r.spares()); n != 3 {
		t.Fatalf("%d spare files: %v", n, r.files())
	}
	left := r.log.Files().Left
	if want := int64(4)*segment.SizeMin + segment.SizeMin - 3*block; left != want {
		t.Errorf("%d bytes are left, should be %d", left, want)
	}
	r.room(noRoom)
	files := len(r.files())
	n := r.appendUntilFull()
	if want := perSegment - 2 + 3*perSegment; n != want { // this one, the one made ahead, two spare ones
		t.Errorf("%d frames fitted in, should be %d", n, want)
	}
	if len(r.files()) != files || len(r.spares()) != 1 {
		t.Errorf("of %d files there are %v", files, r.files())
	}
	// The log's position can still be moved once, for a checkpoint of its own there.
	d := marker()
	d.Spare = true
	h, err := r.log.Append(d)
	r.ok(err)
	r.frames = append(r.frames, h)
	if _, err := r.log.Append(d); !errors.Is(err, disk.ErrNoSpace) {
		t.Errorf("a second one: %v", err)
	}
	// A crash, and the disk is as full as before.
	r.opt.Room = noRoom
	c := r.crash()
	c.replays("on a full disk", r.frames)
	c.open()
	if len(c.spares()) != 0 {
		t.Errorf("the Open frame found room without the spare file: %v", c.files())
	}
	// Space given back is used.
	c.ok(c.log.Recycle([]uint32{1}))
	c.settled()
	if n := c.appendUntilFull(); n != 2*perSegment-1 {
		t.Errorf("%d frames fitted into what was left and recycled, should be %d", n, 2*perSegment-1)
	}
}

// A reserve is made as there is room for it, and given back when it is not wanted.
func TestReserve(t *testing.T) {
	r := newRig(t)
	r.put(1)
	r.room(noRoom)
	r.reserve(2)
	if s := r.spares(); len(s) != 0 {
		t.Errorf("made without room: %v", s)
	}
	r.room(nil)
	r.reserve(2)
	if s := r.spares(); len(s) != 2 {
		t.Errorf("spare files: %v", s)
	}
	r.close()
	r.ok(r.fs.Put(logDir+"/free-spare-000000ff", []byte("of another size")))
	r.ok(r.fs.Put(logDir+"/free-spare-other", make([]byte, segment.SizeMin)))
	r.open()
	if s := r.spares(); len(s) != 2 {
		t.Errorf("after an opening: %v", s)
	}
	r.reserve(0)
	if s := r.spares(); len(s) != 0 {
		t.Errorf("given back: %v", s)
	}
}

// Where no spare file is left and a bound of our own leaves no room, as one that is smaller than it was
// before, the frame that begins an epoch is written all the same; only the disk can refuse it.
func TestOpenFrameIsAboveOurOwnBound(t *testing.T) {
	r := newRig(t)
	r.put(1)
	r.room(noRoom)
	r.appendUntilFull()
	d := marker()
	d.Spare = true
	h, err := r.log.Append(d)
	r.ok(err)
	r.frames = append(r.frames, h)
	r.opt.Room = noRoom
	c := r.crash()
	if s := c.spares(); len(s) != 0 {
		t.Fatalf("spare files: %v", s)
	}
	c.replays("beyond a bound", r.frames)
	c.open()
	if n := c.appendUntilFull(); n > perSegment {
		t.Errorf("%d frames fitted in behind the Open frame, where there is one segment", n)
	}
}

// The last spare file is there after a power cut too, with blocks that nobody else can take: an
// opening needs it where the disk is full by then.
func TestSpareFilesAreDurable(t *testing.T) {
	r := newRig(t)
	r.put(1)
	r.reserve(1)
	r.room(noRoom)
	r.appendUntilFull()
	d := marker()
	d.Spare = true
	h, err := r.log.Append(d)
	r.ok(err)
	r.frames = append(r.frames, h)
	c := r.crash()
	c.fs.PowerCutWith(func(int) int { return 0 })
	c = on(t, c.fs)
	space, err := c.dir.Space()
	c.ok(err)
	c.fs.SetCapacity(space.Total - space.Free)
	c.replays("after a power cut", r.frames)
	c.open()
	c.put(1)
}
