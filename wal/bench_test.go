package wal

import (
	"context"
	"fmt"
	"math/rand/v2"
	"runtime/debug"
	"slices"
	"sync"
	"testing"
	"time"
)

// benchBody is bytes that no file system can make smaller.
func benchBody(n int) []byte {
	b := make([]byte, n)
	_, _ = rand.NewChaCha8([32]byte{1}).Read(b)
	return b
}

func benchStore(b *testing.B, o Options) *Store {
	b.Helper()
	s, err := Open(b.TempDir(), o)
	if err != nil {
		b.Fatal(err)
	}
	b.Cleanup(func() {
		if err := s.Close(); err != nil {
			b.Error(err)
		}
	})
	return s
}

func benchMail(size int) Message {
	return Message{Envelope: []byte("MAIL FROM:<ann@example.com>"), Body: benchBody(size),
		Recipients: []Recipient{{Queue: "smtp:example.org", Address: "bob@example.org"}}}
}

// inParallel has n goroutines share the iterations of a benchmark.
func inParallel(b *testing.B, n int, f func() error) {
	b.Helper()
	var wg sync.WaitGroup
	next := make(chan struct{}, n)
	for range n {
		wg.Go(func() {
			for range next {
				if err := f(); err != nil {
					b.Error(err)
				}
			}
		})
	}
	for b.Loop() {
		next <- struct{}{}
	}
	close(next)
	wg.Wait()
}

// BenchmarkEnqueue is durable enqueues: each returns when its message is on the device.
func BenchmarkEnqueue(b *testing.B) {
	for _, size := range []int{512, 4 << 10, 64 << 10} {
		for _, producers := range []int{1, 64} {
			b.Run(fmt.Sprintf("body=%d/producers=%d", size, producers), func(b *testing.B) {
				s := benchStore(b, Options{})
				ctx, m := context.Background(), benchMail(size)
				b.SetBytes(int64(size))
				b.ReportAllocs()
				inParallel(b, producers, func() error {
					_, err := s.Enqueue(ctx, m)
					return err
				})
			})
		}
	}
}

// BenchmarkStage is bodies that come in pieces, as DATA does: staged, then enqueued.
func BenchmarkStage(b *testing.B) {
	for _, size := range []int{64 << 10, 1 << 20, 25 << 20} {
		for _, producers := range []int{1, 16} {
			b.Run(fmt.Sprintf("body=%d/producers=%d", size, producers), func(b *testing.B) {
				s := benchStore(b, Options{})
				ctx, m := context.Background(), benchMail(0)
				body := benchBody(size)
				m.Body = nil
				b.SetBytes(int64(size))
				b.ReportAllocs()
				inParallel(b, producers, func() error {
					st, err := s.Stage(ctx, 0)
					if err != nil {
						return err
					}
					defer st.Abort()
					for piece := range slices.Chunk(body, 32<<10) {
						if _, err := st.Write(piece); err != nil {
							return err
						}
					}
					m := m
					m.Staged = st
					id, err := s.Enqueue(ctx, m)
					if err != nil {
						return err
					}
					return s.MarkUsed(ctx, id, All) // or it would fill the disk
				})
			})
		}
	}
}

// BenchmarkCycle is what an MTA does with a message: enqueue, claim, read, mark used.
func BenchmarkCycle(b *testing.B) {
	for _, workers := range []int{1, 64} {
		b.Run(fmt.Sprintf("workers=%d", workers), func(b *testing.B) {
			s := benchStore(b, Options{})
			ctx, m := context.Background(), benchMail(4<<10)
			c, err := s.Consumer(ConsumerOptions{})
			if err != nil {
				b.Fatal(err)
			}
			b.SetBytes(4 << 10)
			b.ReportAllocs()
			inParallel(b, workers, func() error {
				if _, err := s.Enqueue(ctx, m); err != nil {
					return err
				}
				d, err := c.Next(ctx)
				if err != nil {
					return err
				}
				if err := d.Body.View(0, d.Body.Size(), func([]byte) error { return nil }); err != nil {
					return err
				}
				return d.SettleAll(ctx, Delivered)
			})
		})
	}
}

