package checkpoint

import (
	"bytes"
	"fmt"
	"log/slog"
	"maps"
	"slices"
	"testing"
	"time"

	"github.com/mtawal/mtawal/internal/disk"
	"github.com/mtawal/mtawal/internal/disk/memdisk"
	"github.com/mtawal/mtawal/journal"
	"github.com/mtawal/mtawal/mailq"
	"github.com/mtawal/mtawal/segment"
	"github.com/mtawal/mtawal/state"
	"go.uber.org/goleak"
)

func TestMain(m *testing.M) {
	piece = 512 // so that checkpoints of tests are written in several, and a crash comes between
	goleak.VerifyTestMain(m)
}

const (
	store     = "/store"
	startTime = 1_700_000_000_000_000_000
)

var testUUID = [16]byte{0: 0xc0, 7: 0x77, 15: 0x0f}

// fataler is what *testing.T and *rapid.T share.
type fataler interface {
	Helper()
	Fatalf(string, ...any)
	Logf(string, ...any)
}

// chooser leaves the choices of a history to rapid, or to a seed.
type chooser interface{ intn(n int) int }

// world is a store in the making: a real log on a disk that can crash, with the state
// that its records make.
type world struct {
	fataler
	c     chooser
	fs    *memdisk.FS
	dir   disk.Dir
	log   *journal.Log
	table *state.Table
	now   int64
	next  uint64 // ID
	late  []uint64
	// stray are chunks that no message names yet.
	stray []strayChunk
	keys  int
	did   []string
}

type strayChunk struct {
	ref    segment.ChunkRef
	stream uint64
}

// options of a log whose clock stands: the maker reads it beside the test.
func options() journal.Options {
	return journal.Options{SegmentSize: segment.SizeMin, PoolMax: 2, Logger: slog.New(slog.DiscardHandler), Now: func() int64 { return startTime }}
}

func newWorld(t fataler, c chooser) *world {
	t.Helper()
	w := &world{fataler: t, c: c, fs: memdisk.New(memdisk.Config{}), table: state.NewTable(), now: startTime, next: 1}
	var err error
	w.dir, err = w.fs.OpenDir(store, true)
	w.ok(err)
	w.ok(journal.MakeFirst(w.dir, testUUID, options()))
	w.begin(state.NewTable())
	return w
}

func (w *world) ok(err error) {
	w.Helper()
	if err != nil {
		w.fail("%v", err)
	}
}

func (w *world) fail(format string, args ...any) {
	w.Helper()
	for _, l := range w.did[max(0, len(w.did)-40):] {
		w.Logf("%s", l)
	}
	w.Fatalf(format, args...)
}

func (w *world) note(format string, args ...any) {
	w.did = append(w.did, fmt.Sprintf("%v: ", w.table.Applied)+fmt.Sprintf(format, args...))
}

// begin opens the log from the beginning, which replays all of it, and begins an epoch.
func (w *world) begin(t *state.Table) {
	w.Helper()
	found, err := journal.Recover(w.dir, testUUID, journal.Start{}, journal.Known{}, false, t.ApplyFrame)
	w.ok(err)
	w.resume(found)
	w.write(segment.Open, func(b *batch) {
		b.add(segment.OpenSize, func(dst []byte, back int64) {
			segment.PutOpen(dst, back, segment.OpenInfo{Clean: w.c.intn(2) == 0, Cut: int64(w.c.intn(3)) << 12})
		})
	})
}

func (w *world) resume(found *journal.Found) {
	w.Helper()
	w.log = nil
	log, err := found.Resume(options())
	w.ok(err)
	w.log = log
}

func (w *world) close() {
	if w.log != nil {
		w.ok(w.log.Close())
	}
	w.ok(w.dir.Close())
}

// batch is a frame in the making.
type batch struct {
	table, body []byte
	records     uint32
}

