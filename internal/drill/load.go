package drill

import (
	"fmt"
	"math"
	"math/rand/v2"

	"github.com/mtawal/mtawal/mailq"
)

// Sizes of made bodies: most mail is small, some is not.
const (
	bodyMin    = 1 << 10
	bodyMedian = 12 << 10
	bodyMax    = 1 << 20
	bodySigma  = 1.25 // of the size's logarithm
)

// recipientsMax is how many recipients a made message has at most.
const recipientsMax = 5

// destinations is the number of remote queues. The first are busy, the last see
// little.
const destinations = 40

// localQueue is where mail for the house waits, bounces among it.
const localQueue = "local"

// Load makes the messages of a drill. What a serial stands for depends on the
// seed alone, so that every core makes the same. Any number of goroutines may
// use it.
type Load struct {
	seed uint64
	text []byte // made bodies are windows on it
	mail *Mail  // real messages instead, or nil
}

// NewLoad makes a load; m is nil for made bodies.
func NewLoad(seed uint64, m *Mail) *Load {
	l := &Load{seed: seed, mail: m}
	if m != nil {
		return l
	}
	const letters = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/"
	rng := rand.New(rand.NewPCG(seed, 0))
	l.text = make([]byte, 2*bodyMax)
	for i := 0; i < len(l.text); {
		for bits, n := rng.Uint64(), 0; n < 10 && i < len(l.text); n++ {
			l.text[i] = letters[bits&63]
			if i%78 >= 76 {
				l.text[i] = "\r\n"[i%78-76]
			}
			bits >>= 6
			i++
		}
	}
	return l
}

// Made is a message of the drill with what the ledger is told about it.
type Made struct {
	Key     Key
	Digest  Digest
	Message mailq.Message
}

// Message makes the load's message with that serial.
func (l *Load) Message(serial uint64) (Made, error) {
	rng := rand.New(rand.NewPCG(l.seed, serial))
	k := LoadKey(serial)
	count := 1
	for p := rng.Float64(); p > 0.5 && count < recipientsMax; p = rng.Float64() {
		count++
	}
	var body []byte
	if l.mail != nil {
		var err error
		if body, err = l.mail.Read(rng.IntN(l.mail.Len())); err != nil {
			return Made{}, err
		}
	} else {
		size := int(bodyMedian * math.Exp(bodySigma*rng.NormFloat64()))
		body = l.body(k, min(max(size, bodyMin), bodyMax), rng.IntN(bodyMax))
	}
	m := made(k, body)
	for i := range count {
		queue := localQueue
		if rng.Float64() >= 0.2 {
			u := rng.Float64()
			queue = fmt.Sprintf("smtp:d%02d.example", int(u*u*destinations))
		}
		m.Message.Recipients = append(m.Message.Recipients, mailq.Recipient{Queue: queue, Address: address(k, i, queue)})
	}
	return m, nil
}

// Bounce makes the bounce for a recipient of k.
func (l *Load) Bounce(k Key, recipient int) Made {
	b := k.Bounce(recipient)
	var body []byte
	if l.mail != nil {
		body = fmt.Appendf(nil, "Subject: Undelivered mail\r\nX-Drill: %s\r\n\r\nRecipient %d of message %s refused it.\r\n", b, recipient, k)
	} else {
		body = l.body(b, bodyMin, int(uint64(b)%bodyMax))
	}
	m := made(b, body)
	m.Message.Recipients = []mailq.Recipient{{Queue: localQueue, Address: address(b, 0, localQueue)}}
	return m
}

// body makes one that no other key has.
func (l *Load) body(k Key, size, at int) []byte {
	b := make([]byte, 0, size+200)
	b = fmt.Appendf(b, "From: <sender@drill.example>\r\nSubject: message %s\r\nX-Drill: %s\r\n\r\n", k, k)
	if n := size - len(b); n > 0 {
		b = append(b, l.text[at:at+n]...)
	}
	return b
}

func made(k Key, body []byte) Made {
	m := Made{Key: k, Digest: Sum(body)}
	m.Message.Body = body
	m.Message.Envelope = fmt.Appendf(nil, "drill %s <sender@drill.example>", k)
	return m
}

// parseEnvelope reads the key out of an envelope.
func parseEnvelope(env []byte) (Key, error) {
	var word string
	if n, err := fmt.Sscanf(clip(string(env)), "drill %s <sender@drill.example>", &word); n < 1 {
		return 0, fmt.Errorf("%q is not an envelope of the drill: %w", clip(string(env)), err)
	}
	return ParseKey(word)
}

// address names message, recipient and queue, so that the receiver can tell
// whether the store mixed them up.
func address(k Key, recipient int, queue string) string {
	return fmt.Sprintf("%s.r%d@%s", k, recipient, queue)
}

// Answer is what the receiving store says of a recipient.
type Answer int

// The answers, by the class of their reply.
const (
	Take   Answer = 250
	Later  Answer = 450
	Refuse Answer = 550
)

// Cut is what happens to a connection at the final dot.
type Cut int

// The cuts: none, one before anything was stored, one after.
const (
	CutNone Cut = iota
	CutBefore
	CutAfter
)

// Policy decides what becomes of hand-overs, from the seed alone.
type Policy struct{ Seed uint64 }

// Answer is for the attempt-th hand-over of a recipient, from 0. What is refused
// is always refused; bounces never are.
func (p Policy) Answer(k Key, recipient, attempt int) Answer {
	if !k.IsBounce() && p.chance(1, k, recipient, 0) < 0.03 {
		return Refuse
	}
	if attempt < 4 && p.chance(2, k, recipient, attempt) < 0.07 {
		return Later
	}
	return Take
}

// Cut decides on the connection of a whole hand-over.
func (p Policy) Cut(k Key, recipient, attempt int) Cut {
	switch c := p.chance(3, k, recipient, attempt); {
	case attempt >= 4 || c >= 0.015:
		return CutNone
	case c < 0.0075:
		return CutBefore
	}
	return CutAfter
}

func (p Policy) chance(what uint64, k Key, recipient, attempt int) float64 {
	x := p.Seed + what*0x9e3779b97f4a7c15
	for _, v := range []uint64{uint64(k), uint64(recipient), uint64(attempt)} {
		x = mix(x ^ mix(v+0x9e3779b97f4a7c15))
	}
	return float64(x>>11) / (1 << 53)
}

// mix is the finalizer of SplitMix64.
func mix(x uint64) uint64 {
	x = (x ^ x>>30) * 0xbf58476d1ce4e5b9
	x = (x ^ x>>27) * 0x94d049bb133111eb
	return x ^ x>>31
}
