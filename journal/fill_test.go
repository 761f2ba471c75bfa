package journal

import (
	"slices"
	"testing"

	"github.com/mtawal/mtawal/internal/disk"
	"github.com/mtawal/mtawal/internal/disk/memdisk"
	"github.com/mtawal/mtawal/segment"
)

// A new file is allocated whole, and filled with zeros for as long as nobody waits for it.
func TestFillNew(t *testing.T) {
	const size = 5*zeroStep/2 + block
	for name, dir := range map[string]disk.Dir{"in place": openedOn(t, memdisk.Config{}), "copy on write": openedOn(t, memdisk.Config{CopyOnWrite: true})} {
		for _, patience := range []int{0, 2, 1 << 20} {
			f, err := dir.Create("f")
			if err != nil {
				t.Fatal(err)
			}
			asked := 0
			err = fillNew(dir, f, size, func() bool { asked++; return asked <= patience })
			n, err2 := f.Size()
			if err != nil || err2 != nil || n != size {
				t.Errorf("%s, patience %d: %d bytes, %v, %v", name, patience, n, err, err2)
			}
			if patience < 3 && asked != patience+1 || patience > 3 && asked < 3 {
				t.Errorf("%s, patience %d: asked %d times whether to go on", name, patience, asked)
			}
			b := make([]byte, size)
			if _, err := f.ReadAt(b, 0); err != nil {
				t.Error(err)
			}
			for i := range b {
				if b[i] != 0 {
					t.Fatalf("%s: byte %d is not zero", name, i)
				}
			}
			if err := f.Close(); err != nil {
				t.Error(err)
			}
			if err := dir.Remove("f"); err != nil {
				t.Error(err)
			}
		}
	}
}

// A log that waits gets its segment without zeros where frames are long, and with them where they are short.
func TestZerosForShortFrames(t *testing.T) {
	r := newRig(t)
	r.settled()
	for _, step := range []struct {
		length int64
		waits  bool
		want   bool
	}{{block, true, true}, {zerosUpTo + 2*block, false, true}, {zerosUpTo + 2*block, true, false}, {zerosUpTo - block, true, true}} {
		for range 20 * typicalOver {
			r.log.noteLength(step.length)
		}
		r.log.maker.waited.Store(step.waits)
		if got := r.log.maker.goOn(); got != step.want {
			t.Errorf("frames of %d bytes, waits %v: that zeros go on is %v", step.length, step.waits, got)
		}
	}
}

// A segment that dies while the next one is filled with zeros is taken away then, and the spare file that it stands in
// for: its room, and theirs, is not taken at the same time as the new one's.
func TestDeadFilesGoWhileZerosAreWritten(t *testing.T) {
	r := newRig(t)
	r.put(1)
	r.reserve(2)
	spares := r.spares()
	r.fill(0)
	var steps []string
	inSecond := make(chan struct{}) // the maker goes for the third segment when the second is taken, before the log is in it
	r.fs.OnOp(func(op disk.Op, name string) {
		if op == disk.OpAllocate && name == "free-new-00000003" {
			<-inSecond
			r.ok(r.log.Recycle([]uint32{1}))
		}
		if op == disk.OpRename || op == disk.OpRemove {
			steps = append(steps, op.String()+" "+name)
		}
	})
	r.put(2)
	close(inSecond)
	r.settled()
	r.fs.OnOp(nil)
	want := []string{disk.OpRename.String() + " " + segment.Name(1), disk.OpRemove.String() + " " + spares[len(spares)-1], disk.OpRename.String() + " free-new-00000003"}
	var have []string
	for _, s := range steps {
		if slices.Contains(want, s) {
			have = append(have, s)
		}
	}
	if !slices.Equal(have, want) {
		t.Errorf("the maker did %q; want %q in this order", steps, want)
	}
}

func openedOn(t *testing.T, c memdisk.Config) disk.Dir {
	t.Helper()
	d, err := memdisk.New(c).OpenDir("/log", true)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := d.Close(); err != nil {
			t.Error(err)
		}
	})
	return d
}
