package segment

import (
	"time"

	"github.com/mtawal/mtawal/mailq"
)

func asDuration(v uint64) time.Duration { return time.Duration(v) }

// Nanos is a time as the log has it: Unix ns, 0 for the zero time.
func Nanos(t time.Time) int64 {
	if t.IsZero() {
		return 0
	}
	return t.UnixNano()
}

// Time is the inverse of Nanos.
func Time(ns int64) time.Time {
	if ns == 0 {
		return time.Time{}
	}
	return time.Unix(0, ns)
}

func pad8(n int) int { return (n + 7) &^ 7 }

// begin writes the record header, without the CRC, and returns the record. What
// is behind the header must be overwritten or zero; begin clears the last 8 bytes.
func begin(b []byte, k Kind, size int, back int64) Record {
	r := Record(b[:size:size])
	le.PutUint64(r[size-8:], 0)
	r[0], r[1], r[2], r[3] = byte(k), 0, 0, 0
	le.PutUint32(r[4:], uint32(size))
	le.PutUint32(r[8:], uint32(back))
	return r
}

func (r Record) finish() Record {
	le.PutUint32(r[12:], recordCRC(r))
	return r
}

// queueIndex finds the distinct queues of a list of recipients, in the order in which
// they first appear. Short lists are searched; only long ones cost a map.
type queueIndex struct {
	by   map[string]uint32
	last uint32
}

// fewQueues is how many queues are searched. The names are the caller's, so
// that so many of them stay on its stack.
const fewQueues = 8

// add returns the names with this one among them, and its index.
func (q *queueIndex) add(names []string, name string) ([]string, uint32) {
	if len(names) > 0 && names[q.last] == name {
		return names, q.last
	}
	if q.by == nil {
		for i, n := range names {
			if n == name {
				q.last = uint32(i)
				return names, q.last
			}
		}
		if len(names) == fewQueues {
			q.by = make(map[string]uint32, 2*fewQueues)
			for i, n := range names {
				q.by[n] = uint32(i)
			}
		}
	}
	if q.by != nil {
		if i, ok := q.by[name]; ok {
			q.last = i
			return names, i
		}
		q.by[name] = uint32(len(names))
	}
	q.last = uint32(len(names))
	return append(names, name), q.last
}

func listSize(rcpts []mailq.Recipient) int {
	var q queueIndex
	var few [fewQueues]string
	names := few[:0]
	n := len(rcpts) * rcptEntrySize
	for i := range rcpts {
		r := &rcpts[i]
		n += len(r.Address) + len(r.Note)
		have := len(names)
		if names, _ = q.add(names, r.Queue); len(names) > have {
			n += 1 + len(r.Queue)
		}
	}
	return n
}

// EnqueueSize is the size of the record for a message with so many chunks.
func EnqueueSize(m *mailq.Message, chunks int) int {
	return pad8(80 + listSize(m.Recipients) + chunks*chunkEntrySize + len(m.Key) + len(m.Envelope))
}

// EnqueueFields are the fields of an Enqueue record beside those of the message.
type EnqueueFields struct {
	ID         uint64
	EnqueuedAt int64
	BodyLen    int64
	BodyOff    int64
	BodyCRC    uint32
	Late       uint32
	Chunks     []ChunkRef
}

// PutEnqueue writes the record for m to the start of b, which has EnqueueSize
// bytes.
func PutEnqueue(b []byte, back int64, m *mailq.Message, f *EnqueueFields) Record {
	r := begin(b, KindEnqueue, len(b), back)
	le.PutUint64(r[16:], f.ID)
	le.PutUint64(r[24:], uint64(f.EnqueuedAt))
	le.PutUint64(r[32:], uint64(Nanos(m.ExpiresAt)))
	le.PutUint64(r[40:], uint64(f.BodyLen))
	le.PutUint32(r[48:], uint32(f.BodyOff))
	le.PutUint32(r[52:], f.BodyCRC)
	r[56], r[57], r[58], r[59] = byte(m.Priority), byte(len(m.Key)), 0, 0
	le.PutUint32(r[60:], uint32(len(m.Envelope)))
	le.PutUint32(r[68:], uint32(len(m.Recipients)))
	le.PutUint32(r[72:], uint32(len(f.Chunks)))
	le.PutUint32(r[76:], f.Late)
	queues := putList(r, 80, m.Recipients, f.Chunks, m.Key, m.Envelope)
	le.PutUint32(r[64:], queues)
	return r.finish()
}

