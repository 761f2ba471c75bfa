package main

import (
	"bytes"
	"os"
	"path/filepath"
	"testing"
	"time"
)

func TestFlags(t *testing.T) {
	o, err := parse([]string{"--quick", "--pending", "5,7"})
	if err != nil || len(o.Pending) != 2 || o.Pending[1] != 7 || o.Rounds != 2 || o.Deferred != 5000 {
		t.Errorf("%+v, %v", o, err)
	}
	for _, bad := range [][]string{{"--pending", "many"}, {"--only", "("}, {"word"}} {
		if _, err := parse(bad); err == nil {
			t.Errorf("%q was taken", bad)
		}
	}
}

// Who asks for help gets it, and that is no error.
func TestHelp(t *testing.T) {
	_, help := parse([]string{"--help"})
	_, bad := parse([]string{"word"})
	for _, tt := range []struct {
		err  error
		code int
		says bool
	}{{nil, 0, false}, {help, 0, false}, {bad, 1, true}} {
		var b bytes.Buffer
		if code := end(tt.err, &b); code != tt.code || (b.Len() > 0) != tt.says {
			t.Errorf("%v: exit code %d, %q", tt.err, code, b.String())
		}
	}
}

// TestRun: a run leaves its report and nothing else.
func TestRun(t *testing.T) {
	dir := t.TempDir()
	o, err := parse([]string{"--quick", "--dir", dir, "--report", dir, "--only", "producers/mtawal", "--rounds", "1", "--round", "20ms"})
	if err != nil {
		t.Fatal(err)
	}
	if o.Out, err = os.Create(filepath.Join(dir, "out")); err != nil {
		t.Fatal(err)
	}
	o.Round = 20 * time.Millisecond
	if err := run(o); err != nil {
		t.Fatal(err)
	}
	names, err := filepath.Glob(filepath.Join(dir, "*"))
	if err != nil || len(names) != 3 {
		t.Errorf("left are %q, %v", names, err)
	}
}
