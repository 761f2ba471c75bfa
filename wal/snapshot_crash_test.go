package wal

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"math/rand/v2"
	"slices"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/mtawal/mtawal/internal/disk"
	"github.com/mtawal/mtawal/internal/disk/faultdisk"
	"github.com/mtawal/mtawal/internal/disk/memdisk"
)

// copiedOrNot checks what a crash left of a copy: nothing that is taken for a store, or all of
// the mail, in doubt. It reports which.
func copiedOrNot(t *testing.T, o Options, what string, want map[string]Entry) bool {
	t.Helper()
	_, err := Inspect(copied, o)
	if errors.Is(err, ErrNotStore) || errors.Is(err, fs.ErrNotExist) {
		if d, err := o.fs.OpenDir(copied, false); err == nil {
			list, err := d.List()
			if err := errors.Join(err, d.Close()); err != nil {
				t.Fatal(err)
			}
			// Where nothing but a lock was made, an opening makes a new store.
			if slices.ContainsFunc(list, func(f disk.Info) bool { return f.Name != lockName && f.Name != "tmp-"+metaName }) {
				if _, err := Open(copied, o); !errors.Is(err, ErrNotStore) {
					t.Fatalf("%s: half a copy was opened: %v", what, err)
				}
			}
		}
		return false
	}
	if err != nil {
		t.Fatalf("%s: %v", what, err)
	}
	verified(t, copied, o)
	c, err := Open(copied, o)
	if err != nil {
		t.Fatalf("%s: %v", what, err)
	}
	sameMail(t, allOf(t, c), want)
	if err := c.Close(); err != nil {
		t.Fatal(err)
	}
	return true
}

// TestSnapshot_Crash: at whatever operation the process is killed or power is cut, the store is
// whole, and the copy is one or none.
func TestSnapshot_Crash(t *testing.T) {
	scenario(t, func(t *testing.T) {
		m := memdisk.New(memdisk.Config{})
		s := started(t, tiny(m))
		variety(t, s)
		ended(t, s)
		var images []*memdisk.FS
		var names []string
		m.OnOp(func(op disk.Op, name string) {
			if slices.Contains(changing, op) {
				images, names = append(images, m.Clone()), append(names, fmt.Sprintf("before %v %s", op, name))
			}
		})
		if err := Snapshot(t.Context(), spool, copied, tiny(m)); err != nil {
			t.Fatal(err)
		}
		m.OnOp(nil)
		images, names = append(images, m.Clone()), append(names, "at the end")
		s = started(t, tiny(m.Clone()))
		want := allOf(t, s)
		ended(t, s)
		whole := 0
		rng := rand.New(rand.NewPCG(1, 2))
		for i, image := range images {
			for _, how := range []string{"kill", "cut to what is durable", "cut"} {
				// Most of it is the writing of zeros, where one place is like another.
				if i > 0 && i+1 < len(images) && names[i] == names[i-1] && names[i] == names[i+1] {
					continue
				}
				fs := image.Clone()
				switch how {
				case "kill":
					fs.Kill()
				case "cut":
					fs.PowerCut(rng)
				default:
					fs.PowerCutWith(nothingMore)
				}
				what := how + " " + names[i]
				if copiedOrNot(t, tiny(fs), what, want) {
					whole++
				}
				verified(t, spool, tiny(fs))
			}
		}
		if whole < 3 {
			t.Errorf("of %d images %d hold a copy, and all of the last should", len(images), whole)
		}
	})
}

// TestSnapshot_OpenedAgainAndAgain: a copy that dies while it is opened for the first time has
// all of its mail in doubt at the next, and is opened for the first time once.
func TestSnapshot_OpenedAgainAndAgain(t *testing.T) {
	scenario(t, func(t *testing.T) {
		m := memdisk.New(memdisk.Config{})
		s := started(t, tiny(m))
		variety(t, s)
		ended(t, s)
		if err := Snapshot(t.Context(), spool, copied, tiny(m)); err != nil {
			t.Fatal(err)
		}
		s = started(t, tiny(m.Clone()))
		want := allOf(t, s)
		ended(t, s)
		rng := rand.New(rand.NewPCG(3, 4))
		for n := 1; ; n++ {
			fs := m.Clone()
			ops := 0
			var mu sync.Mutex
			fs.OnOp(func(op disk.Op, name string) {
				mu.Lock()
				defer mu.Unlock()
				if ops++; ops == n {
					crash(fs, []ending{killed, power}[n%2], rng)
				}
			})
			c, err := Open(copied, tiny(fs))
			if err == nil {
				_ = c.Close()
			}
			fs.OnOp(nil)
			mu.Lock()
			reached := ops >= n
			mu.Unlock()
			if !copiedOrNot(t, tiny(fs), fmt.Sprint("after operation ", n), want) {
				t.Fatalf("after operation %d there is no copy", n)
			}
			if !reached {
				return
			}
		}
	})
}

