package journal

import (
	"errors"
	"fmt"
	"log/slog"
	"slices"
	"strings"
	"testing"

	"github.com/mtawal/mtawal/internal/disk"
	"github.com/mtawal/mtawal/internal/disk/memdisk"
	"github.com/mtawal/mtawal/mailq"
	"github.com/mtawal/mtawal/segment"
	"go.uber.org/goleak"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

const (
	logDir = "/log"
	block  = segment.AlignmentMin
	// perSegment is how many frames of one block the smallest segment takes: beside them it has
	// its header and the Seal.
	perSegment = segment.SizeMin/block - 3
)

var testUUID = [16]byte{0: 0x10, 9: 0x99, 15: 0xf0}

// rig is a log on a disk that can crash, with what was appended to it.
type rig struct {
	testing.TB
	fs     *memdisk.FS
	dir    disk.Dir
	log    *Log
	opt    Options
	next   uint64 // ID of the next message
	frames []segment.FrameHeader
}

func quiet() *slog.Logger { return slog.New(slog.DiscardHandler) }

func newRig(t testing.TB) *rig { return newRigOn(t, memdisk.New(memdisk.Config{})) }

// newRigOn makes a log and opens it for the first time.
func newRigOn(t testing.TB, m *memdisk.FS) *rig {
	t.Helper()
	r := on(t, m)
	r.ok(MakeFirst(r.dir, testUUID, r.opt))
	r.open()
	return r
}

// on is a rig for what is on the disk, not open.
func on(t testing.TB, m *memdisk.FS) *rig {
	t.Helper()
	r := &rig{TB: t, fs: m, next: 1, opt: Options{SegmentSize: segment.SizeMin, PoolMax: 2, Logger: quiet(), Now: func() int64 { return 1 }}}
	var err error
	r.dir, err = m.OpenDir(logDir, true)
	r.ok(err)
	t.Cleanup(func() {
		if r.log != nil {
			r.close()
		}
	})
	return r
}

func (r *rig) ok(err error) {
	r.Helper()
	if err != nil {
		r.Fatal(err)
	}
}

// recovered is what Recover found and handed out.
type recovered struct {
	*Found
	headers []segment.FrameHeader
	ids     []uint64 // of the messages
	oldest  uint32   // for Keep
}

func (r *recovered) Keep(live map[uint32]struct{}) error { return r.Found.Keep(r.oldest, live) }

func (r *rig) recover(start Start, oldest uint32, promise segment.Pos) (*recovered, error) {
	return r.recoverKnowing(start, oldest, Known{Promise: promise})
}

func (r *rig) recoverKnowing(start Start, oldest uint32, known Known) (*recovered, error) {
	rec := &recovered{oldest: oldest}
	found, err := Recover(r.dir, testUUID, start, known, false, func(f *segment.Frame) error {
		rec.headers = append(rec.headers, f.FrameHeader)
		return f.ForEach(func(_ segment.Pos, rec2 segment.Record) error {
			if rec2.Kind() == segment.KindEnqueue {
				rec.ids = append(rec.ids, rec2.ID())
			}
			return nil
		})
	})
	rec.Found = found
	return rec, err
}

// open recovers the log from the beginning, resumes it and begins an epoch.
func (r *rig) open() *recovered {
	r.Helper()
	rec, err := r.recover(Start{}, 1, 0)
	r.ok(err)
	r.resume(rec)
	return rec
}

// resume goes on with what was found.
func (r *rig) resume(rec *recovered) {
	r.Helper()
	log, err := rec.Resume(r.opt)
	r.ok(err)
	r.log = log
	for _, id := range rec.ids {
		r.next = max(r.next, id+1)
	}
	r.frames = rec.headers
	d := record(segment.Open, segment.OpenSize, func(b []byte, back int64) { segment.PutOpen(b, back, segment.OpenInfo{Cut: rec.CutSize}) })
	d.Opening = true
	r.append(d)
}

func (r *rig) close() {
	r.Helper()
	log := r.log
	r.log = nil
	r.ok(log.Close())
}

// reopen opens the log again after a clean end.
func (r *rig) reopen() *recovered {
	r.Helper()
	r.close()
	return r.open()
}

// record is a frame of one record.
func record(kind segment.FrameKind, size int, put func(b []byte, back int64)) *Draft {
	d := &Draft{Kind: kind, Records: 1, Table: make([]byte, segment.FrameHeaderSize+size)}
	put(d.Table[segment.FrameHeaderSize:], segment.FrameHeaderSize)
	return d
}

// message is a frame of one message with a body of that length.
func message(id uint64, body int) *Draft {
	m := mailq.Message{Envelope: []byte("from"), Body: make([]byte, body), Recipients: []mailq.Recipient{{Queue: "q", Address: "a"}}}
	for i := range m.Body {
		m.Body[i] = byte(id) + byte(i)*3
	}
	f := segment.EnqueueFields{ID: id, EnqueuedAt: 1, BodyLen: int64(body), BodyCRC: segment.BodyCRC(id, m.Body)}
	d := record(segment.Data, segment.EnqueueSize(&m, 0), func(b []byte, back int64) { segment.PutEnqueue(b, back, &m, &f) })
	d.Body = m.Body
	return d
}

func marker() *Draft {
	return &Draft{Kind: segment.Marker, Table: make([]byte, segment.FrameHeaderSize, block)}
}

func (r *rig) append(d *Draft) segment.FrameHeader {
	r.Helper()
	h, err := r.log.Append(d)
	r.ok(err)
	r.frames = append(r.frames, h)
	return h
}

// put appends a message whose frame takes that many blocks.
func (r *rig) put(blocks int) segment.FrameHeader {
	r.Helper()
	id := r.next
	r.next++
	return r.append(message(id, blocks*block-512))
}

// fill appends frames of one block until the tail has room for so many more.
func (r *rig) fill(left int) {
	r.Helper()
	for r.log.off+int64(left+2)*block < r.log.tail.Size {
		r.put(1)
	}
}

// files are the names in the directory.
func (r *rig) files() []string {
	r.Helper()
	list, err := r.dir.List()
	r.ok(err)
	var names []string
	for _, i := range list {
		names = append(names, i.Name)
	}
	return names
}

func (r *rig) path(number uint32) string { return logDir + "/" + segment.Name(number) }

// bytes is what the file of a segment holds now.
func (r *rig) bytes(number uint32) []byte {
	r.Helper()
	f, err := r.dir.Open(segment.Name(number), false)
	r.ok(err)
	n, err := f.Size()
	r.ok(err)
	b := make([]byte, n)
	_, err = f.ReadAt(b, 0)
	r.ok(errors.Join(err, f.Close()))
	return b
}

// crash gives what a killed process leaves, as a rig of its own that is not open.
func (r *rig) crash() *rig {
	r.Helper()
	n := on(r.TB, r.fs.Clone())
	n.opt = r.opt
	n.next = r.next
	return n
}

// replays checks that the log recovers from its beginning to exactly these frames, Seals
// left out, and closes what was found.
func (r *rig) replays(what string, want []segment.FrameHeader) {
	r.Helper()
	rec, err := r.recover(Start{}, 1, 0)
	if err != nil {
		r.Errorf("%s: %v", what, err)
		return
	}
	defer func() { r.ok(rec.Close()) }()
	if got := withoutSeals(rec.headers); !slices.Equal(got, want) {
		r.Errorf("%s: %s recovered, should be %s", what, places(got), places(want))
	}
}

func withoutSeals(list []segment.FrameHeader) []segment.FrameHeader {
	return slices.DeleteFunc(slices.Clone(list), func(h segment.FrameHeader) bool { return h.Kind == segment.Seal })
}

func places(list []segment.FrameHeader) string {
	var s []string
	for _, h := range list[max(0, len(list)-5):] {
		s = append(s, fmt.Sprintf("%v@%v", h.Kind, h.Pos))
	}
	return fmt.Sprintf("%d frames (%s)", len(list), strings.Join(s, " "))
}

func isCorrupt(err error) bool { return errors.Is(err, segment.ErrCorrupt) }
