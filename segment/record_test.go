package segment

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"math"
	"reflect"
	"slices"
	"testing"
	"time"

	"github.com/mtawal/mtawal/mailq"
	"pgregory.net/rapid"
)

func genBytes(most int) *rapid.Generator[[]byte] { return rapid.SliceOfN(rapid.Byte(), 0, most) }

func genTime() *rapid.Generator[time.Time] {
	return rapid.Custom(func(t *rapid.T) time.Time {
		return Time(rapid.OneOf(rapid.Just(int64(0)), rapid.Int64()).Draw(t, "ns"))
	})
}

func genRecipients() *rapid.Generator[[]mailq.Recipient] {
	return rapid.Custom(func(t *rapid.T) []mailq.Recipient {
		queues := rapid.SliceOfN(rapid.StringN(1, 60, mailq.QueueNameMax), 1, 20).Draw(t, "queues")
		return rapid.SliceOfN(rapid.Custom(func(t *rapid.T) mailq.Recipient {
			return mailq.Recipient{
				Queue:     rapid.SampledFrom(queues).Draw(t, "queue"),
				Address:   rapid.StringN(0, 200, mailq.AddressMax).Draw(t, "address"),
				Note:      genBytes(40).Draw(t, "note"),
				NotBefore: genTime().Draw(t, "not before"),
			}
		}), 1, 60).Draw(t, "recipients")
	})
}

// checkRecipients compares the list of a record with what was put into it.
func checkRecipients(t *rapid.T, l *rcptList, want []mailq.Recipient) {
	var names []string
	l.QueueNames(func(i int, name []byte) {
		if i != len(names) {
			t.Fatalf("queue name %d came as number %d", i, len(names))
		}
		if slices.Contains(names, string(name)) {
			t.Fatalf("queue name %q is listed twice", name)
		}
		names = append(names, string(name))
	})
	if l.Len() != len(want) {
		t.Fatalf("%d recipients, want %d", l.Len(), len(want))
	}
	first := rapid.IntRange(0, len(want)).Draw(t, "first")
	next := first
	l.Addresses(first, func(i int, address, note []byte) bool {
		if i != next || string(address) != want[i].Address || !bytes.Equal(note, want[i].Note) {
			t.Fatalf("recipient %d: %d, %q, %q, want %q, %q", next, i, address, note, want[i].Address, want[i].Note)
		}
		next++
		return true
	})
	if next != len(want) {
		t.Fatalf("Addresses ended at %d of %d", next, len(want))
	}
	for i := range want {
		q, notBefore := l.Route(i)
		if names[q] != want[i].Queue || notBefore != Nanos(want[i].NotBefore) {
			t.Fatalf("route of %d: %q at %d", i, names[q], notBefore)
		}
	}
}

// roundTrip decodes what an encoder made, behind dirt and in front of it.
func roundTrip(t *rapid.T, size int, put func(b []byte, back int64) Record) Record {
	back := int64(rapid.Uint32().Draw(t, "back"))
	b := bytes.Repeat([]byte{0xcc}, size+8)
	made := put(b[:size], back)
	if len(made) != size || size%8 != 0 {
		t.Fatalf("the record has %d bytes, its size was said to be %d", len(made), size)
	}
	r, ok, err := DecodeRecord(b)
	if !ok || err != nil {
		t.Fatalf("not decoded: %v, %v", ok, err)
	}
	if !bytes.Equal(r, made) || cap(r) != len(r) {
		t.Fatal("decoded to other bytes")
	}
	if r.Back() != back || RecordLen(b) != int64(size) {
		t.Fatalf("back %d, want %d; length %d, want %d", r.Back(), back, RecordLen(b), size)
	}
	// What was in the buffer must not shine through: a record is a pure
	// function of its content.
	again := put(make([]byte, size), back)
	if !bytes.Equal(again, made) {
		t.Fatal("old bytes of the buffer are in the record")
	}
	return r
}

