// Package report is what a run found: as a value, as JSON, as tables of text, and as a page
// with plots.
package report

import (
	"math"
	"slices"
	"time"

	"github.com/mtawal/mtawal/bench/measure"
)

// Report is everything, as JSON has it.
type Report struct {
	Environment measure.Env  `json:"environment"`
	Command     []string     `json:"command"`
	Took        string       `json:"took,omitempty"`
	Systems     []System     `json:"systems"`
	Rates       []Rate       `json:"rates,omitempty"`
	Backlogs    []Backlog    `json:"backlogs,omitempty"`
	Drains      []Drain      `json:"drains,omitempty"`
	Backgrounds []Background `json:"backgrounds,omitempty"`
	Steadies    []Steady     `json:"steadies,omitempty"`
}

// System is how a system was configured.
type System struct {
	Name    string `json:"name"`
	Version string `json:"version,omitempty"`
	Durable string `json:"durable"`
	Queue   string `json:"queue"`
	Floor   bool   `json:"floor,omitempty"`
}

// Rate is a workload that systems took turns at.
type Rate struct {
	Group      string `json:"group"` // enqueue, cycle ...
	Title      string `json:"title"`
	Producers  int    `json:"producers"`
	Size       string `json:"size"`
	Recipients int    `json:"recipients"`
	Floor      string `json:"floor,omitempty"` // 1.00 of the first ratio
	Peer       string `json:"peer,omitempty"`  // 1.00 of the second: the best peer
	DeviceFrom string `json:"device_from"`
	Rows       []Row  `json:"rows"`
}

// Row is one system. Medians are over the rounds; a ratio is the median of the ratios within
// each round.
type Row struct {
	System    string          `json:"system"`
	Floor     bool            `json:"floor,omitempty"`
	Peer      bool            `json:"peer,omitempty"`
	Error     string          `json:"error,omitempty"`
	Rounds    []Round         `json:"rounds"`
	PerSecond float64         `json:"per_second"`
	Spread    float64         `json:"spread"` // (highest - lowest) / median
	ToFloor   float64         `json:"to_floor,omitempty"`
	ToPeer    float64         `json:"to_peer,omitempty"`
	P50       time.Duration   `json:"p50_ns"`
	P99       time.Duration   `json:"p99_ns"`
	P999      time.Duration   `json:"p999_ns"`
	Device    float64         `json:"device_bytes_per_byte"`
	Own       float64         `json:"process_bytes_per_byte"`
	Curve     []measure.Point `json:"latencies,omitempty"` // of all rounds together
}

// Round is one turn of one system.
type Round struct {
	PerSecond float64       `json:"per_second"`
	P50       time.Duration `json:"p50_ns"`
	P99       time.Duration `json:"p99_ns"`
	P999      time.Duration `json:"p999_ns"`
	Device    float64       `json:"device_bytes_per_byte"`
	Own       float64       `json:"process_bytes_per_byte"`
}

// Median of a list; 0 of none.
func Median[T ~int64 | ~float64](list []T) T {
	if len(list) == 0 {
		return 0
	}
	s := slices.Sorted(slices.Values(list))
	return (s[(len(s)-1)/2] + s[len(s)/2]) / 2
}

// Pick takes a value from each.
func Pick[T any, V any](list []T, f func(T) V) []V {
	out := make([]V, len(list))
	for i, e := range list {
		out[i] = f(e)
	}
	return out
}

func rates(r []Round) []float64 { return Pick(r, func(r Round) float64 { return r.PerSecond }) }

// Over is the median of the ratios of rounds.
func Over(a, b []float64) float64 {
	var q []float64
	for i := range min(len(a), len(b)) {
		if b[i] > 0 {
			q = append(q, a[i]/b[i])
		}
	}
	return Median(q)
}

// Find returns the row of a system, or nil.
func (t *Rate) Find(system string) *Row {
	for i := range t.Rows {
		if t.Rows[i].System == system {
			return &t.Rows[i]
		}
	}
	return nil
}

