//go:build unix

package main

import (
	"math/rand/v2"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"

	"github.com/mtawal/mtawal/segment"
)

// Directories that are no store, or one that was tampered with: every verb says so with its
// exit code and a line that no terminal obeys, ends, and leaves things as they are.
func TestHostileDirectories(t *testing.T) {
	first := segment.Name(1)
	replace := func(t *testing.T, dir, name string, with func(path string) error) {
		t.Helper()
		path := filepath.Join(dir, name)
		if err := os.Rename(path, filepath.Join(filepath.Dir(dir), "was-"+name)); err != nil {
			t.Fatal(err)
		}
		if err := with(path); err != nil {
			t.Fatal(err)
		}
	}
	link := func(name string) func(string) error {
		return func(path string) error { return os.Symlink(filepath.Join("..", "was-"+name), path) }
	}
	fifo := func(path string) error { return syscall.Mkfifo(path, 0o600) }
	file := func(text string) func(string) error {
		return func(path string) error { return os.WriteFile(path, []byte(text), 0o600) }
	}
	noise := make([]byte, segment.SizeMin)
	for i := range noise {
		noise[i] = byte(rand.N(256))
	}
	for _, tt := range []struct {
		name  string
		spoil func(t *testing.T, dir string)
		says  string
	}{
		{"a link in place of a segment", func(t *testing.T, dir string) { replace(t, dir, first, link(first)) }, first},
		{"a FIFO in place of a segment", func(t *testing.T, dir string) { replace(t, dir, first, fifo) }, first},
		{"a directory in place of a segment", func(t *testing.T, dir string) {
			replace(t, dir, first, func(p string) error { return os.Mkdir(p, 0o700) })
		}, first},
		{"noise in place of a segment", func(t *testing.T, dir string) { replace(t, dir, first, file(string(noise))) }, first},
		{"an empty file in place of a segment", func(t *testing.T, dir string) { replace(t, dir, first, file("")) }, first},
		{"a link in place of META", func(t *testing.T, dir string) { replace(t, dir, "META", link("META")) }, "META"},
		{"a FIFO in place of META", func(t *testing.T, dir string) { replace(t, dir, "META", fifo) }, "META"},
		{"noise in place of META", func(t *testing.T, dir string) { replace(t, dir, "META", file(string(noise))) }, "META"},
		{"a META with control characters", func(t *testing.T, dir string) { replace(t, dir, "META", file("mtawal \x1b[31m")) }, "META"},
		{"META is missing", func(t *testing.T, dir string) {
			if err := os.Remove(filepath.Join(dir, "META")); err != nil {
				t.Fatal(err)
			}
		}, "META"},
		{"a newer version", func(t *testing.T, dir string) { replace(t, dir, "META", file("mtawal 9 something else\n")) }, "version"},
		{"a FIFO in place of the claim table", func(t *testing.T, dir string) { replace(t, dir, "claims", fifo) }, "claims"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			dir := made(t)
			tt.spoil(t, dir)
			before := contents(t, dir)
			for _, verb := range append(reading, []string{"checkpoint"}, []string{"compact"}) {
				args := append(verb, dir)
				stdout, stderr, code := walctl(t, args...)
				if code == exitFine || !strings.Contains(stdout+stderr, tt.says) {
					t.Errorf("%q: exit code %d, and nothing about %s: %.500s%s", verb, code, tt.says, stdout, stderr)
				}
				printable(t, args, stdout+stderr)
			}
			untouched(t, dir, before)
		})
	}
}

// What is no store is not made one.
func TestNotAStore(t *testing.T) {
	tmp := t.TempDir()
	plain := filepath.Join(tmp, "file")
	if err := os.WriteFile(plain, []byte("mine"), 0o600); err != nil {
		t.Fatal(err)
	}
	empty, foreign := filepath.Join(tmp, "empty"), filepath.Join(tmp, "foreign")
	for _, dir := range []string{empty, foreign} {
		if err := os.Mkdir(dir, 0o700); err != nil {
			t.Fatal(err)
		}
	}
	if err := os.WriteFile(filepath.Join(foreign, "mine\x1b[31m"), []byte("mine"), 0o600); err != nil {
		t.Fatal(err)
	}
	before := contents(t, tmp)
	for _, dir := range []string{empty, foreign, plain, filepath.Join(tmp, "missing\x1b[31m"), ""} {
		for _, verb := range append(reading, []string{"checkpoint"}, []string{"compact"}) {
			args := append(verb, dir)
			stdout, stderr, code := walctl(t, args...)
			if code != exitError || !strings.HasPrefix(stderr, "walctl: ") || stdout != "" {
				t.Errorf("%q: exit code %d: %s%s", args, code, stdout, stderr)
			}
			printable(t, args, stdout+stderr)
		}
	}
	untouched(t, tmp, before)
	untouched(t, empty, map[string]string{})
	if list, err := os.ReadDir(foreign); err != nil || len(list) != 1 {
		t.Errorf("a foreign directory holds %v, %v", list, err)
	}
	for _, verb := range []string{"inspect", "verify", "dump", "checkpoint", "compact"} {
		for _, args := range [][]string{{verb}, {verb, empty, foreign}, {verb, "--no-such-flag", empty}} {
			if _, stderr, code := walctl(t, args...); code != exitError || stderr == "" {
				t.Errorf("%q: exit code %d: %s", args, code, stderr)
			}
		}
	}
}