func TestEnqueueRoundTrip(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		m := mailq.Message{
			Key:        rapid.StringN(0, 100, mailq.KeyMax).Draw(t, "key"),
			Envelope:   genBytes(300).Draw(t, "envelope"),
			Recipients: genRecipients().Draw(t, "recipients"),
			Priority:   rapid.Int8().Draw(t, "priority"),
			ExpiresAt:  genTime().Draw(t, "expires"),
		}
		f := EnqueueFields{
			ID: rapid.Uint64Min(1).Draw(t, "id"), EnqueuedAt: rapid.Int64().Draw(t, "at"),
			BodyOff: int64(rapid.Uint32().Draw(t, "off")), BodyCRC: rapid.Uint32().Draw(t, "crc"),
		}
		if rapid.Bool().Draw(t, "chunked") {
			f.Chunks = rapid.SliceOfN(rapid.Custom(func(t *rapid.T) ChunkRef {
				return ChunkRef{Pos(rapid.Uint64().Draw(t, "pos")), rapid.Uint32Max(SizeMax).Draw(t, "len"), rapid.Uint32().Draw(t, "crc")}
			}), 1, 20).Draw(t, "chunks")
			for _, c := range f.Chunks {
				f.BodyLen += int64(c.Len)
			}
		} else {
			f.BodyLen = rapid.Int64Range(0, SizeMax).Draw(t, "len")
		}
		r := roundTrip(t, EnqueueSize(&m, len(f.Chunks)), func(b []byte, back int64) Record { return PutEnqueue(b, back, &m, &f) })
		e := r.Enqueue()
		if r.Kind() != KindEnqueue || r.ID() != f.ID || e.EnqueuedAt != f.EnqueuedAt || e.ExpiresAt != Nanos(m.ExpiresAt) ||
			e.BodyLen != f.BodyLen || e.BodyCRC != f.BodyCRC || e.Priority != m.Priority || r.MovedFrom() != 0 {
			t.Fatalf("got %+v of %v %x", e, r.Kind(), r.ID())
		}
		if string(e.Key()) != m.Key || !bytes.Equal(e.Envelope(), m.Envelope) {
			t.Fatalf("key %q, envelope %q", e.Key(), e.Envelope())
		}
		if e.Chunks() != len(f.Chunks) {
			t.Fatalf("%d chunks", e.Chunks())
		}
		for i := range f.Chunks {
			if e.Chunk(i) != f.Chunks[i] {
				t.Fatalf("chunk %d: %+v", i, e.Chunk(i))
			}
		}
		weight, off := int64(len(r)), int64(0)
		if len(f.Chunks) == 0 {
			weight, off = weight+f.BodyLen, f.BodyOff
		}
		if r.Weight() != weight || r.BodyOff() != off {
			t.Fatalf("weight %d, want %d; body at %d, want %d", r.Weight(), weight, r.BodyOff(), off)
		}
		checkRecipients(t, &e.rcptList, m.Recipients)
		checkMoved(t, r)
	})
}

func TestRecipientsRoundTrip(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		rcpts := genRecipients().Draw(t, "recipients")
		id := rapid.Uint64().Draw(t, "id")
		first := rapid.IntRange(0, RecipientsMax-len(rcpts)).Draw(t, "first index")
		r := roundTrip(t, RecipientsSize(rcpts), func(b []byte, back int64) Record { return PutRecipients(b, back, id, first, rcpts) })
		e := r.Recipients()
		if r.Kind() != KindRecipients || r.ID() != id || e.First != first || e.Chunks() != 0 || r.BodyOff() != 0 || r.Weight() != int64(len(r)) {
			t.Fatalf("got %v %x, first %d", r.Kind(), r.ID(), e.First)
		}
		checkRecipients(t, &e.rcptList, rcpts)
		checkMoved(t, r)
	})
}

