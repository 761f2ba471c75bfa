package wal

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"
	"testing/synctest"
	"time"

	"github.com/mtawal/mtawal/internal/disk"
	"github.com/mtawal/mtawal/internal/disk/faultdisk"
	"github.com/mtawal/mtawal/internal/disk/memdisk"
	"github.com/mtawal/mtawal/segment"
)

// Section 4. nil is durable: at the moment when a call returns, the power may go.
func TestScenario_PowerCutRightAfterNil(t *testing.T) {
	scenario(t, func(t *testing.T) {
		fs := memdisk.New(memdisk.Config{})
		s := started(t, tiny(fs))
		a := newAccount()
		for i := range 60 {
			var err error
			switch {
			case i%3 == 2:
				err = a.deliver(s, Delivered)
			case i%20 == 10:
				err = s.Checkpoint(t.Context())
			default:
				err = a.post(s, fmt.Sprint("mail ", i))
			}
			if err != nil {
				t.Fatal(err)
			}
			cut := fs.Clone()
			cut.PowerCutWith(nothingMore)
			if err := a.audit(cut); err != nil {
				t.Fatalf("step %d: %v", i, err)
			}
		}
		ended(t, s)
	})
}

// An owner with NoSync is killed, the next one syncs, and the power goes: what that one has acknowledged is there, and what the first
// one had, since it was made durable by the opening.
func TestScenario_SyncedAfterAnOwnerThatDidNot(t *testing.T) {
	scenario(t, func(t *testing.T) {
		fs := memdisk.New(memdisk.Config{})
		o := tiny(fs)
		o.NoSync = true
		s := started(t, o)
		a := newAccount()
		post := func(s *Store, text string) {
			t.Helper()
			if err := a.post(s, text); err != nil {
				t.Fatal(err)
			}
		}
		for i := range 5 {
			post(s, fmt.Sprint("not synced ", i))
		}
		killed := fs.Clone()
		next := started(t, tiny(killed))
		post(next, "synced")
		cut := killed.Clone()
		cut.PowerCutWith(nothingMore)
		if err := a.audit(cut); err != nil {
			t.Error(err)
		}
		ended(t, next)
		ended(t, s)
	})
}

// Rule 4.3. "N+1 is never acknowledged after N failed, whatever its own sync said." The write of
// the first fails while the second waits; the disk is well again when its turn comes.
func TestScenario_NothingIsAcknowledgedAfterAFailure(t *testing.T) {
	scenario(t, func(t *testing.T) {
		fs := faultdisk.New(memdisk.New(memdisk.Config{}))
		s := started(t, tiny(fs))
		synctest.Wait() // the segment ahead has its zeros
		fs.Set(faultdisk.Plan{N: 1, Err: syscall.EIO, Only: []disk.Op{disk.OpWriteDurable}, Name: "seg-"})
		reached, release := fs.Stall(disk.OpWriteDurable, "seg-")
		results := make(chan error, 2)
		post := func() { results <- second(s.Enqueue(context.Background(), letter())) }
		go post()
		<-reached
		go post()
		synctest.Wait()
		release()
		for range 2 {
			if err := <-results; !errors.Is(err, ErrFailed) {
				t.Errorf("behind a failed write: %v", err)
			}
		}
	})
}

