package segment

import (
	"fmt"

	"github.com/mtawal/mtawal/mailq"
)

// Kind is the kind of a record.
type Kind uint8

// The kinds of records. Payload offsets count from the start of the record.
const (
	// KindEnqueue is a message with its recipients.
	//
	//	16 ID u64
	//	24 enqueued at i64, expires at i64 (Unix ns; 0: never)
	//	40 body length u64              with chunks the sum of theirs, else SizeMax at most
	//	48 body offset u32, body CRC u32
	//	56 priority i8, key length u8, zeros u16
	//	60 envelope length u32
	//	64 queue count u32
	//	68 recipient count u32
	//	72 chunk count u32              with chunks, the body is all theirs
	//	76 late u32                     place in the order of commits: ID plus late; 0 where the ID was given at commit
	//	80 recipients, 16 bytes each: queue u32 (index into the list below),
	//	   address length u16, note length u16, not before i64
	//	.. chunks, 16 bytes each: position u64, length u32, CRC u32
	//	.. queue names, each a length u8, not 0, and its bytes
	//	.. key, envelope, then address and note of each recipient
	KindEnqueue Kind = 1
	// KindSettle is outcomes for recipients of one message.
	//
	//	16 ID u64
	//	24 at i64
	//	32 count u32, zeros u32
	//	40 runs, 24 bytes each: first u32, count u32, result u8, flags u8 (bit 0: the
	//	   note is replaced; bit 1: an edit), attempts u16, note length u16, zeros u16, until i64
	//	.. notes
	KindSettle Kind = 2
	// KindAttempt says that delivery of a run of recipients has been started.
	//
	//	16 ID u64
	//	24 first u32, count u32
	KindAttempt Kind = 3
	// KindRecipients adds recipients to a message, behind those it has.
	//
	//	16 ID u64
	//	24 first index u32
	//	28 queue count u32
	//	32 recipient count u32, zeros u32
	//	40 recipients, queue names, addresses and notes, as in KindEnqueue
	KindRecipients Kind = 4
	// KindQueue is the durable state of a queue.
	//
	//	16 mode u8 (0 to 2), doubt policy u8 (0 to 2), name length u16 (1 to 255), zeros u32
	//	24 doubt delay i64 (ns, not negative)
	//	32 name
	KindQueue Kind = 5
	// KindFlush makes what is deferred in a queue, and due later than at, due at.
	//
	//	16 at i64
	//	24 name length u32 (1 to 255)
	//	28 name
	KindFlush Kind = 6
	// KindChunk is a piece of a body that is longer than one frame takes, or
	// that came before its message.
	//
	//	16 stream u64
	//	24 sequence u32, length u32
	//	32 body offset u32, CRC u32
	KindChunk Kind = 7
	// KindForget drops the oldest keys from the window of idempotency keys.
	//
	//	16 count u64
	KindForget Kind = 8
	// KindOpen is in the Open frame: how the log was found.
	//
	//	16 cut bytes u64                what was cut behind the frame before
	//	24 flags u8 (bit 0: a Close had preceded; bit 1: the page cache had survived), zeros
	//	32 in doubt u64                 recipients found started and not settled
	KindOpen Kind = 9
	// KindSeal is in the Seal frame.
	//
	//	16 successor's number u64
	//	24 successor's salt u64
	KindSeal Kind = 10
)

var kindNames = [...]string{
	KindEnqueue: "enqueue", KindSettle: "settle", KindAttempt: "attempt", KindRecipients: "recipients",
	KindQueue: "queue", KindFlush: "flush", KindChunk: "chunk", KindForget: "forget", KindOpen: "open", KindSeal: "seal",
}

// String returns the kind in a word.
func (k Kind) String() string {
	if k > 0 && int(k) < len(kindNames) {
		return kindNames[k]
	}
	return fmt.Sprintf("Kind(%d)", uint8(k))
}

const (
	flagMoved       = 1 << 0
	flagsIncompat   = 0x0f &^ flagMoved
	movedTrailer    = 16
	rcptEntrySize   = 16
	chunkEntrySize  = 16
	settleEntrySize = 24
	noteFlag        = 1 << 0
	editFlag        = 1 << 1
)