func TestSettleRoundTrip(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		runs := rapid.SliceOfN(rapid.Custom(func(t *rapid.T) SettleRun {
			s := SettleRun{
				First:    rapid.IntRange(0, RecipientsMax-1).Draw(t, "first"),
				Result:   mailq.Result(rapid.IntRange(int(mailq.Delivered), int(mailq.Released)).Draw(t, "result")),
				Attempts: rapid.IntRange(0, AttemptsMax+5).Draw(t, "attempts"),
				Until:    rapid.Int64().Draw(t, "until"),
			}
			s.Count = rapid.IntRange(1, RecipientsMax-s.First).Draw(t, "count")
			if rapid.Bool().Draw(t, "with note") {
				s.Note = genBytes(mailq.NoteMax).Draw(t, "note")
			}
			return s
		}), 1, 12).Draw(t, "runs")
		id, at := rapid.Uint64().Draw(t, "id"), rapid.Int64().Draw(t, "at")
		r := roundTrip(t, SettleSize(runs), func(b []byte, back int64) Record { return PutSettle(b, back, id, at, runs) })
		if r.Kind() != KindSettle || r.ID() != id || r.SettleAt() != at || r.Weight() != int64(len(r)) {
			t.Fatalf("got %v %x at %d", r.Kind(), r.ID(), r.SettleAt())
		}
		i := 0
		r.Runs(func(s SettleRun) {
			want := runs[i]
			want.Attempts = min(want.Attempts, AttemptsMax)
			if (s.Note == nil) != (want.Note == nil) || !bytes.Equal(s.Note, want.Note) {
				t.Fatalf("run %d: note %v, want %v", i, s.Note, want.Note)
			}
			s.Note, want.Note = nil, nil
			if !reflect.DeepEqual(s, want) {
				t.Fatalf("run %d: %+v, want %+v", i, s, want)
			}
			i++
		})
		if i != len(runs) {
			t.Fatalf("%d runs of %d", i, len(runs))
		}
	})
}

func TestSmallRecordsRoundTrip(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		id, n64 := rapid.Uint64().Draw(t, "id"), rapid.Int64().Draw(t, "n")
		first := rapid.IntRange(0, RecipientsMax-1).Draw(t, "first")
		count := rapid.IntRange(1, RecipientsMax-first).Draw(t, "count")
		r := roundTrip(t, AttemptSize, func(b []byte, back int64) Record { return PutAttempt(b, back, id, first, count) })
		if f, c := r.AttemptRun(); r.Kind() != KindAttempt || r.ID() != id || f != first || c != count {
			t.Fatalf("attempt: %v %x %d %d", r.Kind(), r.ID(), f, c)
		}

		name := rapid.StringN(1, 100, mailq.QueueNameMax).Draw(t, "name")
		state := mailq.QueueState{
			Mode:       mailq.QueueMode(rapid.IntRange(0, int(mailq.Suspended)).Draw(t, "mode")),
			Doubt:      mailq.DoubtPolicy(rapid.IntRange(0, int(mailq.DeferDoubt)).Draw(t, "doubt")),
			DoubtDelay: time.Duration(n64),
		}
		r = roundTrip(t, QueueSize(name), func(b []byte, back int64) Record { return PutQueue(b, back, name, state) })
		if n, s := r.Queue(); r.Kind() != KindQueue || string(n) != name || s != state {
			t.Fatalf("queue: %v %q %+v", r.Kind(), n, s)
		}

		r = roundTrip(t, FlushSize(name), func(b []byte, back int64) Record { return PutFlush(b, back, name, n64) })
		if n, at := r.Flush(); r.Kind() != KindFlush || string(n) != name || at != n64 {
			t.Fatalf("flush: %v %q %d", r.Kind(), n, at)
		}

		seq, length, crc, off := rapid.Uint32().Draw(t, "seq"), rapid.Uint32().Draw(t, "len"), rapid.Uint32().Draw(t, "crc"), rapid.Uint32().Draw(t, "off")
		r = roundTrip(t, ChunkSize, func(b []byte, back int64) Record { return PutChunk(b, back, id, seq, int64(off), length, crc) })
		if s, l, c := r.Chunk(); r.Kind() != KindChunk || r.ID() != id || s != seq || l != length || c != crc || r.BodyOff() != int64(off) || r.BodyLen() != int64(length) {
			t.Fatalf("chunk: %v %x %d %d %d at %d", r.Kind(), r.ID(), s, l, c, r.BodyOff())
		}
		checkMoved(t, r)

		r = roundTrip(t, ForgetSize, func(b []byte, back int64) Record { return PutForget(b, back, id) })
		if r.Kind() != KindForget || r.Forget() != id {
			t.Fatalf("forget: %v %d", r.Kind(), r.Forget())
		}

		open := OpenInfo{Cut: n64, Clean: rapid.Bool().Draw(t, "clean"), Warm: rapid.Bool().Draw(t, "warm"), InDoubt: int64(id)}
		r = roundTrip(t, OpenSize, func(b []byte, back int64) Record { return PutOpen(b, back, open) })
		if r.Kind() != KindOpen || r.Open() != open {
			t.Fatalf("open: %v %+v, want %+v", r.Kind(), r.Open(), open)
		}

		number := uint32(rapid.IntRange(1, NumberMax).Draw(t, "number"))
		r = roundTrip(t, SealSize, func(b []byte, back int64) Record { return PutSeal(b, back, number, id) })
		if n, salt := r.Seal(); r.Kind() != KindSeal || n != number || salt != id {
			t.Fatalf("seal: %v %d %x", r.Kind(), n, salt)
		}
	})
}

