package measure

import (
	"time"

	"github.com/HdrHistogram/hdrhistogram-go"
)

// Hist is a histogram of latencies, from 1 us to a minute, to 1 %. It is for one goroutine.
type Hist struct{ h *hdrhistogram.Histogram }

const (
	histLow  = int64(time.Microsecond)
	histHigh = int64(time.Minute)
)

// NewHist makes an empty one.
func NewHist() *Hist { return &Hist{hdrhistogram.New(histLow, histHigh, 2)} }

// Record counts one; longer than a minute counts as a minute.
func (h *Hist) Record(d time.Duration) {
	// It fails for what is out of range alone.
	_ = h.h.RecordValue(min(max(int64(d), histLow), histHigh))
}

// Merge adds what another one counted.
func (h *Hist) Merge(o *Hist) { h.h.Merge(o.h) }

// Count is how many there are.
func (h *Hist) Count() int64 { return h.h.TotalCount() }

// At is the value that the given percent of all do not exceed.
func (h *Hist) At(percent float64) time.Duration {
	return time.Duration(h.h.ValueAtPercentile(percent))
}

// Point is a point of a distribution.
type Point struct {
	Percent float64       `json:"percent"`
	Latency time.Duration `json:"ns"`
}

var curvePercents = []float64{0, 10, 25, 50, 75, 90, 95, 97.5, 99, 99.5, 99.75, 99.9, 99.95, 99.99, 100}

// Curve is the distribution at the percentiles that there are enough counts for.
func (h *Hist) Curve() (list []Point) {
	for _, p := range curvePercents {
		if p > 50 && p < 100 && float64(h.Count())*(100-p)/100 < 2 {
			continue
		}
		list = append(list, Point{p, h.At(p)})
	}
	return list
}
