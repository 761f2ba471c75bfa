package wal

import (
	"context"
	"errors"
	"fmt"
	"syscall"
	"testing"
	"testing/synctest"
	"time"

	"github.com/mtawal/mtawal/internal/disk"
	"github.com/mtawal/mtawal/internal/disk/faultdisk"
	"github.com/mtawal/mtawal/internal/disk/memdisk"
)

// A write that was reported durable and was not: after a power cut the next opening finds it,
// by what the frame behind it says, and touches nothing.
func TestCase19_SyncThatLied(t *testing.T) {
	scenario(t, func(t *testing.T) {
		fs := memdisk.New(memdisk.Config{})
		s := started(t, tiny(fs))
		posted(t, s, "one")
		w := lookInto(t, fs.Clone())
		if err := fs.FailSync(segmentPath(1), memdisk.SyncLies); err != nil {
			t.Fatal(err)
		}
		posted(t, s, "two")   // acknowledged, and not there
		posted(t, s, "three") // and says that two had been
		fs.PowerCutWith(nothingMore)
		before := files(t, fs)
		_, err := Open(spool, tiny(fs))
		var where *CorruptError
		if !errors.As(err, &where) || where.Segment != 1 || where.Offset != w.end.Offset() {
			t.Fatalf("opened with %v, want ErrCorrupt at %v", err, w.end)
		}
		before[lockName] = files(t, fs)[lockName]
		untouched(t, fs, before)
	})
}

// The file system becomes read only under an open store: a typed error to everyone from then on, and
// what is out can be read to its end.
func TestCase23_ReadOnlyUnderAnOpenStore(t *testing.T) {
	scenario(t, func(t *testing.T) {
		inner := memdisk.New(memdisk.Config{})
		disks := faultdisk.New(inner)
		s := started(t, tiny(disks))
		posted(t, s, "one")
		posted(t, s, "two")
		d := taken(t, s)
		disks.Set(faultdisk.Plan{N: 1, Forever: true, Err: syscall.EROFS, Only: changing})
		for range 2 {
			if _, err := s.Enqueue(t.Context(), mailing("three")); !errors.Is(err, ErrFailed) || !errors.Is(err, syscall.EROFS) {
				t.Errorf("enqueue: %v", err)
			}
		}
		if err := d.SettleAll(t.Context(), Delivered); !errors.Is(err, ErrFailed) {
			t.Errorf("settle: %v", err)
		}
		if _, err := s.Claim(t.Context(), "q"); !errors.Is(err, ErrFailed) {
			t.Errorf("claim: %v", err)
		}
		if text, err := textOf(d); err != nil || text != "one" {
			t.Errorf("what was out reads %q, %v", text, err)
		}
		if in, err := Inspect(spool, tiny(disks)); err != nil || in.WorkQueueLength != 2 {
			t.Errorf("inspect: %+v, %v", in, err)
		}
		if err := s.Close(); !errors.Is(err, ErrFailed) {
			t.Errorf("close: %v", err)
		}
		disks.Set(faultdisk.Plan{})
		s = started(t, tiny(disks))
		holds(t, s, "one", "two")
		ended(t, s)
	})
}

// The disk stalls for 10 s: contexts end, what needs no write goes on, and then all is as if nothing
// had been.
func TestCase26_DiskStalls(t *testing.T) {
	scenario(t, func(t *testing.T) {
		disks := faultdisk.New(memdisk.New(memdisk.Config{}))
		s := started(t, tiny(disks))
		for i := range 5 {
			posted(t, s, fmt.Sprint("before ", i))
		}
		began := time.Now()
		reached, release := disks.Stall(disk.OpWriteDurable, "seg-")
		patient := make(chan error, 1)
		go func() {
			_, err := s.Enqueue(context.Background(), mailing("patient"))
			patient <- err
		}()
		<-reached
		time.AfterFunc(10*time.Second, release)
		ctx, cancel := context.WithTimeout(t.Context(), time.Second)
		defer cancel()
		if _, err := s.Enqueue(ctx, mailing("impatient")); !errors.Is(err, ErrUnknown) || !errors.Is(err, context.DeadlineExceeded) {
			t.Errorf("a context that ended: %v", err)
		}
		if waited := time.Since(began); waited > 2*time.Second {
			t.Errorf("the context ended after 1 s, the call after %v", waited)
		}
		for range 5 { // claims, bodies and lists need no write
			d := taken(t, s)
			if _, err := textOf(d); err != nil {
				t.Error(err)
			}
		}
		if n := len(allOf(t, s)); n != 5 {
			t.Errorf("%d are listed, want 5", n)
		}
		if st := s.Stats(); st.Claimed != 5 || st.SyncingSince.IsZero() {
			t.Errorf("%+v", st)
		}
		if waited := time.Since(began); waited > 2*time.Second {
			t.Errorf("what needs no write took %v", waited)
		}
		if err := <-patient; err != nil {
			t.Errorf("after the stall: %v", err)
		}
		synctest.Wait() // the impatient one hung as long
		posted(t, s, "after")
		if st := s.Stats(); st.Pending != 3 || st.Claimed != 5 {
			t.Errorf("%+v", st)
		}
		ended(t, s)
	})
}