// checkMoved copies a record twice: all but header and body offset is the original's.
func checkMoved(t *rapid.T, r Record) {
	orig := r
	for _, from := range []Pos{MakePos(3, 8192), MakePos(77, 4096+128)} {
		off := rapid.Uint32().Draw(t, "moved to")
		prev := r
		r = roundTrip(t, MovedSize(prev), func(b []byte, back int64) Record { return PutMoved(b, back, prev, from, int64(off)) })
		if r.MovedFrom() != from || r.Kind() != orig.Kind() || r.ID() != orig.ID() || len(r) != len(orig)+movedTrailer {
			t.Fatalf("copy of %v is %v, from %v", orig.Kind(), r.Kind(), r.MovedFrom())
		}
		e, owns := orig.body()
		g, still := r.body()
		if owns {
			e.off = int64(off)
		}
		if g != e || owns != still {
			t.Fatalf("the copy owns %+v, want %+v with the original's checksum", g, e)
		}
		a, b := slices.Clone(orig[16:]), slices.Clone(r[16:len(r)-movedTrailer])
		switch orig.Kind() {
		case KindEnqueue:
			clear(a[48-16 : 52-16])
			clear(b[48-16 : 52-16])
		case KindChunk:
			clear(a[32-16 : 36-16])
			clear(b[32-16 : 36-16])
		}
		if !bytes.Equal(a, b) {
			t.Fatal("the copy's payload is not the original's")
		}
	}
}

