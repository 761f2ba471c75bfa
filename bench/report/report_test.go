package report

import (
	"encoding/json"
	"encoding/xml"
	"io"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/mtawal/mtawal/bench/measure"
)

// TestRatios: a ratio is the median of those within the rounds, not that of medians.
func TestRatios(t *testing.T) {
	r := Rate{Floor: "floor", Rows: []Row{
		{System: "floor", Floor: true, Rounds: []Round{{PerSecond: 10}, {PerSecond: 100}, {PerSecond: 40}}},
		{System: "mtawal", Rounds: []Round{{PerSecond: 5}, {PerSecond: 25}, {PerSecond: 30}}},
		{System: "slow", Peer: true, Rounds: []Round{{PerSecond: 1}, {PerSecond: 1}, {PerSecond: 1}}},
		{System: "fast", Peer: true, Rounds: []Round{{PerSecond: 5}, {PerSecond: 5}, {PerSecond: 10}}},
		{System: "broken", Peer: true, Error: "broken"},
	}}
	r.Finish()
	if m := r.Rows[1]; m.ToFloor != 0.5 || m.PerSecond != 25 || m.ToPeer != 3 || r.Peer != "fast" {
		t.Errorf("to floor %v, rate %v, to %s %v", m.ToFloor, m.PerSecond, r.Peer, m.ToPeer)
	}
}

func TestSteadyFigures(t *testing.T) {
	s := Steady{Samples: []Sample{{Live: 1 << 30, Disk: 1 << 30}, {Live: 1 << 30, Disk: 5 << 29}},
		Windows: []Window{{Ratio: 0.5}, {Ratio: 0.1}, {Ratio: 9}, {Ratio: 0.45}},
		Quiet:   Phase{P99: 100}, Busy: Phase{P99: 150}}
	s.Finish()
	if s.DiskWorst != 1 || s.DiskMax != 5<<29 || s.Trend != 0.9 || s.Busy.Worse != 1.5 {
		t.Errorf("%+v", s)
	}
}

// full is a report that has something of everything.
func full() *Report {
	h := measure.NewHist()
	for i := range 10_000 {
		h.Record(time.Duration(i) * time.Microsecond)
	}
	r := &Report{Environment: measure.Environment("."), Systems: []System{{Name: own, Durable: "a <b> & c"}}}
	for _, group := range []string{"enqueue", "cycle", "deferral"} {
		for _, size := range []string{"4 KiB", "1 MiB"} {
			for _, producers := range []int{1, 64} {
				t := Rate{Group: group, Title: group + " " + size, Producers: producers, Size: size, Floor: "bare"}
				for i, name := range []string{own, "pebble", "bare"} {
					t.Rows = append(t.Rows, Row{System: name, Floor: name == "bare", Peer: name == "pebble", Curve: h.Curve(),
						Rounds: []Round{{PerSecond: float64(i+1) * 1000, P50: 1, P99: 2, P999: 3, Device: 1.5}}})
				}
				t.Rows = append(t.Rows, Row{System: "badger", Peer: true, Error: "it <broke>"})
				t.Finish()
				r.Rates = append(r.Rates, t)
			}
		}
	}
	for _, n := range []int{100, 1000} {
		b := Backlog{Pending: n, Size: 1024, Rows: []BacklogRow{
			{System: own, Runs: []Opened{{OpenNS: 1e6, ReadyNS: 2e6, Heap: 90}}}, {System: "pebble", Runs: []Opened{{OpenNS: 1e6, ReadyNS: 6e6}}}}}
		b.Finish(own)
		r.Backlogs = append(r.Backlogs, b)
	}
	r.Drains = []Drain{{Pending: 10, Rows: []DrainRow{{System: own, PerSecond: 10, First: time.Second}}}}
	r.Backgrounds = []Background{{System: own, Rate: 1000, Phases: []Phase{PhaseOf("nothing", h), PhaseOf("checkpoints", h)}}}
	s := Steady{System: own, Kind: "held", Payload: 2 << 30, Samples: []Sample{{0, 0, 1, 1 << 20}, {1, 1 << 30, 1 << 20, 1 << 28}},
		Windows: []Window{{Ratio: 1, Device: 1.1}, {Ratio: 1, Device: 1.2}}, Quiet: PhaseOf("nothing", h), Busy: PhaseOf("a fold", h)}
	s.Finish()
	r.Steadies = []Steady{s}
	return r
}

// TestPage: the page is whole, its plots are well-formed, and it asks nobody for anything.
func TestPage(t *testing.T) {
	dir := t.TempDir()
	r := full()
	if err := r.WriteFiles(dir); err != nil {
		t.Fatal(err)
	}
	b, err := os.ReadFile(filepath.Join(dir, "report.html"))
	if err != nil {
		t.Fatal(err)
	}
	page := string(b)
	for _, s := range []string{"<script", "http://", "https://", "NaN", "Inf", "<b>", "<broke>", "ZgotmplZ"} {
		if strings.Contains(page, s) {
			t.Errorf("the page has %q in it", s)
		}
	}
	for _, s := range []string{"Throughput", "Latency", "Recovery", "Device bytes", "Long runs", "</html>"} {
		if !strings.Contains(page, s) {
			t.Errorf("the page has no %q in it", s)
		}
	}
	plots := r.plots()
	if len(plots) < 15 {
		t.Errorf("%d plots", len(plots))
	}
	for _, p := range plots {
		svg, _, ok := strings.Cut(string(p.SVG), "</svg>")
		if !ok {
			t.Fatalf("%s: no end", p.Title)
		}
		d := xml.NewDecoder(strings.NewReader(svg + "</svg>"))
		for {
			if _, err := d.Token(); err == io.EOF {
				break
			} else if err != nil {
				t.Fatalf("%s: %v", p.Title, err)
			}
		}
	}
	b, err = os.ReadFile(filepath.Join(dir, "report.json"))
	if err != nil {
		t.Fatal(err)
	}
	var again Report
	if err := json.Unmarshal(b, &again); err != nil || len(again.Rates) != len(r.Rates) {
		t.Errorf("%v, %d tables", err, len(again.Rates))
	}
}

// TestBusy: a page of a machine that was busy says so.
func TestBusy(t *testing.T) {
	for load, want := range map[string]bool{"0.50 0 0 1/2 3": false, "2.01 0 0 1/2 3": true, "": false} {
		var b strings.Builder
		if err := (&Report{Environment: measure.Env{CPUs: 2, Load: load}}).WritePage(&b); err != nil {
			t.Fatal(err)
		}
		if got := strings.Contains(b.String(), "had other work"); got != want {
			t.Errorf("load %q: warned %v", load, got)
		}
	}
}

// TestEmptyPage: a run that measured nothing has a page too.
func TestEmptyPage(t *testing.T) {
	if err := (&Report{}).WritePage(io.Discard); err != nil {
		t.Fatal(err)
	}
}

func TestText(t *testing.T) {
	var b strings.Builder
	r := full()
	r.PrintHead(&b)
	for i := range r.Rates {
		r.Rates[i].Print(&b)
	}
	r.Backlogs[0].Print(&b)
	r.Drains[0].Print(&b)
	r.Backgrounds[0].Print(&b)
	r.Steadies[0].Print(&b)
	if strings.Contains(b.String(), "%!") {
		t.Error(b.String())
	}
}
