package main

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/mtawal/mtawal/wal"
)

func TestSnapshot(t *testing.T) {
	dir := made(t)
	target := filepath.Join(t.TempDir(), "made", "on the way")
	before := contents(t, dir)
	if text := fine(t, "snapshot", dir, target); !strings.Contains(text, "is a copy of") || !strings.Contains(text, "Work Queue Length 3, in doubt 3, verified") {
		t.Errorf("it says %q", text)
	}
	before["LOCK"] = contents(t, dir)["LOCK"] // says who was the last
	untouched(t, dir, before)
	if text := fine(t, "inspect", target); !strings.Contains(text, "a copy of store") || !strings.Contains(text, "not opened since") || !strings.Contains(text, "Work Queue Length 3: pending 3, deferred 0, held 0; in doubt 3") {
		t.Errorf("inspect:\n%s", text)
	}
	// No file is shared with the store.
	list, err := os.ReadDir(target)
	if err != nil {
		t.Fatal(err)
	}
	for _, e := range list {
		a, err := os.Stat(filepath.Join(target, e.Name()))
		if err != nil {
			t.Fatal(err)
		}
		if a.Mode().Perm() != 0o600 {
			t.Errorf("%s has mode %v", e.Name(), a.Mode())
		}
		if b, err := os.Stat(filepath.Join(dir, e.Name())); err == nil && os.SameFile(a, b) {
			t.Errorf("%s is the file of the store", e.Name())
		}
	}
	whole := contents(t, target)
	for _, args := range [][]string{{"snapshot", dir, target}, {"snapshot", dir, dir}, {"snapshot", dir}, {"snapshot", filepath.Join(dir, "nowhere"), target + "2"}} {
		if stdout, stderr, code := walctl(t, args...); code != exitError || stderr == "" || stdout != "" {
			t.Errorf("%q: exit code %d: %s%s", args, code, stdout, stderr)
		}
	}
	untouched(t, target, whole)
	s, err := wal.Open(target, wal.Options{})
	if err != nil {
		t.Fatal(err)
	}
	d, err := s.Claim(t.Context(), "local")
	if err != nil {
		t.Fatal(err)
	}
	if !d.Recipients[0].InDoubt {
		t.Errorf("%+v", d.Recipients)
	}
	if err := d.SettleAll(t.Context(), wal.Delivered); err != nil {
		t.Fatal(err)
	}
	// Beside the owner it says who that is, and makes nothing.
	stdout, stderr, code := walctl(t, "snapshot", target, target+"2")
	if code != exitError || !strings.Contains(stderr, fmt.Sprint(os.Getpid())) || stdout != "" {
		t.Errorf("beside an owner: exit code %d: %s%s", code, stdout, stderr)
	}
	if _, err := os.Stat(target + "2"); err == nil {
		t.Error("beside an owner: the target was made")
	}
	// The owner itself makes one.
	if err := s.Snapshot(t.Context(), target+"3"); err != nil {
		t.Fatal(err)
	}
	closeStore(t, s)
	fine(t, "verify", target)
	fine(t, "verify", target+"3")
	if text := fine(t, "inspect", target+"3"); !strings.Contains(text, "Work Queue Length 2: pending 2, deferred 0, held 0; in doubt 2") {
		t.Errorf("inspect:\n%s", text)
	}
}