// touch calls every accessor that a reader of the record calls, and counts bytes so
// that nothing is optimized away.
func touch(r Record) (n int) {
	list := func(l *rcptList) {
		l.QueueNames(func(_ int, name []byte) { n += len(name) })
		l.Addresses(0, func(_ int, address, note []byte) bool { n += len(address) + len(note); return true })
		queues := 0
		l.QueueNames(func(int, []byte) { queues++ })
		for i := range l.Len() {
			if q, _ := l.Route(i); q < 0 || q >= queues {
				panic(fmt.Sprintf("recipient %d is in queue %d of %d", i, q, queues))
			}
		}
		for i := range l.Chunks() {
			n += int(l.Chunk(i).CRC & 1)
		}
	}
	switch r.Kind() {
	case KindEnqueue:
		e := r.Enqueue()
		list(&e.rcptList)
		n += len(e.Key()) + len(e.Envelope())
		if e.BodyLen < 0 {
			panic("a body of negative length")
		}
	case KindRecipients:
		e := r.Recipients()
		list(&e.rcptList)
		if e.First < 0 || e.First+e.Len() > RecipientsMax {
			panic("recipients out of range")
		}
	case KindSettle:
		r.Runs(func(s SettleRun) {
			n += len(s.Note)
			if s.First < 0 || s.Count <= 0 || s.First+s.Count > RecipientsMax {
				panic("run out of range")
			}
		})
		n += int(r.SettleAt() & 1)
	case KindAttempt:
		if first, count := r.AttemptRun(); first < 0 || count <= 0 || first+count > RecipientsMax {
			panic("run out of range")
		}
	case KindQueue:
		name, _ := r.Queue()
		n += len(name)
	case KindFlush:
		name, _ := r.Flush()
		n += len(name)
	case KindChunk:
		r.Chunk()
	case KindForget:
		r.Forget()
	case KindOpen:
		r.Open()
	case KindSeal:
		if number, _ := r.Seal(); number == 0 || number > NumberMax {
			panic("successor out of range")
		}
	}
	if r.Weight() < int64(len(r)) || r.BodyOff() < 0 || r.Back() < 0 || r.BodyLen() < 0 {
		panic("negative place")
	}
	r.ID()
	r.MovedFrom()
	return n
}

// everyKind is one record of each kind, and the moved copies.
func everyKind() []Record {
	m := &mailq.Message{Key: "key", Envelope: []byte("envelope"), Priority: -3, ExpiresAt: Time(1 << 60), Recipients: []mailq.Recipient{
		{Queue: "local", Address: "a", Note: []byte("n")}, {Queue: "smtp:example.org", Address: "b"}, {Queue: "local", NotBefore: Time(5)},
	}}
	mk := func(size int, put func([]byte) Record) Record { return put(make([]byte, size)) }
	list := []Record{
		mk(EnqueueSize(m, 0), func(b []byte) Record { return PutEnqueue(b, 128, m, &EnqueueFields{ID: 7, BodyLen: 100, BodyOff: 8}) }),
		mk(EnqueueSize(m, 2), func(b []byte) Record {
			return PutEnqueue(b, 128, m, &EnqueueFields{ID: 7, BodyLen: 30, Chunks: []ChunkRef{{1, 10, 2}, {3, 20, 4}}})
		}),
		mk(RecipientsSize(m.Recipients), func(b []byte) Record { return PutRecipients(b, 128, 7, 3, m.Recipients) }),
		mk(ChunkSize, func(b []byte) Record { return PutChunk(b, 128, 9, 1, 0, 512, 77) }),
	}
	for _, r := range list[:4:4] {
		list = append(list, mk(MovedSize(r), func(b []byte) Record { return PutMoved(b, 256, r, MakePos(1, 4224), 16) }))
	}
	runs := []SettleRun{{First: 0, Count: 1, Result: mailq.Deferred, Attempts: 1, Until: 99, Note: []byte("451 later")}, {First: 1, Count: 2, Result: mailq.Delivered}}
	return append(list,
		mk(SettleSize(runs), func(b []byte) Record { return PutSettle(b, 128, 7, 1, runs) }),
		mk(AttemptSize, func(b []byte) Record { return PutAttempt(b, 128, 7, 0, 2) }),
		mk(QueueSize("q"), func(b []byte) Record { return PutQueue(b, 128, "q", mailq.QueueState{Mode: mailq.HoldQueue}) }),
		mk(FlushSize("queue"), func(b []byte) Record { return PutFlush(b, 128, "queue", 5) }),
		mk(ForgetSize, func(b []byte) Record { return PutForget(b, 128, 5) }),
		mk(OpenSize, func(b []byte) Record { return PutOpen(b, 128, OpenInfo{Cut: 5, Warm: true}) }),
		mk(SealSize, func(b []byte) Record { return PutSeal(b, 128, 5, 6) }),
	)
}

