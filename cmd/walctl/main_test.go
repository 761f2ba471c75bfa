package main

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/mtawal/mtawal/internal/drill"
	"github.com/spf13/cobra"
	"go.uber.org/goleak"
)

// The child of a drill under test is this test's binary, called with the hidden
// verb; others are told by the environment what to be.
func TestMain(m *testing.M) {
	if len(os.Args) == 2 && os.Args[1] == coreCommand || os.Getenv(verbEnv) != "" {
		main()
	}
	if dir := os.Getenv(ownerEnv); dir != "" {
		fmt.Fprintln(os.Stderr, own(dir))
		os.Exit(exitError)
	}
	goleak.VerifyTestMain(m)
}

// walctl carries out a command line and returns what it prints and its exit
// code.
func walctl(t *testing.T, args ...string) (stdout, stderr string, code int) {
	t.Helper()
	var out, errs bytes.Buffer
	root := newRoot()
	root.SetOut(&out)
	root.SetErr(&errs)
	code = execute(t.Context(), root, args)
	return out.String(), errs.String(), code
}

func TestExitCodes(t *testing.T) {
	full := t.TempDir()
	if err := os.WriteFile(filepath.Join(full, "mine"), nil, 0o600); err != nil {
		t.Fatal(err)
	}
	for _, tt := range []struct {
		args []string
		code int
		says string
	}{
		{[]string{"--version"}, exitFine, "walctl version"},
		{[]string{"--help"}, exitFine, "drill"},
		{[]string{}, exitFine, "Usage"},
		{[]string{"drill", "--help"}, exitFine, "--kills"},
		{[]string{"no-such-verb"}, exitError, "no-such-verb"},
		{[]string{"drill", "--no-such-flag"}, exitError, "no-such-flag"},
		{[]string{"drill", "an-argument"}, exitError, "an-argument"},
		{[]string{"drill", "--store", "x\x1b[31m"}, exitError, `x\x1b[31m`},
		{[]string{"drill", "--kills", "-1"}, exitError, "kills"},
		{[]string{"drill", "--with", "rain"}, exitError, "rain"},
		{[]string{"drill", "--messages", "0"}, exitError, "messages"},
		{[]string{"drill", "--dir", full}, exitError, "not empty"},
		{[]string{"drill", "--mail", filepath.Join(full, "missing")}, exitError, "missing"},
	} {
		stdout, stderr, code := walctl(t, tt.args...)
		if code != tt.code || !strings.Contains(stdout+stderr, tt.says) {
			t.Errorf("%q: exit code %d, want %d with %q\n%s%s", tt.args, code, tt.code, tt.says, stdout, stderr)
		}
		if strings.ContainsRune(stdout+stderr, '\x1b') {
			t.Errorf("%q: a control character reaches the terminal: %q", tt.args, stdout+stderr)
		}
	}
	if list, err := os.ReadDir(full); err != nil || len(list) != 1 {
		t.Errorf("a refused directory was touched: %v, %v", list, err)
	}
}

func TestFindingsAreExitCode1(t *testing.T) {
	root := &cobra.Command{SilenceErrors: true, SilenceUsage: true, RunE: func(*cobra.Command, []string) error { return errFindings }}
	if code := execute(t.Context(), root, nil); code != exitFindings {
		t.Errorf("exit code %d", code)
	}
}

// figures are the fields of a drill's JSON.
var figures = []string{
	"messages", "recipients", "kills", "delivered", "lost", "duplicated", "in_doubt", "work_queue_length", "reopen_ms_max",
	"messages_per_second", "verify", "seed",
}

func checkFigures(t *testing.T, m map[string]any, want map[string]any) {
	t.Helper()
	for _, f := range figures {
		if _, ok := m[f]; !ok {
			t.Errorf("no field %q", f)
		}
	}
	if len(m) != len(figures) {
		t.Errorf("fields %v", m)
	}
	for f, v := range want {
		if m[f] != v {
			t.Errorf("%s is %v, want %v", f, m[f], v)
		}
	}
}

