package journal

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"slices"
	"strings"
	"sync/atomic"
	"syscall"
	"testing"

	"github.com/mtawal/mtawal/internal/disk"
	"github.com/mtawal/mtawal/internal/disk/faultdisk"
	"github.com/mtawal/mtawal/internal/disk/memdisk"
	"github.com/mtawal/mtawal/segment"
)

// leftovers are names that are neither segments nor something a test put there.
func (r *rig) leftovers() []string {
	r.Helper()
	return slices.DeleteFunc(r.files(), func(name string) bool {
		_, ok := segment.ParseName(name)
		return ok
	})
}

// settled waits until the maker has made the successor of the tail.
func (r *rig) settled() {
	r.Helper()
	m, n := r.log.maker, r.log.tail.Number+1
	m.mu.Lock()
	defer m.mu.Unlock()
	for tries := 0; m.ready[n] == nil; {
		if m.err != nil {
			if tries++; tries > 3 {
				r.Fatalf("making segment %d: %v", n, m.err)
			}
			m.err = nil
			m.poke()
		}
		m.moved.Wait()
	}
}

// rigOver is a rig with a disk of another kind over the one that can crash.
func rigOver(t testing.TB, m *memdisk.FS, over disk.FS) *rig {
	t.Helper()
	r := on(t, m)
	var err error
	r.dir, err = over.OpenDir(logDir, true)
	r.ok(err)
	return r
}

// While the disk is full nothing is left that takes room, and the same frame goes in as soon as
// there is some.
func TestCase20_NoSpaceForASegment(t *testing.T) {
	for room := range int64(segment.SizeMin / memdisk.PageSize) {
		r := newRig(t)
		r.fill(0)
		r.put(1) // segment 2 is the tail
		r.settled()
		r.fill(0)
		space, err := r.dir.Space()
		r.ok(err)
		r.fs.SetCapacity(space.Total - space.Free + room*memdisk.PageSize)
		r.put(1) // segment 3 was ready
		r.fill(0)
		d, last := message(r.next, 10), r.log.End()
		for range 3 {
			if _, err := r.log.Append(d); !errors.Is(err, disk.ErrNoSpace) {
				t.Fatalf("room for %d pages: %v", room, err)
			}
		}
		if l := r.leftovers(); len(l) > 0 {
			t.Errorf("room for %d pages: %v is left", room, l)
		}
		if now, _ := r.dir.Space(); now.Free != room*memdisk.PageSize {
			t.Errorf("room for %d pages: %d bytes of it are left", room, now.Free)
		}
		if r.log.End() != last {
			t.Errorf("room for %d pages: the log moved to %v", room, r.log.End())
		}
		r.crash().replays("full", r.frames)
		r.fs.SetCapacity(1 << 40)
		r.next++
		r.append(d)
		r.put(1)
		r.crash().replays("room again", r.frames)
	}
}

// On a file system that copies on write any write may find the disk full: the Seal too,
// after the successor was made.
func TestNoSpaceWhereWritesCopy(t *testing.T) {
	r := newRigOn(t, memdisk.New(memdisk.Config{CopyOnWrite: true}))
	r.settled()
	r.fill(0)
	space, err := r.dir.Space()
	r.ok(err)
	d := message(r.next, 10)
	r.next++
	r.fs.SetCapacity(space.Total - space.Free)
	for range 3 {
		if _, err := r.log.Append(d); !errors.Is(err, disk.ErrNoSpace) {
			t.Fatal(err)
		}
		r.crash().replays("full", r.frames)
	}
	r.fs.SetCapacity(1 << 40)
	r.append(d)
	r.crash().replays("room again", r.frames)
}

// Every operation of a rotation fails in turn, for want of room: tried again, it goes on,
// and nothing is left behind.
func TestMakerEveryOperationWithoutRoom(t *testing.T) {
	for _, plan := range []faultdisk.Plan{{}, {After: true}, {ShortWrite: true}} {
		plan.Err = disk.ErrNoSpace
		for plan.N = 1; ; plan.N++ {
			m := memdisk.New(memdisk.Config{})
			d := faultdisk.New(m)
			r := rigOver(t, m, d)
			r.ok(MakeFirst(r.dir, testUUID, r.opt))
			r.open()
			r.settled()
			d.Set(plan)
			for range 3 * perSegment {
				f := message(r.next, 10)
				h, err := r.log.Append(f)
				for i := 0; err != nil && i < 3; i++ {
					if !errors.Is(err, disk.ErrNoSpace) {
						t.Fatalf("%+v: %v\n%s", plan, err, d.Trace())
					}
					h, err = r.log.Append(f)
				}
				if err != nil {
					t.Fatalf("%+v: it never ends: %v\n%s", plan, err, d.Trace())
				}
				r.frames = append(r.frames, h)
				r.next++
			}
			r.settled()
			failed := d.Failed()
			d.Set(faultdisk.Plan{})
			if l := r.leftovers(); len(l) > 0 {
				t.Errorf("%+v: %v is left\n%s", plan, l, d.Trace())
			}
			r.crash().replays(fmt.Sprint(plan), r.frames)
			r.close()
			if failed == 0 {
				break
			}
		}
	}
}

