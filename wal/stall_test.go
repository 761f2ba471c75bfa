package wal

import (
	"context"
	"errors"
	"runtime"
	"strings"
	"sync"
	"syscall"
	"testing"
	"testing/synctest"
	"time"

	"github.com/mtawal/mtawal/internal/disk"
	"github.com/mtawal/mtawal/internal/disk/faultdisk"
	"github.com/mtawal/mtawal/internal/disk/memdisk"
)

func faulty(t *testing.T) (*Store, *faultdisk.FS) {
	t.Helper()
	fs := faultdisk.New(memdisk.New(memdisk.Config{}))
	s, err := Open("/store", Options{SegmentSize: 64 << 10, fs: fs})
	if err != nil {
		t.Fatal(err)
	}
	return s, fs
}

func letter() Message {
	return Message{Body: []byte("dear"), Recipients: []Recipient{{Queue: "q", Address: "a"}}}
}

// TestScenario_LockOutlivesStalledWrite: Close returns while a write hangs, but the lock
// is let go only when that write has returned: else it could land on the next owner's log.
// Contexts end meanwhile, and other calls go on.
func TestScenario_LockOutlivesStalledWrite(t *testing.T) {
	scenario(t, func(t *testing.T) {
		s, fs := faulty(t)
		ctx := context.Background()
		if _, err := s.Enqueue(ctx, letter()); err != nil {
			t.Fatal(err)
		}
		reached, release := fs.Stall(disk.OpWriteDurable, "seg-")
		waiting := make(chan error, 1)
		go func() {
			_, err := s.Enqueue(ctx, letter())
			waiting <- err
		}()
		<-reached
		short, cancel := context.WithTimeout(ctx, 20*time.Millisecond)
		defer cancel()
		if _, err := s.Enqueue(short, letter()); !errors.Is(err, ErrUnknown) || !errors.Is(err, context.DeadlineExceeded) {
			t.Errorf("a context that ended: %v", err)
		}
		if st := s.Stats(); st.Pending != 1 || st.SyncingSince.IsZero() {
			t.Errorf("while the write hangs: %+v", st)
		}
		if err := s.Close(); !errors.Is(err, ErrUnknown) {
			t.Errorf("Close while a write hangs: %v", err)
		}
		if _, err := s.Enqueue(ctx, letter()); !errors.Is(err, ErrClosed) {
			t.Errorf("after Close: %v", err)
		}
		if _, err := Open("/store", Options{fs: fs}); !errors.Is(err, ErrLocked) {
			t.Errorf("the directory was opened while a write was under way: %v", err)
		}
		release()
		if err := <-waiting; err != nil {
			t.Errorf("the one whose write hung: %v", err)
		}
		synctest.Wait()
		again, err := Open("/store", Options{SegmentSize: 64 << 10, fs: fs})
		if err != nil {
			t.Fatalf("when the write had returned: %v", err)
		}
		if n := again.Stats().Pending; n < 2 {
			t.Errorf("%d pending, at least the two acknowledged ones should be there", n)
		}
		if err := again.Close(); err != nil {
			t.Fatal(err)
		}
	})
}

// TestScenario_FailedWriteLatches: after a write of the log has failed nobody gets a nil,
// whatever later writes say, until the store was opened again.
func TestScenario_FailedWriteLatches(t *testing.T) {
	s, fs := faulty(t)
	ctx := context.Background()
	if _, err := s.Enqueue(ctx, letter()); err != nil {
		t.Fatal(err)
	}
	d, err := s.Claim(ctx, "q")
	if err != nil {
		t.Fatal(err)
	}
	fs.Set(faultdisk.Plan{N: 1, Err: syscall.EIO, Only: []disk.Op{disk.OpWriteDurable}, Name: "seg-"})
	if _, err := s.Enqueue(ctx, letter()); !errors.Is(err, ErrFailed) || !errors.Is(err, syscall.EIO) {
		t.Fatalf("the write that failed: %v", err)
	}
	for name, err := range map[string]error{
		"Enqueue":  second(s.Enqueue(ctx, letter())),
		"Settle":   d.SettleAll(ctx, Delivered),
		"Claim":    second(s.Claim(ctx, "q")),
		"MarkUsed": s.MarkUsed(ctx, d.ID, All),
		"Admit":    s.Admit(1),
		"Submit":   second(s.Submit(Batch{Enqueue: []Message{letter()}}).Wait(ctx)),
	} {
		if !errors.Is(err, ErrFailed) {
			t.Errorf("%s after it: %v", name, err)
		}
	}
	if err := s.Close(); !errors.Is(err, ErrFailed) {
		t.Errorf("Close: %v", err)
	}
	s, err = Open("/store", Options{SegmentSize: 64 << 10, fs: fs})
	if err != nil {
		t.Fatal(err)
	}
	if st := s.Stats(); st.Pending < 1 || st.InDoubt != 1 {
		t.Errorf("after reopening: %+v", st)
	}
	if err := s.Close(); err != nil {
		t.Fatal(err)
	}
}