func TestRecordRefusesEveryFlippedBitAndEveryTruncation(t *testing.T) {
	for _, r := range everyKind() {
		b := append(slices.Clone(r), make([]byte, 64)...)
		for i := range len(r) * 8 {
			b[i/8] ^= 1 << (i % 8)
			if _, ok, err := DecodeRecord(b); ok || err != nil {
				t.Errorf("%v with bit %d of byte %d flipped: ok %v, %v", r.Kind(), i%8, i/8, ok, err)
			}
			b[i/8] ^= 1 << (i % 8)
		}
		for n := range len(r) {
			if _, ok, err := DecodeRecord(r[:n:n]); ok || err != nil {
				t.Errorf("%v cut to %d bytes: ok %v, %v", r.Kind(), n, ok, err)
			}
			RecordLen(r[:n])
		}
	}
}

// TestRecordFieldsOutOfRange puts extreme values into every field of every kind of
// record, with a right checksum: what is not refused must be safe to read.
func TestRecordFieldsOutOfRange(t *testing.T) {
	extremes := []uint64{0, 1, 1<<15 - 1, 1 << 15, 1<<16 - 1, 1 << 20, 1<<20 + 1, 1<<28 - 1, 1 << 28, 1<<31 - 1, 1 << 31, 1<<32 - 24, 1<<32 - 1, 1 << 32, 1<<32 + 1, 1 << 62, 1<<63 - 1, 1 << 63, math.MaxUint64 - 7, math.MaxUint64}
	refused := 0
	for _, r := range everyKind() {
		for at := 0; at < len(r); at++ {
			for _, width := range []int{1, 2, 4, 8} {
				if at%width != 0 || at+width > len(r) {
					continue
				}
				for _, v := range extremes {
					b := slices.Clone(r)
					var field [8]byte
					le.PutUint64(field[:], v)
					copy(b[at:at+width], field[:])
					n := min(uint64(le.Uint32(b[4:])), uint64(len(b)))
					if n < RecordHeaderSize {
						continue // no room for a checksum
					}
					le.PutUint32(b[12:], recordCRC(b[:n]))
					d, ok, err := DecodeRecord(b)
					if !ok && d != nil {
						t.Fatalf("%v: refused and returned", r.Kind())
					}
					if ok {
						touch(d)
					} else if refused++; err != nil && !errors.Is(err, ErrVersion) {
						t.Fatalf("%v: %v", r.Kind(), err)
					}
				}
			}
		}
	}
	if refused < 1000 {
		t.Errorf("only %d refused", refused)
	}
}

