package wal

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"hash/fnv"
	"math/rand/v2"
	"os"
	"strconv"
	"sync/atomic"
	"testing"
	"time"

	"github.com/mtawal/mtawal/checkpoint"
	"github.com/mtawal/mtawal/internal/disk"
	"github.com/mtawal/mtawal/internal/disk/memdisk"
	"github.com/mtawal/mtawal/mailq"
)

// crasher drives a store with random operations, crashes it at a random operation of the
// disk, opens what is left and compares it with a plain map. What was acknowledged must
// hold; what was under way may be there or not, as a whole.
type crasher struct {
	t   *testing.T
	rng *rand.Rand
	fs  *memdisk.FS
	s   *Store
	con mailq.Consumer
	log []string

	mail map[ID]*modelMail
	out  []*Delivery

	// The operation under way, for when it can't be told whether it took place.
	sent    *modelMail
	settles []unsure

	// The crash is now: what ends from here on can't be told. Then the image is taken, by
	// whatever goroutine came to the operation.
	now   atomic.Bool
	image atomic.Pointer[memdisk.FS]
	power bool
}

type modelMail struct {
	id    ID
	sum   uint64
	rcpts []modelRcpt
}

type modelRcpt struct {
	used    bool
	started bool // handed out, no outcome yet
	doubt   bool
	unsure  bool // an outcome was under way
	held    bool
	later   bool // deferred
}

type unsure struct {
	id  ID
	idx int
}

func sumOf(b []byte) uint64 {
	h := fnv.New64a()
	h.Write(b)
	return h.Sum64()
}

func (c *crasher) note(format string, args ...any) {
	c.log = append(c.log, fmt.Sprintf(format, args...))
}

func (c *crasher) fatal(format string, args ...any) {
	c.t.Helper()
	for _, l := range c.log[max(0, len(c.log)-60):] {
		c.t.Log(l)
	}
	c.showLog()
	c.t.Fatalf(format, args...)
}

// showLog prints the end of the log as it is on the disk now.
func (c *crasher) showLog() {
	var lines []string
	c.fs.OnOp(nil)
	o := c.options()
	o.fs = c.fs.Clone()
	err := Dump("/store", o, false, func(d *DumpRecord) error {
		lines = append(lines, fmt.Sprintf("%s %s epoch %d promise %s %s %v %v %+v", d.Position, d.Frame, d.Epoch, d.Promise, d.Kind, d.ID, d.Outcomes, d.Open))
		return nil
	})
	for _, l := range lines[max(0, len(lines)-40):] {
		c.t.Log(l)
	}
	if d, err := o.fs.OpenDir("/store", false); err == nil {
		list, _ := d.List()
		c.t.Log(list)
	}
	if err != nil {
		c.t.Log("dump:", err)
	}
}

func (c *crasher) options() Options { return Options{SegmentSize: 64 << 10, fs: c.fs} }

func (c *crasher) open() {
	c.t.Helper()
	s, err := Open("/store", c.options())
	if err != nil {
		c.fatal("open: %v", err)
	}
	c.s = s
	if c.con, err = s.Consumer(ConsumerOptions{}); err != nil {
		c.fatal("consumer: %v", err)
	}
}

// arm has the crash come at the n-th operation of the disk from now.
func (c *crasher) arm(n int) {
	var ops atomic.Int64
	fs := c.fs
	fs.OnOp(func(disk.Op, string) {
		if ops.Add(1) == int64(n) {
			c.now.Store(true)
			c.image.Store(fs.Clone())
		}
	})
}

func (c *crasher) body() []byte {
	n := c.rng.IntN(3000)
	if c.rng.IntN(12) == 0 {
		n = 20_000 + c.rng.IntN(60_000) // in chunks
	}
	b := make([]byte, n)
	for i := range b {
		b[i] = byte(c.rng.Uint32())
	}
	return b
}

func (c *crasher) message() (Message, *modelMail) {
	m := Message{Body: c.body(), Envelope: []byte("from")}
	mm := &modelMail{sum: sumOf(m.Body)}
	for i := range 1 + c.rng.IntN(4) {
		m.Recipients = append(m.Recipients, Recipient{Queue: "q" + strconv.Itoa(c.rng.IntN(3)), Address: strconv.Itoa(i)})
		mm.rcpts = append(mm.rcpts, modelRcpt{})
	}
	if c.rng.IntN(3) == 0 {
		m.ID = c.s.NewID()
	}
	return m, mm
}

