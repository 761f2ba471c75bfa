package wal

import (
	"bytes"
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"hash/fnv"
	"math/rand/v2"
	"runtime/debug"
	"slices"
	"strings"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/mtawal/mtawal/internal/disk/faultdisk"
	"github.com/mtawal/mtawal/internal/disk/memdisk"
	"github.com/mtawal/mtawal/mailq"
	"github.com/mtawal/mtawal/segment"
)

// history drives one store with random operations and crashes, and knows what it must
// hold. It runs in a bubble.
type history struct {
	fs  *memdisk.FS
	opt Options
	rng *rand.Rand // of the step that runs
	s   *Store
	old []*Store // crashed ones too, to be let go of

	auto, manual Consumer

	w       *world
	unknown []change // submitted in this order, the outcome not known: a prefix of them took place
	free    []change // submitted by others beside them: any of them took place
	touched map[ref]bool

	held    []*held
	since   map[ref]time.Time // when it was started last
	durable map[ref]bool      // is started, and after a power cut too the log says so
	shown   map[ID]bool
	log     []string
	// faulty: operations of the disk fail. Then bodies may not be readable, and calls take time.
	faulty bool
	steps  atomic.Int64 // stands still when it hangs
}

// held is a delivery that is out.
type held struct {
	d      *Delivery
	left   []int // recipients not settled
	lost   bool  // one was marked used by somebody else
	manual bool
}

var bgCtx = context.Background()

func newHistory(cfg memdisk.Config, opt Options) *history {
	h := &history{fs: memdisk.New(cfg), w: newWorld(), since: map[ref]time.Time{}, durable: map[ref]bool{}, shown: map[ID]bool{},
		touched: map[ref]bool{}, opt: opt, rng: rand.New(rand.NewPCG(0, 0))}
	h.opt.fs = h.fs
	return h
}

// failure is what a history panics with when it has found something.
type failure string

func (h *history) fail(format string, args ...any) { panic(failure(fmt.Sprintf(format, args...))) }

func (h *history) must(what string, err error) {
	if err != nil {
		h.fail("%s: %v", what, err)
	}
}

// notesMax is how many notes an error comes with: of a history whose recoveries are crashed there are millions.
const notesMax = 60

func (h *history) note(format string, args ...any) {
	if len(h.log) == 2*notesMax {
		h.log = slices.Delete(h.log, 0, notesMax)
	}
	h.log = append(h.log, fmt.Sprintf(format, args...))
}

// inBubble runs a history under a clock that moves on only when every goroutine waits:
// timers cost nothing, and synctest.Wait finds the moment when the engine has come to rest.
// A deadlock and a goroutine left behind are errors. What hangs otherwise ends the
// process with all stacks.
func (h *history) inBubble(t *testing.T, what string, f func()) (err error) {
	t.Helper()
	stop := watchdog(what, &h.steps)
	defer stop()
	defer func() {
		if r := recover(); r != nil { // of synctest: nothing in the bubble can go on
			err = errors.Join(err, fmt.Errorf("%v\n%s", r, h.tail()))
		}
	}()
	synctest.Test(t, func(*testing.T) {
		defer func() {
			r := recover()
			if _, own := r.(failure); own {
				err = fmt.Errorf("%s\nbefore it:\n%v", r, h.tail())
			} else if r != nil {
				err = fmt.Errorf("%v\n%s\nbefore it:\n%v", r, debug.Stack(), h.tail())
			}
			h.fs.OnOp(nil)
			for _, s := range h.old {
				_ = s.Close() // of those that were crashed it fails
			}
		}()
		f()
	})
	return err
}

// watchdog ends the process if a counter stands still for minutes.
func watchdog(what string, steps *atomic.Int64) (stop func()) {
	const patience = 5 * time.Minute
	done := make(chan struct{})
	go func() {
		for last := int64(-1); ; {
			select {
			case <-done:
				return
			case <-time.After(patience):
			}
			n := steps.Load()
			if n == last {
				debug.SetTraceback("all")
				panic(what + " hangs")
			}
			last = n
		}
	}()
	return func() { close(done) }
}

func (h *history) tail() string { return strings.Join(h.log[max(0, len(h.log)-notesMax):], "\n") }

// Chance.

var queueNames = []string{"a", "b", "local", "smtp:x"}

func (h *history) queue() string { return queueNames[h.rng.IntN(len(queueNames))] }

