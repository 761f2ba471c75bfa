package report

import (
	"fmt"
	"io"
	"math"
	"text/tabwriter"
	"time"
)

func table(w io.Writer, head string, rows func(row func(format string, a ...any))) {
	tw := tabwriter.NewWriter(w, 0, 0, 2, ' ', tabwriter.AlignRight)
	fmt.Fprintln(tw, head)
	rows(func(format string, a ...any) { fmt.Fprintf(tw, format+"\t\n", a...) })
	tw.Flush()
}

// PrintHead prints where it is measured.
func (r *Report) PrintHead(w io.Writer) {
	e := r.Environment
	fmt.Fprintf(w, "%s, %s %s, kernel %s, %d CPUs (%s), %s, load %s\n", e.Time, e.Go, e.OS, e.Kernel, e.CPUs, e.CPU, e.FileSystem, e.Load)
	for _, s := range r.Systems {
		name := s.Name
		if s.Version != "" {
			name += " " + s.Version
		}
		fmt.Fprintf(w, "  %s: durable by %s\n", name, s.Durable)
	}
}

// Print prints the table.
func (t *Rate) Print(w io.Writer) {
	n := 0
	for _, r := range t.Rows {
		n = max(n, len(r.Rounds))
	}
	fmt.Fprintf(w, "\n%s (median of %d rounds; device bytes from %s)\n", t.Title, n, t.DeviceFrom)
	table(w, "system\tper second\tspread\tto floor\tto best peer\tp50\tp99\tp99.9\tdevice B/B\tprocess B/B\t", func(row func(string, ...any)) {
		for _, r := range t.Rows {
			if r.Error != "" {
				row("%s\t%s\t\t\t\t\t\t\t\t", r.System, r.Error)
				continue
			}
			row("%s\t%.0f\t%.0f%%\t%s\t%s\t%v\t%v\t%v\t%.2f\t%.2f", r.System, r.PerSecond, 100*r.Spread, Times(r.ToFloor), Times(r.ToPeer),
				Short(r.P50), Short(r.P99), Short(r.P999), r.Device, r.Own)
		}
	})
}

// Print prints the table.
func (b *Backlog) Print(w io.Writer) {
	fmt.Fprintf(w, "\nopening after SIGKILL, %d pending messages of %d bytes, warm cache\n", b.Pending, b.Size)
	table(w, "system\tfirst opening\tto best peer\tall of them: open\tfirst claimed\tto best peer\theap B/message\tanonymous B/message\tdisk B/B\tfilled in\t", func(row func(string, ...any)) {
		for _, r := range b.Rows {
			if r.Error != "" {
				row("%s\t%s\t\t\t\t\t\t\t\t", r.System, r.Error)
				continue
			}
			row("%s\t%.1f ms\t%s\t%.1f ms\t%.1f ms\t%s\t%.1f\t%.1f\t%.2f\t%.1f s", r.System, r.First, Times(r.FirstToPeer), r.Open, r.Ready, Times(r.ToPeer), r.Heap, r.Anon, r.Disk, float64(r.FillMS)/1e3)
		}
	})
}

// Print prints the table.
func (d *Drain) Print(w io.Writer) {
	fmt.Fprintf(w, "\nbacklog of %d messages of %d bytes, emptied by %d workers after a restart with a cold cache (%s)\n", d.Pending, d.Size, d.Workers, d.Caches)
	table(w, "system\topen\tfirst read\tper second\tclaim and read p99\tall done\t", func(row func(string, ...any)) {
		for _, r := range d.Rows {
			if r.Error != "" {
				row("%s\t%s\t\t\t\t", r.System, r.Error)
				continue
			}
			row("%s\t%v\t%v\t%.0f\t%v\t%v", r.System, Short(r.Open), Short(r.First), r.PerSecond, Short(r.P99), Short(r.Total))
		}
	})
}

// Print prints the table.
func (b *Background) Print(w io.Writer) {
	if b.Error != "" {
		fmt.Fprintf(w, "\nenqueues beside other work, %s: %s\n", b.System, b.Error)
		return
	}
	fmt.Fprintf(w, "\nenqueues beside other work, %s: %.0f of %d bytes a second offered by %d workers; latency from the moment at which each was due\n", b.System, b.Rate, b.Size, b.Workers)
	table(w, "beside\tenqueues\ttimes\tp50\tp99\tp99.9\tp99 to quiet\t", func(row func(string, ...any)) {
		for _, p := range b.Phases {
			row("%s\t%d\t%d\t%v\t%v\t%v\t%s", p.Name, p.Count, p.Runs, Short(p.P50), Short(p.P99), Short(p.P999), Times(p.Worse))
		}
	})
}

// Title says which run it is.
func (s *Steady) Title() string {
	if s.Kind == "deferred" {
		return fmt.Sprintf("%s, steady load with %d deferred messages that are retried", s.System, s.Waiting)
	}
	return fmt.Sprintf("%s, steady load with 1 %% of messages held", s.System)
}

// Print prints the figures.
func (s *Steady) Print(w io.Writer) {
	fmt.Fprintf(w, "\n%s: %s of payload in bodies of %d bytes, %d producers, %v\n", s.Title(), Bytes(float64(s.Payload)), s.Size, s.Producers, s.Took.Round(time.Second))
	if s.Error != "" {
		fmt.Fprintln(w, s.Error)
		return
	}
	table(w, "what\tfigure\tasked\t", func(row func(string, ...any)) {
		row("disk, highest\t%s\t", Bytes(float64(s.DiskMax)))
		row("disk to (2 x live bytes + 8 segments), worst moment\t%.2f\tbelow 1", s.DiskWorst)
		row("device bytes per payload byte (%s)\t%.3f\tbelow 1.3", s.DeviceFrom, s.Device)
		row("process bytes per payload byte\t%.3f\t", s.Own)
		if s.Log > 0 {
			row("log bytes per payload byte, those moved by compactions\t%.3f, %.3f\t", s.Log, s.Moved)
		}
		row("throughput to the bare loop, last to first quarter\t%.2f\t0.9 to 1.1", s.Trend)
		row("enqueue p99 without a fold or a compaction (%d)\t%v\t", s.Quiet.Count, Short(s.Quiet.P99))
		row("enqueue p99 while one runs (%d, %d folds seen)\t%v\t", s.Busy.Count, s.Folds, Short(s.Busy.P99))
		row("the latter to the former\t%s\tbelow 2", Times(s.Busy.Worse))
		row("deferrals\t%d\t", s.Retried)
	})
}

// Times writes a ratio.
func Times(v float64) string {
	if v == 0 || math.IsNaN(v) || math.IsInf(v, 0) {
		return "-"
	}
	return fmt.Sprintf("%.2f", v)
}

// Short rounds a duration to what can be read.
func Short(d time.Duration) time.Duration {
	switch {
	case d > 10*time.Second:
		return d.Round(100 * time.Millisecond)
	case d > 10*time.Millisecond:
		return d.Round(100 * time.Microsecond)
	}
	return d.Round(time.Microsecond)
}

// Bytes writes a number of bytes.
func Bytes(n float64) string {
	for _, unit := range []string{"B", "KiB", "MiB", "GiB"} {
		if n < 1024 || unit == "GiB" {
			if unit == "B" {
				return fmt.Sprintf("%.0f B", n)
			}
			return fmt.Sprintf("%.1f %s", n, unit)
		}
		n /= 1024
	}
	return ""
}
