package segment

import (
	"bytes"
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
func checkRecipients(t *rapid.T, l *RecipientList, want []mailq.Recipient) {
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
			Late: rapid.Uint32().Draw(t, "late"),
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
			e.BodyLen != f.BodyLen || e.BodyCRC != f.BodyCRC || e.Late != f.Late || e.Priority != m.Priority || r.MovedFrom() != 0 {
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
		checkRecipients(t, &e.RecipientList, m.Recipients)
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
		checkRecipients(t, &e.RecipientList, rcpts)
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
				Edit:     rapid.Bool().Draw(t, "edit"),
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
			DoubtDelay: time.Duration(n64 & math.MaxInt64),
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
	r = slices.Clone(r)
	r[1] |= byte(rapid.IntRange(0, 15).Draw(t, "flags that later versions may set")) << 4
	r.finish()
	orig := r
	holder := r.ID()
	if r.Kind() == KindChunk {
		holder = rapid.Uint64().Draw(t, "holder")
	}
	for _, from := range []Pos{MakePos(3, 8192), MakePos(77, 4096+128)} {
		off := rapid.Uint32().Draw(t, "moved to")
		prev := r
		r = roundTrip(t, MovedSize(prev), func(b []byte, back int64) Record { return PutMoved(b, back, prev, holder, from, int64(off)) })
		if r.MovedFrom() != from || r[1] != orig[1]|flagMoved || r.Kind() != orig.Kind() || r.ID() != orig.ID() || r.Holder() != holder || len(r) != len(orig)+movedTrailer {
			t.Fatalf("copy of %v is %v, from %v", orig.Kind(), r.Kind(), r.MovedFrom())
		}
		if r.Weight() != orig.Weight() {
			t.Fatalf("the copy weighs %d, its original %d", r.Weight(), orig.Weight())
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
