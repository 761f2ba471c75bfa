// Package mail makes messages that can be told again from their key, keeps the ledger of
// what a store has promised about them, and judges what is seen of the store after a crash.
package mail

import (
	"bytes"
	"encoding/binary"
	"fmt"
	"hash/fnv"
	"io"
	"math/rand/v2"
	"strconv"
	"strings"

	"github.com/mtawal/mtawal/wal"
)

// Maker makes messages: the same for the same seed and key.
type Maker struct{ Seed uint64 }

// bodyMax is the longest body; most are far below.
func (m Maker) bodyMax() int { return []int{4 << 10, 40 << 10, 200 << 10}[m.Seed%3] }

// bouncePrefix begins the keys of bounces, which end with the recipient that failed.
const bouncePrefix = "bounce-"

// Bounce is the key of the bounce for one recipient of a message.
func Bounce(key string, recipient int) string {
	return fmt.Sprintf("%s%s/%d", bouncePrefix, key, recipient)
}

// Head makes all of a message but its body, and says how long that is. keyed: it carries an
// idempotency key.
func (m Maker) Head(key string) (msg wal.Message, size int, keyed bool) {
	msg, rng := wal.Message{Envelope: []byte(key)}, m.rng(key)
	n := 1
	if !IsBounce(key) {
		n = 1 + rng.IntN(4)
	}
	for i := range n {
		queue := fmt.Sprintf("smtp:%d.example", rng.IntN(6))
		if IsBounce(key) {
			queue = "bounces"
		}
		msg.Recipients = append(msg.Recipients, wal.Recipient{Queue: queue, Address: fmt.Sprintf("%d@%s", i, key)})
	}
	size = rng.IntN(2000)
	switch rng.IntN(10) {
	case 0:
		size = rng.IntN(m.bodyMax() + 1)
	case 1:
		size = 0
	case 2, 3:
		size = rng.IntN(16 << 10)
	}
	msg.Priority = int8(rng.IntN(3))
	if keyed = rng.IntN(3) == 0; keyed {
		msg.Key = "key of " + key
	}
	return msg, min(size, m.bodyMax()), keyed
}

// Message makes the message of a key.
func (m Maker) Message(key string) wal.Message {
	msg, size, _ := m.Head(key)
	msg.Body = m.body(key, size)
	return msg
}

func (m Maker) body(key string, size int) []byte {
	var seed [32]byte
	binary.LittleEndian.PutUint64(seed[:], m.Seed)
	binary.LittleEndian.PutUint64(seed[8:], hashOf(key))
	b := make([]byte, size)
	rand.NewChaCha8(seed).Read(b)
	return b
}

func (m Maker) rng(key string) *rand.Rand { return rand.New(rand.NewPCG(m.Seed, hashOf(key))) }

func hashOf(key string) uint64 {
	h := fnv.New64a()
	io.WriteString(h, key)
	return h.Sum64()
}

// Check compares a body with that of the key.
func (m Maker) Check(key string, body wal.Body) error {
	_, size, _ := m.Head(key)
	var got bytes.Buffer
	got.Grow(size)
	if _, err := body.WriteTo(&got); err != nil {
		return fmt.Errorf("message %s: read the body: %w", key, err)
	}
	if !bytes.Equal(got.Bytes(), m.body(key, size)) {
		return fmt.Errorf("message %s: the body of %d bytes is not the one of %d that was enqueued", key, got.Len(), size)
	}
	return nil
}

// Seen is a recipient as a store lists it.
type Seen struct {
	InDoubt  bool
	Note     string
	Attempts int
}

// SeenMessage is a message as a store lists it: its recipients that are not used.
type SeenMessage struct {
	ID         uint64
	Recipients map[int]Seen
}

// Observation is all that a store shows after it was opened.
type Observation struct {
	Messages map[string]*SeenMessage // by key
	// Silent is what was wrong with what it showed, or what its own verification found,
	// although the opening had been quiet.
	Silent []string
	// Invented is what was listed and nobody has made.
	Invented []string
}

// Mark lines, which loads write and ledgers read. They are in the order of the events of a
// device: what is noted before a cut has happened before it.
//
//	I KEY N BATCH           about to be enqueued, with N recipients, in a batch or "-"
//	A KEY ID                the enqueue returned nil
//	H KEY HANDOUT LIST      handed out; recipients i@ATTEMPTS, with a ! where announced as in doubt
//	S KEY HANDOUT LIST      about to be settled; i:c with a code below
//	T KEY HANDOUT LIST      the settlement returned nil
//	O JSON                  a store was opened and has shown this Observation
//	K                       its process was killed
//	C                       the file system is being cut off
const (
	Delivered = 'D'
	Failed    = 'F' // with a bounce in the batch
	Removed   = 'X' // by an operator
	Deferred  = 'L'
	Uncertain = 'U'
	Released  = 'R'
)

// NoteOf is the note that a settlement leaves.
func NoteOf(handout int) string { return "handout " + strconv.Itoa(handout) }

// Codes formats a list of recipients with their codes.
func Codes(codes map[int]byte) string {
	var words []string
	for i, c := range codes {
		words = append(words, fmt.Sprintf("%d:%c", i, c))
	}
	return strings.Join(words, ",")
}

// IsBounce reports whether a key is that of a bounce.
func IsBounce(key string) bool { return strings.HasPrefix(key, bouncePrefix) }