// TestSnapshot_Faults: whichever operation in the target fails, the copy is none, what was made
// of it is gone if that can be, and the store goes on.
func TestSnapshot_Faults(t *testing.T) {
	scenario(t, func(t *testing.T) {
		for _, fault := range []error{syscall.EIO, syscall.ENOSPC} {
			for n := 1; ; n++ {
				disks := faultdisk.New(memdisk.New(memdisk.Config{}))
				o := tiny(disks)
				s := started(t, o)
				for i := range 3 {
					posted(t, s, fmt.Sprint(i))
				}
				disks.Set(faultdisk.Plan{N: n, Err: fault, Only: changing})
				err := s.Snapshot(t.Context(), copied)
				hit := disks.Failed() > 0
				disks.Set(faultdisk.Plan{})
				if hit && err == nil {
					// Only a file of the store itself, a spare say, may have been hit.
					verified(t, copied, o)
				}
				if errors.Is(fault, syscall.ENOSPC) && err != nil && !errors.Is(err, ErrFull) {
					t.Errorf("a full target: %v", err)
				}
				if err != nil {
					if _, err := Inspect(copied, o); !errors.Is(err, ErrNotStore) && !errors.Is(err, fs.ErrNotExist) {
						t.Errorf("after a failure there is a store: %v\n%s", err, disks.Trace())
					}
					if d, err := disks.OpenDir(copied, false); err == nil {
						_ = d.Close()
						nothingIn(t, disks, copied)
					}
				}
				posted(t, s, "more")
				ended(t, s)
				if !hit {
					if err != nil {
						t.Fatal(err)
					}
					break
				}
			}
		}
	})
}

// TestSnapshot_FullTarget: what does not fit is not begun.
func TestSnapshot_FullTarget(t *testing.T) {
	scenario(t, func(t *testing.T) {
		m := memdisk.New(memdisk.Config{})
		s := started(t, tiny(m))
		variety(t, s)
		sp, err := s.dir.Space()
		if err != nil {
			t.Fatal(err)
		}
		m.SetCapacity(sp.Total - sp.Free + 100<<10)
		var full *FullError
		if err := s.Snapshot(t.Context(), copied); !errors.As(err, &full) || full.Need <= full.Free {
			t.Errorf("a full target: %v", err)
		}
		nothingIn(t, m, copied)
	})
}

// TestSnapshot_Decay: the newest checkpoint has decayed since it was made; a segment that can't
// be read, and one that is damaged.
func TestSnapshot_Decay(t *testing.T) {
	scenario(t, func(t *testing.T) {
		m := memdisk.New(memdisk.Config{})
		s := started(t, tiny(m))
		variety(t, s)
		if err := s.Checkpoint(t.Context()); err != nil {
			t.Fatal(err)
		}
		if err := m.Damage(spool+"/"+s.folds.newest.Name, 600, []byte{0xff, 0xff, 0xff, 0xff}); err != nil {
			t.Fatal(err)
		}
		if err := s.Snapshot(t.Context(), copied); err != nil {
			t.Fatal(err)
		}
		verified(t, copied, tiny(m))
		// The body of a message that waits.
		d := taken(t, s)
		text, err := textOf(d)
		if err != nil {
			t.Fatal(err)
		}
		d.Release()
		for name, b := range files(t, m) {
			if at := strings.Index(b, text); at >= 0 && strings.HasPrefix(name, "seg-") {
				if err := m.Damage(spool+"/"+name, int64(at), []byte("damaged")); err != nil {
					t.Fatal(err)
				}
			}
		}
		// Damage is copied, and known as such there.
		if err := s.Snapshot(t.Context(), "/damaged"); err != nil {
			t.Fatal(err)
		}
		if found, err := Verify("/damaged", tiny(m)); err != nil || len(found) == 0 {
			t.Errorf("the damage is not in the copy: %v, %v", found, err)
		}
		// What can't be read is an error, with the name of the file.
		for name := range files(t, m) {
			if strings.HasPrefix(name, "seg-") {
				if err := m.Unreadable(spool+"/"+name, 8192, 4096); err != nil {
					t.Fatal(err)
				}
			}
		}
		err = s.Snapshot(t.Context(), "/unreadable")
		if !errors.Is(err, syscall.EIO) || !strings.Contains(err.Error(), "seg-") {
			t.Errorf("of a device that can't be read: %v", err)
		}
		nothingIn(t, m, "/unreadable")
	})
}

// TestSnapshot_Interrupted: the context ends, or the store closes, while a write into the target
// hangs. Both go on at once, nothing stays pinned, and in the end nothing is left.
func TestSnapshot_Interrupted(t *testing.T) {
	for _, how := range []string{"context", "close", "latch"} {
		t.Run(how, func(t *testing.T) {
			scenario(t, func(t *testing.T) {
				disks := faultdisk.New(memdisk.New(memdisk.Config{}))
				o := tiny(disks)
				s := started(t, o)
				variety(t, s)
				reached, release := disks.Stall(disk.OpWriteAt, "copy-seg-")
				ctx, cancel := context.WithCancel(t.Context())
				defer cancel()
				done := make(chan error, 1)
				go func() { done <- s.Snapshot(ctx, copied) }()
				<-reached
				from := time.Now()
				want := context.Canceled
				switch how {
				case "context":
					cancel()
				case "close":
					want = ErrClosed
					if err := s.Close(); err != nil {
						t.Errorf("close: %v", err)
					}
				case "latch":
					want = ErrFailed
					disks.Set(faultdisk.Plan{N: 1, Name: "seg-", Only: []disk.Op{disk.OpWriteDurable}})
					if _, err := s.Enqueue(t.Context(), letter()); !errors.Is(err, ErrFailed) {
						t.Errorf("enqueue: %v", err)
					}
					disks.Set(faultdisk.Plan{})
				}
				if err := <-done; !errors.Is(err, want) {
					t.Errorf("the snapshot ended with %v, want %v", err, want)
				}
				if d := time.Since(from); d > 2*closeWait {
					t.Errorf("it took %v", d)
				}
				s.folds.mu.Lock()
				if len(s.folds.pins) > 0 {
					t.Error("segments are still pinned")
				}
				s.folds.mu.Unlock()
				release()
				s.copies.Wait()
				nothingIn(t, disks, copied)
			})
		})
	}
}