// add returns the record's distance from the start of its frame.
func (b *batch) add(size int, put func(dst []byte, back int64)) int64 {
	at := len(b.table)
	b.table = append(b.table, make([]byte, size)...)
	b.records++
	put(b.table[at:], int64(at))
	return int64(at)
}

func (b *batch) place(body []byte) int64 {
	off := int64(len(b.body))
	b.body = append(b.body, body...)
	return off
}

// write appends a frame and applies it.
func (w *world) write(kind segment.FrameKind, fill func(*batch)) segment.FrameHeader {
	w.Helper()
	b := &batch{table: make([]byte, segment.FrameHeaderSize)}
	if fill != nil {
		fill(b)
	}
	h, err := w.log.Append(&journal.Draft{Kind: kind, Records: b.records, Table: b.table, Body: b.body, Lease: w.next + 100})
	w.ok(err)
	w.ok(w.table.ApplyFrame(&segment.Frame{FrameHeader: h, Table: b.table[segment.FrameHeaderSize:]}))
	return h
}

// ids are the messages that live, in order.
func (w *world) ids() []uint64 {
	var ids []uint64
	w.table.ForEach(func(slot uint32) { ids = append(ids, w.table.Msg(slot).ID) })
	slices.Sort(ids)
	return ids
}

func (w *world) pick() (slot uint32, ok bool) {
	ids := w.ids()
	if len(ids) == 0 {
		return 0, false
	}
	slot, ok = w.table.Find(ids[w.c.intn(len(ids))])
	return slot, ok
}

var queueNames = []string{"local", "smtp:example.org", "smtp:example.com", "q", "routing"}

func (w *world) queue() string { return queueNames[w.c.intn(len(queueNames))] }

func (w *world) recipients(n int) []mailq.Recipient {
	list := make([]mailq.Recipient, n)
	for i := range list {
		list[i] = mailq.Recipient{Queue: w.queue(), Address: fmt.Sprintf("r%d@example.org", i)}
		if i > 0 && w.c.intn(2) == 0 {
			list[i].Queue = list[i-1].Queue
		}
		if w.c.intn(4) == 0 {
			list[i].NotBefore = segment.Time(w.now + int64(w.c.intn(3))*int64(time.Hour))
		}
	}
	return list
}

// bodyOf is the body of a message or chunk: its length is chosen, its bytes are not.
func bodyOf(id uint64, n int) []byte {
	b := make([]byte, n)
	for i := range b {
		b[i] = byte(id*131 + uint64(i)*7)
	}
	return b
}

var bodySizes = []int{0, 1, 100, 3000, 9000}

func (w *world) enqueue() {
	id := w.next
	w.next += uint64(1 + w.c.intn(3))
	if n := len(w.late); n > 0 && w.c.intn(2) == 0 { // reserved before, committed now
		id, w.late = w.late[n-1], w.late[:n-1]
	} else if w.c.intn(4) == 0 {
		w.late = append(w.late, w.next)
		w.next++
	}
	m := mailq.Message{Envelope: bodyOf(id, w.c.intn(20)), Recipients: w.recipients(1 + w.c.intn(4)), Priority: int8(w.c.intn(3) - 1)}
	if w.c.intn(3) == 0 {
		w.keys++
		m.Key = fmt.Sprintf("key %d", w.keys)
	}
	if w.c.intn(3) == 0 {
		m.ExpiresAt = segment.Time(w.now + int64(24*time.Hour))
	}
	f := segment.EnqueueFields{ID: id, EnqueuedAt: w.now, Late: uint32(w.c.intn(2)) * uint32(w.c.intn(50))}
	var chunks []segment.ChunkRef
	if len(w.stray) > 0 && w.c.intn(2) == 0 {
		stream := w.stray[0].stream
		for len(w.stray) > 0 && w.stray[0].stream == stream {
			chunks = append(chunks, w.stray[0].ref)
			f.BodyLen += int64(w.stray[0].ref.Len)
			w.stray = w.stray[1:]
		}
		f.Chunks = chunks
	}
	w.note("enqueue %d, %d recipients, %d chunks", id, len(m.Recipients), len(chunks))
	w.write(segment.Data, func(b *batch) {
		if chunks == nil {
			m.Body = bodyOf(id, bodySizes[w.c.intn(len(bodySizes))])
			f.BodyLen, f.BodyCRC, f.BodyOff = int64(len(m.Body)), segment.BodyCRC(id, m.Body), b.place(m.Body)
		}
		b.add(segment.EnqueueSize(&m, len(chunks)), func(dst []byte, back int64) { segment.PutEnqueue(dst, back, &m, &f) })
	})
}

