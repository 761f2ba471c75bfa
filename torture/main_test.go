package main

import (
	"bytes"
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/mtawal/mtawal/torture/internal/core"
	"github.com/mtawal/mtawal/torture/internal/realfs"
)

// The process with the store is this test's binary, called with the hidden verb.
func TestMain(m *testing.M) {
	if len(os.Args) == 2 && os.Args[1] == core.Verb {
		if err := core.Serve(os.Stdin, os.Stdout); err != nil {
			fmt.Fprintln(os.Stderr, err)
			os.Exit(2)
		}
		return
	}
	os.Exit(m.Run())
}

// usable skips a test where the machine lacks something, and says what.
func usable(t *testing.T, fs string) {
	t.Helper()
	kind, err := realfs.ByName(fs)
	if err != nil {
		t.Fatal(err)
	}
	if why := realfs.Missing(kind); why != "" {
		t.Skipf("%s: %s", fs, why)
	}
}

func tortured(t *testing.T, o options) (code int, all []Totals, said string) {
	t.Helper()
	o.json, o.jobs = true, 1
	if o.keep == "" && o.replay == "" {
		o.keep = t.TempDir()
	}
	var out, errs bytes.Buffer
	code, err := o.run(t.Context(), &out, &errs)
	if err != nil {
		t.Fatalf("seed %d: %v\n%s", o.seed, err, errs.String())
	}
	for dec := json.NewDecoder(&out); dec.More(); {
		var r Totals
		if err := dec.Decode(&r); err != nil {
			t.Fatal(err)
		}
		all = append(all, r)
	}
	return code, all, errs.String()
}

func TestPowerCuts(t *testing.T) {
	for _, fs := range realfs.Names() {
		t.Run(fs, func(t *testing.T) {
			usable(t, fs)
			code, all, said := tortured(t, options{fs: fs, crashes: 20, seed: 1})
			if code != exitClean || all[0].Crashes < 20 || all[0].Announced == 0 {
				t.Errorf("code %d, %+v\n%s", code, all, said)
			}
		})
	}
}

func TestCuts(t *testing.T) {
	for _, fs := range []string{"ext4", "xfs"} {
		t.Run(fs, func(t *testing.T) {
			usable(t, fs)
			code, all, said := tortured(t, options{fs: fs, cuts: 10, seed: 1})
			if code != exitClean || all[0].Crashes < 10 || all[0].Announced == 0 {
				t.Errorf("code %d, %+v\n%s", code, all, said)
			}
		})
	}
}

// The control: a store that acknowledges before the sync is caught, by either method; and the
// image that was kept shows it again, with the command that was printed.
func TestCanaryIsCaught(t *testing.T) {
	usable(t, "ext4")
	for name, o := range map[string]options{"power cuts": {crashes: 40}, "cuts": {cuts: 20}} {
		t.Run(name, func(t *testing.T) {
			o.fs, o.seed, o.canary, o.keep = "ext4", 3, true, t.TempDir()
			code, all, said := tortured(t, o)
			if code != exitFindings || all[0].Lost == 0 {
				t.Errorf("code %d, %+v\n%s", code, all, said)
			}
			if !strings.Contains(said, "--seed 3") || !strings.Contains(said, "--canary") {
				t.Errorf("it is not said how to see it again:\n%s", said)
			}
			list, err := filepath.Glob(filepath.Join(o.keep, "finding-*"))
			if err != nil || o.cuts == 0 && len(list) == 0 {
				t.Errorf("kept: %v, %v", list, err)
			}
			if len(list) == 0 {
				return
			}
			if code, all, said := tortured(t, options{replay: list[0]}); code != exitFindings {
				t.Errorf("replayed: code %d, %+v\n%s", code, all, said)
			}
		})
	}
}

func TestRefusedOptions(t *testing.T) {
	for _, o := range []options{
		{fs: "ext5", crashes: 1, jobs: 1}, {fs: "ext4", jobs: 1}, {fs: "ext4", crashes: 1}, {fs: "btrfs", cuts: 1, jobs: 1},
	} {
		if kind, err := realfs.ByName(o.fs); err == nil && realfs.Missing(kind) != "" {
			continue // the first thing that is said
		}
		if code, err := o.run(t.Context(), &bytes.Buffer{}, &bytes.Buffer{}); code != exitBroken || err == nil {
			t.Errorf("%+v: code %d, %v", o, code, err)
		}
	}
}
