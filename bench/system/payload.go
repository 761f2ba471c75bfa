package system

import "math/rand/v2"

// Payloads are bodies that do not compress, another one each time, from one generator
// for all systems. It is for one goroutine.
type Payloads struct {
	rnd  *rand.Rand
	pool []byte
	size func(*rand.Rand) int
}

const poolSize = 8 << 20

// pool is random bytes from which bodies are cut: one for all, so that caches see the same
// whatever the number of producers.
var pool = func() []byte {
	b := make([]byte, poolSize)
	_, _ = rand.NewChaCha8([32]byte{1}).Read(b)
	return b
}()

// NewPayloads makes bodies whose sizes size draws, at most SizeMax.
func NewPayloads(seed uint64, size func(*rand.Rand) int) *Payloads {
	return &Payloads{rnd: rand.New(rand.NewPCG(seed, 1)), pool: pool, size: size}
}

// SizeMax bounds a body.
const SizeMax = 2 << 20

// Next returns a body, which must not be written to.
func (p *Payloads) Next() []byte {
	n := p.size(p.rnd)
	at := p.rnd.IntN(len(p.pool) - n)
	return p.pool[at : at+n]
}

// Fixed is bodies of one size.
func Fixed(n int) func(*rand.Rand) int { return func(*rand.Rand) int { return n } }

// mailOctaves is the part of messages that are smaller than 2, 4, 8 ... KiB: the
// distribution that was posted to freebsd-net in October 2002, as tabulated by J. Buchner
// (Modelling realistic email traffic: email size distribution, 2009). Its shape, a
// log-normal body with a heavy tail, is what larger studies found: Shah and Noble, A
// large-scale study of e-mail patterns (Software: Practice and Experience, 2007); Gomes et al., Workload
// models of spam and legitimate e-mails (Performance Evaluation 64, 2007).
var mailOctaves = []float64{0.2353, 0.4917, 0.676, 0.7958, 0.8536, 0.9047, 0.933, 0.9574, 0.9724, 0.9849, 1}

const (
	mailMin   = 900 // headers alone take as much
	mailFirst = 2048
)

// Mail draws the size of a mail: within an octave all sizes are as likely.
func Mail(rnd *rand.Rand) int {
	u := rnd.Float64()
	for i, below := range mailOctaves {
		if u < below {
			from, to := mailFirst<<i/2, mailFirst<<i
			if i == 0 {
				from = mailMin
			}
			return from + rnd.IntN(to-from)
		}
	}
	return SizeMax
}

// Touch reads every cache line of a body.
func Touch(b []byte) {
	var sum byte
	for i := 0; i < len(b); i += 64 {
		sum ^= b[i]
	}
	sink(sum)
}

//go:noinline
func sink(byte) {}
