package journal

import (
	"bytes"
	"errors"
	"testing"
	"testing/synctest"

	"github.com/mtawal/mtawal/internal/disk"
	"github.com/mtawal/mtawal/internal/disk/faultdisk"
	"github.com/mtawal/mtawal/internal/disk/memdisk"
	"github.com/mtawal/mtawal/segment"
)

// cold has a message with a body of that length stand ready behind the tail.
func (r *rig) cold(body int) (*Draft, error) {
	d := message(r.next, body)
	r.next++
	number, head, err := r.log.Cold(int64(len(d.Table)-segment.FrameHeaderSize), d.Body, func(int) error { return nil })
	if err != nil {
		return nil, err
	}
	d.Cold, d.Ahead = number, int64(body-head)
	d.Body = append(segment.Aligned(block)[:0], d.Body[:head]...)
	return d, nil
}

// The frame of a cold segment goes between two of others, whatever its length, and is whole with the little that is written then.
// Until then the log is what it was, whatever a crash leaves.
func TestColdFrame(t *testing.T) {
	for _, body := range []int{1, 3000, block - 512 - segment.FrameHeaderSize, block, 5*block + 13, 45_000} {
		synctest.Test(t, func(t *testing.T) {
			r, _ := largeRig(t)
			d, err := r.cold(body)
			r.ok(err)
			if !r.log.ColdStands(d.Cold) || d.Cold != 2 {
				t.Fatalf("segment %d does not stand ready", d.Cold)
			}
			synctest.Wait()
			r.crash().replays("before it comes", r.frames)
			r.put(2) // the tail has room
			whole := message(r.next-2, body)
			r.append(d)
			h := r.frames[len(r.frames)-1]
			if h.Pos.Segment() != d.Cold || h.BodyLen != int64(body) {
				t.Errorf("the frame is at %v and has %d bytes", h.Pos, h.BodyLen)
			}
			at := h.Pos.Offset() + int64(h.BodyOff)
			if got := r.bytes(d.Cold)[at : at+int64(body)]; !bytes.Equal(got, whole.Body) {
				t.Error("other bytes are there")
			}
			r.crash().replays("behind it", withoutSeals(r.frames))
			for range perSegment {
				r.put(1)
			}
			if end := r.log.End().Segment(); end != 3 {
				t.Errorf("the log ends in segment %d", end)
			}
			r.reopen()
			r.put(1)
			r.crash().replays("opened again", withoutSeals(r.frames))
		})
	}
}

// A cold segment whose frame does not come is one as any other, here and for the next opening.
func TestColdSegmentIsNotUsed(t *testing.T) {
	for _, reopen := range []bool{false, true} {
		synctest.Test(t, func(t *testing.T) {
			r, _ := largeRig(t)
			d, err := r.cold(40_000)
			r.ok(err)
			if r.log.Unused(d.Cold); r.log.ColdStands(d.Cold) {
				t.Error("it is waited for")
			}
			synctest.Wait()
			if reopen {
				r.reopen()
			}
			for r.log.End().Segment() < 4 {
				r.put(1)
			}
			list := r.log.Segments()
			if list[1].Size != segment.SizeMin || list[1].End < segment.SizeMin-2*block {
				t.Errorf("segment 2 is %+v", list[1])
			}
			r.crash().replays("behind it", withoutSeals(r.frames))
		})
	}
}

