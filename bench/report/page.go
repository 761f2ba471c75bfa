package report

import (
	_ "embed"
	"encoding/json"
	"fmt"
	"html/template"
	"io"
	"math"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"github.com/mtawal/mtawal/bench/measure"
)

//go:embed page.html
var pageText string

// WriteFiles writes report.html and report.json into a directory.
func (r *Report) WriteFiles(dir string) error {
	b, err := json.MarshalIndent(r, "", "  ")
	if err != nil {
		return err
	}
	if err := os.WriteFile(filepath.Join(dir, "report.json"), append(b, '\n'), 0o644); err != nil {
		return err
	}
	var page strings.Builder
	if err := r.WritePage(&page); err != nil {
		return err
	}
	return os.WriteFile(filepath.Join(dir, "report.html"), []byte(page.String()), 0o644)
}

// plot is a figure of the page.
type plot struct {
	Section, Title, Note string
	SVG                  template.HTML // of lines and bars: names in it are escaped there
}

// own is the system that the page is about.
const own = "mtawal"

var colors = map[string]string{
	own: "#e8590c", "pebble": "#1971c2", "bbolt": "#2f9e44", "badger": "#9c36b5", "nats jetstream": "#0c8599",
	"sqlite": "#5f3dc4", "etcd wal": "#e64980", "raft-wal": "#74b816", "file per message": "#a9754f",
}

func color(system string) string {
	if c, ok := colors[system]; ok {
		return c
	}
	shades := []string{"#868e96", "#495057", "#adb5bd", "#6c757d"}
	n := 0
	for _, c := range system {
		n += int(c)
	}
	return shades[n%len(shades)]
}

func line(system string, floor bool, points []point) series {
	return series{name: system, points: points, color: color(system), dash: floor, bold: system == own}
}

// plots are the figures that there are measurements for.
func (r *Report) plots() (list []plot) {
	list = append(list, r.byProducers("enqueue", "Durable enqueue, 4 KiB", "messages a second")...)
	list = append(list, r.byProducers("cycle", "Enqueue, claim, used-mark, 4 KiB", "messages a second")...)
	list = append(list, r.bySize()...)
	list = append(list, r.single()...)
	list = append(list, r.latencies()...)
	list = append(list, r.recovery()...)
	list = append(list, r.drained()...)
	list = append(list, r.device()...)
	list = append(list, r.background()...)
	return append(list, r.steady()...)
}

func (r *Report) byProducers(group, title, label string) []plot {
	var order []string
	lists, floors := make(map[string][]point), make(map[string]bool)
	var ticks []float64
	for _, t := range r.Rates {
		if t.Group != group || t.Size != "4 KiB" {
			continue
		}
		ticks = append(ticks, float64(t.Producers))
		for _, row := range t.Rows {
			if row.PerSecond == 0 {
				continue
			}
			if lists[row.System] == nil {
				order = append(order, row.System)
			}
			floors[row.System] = row.Floor
			lists[row.System] = append(lists[row.System], point{float64(t.Producers), row.PerSecond})
		}
	}
	if len(ticks) < 2 {
		return nil
	}
	var s []series
	for _, name := range order {
		s = append(s, line(name, floors[name], lists[name]))
	}
	x := axis{label: "producers", log: true, ticks: ticks, format: func(v float64) string { return fmt.Sprint(v) }}
	return []plot{{"Throughput", title, "Medians over the rounds; both axes are logarithmic. Dashed: floors, which keep no queue.",
		template.HTML(lines(x, axis{label: label, log: true}, s))}}
}

func (r *Report) bySize() (list []plot) {
	for _, t := range r.Rates {
		if t.Group == "enqueue" && t.Size != "4 KiB" {
			list = append(list, rateBars("Throughput", &t))
		}
	}
	return list
}

func (r *Report) single() (list []plot) {
	for _, t := range r.Rates {
		if t.Group != "enqueue" && (t.Group != "cycle" || t.Size != "4 KiB") {
			list = append(list, rateBars("Throughput", &t))
		}
	}
	return list
}

func rateBars(section string, t *Rate) plot {
	var b []bar
	for _, row := range t.Rows {
		if row.PerSecond > 0 {
			b = append(b, bar{row.System, row.PerSecond, fmt.Sprintf("%s (%s)", short(row.PerSecond), Times(row.ToPeer)), color(row.System), row.System == own})
		}
	}
	return plot{section, t.Title, "In brackets: times the best peer, " + t.Peer + ".", template.HTML(bars("a second", b, false))}
}

// latencies: the whole distribution, the rare ones as far apart as the frequent ones.
func (r *Report) latencies() (list []plot) {
	for _, t := range r.Rates {
		if t.Size != "4 KiB" || t.Producers != 1 && t.Producers != 64 || t.Group == "deferral" || t.Group == "cycle of several recipients" {
			continue
		}
		var s []series
		for _, row := range t.Rows {
			if p := curve(row.Curve); len(p) > 1 {
				s = append(s, line(row.System, row.Floor, p))
			}
		}
		if len(s) > 0 {
			list = append(list, plot{"Latency", t.Title, "Each producer waits for its answer before it sends the next (closed loop).", template.HTML(curves(s))})
		}
	}
	return list
}

