package wal_test

import (
	"context"
	"errors"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"github.com/mtawal/mtawal/wal"
)

const smallSegment = 64 << 10

// closedStore makes a store of several segments with two checkpoints, and mail in the
// first and the last of them.
func closedStore(t *testing.T) string {
	t.Helper()
	dir := t.TempDir()
	s, err := wal.Open(dir, wal.Options{SegmentSize: smallSegment})
	if err != nil {
		t.Fatal(err)
	}
	ctx := context.Background()
	for i := range 60 {
		if _, err := s.Enqueue(ctx, wal.Message{Body: make([]byte, 3000), Recipients: []wal.Recipient{{Queue: "q", Address: "a"}}}); err != nil {
			t.Fatal(err)
		}
		if i == 40 {
			if err := s.Checkpoint(ctx); err != nil {
				t.Fatal(err)
			}
		}
	}
	if err := s.Close(); err != nil {
		t.Fatal(err)
	}
	return dir
}

// content is every file of a directory, links and other things as their kind.
func content(t *testing.T, dir string) map[string]string {
	t.Helper()
	all := make(map[string]string)
	list, err := os.ReadDir(dir)
	if err != nil {
		t.Fatal(err)
	}
	for _, e := range list {
		if e.Name() == "LOCK" {
			continue // holds the process that tried last
		}
		all[e.Name()] = e.Type().String()
		if e.Type().IsRegular() {
			b, err := os.ReadFile(filepath.Join(dir, e.Name()))
			if err != nil {
				t.Fatal(err)
			}
			all[e.Name()] = string(b)
		}
	}
	return all
}

func segments(t *testing.T, dir string) []string {
	t.Helper()
	list, err := filepath.Glob(filepath.Join(dir, "seg-*"))
	if err != nil || len(list) < 4 {
		t.Fatalf("segments %v: %v", list, err)
	}
	return list
}

func checkpoints(t *testing.T, dir string) []string {
	t.Helper()
	list, err := filepath.Glob(filepath.Join(dir, "ckpt-*"))
	if err != nil || len(list) < 2 {
		t.Fatalf("checkpoints %v: %v", list, err)
	}
	return list
}

func must(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

func patch(t *testing.T, file string, off int64, b []byte) {
	t.Helper()
	f, err := os.OpenFile(file, os.O_WRONLY, 0)
	must(t, err)
	_, err = f.WriteAt(b, off)
	must(t, errors.Join(err, f.Close()))
}

// TestRefusedDirectories: what is not a whole store is refused with a typed error that names
// the file, and nothing in it is touched.
func TestRefusedDirectories(t *testing.T) {
	for _, tt := range []struct {
		name  string
		spoil func(t *testing.T, dir string)
		want  error
		says  string
	}{
		{"a directory that is not a store", func(t *testing.T, dir string) {
			must(t, os.RemoveAll(dir))
			must(t, os.MkdirAll(dir, 0o700))
			must(t, os.WriteFile(filepath.Join(dir, "letters.txt"), []byte("dear"), 0o600))
		}, wal.ErrNotStore, "letters.txt"},
		{"segments without META", func(t *testing.T, dir string) { must(t, os.Remove(filepath.Join(dir, "META"))) }, wal.ErrNotStore, "META"},
		{"META of a newer version", func(t *testing.T, dir string) {
			b, err := os.ReadFile(filepath.Join(dir, "META"))
			must(t, err)
			must(t, os.WriteFile(filepath.Join(dir, "META"), []byte(strings.Replace(string(b), "mtawal 1", "mtawal 9", 1)), 0o600))
		}, wal.ErrVersion, "META"},
		{"a segment of a newer version", func(t *testing.T, dir string) { s := segments(t, dir); patch(t, s[len(s)-1], 8, []byte{9}) }, wal.ErrVersion, "seg-"},
		{"a checkpoint of a newer version", func(t *testing.T, dir string) { patch(t, checkpoints(t, dir)[1], 8, []byte{9}) }, wal.ErrVersion, "ckpt-"},
		{"a segment missing in the middle", func(t *testing.T, dir string) { must(t, os.Remove(segments(t, dir)[2])) }, wal.ErrCorrupt, "seg-00000003"},
		{"no checkpoint and no first segment", func(t *testing.T, dir string) {
			for _, c := range checkpoints(t, dir) {
				must(t, os.Remove(c))
			}
			must(t, os.Remove(segments(t, dir)[0]))
		}, wal.ErrCorrupt, "seg-00000001"},
		{"a foreign segment", func(t *testing.T, dir string) {
			other := closedStore(t)
			b, err := os.ReadFile(segments(t, other)[2])
			must(t, err)
			must(t, os.WriteFile(segments(t, dir)[2], b, 0o600))
		}, wal.ErrCorrupt, "another store"},
		{"an empty file under a final name", func(t *testing.T, dir string) { must(t, os.Truncate(segments(t, dir)[2], 0)) }, wal.ErrCorrupt, "seg-00000003"},
		{"a short segment", func(t *testing.T, dir string) { must(t, os.Truncate(segments(t, dir)[2], 8192)) }, wal.ErrCorrupt, "seg-00000003"},
		{"a symlink in place of a segment", func(t *testing.T, dir string) {
			s := segments(t, dir)[2]
			must(t, os.Rename(s, s+".moved"))
			must(t, os.Symlink(s+".moved", s))
		}, nil, "seg-00000003"},
		{"a segment that others may read", func(t *testing.T, dir string) { must(t, os.Chmod(segments(t, dir)[2], 0o644)) }, nil, "seg-00000003"},
		{"a second link to a segment", func(t *testing.T, dir string) {
			must(t, os.Link(segments(t, dir)[2], filepath.Join(dir, "copy")))
		}, nil, "seg-00000003"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			dir := closedStore(t)
			tt.spoil(t, dir)
			before := content(t, dir)
			s, err := wal.Open(dir, wal.Options{SegmentSize: smallSegment})
			if err == nil {
				_ = s.Close()
				t.Fatal("it was opened")
			}
			if tt.want != nil && !errors.Is(err, tt.want) || !strings.Contains(err.Error(), tt.says) {
				t.Errorf("the error is %q, want %v that says %q", err, tt.want, tt.says)
			}
			after := content(t, dir)
			for name, b := range before {
				if after[name] != b {
					t.Errorf("%s was touched", name)
				}
			}
			if len(after) != len(before) {
				t.Errorf("%d names before, %d after", len(before), len(after))
			}
		})
	}
}