func (c *crasher) any() *modelMail {
	for _, m := range c.mail { // the map's order is the one thing here that a seed does not fix
		return m
	}
	return nil
}

// step does one operation. What it did is in the model when it returns, unless the crash
// came meanwhile.
func (c *crasher) step(ctx context.Context) {
	c.sent, c.settles = nil, nil
	crashed := c.now.Load
	must := func(what string, err error) {
		c.t.Helper()
		if err != nil {
			c.fatal("%s: %v", what, err)
		}
	}
	switch op := c.rng.IntN(20); {
	case op < 7:
		m, mm := c.message()
		c.sent = mm
		id, err := c.s.Enqueue(ctx, m)
		must("enqueue", err)
		mm.id = id
		c.note("enqueue %v, %d recipients, %d bytes", id, len(mm.rcpts), len(m.Body))
		c.mail[id] = mm
		if !crashed() {
			c.sent = nil
		}
	case op < 11:
		if len(c.out) > 6 {
			return
		}
		for q := range 3 {
			d, ok := c.con.TryNext("q" + strconv.Itoa(q))
			if !ok {
				continue
			}
			c.claimed(d, crashed())
			break
		}
	case op < 16:
		if len(c.out) == 0 {
			return
		}
		i := c.rng.IntN(len(c.out))
		d := c.out[i]
		c.out = append(c.out[:i], c.out[i+1:]...)
		c.settle(ctx, d, crashed)
	case op < 17:
		mm := c.any()
		if mm == nil {
			return
		}
		idx := c.rng.IntN(len(mm.rcpts))
		err := c.s.MarkUsed(ctx, mm.id, idx)
		if errors.Is(err, ErrNotFound) {
			for _, r := range mm.rcpts {
				if !r.used {
					c.fatal("MarkUsed %v[%d]: %v", mm.id, idx, err)
				}
			}
			return
		}
		must("mark used", err)
		c.note("mark used %v[%d]", mm.id, idx)
		c.settled(mm.id, idx, Delivered, crashed())
	case op < 18:
		must("checkpoint", c.s.Checkpoint(ctx))
		c.note("checkpoint")
	case op < 19:
		must("compact", c.s.Compact(ctx))
		c.note("compact")
	default:
		if crashed() || c.rng.IntN(3) > 0 {
			return
		}
		c.note("close and open")
		c.out = nil
		must("close", c.s.Close())
		if crashed() {
			return // somewhere in Close: as if the owner had died with its claims
		}
		for _, m := range c.mail {
			for i := range m.rcpts {
				if r := &m.rcpts[i]; r.started {
					r.doubt, r.started = true, false
				}
			}
		}
		c.open()
		if !crashed() {
			c.compare(false)
		}
	}
}

func (c *crasher) claimed(d *Delivery, unsureStart bool) {
	mm := c.mail[d.ID]
	if mm == nil {
		c.fatal("%v was handed out and never enqueued", d.ID)
	}
	b := make([]byte, d.Body.Size())
	if _, err := d.Body.ReadAt(b, 0); err != nil && len(b) > 0 {
		c.fatal("reading %v: %v", d.ID, err)
	}
	if sumOf(b) != mm.sum {
		c.fatal("%v came with another body", d.ID)
	}
	for _, s := range d.Recipients {
		r := &mm.rcpts[s.Index]
		if r.used || r.started || r.held || r.later {
			c.fatal("%v[%d] was handed out, it is %+v", d.ID, s.Index, *r)
		}
		if s.InDoubt != r.doubt && !r.unsure {
			c.fatal("%v[%d] in doubt %t, want %t", d.ID, s.Index, s.InDoubt, r.doubt)
		}
		r.started = true
		if unsureStart {
			c.settles = append(c.settles, unsure{d.ID, s.Index})
		}
	}
	c.note("claim %v %d recipients", d.ID, len(d.Recipients))
	c.out = append(c.out, d)
}

