package cases

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/mtawal/mtawal/wal"
)

// mount mounts a file system of so many bytes, and returns a directory in it and a way to mount it
// again with other flags.
func mount(t *testing.T, kind string, bytes int64) (dir string, again func(flags uintptr) error) {
	t.Helper()
	if os.Getuid() != 0 {
		t.Skip("only root mounts a file system")
	}
	at := t.TempDir()
	if kind == "tmpfs" {
		if err := syscall.Mount("none", at, kind, 0, fmt.Sprintf("size=%d", bytes)); err != nil {
			t.Skip("no tmpfs can be mounted: ", err)
		}
	} else {
		image := filepath.Join(t.TempDir(), "image")
		must(t, os.WriteFile(image, nil, 0o600))
		must(t, os.Truncate(image, bytes))
		if out, err := exec.Command("mkfs."+kind, "-q", image).CombinedOutput(); err != nil {
			t.Skipf("no mkfs.%s: %v %s", kind, err, out)
		}
		if out, err := exec.Command("mount", "-o", "loop", "-t", kind, image, at).CombinedOutput(); err != nil {
			t.Skipf("no %s can be mounted here: %v %s", kind, err, out)
		}
	}
	t.Cleanup(func() {
		if err := syscall.Unmount(at, syscall.MNT_DETACH); err != nil {
			t.Error(err)
		}
	})
	return filepath.Join(at, "store"), func(flags uintptr) error { return syscall.Mount("", at, "", syscall.MS_REMOUNT|flags, "") }
}

// fillUp enqueues until the store refuses, which must be for want of room.
func fillUp(t *testing.T, s *wal.Store) (n int) {
	t.Helper()
	for ; n < 100_000; n++ {
		_, err := s.Enqueue(bg, mail(n))
		var full *wal.FullError
		if errors.As(err, &full) {
			return n
		}
		must(t, err)
	}
	t.Fatal("it never fills")
	return 0
}

// hog takes what is left of a file system.
func hog(t *testing.T, dir string) (letGo func()) {
	t.Helper()
	name := filepath.Join(filepath.Dir(dir), "hog")
	f, err := os.Create(name)
	must(t, err)
	for b := make([]byte, 1<<20); len(b) > 0; {
		if _, err := f.Write(b); errors.Is(err, syscall.ENOSPC) {
			b = b[:len(b)/2]
		} else {
			must(t, err)
		}
	}
	must(t, f.Close())
	return func() { must(t, os.Remove(name)) }
}

// drained delivers all that was taken, on the full disk, and sees intake resume.
func drained(t *testing.T, s *wal.Store, n int) {
	t.Helper()
	if got := delivered(t, s); got != n {
		t.Errorf("%d delivered, want %d", got, n)
	}
	deadline := time.Now().Add(time.Minute)
	for {
		_, err := s.Enqueue(bg, mail(0))
		if err == nil {
			break
		}
		if !errors.Is(err, wal.ErrFull) || time.Now().After(deadline) {
			t.Fatalf("intake has not come back: %v", err)
		}
		<-time.After(50 * time.Millisecond)
	}
	if got := delivered(t, s); got != 1 {
		t.Errorf("%d delivered, want the new one", got)
	}
}

// halves has no name that a store does not use, and no segment that is not whole.
func halves(t *testing.T, dir string) {
	t.Helper()
	for name, b := range content(t, dir) {
		if strings.HasPrefix(name, "seg-") && int64(len(b)) != small.SegmentSize {
			t.Errorf("%s has %d bytes", name, len(b))
		}
		if strings.HasPrefix(name, "free-new-") || strings.HasPrefix(name, "tmp-") {
			t.Errorf("%s was left", name)
		}
	}
}

// There is no room for a segment: ErrFull, no half of a file, and used-marks go on.
func TestCase20_NoSpaceForASegment(t *testing.T) {
	dir, _ := mount(t, "tmpfs", 4<<20)
	s := open(t, dir)
	n := fillUp(t, s)
	must(t, s.Close())
	halves(t, dir)
	s = open(t, dir)
	drained(t, s, n)
	must(t, s.Close())
	verified(t, dir)
}

// Every byte of the file system is taken, by others too: the store opens, hands out and marks, and
// when there is room again it drains and intake resumes.
func TestCase22_RecoveryOnAFullDisk(t *testing.T) {
	dir, _ := mount(t, "tmpfs", 4<<20)
	s := open(t, dir)
	n := fillUp(t, s)
	must(t, s.Close())
	letGo := hog(t, dir)
	s = open(t, dir)
	if _, err := s.Enqueue(bg, mail(0)); !errors.Is(err, wal.ErrFull) {
		t.Errorf("an enqueue on a full disk: %v", err)
	}
	for range 5 { // what the last segment and the spare ones take, nobody can take away
		d, err := s.Claim(bg, "q")
		must(t, err)
		must(t, d.SettleAll(bg, wal.Delivered))
	}
	letGo()
	drained(t, s, n-5)
	must(t, s.Close())
	verified(t, dir)
}

// A disk that copies on write is full, and one on which segments share their blocks with a reflink: an
// error, and the process lives; what was taken is there.
func TestCase21_FullDiskThatCopiesOnWrite(t *testing.T) {
	for kind, size := range map[string]int64{"btrfs": 128 << 20, "xfs": 320 << 20} {
		t.Run(kind, func(t *testing.T) {
			dir, _ := mount(t, kind, size)
			fill(t, dir)
			if kind == "xfs" {
				for _, name := range named(t, dir, "seg-") {
					if out, err := exec.Command("cp", "--reflink=always", name, filepath.Join(filepath.Dir(dir), filepath.Base(name))).CombinedOutput(); err != nil {
						t.Skipf("no reflinks: %v %s", err, out)
					}
				}
			}
			s := open(t, dir)
			letGo := hog(t, dir)
			n, unknown := mails, 0
			for range 200 {
				ctx, cancel := context.WithTimeout(bg, time.Second) // what was admitted waits for room
				_, err := s.Enqueue(ctx, mail(n))
				cancel()
				if err != nil {
					if !errors.Is(err, wal.ErrFull) {
						unknown = 1
					}
					if !errors.Is(err, wal.ErrFull) && !errors.Is(err, wal.ErrFailed) && !errors.Is(err, wal.ErrUnknown) {
						t.Errorf("on a full disk: %v", err)
					}
					break
				}
				n++
			}
			letGo()
			err := s.Close()
			if err != nil && !errors.Is(err, wal.ErrFailed) {
				t.Error(err)
			}
			s = open(t, dir)
			if got := delivered(t, s); got != n && got != n+unknown {
				t.Errorf("%d delivered, want %d, and perhaps %d more", got, n, unknown)
			}
			must(t, s.Close())
			verified(t, dir)
		})
	}
}

// A file system that is read only: the store does not open and says why, and reading goes on.
func TestCase23_ReadOnlyFileSystem(t *testing.T) {
	dir, again := mount(t, "tmpfs", 16<<20)
	fill(t, dir)
	must(t, again(syscall.MS_RDONLY))
	s, err := wal.Open(dir, small)
	if err == nil {
		_ = s.Close()
	}
	if !errors.Is(err, syscall.EROFS) {
		t.Errorf("opened read only: %v", err)
	}
	in, err := wal.Inspect(dir, wal.Options{})
	if err != nil || in.WorkQueueLength != mails {
		t.Errorf("inspect: %+v, %v", in, err)
	}
	verified(t, dir)
	must(t, again(0))
	whole(t, dir, 0)
}