// Rule 4.4. The latch is set by every failure of the tail: a sync that says EIO though all was
// written, a read-only file system, a successor that can't be made.
func TestCase18_EveryFailureOfTheTailLatches(t *testing.T) {
	for name, plan := range map[string]faultdisk.Plan{
		"the write":                    {Err: syscall.EIO, Only: []disk.Op{disk.OpWriteDurable}},
		"half of the write":            {Err: syscall.EIO, Only: []disk.Op{disk.OpWriteDurable}, ShortWrite: true},
		"the write, done all the same": {Err: syscall.EIO, Only: []disk.Op{disk.OpWriteDurable}, After: true},
		"a read-only file system":      {Err: syscall.EROFS, Only: []disk.Op{disk.OpWriteDurable}},
		"syncing the next segment":     {Err: syscall.EIO, Only: []disk.Op{disk.OpSync}, Name: "free-"},
		"publishing the next segment":  {Err: syscall.EIO, Only: []disk.Op{disk.OpRename}},
		"syncing the directory":        {Err: syscall.EIO, Only: []disk.Op{disk.OpDirSync}},
		"asking for its size":          {Err: syscall.EIO, Only: []disk.Op{disk.OpSize}, Name: "seg-"},
	} {
		t.Run(name, func(t *testing.T) {
			scenario(t, func(t *testing.T) {
				inner := memdisk.New(memdisk.Config{})
				fs := faultdisk.New(inner)
				s := started(t, tiny(fs))
				a := newAccount()
				if err := a.post(s, "first"); err != nil {
					t.Fatal(err)
				}
				d := taken(t, s)
				plan.N, plan.Forever = 1, true
				fs.Set(plan)
				var err error
				for i := 0; err == nil && i < 100; i++ {
					err = a.post(s, fmt.Sprint(i, strings.Repeat(" long", 1000)))
				}
				if !errors.Is(err, ErrFailed) || !errors.Is(err, plan.Err) {
					t.Fatalf("a commit ended with %v", err)
				}
				fs.Set(faultdisk.Plan{}) // well again, it says
				if err := a.post(s, "after"); !errors.Is(err, ErrFailed) {
					t.Errorf("Enqueue: %v", err)
				}
				if _, err := s.Claim(t.Context(), "q"); !errors.Is(err, ErrFailed) {
					t.Errorf("Claim: %v", err)
				}
				if err := s.Checkpoint(t.Context()); !errors.Is(err, ErrFailed) {
					t.Errorf("Checkpoint: %v", err)
				}
				// Reading goes on.
				if text, err := textOf(d); text != "first" || err != nil {
					t.Errorf("a body that is out reads as %q, %v", text, err)
				}
				if _, err := Inspect(spool, tiny(fs)); err != nil {
					t.Errorf("Inspect: %v", err)
				}
				if err := s.Close(); !errors.Is(err, ErrFailed) {
					t.Errorf("Close: %v", err)
				}
				if err := a.audit(fs); err != nil {
					t.Errorf("reopened: %v", err)
				}
			})
		})
	}
}

// Rules 5.1 and 5.2. A crash at each step of rotations: the successor stands, synced, under its
// final name before the Seal is written, and its first frame comes after it.
func TestScenario_CrashAtEveryStepOfARotation(t *testing.T) {
	t.Parallel()
	everyStep(t, func(s *Store, a *account) error {
		for i := range 14 {
			if err := a.post(s, fmt.Sprint(i, strings.Repeat(" long", 2000))); err != nil {
				return err
			}
		}
		return nil
	}, func(t *testing.T, s *Store) {
		if n := len(s.Segments()); n < 3 {
			t.Errorf("%d segments: there was no rotation to speak of", n)
		}
	})
}

// Case 16. A crash at each step of checkpoints, of recycling, and of a second life of segments.
func TestCase16_CrashAtEveryStepOfACompaction(t *testing.T) {
	t.Parallel()
	everyStep(t, func(s *Store, a *account) error {
		for round := range 3 {
			for i := range 8 {
				if err := a.post(s, fmt.Sprint(round, " ", i, strings.Repeat(" long", 2000))); err != nil {
					return err
				}
			}
			for range 7 {
				if err := a.deliver(s, Delivered); err != nil {
					return err
				}
			}
			if err := s.Compact(context.Background()); err != nil {
				return err
			}
		}
		return nil
	}, func(t *testing.T, s *Store) {
		if n := len(s.Segments()); n > 6 {
			t.Errorf("%d segments: nothing was recycled", n)
		}
	})
}

