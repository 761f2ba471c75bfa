package wal

import (
	"context"
	"errors"
	"fmt"
	"runtime"
	"syscall"
	"testing"
	"time"

	"github.com/mtawal/mtawal/internal/disk"
	"github.com/mtawal/mtawal/internal/disk/faultdisk"
	"github.com/mtawal/mtawal/internal/disk/memdisk"
)

// sweepLedger is what a history was told: by message, whether the enqueue was
// acknowledged, and whether the used-mark was, or may have been submitted.
type sweepLedger struct {
	acked   map[ID]int // recipients
	used    map[unsure]bool
	perhaps map[unsure]bool // marked, and not told
	ids     map[ID]bool     // shown by NewID
}

// sweepHistory is one life of a store with rotation, checkpoints, recycling, bodies in
// chunks, claims and a reopening. It goes on after errors as far as it can.
func sweepHistory(t *testing.T, fs disk.FS, l *sweepLedger) {
	t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), 2*time.Second)
	defer cancel()
	for life := range 2 {
		s, err := Open("/store", Options{SegmentSize: 64 << 10, fs: fs})
		if err != nil {
			continue
		}
		enqueue := func(size, rcpts int) {
			m := Message{ID: s.NewID(), Body: make([]byte, size)}
			for i := range rcpts {
				m.Recipients = append(m.Recipients, Recipient{Queue: "q", Address: fmt.Sprint(i)})
			}
			if l.ids[m.ID] && m.ID != 0 {
				t.Errorf("ID %v was given twice", m.ID)
			}
			l.ids[m.ID] = true
			if id, err := s.Enqueue(ctx, m); err == nil {
				l.acked[id] = rcpts
			}
		}
		settle := func(n int) {
			con, err := s.Consumer(ConsumerOptions{})
			if err != nil {
				return
			}
			defer con.Close()
			for range n {
				d, ok := con.TryNext("q")
				if !ok {
					return
				}
				for _, r := range d.Recipients {
					if k := (unsure{d.ID, r.Index}); l.used[k] {
						t.Errorf("%v[%d] was used and is handed out again", d.ID, r.Index)
					}
				}
				err = d.SettleAll(ctx, Delivered)
				for _, r := range d.Recipients {
					if k := (unsure{d.ID, r.Index}); err == nil {
						l.used[k] = true
					} else {
						l.perhaps[k] = true
					}
				}
				if err != nil {
					d.Release()
				}
			}
		}
		for range 4 {
			enqueue(1500, 2)
		}
		enqueue(40_000, 1)
		settle(3)
		_ = s.Checkpoint(ctx) // its error leaves everything as it was, which is what is checked below
		for range 6 {
			enqueue(3000, 1)
		}
		settle(8)
		if life == 0 {
			_ = s.Compact(ctx)
		}
		enqueue(100, 3)
		if con, err := s.Consumer(ConsumerOptions{}); err == nil && life == 0 {
			con.TryNext("q") // left out: comes back in doubt
		}
		_ = s.Close()
		_ = s.Close()
		if _, err := s.Enqueue(ctx, Message{Recipients: []Recipient{{Queue: "q"}}}); err == nil {
			t.Error("a closed store took a message")
		}
	}
}

func newLedger() *sweepLedger {
	return &sweepLedger{acked: make(map[ID]int), used: make(map[unsure]bool), perhaps: make(map[unsure]bool), ids: make(map[ID]bool)}
}

// check opens what is left on a disk that works again.
func (l *sweepLedger) check(t *testing.T, inner *memdisk.FS, what string) {
	t.Helper()
	s, err := Open("/store", Options{SegmentSize: 64 << 10, fs: inner})
	if err != nil {
		t.Errorf("%s: reopening: %v", what, err)
		return
	}
	there := make(map[unsure]bool)
	for e, err := range s.Entries(context.Background(), Filter{}) {
		if err != nil || e.Err != nil {
			t.Errorf("%s: entries: %v %v", what, err, e.Err)
			break
		}
		there[unsure{e.ID, e.Recipient}] = true
	}
	for id, n := range l.acked {
		for i := range n {
			k := unsure{id, i}
			switch {
			case l.used[k] && there[k]:
				t.Errorf("%s: %v[%d] was used and is back", what, id, i)
			case !l.used[k] && !l.perhaps[k] && !there[k]:
				t.Errorf("%s: %v[%d] is lost", what, id, i)
			}
		}
	}
	st := s.Stats()
	if st.Enqueued != st.Used.Total()+st.Pending+st.Deferred+st.Held+st.Claimed+st.Damaged {
		t.Errorf("%s: the identity does not hold: %+v", what, st)
	}
	if err := s.Close(); err != nil {
		t.Errorf("%s: closing: %v", what, err)
	}
	found, err := Verify("/store", Options{fs: inner})
	if err != nil || len(found) > 0 {
		t.Errorf("%s: verify: %v %v", what, found, err)
	}
}