func second[T any](_ T, err error) error { return err }

// TestScenario_DuplicateKeyWaitsForFirst: a retry with the same key is not answered before
// the first is durable, and shares its fate.
func TestScenario_DuplicateKeyWaitsForFirst(t *testing.T) {
	scenario(t, func(t *testing.T) {
		s, fs := faulty(t)
		ctx := context.Background()
		m := letter()
		m.Key = "k"
		reached, release := fs.Stall(disk.OpWriteDurable, "seg-")
		ids := make(chan ID, 2)
		for range 2 {
			go func() {
				id, err := s.Enqueue(ctx, m)
				if err != nil {
					t.Error(err)
				}
				ids <- id
			}()
			<-reached // the first is on its way before the second comes
		}
		synctest.Wait()
		if n := len(ids); n > 0 {
			t.Errorf("%d acknowledged while the write of the first hung", n)
		}
		release()
		if a, b := <-ids, <-ids; a != b {
			t.Errorf("two IDs for one key: %v and %v", a, b)
		}
		if st := s.Stats(); st.Enqueued != 1 {
			t.Errorf("%d enqueued, want 1", st.Enqueued)
		}
		if err := s.Close(); err != nil {
			t.Fatal(err)
		}

		// The first fails: so does the second, and neither is told an ID.
		s, fs = faulty(t)
		fs.Set(faultdisk.Plan{N: 1, Forever: true, Err: syscall.EIO, Only: []disk.Op{disk.OpWriteDurable}})
		var wg sync.WaitGroup
		for range 2 {
			wg.Go(func() {
				if id, err := s.Enqueue(ctx, m); !errors.Is(err, ErrFailed) {
					t.Errorf("%v, %v", id, err)
				}
			})
		}
		wg.Wait()
		_ = s.Close() // ErrFailed, as above
	})
}

// TestScenario_ReservedIDNeverAgain: an ID that was shown and never used is not given
// to another message after a crash.
func TestScenario_ReservedIDNeverAgain(t *testing.T) {
	fs := memdisk.New(memdisk.Config{})
	shown := make(map[ID]bool)
	for range 4 {
		s, err := Open("/store", Options{SegmentSize: 64 << 10, fs: fs})
		if err != nil {
			t.Fatal(err)
		}
		for range 100 {
			id := s.NewID()
			if id == 0 || shown[id] {
				t.Fatalf("%v was shown before", id)
			}
			shown[id] = true
		}
		id, err := s.Enqueue(context.Background(), letter())
		if err != nil || shown[id] {
			t.Fatalf("%v was shown before; %v", id, err)
		}
		shown[id] = true
		dead := fs
		fs = fs.Clone() // killed here
		_ = dead
		if err := s.Close(); err != nil {
			t.Fatal(err)
		}
	}
}