func (c *crasher) settle(ctx context.Context, d *Delivery, crashed func() bool) {
	mm := c.mail[d.ID]
	var outcomes []Outcome
	var bounce []Message
	for _, s := range d.Recipients {
		if mm.rcpts[s.Index].used {
			continue // by MarkUsed
		}
		o := Outcome{Recipient: s.Index, Result: []Result{Delivered, Delivered, Delivered, Failed, Deferred, Uncertain}[c.rng.IntN(6)]}
		if o.Result == Deferred {
			o.Until, o.Note = time.Now().Add(time.Hour), []byte("451 later")
		}
		if o.Result == Failed && bounce == nil {
			m, sent := c.message()
			bounce, c.sent = append(bounce, m), sent
		}
		outcomes = append(outcomes, o)
	}
	if len(outcomes) == 0 {
		d.Release()
		return
	}
	ids, err := c.s.Commit(ctx, Batch{Settle: []Settlement{{Delivery: d, Outcomes: outcomes}}, Enqueue: bounce})
	if err != nil {
		c.fatal("settling %v with %v: %v", d.ID, outcomes, err)
	}
	c.note("settle %v %v, bounces %v", d.ID, outcomes, ids)
	for _, o := range outcomes {
		c.settled(d.ID, o.Recipient, o.Result, crashed())
	}
	if bounce != nil {
		c.sent.id = ids[0]
		c.mail[ids[0]] = c.sent
		if !crashed() {
			c.sent = nil
		}
	}
}

// settled notes an outcome; unknown if the crash came while it was under way.
func (c *crasher) settled(id ID, idx int, result Result, unknown bool) {
	r := &c.mail[id].rcpts[idx]
	if unknown {
		c.settles = append(c.settles, unsure{id, idx})
		return
	}
	r.started = false
	switch {
	case result.IsUsed():
		r.used = true
	case result == Deferred:
		r.later = true
	case result == Uncertain:
		r.doubt = true
	}
}

// compare holds the store that was just opened against the model. Where the model is
// unsure, the store tells. Without exact, doubt may be missing: power was cut.
func (c *crasher) compare(powerCut bool) {
	c.t.Helper()
	for _, u := range c.settles {
		c.mail[u.id].rcpts[u.idx].unsure = true
	}
	seen := make(map[unsure]Entry)
	ids := make(map[ID]bool)
	for e, err := range c.s.Entries(context.Background(), Filter{}) {
		if err != nil {
			c.fatal("entries: %v", err)
		}
		if e.Err != nil {
			c.fatal("entry %v[%d]: %v", e.ID, e.Recipient, e.Err)
		}
		seen[unsure{e.ID, e.Recipient}] = e
		ids[e.ID] = true
	}
	if c.sent != nil && c.sent.id != 0 && !ids[c.sent.id] {
		delete(c.mail, c.sent.id) // never acknowledged, and not there
	}
	for id := range ids {
		if c.mail[id] == nil {
			c.fatal("%v is there and was never enqueued", id)
		}
	}
	var live int64
	for id, m := range c.mail {
		for i := range m.rcpts {
			r := &m.rcpts[i]
			e, there := seen[unsure{id, i}]
			if there {
				live++
			}
			switch {
			case r.unsure:
				// An outcome, or a start, was under way.
				r.used, r.later = !there, there && e.State == mailq.InDeferral
				r.doubt = there && e.InDoubt
			case r.used && there:
				c.fatal("%v[%d] is used and came back as %+v", id, i, e)
			case !r.used && !there:
				c.fatal("%v[%d] is lost", id, i)
			case there && e.InDoubt != (r.doubt || r.started):
				if !powerCut || e.InDoubt || !r.started {
					c.fatal("%v[%d] in doubt %t; the model says doubt %t, started %t", id, i, e.InDoubt, r.doubt, r.started)
				}
			}
			if there && !r.unsure {
				r.doubt = e.InDoubt
				if r.later != (e.State == mailq.InDeferral) && !r.started {
					c.fatal("%v[%d] is %v, deferred in the model: %t", id, i, e.State, r.later)
				}
				r.later = e.State == mailq.InDeferral
			}
			r.started, r.unsure = false, false
		}
		all := true
		for _, r := range m.rcpts {
			all = all && r.used
		}
		if all && c.rng.IntN(2) == 0 {
			delete(c.mail, id)
		}
	}
	c.out, c.sent, c.settles = nil, nil, nil
	st := c.s.Stats()
	if got := st.Pending + st.Deferred + st.Held + st.Claimed + st.Damaged; st.Enqueued != st.Used.Total()+got || got != live {
		c.fatal("the identity does not hold: %+v, %d live", st, live)
	}
}