// Limits of records.
const (
	// RecipientsMax bounds the recipients of one message over its life.
	RecipientsMax = 1 << 20
	// ChunksMax bounds the chunks of one body.
	ChunksMax = 1 << 16
	// AttemptsMax is where the count of attempts stops.
	AttemptsMax = 1<<16 - 1
)

// Record is the bytes of one record, a view. Those that come out of Frame.ForEach
// and DecodeRecord are well formed: every method is safe on them.
type Record []byte

// Kind of the record.
func (r Record) Kind() Kind { return Kind(r[0]) }

// Back is the distance from the start of the frame to the record.
func (r Record) Back() int64 { return int64(le.Uint32(r[8:])) }

// MovedFrom is the position that the record was copied from, or 0.
func (r Record) MovedFrom() Pos {
	if r[1]&flagMoved == 0 {
		return 0
	}
	return Pos(le.Uint64(r[len(r)-8:]))
}

// Holder is the ID of the message that holds the original of a moved record.
func (r Record) Holder() uint64 { return le.Uint64(r[len(r)-movedTrailer:]) }

// DecodeRecord cuts a record out of bytes that begin with it and checks its
// own CRC: for reading one record without its frame. ok is false if no valid
// record stands there.
func DecodeRecord(b []byte) (Record, bool, error) {
	if len(b) < RecordHeaderSize {
		return nil, false, nil
	}
	n := le.Uint32(b[4:])
	if n < RecordHeaderSize || n%8 != 0 || uint64(n) > uint64(len(b)) || recordCRC(b[:n]) != le.Uint32(b[12:]) {
		return nil, false, nil
	}
	r, err := decodeRecord(b)
	return r, r != nil && err == nil, err
}

// RecordLen is the length that the record beginning with these bytes claims to
// have. It is not to be trusted.
func RecordLen(b []byte) int64 {
	if len(b) < RecordHeaderSize {
		return 0
	}
	return int64(le.Uint32(b[4:]))
}

func recordCRC(r []byte) uint32 { return CRCUpdate(CRC(r[:12]), r[16:]) }

// decodeRecord cuts the record at the start of b and checks its structure. nil
// without an error: malformed.
func decodeRecord(b []byte) (Record, error) {
	if len(b) < RecordHeaderSize {
		return nil, nil
	}
	n := le.Uint32(b[4:])
	if n < RecordHeaderSize || n%8 != 0 || uint64(n) > uint64(len(b)) {
		return nil, nil
	}
	r := Record(b[:n:n])
	k := r.Kind()
	if k < KindEnqueue || k > KindSeal || r[1]&flagsIncompat != 0 {
		return nil, fmt.Errorf("record kind %d, flags %#x: %w", r[0], r[1], ErrVersion)
	}
	if !r.wellFormed() {
		return nil, nil
	}
	return r, nil
}

// payloadEnd is where the payload ends at the latest.
func (r Record) payloadEnd() int {
	if r[1]&flagMoved != 0 {
		return len(r) - movedTrailer
	}
	return len(r)
}

var minLen = [...]int{
	KindEnqueue: 80, KindSettle: 40, KindAttempt: 32, KindRecipients: 40,
	KindQueue: 32, KindFlush: 28, KindChunk: 40, KindForget: 24, KindOpen: 40, KindSeal: 32,
}

func (r Record) wellFormed() bool {
	end := r.payloadEnd()
	if end < minLen[r.Kind()] {
		return false
	}
	if r[1]&flagMoved != 0 {
		switch r.Kind() {
		case KindEnqueue, KindRecipients, KindChunk:
		default:
			return false
		}
		if r.MovedFrom() == 0 {
			return false // it would be taken for an original
		}
		if r.Kind() != KindChunk && r.Holder() != r.ID() {
			return false
		}
	}
	room := uint64(end)
	switch r.Kind() {
	case KindEnqueue, KindRecipients:
		l := r.list()
		return l.wellFormed(room) && (r.Kind() != KindEnqueue || l.holdsBody(le.Uint64(r[40:])))
	case KindSettle:
		n := uint64(le.Uint32(r[32:]))
		need := 40 + n*settleEntrySize
		if n == 0 || need > room {
			return false
		}
		for i := range int(n) {
			e := r[40+i*settleEntrySize:]
			res := mailq.Result(e[8])
			if le.Uint32(e[4:]) == 0 || uint64(le.Uint32(e))+uint64(le.Uint32(e[4:])) > RecipientsMax ||
				res < mailq.Delivered || res > mailq.Released {
				return false
			}
			note := uint64(le.Uint16(e[12:]))
			if note > mailq.NoteMax {
				return false // a checkpoint would not take it
			}
			need += note
		}
		return need <= room
	case KindAttempt:
		return le.Uint32(r[28:]) > 0 && uint64(le.Uint32(r[24:]))+uint64(le.Uint32(r[28:])) <= RecipientsMax
	case KindQueue:
		n := uint64(le.Uint16(r[18:]))
		// A queue in a state that nobody knows would hand out what it must not.
		return n > 0 && n <= mailq.QueueNameMax && 32+n <= room && KnownQueueState(r.queueState())
	case KindFlush:
		n := uint64(le.Uint32(r[24:]))
		return n > 0 && n <= mailq.QueueNameMax && 28+n <= room
	case KindSeal:
		n := le.Uint64(r[16:])
		return n > 0 && n <= NumberMax
	}
	return true
}