// nines is how rare what lies above a percentile is: 90 % is 1, 99 % is 2.
func nines(percent float64) float64 { return -math.Log10(1 - percent/100) }

func curve(list []measure.Point) (p []point) {
	for _, c := range list {
		if c.Percent < 100 {
			p = append(p, point{nines(c.Percent), c.Latency.Seconds()})
		}
	}
	return p
}

func curves(s []series) string {
	x := axis{label: "percentile", ticks: []float64{0, nines(50), nines(90), nines(99), nines(99.9), nines(99.99)}, format: func(v float64) string {
		return strings.TrimSuffix(strings.TrimRight(fmt.Sprintf("%.2f", 100-100*math.Pow(10, -v)), "0"), ".") + " %"
	}}
	return lines(x, axis{label: "latency", log: true, format: seconds}, s)
}

func seconds(v float64) string {
	switch {
	case v < 1e-3:
		return trim(v*1e6) + " µs"
	case v < 1:
		return trim(v*1e3) + " ms"
	}
	return trim(v) + " s"
}

func (r *Report) recovery() (list []plot) {
	var order []string
	lists := make(map[string][]point)
	var ticks []float64
	for _, b := range r.Backlogs {
		ticks = append(ticks, float64(b.Pending))
		for _, row := range b.Rows {
			if row.Ready == 0 {
				continue
			}
			if lists[row.System] == nil {
				order = append(order, row.System)
			}
			lists[row.System] = append(lists[row.System], point{float64(b.Pending), row.Ready / 1e3})
		}
	}
	note := "A fresh process: open, claim and read the first message, having counted all. Warm page cache."
	if len(ticks) > 1 {
		slices.Sort(ticks)
		var s []series
		for _, name := range order {
			s = append(s, line(name, false, lists[name]))
		}
		list = append(list, plot{"Recovery", "Opening after SIGKILL", note,
			template.HTML(lines(axis{label: "pending messages of 1 KiB", log: true, ticks: ticks}, axis{label: "until the first claim", log: true, format: seconds}, s))})
	}
	for _, b := range r.Backlogs {
		var t, m []bar
		for _, row := range b.Rows {
			if row.Ready > 0 {
				t = append(t, bar{row.System, row.Ready / 1e3, fmt.Sprintf("%s (%s)", seconds(row.Ready/1e3), Times(row.ToPeer)), color(row.System), row.System == own})
				m = append(m, bar{row.System, max(row.Heap, 1), trim(row.Heap) + " B", color(row.System), row.System == own})
			}
		}
		if len(t) == 0 {
			continue
		}
		if len(ticks) == 1 {
			list = append(list, plot{"Recovery", fmt.Sprintf("Opening with %s pending messages after SIGKILL", short(float64(b.Pending))),
				note + " In brackets: times the best peer's.", template.HTML(bars("logarithmic", t, true))})
		}
		list = append(list, plot{"Recovery", fmt.Sprintf("Heap per message, %s pending of 1 KiB", short(float64(b.Pending))),
			"Heap after opening, less what there was before. Caches and buffers of a fixed size count too, the more so the fewer messages there are.", template.HTML(bars("bytes, logarithmic", m, true))})
	}
	return list
}

func (r *Report) drained() (list []plot) {
	for _, d := range r.Drains {
		var b []bar
		for _, row := range d.Rows {
			if row.PerSecond > 0 {
				b = append(b, bar{row.System, row.PerSecond, fmt.Sprintf("%s, first after %v", short(row.PerSecond), Short(row.First)), color(row.System), row.System == own})
			}
		}
		list = append(list, plot{"Recovery", fmt.Sprintf("Draining %s messages of 4 KiB with a cold cache", short(float64(d.Pending))),
			fmt.Sprintf("Claimed, read and marked used a second by %d workers; caches dropped by %s.", d.Workers, d.Caches), template.HTML(bars("a second", b, false))})
	}
	return list
}

func (r *Report) device() (list []plot) {
	for _, t := range r.Rates {
		if t.Size != "4 KiB" || t.Producers != 1 && t.Producers != 64 || t.Group != "enqueue" && t.Group != "cycle" {
			continue
		}
		var b []bar
		for _, row := range t.Rows {
			if row.Device > 0 {
				b = append(b, bar{row.System, row.Device, fmt.Sprintf("%.2f", row.Device), color(row.System), row.System == own})
			}
		}
		if len(b) > 0 {
			list = append(list, plot{"Device bytes", t.Title, "Bytes that the device below was given for each byte of body, by the kernel's counter: whatever else writes there is counted too.",
				template.HTML(bars("device bytes per payload byte, logarithmic", b, true))})
		}
	}
	return list
}

