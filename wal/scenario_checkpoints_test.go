package wal

import (
	"encoding/binary"
	"errors"
	"fmt"
	"slices"
	"strings"
	"sync/atomic"
	"syscall"
	"testing"
	"testing/synctest"

	"github.com/mtawal/mtawal/checkpoint"
	"github.com/mtawal/mtawal/internal/disk"
	"github.com/mtawal/mtawal/internal/disk/faultdisk"
	"github.com/mtawal/mtawal/internal/disk/memdisk"
	"github.com/mtawal/mtawal/segment"
)

// checkpointNames are the checkpoints on a double, the older first.
func checkpointNames(t *testing.T, fs disk.FS) (names []string) {
	t.Helper()
	for name := range files(t, fs) {
		if _, ok := checkpoint.ParseName(name); ok {
			names = append(names, name)
		}
	}
	slices.Sort(names)
	return names
}

// forged changes the header of a checkpoint, whose checksum is right again, and gives the file the
// name of its new position.
func forged(t *testing.T, fs *memdisk.FS, name string, change func(h []byte)) {
	t.Helper()
	b, err := fs.Device(spool + "/" + name)
	if err != nil {
		t.Fatal(err)
	}
	change(b[:512])
	binary.LittleEndian.PutUint32(b[508:], segment.CRC(b[:508]))
	d, err := fs.OpenDir(spool, false)
	if err != nil {
		t.Fatal(err)
	}
	pos := segment.Pos(binary.LittleEndian.Uint64(b[32:]))
	if err := errors.Join(d.Remove(name), fs.Put(spool+"/"+checkpoint.Name(pos), b), d.Sync(), d.Close()); err != nil {
		t.Fatal(err)
	}
}

// twice is a closed store with two checkpoints and a commit behind each, none of its segments
// recycled.
func twice(t *testing.T) *memdisk.FS {
	t.Helper()
	fs := memdisk.New(memdisk.Config{})
	s := started(t, tiny(fs))
	for i := range 2 {
		for j := range 3 {
			posted(t, s, fmt.Sprintf("mail %d%d", i, j))
		}
		if err := s.Checkpoint(t.Context()); err != nil {
			t.Fatal(err)
		}
	}
	posted(t, s, "mail 20")
	fs.Kill()
	return fs
}

var twiceHolds = []string{"mail 00", "mail 01", "mail 02", "mail 10", "mail 11", "mail 12", "mail 20"}

// Rule 3.5. "A checkpoint is usable only if its range of the log exists without a gap, the chain at
// its position matches the value stored in it, and the log reaches its position." Another one is
// passed over for the one before, or for the log from its beginning, and its position promises
// nothing.
func TestScenario_CheckpointOfAnotherLog(t *testing.T) {
	add := func(off int, n uint64) func([]byte) {
		return func(h []byte) { binary.LittleEndian.PutUint64(h[off:], binary.LittleEndian.Uint64(h[off:])+n) }
	}
	const pos, last, chain, epoch, nonce = 32, 40, 48, 56, 160
	for _, c := range []struct {
		name   string
		change func(h []byte)
	}{
		{"another chain value", add(chain, 1)},
		{"another epoch", add(epoch, 1)},
		{"another nonce", add(nonce, 1)},
		{"a position behind its frame", add(pos, segment.AlignmentMin)},
		{"a position far behind its frame", add(pos, 8*segment.AlignmentMin)},
		{"a position beyond its segment", add(pos, segment.SizeMin)},
		{"the frame before its own", add(last, 1<<64-segment.AlignmentMin)},
		{"a place between frames", func(h []byte) { add(pos, 512)(h); add(last, 512)(h) }},
		{"another segment", func(h []byte) { add(pos, 1<<32)(h) }},
		{"no segment", func(h []byte) { clear(h[pos : last+8]) }},
	} {
		for _, both := range []bool{false, true} {
			for _, power := range []bool{false, true} {
				t.Run(fmt.Sprintf("%s, both %v, power cut %v", c.name, both, power), func(t *testing.T) {
					scenario(t, func(t *testing.T) {
						fs := twice(t)
						names := checkpointNames(t, fs)
						if both {
							forged(t, fs, names[0], func(h []byte) { add(chain, 1)(h) })
						}
						forged(t, fs, names[1], c.change)
						if power {
							fs.PowerCutWith(nothingMore)
						}
						in, err := Inspect(spool, tiny(fs))
						if err != nil {
							t.Fatal(err)
						}
						if b := 1 + b2i(both); len(in.Unusable) != b || len(in.Checkpoints) != 2-b {
							t.Errorf("%d checkpoints, not usable %v", len(in.Checkpoints), in.Unusable)
						}
						s := started(t, tiny(fs))
						holds(t, s, twiceHolds...)
						if err := s.Checkpoint(t.Context()); err != nil {
							t.Fatal(err)
						}
						ended(t, s)
						s = started(t, tiny(fs))
						holds(t, s, twiceHolds...)
						ended(t, s)
						if left := checkpointNames(t, fs); len(left) != 2 {
							t.Errorf("%v are left", left)
						}
					})
				})
			}
		}
	}
}

