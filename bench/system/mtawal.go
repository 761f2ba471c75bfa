package system

import (
	"context"
	"errors"
	"fmt"
	"sync/atomic"
	"time"

	"github.com/mtawal/mtawal/wal"
)

// Mtawal has the options that a user gets by saying nothing, but for the bound on deliveries
// that are out.
var Mtawal = Spec{
	Name:    "mtawal",
	Durable: "the default: one durable write for each group of commits",
	Queue:   "Enqueue; Consumer.Next and Body.View; SettleAll(Delivered); Settle(Deferred)",
	Open:    func(dir string, _ Options) (System, error) { return openMtawal(dir, false) },
}

// MtawalTraced is Mtawal which can say whether it is compacting: it counts the callbacks.
var MtawalTraced = func() Spec {
	s := Mtawal
	s.Open = func(dir string, _ Options) (System, error) { return openMtawal(dir, true) }
	return s
}()

// MtawalQueue is mtawal as a Queue.
type MtawalQueue struct {
	store    *wal.Store
	consumer wal.Consumer
	at       atomic.Int64 // when a piece of a compaction was last copied
	log      atomic.Int64 // bytes of frames that are durable
	last     atomic.Int64 // CompactInfo.Moved then
	moved    atomic.Int64 // bytes in all
}

var (
	envelope   = []byte("MAIL FROM:<sender@example.net> SIZE=4096")
	recipients = func() (list []wal.Recipient) {
		for i := range RecipientsMax {
			list = append(list, wal.Recipient{Queue: fmt.Sprintf("smtp:%d.example.org", i), Address: "someone@example.org"})
		}
		return list
	}()
	background = context.Background()
)

func openMtawal(dir string, traced bool) (*MtawalQueue, error) {
	m := &MtawalQueue{}
	var o wal.Options
	if traced {
		o.Trace = &wal.Trace{Compacted: m.compacted, Durable: func(c wal.CommitInfo) { m.log.Add(c.Bytes) }}
	}
	var err error
	if m.store, err = wal.Open(dir, o); err != nil {
		return nil, err
	}
	if m.consumer, err = m.store.Consumer(wal.ConsumerOptions{InFlight: 10_000}); err != nil {
		return nil, errors.Join(err, m.store.Close())
	}
	return m, nil
}

// compacted is called by one compaction at a time.
func (m *MtawalQueue) compacted(i wal.CompactInfo) {
	m.at.Store(time.Now().UnixNano())
	was := m.last.Swap(i.Moved)
	if i.Moved < was { // another compaction
		was = 0
	}
	m.moved.Add(i.Moved - was)
}

// Log is how many bytes were appended to the log, and how many of them were copies made by compactions, of a store that is traced.
func (m *MtawalQueue) Log() (all, moved int64) { return m.log.Load(), m.moved.Load() }

// Compacting reports whether a piece was copied within the last 50 ms.
func (m *MtawalQueue) Compacting() bool {
	return time.Now().UnixNano()-m.at.Load() < int64(50*time.Millisecond)
}

func mtawalMessage(m Message) wal.Message {
	return wal.Message{Envelope: envelope, Body: m.Body, Recipients: recipients[:m.Recipients]}
}

func (m *MtawalQueue) Enqueue(msg Message) error {
	_, err := m.store.Enqueue(background, mtawalMessage(msg))
	return err
}

func (m *MtawalQueue) Fill(list [][]byte) error {
	b := wal.Batch{Enqueue: make([]wal.Message, len(list))}
	for i := range list {
		b.Enqueue[i] = mtawalMessage(Message{Body: list[i], Recipients: 1})
	}
	_, err := m.store.Commit(background, b)
	return err
}

type mtawalJob struct{ d *wal.Delivery }

func (m *MtawalQueue) Claim(ctx context.Context) (Job, error) {
	d, err := m.consumer.Next(ctx)
	return mtawalJob{d}, err
}

func (m *MtawalQueue) Pending() int { return int(m.store.Stats().WorkQueueLength) }

func (j mtawalJob) Read(f func([]byte)) error {
	return j.d.Body.View(0, j.d.Body.Size(), func(b []byte) error { f(b); return nil })
}

func (j mtawalJob) Used() error { return j.d.SettleAll(background, wal.Delivered) }

func (j mtawalJob) Defer(until time.Time) error {
	return j.d.Settle(background, []wal.Outcome{{Recipient: wal.All, Result: wal.Deferred, Until: until}})
}

// Clear marks all used and has the segments recycled. Compact would do more: a store that is empty it makes as small as can be,
// and the next turn would find no segments to write to.
func (m *MtawalQueue) Clear() error {
	const part = 1000
	var edits []wal.Edit
	flush := func() error {
		_, err := m.store.Commit(background, wal.Batch{Edit: edits})
		edits = edits[:0]
		return err
	}
	var last wal.ID
	for e, err := range m.store.Entries(background, wal.Filter{}) {
		if err != nil {
			return err
		}
		if e.ID == last {
			continue
		}
		last = e.ID
		edits = append(edits, wal.Edit{ID: e.ID, Outcomes: []wal.Outcome{{Recipient: wal.All, Result: wal.Delivered}}})
		if len(edits) == part {
			if err := flush(); err != nil {
				return err
			}
		}
	}
	if len(edits) > 0 {
		if err := flush(); err != nil {
			return err
		}
	}
	if n := m.Pending(); n != 0 {
		return fmt.Errorf("%d recipients are left in the queue", n)
	}
	return m.Checkpoint()
}

func (m *MtawalQueue) Checkpoint() error { return m.store.Checkpoint(background) }
func (m *MtawalQueue) Compact() error    { return m.store.Compact(background) }
func (m *MtawalQueue) Close() error      { return m.store.Close() }