// TestScenario_MarkUsedRacesSettleWithBounce: a used-mark by hand and a settle with a bounce
// for the same recipient: the bounce is enqueued if and only if the settle was the one that
// counted. Never a bounce for delivered mail.
func TestScenario_MarkUsedRacesSettleWithBounce(t *testing.T) {
	s, _ := faulty(t)
	ctx := context.Background()
	for range 200 {
		id, err := s.Enqueue(ctx, letter())
		if err != nil {
			t.Fatal(err)
		}
		d, err := s.Claim(ctx, "q")
		if err != nil {
			t.Fatal(err)
		}
		before := s.Stats()
		var wg sync.WaitGroup
		var settled error
		wg.Go(func() {
			if err := s.MarkUsed(ctx, id, 0); err != nil && !errors.Is(err, ErrNotFound) {
				t.Error(err)
			}
		})
		wg.Go(func() {
			bounce := Message{Recipients: []Recipient{{Queue: "bounces"}}}
			_, settled = s.Commit(ctx, Batch{Settle: []Settlement{{Delivery: d, Outcomes: []Outcome{{Recipient: 0, Result: Failed}}}}, Enqueue: []Message{bounce}})
		})
		wg.Wait()
		after := s.Stats()
		bounces, fails, marks := after.Enqueued-before.Enqueued, after.Used.Failed-before.Used.Failed, after.Used.Delivered-before.Used.Delivered
		switch {
		case fails+marks != 1 || bounces != fails:
			t.Fatalf("%d failed, %d marked delivered, %d bounces", fails, marks, bounces)
		case (settled == nil) != (fails == 1):
			t.Fatalf("the settle was told %v, and %d failed", settled, fails)
		case settled != nil && !errors.Is(settled, ErrUsed):
			t.Fatalf("the settle was told %v", settled)
		}
	}
	if err := s.Close(); err != nil {
		t.Fatal(err)
	}
}

// TestDurableBeforeApplied: between the disk and the state a commit is on disk, and nobody
// has seen it.
func TestDurableBeforeApplied(t *testing.T) {
	fs := memdisk.New(memdisk.Config{})
	var s *Store
	seen := make(chan int64, 100)
	images := make(chan *memdisk.FS, 100)
	s, err := Open("/store", Options{SegmentSize: 64 << 10, fs: fs, Trace: &Trace{Durable: func(CommitInfo) {
		s.mu.Lock()
		seen <- s.table.Counts.Enqueued
		s.mu.Unlock()
		images <- fs.Clone()
	}}})
	if err != nil {
		t.Fatal(err)
	}
	if _, err := s.Enqueue(context.Background(), letter()); err != nil {
		t.Fatal(err)
	}
	if n := <-seen; n != 0 {
		t.Errorf("%d enqueued in the state before it was told that the write is durable", n)
	}
	if err := s.Close(); err != nil {
		t.Fatal(err)
	}
	dead, err := Open("/store", Options{SegmentSize: 64 << 10, fs: <-images})
	if err != nil {
		t.Fatal(err)
	}
	if n := dead.Stats().Pending; n != 1 {
		t.Errorf("%d pending in what was on disk at that moment, want 1", n)
	}
	if err := dead.Close(); err != nil {
		t.Fatal(err)
	}
}

// TestCloseUnderLoad: Close and Shutdown end while everybody works, and everybody is told.
func TestCloseUnderLoad(t *testing.T) {
	for _, shutdown := range []bool{false, true} {
		s, err := Open(t.TempDir(), Options{SegmentSize: 1 << 20})
		if err != nil {
			t.Fatal(err)
		}
		ctx := context.Background()
		var wg sync.WaitGroup
		busy := make(chan struct{}, 1000)
		for range 8 {
			wg.Go(func() {
				for {
					if _, err := s.Enqueue(ctx, letter()); err != nil {
						if !errors.Is(err, ErrClosed) {
							t.Errorf("Enqueue: %v", err)
						}
						return
					}
					select {
					case busy <- struct{}{}:
					default:
					}
				}
			})
			wg.Go(func() {
				for {
					d, err := s.Claim(ctx, "q")
					if err != nil {
						if !errors.Is(err, ErrClosed) {
							t.Errorf("Claim: %v", err)
						}
						return
					}
					if err := d.SettleAll(ctx, Delivered); err != nil && !errors.Is(err, ErrClosed) {
						t.Errorf("Settle: %v", err)
					}
				}
			})
		}
		for range 500 {
			<-busy
		}
		if shutdown {
			err = s.Shutdown(ctx)
		} else {
			err = s.Close()
		}
		if err != nil {
			t.Errorf("shutdown %t: %v", shutdown, err)
		}
		wg.Wait()
	}
}