// recoverTwice checks, on a copy, that reading the store twice gives the same, and that a fold
// of the log gives the bytes that a replay does.
func (c *crasher) recoverTwice() {
	c.t.Helper()
	fs := c.fs.Clone()
	d, err := fs.OpenDir("/store", false)
	if err != nil {
		c.fatal("%v", err)
	}
	m, err := readMeta(d)
	if err != nil {
		return // the store was never made
	}
	var sums [2]uint32
	for i := range sums {
		r, err := recoverStore(d, m.uuid, true)
		if err != nil {
			c.fatal("recovering: %v", err)
		}
		sums[i] = tableSum(r.table, m.uuid)
		var folded, encoded bytes.Buffer
		if err := checkpoint.Fold(&folded, r.newest, r.found, m.uuid, r.table.Applied); err != nil && r.table.Applied != 0 {
			c.fatal("folding: %v", err)
		} else if err == nil {
			base := int64(0)
			if r.newest != nil {
				base = r.newest.LogBytes
			}
			if err := checkpoint.Encode(&encoded, r.table, m.uuid, base+r.found.ReplayedBytes); err != nil {
				c.fatal("encoding: %v", err)
			}
			if !bytes.Equal(folded.Bytes(), encoded.Bytes()) {
				c.fatal("a fold and a replay differ at %v", r.table.Applied)
			}
		}
		if err := r.close(); err != nil {
			c.fatal("%v", err)
		}
	}
	if sums[0] != sums[1] {
		c.fatal("replayed twice, %08x and %08x", sums[0], sums[1])
	}
}

// crash ends the store at the image that was taken, in one of the ways there are.
func (c *crasher) crash() {
	if !c.now.Load() {
		c.fs.OnOp(nil)
		c.image.Store(c.fs.Clone())
	}
	old := c.s
	if err := old.Close(); err != nil && !errors.Is(err, ErrClosed) {
		c.fatal("closing the store that lives on elsewhere: %v", err)
	}
	c.fs.OnOp(nil)
	c.fs = c.image.Load()
	c.image.Store(nil)
	c.now.Store(false)
	c.power = c.rng.IntN(2) == 0
	if c.power {
		c.fs.PowerCut(c.rng)
		c.note("POWER CUT")
	} else {
		c.note("KILL")
	}
}

func TestCrash(t *testing.T) {
	histories := 150
	if testing.Short() {
		histories = 20
	}
	if n, err := strconv.Atoi(os.Getenv("CRASH_HISTORIES")); err == nil {
		histories = n
	}
	seed := uint64(20261124)
	if n, err := strconv.ParseUint(os.Getenv("CRASH_SEED"), 10, 64); err == nil {
		seed = n
	}
	for i := range histories {
		s := seed + uint64(i)
		ok := t.Run(strconv.FormatUint(s, 10), func(t *testing.T) { crashHistory(t, s) })
		if !ok {
			t.Fatalf("seed %d; CRASH_SEED=%d CRASH_HISTORIES=1 go test ./wal -run TestCrash", s, s)
		}
	}
}

func crashHistory(t *testing.T, seed uint64) {
	ctx := context.Background()
	c := &crasher{t: t, rng: rand.New(rand.NewPCG(seed, 1)), fs: memdisk.New(memdisk.Config{}), mail: make(map[ID]*modelMail)}
	c.open()
	for range 1 + c.rng.IntN(4) {
		c.arm(1 + c.rng.IntN(400))
		for n := 0; !c.now.Load() && n < 400; n++ {
			c.step(ctx)
		}
		c.crash()
		// A chain: the opening is crashed too, before anything is acknowledged.
		cut := c.power
		for range c.rng.IntN(3) {
			c.arm(1 + c.rng.IntN(60))
			s, err := Open("/store", c.options())
			if err != nil {
				c.fatal("opening, to be crashed: %v", err)
			}
			c.s = s
			c.note("crash in the opening")
			c.crash()
			cut = cut || c.power
		}
		c.recoverTwice()
		c.open()
		c.compare(cut)
	}
	if err := c.s.Close(); err != nil {
		c.fatal("close: %v", err)
	}
	found, err := Verify("/store", c.options())
	if err != nil || len(found) > 0 {
		c.fatal("verify: %v %v", found, err)
	}
}