// Finish makes medians and ratios from the rounds. The best peer is the one with the
// highest median.
func (t *Rate) Finish() {
	best := 0.0
	for i := range t.Rows {
		r := &t.Rows[i]
		if len(r.Rounds) == 0 {
			continue
		}
		s := rates(r.Rounds)
		r.PerSecond = Median(s)
		if r.PerSecond > 0 {
			r.Spread = (slices.Max(s) - slices.Min(s)) / r.PerSecond
		}
		r.P50 = Median(Pick(r.Rounds, func(r Round) time.Duration { return r.P50 }))
		r.P99 = Median(Pick(r.Rounds, func(r Round) time.Duration { return r.P99 }))
		r.P999 = Median(Pick(r.Rounds, func(r Round) time.Duration { return r.P999 }))
		r.Device = Median(Pick(r.Rounds, func(r Round) float64 { return r.Device }))
		r.Own = Median(Pick(r.Rounds, func(r Round) float64 { return r.Own }))
		if r.Peer && r.PerSecond > best {
			best, t.Peer = r.PerSecond, r.System
		}
	}
	for i := range t.Rows {
		r := &t.Rows[i]
		if f := t.Find(t.Floor); f != nil {
			r.ToFloor = Over(rates(r.Rounds), rates(f.Rounds))
		}
		if p := t.Find(t.Peer); p != nil {
			r.ToPeer = Over(rates(r.Rounds), rates(p.Rounds))
		}
	}
}

// Backlog is opening a store after SIGKILL with so many messages pending.
type Backlog struct {
	Pending int          `json:"pending"`
	Size    int          `json:"body_bytes"`
	Peer    string       `json:"peer,omitempty"` // the quickest one
	Rows    []BacklogRow `json:"rows"`
}

// BacklogRow is one system.
type BacklogRow struct {
	System string   `json:"system"`
	Error  string   `json:"error,omitempty"`
	FillMS int64    `json:"fill_ms"`
	Disk   float64  `json:"disk_bytes_per_body_byte"`
	Runs   []Opened `json:"runs"`
	Open   float64  `json:"open_ms"`
	Ready  float64  `json:"ready_ms"`
	First  float64  `json:"first_ready_ms"` // of the opening behind the crash under load; those after it find what that one mended
	Heap   float64  `json:"heap_bytes_per_message"`
	Anon   float64  `json:"anonymous_bytes_per_message"`
	ToPeer float64  `json:"ready_to_best_peer,omitempty"`

	FirstToPeer float64 `json:"first_to_best_peer,omitempty"` // that may be another one
}

// Opened is what a fresh process saw.
type Opened struct {
	OpenNS  int64   `json:"open_ns"`
	ReadyNS int64   `json:"ready_ns"` // until the first message was claimed and read, opening included
	Heap    float64 `json:"heap_bytes_per_message"`
	Anon    float64 `json:"anonymous_bytes_per_message"`
}

// Finish makes medians and ratios.
func (b *Backlog) Finish(mtawal string) {
	var best *BacklogRow
	first := 0.0
	ready := func(o Opened) float64 { return float64(o.ReadyNS) }
	for i := range b.Rows {
		r := &b.Rows[i]
		if len(r.Runs) == 0 {
			continue
		}
		r.Open = Median(Pick(r.Runs, func(o Opened) float64 { return float64(o.OpenNS) / 1e6 }))
		r.Ready = Median(Pick(r.Runs, func(o Opened) float64 { return float64(o.ReadyNS) / 1e6 }))
		r.First = ready(r.Runs[0]) / 1e6
		r.Heap = Median(Pick(r.Runs, func(o Opened) float64 { return o.Heap }))
		r.Anon = Median(Pick(r.Runs, func(o Opened) float64 { return o.Anon }))
		if r.System != mtawal && (best == nil || r.Ready < best.Ready) {
			best = r
		}
		if r.System != mtawal && (first == 0 || r.First < first) {
			first = r.First
		}
	}
	if best == nil {
		return
	}
	b.Peer = best.System
	for i := range b.Rows {
		b.Rows[i].FirstToPeer = b.Rows[i].First / first
		b.Rows[i].ToPeer = Over(Pick(b.Rows[i].Runs, ready), Pick(best.Runs, ready))
	}
}

// Drain is emptying a backlog after a restart with a cold cache.
type Drain struct {
	Pending int        `json:"pending"`
	Size    int        `json:"body_bytes"`
	Workers int        `json:"workers"`
	Caches  string     `json:"caches_dropped_by"`
	Rows    []DrainRow `json:"rows"`
}

// DrainRow is one system.
type DrainRow struct {
	System    string        `json:"system"`
	Error     string        `json:"error,omitempty"`
	Open      time.Duration `json:"open_ns"`
	First     time.Duration `json:"first_ns"` // until the first was claimed and read
	Total     time.Duration `json:"total_ns"`
	PerSecond float64       `json:"per_second"` // without opening
	P99       time.Duration `json:"claim_and_read_p99_ns"`
}