// Rule 3.4. "No usable checkpoint and no segment 1: refuse. Never an empty queue."
func TestScenario_NoUsableCheckpointAndNoBeginning(t *testing.T) {
	scenario(t, func(t *testing.T) {
		fs := memdisk.New(memdisk.Config{})
		s := started(t, tiny(fs))
		a := newAccount()
		for i := range 40 {
			if err := a.post(s, fmt.Sprint("mail ", i)); err != nil {
				t.Fatal(err)
			}
		}
		for range 39 {
			if err := a.deliver(s, Delivered); err != nil {
				t.Fatal(err)
			}
		}
		if err := s.Compact(t.Context()); err != nil {
			t.Fatal(err)
		}
		ended(t, s)
		for _, name := range checkpointNames(t, fs) {
			forged(t, fs, name, func(h []byte) { h[48]++ })
		}
		before := files(t, fs)
		if _, err := Open(spool, tiny(fs)); !errors.Is(err, ErrCorrupt) || !strings.Contains(err.Error(), "ckpt-") {
			t.Fatalf("opened with %v, want ErrCorrupt and a word about the checkpoints", err)
		}
		untouched(t, fs, before)
	})
}

// Section 2. "Promises count from: ... a checkpoint's position." So they do where the checkpoint
// itself can't be used any more, as long as its header can be read: else what was acknowledged
// would be gone without a word.
func TestScenario_DamagedCheckpointStillPromises(t *testing.T) {
	for _, at := range []int64{-1, -600, 520} { // footer, a section, a message
		scenario(t, func(t *testing.T) {
			fs := twice(t)
			s := started(t, tiny(fs))
			posted(t, s, "mail 30")
			ended(t, s) // with a checkpoint
			end := lookInto(t, fs).end
			fs.PowerCutWith(nothingMore)    // so that the claim table promises nothing
			names := checkpointNames(t, fs) // what was removed may be back
			newest := names[len(names)-1]
			b, err := fs.Device(spool + "/" + newest)
			if err != nil {
				t.Fatal(err)
			}
			if at < 0 {
				at += int64(len(b))
			}
			if err := fs.Damage(spool+"/"+newest, max(at, 512), []byte{b[max(at, 512)] ^ 1}); err != nil {
				t.Fatal(err)
			}
			whole := fs.Clone()
			s = started(t, tiny(whole))
			holds(t, s, append([]string{"mail 30"}, twiceHolds...)...)
			ended(t, s)
			// The last frame of the log, a Marker, is lost.
			if err := fs.Damage(segmentPath(end.Segment()), end.Offset()-segment.AlignmentMin, make([]byte, segment.AlignmentMin)); err != nil {
				t.Fatal(err)
			}
			before := files(t, fs)
			if _, err := Open(spool, tiny(fs)); !errors.Is(err, ErrCorrupt) {
				t.Fatalf("opened with %v, want ErrCorrupt", err)
			}
			untouched(t, fs, before)
		})
	}
}

// Rule 3.5, the other way round: the checkpoints are fine, and the log behind them has decayed
// below a promise. Neither an older one nor the whole log is of any help.
func TestScenario_LogDecayedBehindItsCheckpoints(t *testing.T) {
	scenario(t, func(t *testing.T) {
		fs := twice(t)
		s := started(t, tiny(fs))
		at := s.log.End()
		posted(t, s, "mail 30")
		posted(t, s, "mail 31")
		fs.PowerCutWith(nothingMore)
		if err := fs.Damage(segmentPath(at.Segment()), at.Offset()+segment.FrameHeaderSize, []byte{0xff}); err != nil {
			t.Fatal(err)
		}
		before := files(t, fs)
		var where *CorruptError
		if _, err := Open(spool, tiny(fs)); !errors.As(err, &where) || where.Offset != at.Offset() {
			t.Fatalf("opened with %v, want ErrCorrupt at %v", err, at)
		}
		untouched(t, fs, before)
	})
}

// used is a store whose first segments hold nothing alive, with two checkpoints from before they
// died.
func used(t *testing.T, fs disk.FS) *Store {
	t.Helper()
	o := tiny(fs)
	o.fold = 1 << 20 // none is due while they die
	s := started(t, o)
	for i := range 16 {
		posted(t, s, fmt.Sprint("mail ", i))
	}
	if err := s.Checkpoint(t.Context()); err != nil {
		t.Fatal(err)
	}
	ended(t, s)
	s = started(t, o)
	for range 15 {
		if err := taken(t, s).SettleAll(t.Context(), Delivered); err != nil {
			t.Fatal(err)
		}
	}
	return s
}