func (w *world) chunk() {
	if len(w.stray) > 6 {
		return
	}
	id, n := w.next, 1+w.c.intn(3)
	w.next++
	w.note("%d chunks of %d", n, id)
	for i := range n {
		data := bodyOf(id+uint64(i), 1+bodySizes[w.c.intn(len(bodySizes))])
		var back int64
		h := w.write(segment.Data, func(b *batch) {
			off := b.place(data)
			back = b.add(segment.ChunkSize, func(dst []byte, back int64) {
				segment.PutChunk(dst, back, id, uint32(i), off, uint32(len(data)), segment.BodyCRC(id, data))
			})
		})
		ref := segment.ChunkRef{Pos: h.Pos + segment.Pos(back), Len: uint32(len(data)), CRC: segment.BodyCRC(id, data)}
		w.stray = append(w.stray, strayChunk{ref, id})
	}
}

func (w *world) run(n int) segment.SettleRun {
	r := segment.SettleRun{Result: mailq.Result(1 + w.c.intn(int(mailq.Released))), Attempts: w.c.intn(5), Edit: w.c.intn(3) == 0}
	r.First = w.c.intn(n)
	r.Count = 1 + w.c.intn(n-r.First)
	if r.Result == mailq.Deferred || r.Result == mailq.Uncertain && w.c.intn(2) == 0 {
		r.Until = w.now + int64(w.c.intn(3))*int64(time.Minute)
	}
	switch w.c.intn(4) {
	case 0:
		r.Note = []byte{}
	case 1:
		r.Note = fmt.Appendf(nil, "451 4.7.%d later", w.c.intn(3))
	}
	return r
}

func (w *world) settle() {
	slot, ok := w.pick()
	id, n := w.next-1, 1
	if ok {
		id, n = w.table.Msg(slot).ID, w.table.Len(slot)
	} // else of a message that is gone
	runs := []segment.SettleRun{w.run(n)}
	if w.c.intn(3) == 0 {
		runs = append(runs, w.run(n))
	}
	w.settleAs(id, runs...)
}

func (w *world) settleAs(id uint64, runs ...segment.SettleRun) {
	w.note("settle %d %v", id, runs)
	w.write(segment.Data, func(b *batch) {
		b.add(segment.SettleSize(runs), func(dst []byte, back int64) { segment.PutSettle(dst, back, id, w.now, runs) })
	})
}

// finish uses every recipient of a message.
func (w *world) finish() {
	if slot, ok := w.pick(); ok {
		w.settleAs(w.table.Msg(slot).ID, segment.SettleRun{Count: w.table.Len(slot), Result: mailq.Delivered, Attempts: 1})
	}
}

func (w *world) replace() {
	slot, ok := w.pick()
	if !ok {
		return
	}
	id, n := w.table.Msg(slot).ID, w.table.Len(slot)
	list := w.recipients(1 + w.c.intn(3))
	w.note("replace in %d, %d more", id, len(list))
	w.write(segment.Data, func(b *batch) {
		b.add(segment.RecipientsSize(list), func(dst []byte, back int64) { segment.PutRecipients(dst, back, id, n, list) })
		runs := []segment.SettleRun{{First: w.c.intn(n), Count: 1, Result: mailq.Replaced}}
		b.add(segment.SettleSize(runs), func(dst []byte, back int64) { segment.PutSettle(dst, back, id, w.now, runs) })
	})
}

