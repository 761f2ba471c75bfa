package load

import (
	"fmt"
	"io"
	"os"
	"regexp"
	"testing"
	"time"

	"github.com/mtawal/mtawal/bench/report"
	"github.com/mtawal/mtawal/bench/system"
)

func TestMain(m *testing.M) {
	if len(os.Args) > 1 && os.Args[1] == ChildArg {
		if err := Child(os.Args[2:]); err != nil {
			fmt.Fprintln(os.Stderr, err)
			os.Exit(1)
		}
		return
	}
	os.Exit(m.Run())
}

// small is a config for few seconds. Package system tests every system; here it is the workloads.
func small(t *testing.T, only string, systems ...system.Spec) *Config {
	t.Helper()
	if len(systems) == 0 {
		systems = system.All()
	}
	return &Config{Dir: t.TempDir(), Only: regexp.MustCompile(only), Rounds: 1, Round: 20 * time.Millisecond, Pending: []int{300}, Backlog: 300,
		Steady: 2 << 20, Deferred: 100, Systems: systems, Floor: 8 << 20, Out: io.Discard, Report: &report.Report{}}
}

func rate1(t *testing.T, c *Config, floors bool) *report.Rate {
	t.Helper()
	if err := Run(c); err != nil {
		t.Fatal(err)
	}
	if len(c.Report.Rates) != 1 {
		t.Fatalf("%d tables", len(c.Report.Rates))
	}
	tab := &c.Report.Rates[0]
	n := 0
	for _, r := range tab.Rows {
		if r.Error != "" {
			continue
		}
		n++
		if r.PerSecond <= 0 || r.P50 <= 0 || r.P999 < r.P99 || len(r.Curve) == 0 {
			t.Errorf("%+v", r)
		}
	}
	if n == 0 || floors && tab.Find(tab.Floor) == nil {
		t.Errorf("%d rows, floor %q", n, tab.Floor)
	}
	return tab
}

// TestEnqueue: the floors beside a queue.
func TestEnqueue(t *testing.T) {
	rate1(t, small(t, "enqueue 4 KiB, 8 ", system.Mtawal, system.FloorGroupBuffered, system.FloorGroupDirect), true)
}

func TestEnqueueAlone(t *testing.T) {
	rate1(t, small(t, "enqueue 4 KiB, 1 ", system.Mtawal, system.FloorDirect, system.FloorBuffered, system.FloorMapped, system.FloorMappedLarge), true)
}

// TestCycle: every system, with several recipients.
func TestCycle(t *testing.T) {
	want := 0
	for _, s := range system.All() {
		if !s.Floor || s.Group {
			want++
		}
	}
	if tab := rate1(t, small(t, "used: 4 KiB, 64 producers, 5"), true); len(tab.Rows) != want {
		t.Errorf("%d systems", len(tab.Rows))
	}
}

func TestDeferral(t *testing.T) {
	rate1(t, small(t, "deferral", system.Mtawal, system.Pebble), false) // it has no floor
}

func TestDrain(t *testing.T) {
	c := small(t, "^drain", system.Mtawal, system.Pebble, system.Maildir)
	if err := Run(c); err != nil {
		t.Fatal(err)
	}
	if d := c.Report.Drains; len(d) != 1 || len(d[0].Rows) != 3 || d[0].Rows[0].PerSecond <= 0 || d[0].Caches == "" {
		t.Errorf("%+v", d)
	}
}

func TestRecovery(t *testing.T) {
	c := small(t, "^recovery", system.Mtawal, system.Pebble, system.RaftWAL)
	if err := Run(c); err != nil {
		t.Fatal(err)
	}
	if len(c.Report.Backlogs) != 1 {
		t.Fatalf("%+v", c.Report)
	}
	for _, r := range c.Report.Backlogs[0].Rows {
		if r.Ready < r.Open || r.Ready <= 0 || len(r.Runs) != recoveryRuns {
			t.Errorf("%+v", r)
		}
	}
}

func TestBackground(t *testing.T) {
	c := small(t, "^background", system.Mtawal)
	if err := Run(c); err != nil {
		t.Fatal(err)
	}
	for _, b := range c.Report.Backgrounds {
		if len(b.Phases) != 4 || b.Phases[0].Count == 0 || b.Phases[1].Runs == 0 {
			t.Errorf("%+v", b)
		}
	}
	if len(c.Report.Backgrounds) != 1 {
		t.Errorf("%d systems", len(c.Report.Backgrounds))
	}
}

func TestSteady(t *testing.T) {
	c := small(t, "^steady", system.Mtawal)
	if err := Run(c); err != nil {
		t.Fatal(err)
	}
	if len(c.Report.Steadies) != 2 {
		t.Fatalf("%d runs", len(c.Report.Steadies))
	}
	for _, s := range c.Report.Steadies {
		if s.Payload < c.Steady*9/10 || len(s.Windows) != steadyWindows || len(s.Samples) == 0 || s.Quiet.Count+s.Busy.Count == 0 {
			t.Errorf("%+v", s)
		}
		if s.Kind == "deferred" && s.Waiting != c.Deferred {
			t.Errorf("%d wait", s.Waiting)
		}
	}
}

// TestNames: no two workloads have a name, so that --only picks one.
func TestNames(t *testing.T) {
	c := small(t, "")
	c.Full = true
	seen := make(map[string]bool)
	for _, w := range All(c) {
		if seen[w.Name] {
			t.Errorf("two workloads are called %q", w.Name)
		}
		seen[w.Name] = true
	}
	if len(seen) < 25 {
		t.Errorf("%d workloads", len(seen))
	}
}