func TestRecordRules(t *testing.T) {
	kinds := everyKind()
	find := func(k Kind, moved bool) Record {
		for _, r := range kinds {
			if r.Kind() == k && (r.MovedFrom() != 0) == moved {
				return slices.Clone(r)
			}
		}
		t.Fatalf("no %v", k)
		return nil
	}
	u32 := func(r Record, at int, v uint32) { binary.LittleEndian.PutUint32(r[at:], v) }
	u64 := func(r Record, at int, v uint64) { binary.LittleEndian.PutUint64(r[at:], v) }
	for _, c := range []struct {
		name    string
		kind    Kind
		moved   bool
		change  func(Record)
		ok      bool
		version bool
	}{
		{"kind 0", KindAttempt, false, func(r Record) { r[0] = 0 }, false, true},
		{"kind 11", KindAttempt, false, func(r Record) { r[0] = 11 }, false, true},
		{"kind 255", KindAttempt, false, func(r Record) { r[0] = 255 }, false, true},
		{"incompatible flag 1", KindEnqueue, false, func(r Record) { r[1] = 2 }, false, true},
		{"incompatible flag 2", KindEnqueue, false, func(r Record) { r[1] = 4 }, false, true},
		{"incompatible flag 3", KindEnqueue, false, func(r Record) { r[1] = 8 }, false, true},
		{"compatible flags", KindEnqueue, false, func(r Record) { r[1] = 0xf0 }, true, false},
		{"moved settle", KindSettle, false, func(r Record) { r[1] = 1 }, false, false},
		{"moved from 0", KindRecipients, true, func(r Record) { u64(r, len(r)-8, 0) }, false, false},
		{"no recipients", KindEnqueue, false, func(r Record) { u32(r, 68, 0) }, false, false},
		{"no queues", KindEnqueue, false, func(r Record) { u32(r, 64, 0) }, false, false},
		{"queue index too high", KindEnqueue, false, func(r Record) { u32(r, 80, 2) }, false, false},
		{"queue index negative in 32 bits", KindEnqueue, false, func(r Record) { u32(r, 80, 1<<31) }, false, false},
		{"queue name of no bytes", KindEnqueue, false, func(r Record) { r[80+3*rcptEntrySize] = 0 }, false, false},
		{"body of 2^63", KindEnqueue, false, func(r Record) { u64(r, 40, 1<<63) }, false, false},
		{"body longer than a segment", KindEnqueue, false, func(r Record) { u64(r, 40, SizeMax+1) }, false, false},
		{"body as long as a segment", KindEnqueue, false, func(r Record) { u64(r, 40, SizeMax) }, true, false},
		{"recipients up to the limit", KindRecipients, false, func(r Record) { u32(r, 24, RecipientsMax-3) }, true, false},
		{"recipients beyond the limit", KindRecipients, false, func(r Record) { u32(r, 24, RecipientsMax-2) }, false, false},
		{"no runs", KindSettle, false, func(r Record) { u32(r, 32, 0) }, false, false},
		{"run of none", KindSettle, false, func(r Record) { u32(r, 44, 0) }, false, false},
		{"run beyond the limit", KindSettle, false, func(r Record) { u32(r, 40, RecipientsMax) }, false, false},
		{"run that overflows", KindSettle, false, func(r Record) { u32(r, 40, 1<<31); u32(r, 44, 1<<31) }, false, false},
		{"result 0", KindSettle, false, func(r Record) { r[48] = 0 }, false, false},
		{"unknown result", KindSettle, false, func(r Record) { r[48] = byte(mailq.Released) + 1 }, false, false},
		{"note beyond the record", KindSettle, false, func(r Record) { r[52], r[53] = 255, 255 }, false, false},
		{"attempt of none", KindAttempt, false, func(r Record) { u32(r, 28, 0) }, false, false},
		{"attempt beyond the limit", KindAttempt, false, func(r Record) { u32(r, 24, RecipientsMax-1) }, false, false},
		{"queue without a name", KindQueue, false, func(r Record) { r[18] = 0 }, false, false},
		{"queue name beyond the record", KindQueue, false, func(r Record) { r[18] = 9 }, false, false},
		{"flush without a name", KindFlush, false, func(r Record) { u32(r, 24, 0) }, false, false},
		{"flush name beyond the record", KindFlush, false, func(r Record) { u32(r, 24, 13) }, false, false},
		{"successor 0", KindSeal, false, func(r Record) { u64(r, 16, 0) }, false, false},
		{"successor 2^32+5", KindSeal, false, func(r Record) { u64(r, 16, 1<<32+5) }, false, false},
	} {
		r := find(c.kind, c.moved)
		c.change(r)
		r.finish()
		d, ok, err := DecodeRecord(r)
		if ok != c.ok || errors.Is(err, ErrVersion) != c.version || (err != nil) != c.version {
			t.Errorf("%s: ok %v, %v", c.name, ok, err)
		}
		if ok {
			touch(d)
		}
		if errors.Is(err, ErrCorrupt) {
			t.Errorf("%s: %v is corruption too", c.name, err)
		}
	}
	chunked := slices.Clone(kinds[1])
	le.PutUint64(chunked[40:], 31)
	if _, ok, _ := DecodeRecord(chunked.finish()); ok {
		t.Error("a body of 31 bytes in chunks of 30 is accepted")
	}
}

