package segment

import (
	"bytes"
	"testing"
)

// benchImage is a segment full of frames of 32 messages of 4 KiB, as many producers make them.
func benchImage() *image {
	g := newImage(5, 0x5a17_0000_0001, 16<<20)
	g.frame(Open, openBatch())
	body := bytes.Repeat([]byte("0123456789abcdef"), 256)
	for id := uint64(1); g.off+160<<10 < g.Size; {
		b := &batch{}
		for range 32 {
			b.enqueue(id, simple("local", body))
			id++
		}
		g.frame(Data, b)
	}
	return g
}

func openBatch() *batch {
	b := &batch{}
	b.add(OpenSize, func(dst []byte, back int64) Record { return PutOpen(dst, back, OpenInfo{}) })
	return b
}

// BenchmarkScan is what replay and folds do: headers and tables are checked and read, bodies are not.
func BenchmarkScan(b *testing.B) {
	g := benchImage()
	s, _ := g.open(b)
	b.SetBytes(g.off)
	b.ReportAllocs()
	records := 0
	for b.Loop() {
		records = 0
		_, err := s.Scan(s.First(), FrameHeader{}, func(f *Frame) error {
			return f.ForEach(func(Pos, Record) error { records++; return nil })
		})
		if err != nil {
			b.Fatal(err)
		}
	}
	b.ReportMetric(float64(b.Elapsed().Nanoseconds())/float64(b.N)/float64(records), "ns/record")
}
