package wal

import (
	"context"
	"errors"
	"maps"
	"slices"
	"strings"
	"sync/atomic"
	"syscall"
	"testing"
	"testing/synctest"

	"github.com/mtawal/mtawal/internal/disk"
	"github.com/mtawal/mtawal/internal/disk/faultdisk"
	"github.com/mtawal/mtawal/internal/disk/memdisk"
	"github.com/mtawal/mtawal/segment"
)

// A checkpoint that is being made does not hold up Close: it ends where it is, the log is the truth. What
// Close makes itself takes its place.
func TestCloseEndsACheckpoint(t *testing.T) {
	scenario(t, func(t *testing.T) {
		fs := memdisk.New(memdisk.Config{})
		s := started(t, tiny(fs))
		posted(t, s, "mail")
		begun, goOn := make(chan struct{}), make(chan struct{})
		var made, named atomic.Int64
		fs.OnOp(func(op disk.Op, name string) {
			switch {
			case !strings.Contains(name, "tmp-ckpt"):
			case op == disk.OpCreate && made.Add(1) == 1:
				close(begun)
				<-goOn
			case op == disk.OpRename:
				named.Add(1)
			}
		})
		checkpoint := make(chan error, 1)
		go func() { checkpoint <- s.Checkpoint(context.Background()) }()
		<-begun
		closed := make(chan error, 1)
		go func() { closed <- s.Close() }()
		synctest.Wait()
		close(goOn)
		if err := <-checkpoint; !errors.Is(err, ErrClosed) {
			t.Errorf("the checkpoint: %v", err)
		}
		if err := <-closed; err != nil {
			t.Errorf("close: %v", err)
		}
		fs.OnOp(nil)
		if made.Load() != 2 || named.Load() != 1 {
			t.Errorf("%d were begun and %d got their names, of one that was ended and one that Close made", made.Load(), named.Load())
		}
		s = started(t, tiny(fs))
		holds(t, s, "mail")
		ended(t, s)
	})
}

// A claim may end behind Close, where the last commit could not: that of a message whose body is being read, and can't be. The
// claim table is not mapped any more then. What was under delivery is in doubt, as after every end.
func TestClaimEndsBehindClose(t *testing.T) {
	for name, end := range map[string]func(*Store, *claim){
		"set aside":  func(s *Store, c *claim) { s.setAside(c, ErrCorrupt) },
		"taken back": (*Store).takeBack,
	} {
		t.Run(name, func(t *testing.T) {
			dir := t.TempDir()
			fs := faultdisk.New(disk.OS())
			s := must(Open(dir, Options{SegmentSize: segment.SizeMin, fs: fs}))(t)
			posted(t, s, "mail")
			taken(t, s)
			fs.Set(faultdisk.Plan{N: 1, Forever: true, Err: syscall.EIO, Only: []disk.Op{disk.OpWriteDurable}})
			if _, err := s.Enqueue(t.Context(), Message{Recipients: []Recipient{{Queue: "q"}}}); !errors.Is(err, ErrFailed) && !errors.Is(err, ErrUnknown) {
				t.Fatalf("enqueued on a disk that fails: %v", err)
			}
			s.mu.Lock()
			claims := slices.Collect(maps.Values(s.claimed))
			s.mu.Unlock()
			if err := s.Close(); err == nil {
				t.Fatal("a store that failed was closed without an error")
			}
			for _, c := range claims {
				end(s, c)
			}
			s = must(Open(dir, Options{SegmentSize: segment.SizeMin}))(t)
			d := taken(t, s)
			if len(claims) != 1 || !d.Recipients[0].InDoubt {
				t.Errorf("%d claims; handed out as %+v, want it in doubt", len(claims), d.Recipients)
			}
			if err := s.Close(); err != nil {
				t.Error(err)
			}
		})
	}
}
