package journal

import (
	"strings"
	"syscall"
	"testing"

	"github.com/mtawal/mtawal/internal/disk/faultdisk"
	"github.com/mtawal/mtawal/internal/disk/memdisk"
	"github.com/mtawal/mtawal/segment"
)

// torn appends a frame of so many blocks, and gives what a crash that tore its body leaves.
func (r *rig) torn(blocks int) (*rig, segment.FrameHeader) {
	r.Helper()
	h := r.put(blocks)
	n := r.crash()
	n.edit(h.Pos.Segment(), func(b []byte) { b[h.Pos.Offset()+int64(h.BodyOff)] ^= 1 })
	return n, h
}

func (r *rig) cuts() (names []string, bytes int64) {
	r.Helper()
	list, err := r.dir.List()
	r.ok(err)
	for _, i := range list {
		if strings.HasPrefix(i.Name, "cut-") {
			names = append(names, i.Name)
			bytes += i.Size
		}
	}
	return names, bytes
}

// However often a store crashes, the tails that were cut take no more room than a segment,
// and the newest is there.
func TestCutsAreBounded(t *testing.T) {
	for _, blocks := range []int{2, 5, perSegment} {
		r := newRig(t)
		for i := range 3 * cutFiles {
			n, h := r.torn(blocks)
			r.close()
			rec := n.open()
			names, bytes := n.cuts()
			if rec.CutSize != h.Len || len(names) == 0 || len(names) > cutFiles || bytes > n.opt.SegmentSize {
				t.Fatalf("%d blocks, crash %d: cut %d bytes, %d files of %d bytes are there", blocks, i, rec.CutSize, len(names), bytes)
			}
			if last := names[len(names)-1]; last != (cutName{h.Pos, rec.Last.Epoch}).String() {
				t.Fatalf("%d blocks, crash %d: the last is %s", blocks, i, last)
			}
			r = n
		}
		if names, _ := r.cuts(); len(names) != min(cutFiles, segment.SizeMin/(blocks*block)) {
			t.Errorf("%d blocks: %v are kept", blocks, names)
		}
	}
}

// What only looks like a saved tail is somebody's, and an opening that did not come to an end
// may have left half of one.
func TestCutsOfOthers(t *testing.T) {
	r := newRig(t)
	n, h := r.torn(3)
	name := cutName{h.Pos, 1}.String()
	others := []string{"cut-", "cut-1-1", name + "x", "cut-0000000100001000--1", "cut-0000000100001000-01"}
	for _, o := range append(others, name) {
		n.ok(n.fs.Put(logDir+"/"+o, []byte("half")))
	}
	n.open()
	names, bytes := n.cuts()
	if len(names) != len(others)+1 || bytes != int64(4*len(others))+h.Len {
		t.Errorf("%v of %d bytes are there", names, bytes)
	}
}

// Whatever goes wrong while a tail is saved, the log opens.
func TestCutFails(t *testing.T) {
	r := newRig(t)
	r.settled() // else the crash leaves a file whose room comes back when the log is resumed
	n, _ := r.torn(3)
	for _, name := range []string{"cut-0000000100001000-0", "cut-0000000100001000-1"} {
		n.ok(n.fs.PutSpecial(logDir+"/"+name, "FIFO"))
	}
	for _, err := range []error{syscall.EIO, syscall.ENOSPC, syscall.EROFS} {
		for at := 1; ; at++ {
			m := n.fs.Clone()
			d := faultdisk.New(m)
			o := rigOver(t, m, d)
			d.Set(faultdisk.Plan{N: at, Forever: true, Err: err, Name: "cut-"})
			o.open()
			if d.Failed() == 0 {
				if names, _ := o.cuts(); len(names) != 3 {
					t.Errorf("%v are there", names)
				}
				break
			}
		}
	}
	full := on(t, n.fs.Clone())
	sp, err := full.dir.Space()
	full.ok(err)
	full.fs.SetCapacity(sp.Total - sp.Free + 8*3*block - memdisk.PageSize)
	full.open()
	if names, _ := full.cuts(); len(names) != 2 {
		t.Errorf("on a disk that is nearly full %v are there", names)
	}
}