// everyStep crashes a history before each of its operations, and audits what is left.
func everyStep(t *testing.T, history func(*Store, *account) error, after func(*testing.T, *Store)) {
	for _, names := range []memdisk.NameModel{memdisk.NamesPrefix, memdisk.NamesSubset} {
		scenario(t, func(t *testing.T) {
			fs := memdisk.New(memdisk.Config{Names: names})
			s := started(t, tiny(fs))
			a := newAccount()
			shots := a.shots(fs, func() {
				if err := history(s, a); err != nil {
					t.Fatal(err)
				}
				time.Sleep(time.Second)
			})
			after(t, s)
			ended(t, s)
			step := 1
			if testing.Short() {
				step = 5
			}
			tried := 0
			for i := 0; i < len(shots); i += step {
				shot := shots[i]
				rng := rand.New(rand.NewPCG(uint64(i), 4))
				for how, cut := range map[string]func(*memdisk.FS){
					"kill":                                   func(*memdisk.FS) {},
					"power cut, least":                       func(fs *memdisk.FS) { fs.PowerCutWith(nothingMore) },
					"power cut, most":                        func(fs *memdisk.FS) { fs.PowerCutWith(allOfIt) },
					fmt.Sprintf("power cut, seed (%d,4)", i): func(fs *memdisk.FS) { fs.PowerCut(rng) },
				} {
					left := shot.image.Clone()
					cut(left)
					tried++
					if err := shot.account.audit(left); err != nil {
						t.Fatalf("%s %s: %v", how, shot.what, err)
					}
				}
			}
			t.Logf("%d crashes", tried)
		})
	}
}

// Rule 5.3. "The two newest checkpoints, each read back and verified": a checkpoint that never
// reached the device, though its sync said so, makes nothing of before it dead.
func TestScenario_CheckpointThatNeverReachedTheDevice(t *testing.T) {
	scenario(t, func(t *testing.T) {
		inner := memdisk.New(memdisk.Config{})
		fs := faultdisk.New(inner)
		s := started(t, tiny(fs))
		a := newAccount()
		round := func() {
			t.Helper()
			for range 20 {
				if err := a.post(s, fmt.Sprint("mail ", len(a.sent))); err != nil {
					t.Fatal(err)
				}
			}
			for range 15 {
				if err := a.deliver(s, Delivered); err != nil {
					t.Fatal(err)
				}
			}
		}
		round()
		if err := s.Compact(t.Context()); err != nil {
			t.Fatal(err)
		}
		fs.OnOp(func(op disk.Op, name string) {
			if op == disk.OpSync && strings.HasPrefix(name, "tmp-ckpt-") {
				if err := inner.FailSync(spool+"/"+name, memdisk.SyncLies); err != nil {
					t.Error(err)
				}
			}
		})
		for range 3 {
			round()
			if err := s.Compact(t.Context()); !errors.Is(err, ErrCorrupt) {
				t.Errorf("Compact says %v, and its checkpoint is not on the device", err)
			}
		}
		fs.OnOp(nil)
		inner.PowerCutWith(nothingMore)
		if err := a.audit(inner); err != nil {
			t.Fatal(err)
		}
	})
}

// When Checkpoint has returned nil, the checkpoint survives a power cut, its name too.
func TestScenario_CheckpointIsDurable(t *testing.T) {
	scenario(t, func(t *testing.T) {
		fs := memdisk.New(memdisk.Config{})
		s := started(t, tiny(fs))
		for range 3 {
			posted(t, s, "mail")
			if err := s.Checkpoint(t.Context()); err != nil {
				t.Fatal(err)
			}
			cut := fs.Clone()
			cut.PowerCutWith(nothingMore)
			in, err := Inspect(spool, tiny(cut))
			if err != nil {
				t.Fatal(err)
			}
			want := s.folds.newest.Name // nobody folds now
			if len(in.Checkpoints) == 0 || in.Checkpoints[0].Name != want || len(in.Unusable) > 0 {
				t.Errorf("after a power cut there are %+v and unusable %v, want %s", in.Checkpoints, in.Unusable, want)
			}
		}
		ended(t, s)
	})
}

