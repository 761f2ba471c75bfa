package wal_test

import (
	"io/fs"
	"os"
	"path/filepath"
	"testing"

	"go.uber.org/goleak"

	"github.com/mtawal/mtawal/mailq"
	"github.com/mtawal/mtawal/mailq/mailqtest"
	"github.com/mtawal/mtawal/wal"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// TestConformance runs the contract of package mailq over real files.
func TestConformance(t *testing.T) {
	opt := wal.Options{SegmentSize: 1 << 20, MaxMessage: 8 << 20, MaxRecipients: 2000}
	mailqtest.Run(t, func(dir string) (mailq.Store, error) { return wal.Open(dir, opt) }, mailqtest.Caps{
		InDoubt: true, Edits: true, NotBefore: true, Flush: true, Holds: true, QueueStates: true, Keys: true, Replacement: true,
		MaxMessage: opt.MaxMessage, MaxRecipients: opt.MaxRecipients,
		Crash: crash,
	})
}

// crash copies the files of an open store, as SIGKILL would leave them: in the page
// cache, the claim table included.
func crash(t *testing.T, dir string, s mailq.Store) string {
	t.Helper()
	to := t.TempDir()
	if err := os.Chmod(to, 0o700); err != nil {
		t.Fatal(err)
	}
	err := filepath.WalkDir(dir, func(path string, e fs.DirEntry, err error) error {
		if err != nil || e.IsDir() {
			return err
		}
		b, err := os.ReadFile(path)
		if err != nil {
			return err
		}
		return os.WriteFile(filepath.Join(to, e.Name()), b, 0o600)
	})
	if err != nil {
		t.Fatal(err)
	}
	if err := s.Close(); err != nil {
		t.Fatal(err)
	}
	return to
}