// Every operation of rotation and recycling fails in turn, for good or once: whatever Append
// says, what it had acknowledged is there.
func TestMakerEveryOperationFails(t *testing.T) {
	for _, plan := range []faultdisk.Plan{{}, {Forever: true}, {After: true}, {ShortWrite: true}} {
		plan.Err = syscall.EIO
		for plan.N = 1; ; plan.N++ {
			m := memdisk.New(memdisk.Config{})
			d := faultdisk.New(m)
			r := rigOver(t, m, d)
			r.ok(MakeFirst(r.dir, testUUID, r.opt))
			r.open()
			r.fill(0)
			r.put(1)
			r.settled()
			d.Set(plan)
			// Segment 1 dies: its file is the next but one.
			start := Start{Pos: r.log.End(), Last: r.log.Last()}
			acked := len(r.frames)
			recycled := r.log.Recycle([]uint32{1})
			for range 3 * perSegment {
				h, err := r.log.Append(message(r.next, 10))
				if err != nil {
					break
				}
				r.frames = append(r.frames, h)
				r.next++
			}
			failed := d.Failed()
			if err := r.log.Close(); err != nil && failed == 0 {
				t.Error(err)
			}
			r.log = nil
			d.Set(faultdisk.Plan{})
			if recycled != nil && failed == 0 {
				t.Error(recycled)
			}
			n := on(t, m.Clone())
			rec, err := n.recover(start, start.Pos.Segment(), 0)
			if err != nil {
				t.Fatalf("%+v: %v\n%s", plan, err, d.Trace())
			}
			n.ok(rec.Keep(nil))
			got := withoutSeals(rec.headers)
			if want := r.frames[acked:]; len(got) < len(want) || len(got) > len(want)+1 || !slices.Equal(got[:len(want)], want) {
				t.Errorf("%+v: %s recovered, %s were acknowledged\n%s", plan, places(got), places(want), d.Trace())
			}
			n.resume(rec)
			n.put(1)
			n.close()
			if failed == 0 {
				break
			}
		}
	}
}

// A directory that could not be synced once can't be trusted to say so again.
func TestMakerNamesNotDurable(t *testing.T) {
	m := memdisk.New(memdisk.Config{})
	d := faultdisk.New(m)
	r := rigOver(t, m, d)
	r.ok(MakeFirst(r.dir, testUUID, r.opt))
	r.open()
	r.settled()
	r.fill(0)
	d.Set(faultdisk.Plan{N: 1, Only: []disk.Op{disk.OpDirSync}})
	// The next was ready; the one behind it meets the fault.
	var err error
	for i := 0; err == nil && i < 3*perSegment; i++ {
		_, err = r.log.Append(message(uint64(1000+i), 10))
	}
	for range 3 {
		if !errors.Is(err, syscall.EIO) || !errors.Is(err, errNames) {
			t.Fatalf("the log went on: %v", err)
		}
		_, err = r.log.Append(marker())
	}
}

// A file that is not all ours is let go and not written over.
func TestRecycledFileOfOthers(t *testing.T) {
	for name, spoil := range map[string]func(r *rig){
		"another link": func(r *rig) { r.ok(r.fs.Link(r.path(1), logDir+"/backup")) },
		"shared":       func(r *rig) { r.ok(r.fs.Share(r.path(1))) },
		"shorter": func(r *rig) {
			f, err := r.dir.Open(segment.Name(1), true)
			r.ok(err)
			r.ok(errors.Join(f.Truncate(segment.SizeMin-block), f.Close()))
		},
		"another link, and the pool is full": func(r *rig) {
			r.log.opt.PoolMax = 0
			r.ok(r.fs.Link(r.path(1), logDir+"/backup"))
		},
	} {
		r := newRig(t)
		for range 2 * perSegment {
			r.put(1)
		}
		r.settled()
		f, err := r.dir.Open(segment.Name(1), false) // keeps the bytes in sight
		r.ok(err)
		spoil(r)
		read := func() []byte {
			b := make([]byte, segment.SizeMin)
			if n, err := f.ReadAt(b, 0); err != nil && err != io.EOF {
				t.Fatal(n, err)
			}
			return b
		}
		was := read()
		r.ok(r.log.Recycle([]uint32{1}))
		for range 4 * perSegment {
			r.put(1)
		}
		r.settled()
		if names := r.files(); slices.Contains(names, segment.Name(1)) {
			t.Errorf("%s: the dead segment is still there: %v", name, names)
		}
		if !bytes.Equal(was, read()) {
			t.Errorf("%s: what is not ours was written over", name)
		}
		r.ok(f.Close())
	}
}