// Background is the latency of enqueues at a fixed rate while other work runs.
type Background struct {
	System  string  `json:"system"`
	Error   string  `json:"error,omitempty"`
	Rate    float64 `json:"offered_per_second"`
	Size    int     `json:"body_bytes"`
	Workers int     `json:"workers"`
	Phases  []Phase `json:"phases"`
}

// Phase is one kind of work.
type Phase struct {
	Name  string          `json:"name"`
	Runs  int             `json:"times_done"` // checkpoints, compactions, or messages drained
	Count int64           `json:"enqueues"`
	P50   time.Duration   `json:"p50_ns"`
	P99   time.Duration   `json:"p99_ns"`
	P999  time.Duration   `json:"p999_ns"`
	Worse float64         `json:"p99_to_quiet"`
	Curve []measure.Point `json:"latencies"`
}

// Steady is a long run of one system.
type Steady struct {
	System     string        `json:"system"`
	Kind       string        `json:"kind"` // held, deferred
	Error      string        `json:"error,omitempty"`
	Size       int           `json:"body_bytes"`
	Producers  int           `json:"producers"`
	Payload    int64         `json:"payload_bytes"` // of the load, without what was there before
	Retried    int64         `json:"retried"`       // deferrals
	Waiting    int           `json:"messages_waiting_at_the_end"`
	Took       time.Duration `json:"took_ns"`
	Samples    []Sample      `json:"samples"`
	Windows    []Window      `json:"windows"`
	Device     float64       `json:"device_bytes_per_payload_byte"` // the bare loop's not counted
	DeviceFrom string        `json:"device_from"`
	Own        float64       `json:"process_bytes_per_payload_byte"`
	Log        float64       `json:"log_bytes_per_payload_byte,omitempty"`   // mtawal: what was appended to the log
	Moved      float64       `json:"moved_bytes_per_payload_byte,omitempty"` // mtawal: of that, by compactions
	DiskMax    int64         `json:"disk_bytes_max"`
	DiskWorst  float64       `json:"disk_to_bound_max"` // of 2 x live bytes + 8 segments
	Trend      float64       `json:"ratio_last_to_first"`
	Busy       Phase         `json:"while_fold_or_compaction"`
	Quiet      Phase         `json:"without"`
	Folds      int           `json:"folds_seen"`
}

// Sample is a moment of a long run.
type Sample struct {
	At      time.Duration `json:"at_ns"`
	Payload int64         `json:"payload_bytes"`
	Live    int64         `json:"live_bytes"` // bodies of messages that are not used
	Disk    int64         `json:"disk_bytes"`
}

// Window is a part of a long run and the bare loop that it took turns with. Ratio is of the durable steps: two for a message that
// ended, one for one that was retried and deferred again, at a rate that is the same in all windows.
type Window struct {
	PerSecond float64 `json:"per_second"`
	Retried   float64 `json:"retried_per_second"`
	Floor     float64 `json:"bare_loop_per_second"`
	Ratio     float64 `json:"ratio"`
	Device    float64 `json:"device_bytes_per_payload_byte"`
	Own       float64 `json:"process_bytes_per_payload_byte"`
}

// Bound is what a run may take on disk: 2 x live bytes + 8 segments of 64 MiB.
func Bound(live int64) int64 { return 2*live + 8<<26 }

// Finish makes the figures that are asked for from samples and windows.
func (s *Steady) Finish() {
	for _, x := range s.Samples {
		s.DiskMax = max(s.DiskMax, x.Disk)
		s.DiskWorst = max(s.DiskWorst, float64(x.Disk)/float64(Bound(x.Live)))
	}
	if n := len(s.Windows); n >= 2 {
		part := max(n/4, 1)
		ratio := func(w Window) float64 { return w.Ratio }
		first := Median(Pick(s.Windows[:part], ratio))
		last := Median(Pick(s.Windows[n-part:], ratio))
		if first > 0 && !math.IsNaN(last) {
			s.Trend = last / first
		}
	}
	if s.Quiet.P99 > 0 {
		s.Busy.Worse = float64(s.Busy.P99) / float64(s.Quiet.P99)
	}
}

// PhaseOf makes a phase from a histogram.
func PhaseOf(name string, h *measure.Hist) Phase {
	return Phase{Name: name, Count: h.Count(), P50: h.At(50), P99: h.At(99), P999: h.At(99.9), Curve: h.Curve()}
}
