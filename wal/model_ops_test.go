package wal

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"testing/synctest"
	"time"

	"github.com/mtawal/mtawal/mailq"
)

// draft is a batch together with what it does, once the IDs are known.
type draft struct {
	batch   Batch
	texts   [][]byte // bodies of its messages
	settles []change
	blocked bool // a queue in it takes no mail
	text    string
}

// change is what the draft does if its messages got these IDs at that time.
func (d *draft) change(ids []ID, at time.Time) change {
	list := slices.Clone(d.settles)
	for i := range d.batch.Enqueue {
		list = append(list, enqueued(ids[i], &d.batch.Enqueue[i], d.texts[i], at))
	}
	return all(list...)
}

// claim claims what is due somewhere. What is due must be handed out.
func (h *history) claim() {
	now := time.Now()
	due := make(map[string]int)
	h.w.each(func(r ref) {
		if h.w.due(r, now) {
			due[h.w.rcpt(r).queue]++
		}
	})
	con, manual := h.auto, h.chance(3)
	if manual {
		con = h.manual
	}
	if len(due) > 0 && h.chance(3) {
		d, err := con.Next(bgCtx)
		h.must("next", err)
		h.take(d, manual)
		return
	}
	q := h.queue()
	d, ok := con.TryNext(q)
	if ok != (due[q] > 0) {
		h.fail("%d recipients are due in %q, and TryNext says %t", due[q], q, ok)
	}
	if ok {
		h.take(d, manual)
	}
}

// start starts what a consumer with ManualStart has.
func (h *history) start() {
	for _, k := range h.held {
		if !k.manual || k.lost {
			continue
		}
		some := k.left[:1+h.rng.IntN(len(k.left))]
		h.must("start", k.d.Start(bgCtx, some...))
		for _, i := range some {
			if r := (ref{k.d.ID, i}); !h.w.out[r] {
				h.w.out[r], h.since[r] = true, time.Now()
			}
		}
		h.note("start %v %v", k.d.ID, some)
		return
	}
}

// release gives a delivery back.
func (h *history) release() {
	if len(h.held) == 0 {
		return
	}
	k := h.held[h.rng.IntN(len(h.held))]
	var list []change
	now := time.Now()
	for _, i := range k.left {
		r := ref{k.d.ID, i}
		if h.w.out[r] {
			list = append(list, h.w.outcome(r, Outcome{Result: Uncertain}, true, now))
		} else {
			delete(h.w.out, r)
		}
	}
	h.note("release %v", k.d.ID)
	k.d.Release()
	synctest.Wait()
	all(list...)(h.w)
	if k.d.Context().Err() == nil {
		h.fail("%v was released, its context has not ended", k.d.ID)
	}
}

var results = []Result{Delivered, Delivered, Delivered, Failed, Expired, Removed, Replaced, Deferred, Deferred, Uncertain, Held, Released}

// outcome is any outcome for a recipient.
func (h *history) outcome(i int, uncertain bool) Outcome {
	o := Outcome{Recipient: i, Result: results[h.rng.IntN(len(results))]}
	if o.Result == Uncertain && !uncertain {
		o.Result = Delivered
	}
	switch {
	case o.Result == Replaced:
		o.Replace = h.recipients(3)
	case o.Result == Deferred, o.Result == Uncertain && h.chance(2):
		o.Until = time.Now().Add(time.Duration(1+h.rng.IntN(100)) * time.Second)
	}
	if h.chance(3) {
		o.Note = []byte(fmt.Sprintf("451 try %d", h.rng.IntN(1000)))
	}
	return o
}

