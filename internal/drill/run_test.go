package drill

import (
	"context"
	"encoding/json"
	"errors"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"go.uber.org/goleak"
)

const coreEnv = "MTAWAL_TEST_DRILL_CORE"

var testEngines = append([]Engine{Wal, PerFile}, brokenEngines...)

func TestMain(m *testing.M) {
	if os.Getenv(coreEnv) != "" {
		os.Exit(RunCore(testEngines, os.Stdin, os.Stdout))
	}
	goleak.VerifyTestMain(m)
}

// testConfig is a small drill of an engine in a directory of the test.
func testConfig(t *testing.T, engine string) Config {
	t.Helper()
	e, err := engineOf(testEngines, engine)
	if err != nil {
		t.Fatal(err)
	}
	exe, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	return Config{
		Engine: e, Dir: filepath.Join(t.TempDir(), "store"), Messages: 300, Producers: 3, Consumers: 4, Seed: 11,
		Core: func() *exec.Cmd {
			cmd := exec.Command(exe)
			cmd.Env = append(os.Environ(), coreEnv+"=1")
			return cmd
		},
	}
}

func mustRun(t *testing.T, c Config) *Result {
	t.Helper()
	r, err := Run(t.Context(), c)
	if err != nil {
		t.Fatalf("seed %d: %v", c.Seed, err)
	}
	t.Logf("seed %d: %d kills, work queue %d, verify %q, findings %q, audit %+v", c.Seed, r.Kills, r.WorkQueueLength, r.Verify, r.Findings, r.Audit)
	return r
}

// The control: a spool that nobody kills keeps every promise but the queue's
// length, which its worker gets to when it gets to it.
func TestSpoolWithoutKills(t *testing.T) {
	r := mustRun(t, testConfig(t, "perfile"))
	if !r.Audit.Clean() || r.verdict() != "ok" || r.Kills != 0 {
		t.Errorf("findings %q %q, verify %q", r.Audit.Findings, r.Findings, r.verdict())
	}
	if r.Audit.Messages != 300 || r.Audit.Delivered != r.Audit.Recipients || r.Audit.Recipients < 400 {
		t.Errorf("%d messages, %d recipients, %d delivered", r.Audit.Messages, r.Audit.Recipients, r.Audit.Delivered)
	}
	if r.Audit.InDoubt == 0 || r.Audit.Bounced == 0 {
		t.Errorf("%d repeats in doubt and %d bounces: the load lacks cut connections or refusals", r.Audit.InDoubt, r.Audit.Bounced)
	}
}

// Killed, the spool loses nothing and forgets marks.
func TestSpoolWithKills(t *testing.T) {
	c := testConfig(t, "perfile")
	c.Kills = 3
	r := mustRun(t, c)
	if r.Kills != 3 || r.Audit.Lost != 0 || r.Audit.Altered+r.Audit.Invented != 0 || r.verdict() != "ok" {
		t.Errorf("%d kills, %d lost, verify %q, findings %q", r.Kills, r.Audit.Lost, r.verdict(), r.Audit.Findings)
	}
	if r.Audit.Messages != 300 || r.Audit.Delivered != r.Audit.Recipients || r.ReopenMax == 0 {
		t.Errorf("%d messages, %d recipients, %d delivered, reopened in %v", r.Audit.Messages, r.Audit.Recipients, r.Audit.Delivered, r.ReopenMax)
	}
}

// A drill is worth what it finds.
func TestBrokenStoresAreFound(t *testing.T) {
	const lost, duplicated, work, verify = "lost", "duplicated", "work queue", "verify"
	for _, tt := range []struct {
		engine string
		want   []string
	}{
		{"loses", []string{lost}},
		{"loses-bounces", []string{lost}},
		{"forgets", []string{duplicated}},
		{"hides-doubt", []string{duplicated}},
		{"doubts-all", []string{verify}},
		{"alters", []string{lost, verify}},
		{"mixes", []string{lost, verify}},
		{"gives-up", []string{verify}},
		{"leaves-a-rest", []string{work}},
		{"finds", []string{verify}},
	} {
		t.Run(tt.engine, func(t *testing.T) {
			t.Parallel()
			c := testConfig(t, tt.engine)
			r := mustRun(t, c)
			found := map[string]bool{
				lost: r.Audit.Lost > 0, duplicated: r.Audit.Duplicated > 0, work: r.WorkQueueLength > 0, verify: r.verdict() != "ok",
			}
			for _, w := range tt.want {
				if !found[w] {
					t.Errorf("seed %d: not found: %s", c.Seed, w)
				}
			}
			if found[lost] != slices.Contains(tt.want, lost) && tt.engine != "gives-up" || found[duplicated] != slices.Contains(tt.want, duplicated) {
				t.Errorf("seed %d: found %v, want %v", c.Seed, found, tt.want)
			}
			if r.Clean() {
				t.Errorf("seed %d: it counts as clean", c.Seed)
			}
		})
	}
}