func (w *world) attempt() {
	slot, ok := w.pick()
	if !ok {
		return
	}
	id, n := w.table.Msg(slot).ID, w.table.Len(slot)
	first := w.c.intn(n)
	w.note("attempt of %d[%d]", id, first)
	w.write(segment.Marker, func(b *batch) {
		b.add(segment.AttemptSize, func(dst []byte, back int64) { segment.PutAttempt(dst, back, id, first, 1+w.c.intn(n-first)) })
	})
}

func (w *world) queueState() {
	name := w.queue()
	s := mailq.QueueState{Mode: mailq.QueueMode(w.c.intn(3)), Doubt: mailq.DoubtPolicy(w.c.intn(3)), DoubtDelay: time.Duration(w.c.intn(2)) * time.Hour}
	if w.c.intn(3) == 0 {
		s = mailq.QueueState{}
	}
	w.note("queue %s %+v", name, s)
	w.write(segment.Data, func(b *batch) {
		b.add(segment.QueueSize(name), func(dst []byte, back int64) { segment.PutQueue(dst, back, name, s) })
	})
}

func (w *world) flush() {
	name := w.queue()
	w.note("flush %s", name)
	w.write(segment.Data, func(b *batch) {
		b.add(segment.FlushSize(name), func(dst []byte, back int64) { segment.PutFlush(dst, back, name, w.now) })
	})
}

func (w *world) forget() {
	n := uint64(w.c.intn(3))
	w.note("forget %d", n)
	w.write(segment.Data, func(b *batch) {
		b.add(segment.ForgetSize, func(dst []byte, back int64) { segment.PutForget(dst, back, n) })
	})
}

func (w *world) tick() { w.now += int64(w.c.intn(3)) * int64(40*time.Minute) }

// move copies a record of a message to the head; gone has the copy made of where it was
// before, or after the message died.
func (w *world) move() {
	slot, ok := w.pick()
	if !ok {
		return
	}
	m := w.table.Msg(slot)
	id, from, kind := m.ID, m.Loc, segment.KindEnqueue
	if x := w.table.Extents(m); len(x) > 0 && w.c.intn(3) > 0 {
		i := w.c.intn(len(x))
		from, kind = x[i].Pos, x[i].Kind
	}
	r, body := w.read(from, id, kind)
	late := w.c.intn(8)
	if late == 0 {
		w.finish()
	}
	w.note("move %v of %d from %v", kind, id, from)
	for range 1 + w.c.intn(2) { // the second is of a place that nobody names any more
		w.write(segment.Data, func(b *batch) {
			off := b.place(body)
			b.add(segment.MovedSize(r), func(dst []byte, back int64) { segment.PutMoved(dst, back, r, id, from, off) })
		})
	}
}

// read copies a record and its bytes out of the log, checked.
func (w *world) read(pos segment.Pos, id uint64, kind segment.Kind) (segment.Record, []byte) {
	w.Helper()
	r, body, err := readRecord(w.log, pos, id, kind)
	w.ok(err)
	return r, body
}

type acquirer interface {
	Acquire(uint32) (*segment.Segment, error)
}

func readRecord(log acquirer, pos segment.Pos, id uint64, kind segment.Kind) (rec segment.Record, body []byte, err error) {
	s, err := log.Acquire(pos.Segment())
	if err != nil {
		return nil, nil, err
	}
	defer func() {
		if err2 := s.Release(); err == nil {
			err = err2
		}
	}()
	var r segment.Record
	var at int64
	if kind == segment.KindChunk {
		r, at, err = s.AnyRecord(pos.Offset(), kind)
	} else {
		r, at, err = s.Record(pos.Offset(), id)
	}
	if err != nil {
		return nil, nil, err
	}
	if r.Kind() != kind {
		return nil, nil, fmt.Errorf("a %v at %v, not a %v", r.Kind(), pos, kind)
	}
	crc := uint32(0)
	switch kind {
	case segment.KindEnqueue:
		if e := r.Enqueue(); e.Chunks() == 0 {
			body, crc = make([]byte, e.BodyLen), e.BodyCRC
		}
	case segment.KindChunk:
		_, n, sum := r.Chunk()
		body, crc = make([]byte, n), sum
	}
	if body != nil {
		if _, err := s.File.ReadAt(body, at); err != nil {
			return nil, nil, err
		}
		if segment.BodyCRC(r.ID(), body) != crc {
			return nil, nil, fmt.Errorf("the body at %v fails its checksum", pos)
		}
	}
	return segment.Record(bytes.Clone(r)), body, nil
}