// A dead segment lives again, with another salt, and its old frames are nobody's.
func TestCase13_StaleFramesInARecycledSegment(t *testing.T) {
	r := newRig(t)
	for range 2 * perSegment {
		r.put(1)
	}
	r.settled()
	salt := r.log.segments[1].Salt
	files := len(r.files())
	var start Start
	for range 4 {
		start = Start{Pos: r.log.End(), Last: r.log.Last()}
		var dead []uint32
		for _, i := range r.log.Segments() {
			if i.Number < start.Pos.Segment() {
				dead = append(dead, i.Number)
			}
		}
		r.ok(r.log.Recycle(dead))
		r.settled()
		for range 2 * perSegment {
			r.put(1)
		}
		r.settled()
	}
	if n := len(r.files()); n > files+r.opt.PoolMax+1 {
		t.Errorf("%d files grew to %d: %v", files, n, r.files())
	}
	for _, s := range r.log.segments {
		if s.Salt == salt {
			t.Error("a salt came twice")
		}
	}
	n := r.crash()
	rec, err := n.recover(start, start.Pos.Segment(), 0)
	n.ok(err)
	i := slices.IndexFunc(r.frames, func(h segment.FrameHeader) bool { return h.End() == start.Pos })
	if got := withoutSeals(rec.headers); !slices.Equal(got, r.frames[i+1:]) {
		t.Errorf("%s recovered, should be %s", places(got), places(r.frames[i+1:]))
	}
	n.ok(rec.Close())
}

// More dead files than the pool takes are removed.
func TestPoolIsBounded(t *testing.T) {
	r := newRig(t)
	for range 8 * perSegment {
		r.put(1)
	}
	r.settled()
	r.ok(r.log.Recycle([]uint32{1, 2, 3, 4, 5, 6}))
	r.log.maker.waitCollected(nil) // what is being removed counts still
	if l := r.leftovers(); len(l) == 0 || len(l) > r.opt.PoolMax {
		t.Errorf("a pool of %d has %v", r.opt.PoolMax, l)
	}
	f := r.log.Files()
	if want := int64(len(r.files())) * segment.SizeMin; f.Bytes != want || f.Segments == 0 {
		t.Errorf("%+v in %d files", f, len(r.files()))
	}
}

// What a crash left on its way is removed by the next opening.
func TestLeftoversAreRemoved(t *testing.T) {
	r := newRig(t)
	r.put(1)
	r.settled()
	r.close()
	for _, name := range []string{"free-00000001", "free-new-00000003", "tmp-ckpt-0000000000000001", "tmp-"} {
		r.ok(r.fs.Put(logDir+"/"+name, []byte("half")))
	}
	r.ok(r.fs.Put(logDir+"/cut-1", []byte("for people")))
	r.open()
	if l := r.leftovers(); !slices.Equal(l, []string{"cut-1"}) {
		t.Errorf("left: %v", l)
	}
	r.ok(r.dir.Remove("cut-1"))
}