// Where there is no place for a cold segment the log is as it was, and so are its files.
func TestColdIsRefused(t *testing.T) {
	for what, want := range map[string]error{
		"too long": ErrNoCold, "one stands": ErrNoCold, "idle": ErrNoCold, "a Seal names the next": ErrNoCold,
		"no room": disk.ErrNoSpace, "no room for the last of it": disk.ErrNoSpace, "the caller ends it": errStopped,
	} {
		t.Run(what, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				r, d := largeRig(t)
				synctest.Wait()
				body, wrote := 40_000, func(int) error { return nil }
				standing := 0
				switch what {
				case "too long":
					body = 80_000
				case "one stands":
					_, err := r.cold(body)
					r.ok(err)
					synctest.Wait()
					standing = 1
				case "idle":
					r.log.Idle(segment.SizeMin)
					synctest.Wait()
				case "a Seal names the next":
					r.fill(0)
					d.Set(faultdisk.Plan{N: 1, Forever: true, After: true, Err: disk.ErrNoSpace, Only: []disk.Op{disk.OpWriteDurable}})
					if _, err := r.log.Append(message(r.next, 10)); !errors.Is(err, disk.ErrNoSpace) {
						t.Fatal(err)
					}
					d.Set(faultdisk.Plan{})
					synctest.Wait()
				case "no room":
					d.Set(faultdisk.Plan{N: 1, Err: disk.ErrNoSpace, Only: []disk.Op{disk.OpAllocate}})
				case "no room for the last of it":
					d.Set(faultdisk.Plan{N: 1, Err: disk.ErrNoSpace, Only: []disk.Op{disk.OpWriteDurable}})
				case "the caller ends it":
					wrote = func(int) error { return errStopped }
				}
				before := r.log.Files()
				m := message(r.next, body)
				if _, _, err := r.log.Cold(int64(len(m.Table)-segment.FrameHeaderSize), m.Body, wrote); !errors.Is(err, want) {
					t.Errorf("%v, want %v", err, want)
				}
				d.Set(faultdisk.Plan{})
				synctest.Wait()
				after := r.log.Files()
				if before.Turn, after.Turn = 0, 0; after != before {
					t.Errorf("%+v, before it %+v", after, before)
				}
				for _, n := range r.files() {
					if n == coldName {
						t.Errorf("%s is left", n)
					}
				}
				if what != "a Seal names the next" {
					for r.log.End().Segment() < uint32(3+standing) {
						r.put(1)
					}
				}
				r.crash().replays("behind it", withoutSeals(r.frames))
			})
		})
	}
}

// A frame that comes when its segment is not what is next says so, and nothing of it is there.
func TestColdFrameComesTooLate(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r, _ := largeRig(t)
		d, err := r.cold(40_000)
		r.ok(err)
		for r.log.End().Segment() < d.Cold {
			r.put(1)
		}
		if r.log.ColdStands(d.Cold) {
			t.Error("it stands, and the log is in it")
		}
		if _, err := r.log.Append(d); err == nil {
			t.Error("the frame was appended")
		}
		r.crash().replays("behind it", withoutSeals(r.frames))
	})
}

// With Options.Scrub what was written ahead is wiped before it is removed: where the segment could not be had, and where an idle log has
// no use for it.
func TestColdIsScrubbed(t *testing.T) {
	for _, what := range []string{"refused", "idle"} {
		t.Run(what, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				m := memdisk.New(memdisk.Config{})
				d := faultdisk.New(m)
				r := rigOver(t, m, d)
				r.opt.Scrub, r.opt.SegmentSize = true, 4*segment.SizeMin
				r.ok(MakeFirst(r.dir, testUUID, r.opt))
				r.open()
				r.put(1)
				synctest.Wait()
				secret := []byte("what nobody else is to read")
				cold := func() (number uint32, err error) {
					number, _, err = r.log.Cold(64, bytes.Repeat(secret, 90_000/len(secret)), func(int) error { return nil })
					return number, err
				}
				removed := 0
				r.fs.OnOp(func(op disk.Op, name string) {
					if op != disk.OpRemove {
						return
					}
					removed++
					crash := r.fs.Clone()
					crash.PowerCutWith(func(int) int { return 0 }) // what is on the device
					left, err := crash.Device(name)
					if err == nil && bytes.Contains(left, secret) {
						t.Errorf("%s is removed and holds what was copied", name)
					}
				})
				if what == "refused" {
					d.Set(faultdisk.Plan{N: 1, Err: disk.ErrNoSpace, Only: []disk.Op{disk.OpSync}})
					if _, err := cold(); !errors.Is(err, disk.ErrNoSpace) {
						t.Error(err)
					}
					d.Set(faultdisk.Plan{})
				} else {
					number, err := cold()
					r.ok(err)
					r.log.Unused(number)
					r.log.Idle(segment.SizeMin)
				}
				synctest.Wait()
				r.fs.OnOp(nil)
				if removed == 0 {
					t.Error("nothing was removed")
				}
				for _, n := range r.files() {
					f, err := r.dir.Open(n, false)
					r.ok(err)
					size, err := f.Size()
					r.ok(err)
					b := make([]byte, size)
					_, err = f.ReadAt(b, 0)
					r.ok(errors.Join(err, f.Close()))
					if bytes.Contains(b, secret) {
						t.Errorf("%s holds what was copied", n)
					}
				}
				r.crash().replays("behind it", withoutSeals(r.frames))
			})
		})
	}
}
