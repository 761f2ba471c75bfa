package state

import (
	"fmt"
	"slices"

	"github.com/mtawal/mtawal/mailq"
	"github.com/mtawal/mtawal/segment"
	"pgregory.net/rapid"
)

var (
	queueNames = []string{"local", "routing", "smtp:a.example", "smtp:b.example"}
	keyNames   = []string{"k0", "k1", "k2", "k3", "k4"}
)

// writer makes a log, and tells a model what it says.
type writer struct {
	model  *model
	pos    segment.Pos // of the next frame
	crc    uint32
	table  []byte
	count  uint32
	frames []*segment.Frame
	nextID uint64
	// places are the records that may be moved, by position.
	places []place
}

type place struct {
	pos segment.Pos
	id  uint64
	rec segment.Record
}

func newWriter() *writer {
	return &writer{model: newModel(), pos: segment.MakePos(1, 4096), nextID: 1}
}

// add appends a record to the frame under construction.
func (w *writer) add(size int, put func(b []byte, back int64) segment.Record) (segment.Pos, segment.Record) {
	back := segment.FrameHeaderSize + int64(len(w.table))
	r := put(make([]byte, size), back)
	w.table = append(w.table, r...)
	w.count++
	return w.pos + segment.Pos(back), r
}

// frame ends the frame under construction.
func (w *writer) frame() *segment.Frame {
	h := segment.FrameHeader{Kind: segment.Data, Records: w.count, Salt: 1, Pos: w.pos, Epoch: 3, Previous: w.crc, TableLen: uint32(len(w.table)), BodyLen: 4096, Lease: 100 + w.nextID}
	h.TableCRC = segment.TableSum(h.Salt, h.Pos, w.table)
	h.Layout(segment.AlignmentMin)
	b := make([]byte, segment.FrameHeaderSize+len(w.table))
	h.Encode(b)
	copy(b[segment.FrameHeaderSize:], w.table)
	f, ok, err := segment.NewFrame(h, b)
	if !ok || err != nil {
		panic(fmt.Sprintf("the test wrote a frame that is not valid: %v", err))
	}
	w.pos, w.crc, w.table, w.count = h.End(), h.CRC, nil, 0
	w.frames = append(w.frames, &f)
	return &f
}

func (w *writer) enqueue(m *mailq.Message, f *segment.EnqueueFields) uint64 {
	f.ID = w.nextID
	w.nextID++
	pos, r := w.add(segment.EnqueueSize(m, len(f.Chunks)), func(b []byte, back int64) segment.Record { return segment.PutEnqueue(b, back, m, f) })
	g := &modelMsg{
		loc: pos, priority: m.Priority, keyed: m.Key != "", order: f.ID + uint64(f.Late),
		expires: uint32((segment.Nanos(m.ExpiresAt) + 999_999_999) / 1_000_000_000), enqueued: uint32((f.EnqueuedAt + 999_999_999) / 1_000_000_000),
	}
	weight := int64(len(r))
	if len(f.Chunks) == 0 {
		weight += f.BodyLen
	}
	for i, c := range f.Chunks {
		x := Extent{Pos: c.Pos, Weight: c.Len + segment.ChunkSize, Kind: segment.KindChunk, First: uint32(i), CRC: c.CRC}
		g.extents = append(g.extents, x)
		weight += int64(x.Weight)
	}
	g.weight = (weight + 7) / 8 * 8
	w.model.add(g, m.Recipients)
	w.model.msgs[f.ID] = g
	if m.Key != "" {
		w.model.keys = append(w.model.keys, Key{m.Key, f.ID, f.EnqueuedAt})
	}
	w.places = append(w.places, place{pos, f.ID, r})
	return f.ID
}

func (w *writer) settle(id uint64, runs ...segment.SettleRun) {
	w.add(segment.SettleSize(runs), func(b []byte, back int64) segment.Record { return segment.PutSettle(b, back, id, 1, runs) })
	w.model.settle(id, runs)
}

func (w *writer) attempt(id uint64, first, count int) {
	w.add(segment.AttemptSize, func(b []byte, back int64) segment.Record { return segment.PutAttempt(b, back, id, first, count) })
	w.model.attempt(id, first, count)
}

func (w *writer) recipients(id uint64, list []mailq.Recipient) {
	g := w.model.msgs[id]
	first := 7
	if g != nil {
		first = len(g.rcpts)
	}
	pos, r := w.add(segment.RecipientsSize(list), func(b []byte, back int64) segment.Record {
		return segment.PutRecipients(b, back, id, first, list)
	})
	w.places = append(w.places, place{pos, id, r})
	if g != nil {
		w.model.add(g, list)
		g.weight += int64(len(r)+7) / 8 * 8
		g.extents = append(g.extents, Extent{Pos: pos, Weight: uint32(len(r)), Kind: segment.KindRecipients, First: uint32(first)})
	}
}

func (w *writer) queue(name string, s mailq.QueueState) {
	w.add(segment.QueueSize(name), func(b []byte, back int64) segment.Record { return segment.PutQueue(b, back, name, s) })
	w.model.queues[name] = s
}

func (w *writer) flush(name string, at int64) {
	w.add(segment.FlushSize(name), func(b []byte, back int64) segment.Record { return segment.PutFlush(b, back, name, at) })
	w.model.flush(name, at)
}

func (w *writer) forget(n int) {
	w.add(segment.ForgetSize, func(b []byte, back int64) segment.Record { return segment.PutForget(b, back, uint64(n)) })
	w.model.forget(n)
}