func (r *Report) background() (list []plot) {
	palette := []string{"#868e96", "#1971c2", "#2f9e44", "#e8590c"}
	for _, b := range r.Backgrounds {
		var s []series
		for i, p := range b.Phases {
			s = append(s, series{name: "beside " + p.Name, points: curve(p.Curve), color: palette[i%len(palette)], dash: i == 0, bold: i == 0})
		}
		if len(s) > 0 {
			list = append(list, plot{"Latency", fmt.Sprintf("%s: enqueues beside other work", b.System),
				fmt.Sprintf("%s of %d bytes a second are offered (open loop); latency counts from when each was due.", short(b.Rate), b.Size), template.HTML(curves(s))})
		}
	}
	return list
}

func (r *Report) steady() (list []plot) {
	for _, s := range r.Steadies {
		if len(s.Samples) == 0 {
			continue
		}
		pick := func(f func(Sample) int64) []point {
			return Pick(s.Samples, func(x Sample) point { return point{float64(x.Payload), float64(f(x))} })
		}
		space := []series{
			{name: "2 x live bytes + 8 segments", points: pick(func(x Sample) int64 { return Bound(x.Live) }), color: "#868e96", dash: true},
			{name: "on disk", points: pick(func(x Sample) int64 { return x.Disk }), color: color(s.System), bold: true},
			{name: "live bodies", points: pick(func(x Sample) int64 { return x.Live }), color: "#2f9e44"},
		}
		through := axis{label: "payload written", bytes: true, zero: true}
		list = append(list, plot{"Long runs", s.Title() + ": space", fmt.Sprintf("%d producers enqueue, claim, read and use messages of 4 KiB.", s.Producers),
			template.HTML(lines(through, axis{label: "bytes", bytes: true, zero: true}, space))})
		var ratio, device []point
		for i, w := range s.Windows {
			at := float64(s.Payload) * (float64(i) + 0.5) / float64(len(s.Windows))
			ratio, device = append(ratio, point{at, w.Ratio}), append(device, point{at, w.Device})
		}
		list = append(list, plot{"Long runs", s.Title() + ": throughput and device bytes", "Each point is a part of the run, in which the load and the bare group commit take turns.",
			template.HTML(lines(through, axis{label: "ratio", zero: true}, []series{
				{name: "durable steps to those of the bare loop", points: ratio, color: color(s.System), bold: true},
				{name: "device bytes per payload byte", points: device, color: "#1971c2"},
			}))})
	}
	return list
}

// busy reports whether the machine had other work when the run began.
func (r *Report) busy() bool {
	var load float64
	_, err := fmt.Sscan(r.Environment.Load, &load)
	return err == nil && load > float64(r.Environment.CPUs)
}

// glance is a line of the summary.
type glance struct {
	What, Figure, ToFloor, ToPeer, Peer string
	Device                              float64
}

// glance is how mtawal stands in each workload.
func (r *Report) glance() (list []glance) {
	for _, t := range r.Rates {
		if row := t.Find(own); row != nil && row.PerSecond > 0 {
			list = append(list, glance{t.Title, short(row.PerSecond) + " a second", Times(row.ToFloor), Times(row.ToPeer), t.Peer, row.Device})
		}
	}
	for _, b := range r.Backlogs {
		for _, row := range b.Rows {
			if row.System == own && row.Ready > 0 {
				list = append(list, glance{What: fmt.Sprintf("open with %s pending after SIGKILL", short(float64(b.Pending))),
					Figure: fmt.Sprintf("%s, the first time %s; %.1f bytes of heap a message", seconds(row.Ready/1e3), seconds(row.First/1e3), row.Heap), ToFloor: "-", ToPeer: Times(row.ToPeer) + " of the time", Peer: b.Peer})
			}
		}
	}
	return list
}

var pageFuncs = template.FuncMap{
	"short": func(v float64) string { return short(v) }, "times": Times, "bytes": func(v any) string {
		switch v := v.(type) {
		case int64:
			return Bytes(float64(v))
		case float64:
			return Bytes(v)
		}
		return ""
	},
	"percent": func(v float64) string { return fmt.Sprintf("%.0f %%", 100*v) },
	"ms":      func(v float64) string { return seconds(v / 1e3) },
	"took":    func(d time.Duration) string { return Short(d).String() },
	"fixed":   func(v float64) string { return fmt.Sprintf("%.2f", v) },
	"own":     func(name string) bool { return name == own },
	"join":    strings.Join,
}

// WritePage writes the page: one file, without a script and without anything from elsewhere.
func (r *Report) WritePage(w io.Writer) error {
	t, err := template.New("page").Funcs(pageFuncs).Parse(pageText)
	if err != nil {
		return err
	}
	type section struct {
		Name  string
		Plots []plot
	}
	var sections []section
	for _, p := range r.plots() {
		i := slices.IndexFunc(sections, func(s section) bool { return s.Name == p.Section })
		if i < 0 {
			i = len(sections)
			sections = append(sections, section{Name: p.Section})
		}
		sections[i].Plots = append(sections[i].Plots, p)
	}
	return t.Execute(w, struct {
		*Report
		Busy     bool
		Glance   []glance
		Sections []section
	}{r, r.busy(), r.glance(), sections})
}