// draft makes a batch that is valid now, of recipients that nothing under way touches.
// Uncertain asks for the queue's policy, which must not change meanwhile.
func (h *history) draft(settles, edits, messages int, uncertain bool) *draft {
	d := &draft{}
	now := time.Now()
	for _, k := range h.shuffled() {
		if settles == 0 {
			break
		}
		if slices.ContainsFunc(k.left, func(i int) bool { return h.touched[ref{k.d.ID, i}] }) {
			continue
		}
		settles--
		s := Settlement{Delivery: k.d}
		if h.chance(3) && !k.lost {
			o := h.outcome(All, uncertain)
			s.Outcomes = []Outcome{o}
			for _, i := range k.left {
				o.Recipient = i
				d.settles = append(d.settles, h.touch(ref{k.d.ID, i}, o, true, now))
			}
		} else {
			for _, i := range k.left {
				if len(s.Outcomes) == 0 || h.chance(2) {
					o := h.outcome(i, uncertain)
					s.Outcomes = append(s.Outcomes, o)
					d.settles = append(d.settles, h.touch(ref{k.d.ID, i}, o, true, now))
				}
			}
		}
		d.batch.Settle = append(d.batch.Settle, s)
		d.text += fmt.Sprintf(" settle %v %v", k.d.ID, s.Outcomes)
	}
	for range edits {
		if r, ok := h.anyLive(); ok {
			e := Edit{ID: r.ID, Outcomes: []Outcome{h.outcome(r.Index, uncertain)}}
			d.settles = append(d.settles, h.touch(r, e.Outcomes[0], false, now))
			d.batch.Edit = append(d.batch.Edit, e)
			d.text += fmt.Sprintf(" edit %v %v", e.ID, e.Outcomes)
		}
	}
	keys := map[string]bool{}
	for range messages {
		m, text := h.message()
		if keys[m.Key] {
			m.Key = ""
		}
		keys[m.Key] = m.Key != ""
		d.batch.Enqueue, d.texts = append(d.batch.Enqueue, m), append(d.texts, text)
		d.blocked = d.blocked || h.suspended(m.Recipients)
		d.text += fmt.Sprintf(" enqueue %v key %q %d bytes to %d", m.ID, m.Key, len(text), len(m.Recipients))
	}
	return d
}

func (h *history) touch(r ref, o Outcome, claimed bool, now time.Time) change {
	h.touched[r] = true
	return h.w.outcome(r, o, claimed, now)
}

func (h *history) shuffled() []*held {
	list := slices.Clone(h.held)
	h.rng.Shuffle(len(list), func(i, j int) { list[i], list[j] = list[j], list[i] })
	return list
}

// anyLive is a recipient that is not used, and that nothing under way touches.
func (h *history) anyLive() (ref, bool) {
	var list []ref
	h.w.each(func(r ref) {
		if !h.touched[r] {
			list = append(list, r)
		}
	})
	if len(list) == 0 {
		return ref{}, false
	}
	return list[h.rng.IntN(len(list))], true
}

// commit commits a batch and waits for it.
func (h *history) commit(settles, edits, messages int) {
	d := h.draft(settles, edits, messages, true)
	if len(d.batch.Settle)+len(d.batch.Edit)+len(d.batch.Enqueue) == 0 {
		return
	}
	h.note("commit%s", d.text)
	now := time.Now()
	ids, err := h.s.Commit(bgCtx, d.batch)
	if d.blocked {
		if !errors.Is(err, ErrFull) {
			h.fail("into a suspended queue: %v", err)
		}
		return
	}
	h.must("commit", err)
	h.accept(d, ids)
	h.apply(d.change(ids, now))
}

// accept checks the IDs of a batch.
func (h *history) accept(d *draft, ids []ID) {
	for i, m := range d.batch.Enqueue {
		first, seen := h.w.keys[m.Key]
		switch {
		case m.Key != "" && seen:
			if ids[i] != first {
				h.fail("key %q got %v, the first was %v", m.Key, ids[i], first)
			}
		case m.ID != 0:
			if ids[i] != m.ID {
				h.fail("reserved %v, got %v", m.ID, ids[i])
			}
		default:
			h.show(ids[i])
		}
	}
}

// apply applies what has been acknowledged, and looks after the claims that it ended.
func (h *history) apply(c change) {
	c(h.w)
	for _, k := range h.held {
		for _, i := range k.left {
			_, out := h.w.out[ref{k.d.ID, i}]
			k.lost = k.lost || !out && !h.touchedByClaim(k, i)
		}
	}
}

// touchedByClaim reports whether the claim itself settled a recipient.
func (h *history) touchedByClaim(k *held, i int) bool {
	return k.d.Claim().(*claim).rcpts[k.d.Claim().(*claim).find(i)].st == slotDone
}

