package wal

import (
	"context"
	"errors"
	"strings"
	"sync/atomic"
	"testing"
	"testing/synctest"

	"github.com/mtawal/mtawal/internal/disk"
	"github.com/mtawal/mtawal/internal/disk/memdisk"
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