// ID of the message that the record is about, the stream of a chunk.
func (r Record) ID() uint64 { return le.Uint64(r[16:]) }

// RecipientList is the part that KindEnqueue and KindRecipients share: a view.
type RecipientList struct {
	r                     Record
	fixed                 int // where the entries begin
	rcpts, queues, chunks int
	keyLen, envLen        int
	chunksAt, namesAt     int
}

func (r Record) list() RecipientList {
	l := RecipientList{r: r}
	var rcpts, queues, chunks, env uint64
	if r.Kind() == KindEnqueue {
		l.fixed = 80
		l.keyLen = int(r[57])
		env = uint64(le.Uint32(r[60:]))
		queues = uint64(le.Uint32(r[64:]))
		rcpts = uint64(le.Uint32(r[68:]))
		chunks = uint64(le.Uint32(r[72:]))
	} else {
		l.fixed = 40
		queues = uint64(le.Uint32(r[28:]))
		rcpts = uint64(le.Uint32(r[32:]))
	}
	const sane = 1 << 30 // keeps the sums below from overflowing an int32
	l.rcpts, l.queues, l.chunks, l.envLen = int(min(rcpts, sane)), int(min(queues, sane)), int(min(chunks, sane)), int(min(env, sane))
	if rcpts <= RecipientsMax && chunks <= ChunksMax {
		l.chunksAt = l.fixed + l.rcpts*rcptEntrySize
		l.namesAt = l.chunksAt + l.chunks*chunkEntrySize
	}
	return l
}

func (l *RecipientList) wellFormed(room uint64) bool {
	if l.rcpts == 0 || l.rcpts > RecipientsMax || l.chunks > ChunksMax || l.queues == 0 || l.queues > l.rcpts {
		return false
	}
	if uint64(l.namesAt) > room {
		return false
	}
	at := uint64(l.namesAt)
	for range l.queues {
		if at >= room || l.r[at] == 0 {
			return false
		}
		at += 1 + uint64(l.r[at])
	}
	at += uint64(l.keyLen) + uint64(l.envLen)
	for i := range l.rcpts {
		e := l.r[l.fixed+i*rcptEntrySize:]
		if le.Uint32(e) >= uint32(l.queues) {
			return false
		}
		at += uint64(le.Uint16(e[4:])) + uint64(le.Uint16(e[6:]))
		if at > room {
			return false
		}
	}
	if l.fixed == 40 && uint64(le.Uint32(l.r[24:]))+uint64(l.rcpts) > RecipientsMax {
		return false
	}
	return at <= room
}

// holdsBody reports whether a body can be so long: as long as its chunks, or, in
// one piece, no longer than a segment.
func (l *RecipientList) holdsBody(length uint64) bool {
	if l.chunks == 0 {
		return length <= SizeMax
	}
	var sum uint64
	for i := range l.chunks {
		n := uint64(l.Chunk(i).Len)
		if n > SizeMax {
			return false
		}
		sum += n
	}
	return sum == length
}

// EnqueueRecord is a view of a KindEnqueue record.
type EnqueueRecord struct {
	RecipientList
	EnqueuedAt, ExpiresAt int64
	BodyLen               int64
	BodyCRC               uint32
	Late                  uint32
	Priority              int8
}