// enqueue enqueues one message.
func (h *history) enqueue() {
	m, text := h.message()
	h.note("enqueue %v key %q %d bytes to %d", m.ID, m.Key, len(text), len(m.Recipients))
	now := time.Now()
	id, err := h.s.Enqueue(bgCtx, m)
	if h.suspended(m.Recipients) {
		if !errors.Is(err, ErrFull) {
			h.fail("into a suspended queue: %v", err)
		}
		return
	}
	h.must("enqueue", err)
	d := &draft{batch: Batch{Enqueue: []Message{m}}, texts: [][]byte{text}}
	h.accept(d, []ID{id})
	h.apply(d.change([]ID{id}, now))
}

// markUsed marks recipients used by ID, also those that are.
func (h *history) markUsed() {
	r, ok := h.anyLive()
	if !ok {
		return
	}
	list := []int{r.Index}
	if h.chance(3) {
		list = []int{All}
	}
	h.note("mark used %v %v", r.ID, list)
	h.must("mark used", h.s.MarkUsed(bgCtx, r.ID, list...))
	h.apply(func(w *world) {
		for i, v := range slices.Clone(w.live[r.ID].rcpts) {
			if (list[0] == All || list[0] == i) && !v.used {
				w.mark(ref{r.ID, i}, Delivered)
			}
		}
	})
}

// setQueue changes the state of a queue.
func (h *history) setQueue() {
	s := QueueState{Doubt: mailq.DoubtPolicy(h.rng.IntN(3))}
	if h.chance(3) {
		s.Mode = mailq.QueueMode(h.rng.IntN(3))
	}
	if s.Doubt == mailq.DeferDoubt {
		s.DoubtDelay = time.Duration(h.rng.IntN(60)) * time.Second
	}
	if h.chance(3) {
		s = QueueState{}
	}
	q := h.queue()
	h.note("queue %q %+v", q, s)
	h.must("set queue", h.s.SetQueue(bgCtx, q, s))
	queueSet(q, s)(h.w)
}

func (h *history) flush() {
	q := h.queue()
	h.note("flush %q", q)
	now := time.Now()
	h.must("flush", h.s.Flush(bgCtx, q))
	flushed(q, now)(h.w)
}

// refused asks for what can't be: the error says so, and nothing of the batch is there.
func (h *history) refused() {
	m, _ := h.message()
	m.Key, m.ID = "", 0
	b := Batch{Enqueue: []Message{m}}
	want := ErrNotFound
	switch h.rng.IntN(4) {
	case 0:
		b.Edit = []Edit{{ID: 1 << 62, Outcomes: []Outcome{{Recipient: 0, Result: Delivered}}}}
	case 1:
		b.Enqueue[0].ID, want = 1<<62, ErrInvalid
	case 2:
		r, ok := h.anyLive()
		if !ok {
			return
		}
		b.Edit = []Edit{{ID: r.ID, Outcomes: []Outcome{{Recipient: r.Index, Result: Delivered}, {Recipient: 1 << 19, Result: Delivered}}}}
	default:
		if len(h.held) == 0 {
			return
		}
		k := h.held[h.rng.IntN(len(h.held))]
		o := Outcome{Recipient: k.left[0], Result: Delivered}
		b.Settle, want = []Settlement{{Delivery: k.d, Outcomes: []Outcome{o, o}}}, ErrSettled
	}
	if h.suspended(m.Recipients) {
		return
	}
	h.note("refused: %v", want)
	if _, err := h.s.Commit(bgCtx, b); !errors.Is(err, want) {
		h.fail("a batch that is to be refused: %v, want %v", err, want)
	}
}

// cancelled gives up before the call: nothing happens, or it is not known.
func (h *history) cancelled() {
	ctx, cancel := context.WithCancel(bgCtx)
	cancel()
	d := h.draft(1, 1, 1, true)
	if d.blocked || len(d.batch.Enqueue) == 0 {
		return
	}
	h.note("cancelled%s", d.text)
	t := h.s.Submit(d.batch)
	now := time.Now()
	if _, err := t.Wait(ctx); err != nil && !errors.Is(err, ErrUnknown) {
		h.fail("waiting without time: %v", err)
	}
	ids, err := t.Wait(bgCtx)
	h.must("waiting again", err)
	h.accept(d, ids)
	h.apply(d.change(ids, now))
}
