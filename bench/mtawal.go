package main

import (
	"context"
	"fmt"
	"slices"

	"github.com/mtawal/mtawal/wal"
)

var mtawalMaker = maker{name: "mtawal", durable: "pwritev2(RWF_DSYNC) per group", open: openMtawal}

// mtawal with the options that a user gets by saying nothing.
type mtawal struct {
	store    *wal.Store
	consumer wal.Consumer
	ids      [][]wal.ID // by producer
}

var ctx = context.Background()

const queueName = "smtp:example.org"

var recipients = []wal.Recipient{{Queue: queueName, Address: "someone@example.org"}}

var envelope = []byte("MAIL FROM:<sender@example.net> SIZE=4096")

func message(body []byte) wal.Message {
	return wal.Message{Envelope: envelope, Body: body, Recipients: recipients}
}

func openMtawal(dir string, s shape) (system, error) {
	store, err := wal.Open(dir, wal.Options{})
	if err != nil {
		return nil, err
	}
	m := &mtawal{store: store, ids: make([][]wal.ID, s.producers)}
	if m.consumer, err = store.Consumer(wal.ConsumerOptions{}); err != nil {
		return nil, err
	}
	return m, nil
}

func (m *mtawal) Enqueue(producer int, body []byte) error {
	id, err := m.store.Enqueue(ctx, message(body))
	m.ids[producer] = append(m.ids[producer], id)
	return err
}

func (m *mtawal) Cycle(_ int, body []byte) error {
	if _, err := m.store.Enqueue(ctx, message(body)); err != nil {
		return err
	}
	d, err := m.consumer.Next(ctx)
	if err != nil {
		return err
	}
	if err := d.Body.View(0, d.Body.Size(), func(b []byte) error { touch(b); return nil }); err != nil {
		return err
	}
	return d.SettleAll(ctx, wal.Delivered)
}

// touch reads every cache line.
func touch(b []byte) (sum byte) {
	for i := 0; i < len(b); i += 64 {
		sum ^= b[i]
	}
	return sum
}

func (m *mtawal) Reset() error {
	for i, ids := range m.ids {
		for part := range slices.Chunk(ids, 1000) {
			edits := make([]wal.Edit, len(part))
			for j, id := range part {
				edits[j] = wal.Edit{ID: id, Outcomes: []wal.Outcome{{Recipient: wal.All, Result: wal.Delivered}}}
			}
			if _, err := m.store.Commit(ctx, wal.Batch{Edit: edits}); err != nil {
				return err
			}
		}
		m.ids[i] = ids[:0]
	}
	if n := m.store.Stats().WorkQueueLength; n != 0 {
		return fmt.Errorf("%d recipients are left in the queue", n)
	}
	return m.store.Compact(ctx)
}

func (m *mtawal) Close() error { return m.store.Close() }
