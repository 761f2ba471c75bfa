package segment

import (
	"encoding/binary"
	"errors"
	"fmt"
	"math"
	"slices"
	"testing"

	"github.com/mtawal/mtawal/mailq"
)

// touch calls every accessor that a reader of the record calls, and counts bytes so
// that nothing is optimized away.
func touch(r Record) (n int) {
	list := func(l *RecipientList) {
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
		list(&e.RecipientList)
		n += len(e.Key()) + len(e.Envelope())
		if e.BodyLen < 0 {
			panic("a body of negative length")
		}
	case KindRecipients:
		e := r.Recipients()
		list(&e.RecipientList)
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
	own := int64(len(r))
	if r.MovedFrom() != 0 {
		own -= movedTrailer // the original has none
	}
	if r.Weight() < own || r.BodyOff() < 0 || r.Back() < 0 || r.BodyLen() < 0 {
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
		list = append(list, mk(MovedSize(r), func(b []byte) Record { return PutMoved(b, 256, r, r.ID(), MakePos(1, 4224), 16) }))
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
		{"moved and held by another", KindEnqueue, true, func(r Record) { u64(r, len(r)-16, r.ID()+1) }, false, false},
		{"moved chunk", KindChunk, true, func(r Record) { u64(r, len(r)-16, r.ID()+1) }, true, false},
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
		{"queue in the last known state", KindQueue, false, func(r Record) { r[16], r[17] = 2, 2 }, true, false},
		{"queue in an unknown mode", KindQueue, false, func(r Record) { r[16] = 3 }, false, false},
		{"queue of an unknown policy", KindQueue, false, func(r Record) { r[17] = 3 }, false, false},
		{"queue of a negative delay", KindQueue, false, func(r Record) { u64(r, 24, 1<<63) }, false, false},
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
	for _, n := range []int{mailq.NoteMax, mailq.NoteMax + 1} {
		runs := []SettleRun{{Count: 1, Result: mailq.Deferred, Note: make([]byte, n)}}
		if _, ok, err := DecodeRecord(PutSettle(make([]byte, SettleSize(runs)), 128, 1, 1, runs)); ok != (n <= mailq.NoteMax) || err != nil {
			t.Errorf("a note of %d bytes: %v, %v", n, ok, err)
		}
	}
	chunked := slices.Clone(kinds[1])
	le.PutUint64(chunked[40:], 31)
	if _, ok, _ := DecodeRecord(chunked.finish()); ok {
		t.Error("a body of 31 bytes in chunks of 30 is accepted")
	}
}