// A log that is closed while it waits for a segment says so, at once, though the write that
// it waits for hangs. Close itself waits for that.
func TestCloseWhileRotating(t *testing.T) {
	m := memdisk.New(memdisk.Config{})
	d := faultdisk.New(m)
	r := rigOver(t, m, d)
	r.ok(MakeFirst(r.dir, testUUID, r.opt))
	r.open()
	r.settled()
	reached, release := d.Stall(disk.OpSync, freePrefix)
	defer release()
	r.fill(0)
	r.put(1)
	made := make(chan struct{})
	mk, next := r.log.maker, r.log.tail.Number+1
	go func() {
		defer close(made)
		mk.mu.Lock()
		defer mk.mu.Unlock()
		for mk.ready[next] == nil && !mk.stop {
			mk.moved.Wait()
		}
	}()
	select {
	case <-reached:
	case <-made:
		t.Fatal("a segment stands ready and was never synced")
	}
	r.fill(0)
	appended := make(chan error)
	go func() {
		_, err := r.log.Append(marker())
		appended <- err
	}()
	// Only the stop can end that: nothing else may wake it.
	closed := make(chan error)
	go func() { closed <- r.log.Close() }()
	if err := <-appended; !errors.Is(err, errStopped) {
		t.Errorf("an append that waits for a segment when the log is closed: %v", err)
	}
	select {
	case err := <-closed:
		t.Errorf("Close left a write behind (%v)", err)
	default:
	}
	release()
	if err := <-closed; err != nil {
		t.Error(err)
	}
	if _, err := r.log.Append(marker()); err == nil {
		t.Error("a closed log took a frame")
	}
	r.log = nil
	r.crash().replays("closed", r.frames)
}

func TestMakeFirstFails(t *testing.T) {
	for n := 1; ; n++ {
		m := memdisk.New(memdisk.Config{})
		d := faultdisk.New(m)
		r := rigOver(t, m, d)
		d.Set(faultdisk.Plan{N: n})
		err := MakeFirst(r.dir, testUUID, r.opt)
		failed := d.Failed()
		d.Set(faultdisk.Plan{})
		if failed == 0 {
			r.ok(err)
			break
		}
		if err == nil {
			t.Errorf("operation %d failed and nobody heard of it:\n%s", n, d.Trace())
		}
		if _, err := r.dir.Open(segment.Name(1), false); err == nil {
			continue // its name may not be durable
		} else if !errors.Is(err, fs.ErrNotExist) {
			t.Error(err)
		}
		r.ok(MakeFirst(r.dir, testUUID, r.opt))
		if l := r.leftovers(); len(l) > 0 && !strings.Contains(d.Trace(), "Remove") {
			t.Errorf("operation %d: %v is left", n, l)
		}
	}
}

// What the disk had no room for is written again byte for byte, however late, though some of
// it may be there: a frame, and a Seal.
func TestNoSpaceThenTheSameBytes(t *testing.T) {
	m := memdisk.New(memdisk.Config{})
	d := faultdisk.New(m)
	r := rigOver(t, m, d)
	var now atomic.Int64
	r.opt.Now = func() int64 { return now.Add(1) }
	r.ok(MakeFirst(r.dir, testUUID, r.opt))
	r.open()
	r.settled()
	for i := range 2 * perSegment {
		at := r.log.End()
		f := message(r.next, 10)
		r.next++
		d.Set(faultdisk.Plan{N: 1, After: true, Err: disk.ErrNoSpace, Only: []disk.Op{disk.OpWriteDurable}, Name: "seg-"})
		if _, err := r.log.Append(f); !errors.Is(err, disk.ErrNoSpace) {
			t.Fatal(err)
		}
		before := r.bytes(at.Segment())
		d.Set(faultdisk.Plan{})
		r.append(f)
		if !bytes.Equal(before, r.bytes(at.Segment())) {
			t.Errorf("frame %d at %v: other bytes were written again", i, at)
		}
	}
	if r.log.End().Segment() < 2 {
		t.Error("no Seal was written")
	}
	r.crash().replays("in the end", r.frames)
}

// Rule 5.2. When the first frame is written into a segment, its name is there after a power cut too: the Seal before
// says that it is.
func TestSuccessorIsNamedBeforeItIsWritten(t *testing.T) {
	r := newRig(t)
	written := make(map[string]bool)
	r.fs.OnOp(func(op disk.Op, name string) {
		if n, ok := segment.ParseName(name); !ok || n == 1 || op != disk.OpWriteDurable || written[name] {
			return
		}
		written[name] = true
		cut := r.fs.Clone()
		cut.PowerCutWith(func(int) int { return 0 }) // nothing of what is left to chance is there
		d, err := cut.OpenDir(logDir, false)
		r.ok(err)
		list, err := d.List()
		r.ok(err)
		if !slices.ContainsFunc(list, func(f disk.Info) bool { return f.Name == name }) {
			t.Errorf("%s is written, and a power cut would take its name: %v", name, list)
		}
		r.ok(d.Close())
	})
	for range 4 * perSegment {
		r.put(1)
	}
	r.fs.OnOp(nil)
	if len(written) < 3 {
		t.Errorf("only %v were written", written)
	}
}
