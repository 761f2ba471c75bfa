package main

import (
	"io"
	"regexp"
	"testing"
)

// TestSystems runs every system once with a small load.
func TestSystems(t *testing.T) {
	c := config{dir: t.TempDir(), only: regexp.MustCompile(""), rounds: 1, quick: true}
	for _, w := range throughputs(c) {
		w.ops, w.warm = 200, 20
		got, err := w.run(c)
		if err != nil {
			t.Fatalf("%s: %v", w.name, err)
		}
		if len(got.Rows) != len(w.systems) {
			t.Errorf("%s: %d rows for %d systems", w.name, len(got.Rows), len(w.systems))
		}
		for _, r := range got.Rows {
			if r.PerSecond <= 0 || r.P50 <= 0 || r.P999 < r.P99 {
				t.Errorf("%s, %s: %+v", w.name, r.System, r)
			}
		}
		got.print(io.Discard)
	}
}

// TestRatios: a ratio is the median of those within the rounds, not that of medians.
func TestRatios(t *testing.T) {
	tab := table{Floor: "floor", Rows: []row{
		{System: "floor", Rounds: []round{{PerSecond: 10}, {PerSecond: 100}, {PerSecond: 40}}},
		{System: "other", Rounds: []round{{PerSecond: 5}, {PerSecond: 25}, {PerSecond: 30}}},
	}}
	tab.finish()
	if r := tab.Rows[1]; r.ToFloor != 0.5 || r.PerSecond != 25 || r.ToPeer != 0 {
		t.Errorf("ratio %v, rate %v, to peer %v", r.ToFloor, r.PerSecond, r.ToPeer)
	}
}

func TestFlags(t *testing.T) {
	c, err := parse([]string{"--quick", "--pending", "5,7"})
	if err != nil || len(c.recovery) != 2 || c.recovery[1] != 7 || c.rounds != 3 {
		t.Errorf("%+v, %v", c, err)
	}
	if _, err := parse([]string{"--pending", "many"}); err == nil {
		t.Error("a word was taken for a number")
	}
	if _, err := parse([]string{"--only", "("}); err == nil {
		t.Error("a broken expression was taken")
	}
}