// TestOpenedAllTheSame: what a crash can leave beside a whole store is no obstacle.
func TestOpenedAllTheSame(t *testing.T) {
	for _, tt := range []struct {
		name  string
		spoil func(t *testing.T, dir string)
	}{
		{"the newest checkpoint is empty", func(t *testing.T, dir string) { must(t, os.Truncate(checkpoints(t, dir)[1], 0)) }},
		{"a bit of the newest checkpoint is flipped", func(t *testing.T, dir string) { patch(t, checkpoints(t, dir)[1], 700, []byte{0xff}) }},
		{"the newest checkpoint is gone", func(t *testing.T, dir string) { must(t, os.Remove(checkpoints(t, dir)[1])) }},
		{"all checkpoints are gone", func(t *testing.T, dir string) {
			for _, c := range checkpoints(t, dir) {
				must(t, os.Remove(c))
			}
		}},
		{"the claim table is gone", func(t *testing.T, dir string) { must(t, os.Remove(filepath.Join(dir, "claims"))) }},
		{"a left-over temporary checkpoint", func(t *testing.T, dir string) {
			must(t, os.WriteFile(filepath.Join(dir, "tmp-ckpt-0000000100001000"), []byte("half"), 0o600))
		}},
		{"a left-over free segment", func(t *testing.T, dir string) {
			must(t, os.WriteFile(filepath.Join(dir, "free-00000009"), nil, 0o600))
		}},
	} {
		t.Run(tt.name, func(t *testing.T) {
			dir := closedStore(t)
			tt.spoil(t, dir)
			s, err := wal.Open(dir, wal.Options{SegmentSize: smallSegment})
			must(t, err)
			if n := s.Stats().Pending; n != 60 {
				t.Errorf("%d pending, want 60", n)
			}
			must(t, s.Checkpoint(context.Background()))
			must(t, s.Close())
			found, err := wal.Verify(dir, wal.Options{})
			if err != nil || len(found) > 0 {
				t.Errorf("verify: %v %v", found, err)
			}
		})
	}
}

