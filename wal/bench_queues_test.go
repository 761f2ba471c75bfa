package wal

import (
	"fmt"
	"runtime"
	"slices"
	"sync/atomic"
	"testing"
	"time"
)

// manyMessages is how many messages wait in the benchmarks of this file, and manyQueues in
// how many queues; manyOut is how many deliveries are out meanwhile.
const (
	manyMessages = 1_000_000
	manyQueues   = 50_000
	manyOut      = 5000
)

// waits makes a store in dir in which so many messages wait in so many queues, with a
// checkpoint behind them: deferred, or due if until is zero.
func waits(b *testing.B, dir string, o Options, messages, queues int, until func(i int) time.Time) {
	b.Helper()
	s, err := Open(dir, o)
	if err != nil {
		b.Fatal(err)
	}
	body := benchBody(100)
	for i := 0; i < messages; {
		var batch Batch
		for ; i < messages && len(batch.Enqueue) < 1000; i++ {
			r := Recipient{Queue: fmt.Sprintf("smtp:destination-%d.example.org", i*7919%queues), Address: "bob@example.org"}
			if until != nil {
				r.NotBefore = until(i)
			}
			batch.Enqueue = append(batch.Enqueue, Message{Body: body, Recipients: []Recipient{r}})
		}
		if _, err := s.Commit(b.Context(), batch); err != nil {
			b.Fatal(err)
		}
	}
	if err := s.Checkpoint(b.Context()); err != nil {
		b.Fatal(err)
	}
	benchClose(b, s, dir)
}

// opened opens a store and claims from it; it returns how long that took at best, and the
// heap that the open store takes.
func opened(b *testing.B, dir string, o Options) (s *Store, c *consumer, took time.Duration, bytes int64) {
	b.Helper()
	took = time.Hour
	for try := 1; ; try++ {
		before := heap()
		began := time.Now()
		s, err := Open(dir, o)
		if err != nil {
			b.Fatal(err)
		}
		x, err := s.Consumer(ConsumerOptions{InFlight: InFlightMax, ManualStart: true})
		if err != nil {
			b.Fatal(err)
		}
		c := x.(*consumer)
		d, err := c.Next(b.Context())
		if err != nil {
			b.Fatal(err)
		}
		took = min(took, time.Since(began))
		d.Release()
		if try == 5 {
			for more := true; more; { // the clock is at it
				s.mu.Lock()
				more = s.handOut(promoteMany) || s.table.LinkTimes(promoteMany)
				s.mu.Unlock()
			}
			return s, c, took, heap() - before
		}
		benchClose(b, s, dir)
	}
}

// BenchmarkManyQueues is 1,000,000 deferred messages in 50,000 queues. It reports what an
// opening takes and how that compares with as many pending in one queue, the heap of a
// queue, and the time of a claim in memory (without reading the message) while messages
// become due, 5,000 deliveries are out, and each that ends is deferred again.
//
// On two cores of a shared x86-64 virtual machine, with much other work on both: claim p50 1.1 µs,
// p99 26 µs; 605 bytes a queue, 80 a pending message. Opening and first claim, the best of six in a
// calm minute: 154 ms, and 155 ms for one queue; 184 and 143 ms of processor time.
func BenchmarkManyQueues(b *testing.B) {
	dir := b.TempDir()
	var at atomic.Int64
	at.Store(time.Date(2030, 1, 1, 0, 0, 0, 0, time.UTC).UnixNano())
	o := Options{NoSync: true, now: func() time.Time { return time.Unix(0, at.Load()) }}
	start := o.now()
	due := func(i int) time.Time { return start.Add(time.Hour + time.Duration(i)*time.Millisecond) }
	waits(b, dir+"/one", o, manyMessages, 1, nil)
	waits(b, dir+"/few", o, manyMessages, 1, due)
	waits(b, dir+"/many", o, manyMessages, manyQueues, due)
	at.Store(due(100).UnixNano())
	goroutines := runtime.NumGoroutine()
	for b.Loop() {
		s, _, tookOne, pending := opened(b, dir+"/one", o)
		benchClose(b, s, dir+"/one")
		s, _, _, few := opened(b, dir+"/few", o)
		benchClose(b, s, dir+"/few")
		s, c, took, many := opened(b, dir+"/many", o)
		b.ReportMetric(tookOne.Seconds()*1e3, "one-open-ms")
		b.ReportMetric(took.Seconds()*1e3, "open-ms")
		b.ReportMetric(took.Seconds()/tookOne.Seconds(), "open-ratio")
		b.ReportMetric(float64(pending)/manyMessages, "B/pending")
		b.ReportMetric(float64(few)/manyMessages, "B/deferred")
		b.ReportMetric(float64(many-few)/manyQueues, "B/queue")

		var out []*claim
		var times []time.Duration
		for i := range 4*manyOut + 20_000 {
			at.Add(int64(time.Millisecond))
			began := time.Now()
			cl, _, err := c.take(nil)
			if err != nil {
				b.Fatal(err)
			}
			if i >= 2*manyOut { // warm
				times = append(times, time.Since(began))
			}
			if cl != nil {
				out = append(out, cl)
			}
			if len(out) > manyOut {
				outcome := []Outcome{{Recipient: All, Result: Deferred, Until: o.now().Add(time.Hour)}}
				if err := out[0].Settle(b.Context(), outcome); err != nil {
					b.Fatal(err)
				}
				release(out[0].pins)
				out = out[1:]
			}
		}
		slices.Sort(times)
		b.ReportMetric(float64(times[len(times)/2].Nanoseconds())/1e3, "claim-p50-µs")
		b.ReportMetric(float64(times[len(times)*99/100].Nanoseconds())/1e3, "claim-p99-µs")
		b.ReportMetric(float64(runtime.NumGoroutine()-goroutines), "goroutines")
		for _, cl := range out {
			release(cl.pins)
		}
		benchClose(b, s, dir+"/many")
	}
}