// reopen closes the log and opens it again, where all of it is there.
func (w *world) reopen() {
	w.Helper()
	w.note("reopen")
	w.ok(w.log.Close())
	w.begin(state.NewTable())
}

// step does one thing.
func (w *world) step() {
	w.tick()
	steps := []func(){w.enqueue, w.enqueue, w.enqueue, w.settle, w.settle, w.finish, w.finish, w.replace, w.attempt,
		w.queueState, w.flush, w.forget, w.chunk, w.move, w.move, func() { w.write(segment.Marker, nil) }}
	steps[w.c.intn(len(steps))]()
}

// replayed is the state at a position by way of the whole log, and the bytes of its frames.
func (w *world) replayed(to segment.Pos) (*state.Table, int64) {
	w.Helper()
	t, n := state.NewTable(), int64(0)
	w.ok(w.log.Frames(0, to, segment.FrameHeader{}, func(f *segment.Frame) error {
		n += f.Len
		return t.ApplyFrame(f)
	}))
	return t, n
}

func encoded(t fataler, table *state.Table, logBytes int64) []byte {
	t.Helper()
	var b bytes.Buffer
	if err := Encode(&b, table, testUUID, logBytes); err != nil {
		t.Fatalf("%v", err)
	}
	return b.Bytes()
}

// open opens bytes as the checkpoint of that position.
func (w *world) open(b []byte, pos segment.Pos) *File {
	w.Helper()
	w.ok(w.fs.Put(store+"/"+Name(pos), b))
	c, err := Open(w.dir, Name(pos), testUUID)
	w.ok(err)
	return c
}

// usage is what the live messages of a table hold, by segment.
func usage(t *state.Table) map[uint32]struct{} {
	held := make(map[uint32]struct{})
	t.ForEach(func(slot uint32) {
		m := t.Msg(slot)
		held[m.Loc.Segment()] = struct{}{}
		for _, x := range t.Extents(m) {
			held[x.Pos.Segment()] = struct{}{}
		}
	})
	return held
}

// readAll reads every byte that the live messages of a table hold.
func readAll(log acquirer, t *state.Table) (err error) {
	t.ForEach(func(slot uint32) {
		m := t.Msg(slot)
		read := func(pos segment.Pos, kind segment.Kind) {
			if err == nil {
				if _, _, err = readRecord(log, pos, m.ID, kind); err != nil {
					err = fmt.Errorf("message %d: %w", m.ID, err)
				}
			}
		}
		read(m.Loc, segment.KindEnqueue)
		for _, x := range t.Extents(m) {
			read(x.Pos, x.Kind)
		}
	})
	return err
}

func numbers(log *journal.Log) []uint32 {
	var n []uint32
	for _, i := range log.Segments() {
		n = append(n, i.Number)
	}
	return n
}

// seeded is a chooser by seed.
type seeded struct{ state uint64 }

func (s *seeded) intn(n int) int {
	s.state += 0x9E3779B97F4A7C15
	z := s.state
	z = (z ^ z>>30) * 0xBF58476D1CE4E5B9
	z = (z ^ z>>27) * 0x94D049BB133111EB
	return int((z ^ z>>31) % uint64(n))
}

func sortedKeys[V any](m map[uint32]V) []uint32 { return slices.Sorted(maps.Keys(m)) }
