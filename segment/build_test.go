package segment

import (
	"testing"

	"github.com/mtawal/mtawal/internal/disk"
	"github.com/mtawal/mtawal/internal/disk/memdisk"
	"github.com/mtawal/mtawal/mailq"
)

var testUUID = [16]byte{0: 0xa0, 5: 0x11, 10: 0x22, 15: 0xff}

// image is a segment under construction, with frames that are chained as a log
// chains them. What is fixed here is random in a store.
type image struct {
	Header
	data []byte
	off  int64
	next FrameHeader // template of the next frame
	prev FrameHeader
}

func newImage(number uint32, salt uint64, size int64) *image {
	g := &image{Header: Header{Alignment: AlignmentMin, Number: number, Salt: salt, Size: size, UUID: testUUID, Created: 1_700_000_000_000_000_000}}
	g.data = make([]byte, size)
	copy(g.data, g.Header.Encode())
	g.off = g.First()
	g.next = FrameHeader{Epoch: 1, Nonce: 0x0123456789abcdef, Lease: 1000, Time: 1_700_000_001_000_000_000}
	return g
}

// batch is table and bodies of a frame under construction.
type batch struct {
	table, body []byte
	records     uint32
}

func (b *batch) add(size int, put func(dst []byte, back int64) Record) Record {
	at := len(b.table)
	b.table = append(b.table, make([]byte, size)...)
	b.records++
	return put(b.table[at:], FrameHeaderSize+int64(at))
}

// place puts a body into the body area and returns its offset.
func (b *batch) place(body []byte) int64 {
	off := int64(len(b.body))
	b.body = append(b.body, body...)
	return off
}

func (b *batch) enqueue(id uint64, m *mailq.Message) Record {
	f := EnqueueFields{ID: id, EnqueuedAt: 1_700_000_002_000_000_000, BodyLen: int64(len(m.Body)), BodyOff: b.place(m.Body), BodyCRC: BodyCRC(id, m.Body)}
	return b.add(EnqueueSize(m, 0), func(dst []byte, back int64) Record { return PutEnqueue(dst, back, m, &f) })
}

func (b *batch) chunk(stream uint64, sequence uint32, data []byte) Record {
	off := b.place(data)
	return b.add(ChunkSize, func(dst []byte, back int64) Record {
		return PutChunk(dst, back, stream, sequence, off, uint32(len(data)), BodyCRC(stream, data))
	})
}

func (b *batch) settle(id uint64, runs ...SettleRun) Record {
	return b.add(SettleSize(runs), func(dst []byte, back int64) Record {
		return PutSettle(dst, back, id, 1_700_000_003_000_000_000, runs)
	})
}

func (b *batch) moved(r Record, holder uint64, from Pos, body []byte) Record {
	off := b.place(body)
	return b.add(MovedSize(r), func(dst []byte, back int64) Record { return PutMoved(dst, back, r, holder, from, off) })
}

// encode lays a frame out at an offset of the image, without putting it there.
func (g *image) encode(kind FrameKind, b *batch, off int64) (FrameHeader, []byte) {
	h := g.next
	h.Kind, h.Records, h.Salt, h.Pos, h.Previous = kind, b.records, g.Salt, MakePos(g.Number, off), g.prev.CRC
	h.TableLen, h.BodyLen = uint32(len(b.table)), int64(len(b.body))
	h.TableCRC = TableSum(h.Salt, h.Pos, b.table)
	h.Layout(g.Alignment)
	h.Total = g.prev.Total + uint64(b.records)
	frame := make([]byte, h.Len)
	h.Encode(frame)
	copy(frame[FrameHeaderSize:], b.table)
	copy(frame[h.BodyOff:], b.body)
	return h, frame
}

// frame appends a frame that promises all before it.
func (g *image) frame(kind FrameKind, b *batch) FrameHeader {
	g.next.Promise = MakePos(g.Number, g.off)
	h, frame := g.encode(kind, b, g.off)
	copy(g.data[g.off:], frame)
	g.off += h.Len
	g.prev = h
	return h
}

func (g *image) at(h FrameHeader) []byte { return g.data[h.Pos.Offset():][:h.Len] }

// open puts the image on a disk and opens it.
func (g *image) open(t testing.TB) (*Segment, *memdisk.FS) {
	t.Helper()
	fs, dir := testDir(t)
	put(t, fs, Name(g.Number), g.data)
	s, err := OpenSegment(dir, g.Number, g.UUID, false)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := s.Release(); err != nil {
			t.Errorf("closing the segment: %v", err)
		}
	})
	return s, fs
}

func testDir(t testing.TB) (*memdisk.FS, disk.Dir) {
	t.Helper()
	fs := memdisk.New(memdisk.Config{})
	dir, err := fs.OpenDir("/log", true)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := dir.Close(); err != nil {
			t.Error(err)
		}
	})
	return fs, dir
}

func put(t testing.TB, fs *memdisk.FS, name string, b []byte) {
	t.Helper()
	if err := fs.Put("/log/"+name, b); err != nil {
		t.Fatal(err)
	}
}

// decode reads the frame at an offset as a reader does.
func (g *image) decode(off int64) (Frame, bool, error) {
	h, ok, err := DecodeFrameHeader(&g.Header, off, g.data[off:])
	if !ok || err != nil {
		return Frame{FrameHeader: h}, false, err
	}
	return NewFrame(h, g.data[off:off+h.Len])
}

func simple(queue string, body []byte) *mailq.Message {
	return &mailq.Message{Envelope: []byte("from <>"), Body: body, Recipients: []mailq.Recipient{{Queue: queue, Address: "a@example.org"}}}
}
