package cases

import (
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/mtawal/mtawal/mailq"
	"github.com/mtawal/mtawal/wal"
)

// A file of no bytes, or of few, is removed under a name that a crash can leave, and damage under a
// final one.
func TestCase07_EmptyOrShortSegment(t *testing.T) {
	for _, size := range []int64{0, 100, 4096, 8192} {
		dir := closedStore(t)
		for _, name := range []string{"free-new-000000ff", "free-000000ff", "tmp-anything"} {
			must(t, os.WriteFile(filepath.Join(dir, name), make([]byte, size), 0o600))
		}
		whole(t, dir, 0)
		for name := range content(t, dir) {
			if name == "free-new-000000ff" || name == "free-000000ff" || name == "tmp-anything" {
				t.Errorf("%s is still there", name)
			}
		}
		dir = closedStore(t)
		list := named(t, dir, "seg-")
		last := tailOf(t, list)
		must(t, os.Truncate(last, size))
		refused(t, dir, wal.ErrCorrupt, filepath.Base(last))
	}
}

// A segment is missing in the middle: the store is refused, and nothing is removed.
func TestCase08_SegmentMissing(t *testing.T) {
	for i := range 5 {
		dir := closedStore(t)
		gone := named(t, dir, "seg-")[i]
		must(t, os.Remove(gone))
		refused(t, dir, wal.ErrCorrupt, filepath.Base(gone))
	}
}

// A segment that was recycled is back under its old name, as after a power cut: it is dead, whatever
// is in it, and removed again.
func TestCase09_DeletedSegmentReappears(t *testing.T) {
	for _, what := range []string{"as it was", "empty", "of another store"} {
		t.Run(what, func(t *testing.T) {
			dir := closedStore(t)
			first := named(t, dir, "seg-")[0]
			b, err := os.ReadFile(first)
			must(t, err)
			s := open(t, dir)
			if n := delivered(t, s); n != mails {
				t.Fatalf("%d delivered", n)
			}
			_, err = s.Enqueue(bg, mail(0))
			must(t, err)
			must(t, s.Compact(bg))
			must(t, s.Close())
			if _, err := os.Stat(first); !errors.Is(err, os.ErrNotExist) {
				t.Fatalf("segment 1 was not recycled: %v", err)
			}
			switch what {
			case "empty":
				b = nil
			case "of another store":
				b, err = os.ReadFile(named(t, closedStore(t), "seg-")[0])
				must(t, err)
			}
			must(t, os.WriteFile(first, b, 0o600))
			s = open(t, dir)
			if n := delivered(t, s); n != 1 {
				t.Errorf("%d delivered, and all but one had been", n)
			}
			must(t, s.Close())
			if _, err := os.Stat(first); !errors.Is(err, os.ErrNotExist) {
				t.Errorf("segment 1 is still there: %v", err)
			}
			verified(t, dir)
		})
	}
}

// A checkpoint that was being written when the process died.
func TestCase10_TemporaryCheckpoint(t *testing.T) {
	dir := closedStore(t)
	newest := named(t, dir, "ckpt-")[1]
	b, err := os.ReadFile(newest)
	must(t, err)
	tmp := filepath.Join(dir, "tmp-"+filepath.Base(newest))
	must(t, os.WriteFile(tmp, b[:len(b)/2], 0o600))
	whole(t, dir, 0)
	if _, err := os.Stat(tmp); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("it is still there: %v", err)
	}
}

// The newest checkpoint is empty, cut short or damaged: the one before is used, with the log behind
// it. Both: all of the log. It is never an empty queue.
func TestCase11_NewestCheckpointDamaged(t *testing.T) {
	spoil := map[string]func(t *testing.T, file string){
		"empty":    func(t *testing.T, file string) { must(t, os.Truncate(file, 0)) },
		"short":    func(t *testing.T, file string) { must(t, os.Truncate(file, 700)) },
		"header":   func(t *testing.T, file string) { edit(t, file, func(b []byte) { b[80] ^= 1 }) },
		"messages": func(t *testing.T, file string) { edit(t, file, func(b []byte) { b[600] ^= 1 }) },
		"end":      func(t *testing.T, file string) { edit(t, file, func(b []byte) { b[len(b)-1] ^= 1 }) },
		"zeros":    func(t *testing.T, file string) { edit(t, file, func(b []byte) { clear(b) }) },
		"of a stranger": func(t *testing.T, file string) {
			edit(t, file, func(b []byte) { copy(b, strings.Repeat("stranger ", 50)) })
		},
	}
	for what, f := range spoil {
		t.Run(what, func(t *testing.T) {
			dir := closedStore(t)
			f(t, named(t, dir, "ckpt-")[1])
			if found, err := wal.Verify(dir, wal.Options{}); err != nil || len(found) == 0 {
				t.Errorf("verify finds %v, %v", found, err)
			}
			whole(t, dir, 0)
			dir = closedStore(t)
			for _, file := range named(t, dir, "ckpt-") {
				f(t, file)
			}
			whole(t, dir, 0)
			// And without the beginning of the log there is nothing to go by.
			dir = closedStore(t)
			for _, file := range named(t, dir, "ckpt-") {
				f(t, file)
			}
			must(t, os.Remove(named(t, dir, "seg-")[0]))
			refused(t, dir, wal.ErrCorrupt, "seg-00000001")
		})
	}
}

// Names of queues are data: none becomes part of a path, and what can't be one is refused as such.
func TestCase29_QueueNamesAreNoPaths(t *testing.T) {
	parent := t.TempDir()
	dir := filepath.Join(parent, "store")
	s := open(t, dir)
	good := []string{"../x", "a/b", "/etc/passwd", "..", ".", "-rf", "C:\\x", "LOCK", "META", "seg-00000001", strings.Repeat("n", 255), "*"}
	for _, name := range good {
		_, err := s.Enqueue(bg, wal.Message{Recipients: []wal.Recipient{{Queue: name, Address: "a"}}})
		must(t, err)
		must(t, s.SetQueue(bg, name, wal.QueueState{Mode: mailq.HoldQueue}))
	}
	for _, name := range []string{"", "x\ny", "x\x00y", "\x1b[31m", strings.Repeat("n", 256), strings.Repeat("n", 300), strings.Repeat("n", 1<<20)} {
		_, err := s.Enqueue(bg, wal.Message{Recipients: []wal.Recipient{{Queue: name, Address: "a"}}})
		if !errors.Is(err, wal.ErrInvalid) && !errors.Is(err, wal.ErrTooLarge) {
			t.Errorf("a name of %d bytes: %v", len(name), err)
		}
	}
	must(t, s.Close())
	s = open(t, dir)
	seen := make(map[string]bool)
	for q, err := range s.Queues(bg) {
		must(t, err)
		seen[q.Name] = q.Held == 1 || q.Pending == 1
	}
	for _, name := range good {
		if !seen[name] {
			t.Errorf("queue %q is not there", name)
		}
	}
	if len(seen) != len(good) {
		t.Errorf("%d queues, want %d", len(seen), len(good))
	}
	must(t, s.Close())
	list, err := os.ReadDir(parent)
	must(t, err)
	if len(list) != 1 {
		t.Errorf("something was made outside of the store: %v", list)
	}
	for name := range content(t, dir) {
		if !strings.HasPrefix(name, "seg-") && !strings.HasPrefix(name, "ckpt-") && !strings.HasPrefix(name, "free-") && name != "META" && name != "claims" {
			t.Errorf("%q was made in the store", name)
		}
	}
}
