package state

import (
	"runtime"
	"testing"

	"github.com/mtawal/mtawal/mailq"
	"github.com/mtawal/mtawal/segment"
)

// BenchmarkMillion fills a table with 1,000,000 messages of one recipient and reports the
// heap that each takes.
func BenchmarkMillion(b *testing.B) {
	const n = 1_000_000
	m := &mailq.Message{Recipients: one("smtp:example.org")}
	buf := make([]byte, segment.EnqueueSize(m, 0))
	var perMessage float64
	for b.Loop() {
		var before, after runtime.MemStats
		b.StopTimer()
		runtime.GC()
		runtime.ReadMemStats(&before)
		b.StartTimer()
		t := NewTable()
		for id := uint64(1); id <= n; id++ {
			r := segment.PutEnqueue(buf, 128, m, &segment.EnqueueFields{ID: id, BodyLen: 4096})
			if err := t.Apply(segment.Pos(id*8192), r); err != nil {
				b.Fatal(err)
			}
		}
		b.StopTimer()
		runtime.GC()
		runtime.ReadMemStats(&after)
		perMessage = float64(after.HeapAlloc-before.HeapAlloc) / n
		if t.Messages() != n {
			b.Fatal(t.Messages())
		}
		b.StartTimer()
	}
	b.ReportMetric(perMessage, "B/message")
	b.ReportMetric(float64(b.Elapsed().Nanoseconds())/float64(b.N)/n, "ns/message")
}

func BenchmarkEnqueueSettle(b *testing.B) {
	m := &mailq.Message{Recipients: one("smtp:example.org")}
	runs := []segment.SettleRun{{Count: 1, Result: mailq.Delivered}}
	enq, set := make([]byte, segment.EnqueueSize(m, 0)), make([]byte, segment.SettleSize(runs))
	t, id := NewTable(), uint64(0)
	b.ReportAllocs()
	for b.Loop() {
		id++
		if err := t.Apply(segment.Pos(id), segment.PutEnqueue(enq, 128, m, &segment.EnqueueFields{ID: id})); err != nil {
			b.Fatal(err)
		}
		if err := t.Apply(segment.Pos(id), segment.PutSettle(set, 128, id, 0, runs)); err != nil {
			b.Fatal(err)
		}
	}
}

func BenchmarkFind(b *testing.B) {
	const n = 1 << 20
	t := NewTable()
	for id := uint64(1); id <= n; id++ {
		t.newMessage(id, 1)
	}
	b.ResetTimer()
	id := uint64(1)
	for b.Loop() {
		id = id*0x5851f42d4c957f2d + 1
		if _, ok := t.Find(id%n + 1); !ok {
			b.Fatal("lost")
		}
	}
}
