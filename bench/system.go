package main

import (
	"math/rand/v2"
)

// system is something that makes messages durable. What Enqueue and Cycle acknowledge
// with nil survives a power cut, in every system alike.
type system interface {
	// Enqueue returns when the message is durable. Any number of producers call it.
	Enqueue(producer int, body []byte) error
	// Reset makes room for the next round: what was written is dead and its space is
	// used again. It is not timed.
	Reset() error
	Close() error
}

// cycler is a system with queues: a floor has none.
type cycler interface {
	system
	// Cycle enqueues a message, then takes the oldest one there is, reads it and marks
	// it used. Two durable steps.
	Cycle(producer int, body []byte) error
}

// maker opens a system in an empty directory.
type maker struct {
	name    string
	durable string // how durability is reached
	floor   bool
	most    int // operations a round, where that is fewer than the load's; 0: as many as it has
	open    func(dir string, shape shape) (system, error)
}

// shape is what a system may want to know of its load in advance.
type shape struct {
	producers int
	size      int // of a body
	frame     int // device bytes of a commit of one message in mtawal
}

// payloads are bodies that don't compress, other ones each time.
type payloads struct {
	rnd  *rand.Rand
	pool []byte
	size int
}

const poolSize = 4 << 20

func newPayloads(seed uint64, size int) *payloads {
	p := &payloads{rnd: rand.New(rand.NewPCG(seed, 1)), pool: make([]byte, poolSize), size: size}
	for i := 0; i < len(p.pool); i += 8 {
		v := p.rnd.Uint64()
		for j := range 8 {
			p.pool[i+j] = byte(v >> (8 * j))
		}
	}
	return p
}

func (p *payloads) next() []byte {
	at := p.rnd.IntN(len(p.pool) - p.size)
	return p.pool[at : at+p.size]
}