// Rule 5.3. "Recycled iff ... the two newest checkpoints, each read back and verified, start behind
// it." The one that the run before left is read back too, and not from the page cache.
func TestScenario_OlderCheckpointIsReadBack(t *testing.T) {
	scenario(t, func(t *testing.T) {
		fs := faultdisk.New(memdisk.New(memdisk.Config{}))
		s := used(t, fs)
		before := len(s.Segments())
		left := s.folds.newest.Name
		fs.Set(faultdisk.Plan{N: 1, Forever: true, Err: syscall.EIO, Only: []disk.Op{disk.OpReadUncached}, Name: left})
		if err := s.Checkpoint(t.Context()); err != nil {
			t.Fatal(err)
		}
		if n := len(s.Segments()); n != before || s.folds.older.Name != left {
			t.Errorf("%d of %d segments are left, and %s can't be read", n, before, left)
		}
		posted(t, s, "another")
		if err := s.Checkpoint(t.Context()); err != nil {
			t.Fatal(err)
		}
		if n := len(s.Segments()); n >= before {
			t.Errorf("%d of %d segments are left, and both checkpoints were read back", n, before)
		}
		ended(t, s)
		s = started(t, tiny(fs))
		holds(t, s, "another", "mail 15")
		ended(t, s)
	})
}

// The same at an opening, which knows as dead what came back after a power cut, or what there was
// no time to recycle: not on the word of a checkpoint that can't be read back.
func TestScenario_NothingIsDeadOnTheWordOfADamagedCheckpoint(t *testing.T) {
	scenario(t, func(t *testing.T) {
		m := memdisk.New(memdisk.Config{})
		s := used(t, m)
		first, err := m.Device(segmentPath(1))
		if err != nil {
			t.Fatal(err)
		}
		if err := s.Compact(t.Context()); err != nil {
			t.Fatal(err)
		}
		ended(t, s)
		if err := m.Put(segmentPath(1), first); err != nil {
			t.Fatal(err)
		}
		for i, name := range append(checkpointNames(t, m), "") {
			fs := faultdisk.New(m.Clone())
			if name != "" {
				fs.Set(faultdisk.Plan{N: 1, Forever: true, Err: syscall.EIO, Only: []disk.Op{disk.OpReadUncached}, Name: name})
			}
			s := started(t, tiny(fs))
			holds(t, s, "mail 15")
			if kept := s.Segments()[0].Number == 1; kept != (name != "") {
				t.Errorf("checkpoint %d is not readable: segment 1, which is dead, is there: %v", i, kept)
			}
			ended(t, s)
		}
	})
}

// A checkpoint may decay while the store is open. The next is folded from the one before it.
func TestScenario_FoldFromTheOlderCheckpoint(t *testing.T) {
	scenario(t, func(t *testing.T) {
		fs := twice(t)
		s := started(t, tiny(fs))
		if err := fs.Damage(spool+"/"+s.folds.newest.Name, 520, []byte{0xff, 0xff}); err != nil {
			t.Fatal(err)
		}
		for i := range 3 {
			if err := s.Checkpoint(t.Context()); err != nil {
				t.Fatal(err)
			}
			posted(t, s, fmt.Sprint("more ", i))
		}
		ended(t, s)
		s = started(t, tiny(fs))
		holds(t, s, append([]string{"more 0", "more 1", "more 2"}, twiceHolds...)...)
		ended(t, s)
	})
}

// Rule 3.1, "newest usable checkpoint". One that the device can't read is not usable; the one
// before is, with the log behind it, and nothing is given back before there are two again.
func TestScenario_UnreadableCheckpoint(t *testing.T) {
	for which := range 2 {
		for _, at := range []string{"header", "messages", "footer"} {
			t.Run(fmt.Sprintf("%s of %d", at, which), func(t *testing.T) {
				scenario(t, func(t *testing.T) {
					fs := twice(t)
					names := checkpointNames(t, fs)
					if len(names) != 2 {
						t.Fatal(names)
					}
					name := names[which]
					b, err := fs.Device(spool + "/" + name)
					if err != nil {
						t.Fatal(err)
					}
					off := map[string]int64{"header": 0, "messages": 512, "footer": int64(len(b)) - 1}[at]
					if err := fs.Unreadable(spool+"/"+name, off, 1); err != nil {
						t.Fatal(err)
					}
					f, err := Verify(spool, tiny(fs))
					if err != nil || len(f) == 0 {
						t.Errorf("verify finds %v, %v", f, err)
					}
					s := started(t, tiny(fs))
					if n := s.Stats().WorkQueueLength; n != int64(len(twiceHolds)) {
						t.Errorf("of %d messages %d are there", len(twiceHolds), n)
					}
					if i := reasons(s.Segments(), 1); i == "" || strings.Contains(i, string(ReasonDead)) {
						t.Errorf("segment 1 is there because of %q", i)
					}
					for range 2 {
						posted(t, s, "more")
						if err := s.Checkpoint(t.Context()); err != nil {
							t.Fatal(err)
						}
					}
					ended(t, s)
					if f, err := Verify(spool, tiny(fs)); err != nil || len(f) > 0 {
						t.Errorf("verify finds %v, %v", f, err)
					}
					if slices.Contains(checkpointNames(t, fs), name) {
						t.Error("the one that can't be read is still there")
					}
				})
			})
		}
	}
}