func TestTimes(t *testing.T) {
	if Nanos(time.Time{}) != 0 || !Time(0).IsZero() {
		t.Error("the zero time is not 0")
	}
	now := time.Unix(1_700_000_000, 123)
	if !Time(Nanos(now)).Equal(now) {
		t.Error("a time changes")
	}
}

func TestKindNames(t *testing.T) {
	seen := map[string]bool{}
	for k := KindEnqueue; k <= KindSeal; k++ {
		s := k.String()
		if s == "" || seen[s] || s == fmt.Sprintf("Kind(%d)", k) {
			t.Errorf("kind %d is called %q", k, s)
		}
		seen[s] = true
	}
	if Kind(0).String() != "Kind(0)" || Kind(200).String() != "Kind(200)" {
		t.Error("unknown kinds have names")
	}
}

func TestHotPathDoesNotAllocate(t *testing.T) {
	m := simple("q0", nil)
	for i := range 30 {
		m.Recipients = append(m.Recipients, mailq.Recipient{Queue: fmt.Sprintf("q%d", i%fewQueues), Address: "x", Note: []byte("y")})
	}
	runs := []SettleRun{{First: 0, Count: 3, Result: mailq.Delivered}, {First: 4, Count: 1, Result: mailq.Deferred, Note: []byte("450")}}
	enq, set := make([]byte, EnqueueSize(m, 0)), make([]byte, SettleSize(runs))
	f := &EnqueueFields{ID: 1}
	g := newImage(1, 99, SizeMin)
	b := &batch{}
	b.enqueue(5, m)
	b.settle(5, runs...)
	h := g.frame(Data, b)
	raw := g.at(h)
	frame, ok, err := NewFrame(h, raw)
	if !ok || err != nil {
		t.Fatal(ok, err)
	}
	body, n := make([]byte, 4096), 0
	dst := make([]byte, FrameHeaderSize)
	for _, c := range []struct {
		name string
		f    func()
	}{
		{"EnqueueSize", func() { n += EnqueueSize(m, 0) }},
		{"PutEnqueue", func() { PutEnqueue(enq, 128, m, f) }},
		{"SettleSize", func() { n += SettleSize(runs) }},
		{"PutSettle", func() { PutSettle(set, 128, 5, 1, runs) }},
		{"PutAttempt", func() { PutAttempt(set[:AttemptSize], 128, 5, 1, 1) }},
		{"BodyCRC", func() { n += int(BodyCRC(7, body)) }},
		{"TableSum", func() { n += int(TableSum(1, 2, body)) }},
		{"FrameHeader.Encode", func() { h.Encode(dst) }},
		{"DecodeFrameHeader", func() { _, ok, _ = DecodeFrameHeader(&g.Header, 4096, raw) }},
		{"NewFrame", func() { _, ok, _ = NewFrame(h, raw) }},
		{"ForEach", func() { err = frame.ForEach(func(_ Pos, r Record) error { n += len(r); return nil }) }},
		{"Runs", func() { Record(set).Kind() }},
		{"Enqueue", func() {
			e := Record(enq).Enqueue()
			e.Addresses(0, func(_ int, a, _ []byte) bool { n += len(a); return true })
			e.QueueNames(func(i int, _ []byte) { n += i })
			n += len(e.Key()) + len(e.Envelope())
		}},
		{"Whole", func() { ok = frame.Whole() }},
	} {
		if a := testing.AllocsPerRun(100, c.f); a != 0 {
			t.Errorf("%s allocates %v times", c.name, a)
		}
	}
	if !ok || err != nil {
		t.Error(ok, err)
	}
}
