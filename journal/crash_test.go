package journal

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"sync"
	"testing"

	"github.com/mtawal/mtawal/internal/disk"
	"github.com/mtawal/mtawal/internal/disk/faultdisk"
	"github.com/mtawal/mtawal/internal/disk/memdisk"
	"github.com/mtawal/mtawal/segment"
)

// moment is a disk as a crash at one operation leaves it, and what was promised then.
type moment struct {
	fs     *memdisk.FS
	op     string
	frames []segment.FrameHeader // acknowledged
	from   int                   // the frame that the checkpoint ends with
}

// A crash at any operation of appending, rotating and recycling, by a kill and by a power
// cut: the log is never corrupt, nothing acknowledged is lost, nothing else is found but the
// frame that was under way, and the next life goes on.
func TestCrashEverywhere(t *testing.T) {
	for _, c := range []memdisk.Config{{}, {Names: memdisk.NamesSubset}} {
		r := newRigOn(t, memdisk.New(c))
		var mu sync.Mutex
		var acked []segment.FrameHeader
		from := 0
		var moments []moment
		r.fs.OnOp(func(op disk.Op, name string) {
			if op == disk.OpPopulate || op == disk.OpMap || op == disk.OpSize {
				return
			}
			mu.Lock()
			defer mu.Unlock()
			moments = append(moments, moment{r.fs.Clone(), op.String() + " " + name, acked, from})
		})
		for i := range 7 * perSegment {
			r.put(1)
			mu.Lock()
			acked = slices.Clone(r.frames)
			mu.Unlock()
			if i%perSegment == perSegment-1 && i > perSegment {
				mu.Lock()
				from = len(acked) - 6 // as if a checkpoint had been made there
				mu.Unlock()
				var dead []uint32
				for _, s := range r.log.Segments() {
					if s.Number < acked[from].Pos.Segment() {
						dead = append(dead, s.Number)
					}
				}
				r.ok(r.log.Recycle(dead))
			}
		}
		r.close()
		r.fs.OnOp(nil)
		kinds := map[string]int{}
		for i, m := range moments {
			kinds[m.op[:3]]++
			m.check(t, i, -1)
			for seed := range 3 {
				m.check(t, i, seed)
			}
		}
		if kinds["Ren"] == 0 || kinds["Dir"] == 0 || kinds["Flu"] == 0 || kinds["Cre"] == 0 {
			t.Errorf("operations: %v", kinds)
		}
	}
}

// check crashes, with seed -1 by a kill, and recovers.
func (m *moment) check(t *testing.T, i, seed int) {
	t.Helper()
	fs := m.fs.Clone()
	if seed >= 0 {
		c := seeded(i*31 + seed)
		fs.PowerCutWith(c.choose)
	}
	what := fmt.Sprintf("moment %d, %s, seed %d", i, m.op, seed)
	n := on(t, fs)
	var start Start
	oldest, want := uint32(1), m.frames
	if m.from > 0 {
		start = Start{Pos: m.frames[m.from].End(), Last: m.frames[m.from]}
		oldest, want = start.Pos.Segment(), m.frames[m.from+1:]
	}
	rec, err := n.recover(start, oldest, 0)
	if err != nil {
		t.Errorf("%s: %v", what, err)
		return
	}
	got := withoutSeals(rec.headers)
	if len(m.frames) == 0 && len(got) > 0 {
		got = got[1:] // the Open frame of the first opening
	}
	if len(got) < len(want) || len(got) > len(want)+1 || !slices.Equal(got[:len(want)], want) {
		t.Errorf("%s: %s recovered, %s were acknowledged", what, places(got), places(want))
	}
	n.ok(rec.Keep(nil))
	if i%5 != 0 {
		n.ok(rec.Close())
		return
	}
	found := len(withoutSeals(rec.headers))
	n.resume(rec)
	for range perSegment + 1 { // into the next segment
		n.put(1)
	}
	c := seeded(i)
	fs.PowerCutWith(c.choose)
	_ = n.log.Close() // its handles died with the power
	n.log = nil
	again := on(t, fs)
	rec, err = again.recover(start, oldest, 0)
	if err != nil {
		t.Errorf("%s, gone on: %v", what, err)
		return
	}
	if got := len(withoutSeals(rec.headers)); got != found+1+perSegment+1 {
		t.Errorf("%s, gone on: %d frames, should be %d", what, got, found+perSegment+2)
	}
	again.ok(rec.Close())
}

// A file that is cut while its frames are applied is an error, not the end of the process.
func TestFaultWhileApplying(t *testing.T) {
	path := filepath.Join(t.TempDir(), "log")
	dir, err := disk.OS().OpenDir(path, true)
	if err != nil {
		t.Fatal(err)
	}
	defer dir.Close()
	opt := Options{SegmentSize: segment.SizeMin, Logger: quiet(), Now: func() int64 { return 1 }}
	if err := MakeFirst(dir, testUUID, opt); err != nil {
		t.Fatal(err)
	}
	found, err := Recover(dir, testUUID, Start{}, Known{}, false, func(*segment.Frame) error { return nil })
	if err != nil {
		t.Fatal(err)
	}
	log, err := found.Resume(opt)
	if err != nil {
		t.Fatal(err)
	}
	_, err = log.Append(record(segment.Open, segment.OpenSize, func(b []byte, back int64) { segment.PutOpen(b, back, segment.OpenInfo{}) }))
	if err = errors.Join(err, log.Close()); err != nil {
		t.Fatal(err)
	}
	// The frame is promised by nobody, so it is applied when the scan is over.
	_, err = Recover(dir, testUUID, Start{}, Known{}, false, func(f *segment.Frame) error {
		if err := os.Truncate(filepath.Join(path, segment.Name(1)), 0); err != nil {
			return err
		}
		return f.ForEach(func(segment.Pos, segment.Record) error { return nil })
	})
	if !errors.Is(err, disk.ErrFault) {
		t.Errorf("a file that was cut: %v", err)
	}
}

// A successor stands under its final name, and a kill comes before that name is durable. The
// next opening goes on in it, so its name must be durable by then.
func TestNamesThatAKillLeftLoose(t *testing.T) {
	r := on(t, memdisk.New(memdisk.Config{}))
	r.ok(MakeFirst(r.dir, testUUID, r.opt))
	var mu sync.Mutex
	var image *memdisk.FS
	renamed := false
	r.fs.OnOp(func(op disk.Op, name string) {
		mu.Lock()
		defer mu.Unlock()
		if renamed = renamed || op == disk.OpRename; renamed && op == disk.OpDirSync && image == nil {
			image = r.fs.Clone()
		}
	})
	r.open()
	r.settled()
	r.fs.OnOp(nil)
	mu.Lock()
	defer mu.Unlock()
	if image == nil {
		t.Fatal("no segment was made")
	}
	d := faultdisk.New(image)
	_, release := d.Stall(disk.OpCreate, freePrefix) // nothing else is made, for whose name the directory would be synced
	defer release()
	n := rigOver(t, image, d)
	n.open()
	for n.log.End().Segment() == 1 {
		n.put(1)
	}
	after := image.Clone()
	after.PowerCutWith(func(int) int { return 0 })
	on(t, after).replays("the name of the segment was lost", withoutSeals(n.frames))
	release()
}
