package cases

import (
	"bytes"
	"encoding/binary"
	"math"
	"os"
	"path/filepath"
	"runtime/metrics"
	"testing"

	"github.com/mtawal/mtawal/checkpoint"
	"github.com/mtawal/mtawal/segment"
	"github.com/mtawal/mtawal/wal"
)

var le = binary.LittleEndian

// A flipped bit in a length, of a frame and of a record. In front of the replay it hits the messages
// of that frame alone, which are set aside; where it is to be replayed the store is refused, and says
// where, for what is behind it can't be told from what was never there.
func TestCase04_BitFlipInALength(t *testing.T) {
	for what, at := range map[string]int64{"length of a record": segment.FrameHeaderSize + 4, "length of a table": 84, "length of a frame": 105} {
		t.Run(what, func(t *testing.T) {
			dir := closedStore(t)
			flip := func(file string) {
				edit(t, file, func(b []byte) {
					_, frames := framesOf(t, b)
					b[frames[3].Pos.Offset()+at] ^= 0x10
				})
			}
			flip(named(t, dir, "seg-")[1])
			if found, err := wal.Verify(dir, wal.Options{}); err != nil || len(found) == 0 {
				t.Errorf("verify finds %v, %v", found, err)
			}
			whole(t, dir, 1)
			// Without checkpoints all of the log is replayed.
			dir = closedStore(t)
			for _, c := range named(t, dir, "ckpt-") {
				must(t, os.Remove(c))
			}
			flip(named(t, dir, "seg-")[1])
			refused(t, dir, wal.ErrCorrupt, "seg-00000002")
		})
	}
}

// A frame at the end of the log that would be the next one, checksums and all, but for its lengths:
// it is no frame, and nothing is allocated on its word.
func TestCase05_LengthsOutOfRange(t *testing.T) {
	put32 := func(at int64, v uint32) func([]byte) { return func(b []byte) { le.PutUint32(b[at:], v) } }
	put64 := func(at int64, v uint64) func([]byte) { return func(b []byte) { le.PutUint64(b[at:], v) } }
	for what, change := range map[string]func(b []byte){
		"records 2^32-1":      put32(12, math.MaxUint32),
		"table 2^32-1":        put32(84, math.MaxUint32),
		"table 2^32-8":        put32(84, math.MaxUint32-7),
		"body offset 2^32-1":  put32(92, math.MaxUint32),
		"body 2^63":           put64(96, 1<<63),
		"body 2^64-1":         put64(96, math.MaxUint64),
		"body 2^32":           put64(96, 1<<32),
		"frame 2^63":          put64(104, 1<<63),
		"frame 0":             put64(104, 0),
		"frame -4096":         put64(104, 1<<64-4096),
		"frame 2^40":          put64(104, 1<<40),
		"segment number 2^63": put64(16, 1<<63),
	} {
		t.Run(what, func(t *testing.T) {
			dir := closedStore(t)
			list := named(t, dir, "seg-")
			edit(t, tailOf(t, list), func(b []byte) {
				h, frames := framesOf(t, b)
				last := frames[len(frames)-1]
				at := last.End().Offset()
				f := last
				f.Pos, f.Previous, f.Kind, f.Records, f.TableLen, f.BodyLen = last.End(), last.CRC, segment.Data, 0, 0, 0
				f.Layout(h.Alignment)
				f.TableCRC = segment.TableSum(f.Salt, f.Pos, nil)
				f.Encode(b[at:])
				change(b[at:])
				le.PutUint32(b[at+4:], segment.CRC(b[at+8:at+segment.FrameHeaderSize]))
			})
			sample := []metrics.Sample{{Name: "/gc/heap/allocs:bytes"}}
			metrics.Read(sample)
			before := sample[0].Value.Uint64()
			s := open(t, dir)
			metrics.Read(sample)
			if n := sample[0].Value.Uint64() - before; n > 64<<20 {
				t.Errorf("%d bytes were allocated", n)
			}
			if st := s.Stats(); st.Pending != mails {
				t.Errorf("%+v", st)
			}
			must(t, s.Close())
			whole(t, dir, 0)
		})
	}
}

// tailOf is the last segment with a frame in it.
func tailOf(t *testing.T, list []string) string {
	t.Helper()
	for i := len(list) - 1; i >= 0; i-- {
		b, err := os.ReadFile(list[i])
		must(t, err)
		if _, frames := framesOf(t, b); len(frames) > 0 {
			return list[i]
		}
	}
	t.Fatal("no frame at all")
	return ""
}

// A segment that was made ahead is zeros behind its header: the log ends before it. Zeros in the
// place of frames that had been durable are damage.
func TestCase06_SegmentOfZeros(t *testing.T) {
	dir := closedStore(t)
	list := named(t, dir, "seg-")
	ready := list[len(list)-1]
	b, err := os.ReadFile(ready)
	must(t, err)
	if _, frames := framesOf(t, b); len(frames) > 0 {
		t.Skip("no segment was made ahead: this store happened to end as it was closed")
	}
	if len(bytes.TrimRight(b[segment.HeaderSize:], "\x00")) > 0 {
		t.Error("a segment made ahead is not zeros")
	}
	whole(t, dir, 0)
	dir = closedStore(t)
	for _, c := range named(t, dir, "ckpt-") {
		must(t, os.Remove(c))
	}
	edit(t, named(t, dir, "seg-")[2], func(b []byte) { clear(b[segment.AlignmentMin:]) })
	refused(t, dir, wal.ErrCorrupt, "seg-00000003")
	// All of a file zeros: no header, no segment.
	edit(t, named(t, dir, "seg-")[2], func(b []byte) { clear(b) })
	refused(t, dir, wal.ErrCorrupt, "seg-00000003")
}

// A checkpoint that says it ends in the middle of a frame, with its checksum right: the one
// before is used, and so is the log behind it.
func TestCase12_CheckpointIntoTheMiddleOfAFrame(t *testing.T) {
	for what, by := range map[string]int64{"behind it": 4096, "before it": -4096, "at no boundary": 8} {
		t.Run(what, func(t *testing.T) {
			dir := closedStore(t)
			newest := named(t, dir, "ckpt-")[1]
			var pos uint64
			edit(t, newest, func(b []byte) {
				pos = uint64(int64(le.Uint64(b[32:])) + by)
				le.PutUint64(b[32:], pos)
				le.PutUint32(b[508:], segment.CRC(b[:508]))
			})
			must(t, os.Rename(newest, filepath.Join(dir, checkpoint.Name(segment.Pos(pos)))))
			whole(t, dir, 0)
		})
	}
}
