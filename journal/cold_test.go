package journal

import (
	"bytes"
	"errors"
	"path"
	"strings"
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

// With Options.Scrub there are no cold segments, and one that an opening without it has left is wiped before it goes.
func TestColdIsScrubbed(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := on(t, memdisk.New(memdisk.Config{}))
		r.opt.SegmentSize = 4 * segment.SizeMin
		r.ok(MakeFirst(r.dir, testUUID, r.opt))
		r.open()
		r.put(1)
		synctest.Wait()
		secret := []byte("what nobody else is to read")
		number, _, err := r.log.Cold(64, bytes.Repeat(secret, 90_000/len(secret)), func(int) error { return nil })
		r.ok(err)
		synctest.Wait()
		r.close()
		if !bytes.Contains(r.bytes(number), secret) {
			t.Fatal("nothing was copied")
		}
		removed := false
		r.fs.OnOp(func(op disk.Op, name string) {
			if op != disk.OpRemove || !strings.HasPrefix(path.Base(name), freePrefix+"0") {
				return
			}
			removed = true
			crash := r.fs.Clone()
			crash.PowerCutWith(func(int) int { return 0 }) // what is on the device
			left, err := crash.Device(logDir + "/" + path.Base(name))
			if err != nil || bytes.Contains(left, secret) {
				t.Errorf("%s is removed and holds what was copied: %v", name, err)
			}
		})
		r.opt.Scrub = true
		r.open()
		synctest.Wait()
		r.fs.OnOp(nil)
		if !removed {
			t.Error("nothing was removed")
		}
		if bytes.Contains(r.bytes(number), secret) {
			t.Error("the next segment holds what was copied")
		}
		if _, err := r.cold(1000); !errors.Is(err, ErrNoCold) {
			t.Error(err)
		}
		r.put(1)
		r.crash().replays("behind it", withoutSeals(r.frames))
	})
}