// A core that hangs is a finding and is not waited for, and says where it hung.
func TestHangingStoreIsFound(t *testing.T) {
	c := testConfig(t, "hangs")
	c.Stall = time.Second
	r := mustRun(t, c)
	if r.Clean() || len(r.Findings) == 0 || !strings.Contains(r.Findings[0], "nothing moved") {
		t.Errorf("findings %q", r.Findings)
	}
	if !strings.Contains(r.Stderr, "hanging") {
		t.Errorf("the stacks do not show it: %.2000s", r.Stderr)
	}
}

// What never began is an error, not a finding.
func TestErrorsOfTheDrill(t *testing.T) {
	c := testConfig(t, "never-opens")
	if r, err := Run(t.Context(), c); err == nil || !strings.Contains(err.Error(), "the door is stuck") {
		t.Errorf("a store that never opens: %+v, %v", r, err)
	}
	for name, change := range map[string]func(*Config){
		"kills":     func(c *Config) { c.Kills = -1 },
		"messages":  func(c *Config) { c.Messages = 0 },
		"producers": func(c *Config) { c.Producers = 0 },
		"consumers": func(c *Config) { c.Consumers = WorkersMax + 1 },
		"mail":      func(c *Config) { c.Mail = filepath.Join(c.Dir, "missing") },
		"core":      func(c *Config) { c.Core = func() *exec.Cmd { return exec.Command(filepath.Join(c.Dir, "missing")) } },
		"empty": func(c *Config) {
			c.Dir = t.TempDir()
			write(t, filepath.Join(c.Dir, "mine"), "x")
		},
	} {
		c := testConfig(t, "perfile")
		change(&c)
		if r, err := Run(t.Context(), c); err == nil {
			t.Errorf("%s: %+v", name, r)
		}
	}
}

// An interrupted drill leaves no core behind; goleak sees to the rest.
func TestInterrupt(t *testing.T) {
	c := testConfig(t, "perfile")
	c.Messages = 1_000_000
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	var core *exec.Cmd
	start := c.Core
	c.Core = func() *exec.Cmd {
		core = start()
		return core
	}
	c.Progress = func(p Progress) {
		if p.Accepted > 0 {
			cancel()
		}
	}
	if r, err := Run(ctx, c); !errors.Is(err, context.Canceled) {
		t.Fatalf("%+v, %v", r, err)
	}
	if core.ProcessState == nil {
		t.Error("the core was not reaped")
	}
}

func TestMailDrill(t *testing.T) {
	c := testConfig(t, "perfile")
	c.Mail = t.TempDir()
	write(t, filepath.Join(c.Mail, "1"), "Subject: one\n\nThis is one.\n")
	write(t, filepath.Join(c.Mail, "2"), "no header \x00\x1b at all")
	if r := mustRun(t, c); !r.Audit.Clean() || r.Audit.Messages != 300 {
		t.Errorf("%d messages, findings %q", r.Audit.Messages, r.Audit.Findings)
	}
}

func TestResultJSON(t *testing.T) {
	r := &Result{
		Store: "wal", Seed: 9, Kills: 3, WorkQueueLength: 8, ReopenMax: 12340 * time.Microsecond, Elapsed: 2 * time.Second, Verify: "ok",
		Audit: Audit{Messages: 1, Recipients: 2, Delivered: 4, Lost: 5, Duplicated: 6, InDoubt: 7},
	}
	text, err := json.Marshal(r)
	const want = `{"messages":1,"recipients":2,"kills":3,"delivered":4,"lost":5,"duplicated":6,"in_doubt":7,"work_queue_length":8,"reopen_ms_max":12.3,"messages_per_second":0.5,"verify":"ok","seed":9}`
	if err != nil || string(text) != want {
		t.Errorf("%s, %v\nwant %s", text, err, want)
	}
	var b strings.Builder
	r.Verify = "bad \x1b[31m\n"
	if err := WriteTable(&b, r, r); err != nil || strings.Contains(b.String(), "\x1b") || !strings.Contains(b.String(), `\x1b`) {
		t.Errorf("%v\n%s", err, b.String())
	}
}