// Enqueue views a record of KindEnqueue.
func (r Record) Enqueue() EnqueueRecord {
	return EnqueueRecord{
		RecipientList: r.list(),
		EnqueuedAt:    int64(le.Uint64(r[24:])),
		ExpiresAt:     int64(le.Uint64(r[32:])),
		BodyLen:       int64(le.Uint64(r[40:])),
		BodyCRC:       le.Uint32(r[52:]),
		Late:          le.Uint32(r[76:]),
		Priority:      int8(r[56]),
	}
}

// BodyOff is the offset of the bytes that the record owns in the body area of its
// frame, 0 if it owns none.
func (r Record) BodyOff() int64 {
	e, _ := r.body()
	return e.off
}

// RecipientsRecord is a view of a KindRecipients record.
type RecipientsRecord struct {
	RecipientList
	First int
}

// Recipients views a record of KindRecipients.
func (r Record) Recipients() RecipientsRecord {
	return RecipientsRecord{RecipientList: r.list(), First: int(le.Uint32(r[24:]))}
}

// Len is the number of recipients.
func (l *RecipientList) Len() int { return l.rcpts }

// Route is the queue of a recipient, as an index for QueueNames, and its time.
func (l *RecipientList) Route(i int) (queue int, notBefore int64) {
	e := l.r[l.fixed+i*rcptEntrySize:]
	return int(le.Uint32(e)), int64(le.Uint64(e[8:]))
}

// QueueNames calls fn with the names of the queues in the order of their
// indexes.
func (l *RecipientList) QueueNames(fn func(i int, name []byte)) {
	at := l.namesAt
	for i := range l.queues {
		n := int(l.r[at])
		fn(i, l.r[at+1:at+1+n])
		at += 1 + n
	}
}

func (l *RecipientList) stringsAt() int {
	at := l.namesAt
	for range l.queues {
		at += 1 + int(l.r[at])
	}
	return at
}

// Key is the idempotency key, empty if there is none.
func (l *RecipientList) Key() []byte {
	at := l.stringsAt()
	return l.r[at : at+l.keyLen]
}

// Envelope of the message.
func (l *RecipientList) Envelope() []byte {
	at := l.stringsAt() + l.keyLen
	return l.r[at : at+l.envLen]
}

// Addresses calls fn with address and first note of the recipients from first
// on, until it returns false. It takes time in proportion to the last index.
func (l *RecipientList) Addresses(first int, fn func(i int, address, note []byte) bool) {
	at := l.stringsAt() + l.keyLen + l.envLen
	for i := range l.rcpts {
		e := l.r[l.fixed+i*rcptEntrySize:]
		a, n := int(le.Uint16(e[4:])), int(le.Uint16(e[6:]))
		if i >= first && !fn(i, l.r[at:at+a], l.r[at+a:at+a+n]) {
			return
		}
		at += a + n
	}
}

// ChunkRef is a chunk as an Enqueue record names it.
type ChunkRef struct {
	Pos Pos // of the Chunk record
	Len uint32
	CRC uint32
}

// Chunks is the number of chunks that hold the body; 0: it is in the frame.
func (l *RecipientList) Chunks() int { return l.chunks }

// Chunk is the i-th of them.
func (l *RecipientList) Chunk(i int) ChunkRef {
	e := l.r[l.chunksAt+i*chunkEntrySize:]
	return ChunkRef{Pos: Pos(le.Uint64(e)), Len: le.Uint32(e[8:]), CRC: le.Uint32(e[12:])}
}

// SettleRun is an outcome for a run of recipients.
type SettleRun struct {
	First, Count int
	Result       mailq.Result
	Attempts     int // made so far, absolute
	Until        int64
	Note         []byte // nil: keep the one there is
	// Edit: not the outcome of an attempt. One that is under way goes on, and the count of
	// attempts stays as it is.
	Edit bool
}

// SettleAt is the time of a settle record, Unix ns.
func (r Record) SettleAt() int64 { return int64(le.Uint64(r[24:])) }

// Runs calls fn with the outcomes of a settle record.
func (r Record) Runs(fn func(SettleRun)) {
	n := int(le.Uint32(r[32:]))
	notes := r[40+n*settleEntrySize:]
	for i := range n {
		e := r[40+i*settleEntrySize:]
		s := SettleRun{
			First: int(le.Uint32(e)), Count: int(le.Uint32(e[4:])), Result: mailq.Result(e[8]),
			Attempts: int(le.Uint16(e[10:])), Until: int64(le.Uint64(e[16:])), Edit: e[9]&editFlag != 0,
		}
		k := int(le.Uint16(e[12:]))
		if e[9]&noteFlag != 0 {
			s.Note = notes[:k:k]
		}
		notes = notes[k:]
		fn(s)
	}
}