// TestFaultSweep makes every operation of the disk in a history fail, once and from there on
// for ever.
func TestFaultSweep(t *testing.T) {
	plain := faultdisk.New(memdisk.New(memdisk.Config{}))
	sweepHistory(t, plain, newLedger())
	ops := plain.Ops()
	if ops < 200 {
		t.Fatalf("the history takes %d operations: it does not do what it should", ops)
	}
	t.Logf("%d operations", ops)
	step := 1
	if testing.Short() {
		step = 7
	}
	for _, forever := range []bool{false, true} {
		for _, cause := range []error{syscall.EIO, syscall.ENOSPC} {
			if forever && errors.Is(cause, syscall.ENOSPC) {
				continue // intake waits for room, for ever: see TestFaultDiskFull
			}
			for n := 1; n <= ops+20; n += step {
				what := fmt.Sprintf("operation %d fails with %v, for ever %t", n, cause, forever)
				inner := memdisk.New(memdisk.Config{})
				fs := faultdisk.New(inner)
				fs.Set(faultdisk.Plan{N: n, Forever: forever, Err: cause})
				l := newLedger()
				guarded(t, what, fs, func() { sweepHistory(t, fs, l) })
				inner.Kill()
				l.check(t, inner, what)
				if t.Failed() {
					t.Fatalf("%s\nthe last operations:\n%s", what, fs.Trace())
				}
			}
		}
	}
}

// guarded ends the test with all stacks if f hangs.
func guarded(t *testing.T, what string, fs *faultdisk.FS, f func()) {
	t.Helper()
	done := make(chan struct{})
	go func() {
		defer close(done)
		f()
	}()
	select {
	case <-done:
	case <-time.After(60 * time.Second):
		b := make([]byte, 1<<20)
		t.Fatalf("%s: hangs\n%s\n%s", what, fs.Trace(), b[:runtime.Stack(b, true)])
	}
}

// TestFaultDiskFull: from some write on the disk is full. Intake stops, nothing
// acknowledged is lost, and when there is room the same store goes on.
func TestFaultDiskFull(t *testing.T) {
	ctx := context.Background()
	inner := memdisk.New(memdisk.Config{})
	fs := faultdisk.New(inner)
	s, err := Open("/store", Options{SegmentSize: 64 << 10, fs: fs})
	if err != nil {
		t.Fatal(err)
	}
	send := func(ctx context.Context) (ID, error) {
		return s.Enqueue(ctx, Message{Body: make([]byte, 2000), Recipients: []Recipient{{Queue: "q"}}})
	}
	for range 5 {
		if _, err := send(ctx); err != nil {
			t.Fatal(err)
		}
	}
	fs.Set(faultdisk.Plan{N: 1, Forever: true, Err: syscall.ENOSPC, Only: []disk.Op{disk.OpWriteDurable, disk.OpAllocate}})
	short, cancel := context.WithTimeout(ctx, 200*time.Millisecond)
	defer cancel()
	if _, err := send(short); !errors.Is(err, ErrUnknown) {
		t.Fatalf("on a full disk, within a deadline: %v", err)
	}
	if _, err := send(ctx); !errors.Is(err, ErrFull) {
		t.Fatalf("after that: %v", err)
	}
	if err := s.Admit(1); !errors.Is(err, ErrFull) {
		t.Fatalf("Admit: %v", err)
	}
	fs.Set(faultdisk.Plan{})
	for s.Admit(1) != nil {
		runtime.Gosched()
	}
	if _, err := send(ctx); err != nil {
		t.Fatalf("with room again: %v", err)
	}
	if st := s.Stats(); st.Pending != 7 {
		t.Fatalf("%d pending, want 7: the one whose outcome was unknown was written in the end", st.Pending)
	}
	if err := s.Close(); err != nil {
		t.Fatal(err)
	}
}
