package wal_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/mtawal/mtawal/wal"
)

// TestMappingsStayOutOfCoreDumps: whatever the store maps, segments, checkpoints and the claim table,
// is marked so that no core dump has it, whatever the process's coredump_filter says.
func TestMappingsStayOutOfCoreDumps(t *testing.T) {
	dir := closedStore(t)
	s, err := wal.Open(dir, wal.Options{SegmentSize: smallSegment})
	must(t, err)
	defer func() { must(t, s.Close()) }()
	for range 60 { // so that every segment is mapped
		d, err := s.Claim(context.Background(), "q")
		must(t, err)
		_, err = d.Body.WriteTo(&bytes.Buffer{})
		must(t, err)
	}
	maps, err := os.ReadFile("/proc/self/smaps")
	if err != nil {
		t.Skip("the kernel does not say what is mapped: ", err)
	}
	seen := make(map[string]int)
	name := ""
	for line := range strings.Lines(string(maps)) {
		if i := strings.Index(line, dir+"/"); i >= 0 {
			name = strings.TrimSpace(line[i+len(dir)+1:])
		}
		if flags, ok := strings.CutPrefix(line, "VmFlags:"); ok && name != "" {
			kind, _, _ := strings.Cut(name, "-")
			seen[kind]++
			if !strings.Contains(flags+" ", " dd ") {
				t.Errorf("%s is mapped with the flags%s", name, flags)
			}
			name = ""
		}
	}
	if seen["seg"] < 3 || seen["claims"] != 1 || seen["ckpt"] == 0 {
		t.Errorf("mapped are %v", seen)
	}
}

// TestPrivateWhateverTheUmask: the files of a store and of a copy are for their owner alone, and so are
// the directories that were made for them.
func TestPrivateWhateverTheUmask(t *testing.T) {
	for _, mask := range []int{0, 0o077, 0o777} {
		parent := t.TempDir()
		dir, target := filepath.Join(parent, "a", "store"), filepath.Join(parent, "b", "copy")
		err := func() error {
			defer syscall.Umask(syscall.Umask(mask))
			s, err := wal.Open(dir, wal.Options{SegmentSize: smallSegment})
			if err != nil {
				return err
			}
			for range 40 {
				_, err = s.Enqueue(context.Background(), wal.Message{Body: make([]byte, 3000), Recipients: []wal.Recipient{{Queue: "q", Address: "a"}}})
				if err != nil {
					break
				}
			}
			return errors.Join(err, s.Checkpoint(context.Background()), s.Snapshot(context.Background(), target), s.Close())
		}()
		if err != nil {
			t.Fatalf("umask %03o: %v", mask, err)
		}
		n := 0
		must(t, filepath.WalkDir(parent, func(path string, e os.DirEntry, err error) error {
			if err != nil || path == parent {
				return err
			}
			i, err := e.Info()
			if err != nil {
				return err
			}
			want := os.FileMode(0o600)
			if e.IsDir() {
				want = 0o700
			}
			if i.Mode().Perm() != want {
				t.Errorf("umask %03o: %s has mode %03o", mask, path, i.Mode().Perm())
			}
			n++
			return nil
		}))
		if n < 10 {
			t.Errorf("%d names", n)
		}
	}
}

// TestLogsAndErrorsHoldNoMail: what the store logs and the errors it returns name messages by ID and
// fields by name. What mail says stays out of them.
func TestLogsAndErrorsHoldNoMail(t *testing.T) {
	const secret = "xyzzy"
	var mu sync.Mutex
	var logged bytes.Buffer
	o := wal.Options{SegmentSize: smallSegment, StageTimeout: time.Millisecond, Logger: slog.New(slog.NewTextHandler(writer(func(b []byte) (int, error) {
		mu.Lock()
		defer mu.Unlock()
		return logged.Write(b)
	}), &slog.HandlerOptions{Level: slog.LevelDebug}))}
	dir := filepath.Join(t.TempDir(), "store")
	s, err := wal.Open(dir, o)
	must(t, err)
	ctx := context.Background()
	m := func(queue string) wal.Message {
		return wal.Message{Key: secret + " key", Envelope: []byte(secret + " envelope"), Body: []byte(secret + " body"),
			Recipients: []wal.Recipient{{Queue: queue, Address: secret + "@example.org", Note: []byte(secret + " note")}}}
	}
	for i := range 3 {
		letter := m(secret + " queue")
		letter.Key = fmt.Sprint(secret, i)
		_, err := s.Enqueue(ctx, letter)
		must(t, err)
	}
	var errs []error
	bad := m("")
	_, err = s.Enqueue(ctx, bad)
	errs = append(errs, err)
	bad = m(secret + "\n")
	_, err = s.Enqueue(ctx, bad)
	errs = append(errs, err)
	bad = m(secret + " queue")
	bad.Recipients[0].Address = strings.Repeat(secret, 1000)
	_, err = s.Enqueue(ctx, bad)
	errs = append(errs, err)
	bad = m(secret + " queue")
	bad.Key = strings.Repeat(secret, 100)
	_, err = s.Enqueue(ctx, bad)
	errs = append(errs, err)
	for i, err := range errs {
		if err == nil {
			t.Errorf("what is wrong, %d, was taken", i)
		}
	}
	must(t, s.Close())
	// Damage in a body, and in a checkpoint.
	seg := filepath.Join(dir, "seg-00000001")
	b, err := os.ReadFile(seg)
	must(t, err)
	b[bytes.Index(b, []byte(secret+" body"))+len(secret)+1] ^= 1
	must(t, os.WriteFile(seg, b, 0o600))
	list, err := filepath.Glob(filepath.Join(dir, "ckpt-*"))
	must(t, err)
	for _, c := range list {
		patch(t, c, 700, []byte{0xff, 0xff})
	}
	found, err := wal.Verify(dir, wal.Options{})
	must(t, err)
	for _, f := range found {
		errs = append(errs, errors.New(f.String()))
	}
	s, err = wal.Open(dir, o)
	must(t, err)
	c, err := s.Consumer(wal.ConsumerOptions{})
	must(t, err)
	for {
		if _, ok := c.TryNext(secret + " queue"); !ok {
			break
		}
	}
	for e := range s.Entries(ctx, wal.Filter{}) {
		if e.Err != nil {
			errs = append(errs, e.Err)
		}
	}
	if st := s.Stats(); st.Damaged != 1 {
		t.Errorf("%+v", st)
	}
	errs = append(errs, s.Snapshot(ctx, dir))
	must(t, s.Close())
	mu.Lock()
	defer mu.Unlock()
	if logged.Len() == 0 || len(found) == 0 {
		t.Error("nothing was logged, or found")
	}
	if strings.Contains(logged.String(), secret) {
		t.Errorf("the log holds mail:\n%s", logged.String())
	}
	for _, err := range errs {
		if err != nil && strings.Contains(err.Error(), secret) {
			t.Errorf("an error holds mail: %.300v", err)
		}
	}
}

type writer func([]byte) (int, error)

func (w writer) Write(b []byte) (int, error) { return w(b) }
