package wal

import (
	"context"
	"testing"
	"time"
)

// BenchmarkDefer is a durable deferral of a message that is due again at once, by 64 workers.
func BenchmarkDefer(b *testing.B) {
	const workers = 64
	s := benchStore(b, Options{})
	ctx, m := context.Background(), benchMail(4<<10)
	for range 4 * workers {
		if _, err := s.Submit(Batch{Enqueue: []Message{m}}).Wait(ctx); err != nil {
			b.Fatal(err)
		}
	}
	c, err := s.Consumer(ConsumerOptions{})
	if err != nil {
		b.Fatal(err)
	}
	b.ReportAllocs()
	inParallel(b, workers, func() error {
		d, err := c.Next(ctx)
		if err != nil {
			return err
		}
		return d.Settle(ctx, []Outcome{{Recipient: All, Result: Deferred, Until: time.Now()}})
	})
}

// BenchmarkCheckpoint is folding 1,000 new messages into a checkpoint of 100,000.
func BenchmarkCheckpoint(b *testing.B) {
	const messages, fresh = 100_000, 1000
	s := benchStore(b, Options{NoSync: true})
	ctx, m := context.Background(), benchMail(64)
	add := func(n int) {
		for n > 0 {
			var batch Batch
			for range min(n, fresh) {
				batch.Enqueue = append(batch.Enqueue, m)
			}
			if _, err := s.Commit(ctx, batch); err != nil {
				b.Fatal(err)
			}
			n -= len(batch.Enqueue)
		}
	}
	add(messages)
	if err := s.Checkpoint(ctx); err != nil {
		b.Fatal(err)
	}
	b.ReportAllocs()
	for b.Loop() {
		add(fresh)
		if err := s.Checkpoint(ctx); err != nil {
			b.Fatal(err)
		}
	}
}

// BenchmarkCompact is emptying segments of which half is dead, here and there: bytes are those that
// were live in them.
func BenchmarkCompact(b *testing.B) {
	const messages, size = 4000, 4 << 10
	s := benchStore(b, Options{NoSync: true, SegmentSize: 4 << 20})
	ctx, m := context.Background(), benchMail(size)
	b.SetBytes(messages / 2 * size)
	b.ReportAllocs()
	var batch Batch
	for range messages / 8 {
		batch.Enqueue = append(batch.Enqueue, m)
	}
	for b.Loop() {
		b.StopTimer()
		var used []Edit
		for range 8 {
			ids, err := s.Commit(ctx, batch)
			if err != nil {
				b.Fatal(err)
			}
			for i, id := range ids {
				if i%2 == 0 {
					used = append(used, Edit{ID: id, Outcomes: []Outcome{{Recipient: All, Result: Delivered}}})
				}
			}
		}
		if _, err := s.Commit(ctx, Batch{Edit: used}); err != nil {
			b.Fatal(err)
		}
		b.StartTimer()
		if err := s.Compact(ctx); err != nil {
			b.Fatal(err)
		}
		b.StopTimer()
		for e, err := range s.Entries(ctx, Filter{}) {
			if err != nil {
				b.Fatal(err)
			}
			if err := s.MarkUsed(ctx, e.ID, All); err != nil {
				b.Fatal(err)
			}
		}
		b.StartTimer()
	}
}