// RecipientsSize is the size of a KindRecipients record.
func RecipientsSize(rcpts []mailq.Recipient) int { return pad8(40 + listSize(rcpts)) }

// PutRecipients writes a record that adds recipients from index first on.
func PutRecipients(b []byte, back int64, id uint64, first int, rcpts []mailq.Recipient) Record {
	r := begin(b, KindRecipients, len(b), back)
	le.PutUint64(r[16:], id)
	le.PutUint32(r[24:], uint32(first))
	le.PutUint32(r[32:], uint32(len(rcpts)))
	le.PutUint32(r[36:], 0)
	queues := putList(r, 40, rcpts, nil, "", nil)
	le.PutUint32(r[28:], queues)
	return r.finish()
}

func putList(r Record, fixed int, rcpts []mailq.Recipient, chunks []ChunkRef, key string, envelope []byte) (queues uint32) {
	var q queueIndex
	var few [fewQueues]string
	names := few[:0]
	at := fixed
	for i := range rcpts {
		e := r[at:]
		var queue uint32
		names, queue = q.add(names, rcpts[i].Queue)
		le.PutUint32(e, queue)
		le.PutUint16(e[4:], uint16(len(rcpts[i].Address)))
		le.PutUint16(e[6:], uint16(len(rcpts[i].Note)))
		le.PutUint64(e[8:], uint64(Nanos(rcpts[i].NotBefore)))
		at += rcptEntrySize
	}
	for _, c := range chunks {
		e := r[at:]
		le.PutUint64(e, uint64(c.Pos))
		le.PutUint32(e[8:], c.Len)
		le.PutUint32(e[12:], c.CRC)
		at += chunkEntrySize
	}
	for _, name := range names {
		r[at] = byte(len(name))
		at += 1 + copy(r[at+1:], name)
	}
	at += copy(r[at:], key)
	at += copy(r[at:], envelope)
	for i := range rcpts {
		at += copy(r[at:], rcpts[i].Address)
		at += copy(r[at:], rcpts[i].Note)
	}
	return uint32(len(names))
}

// SettleSize is the size of a settle record.
func SettleSize(runs []SettleRun) int {
	n := 40 + len(runs)*settleEntrySize
	for i := range runs {
		n += len(runs[i].Note)
	}
	return pad8(n)
}

// PutSettle writes the outcomes for one message. A note that is not nil, even an
// empty one, replaces the recipient's.
func PutSettle(b []byte, back int64, id uint64, at int64, runs []SettleRun) Record {
	r := begin(b, KindSettle, len(b), back)
	le.PutUint64(r[16:], id)
	le.PutUint64(r[24:], uint64(at))
	le.PutUint32(r[32:], uint32(len(runs)))
	le.PutUint32(r[36:], 0)
	notes := 40 + len(runs)*settleEntrySize
	for i := range runs {
		s, e := &runs[i], r[40+i*settleEntrySize:]
		le.PutUint32(e, uint32(s.First))
		le.PutUint32(e[4:], uint32(s.Count))
		e[8], e[9] = byte(s.Result), 0
		if s.Note != nil {
			e[9] = noteFlag
		}
		if s.Edit {
			e[9] |= editFlag
		}
		le.PutUint16(e[10:], uint16(min(s.Attempts, AttemptsMax)))
		le.PutUint16(e[12:], uint16(len(s.Note)))
		le.PutUint16(e[14:], 0)
		le.PutUint64(e[16:], uint64(s.Until))
		notes += copy(r[notes:], s.Note)
	}
	return r.finish()
}

// AttemptSize is the size of an Attempt record.
const AttemptSize = 32