// chance is true once in n.
func (h *history) chance(n int) bool { return h.rng.IntN(n) == 0 }

// body is random bytes, or those of the store's own files: frames that a sender forged.
func (h *history) body() []byte {
	n := h.rng.IntN([]int{1, 600, 600, 600, 8 << 10, 8 << 10, 8 << 10, 40 << 10, 40 << 10, 150 << 10}[h.rng.IntN(10)])
	b := make([]byte, n)
	h.fill(b)
	if h.chance(4) && n > segment.AlignmentMin {
		info := h.s.log.Segments()
		if own, err := h.fs.Device(segmentPath(info[h.rng.IntN(len(info))].Number)); err == nil && len(own) > 0 {
			copy(b[h.rng.IntN(segment.AlignmentMin):], own[h.rng.IntN(len(own)/segment.AlignmentMin)*segment.AlignmentMin:])
		}
	}
	return b
}

func (h *history) fill(b []byte) {
	for len(b) > 0 {
		b = b[copy(b, binary.LittleEndian.AppendUint64(nil, h.rng.Uint64())):]
	}
}

func sumOf(b []byte) uint64 {
	h := fnv.New64a()
	h.Write(b)
	return h.Sum64()
}

func (h *history) recipients(most int) []Recipient {
	var list []Recipient
	for i := range 1 + h.rng.IntN(most) {
		r := Recipient{Queue: h.queue(), Address: fmt.Sprintf("r%d@example.org", i)}
		if h.chance(3) {
			r.Note = []byte(fmt.Sprintf("orcpt=%d", h.rng.IntN(1000)))
		}
		if h.chance(8) {
			r.NotBefore = time.Now().Add(time.Duration(h.rng.IntN(90)) * time.Second)
		}
		list = append(list, r)
	}
	return list
}

// message is any message, and its body: it may have been staged.
func (h *history) message() (m Message, text []byte) {
	text = h.body()
	m = Message{Envelope: []byte(fmt.Sprintf("from=%d", h.rng.IntN(1000))), Body: text, Recipients: h.recipients(5)}
	m.Priority = int8(h.rng.IntN(5) - 2)
	if h.chance(4) { // whole seconds are kept exactly
		m.ExpiresAt = time.Now().Truncate(time.Second).Add(time.Duration(h.rng.IntN(120)) * time.Second)
	}
	if h.chance(5) {
		m.Key = fmt.Sprintf("key-%d", h.rng.IntN(12))
	}
	if h.chance(3) {
		if m.ID = h.s.NewID(); m.ID != 0 { // 0 after a crash
			h.show(m.ID)
		}
	}
	if h.chance(4) {
		if st := h.stage(text); st != nil {
			m.Body, m.Staged = nil, st
		}
	}
	return m, text
}

// show notes an ID that the store has shown to somebody.
func (h *history) show(id ID) {
	if id == 0 || h.shown[id] {
		h.fail("ID %v was given out again", id)
	}
	h.shown[id] = true
}

// Looking at the store.

func (h *history) opened(s *Store) {
	h.s = s
	h.old = append(h.old, s)
	var err error
	h.auto, err = s.Consumer(ConsumerOptions{MaxRecipients: 3})
	h.must("consumer", err)
	h.manual, err = s.Consumer(ConsumerOptions{ManualStart: true})
	h.must("consumer", err)
}

// rest lets everything come to rest, and notes whose start has been out for so long that the
// log must know it.
func (h *history) rest() {
	synctest.Wait()
	clear(h.durable)
	for r, started := range h.w.out {
		h.durable[r] = started && !h.faulty && (h.opt.DurableStart || time.Since(h.since[r]) > 2*markerAfter)
	}
}

// tidy drops what is settled from the deliveries that are out.
func (h *history) tidy() {
	h.held = slices.DeleteFunc(h.held, func(k *held) bool {
		k.left = slices.DeleteFunc(k.left, func(i int) bool {
			_, out := h.w.out[ref{k.d.ID, i}]
			return !out
		})
		return len(k.left) == 0
	})
	clear(h.touched)
}

// view reads the state of a store; of one on a faulty disk from a copy of its files.
func (h *history) view(s *Store) view {
	if _, faults := s.opt.fs.(*faultdisk.FS); faults {
		var err error
		s, err = Open(spool, h.on(h.fs.Clone()))
		h.must("opening a copy", err)
		defer s.Close()
	}
	v, err := viewOf(s)
	h.must("entries", err)
	if h.faulty {
		for r, l := range v {
			l.enqueued = 0
			v[r] = l
		}
	}
	return v
}

