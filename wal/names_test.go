package wal_test

import (
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/mtawal/mtawal/wal"
)

// Links and directories in the place of any of the store's names are not followed, not written
// into and not waited for. Where the store can't do without the file it says so.
func TestNamesThatAreNotFiles(t *testing.T) {
	stand := map[string]func(t *testing.T, target, p string){
		"link":      func(t *testing.T, target, p string) { must(t, os.Symlink(target, p)) },
		"directory": func(t *testing.T, _, p string) { must(t, os.Mkdir(p, 0o700)) },
	}
	for _, c := range []struct {
		name    string
		refused bool
	}{
		{"claims", true}, {"META", true}, {"LOCK", true}, {"ckpt-0000000100001000", true}, {"newest checkpoint", true}, {"segment", true},
		{"cut-0000000100001000-1", false}, {"free-0000002a", false}, {"free-spare-00000001", false}, {"tmp-META", false}, {"tmp-ckpt-00000001ffff0000", false},
	} {
		for what, put := range stand {
			dir, name := closedStore(t), c.name
			switch name {
			case "newest checkpoint":
				name = filepath.Base(checkpoints(t, dir)[1])
			case "segment":
				name = filepath.Base(segments(t, dir)[1])
			}
			p, target := filepath.Join(dir, name), filepath.Join(t.TempDir(), "target")
			if os.Rename(p, target) != nil {
				must(t, os.WriteFile(target, []byte("of somebody"), 0o600))
			}
			before, err := os.ReadFile(target)
			must(t, err)
			put(t, target, p)
			s, err := wal.Open(dir, wal.Options{SegmentSize: smallSegment})
			if err == nil {
				err = s.Close()
			}
			if c.refused && (err == nil || !strings.Contains(err.Error(), name) || !strings.Contains(err.Error(), "not a plain private file")) || !c.refused && err != nil {
				t.Errorf("a %s as %s: %v", what, c.name, err)
			}
			if after, err := os.ReadFile(target); err != nil || string(after) != string(before) {
				t.Errorf("a %s as %s: what it leads to was written into (%v)", what, c.name, err)
			}
		}
	}
}
