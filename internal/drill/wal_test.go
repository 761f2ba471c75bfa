package drill

import "testing"

// The engine keeps its promises through kills. What the two numbers are is
// chance; that nothing is lost or repeated without notice is not.
func TestCase17_SIGKILLAtAnyInstant(t *testing.T) {
	c := testConfig(t, "wal")
	c.Messages, c.Kills = 600, 3
	r := mustRun(t, c)
	if !r.Audit.Clean() || r.WorkQueueLength != 0 || r.verdict() != "ok" {
		t.Errorf("seed %d: findings %q %q, Work Queue Length %d, verify %q\n%s", c.Seed, r.Audit.Findings, r.Findings, r.WorkQueueLength, r.verdict(), r.Stderr)
	}
	if r.Kills != 3 || r.Audit.Messages != 600 || r.Audit.Delivered != r.Audit.Recipients {
		t.Errorf("seed %d: %d kills, %d messages, %d recipients, %d delivered", c.Seed, r.Kills, r.Audit.Messages, r.Audit.Recipients, r.Audit.Delivered)
	}
}

// The engine knows of doubt. A store that keeps everything and says nothing
// about it is found.
func TestWalThatHidesDoubt(t *testing.T) {
	c := testConfig(t, "wal-hides-doubt")
	c.Messages = 600
	if r := mustRun(t, c); r.Audit.Duplicated == 0 || r.Audit.Lost != 0 || r.Clean() {
		t.Errorf("seed %d: %d duplicated, %d lost", c.Seed, r.Audit.Duplicated, r.Audit.Lost)
	}
}

// Whatever goes on beside the load, it keeps them.
func TestWalWithCompanions(t *testing.T) {
	for _, with := range []Companion{Compaction, FullDisk, SlowDisk, Compaction | FullDisk | SlowDisk} {
		t.Run(with.String(), func(t *testing.T) {
			c := testConfig(t, "wal")
			c.Messages, c.Kills, c.Companions = 400, 3, with
			if r := mustRun(t, c); !r.Clean() || r.Kills != 3 {
				t.Errorf("seed %d: %d kills, findings %q %q, Work Queue Length %d, verify %q\n%s", c.Seed, r.Kills, r.Audit.Findings, r.Findings, r.WorkQueueLength, r.verdict(), r.Stderr)
			}
		})
	}
}

func TestParseCompanions(t *testing.T) {
	for c := range Companion(1 << len(companionNames)) {
		if got, err := ParseCompanions(c.String()); err != nil || got != c {
			t.Errorf("%q was read as %v, %v", c, got, err)
		}
	}
	for _, bad := range []string{"full", "compaction,", ",", "compaction,,slowdisk"} {
		if got, err := ParseCompanions(bad); err == nil {
			t.Errorf("%q was read as %q", bad, got)
		}
	}
}