// TestCase03_BadChecksumInASealedSegment: a flipped bit in a body sets that message aside; the others are delivered.
func TestCase03_BadChecksumInASealedSegment(t *testing.T) {
	dir := closedStore(t)
	// The body of the message in the second frame of segment 2 begins 512 bytes into it.
	patch(t, segments(t, dir)[1], 4096+4096+512+100, []byte{1})
	found, err := wal.Verify(dir, wal.Options{})
	if err != nil || len(found) == 0 {
		t.Fatalf("verify finds %v, %v", found, err)
	}
	s, err := wal.Open(dir, wal.Options{SegmentSize: smallSegment})
	must(t, err)
	c, err := s.Consumer(wal.ConsumerOptions{})
	must(t, err)
	n := 0
	for {
		d, ok := c.TryNext("q")
		if !ok {
			break
		}
		must(t, d.SettleAll(context.Background(), wal.Delivered))
		n++
	}
	if st := s.Stats(); n != 59 || st.Damaged != 1 || st.WorkQueueLength != 1 {
		t.Errorf("%d delivered, %d damaged, work queue length %d; want 59, 1, 1", n, st.Damaged, st.WorkQueueLength)
	}
	for e, err := range s.Entries(context.Background(), wal.Filter{}) {
		if err != nil || e.State.String() != "damaged" || !errors.Is(e.Err, wal.ErrCorrupt) {
			t.Errorf("listed as %+v, %v", e, err)
		}
	}
	must(t, s.Close())

	// What was found is not recorded: it is found again.
	s, err = wal.Open(dir, wal.Options{SegmentSize: smallSegment})
	must(t, err)
	if st := s.Stats(); st.Damaged != 0 || st.Pending != 1 {
		t.Errorf("opened again, %d damaged, %d pending", st.Damaged, st.Pending)
	}
	c, err = s.Consumer(wal.ConsumerOptions{})
	must(t, err)
	if d, ok := c.TryNext("q"); ok {
		t.Errorf("%v was handed out", d.ID)
	}
	if st := s.Stats(); st.Damaged != 1 || st.Pending != 0 {
		t.Errorf("found again, %d damaged, %d pending", st.Damaged, st.Pending)
	}
	must(t, s.Close())
}

// TestDamagedTable: a flipped bit in a record table below a promise makes Open refuse and say
// where.
func TestDamagedTable(t *testing.T) {
	dir := closedStore(t)
	for _, c := range checkpoints(t, dir) {
		must(t, os.Remove(c)) // so that all of the log is replayed
	}
	patch(t, segments(t, dir)[1], 4096+4096+140, []byte{0xff})
	before := content(t, dir)
	_, err := wal.Open(dir, wal.Options{SegmentSize: smallSegment})
	var where *wal.CorruptError
	if !errors.As(err, &where) || where.Segment != 2 || where.Offset != 8192 {
		t.Fatalf("the error is %v", err)
	}
	for name, b := range content(t, dir) {
		if before[name] != b {
			t.Errorf("%s was touched", name)
		}
	}
}

const lockedDir = "MTAWAL_TEST_LOCKED_DIR"

// TestCase27_Locked: a second Open, in this process or another, is refused at once.
func TestCase27_Locked(t *testing.T) {
	if dir := os.Getenv(lockedDir); dir != "" {
		_, err := wal.Open(dir, wal.Options{})
		if !errors.Is(err, wal.ErrLocked) {
			t.Fatalf("the other process was told: %v", err)
		}
		return
	}
	dir := t.TempDir()
	s, err := wal.Open(dir, wal.Options{SegmentSize: smallSegment})
	must(t, err)
	_, err = wal.Open(dir, wal.Options{SegmentSize: smallSegment})
	var who *wal.LockedError
	if !errors.As(err, &who) || who.PID != os.Getpid() {
		t.Errorf("a second Open was told: %v", err)
	}
	other := exec.Command(os.Args[0], "-test.run=^TestCase27_Locked$")
	other.Env = append(os.Environ(), lockedDir+"="+dir)
	if out, err := other.CombinedOutput(); err != nil {
		t.Errorf("%v\n%s", err, out)
	}
	if _, err := wal.Inspect(dir, wal.Options{}); err != nil {
		t.Errorf("Inspect beside the owner: %v", err)
	}
	must(t, s.Close())
	s, err = wal.Open(dir, wal.Options{SegmentSize: smallSegment})
	must(t, err)
	must(t, s.Close())
	if _, err := wal.Inspect(filepath.Join(dir, "nowhere"), wal.Options{}); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("Inspect of a directory that is not there: %v", err)
	}
}