// BenchmarkClaimInMemory is the claim alone: nothing is read from a device and nothing is
// waited for. Every claim is given back as it was.
func BenchmarkClaimInMemory(b *testing.B) {
	for _, queues := range []int{1, 1000} {
		b.Run(fmt.Sprintf("queues=%d", queues), func(b *testing.B) {
			s := benchStore(b, Options{NoSync: true})
			ctx, m := context.Background(), benchMail(512)
			for i := range 10_000 {
				m.Recipients[0].Queue = fmt.Sprintf("smtp:%d.example.org", i%queues)
				if _, err := s.Enqueue(ctx, m); err != nil {
					b.Fatal(err)
				}
			}
			c, err := s.Consumer(ConsumerOptions{ManualStart: true})
			if err != nil {
				b.Fatal(err)
			}
			b.ReportAllocs()
			for b.Loop() {
				d, err := c.Next(ctx)
				if err != nil {
					b.Fatal(err)
				}
				d.Release()
			}
		})
	}
}

// BenchmarkReopen opens a store of which all is in the newest checkpoint: messages of one recipient; the same whose IDs were
// reserved, and that expire, as those of an MTA; deferred ones.
func BenchmarkReopen(b *testing.B) {
	b.Run("plain", func(b *testing.B) { benchReopen(b, func(*Store, *Message) {}) })
	b.Run("mta", func(b *testing.B) {
		benchReopen(b, func(s *Store, m *Message) { m.ID, m.ExpiresAt = s.NewID(), time.Now().Add(time.Hour) })
	})
	b.Run("deferred", func(b *testing.B) {
		benchReopen(b, func(_ *Store, m *Message) { m.Recipients[0].NotBefore = time.Now().Add(time.Hour) })
	})
}

func benchReopen(b *testing.B, with func(*Store, *Message)) {
	dir := b.TempDir()
	s, err := Open(dir, Options{NoSync: true})
	if err != nil {
		b.Fatal(err)
	}
	const messages = 100_000
	m := benchMail(64)
	for range messages {
		with(s, &m)
		if _, err := s.Submit(Batch{Enqueue: []Message{m}}).Wait(context.Background()); err != nil {
			b.Fatal(err)
		}
	}
	if err := s.Close(); err != nil {
		b.Fatal(err)
	}
	b.ReportAllocs()
	for b.Loop() {
		s, err := Open(dir, Options{NoSync: true})
		if err != nil {
			b.Fatal(err)
		}
		if n := s.Stats().WorkQueueLength; n != messages {
			b.Fatalf("%d pending, want %d", n, messages)
		}
		if err := s.Close(); err != nil {
			b.Fatal(err)
		}
	}
	b.ReportMetric(float64(b.Elapsed().Nanoseconds())/float64(b.N)/messages, "ns/message")
}

// TestAppendAllocatesNothing: in the steady state an enqueue allocates nothing; the lists and
// tables of the store grow by less than one allocation a message. It runs on real files
// without a sync: the doubles allocate themselves.
func TestAppendAllocatesNothing(t *testing.T) {
	if b, ok := debug.ReadBuildInfo(); ok && slices.Contains(b.Settings, debug.BuildSetting{Key: "-race", Value: "true"}) {
		t.Skip("the race detector has sync.Pool forget what it holds")
	}
	s, err := Open(t.TempDir(), Options{NoSync: true, SegmentSize: 16 << 20})
	if err != nil {
		t.Fatal(err)
	}
	ctx, m := context.Background(), benchMail(512)
	enqueue := func() {
		if _, err := s.Enqueue(ctx, m); err != nil {
			t.Fatal(err)
		}
	}
	for range 500 {
		enqueue()
	}
	if n := testing.AllocsPerRun(1000, enqueue); n >= 1 {
		t.Errorf("an enqueue allocates %v times", n)
	}
	if err := s.Close(); err != nil {
		t.Fatal(err)
	}
}