// checkpointsMade counts the checkpoints that get their names, and has f called in the middle of the first.
func checkpointsMade(fs *memdisk.FS, f func()) *atomic.Int32 {
	var n atomic.Int32
	fs.OnOp(func(op disk.Op, name string) {
		if op == disk.OpRename && strings.Contains(name, "ckpt-") && n.Add(1) == 1 {
			f()
		}
	})
	return &n
}

// A checkpoint is due when as much was appended as that takes, not because of what the one before was made for: else
// the mail that comes while one is made has the next one made at once, and they never end.
func TestScenario_CheckpointsRest(t *testing.T) {
	scenario(t, func(t *testing.T) {
		fs := memdisk.New(memdisk.Config{})
		o := roomy(fs)
		o.fold = 64 << 10
		s := started(t, o)
		made := checkpointsMade(fs, func() { posted(t, s, "while one is made") })
		due := func() {
			for was := made.Load(); made.Load() == was; synctest.Wait() {
				posted(t, s, strings.Repeat("mail ", 1000))
			}
		}
		due()
		synctest.Wait()
		if n := made.Load(); n != 1 {
			t.Errorf("%d checkpoints were made where one was due", n)
		}
		due()
		if n := made.Load(); n != 2 {
			t.Errorf("%d checkpoints were made where a second was due", n)
		}
		fs.OnOp(nil)
	})
}

// Where a second checkpoint gives back much more than it takes it follows the first: the older of the two would keep
// segments in which nothing lives until another is due.
func TestScenario_SecondCheckpointForSegments(t *testing.T) {
	scenario(t, func(t *testing.T) {
		fs := memdisk.New(memdisk.Config{})
		o := tiny(fs)
		o.fold = 64 << 10 // by then a segment is full
		s := started(t, o)
		made := checkpointsMade(fs, func() {})
		for made.Load() == 0 {
			posted(t, s, strings.Repeat("mail ", 1000))
			if err := taken(t, s).SettleAll(t.Context(), Delivered); err != nil {
				t.Fatal(err)
			}
			synctest.Wait()
		}
		if n := made.Load(); n != 2 || s.coming() != 0 {
			t.Errorf("%d checkpoints, of which the older keeps %d segments", n, s.coming())
		}
		fs.OnOp(nil)
	})
}

// By the size of a checkpoint that has become small, the mail that came while it was made may make the next one due.
func TestScenario_CheckpointDueByTheSizeOfTheLast(t *testing.T) {
	scenario(t, func(t *testing.T) {
		fs := memdisk.New(memdisk.Config{})
		o := roomy(fs)
		o.fold = 64 << 10
		s := started(t, o)
		var mail, drain Batch // in one segment, so that no second checkpoint gives any back
		for range 4000 {
			m := mailing("mail")
			m.ID = s.NewID()
			mail.Enqueue = append(mail.Enqueue, m)
			drain.Edit = append(drain.Edit, Edit{ID: m.ID, Outcomes: []Outcome{{Recipient: All, Result: Removed}}})
		}
		if _, err := s.Commit(t.Context(), mail); err != nil {
			t.Fatal(err)
		}
		if err := s.Checkpoint(t.Context()); err != nil {
			t.Fatal(err)
		}
		size := s.folds.size.Load()
		if _, err := s.Commit(t.Context(), drain); err != nil {
			t.Fatal(err)
		}
		synctest.Wait()
		during := 0
		made := checkpointsMade(fs, func() {
			for ; int64(during) < o.fold; during += 5000 { // due for an empty checkpoint, not yet for one of that size
				posted(t, s, strings.Repeat("mail ", 1000))
			}
		})
		for made.Load() == 0 {
			posted(t, s, strings.Repeat("mail ", 1000))
			synctest.Wait()
		}
		if n := made.Load(); n != 2 || int64(during) >= foldGrowth*size {
			t.Errorf("%d checkpoints were made, want the second for %d bytes that came during the first, behind one of %d bytes", n, during, size)
		}
		fs.OnOp(nil)
	})
}
