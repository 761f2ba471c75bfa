package main

import (
	"fmt"
	"io"
	"math"
	"os"
	"runtime"
	"runtime/debug"
	"slices"
	"strings"
	"text/tabwriter"
	"time"
)

// report is everything, as JSON has it.
type report struct {
	Environment env             `json:"environment"`
	Throughput  []table         `json:"throughput,omitempty"`
	Recovery    []recoveryTable `json:"recovery,omitempty"`
}

// table is one workload.
type table struct {
	Workload   string `json:"workload"`
	Floor      string `json:"floor,omitempty"`
	Peer       string `json:"peer,omitempty"`
	DeviceFrom string `json:"device_from"`
	Rows       []row  `json:"rows"`
}

// row is one system. Medians are over the rounds; a ratio is the median of the ratios
// within each round.
type row struct {
	System    string        `json:"system"`
	Durable   string        `json:"durable"`
	Rounds    []round       `json:"rounds"`
	PerSecond float64       `json:"per_second"`
	Spread    float64       `json:"spread"` // (highest - lowest) / median
	ToFloor   float64       `json:"to_floor,omitempty"`
	ToPeer    float64       `json:"to_peer,omitempty"`
	P50       time.Duration `json:"p50_ns"`
	P99       time.Duration `json:"p99_ns"`
	P999      time.Duration `json:"p999_ns"`
	Device    float64       `json:"device_bytes_per_byte"`
	Own       float64       `json:"process_bytes_per_byte"`
}

type round struct {
	PerSecond float64       `json:"per_second"`
	P50       time.Duration `json:"p50_ns"`
	P99       time.Duration `json:"p99_ns"`
	P999      time.Duration `json:"p999_ns"`
	Device    float64       `json:"device_bytes_per_byte"`
	Own       float64       `json:"process_bytes_per_byte"`
}

func median[T ~int64 | ~float64](list []T) T {
	if len(list) == 0 {
		return 0
	}
	s := slices.Sorted(slices.Values(list))
	return (s[(len(s)-1)/2] + s[len(s)/2]) / 2
}

func pick[T any, V any](list []T, f func(T) V) []V {
	out := make([]V, len(list))
	for i, e := range list {
		out[i] = f(e)
	}
	return out
}

func rates(r []round) []float64 { return pick(r, func(r round) float64 { return r.PerSecond }) }

// over is the median of the ratios of rounds.
func over(a, b []float64) float64 {
	n := min(len(a), len(b))
	q := make([]float64, n)
	for i := range n {
		q[i] = a[i] / b[i]
	}
	return median(q)
}

func (t *table) find(system string) *row {
	for i := range t.Rows {
		if t.Rows[i].System == system {
			return &t.Rows[i]
		}
	}
	return nil
}

func (t *table) finish() {
	for i := range t.Rows {
		r := &t.Rows[i]
		s := rates(r.Rounds)
		r.PerSecond = median(s)
		r.Spread = (slices.Max(s) - slices.Min(s)) / r.PerSecond
		r.P50 = median(pick(r.Rounds, func(r round) time.Duration { return r.P50 }))
		r.P99 = median(pick(r.Rounds, func(r round) time.Duration { return r.P99 }))
		r.P999 = median(pick(r.Rounds, func(r round) time.Duration { return r.P999 }))
		r.Device = median(pick(r.Rounds, func(r round) float64 { return r.Device }))
		r.Own = median(pick(r.Rounds, func(r round) float64 { return r.Own }))
		if f := t.find(t.Floor); f != nil {
			r.ToFloor = over(s, rates(f.Rounds))
		}
		if p := t.find(t.Peer); p != nil {
			r.ToPeer = over(s, rates(p.Rounds))
		}
	}
}

func (t *table) print(w io.Writer) {
	fmt.Fprintf(w, "\n%s (median of %d rounds; device bytes from %s)\n", t.Workload, len(t.Rows[0].Rounds), t.DeviceFrom)
	tw := tabwriter.NewWriter(w, 0, 0, 2, ' ', tabwriter.AlignRight)
	fmt.Fprintln(tw, "system\tper second\tspread\tto floor\tto peer\tp50\tp99\tp99.9\tdevice B/B\tprocess B/B\tdurable by\t")
	for i := range t.Rows {
		r := &t.Rows[i]
		fmt.Fprintf(tw, "%s\t%.0f\t%.0f%%\t%s\t%s\t%v\t%v\t%v\t%.2f\t%.2f\t%s\t\n", r.System, r.PerSecond, 100*r.Spread, times(r.ToFloor), times(r.ToPeer),
			short(r.P50), short(r.P99), short(r.P999), r.Device, r.Own, r.Durable)
	}
	tw.Flush()
}

func times(v float64) string {
	if v == 0 || math.IsNaN(v) {
		return "-"
	}
	return fmt.Sprintf("%.2f", v)
}

func short(d time.Duration) time.Duration {
	if d > 10*time.Millisecond {
		return d.Round(100 * time.Microsecond)
	}
	return d.Round(time.Microsecond)
}

// env is where it was measured.
type env struct {
	Time       string `json:"time"`
	Go         string `json:"go"`
	OS         string `json:"os"`
	Kernel     string `json:"kernel,omitempty"`
	CPU        string `json:"cpu,omitempty"`
	CPUs       int    `json:"cpus"`
	FileSystem string `json:"file_system,omitempty"` // type and mount options
	Pebble     string `json:"pebble,omitempty"`
}

func environment(dir string) env {
	e := env{Time: time.Now().UTC().Format(time.RFC3339), Go: runtime.Version(), OS: runtime.GOOS + "/" + runtime.GOARCH, CPUs: runtime.NumCPU()}
	if b, err := os.ReadFile("/proc/sys/kernel/osrelease"); err == nil {
		e.Kernel = strings.TrimSpace(string(b))
	}
	if b, err := os.ReadFile("/proc/cpuinfo"); err == nil {
		for line := range strings.Lines(string(b)) {
			if name, v, ok := strings.Cut(line, ":"); ok && strings.TrimSpace(name) == "model name" {
				e.CPU = strings.TrimSpace(v)
				break
			}
		}
	}
	if b, err := os.ReadFile("/proc/self/mounts"); err == nil {
		longest := -1
		for line := range strings.Lines(string(b)) {
			f := strings.Fields(line)
			if len(f) < 4 || !strings.HasPrefix(dir+"/", strings.TrimSuffix(f[1], "/")+"/") || len(f[1]) < longest {
				continue
			}
			longest, e.FileSystem = len(f[1]), f[2]+" ("+f[3]+")"
		}
	}
	if i, ok := debug.ReadBuildInfo(); ok {
		for _, d := range i.Deps {
			if d.Path == "github.com/cockroachdb/pebble/v2" {
				e.Pebble = d.Version
			}
		}
	}
	return e
}

func (e env) print(w io.Writer) {
	fmt.Fprintf(w, "%s, %s %s, kernel %s, %d CPUs (%s), %s, pebble %s\n", e.Time, e.Go, e.OS, e.Kernel, e.CPUs, e.CPU, e.FileSystem, e.Pebble)
}