// compare holds the running store against the model.
func (h *history) compare() {
	if d := h.view(h.s).diff(h.w.view(time.Now())); d != "" {
		h.fail("the state is not the model's:\n%s", d)
	}
	if d := h.w.totals(h.s); d != "" {
		h.fail("%s", d)
	}
}

// check compares a delivery with what it should be.
func (h *history) check(w *world, d *Delivery) {
	now := time.Now()
	m := w.live[d.ID]
	if m == nil {
		h.fail("%v was handed out, and is not there", d.ID)
	}
	if string(d.Envelope) != m.envelope || segment.Nanos(d.ExpiresAt) != m.expires ||
		d.Expired != w.expired(d.ID, now) || !h.faulty && segment.Nanos(d.EnqueuedAt) != m.enqueued {
		h.fail("%v was handed out as %+v, want %+v", d.ID, d, m)
	}
	var text bytes.Buffer
	_, err := d.Body.WriteTo(&text)
	if !(h.faulty && err != nil) && (err != nil || sumOf(text.Bytes()) != m.body || d.Body.Size() != m.size) {
		h.fail("%v was handed out with another body (%v)", d.ID, err)
	}
	for _, s := range d.Recipients {
		r := ref{d.ID, s.Index}
		v := w.rcpt(r)
		if !w.due(r, now) || v.queue != d.Queue {
			h.fail("%v was handed out, it is %+v", r, *v)
		}
		if s.Address != v.address || string(s.Note) != v.note || s.Attempts != v.attempts || s.InDoubt != v.doubt {
			h.fail("%v was handed out as %+v, it is %+v", r, s, *v)
		}
	}
}

// take checks a delivery that was handed out and notes it.
func (h *history) take(d *Delivery, manual bool) {
	h.check(h.w, d)
	k := &held{d: d, manual: manual}
	for _, s := range d.Recipients {
		k.left = append(k.left, s.Index)
		r := ref{d.ID, s.Index}
		if h.w.out[r] = !manual; !manual {
			h.since[r] = time.Now()
		}
	}
	h.held = append(h.held, k)
	h.note("claim %v %v by hand %t", d.ID, k.left, manual)
}

// drain takes all that a store holds, whatever state it is in, and looks at every body: nothing
// is left then. The world is not used any more.
func (h *history) drain(s *Store, w *world) {
	for key, id := range w.keys {
		got, err := s.Enqueue(bgCtx, Message{Key: key, Recipients: []Recipient{{Queue: "once more"}}})
		if err != nil || got != id {
			h.fail("key %q once more: %v, %v; the first was %v", key, got, err, id)
		}
	}
	for q := range w.queues {
		h.must("set queue", s.SetQueue(bgCtx, q, QueueState{}))
		w.queues[q] = QueueState{}
	}
	var b Batch
	now := time.Now()
	w.each(func(r ref) {
		b.Edit = append(b.Edit, Edit{ID: r.ID, Outcomes: []Outcome{{Recipient: r.Index, Result: Released}}})
		w.outcome(r, Outcome{Result: Released}, false, now)(w)
	})
	if len(b.Edit) == 0 {
		return
	}
	_, err := s.Commit(bgCtx, b)
	h.must("releasing all", err)
	c, err := s.Consumer(ConsumerOptions{InFlight: InFlightMax})
	h.must("consumer", err)
	b = Batch{}
	for q := range w.queuesInUse() {
		for d, ok := c.TryNext(q); ok; d, ok = c.TryNext(q) {
			h.check(w, d)
			b.Settle = append(b.Settle, Settlement{Delivery: d, Outcomes: []Outcome{{Recipient: All, Result: Delivered}}})
		}
	}
	_, err = s.Commit(bgCtx, b)
	h.must("settling all", err)
	if n := s.Stats().WorkQueueLength; n != 0 {
		h.fail("%d recipients are left after all was handed out", n)
	}
}

func (w *world) queuesInUse() map[string]bool {
	names := make(map[string]bool)
	w.each(func(r ref) { names[w.rcpt(r).queue] = true })
	return names
}

// suspended reports whether one of the queues takes no mail.
func (h *history) suspended(list []Recipient) bool {
	return slices.ContainsFunc(list, func(r Recipient) bool { return h.w.queues[r.Queue].Mode == mailq.Suspended })
}