// Rule 8.1. "An open stream pins its segments until its Enqueue is applied or it ends."
func TestScenario_ChunksWithoutTheirMessage(t *testing.T) {
	scenario(t, func(t *testing.T) {
		fs := memdisk.New(memdisk.Config{})
		s := started(t, tiny(fs))
		a := newAccount()
		round := func() {
			t.Helper()
			for range 25 {
				if err := a.post(s, fmt.Sprint("mail ", len(a.sent))); err != nil {
					t.Fatal(err)
				}
			}
			for range 25 {
				if err := a.deliver(s, Delivered); err != nil {
					t.Fatal(err)
				}
			}
			if err := s.Compact(t.Context()); err != nil {
				t.Fatal(err)
			}
		}
		round()
		// The chunks of a message are in the log, its batch is not yet.
		text := strings.Repeat("a long letter ", 10_000)
		m := mailing(text)
		ticket := s.ticket(t.Context())
		var p messagePlan
		first := s.log.End().Segment()
		if err := s.bringStream(t.Context(), ticket, &m, &p); err != nil {
			t.Fatal(err)
		}
		if len(p.chunks) < 3 {
			t.Fatalf("%d chunks", len(p.chunks))
		}
		for range 4 {
			round()
		}
		there := func() (all bool) {
			all = true
			for _, c := range p.chunks {
				all = all && slices.ContainsFunc(s.Segments(), func(i SegmentInfo) bool { return i.Number == c.Pos.Segment() })
			}
			return all
		}
		if !there() {
			t.Fatalf("segments of chunks from %d on were recycled under an open stream: %+v", first, s.Segments())
		}
		ticket.giveUp()
		for range 3 {
			round()
		}
		if there() {
			t.Error("the chunks of a message that never came are kept for ever")
		}
		// And one that does come.
		if _, err := s.Enqueue(t.Context(), m); err != nil {
			t.Fatal(err)
		}
		ended(t, s)
		s = started(t, tiny(fs))
		holds(t, s, text)
		ended(t, s)
	})
}

// Rule 5.3. "With link count above one, or reflinked: unlinked, never rewritten."
func TestScenario_HardLinkOfADeadSegment(t *testing.T) {
	dir := t.TempDir()
	s, err := Open(dir, Options{SegmentSize: segment.SizeMin})
	if err != nil {
		t.Fatal(err)
	}
	a := newAccount()
	for i := range 40 {
		if err := a.post(s, fmt.Sprint("mail ", i)); err != nil {
			t.Fatal(err)
		}
	}
	for range 40 {
		if err := a.deliver(s, Delivered); err != nil {
			t.Fatal(err)
		}
	}
	backup := filepath.Join(t.TempDir(), "backup")
	dead := filepath.Join(dir, segment.Name(s.Segments()[0].Number))
	if err := os.Link(dead, backup); err != nil {
		t.Skip("no hard links here:", err)
	}
	want, err := os.ReadFile(backup)
	if err != nil {
		t.Fatal(err)
	}
	for range 4 {
		for range 30 {
			if err := a.post(s, fmt.Sprint("mail ", len(a.sent))); err != nil {
				t.Fatal(err)
			}
			if err := a.deliver(s, Delivered); err != nil {
				t.Fatal(err)
			}
		}
		if err := s.Compact(t.Context()); err != nil {
			t.Fatal(err)
		}
	}
	if err := s.Close(); err != nil {
		t.Fatal(err)
	}
	if got, err := os.ReadFile(backup); err != nil || string(got) != string(want) {
		t.Errorf("the link to a dead segment holds other bytes now; %v", err)
	}
	if _, err := os.Stat(dead); err == nil {
		t.Error("the segment was not taken out of the log")
	}
}

// Case 24. A segment that somebody cut short under the store: a typed error, and the process
// lives. A sync beyond the end of a file says nil, so the size is looked at.
func TestCase24_TruncatedUnderAnOpenStore(t *testing.T) {
	dir := t.TempDir()
	s, err := Open(dir, Options{SegmentSize: segment.SizeMin})
	if err != nil {
		t.Fatal(err)
	}
	a := newAccount()
	for i := range 4 {
		if err := a.post(s, fmt.Sprint("mail ", i)); err != nil {
			t.Fatal(err)
		}
	}
	d := taken(t, s)
	if err := os.Truncate(filepath.Join(dir, segment.Name(1)), segment.AlignmentMin); err != nil {
		t.Fatal(err)
	}
	if _, err := textOf(d); !errors.Is(err, disk.ErrFault) {
		t.Errorf("a body behind the end of its file: %v", err)
	}
	for i := 0; err == nil && i < 100; i++ {
		err = a.post(s, fmt.Sprint("more ", i))
	}
	if !errors.Is(err, ErrFailed) || !errors.Is(err, ErrCorrupt) {
		t.Errorf("at the end of the segment: %v", err)
	}
	if err := s.Close(); !errors.Is(err, ErrFailed) {
		t.Errorf("close: %v", err)
	}
}