// AttemptRun is the run of recipients in an Attempt record.
func (r Record) AttemptRun() (first, count int) {
	return int(le.Uint32(r[24:])), int(le.Uint32(r[28:]))
}

// Queue is name and state in a record of KindQueue.
func (r Record) Queue() (name []byte, s mailq.QueueState) {
	n := int(le.Uint16(r[18:]))
	return r[32 : 32+n], r.queueState()
}

func (r Record) queueState() mailq.QueueState {
	return mailq.QueueState{Mode: mailq.QueueMode(r[16]), Doubt: mailq.DoubtPolicy(r[17]), DoubtDelay: asDuration(le.Uint64(r[24:]))}
}

// KnownQueueState reports whether a queue may be in a state. One that is in the log or in a
// checkpoint and is not known is corruption: a version that adds one sets a flag of the record.
func KnownQueueState(s mailq.QueueState) bool {
	return s.Mode <= mailq.Suspended && s.Doubt <= mailq.DeferDoubt && s.DoubtDelay >= 0
}

// Flush is name and time in a record of KindFlush.
func (r Record) Flush() (name []byte, at int64) {
	n := int(le.Uint32(r[24:]))
	return r[28 : 28+n], int64(le.Uint64(r[16:]))
}

// Chunk is what a Chunk record says of its bytes.
func (r Record) Chunk() (sequence, length, crc uint32) {
	return le.Uint32(r[24:]), le.Uint32(r[28:]), le.Uint32(r[36:])
}

// Forget is the count in a record of KindForget.
func (r Record) Forget() uint64 { return le.Uint64(r[16:]) }

// OpenInfo is the content of a record of KindOpen.
type OpenInfo struct {
	Cut     int64 // bytes of torn tail that were cut
	Clean   bool  // a Close had preceded
	Warm    bool  // the page cache had survived: no power cut
	InDoubt int64 // recipients found started and not settled
}

// Open views a record of KindOpen.
func (r Record) Open() OpenInfo {
	return OpenInfo{Cut: int64(le.Uint64(r[16:])), Clean: r[24]&1 != 0, Warm: r[24]&2 != 0, InDoubt: int64(le.Uint64(r[32:]))}
}

// Seal is the successor that a record of KindSeal names.
func (r Record) Seal() (number uint32, salt uint64) {
	return uint32(le.Uint64(r[16:])), le.Uint64(r[24:])
}

// bodyExtent is where a record's own bytes stand in the body area.
type bodyExtent struct {
	id       uint64
	off, len int64
	crc      uint32
}

// within reports whether the extent lies in a body area of that length.
func (e bodyExtent) within(length int64) bool {
	return e.off >= 0 && e.len >= 0 && e.off <= length && e.len <= length-e.off
}

func (e bodyExtent) matches(body []byte) bool {
	return e.within(int64(len(body))) && BodyCRC(e.id, body[e.off:e.off+e.len]) == e.crc
}

// body is the extent in the frame's body area that the record owns, if it owns
// one.
func (r Record) body() (bodyExtent, bool) {
	switch r.Kind() {
	case KindEnqueue:
		if le.Uint32(r[72:]) > 0 { // chunks; Enqueue would look at the whole list, and this is asked for each record that is replayed
			return bodyExtent{}, false
		}
		return bodyExtent{r.ID(), int64(le.Uint32(r[48:])), int64(le.Uint64(r[40:])), le.Uint32(r[52:])}, true
	case KindChunk:
		_, n, crc := r.Chunk()
		return bodyExtent{r.ID(), int64(le.Uint32(r[32:])), int64(n), crc}, true
	}
	return bodyExtent{}, false
}

// BodyLen is the number of bytes that the record owns in the body area of its
// frame.
func (r Record) BodyLen() int64 {
	e, _ := r.body()
	return e.len
}

// Weight is the number of bytes of the log that the record is accounted for: itself and its
// bytes in the body area. A copy weighs what its original does, since a move changes the
// location of a message and nothing else.
func (r Record) Weight() int64 { return int64(r.payloadEnd()) + r.BodyLen() }