// While a write hangs for longer than a limit the store takes no mail, and says so: what it
// can't make durable it should not be given.
func TestAdmitWhileAWriteHangs(t *testing.T) {
	scenario(t, func(t *testing.T) {
		fs := faultdisk.New(memdisk.New(memdisk.Config{}))
		s := started(t, tiny(fs))
		reached, release := fs.Stall(disk.OpWriteDurable, "seg-")
		done := make(chan error, 1)
		go func() { done <- second(s.Enqueue(context.Background(), mailing("hangs"))) }()
		<-reached
		began := time.Now()
		time.Sleep(hangAfter - time.Second)
		if st := s.Stats(); st.SyncHangs || !st.SyncingSince.Equal(began) {
			t.Errorf("a write under way since %v: %v, hangs %v", began, st.SyncingSince, st.SyncHangs)
		}
		if err := s.Admit(1); err != nil {
			t.Errorf("before the limit: %v", err)
		}
		time.Sleep(2 * time.Second)
		if st := s.Stats(); !st.SyncHangs || !st.SyncingSince.Equal(began) {
			t.Errorf("a write that has hung since %v: %v, hangs %v", began, st.SyncingSince, st.SyncHangs)
		}
		for what, err := range map[string]error{
			"Admit":   s.Admit(1),
			"Enqueue": second(s.Enqueue(t.Context(), mailing("more"))),
			"Stage":   second(s.Stage(t.Context(), 0)),
		} {
			if !errors.Is(err, ErrFull) {
				t.Errorf("%s while a write hangs: %v", what, err)
			}
		}
		release()
		if err := <-done; err != nil {
			t.Error(err)
		}
		if err := s.Admit(1); err != nil || s.Stats().SyncHangs {
			t.Errorf("when it has returned: %v", err)
		}
		ended(t, s)
	})
}

// TestContextBoundsTheWaitOfTheOnlyCaller: with nobody else about, a caller would write
// itself; one whose context may end must not, or a write that hangs would outlast it.
func TestContextBoundsTheWaitOfTheOnlyCaller(t *testing.T) {
	s, fs := faulty(t)
	reached, release := fs.Stall(disk.OpWriteDurable, "seg-")
	defer release()
	ctx, cancel := context.WithCancel(context.Background())
	told := make(chan error, 1)
	go func() {
		_, err := s.Enqueue(ctx, letter())
		told <- err
	}()
	<-reached
	cancel()
	select {
	case err := <-told:
		if !errors.Is(err, ErrUnknown) || !errors.Is(err, context.Canceled) {
			t.Errorf("a context that ended: %v", err)
		}
	case <-time.After(30 * time.Second):
		t.Error("the caller is still in the write")
	}
	release()
	if err := s.Close(); err != nil {
		t.Fatal(err)
	}
	if st := s.Stats(); st.Pending != 1 {
		t.Errorf("what may have been committed was: %d pending, want 1", st.Pending)
	}
}

// TestCommitsBehindACallerThatWrites: a caller that writes for itself hands what came
// meanwhile to the engine; nobody waits for the next call.
func TestCommitsBehindACallerThatWrites(t *testing.T) {
	s, fs := faulty(t)
	ctx := context.Background()
	for range 20 {
		reached, release := fs.Stall(disk.OpWriteDurable, "seg-")
		var wg sync.WaitGroup
		wg.Go(func() {
			if _, err := s.Enqueue(ctx, letter()); err != nil {
				t.Error(err)
			}
		})
		<-reached
		h := s.Submit(Batch{Enqueue: []Message{letter()}}) // placed while the write hangs
		release()
		if _, err := h.Wait(ctx); err != nil {
			t.Error(err)
		}
		wg.Wait()
	}
	if st := s.Stats(); st.Pending != 40 {
		t.Errorf("%d pending, want 40", st.Pending)
	}
	if err := s.Close(); err != nil {
		t.Fatal(err)
	}
}

// TestTraceRunsOnTheEnginesGoroutines: what a callback does to its goroutine is not done to
// that of a caller.
func TestTraceRunsOnTheEnginesGoroutines(t *testing.T) {
	durable := make(chan string, 100)
	s, err := Open("/store", Options{SegmentSize: 64 << 10, fs: memdisk.New(memdisk.Config{}), Trace: &Trace{Durable: func(CommitInfo) {
		b := make([]byte, 16<<10)
		durable <- string(b[:runtime.Stack(b, false)])
	}}})
	if err != nil {
		t.Fatal(err)
	}
	if _, err := s.Enqueue(context.Background(), letter()); err != nil {
		t.Fatal(err)
	}
	if stack := <-durable; strings.Contains(stack, "Enqueue") {
		t.Errorf("the callback ran in the call:\n%s", stack)
	}
	if err := s.Close(); err != nil {
		t.Fatal(err)
	}
}
