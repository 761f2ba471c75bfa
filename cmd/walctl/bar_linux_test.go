package main

import (
	"bytes"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/mtawal/mtawal/wal"
	"golang.org/x/sys/unix"
)

// terminal is one, and what was written to it when the function is called.
func terminal(t *testing.T) (tty *os.File, written func() string) {
	t.Helper()
	master, err := os.OpenFile("/dev/ptmx", os.O_RDWR|unix.O_NOCTTY, 0)
	if err != nil {
		t.Skip("no terminal here: ", err)
	}
	t.Cleanup(func() { master.Close() })
	if err := unix.IoctlSetPointerInt(int(master.Fd()), unix.TIOCSPTLCK, 0); err != nil {
		t.Skip("no terminal here: ", err)
	}
	n, err := unix.IoctlGetInt(int(master.Fd()), unix.TIOCGPTN)
	if err != nil {
		t.Skip("no terminal here: ", err)
	}
	tty, err = os.OpenFile(fmt.Sprintf("/dev/pts/%d", n), os.O_RDWR|unix.O_NOCTTY, 0)
	if err != nil {
		t.Skip("no terminal here: ", err)
	}
	read := make(chan string, 1)
	go func() {
		var all bytes.Buffer
		_, _ = all.ReadFrom(master) // ends with an error when the last one has closed the terminal
		read <- all.String()
	}()
	return tty, func() string { tty.Close(); return <-read }
}

// On a terminal compact shows how far it is, and leaves nothing of that behind. Elsewhere it shows nothing.
func TestCompactShowsProgress(t *testing.T) {
	for _, shown := range []bool{true, false} {
		dir := filepath.Join(t.TempDir(), "store")
		s, err := wal.Open(dir, wal.Options{SegmentSize: 1 << 20}) // so large that no checkpoint comes of itself
		if err != nil {
			t.Fatal(err)
		}
		var used wal.Batch
		for i := range 40 {
			id, err := s.Enqueue(t.Context(), wal.Message{Body: make([]byte, 40_000), Recipients: []wal.Recipient{{Queue: "q", Address: "a"}}})
			if err != nil {
				t.Fatal(err)
			}
			if i%4 > 0 {
				used.Edit = append(used.Edit, wal.Edit{ID: id, Outcomes: []wal.Outcome{{Recipient: wal.All, Result: wal.Delivered}}})
			}
		}
		if _, err := s.Commit(t.Context(), used); err != nil {
			t.Fatal(err)
		}
		closeStore(t, s)
		if !shown {
			if text := fine(t, "compact", dir); !strings.HasPrefix(text, "segments ") {
				t.Error(text)
			}
			continue
		}
		tty, written := terminal(t)
		root := newRoot()
		root.SetOut(new(bytes.Buffer))
		root.SetErr(tty)
		code := execute(t.Context(), root, []string{"compact", dir})
		text := written()
		if code != exitFine || !strings.Contains(text, "compact [") || !strings.Contains(text, "100%") || !strings.Contains(text, "KiB copied, 0 B left") || !strings.HasSuffix(text, "\r\x1b[K") {
			t.Errorf("exit code %d: %q", code, text)
		}
	}
}
