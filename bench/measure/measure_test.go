package measure

import (
	"os"
	"path/filepath"
	"testing"
	"time"
)

// TestHist: percentiles are right to 1 %, and nothing that is recorded is lost.
func TestHist(t *testing.T) {
	a, b := NewHist(), NewHist()
	for i := range 5000 {
		a.Record(time.Duration(2*i+1) * time.Microsecond)
		b.Record(time.Duration(2*i+2) * time.Microsecond)
	}
	b.Record(time.Hour)
	b.Record(0)
	a.Merge(b)
	if a.Count() != 10_002 {
		t.Errorf("%d counted", a.Count())
	}
	for p, want := range map[float64]time.Duration{50: 5 * time.Millisecond, 99: 9900 * time.Microsecond} {
		if got := a.At(p); got < want*98/100 || got > want*102/100 {
			t.Errorf("%v %%: %v, want %v", p, got, want)
		}
	}
	c := a.Curve()
	for i := 1; i < len(c); i++ {
		if c[i].Latency < c[i-1].Latency || c[i].Percent <= c[i-1].Percent {
			t.Errorf("%v behind %v", c[i], c[i-1])
		}
	}
}

func TestDiskUse(t *testing.T) {
	dir := t.TempDir()
	if err := os.WriteFile(filepath.Join(dir, "a"), make([]byte, 100_000), 0o600); err != nil {
		t.Fatal(err)
	}
	if n, err := DiskUse(dir); err != nil || n < 100_000 || n > 200_000 {
		t.Errorf("%d, %v", n, err)
	}
}

// TestEnvironment: what the machine tells is in it.
func TestEnvironment(t *testing.T) {
	e := Environment(t.TempDir())
	if e.Go == "" || e.CPUs == 0 || e.Time == "" || e.Device == "" {
		t.Errorf("%+v", e)
	}
	if m := MemoryNow(); m.Heap <= 0 {
		t.Errorf("%+v", m)
	}
}