func TestDrillBoth(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "drill")
	stdout, stderr, code := walctl(t, "drill", "--store", "both", "--dir", dir, "--messages", "200", "--kills", "2", "--producers", "2",
		"--consumers", "3", "--seed", "77", "--json")
	if code != exitFine {
		t.Errorf("exit code %d: %s", code, stderr)
	}
	var got map[string]map[string]any
	if err := json.Unmarshal([]byte(stdout), &got); err != nil || len(got) != 2 {
		t.Fatalf("%v: %s", err, stdout)
	}
	checkFigures(t, got["wal"], map[string]any{
		"messages": 200., "kills": 2., "lost": 0., "duplicated": 0., "work_queue_length": 0., "verify": "ok", "seed": 77.,
	})
	checkFigures(t, got["perfile"], map[string]any{"messages": 200., "kills": 2., "lost": 0., "verify": "ok", "seed": 77.})
	for _, name := range []string{"wal", "perfile"} {
		if _, err := os.Stat(filepath.Join(dir, name)); err != nil {
			t.Errorf("the store was not kept: %v", err)
		}
	}
}

func TestDrillTable(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "store")
	stdout, stderr, code := walctl(t, "drill", "--dir", dir, "--messages", "50", "--kills", "1", "--seed", "5")
	if code != exitFine || stderr != "" {
		t.Errorf("exit code %d: %s", code, stderr)
	}
	for _, s := range []string{"LOST", "DUPLICATED", "Work Queue Length", "wal", "verify", "ok"} {
		if !strings.Contains(stdout, s) {
			t.Errorf("%q is missing:\n%s", s, stdout)
		}
	}
	if list, err := os.ReadDir(dir); err != nil || len(list) == 0 {
		t.Errorf("the store is not in the directory: %v, %v", list, err)
	}
}

// The store of a clean drill goes when nobody asked for it.
func TestDrillCleansUp(t *testing.T) {
	tmp := t.TempDir()
	t.Setenv("TMPDIR", tmp)
	if _, stderr, code := walctl(t, "drill", "--messages", "20", "--kills", "1"); code != exitFine {
		t.Errorf("exit code %d: %s", code, stderr)
	}
	if list, err := os.ReadDir(tmp); err != nil || len(list) != 0 {
		t.Errorf("left behind: %v, %v", list, err)
	}
}

func TestInterruptedDrill(t *testing.T) {
	tmp := t.TempDir()
	t.Setenv("TMPDIR", tmp)
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	root := newRoot()
	var errs bytes.Buffer
	root.SetErr(&errs)
	if code := execute(ctx, root, []string{"drill"}); code != exitError || !strings.Contains(errs.String(), "interrupted") {
		t.Errorf("exit code %d: %s", code, errs.String())
	}
	if list, err := os.ReadDir(tmp); err != nil || len(list) != 0 {
		t.Errorf("left behind: %v, %v", list, err)
	}
}

// What is found is told so that no terminal obeys it, and with a way to see it
// again.
func TestExplain(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "store")
	o := &drillOptions{Config: drill.Config{Kills: 3, Messages: 4, Producers: 5, Consumers: 6, Mail: "a b"}}
	r := &drill.Result{
		Store: "wal", Seed: 7, Verify: "bad\x1b", WorkQueueLength: 9, Findings: []string{"hung\x07"},
		Stderr: strings.Repeat("goroutine \x1b[31m\n", 100), Audit: drill.Audit{Lost: 1, Findings: []string{"lost: message 4"}},
	}
	var b bytes.Buffer
	o.explain(&b, r, dir)
	for _, s := range []string{"bad", "hung", "Length is 9", "lost: message 4", "--seed 7 --kills 3 --messages 4 --producers 5 --consumers 6 --mail \"a b\"", dir} {
		if !strings.Contains(b.String(), s) {
			t.Errorf("%q is not told:\n%s", s, b.String())
		}
	}
	if strings.ContainsAny(b.String(), "\x1b\x07") || strings.Count(b.String(), "\n") > 30 {
		t.Errorf("%d lines: %q", strings.Count(b.String(), "\n"), b.String())
	}
	if text, err := os.ReadFile(dir + ".stderr"); err != nil || len(text) != len(r.Stderr) {
		t.Errorf("%d bytes kept, %v", len(text), err)
	}
}