func (w *writer) move(p place) {
	holder := p.id
	if p.rec.Kind() == segment.KindChunk {
		holder = w.nextID - 1 // a chunk of nobody, said to be of somebody
		if id, ok := w.model.holderOf(p.pos); ok {
			holder = id
		}
	}
	to, r := w.add(segment.MovedSize(p.rec), func(b []byte, back int64) segment.Record {
		return segment.PutMoved(b, back, p.rec, holder, p.pos, 0)
	})
	w.places = append(w.places, place{to, p.id, r})
	w.model.moved(p.rec.Kind(), p.id, p.pos, to)
}

func genList(most int) *rapid.Generator[[]mailq.Recipient] {
	return rapid.SliceOfN(rapid.Custom(func(t *rapid.T) mailq.Recipient {
		return mailq.Recipient{
			Queue: rapid.SampledFrom(queueNames).Draw(t, "queue"), Address: "a@example.org",
			NotBefore: segment.Time(rapid.SampledFrom([]int64{0, 0, 0, 5, 10, 15}).Draw(t, "not before")),
		}
	}), 1, most)
}

func genRun(t *rapid.T) segment.SettleRun {
	s := segment.SettleRun{
		First: rapid.IntRange(0, 8).Draw(t, "first"), Count: rapid.SampledFrom([]int{1, 1, 2, 5, 30}).Draw(t, "count"),
		Result:   mailq.Result(rapid.IntRange(int(mailq.Delivered), int(mailq.Released)).Draw(t, "result")),
		Attempts: rapid.IntRange(0, 3).Draw(t, "attempts"), Until: rapid.Int64Range(0, 20).Draw(t, "until"),
		Edit: rapid.Bool().Draw(t, "edit"),
	}
	if rapid.Bool().Draw(t, "with note") {
		s.Note = []byte(rapid.SampledFrom([]string{"", "451 later", "250 ok"}).Draw(t, "note"))
	}
	return s
}

// step writes one random record. Many are about messages that are dead, or were
// never there.
func (w *writer) step(t *rapid.T) {
	id := func() uint64 { return rapid.Uint64Range(1, w.nextID+1).Draw(t, "id") }
	switch rapid.SampledFrom([]string{"enqueue", "enqueue", "settle", "settle", "settle", "settle", "attempt", "recipients", "queue", "flush", "forget", "move", "move", "open", "garbage"}).Draw(t, "record") {
	case "enqueue":
		m := &mailq.Message{
			Recipients: genList(rapid.SampledFrom([]int{1, 1, 3, 20}).Draw(t, "most")).Draw(t, "recipients"),
			Priority:   rapid.Int8().Draw(t, "priority"), ExpiresAt: segment.Time(rapid.Int64Range(0, 4e9).Draw(t, "expires")),
			Key: rapid.SampledFrom(append([]string{"", "", ""}, keyNames...)).Draw(t, "key"),
		}
		f := &segment.EnqueueFields{EnqueuedAt: rapid.Int64Range(0, 4e9).Draw(t, "at"), Late: rapid.Uint32Max(5).Draw(t, "late"), BodyLen: int64(rapid.IntRange(0, 999).Draw(t, "body"))}
		if n := rapid.SampledFrom([]int{0, 0, 0, 1, 3}).Draw(t, "chunks"); n > 0 {
			f.BodyLen = 0
			for range n {
				// The stream's ID is not that of the message.
				size := uint32(rapid.IntRange(1, 999).Draw(t, "size"))
				pos, r := w.add(segment.ChunkSize, func(b []byte, back int64) segment.Record {
					return segment.PutChunk(b, back, 1<<40, uint32(len(f.Chunks)), 0, size, 77)
				})
				w.places = append(w.places, place{pos, 1 << 40, r})
				f.Chunks = append(f.Chunks, segment.ChunkRef{Pos: pos, Len: size, CRC: 77})
				f.BodyLen += int64(size)
			}
		}
		w.enqueue(m, f)
	case "settle":
		w.settle(id(), rapid.SliceOfN(rapid.Custom(genRun), 1, 3).Draw(t, "runs")...)
	case "attempt":
		w.attempt(id(), rapid.IntRange(0, 8).Draw(t, "first"), rapid.IntRange(1, 30).Draw(t, "count"))
	case "recipients":
		w.recipients(id(), genList(5).Draw(t, "recipients"))
	case "queue":
		w.queue(rapid.SampledFrom(append([]string{"new"}, queueNames...)).Draw(t, "queue"), mailq.QueueState{Mode: mailq.QueueMode(rapid.IntRange(0, 2).Draw(t, "mode"))})
	case "flush":
		w.flush(rapid.SampledFrom(append([]string{"never named"}, queueNames...)).Draw(t, "queue"), rapid.Int64Range(0, 20).Draw(t, "at"))
	case "forget":
		w.forget(rapid.SampledFrom([]int{0, 1, 1, 2, 1000}).Draw(t, "n"))
	case "move":
		if len(w.places) > 0 {
			w.move(rapid.SampledFrom(slices.Clone(w.places)).Draw(t, "place"))
		}
	case "open":
		o := segment.OpenInfo{Cut: int64(rapid.IntRange(0, 99).Draw(t, "cut")), Clean: rapid.Bool().Draw(t, "clean")}
		w.add(segment.OpenSize, func(b []byte, back int64) segment.Record { return segment.PutOpen(b, back, o) })
		w.model.cut += o.Cut
		if !o.Clean {
			w.model.unclean++
		}
	case "garbage":
		w.add(segment.ChunkSize, func(b []byte, back int64) segment.Record { return segment.PutChunk(b, back, 9, 9, 0, 9, 9) })
		w.add(segment.SealSize, func(b []byte, back int64) segment.Record { return segment.PutSeal(b, back, 9, 9) })
	}
}