// PutAttempt writes that delivery to a run of recipients was started.
func PutAttempt(b []byte, back int64, id uint64, first, count int) Record {
	r := begin(b, KindAttempt, AttemptSize, back)
	le.PutUint64(r[16:], id)
	le.PutUint32(r[24:], uint32(first))
	le.PutUint32(r[28:], uint32(count))
	return r.finish()
}

// QueueSize is the size of a KindQueue record.
func QueueSize(name string) int { return pad8(32 + len(name)) }

// PutQueue writes the state of a queue.
func PutQueue(b []byte, back int64, name string, s mailq.QueueState) Record {
	r := begin(b, KindQueue, len(b), back)
	r[16], r[17] = byte(s.Mode), byte(s.Doubt)
	le.PutUint16(r[18:], uint16(len(name)))
	le.PutUint32(r[20:], 0)
	le.PutUint64(r[24:], uint64(s.DoubtDelay))
	copy(r[32:], name)
	return r.finish()
}

// FlushSize is the size of a KindFlush record.
func FlushSize(name string) int { return pad8(28 + len(name)) }

// PutFlush writes that a queue was flushed.
func PutFlush(b []byte, back int64, name string, at int64) Record {
	r := begin(b, KindFlush, len(b), back)
	le.PutUint64(r[16:], uint64(at))
	le.PutUint32(r[24:], uint32(len(name)))
	copy(r[28:], name)
	return r.finish()
}

// ChunkSize is the size of a Chunk record.
const ChunkSize = 40

// PutChunk writes the record of a chunk that stands at off in the body area.
func PutChunk(b []byte, back int64, stream uint64, sequence uint32, off int64, length, crc uint32) Record {
	r := begin(b, KindChunk, ChunkSize, back)
	le.PutUint64(r[16:], stream)
	le.PutUint32(r[24:], sequence)
	le.PutUint32(r[28:], length)
	le.PutUint32(r[32:], uint32(off))
	le.PutUint32(r[36:], crc)
	return r.finish()
}

// ForgetSize is the size of a KindForget record.
const ForgetSize = 24

// PutForget writes that the oldest keys were dropped.
func PutForget(b []byte, back int64, count uint64) Record {
	r := begin(b, KindForget, ForgetSize, back)
	le.PutUint64(r[16:], count)
	return r.finish()
}

// OpenSize is the size of a KindOpen record.
const OpenSize = 40

// PutOpen writes how the log was found.
func PutOpen(b []byte, back int64, o OpenInfo) Record {
	r := begin(b, KindOpen, OpenSize, back)
	le.PutUint64(r[16:], uint64(o.Cut))
	var flags uint64
	if o.Clean {
		flags |= 1
	}
	if o.Warm {
		flags |= 2
	}
	le.PutUint64(r[24:], flags)
	le.PutUint64(r[32:], uint64(o.InDoubt))
	return r.finish()
}

// SealSize is the size of a KindSeal record.
const SealSize = 32

// PutSeal names the successor.
func PutSeal(b []byte, back int64, number uint32, salt uint64) Record {
	r := begin(b, KindSeal, SealSize, back)
	le.PutUint64(r[16:], uint64(number))
	le.PutUint64(r[24:], salt)
	return r.finish()
}

// MovedSize is the size of a moved copy of a record.
func MovedSize(r Record) int { return r.payloadEnd() + movedTrailer }

// PutMoved writes a copy of a record that stood at from and is held by a message, for a
// place where its body is at off in the body area. What it carries, checksums included, is
// the original's.
func PutMoved(b []byte, back int64, r Record, holder uint64, from Pos, off int64) Record {
	size := MovedSize(r)
	c := begin(b, r.Kind(), size, back)
	copy(c[16:size-movedTrailer], r[16:r.payloadEnd()])
	c[1] = r[1] | flagMoved
	if r.Kind() == KindChunk {
		le.PutUint32(c[32:], uint32(off))
	} else if r.Kind() == KindEnqueue {
		le.PutUint32(c[48:], uint32(off))
	}
	le.PutUint64(c[size-movedTrailer:], holder)
	le.PutUint64(c[size-8:], uint64(from))
	return c.finish()
}
