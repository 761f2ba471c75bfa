package drill

import (
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"hash"
	"sync"

	"github.com/mtawal/mtawal/mailq"
)

// Digest is what a body is known by: the first half of its SHA-256.
type Digest [16]byte

// Sum returns the digest of a body.
func Sum(body []byte) Digest {
	full := sha256.Sum256(body)
	return Digest(full[:16])
}

func sumOf(h hash.Hash) Digest { return Digest(h.Sum(nil)[:16]) }

// String returns the digest in hexadecimal.
func (d Digest) String() string { return hex.EncodeToString(d[:]) }

// ParseDigest reads what String wrote.
func ParseDigest(s string) (Digest, error) {
	b, err := hex.DecodeString(s)
	if err != nil || len(b) != len(Digest{}) {
		return Digest{}, fmt.Errorf("%q is not a digest", clip(s))
	}
	return Digest(b), nil
}

// Stamp orders what happens in the cores: by life, then by a counter in it. 0 is
// before everything.
type Stamp uint64

const stampSeqBits = 40

// NewStamp is the seq-th event of a life; both count from 1.
func NewStamp(life int, seq uint64) Stamp { return Stamp(uint64(life)<<stampSeqBits | seq) }

// Life is which core it was.
func (s Stamp) Life() int { return int(s >> stampSeqBits) }

// HandOver is one message offered to the receiving store for one recipient.
type HandOver struct {
	Key       Key
	Recipient int
	// Stamp is when the core was given the claim.
	Stamp Stamp
	// InDoubt: the store announced that it may be a repeat.
	InDoubt bool
	// Digest is of the bytes that arrived.
	Digest Digest
	// Stored: the receiving store kept a copy, whatever answer the core got.
	Stored bool
}

// Ledger is what the receiving store knows: what was intended, promised and
// received. Its methods may be called by any number of goroutines.
type Ledger struct {
	mu      sync.Mutex
	entries map[Key]*entry
	counts  Counts
	odd     []string // reports that contradict each other
}

// Counts are running totals, for progress.
type Counts struct {
	Accepted   int // messages of the load
	Recipients int // of those
	Settled    int // recipients of the load with an acknowledged used-mark
	Bounces    int // accepted
	HandOvers  int
	LastSerial uint64 // the highest one intended
}

type entry struct {
	intended   bool
	accepted   bool
	digest     Digest
	count      int // recipients, once intended
	recipients []received
}

// received is what is known of one recipient.
type received struct {
	handOvers []seen
	settled   Stamp // of the first acknowledged used-mark
	result    mailq.Result
}

type seen struct {
	stamp           Stamp
	inDoubt, stored bool
	digest          Digest
}

// NewLedger returns an empty one.
func NewLedger() *Ledger { return &Ledger{entries: map[Key]*entry{}} }

func (l *Ledger) entryLocked(k Key) *entry {
	e := l.entries[k]
	if e == nil {
		e = &entry{}
		l.entries[k] = e
	}
	return e
}

func (l *Ledger) recipientLocked(k Key, i int) *received {
	e := l.entryLocked(k)
	for len(e.recipients) <= i {
		e.recipients = append(e.recipients, received{})
	}
	return &e.recipients[i]
}

// Intend notes that a message is about to be enqueued.
func (l *Ledger) Intend(k Key, recipients int, d Digest) {
	l.mu.Lock()
	defer l.mu.Unlock()
	e := l.entryLocked(k)
	if e.intended && (e.digest != d || e.count != recipients) {
		l.odd = append(l.odd, fmt.Sprintf("message %s was intended twice and differently", k))
	}
	e.intended, e.digest, e.count = true, d, recipients
	l.counts.LastSerial = max(l.counts.LastSerial, k.Serial())
}

// Accept notes that the store acknowledged a message.
func (l *Ledger) Accept(k Key) {
	l.mu.Lock()
	defer l.mu.Unlock()
	e := l.entryLocked(k)
	if e.accepted {
		return // a second bounce for one recipient; its deliveries tell
	}
	e.accepted = true
	if k.IsBounce() {
		l.counts.Bounces++
		return
	}
	l.counts.Accepted++
	l.counts.Recipients += e.count
}

// Settle notes that the store acknowledged a used-mark.
func (l *Ledger) Settle(k Key, recipient int, r mailq.Result, at Stamp) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if recipient < 0 || recipient >= bouncesMax {
		l.odd = append(l.odd, fmt.Sprintf("message %s: recipient %d was settled", k, recipient))
		return
	}
	rc := l.recipientLocked(k, recipient)
	if rc.settled != 0 {
		return // its hand-over came after the first mark, and tells
	}
	rc.settled, rc.result = at, r
	if !k.IsBounce() {
		l.counts.Settled++
	}
}

// HandOver notes what the receiving store was offered.
func (l *Ledger) HandOver(h HandOver) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if h.Recipient < 0 || h.Recipient >= bouncesMax {
		l.odd = append(l.odd, fmt.Sprintf("message %s: recipient %d was handed over", h.Key, h.Recipient))
		return
	}
	l.counts.HandOvers++
	rc := l.recipientLocked(h.Key, h.Recipient)
	rc.handOvers = append(rc.handOvers, seen{stamp: h.Stamp, inDoubt: h.InDoubt, stored: h.Stored, digest: h.Digest})
}

// Attempts is how many hand-overs of a recipient there were.
func (l *Ledger) Attempts(k Key, recipient int) int {
	l.mu.Lock()
	defer l.mu.Unlock()
	e := l.entries[k]
	if e == nil || recipient < 0 || recipient >= len(e.recipients) {
		return 0
	}
	return len(e.recipients[recipient].handOvers)
}

// Note adds a finding about the drill's own dialog.
func (l *Ledger) Note(finding string) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.odd = append(l.odd, finding)
}

// Counts returns the running totals.
func (l *Ledger) Counts() Counts {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.counts
}
