package wal

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"syscall"
	"testing"
	"testing/synctest"
	"time"

	"github.com/mtawal/mtawal/internal/disk"
	"github.com/mtawal/mtawal/internal/disk/faultdisk"
	"github.com/mtawal/mtawal/internal/disk/memdisk"
	"github.com/mtawal/mtawal/mailq"
	"github.com/mtawal/mtawal/segment"
)

// Bodies that nothing is done with are given up, by the store itself and when they are next
// used; those that are written to are not, up to a point.
func TestStagedDeadline(t *testing.T) {
	scenario(t, func(t *testing.T) {
		o := tiny(memdisk.New(memdisk.Config{}))
		o.StageTimeout = time.Minute
		s := started(t, o)
		idle, busy := stagedBody(t, s, long("idle")), stagedBody(t, s, "busy")
		time.Sleep(58 * time.Second)
		for i := range 22 {
			if _, err := busy.Write([]byte("x")); err != nil {
				t.Fatalf("write %d: %v", i, err)
			}
			time.Sleep(59 * time.Second)
			if n := s.Stats().Staged; n != 1 {
				t.Fatalf("round %d: %d bodies are staged", i, n)
			}
		}
		for _, err := range []error{
			second(idle.Write([]byte("x"))), second(idle.ReadAt(make([]byte, 1), 0)), second(s.Enqueue(t.Context(), stagedMail(idle))),
		} {
			if !errors.Is(err, context.DeadlineExceeded) {
				t.Errorf("given up: %v", err)
			}
		}
		if got := pinnedNow(s); len(got) > 0 {
			t.Errorf("segments %v are held", got)
		}
		for range 2 {
			_, _ = busy.Write([]byte("x"))
			time.Sleep(58 * time.Second)
		}
		if _, err := busy.Write([]byte("x")); !errors.Is(err, context.DeadlineExceeded) {
			t.Errorf("after 24 times the deadline: %v", err)
		}
		if st := s.Stats(); st.Staged != 0 || st.StagedBytes != 0 {
			t.Errorf("%d bodies are staged, %d bytes", st.Staged, st.StagedBytes)
		}
		// Nobody has to come by: but who does is told before the store has looked.
		slow := stagedBody(t, s, "slow")
		time.Sleep(time.Minute)
		if _, err := s.Enqueue(t.Context(), stagedMail(slow)); !errors.Is(err, context.DeadlineExceeded) {
			t.Errorf("at the deadline: %v", err)
		}
		ended(t, s)
	})
}

// The bounds on what is staged, and that they are given back.
func TestStagedBounds(t *testing.T) {
	scenario(t, func(t *testing.T) {
		o := tiny(memdisk.New(memdisk.Config{}))
		o.StagedMax, o.MaxMessage, o.StagedBytes = 3, 100_000, 200_000
		s := started(t, o)
		full := func(what string, err error) {
			t.Helper()
			var f *mailq.FullError
			if !errors.As(err, &f) {
				t.Errorf("%s: %v", what, err)
			}
		}
		for _, size := range []int64{-1, 100_001} {
			if _, err := s.Stage(t.Context(), size); !errors.Is(err, ErrInvalid) && !errors.Is(err, ErrTooLarge) {
				t.Errorf("a size of %d: %v", size, err)
			}
		}
		announced, err := s.Stage(t.Context(), 90_000)
		if err != nil {
			t.Fatal(err)
		}
		b := stagedBody(t, s, strings.Repeat("b", 90_000))
		full("110,000 in 20,000", second(s.Stage(t.Context(), 30_000)))
		c := stagedBody(t, s, "c")
		full("the fourth of three", second(s.Stage(t.Context(), 1)))
		full("a Write of 20,000 in 19,999", second(c.Write(make([]byte, 20_000))))
		if _, err := c.Write(nil); !errors.Is(err, ErrFull) {
			t.Errorf("a Write after one that failed: %v", err)
		}
		if _, err := s.Enqueue(t.Context(), stagedMail(c)); !errors.Is(err, ErrFull) {
			t.Errorf("a batch with half a body: %v", err)
		}
		if _, err := b.Write(make([]byte, 10_001)); !errors.Is(err, ErrTooLarge) {
			t.Errorf("over MaxMessage: %v", err)
		}
		writeAll(t, announced, strings.Repeat("a", 100_000)) // 10,000 more than announced
		if st := s.Stats(); st.Staged != 3 || st.StagedBytes != 190_001 {
			t.Errorf("%d bodies are staged, %d bytes", st.Staged, st.StagedBytes)
		}
		if _, err := s.Enqueue(t.Context(), stagedMail(announced)); err != nil {
			t.Error(err)
		}
		b.Abort()
		b.Abort()
		c.Abort()
		if st := s.Stats(); st.Staged != 0 || st.StagedBytes != 0 {
			t.Errorf("%d bodies are staged, %d bytes", st.Staged, st.StagedBytes)
		}
		ended(t, s)
		for field, o := range map[string]Options{
			"StageTimeout": {StageTimeout: 25 * time.Hour}, "StagedMax": {StagedMax: -1}, "StagedBytes": {StagedBytes: 1000},
		} {
			if _, err := Open(spool, o); err == nil || !strings.Contains(err.Error(), field) {
				t.Errorf("%+v: %v", o, err)
			}
		}
	})
}

// A Write that waits for the log ends with its context, with Abort, with the store; a full
// disk is said.
func TestStagedWriteThatWaits(t *testing.T) {
	for name, tt := range map[string]struct {
		act  func(s *Store, st Staged, cancel func())
		want error
	}{
		"context": {func(_ *Store, _ Staged, cancel func()) { cancel() }, context.Canceled},
		"abort":   {func(_ *Store, st Staged, _ func()) { st.Abort() }, ErrInvalid},
		"close":   {func(s *Store, _ Staged, _ func()) { _ = s.Close() }, ErrClosed},
	} {
		t.Run(name, func(t *testing.T) {
			scenario(t, func(t *testing.T) {
				fs := faultdisk.New(memdisk.New(memdisk.Config{}))
				s := started(t, tiny(fs))
				ctx, cancel := context.WithCancel(t.Context())
				defer cancel()
				st, err := s.Stage(ctx, 0)
				if err != nil {
					t.Fatal(err)
				}
				reached, letGo := fs.Stall(disk.OpWriteDurable, "seg-")
				done := make(chan error, 1)
				go func() { done <- second(st.Write([]byte(long("dear")))) }()
				<-reached
				synctest.Wait()
				reading := make(chan error, 1)
				go func() { reading <- second(st.ReadAt(make([]byte, 10), 0)) }()
				synctest.Wait()
				tt.act(s, st, cancel)
				if err := <-done; !errors.Is(err, tt.want) {
					t.Errorf("Write: %v", err)
				}
				if name != "context" {
					if err := <-reading; !errors.Is(err, tt.want) {
						t.Errorf("ReadAt: %v", err)
					}
				}
				letGo()
				if name == "context" {
					if err := <-reading; err != nil {
						t.Errorf("ReadAt: %v", err)
					}
					if _, err := st.Write([]byte("x")); !errors.Is(err, tt.want) {
						t.Errorf("another Write: %v", err)
					}
				}
				st.Abort()
				synctest.Wait()
			})
		})
	}
}

// A full disk and a failed one are said by Write, and intake that has ended is.
func TestStagedWhenTheStoreTakesNothing(t *testing.T) {
	scenario(t, func(t *testing.T) {
		fs := faultdisk.New(memdisk.New(memdisk.Config{}))
		s := started(t, tiny(fs))
		st, more := stagedBody(t, s, "dear"), stagedBody(t, s, long("dear"))
		fs.Set(faultdisk.Plan{N: 1, Forever: true, Err: syscall.ENOSPC, Only: []disk.Op{disk.OpWriteDurable}})
		s.Submit(Batch{Enqueue: []Message{mailing("finds the disk full")}})
		synctest.Wait() // else the chunks may all be in the log's hands before it has
		if _, err := st.Write([]byte(long("dear"))); !errors.Is(err, ErrFull) {
			t.Errorf("on a full disk: %v", err)
		}
		if _, err := s.Stage(t.Context(), 0); !errors.Is(err, ErrFull) {
			t.Errorf("Stage on a full disk: %v", err)
		}
		fs.Set(faultdisk.Plan{})
		time.Sleep(time.Second)
		// Not of zeros, which may be written to the next segment at the same time.
		fs.Set(faultdisk.Plan{N: 1, Err: syscall.EIO, Only: []disk.Op{disk.OpWriteDurable}, Name: "seg-"})
		if err := second(s.Enqueue(t.Context(), stagedMail(more))); !errors.Is(err, ErrFailed) {
			t.Errorf("on a disk that fails: %v", err)
		}
		for what, err := range map[string]error{
			"Stage": second(s.Stage(t.Context(), 0)), "Write": second(more.Write([]byte("x"))), "ReadAt": second(more.ReadAt(make([]byte, 1), 0)),
			"Enqueue": second(s.Enqueue(t.Context(), stagedMail(more))),
		} {
			if !errors.Is(err, ErrFailed) {
				t.Errorf("%s of a store that has failed: %v", what, err)
			}
		}
		more.Abort()
	})
}

// While the store shuts down nothing is written to staged bodies; a batch that settles takes
// them, and long bodies too.
func TestStagedWhileShuttingDown(t *testing.T) {
	scenario(t, func(t *testing.T) {
		s := started(t, tiny(memdisk.New(memdisk.Config{})))
		posted(t, s, "mail")
		d := taken(t, s)
		st := stagedBody(t, s, long("a bounce")+"tail")
		done := make(chan error, 1)
		go func() { done <- s.Shutdown(context.Background()) }()
		synctest.Wait()
		if _, err := s.Stage(t.Context(), 0); !errors.Is(err, ErrClosed) {
			t.Errorf("Stage: %v", err)
		}
		other := stagedMail(st)
		if _, err := s.Enqueue(t.Context(), other); !errors.Is(err, ErrClosed) {
			t.Errorf("Enqueue: %v", err)
		}
		_, err := s.Commit(t.Context(), Batch{Settle: []Settlement{{Delivery: d, Outcomes: []Outcome{{Recipient: All, Result: Failed}}}},
			Enqueue: []Message{stagedMail(st), mailing(long("another"))}})
		if err != nil {
			t.Errorf("a settle with bounces: %v", err)
		}
		if err := <-done; err != nil {
			t.Errorf("Shutdown: %v", err)
		}
		if _, err := st.Write(nil); err == nil {
			t.Error("Write passes")
		}
	})
}

// A body may be longer than a segment, however small that is.
func TestStagedLongerThanASegment(t *testing.T) {
	for _, segmentSize := range []int64{64 << 10, 192 << 10, 1 << 20, 5 << 20} {
		for _, size := range []int64{segmentSize - 1, 3*segmentSize + 17} {
			t.Run(fmt.Sprintf("segment=%d/body=%d", segmentSize, size), func(t *testing.T) {
				s, err := Open(t.TempDir(), Options{SegmentSize: segmentSize, MaxMessage: size, NoSync: true})
				if err != nil {
					t.Fatal(err)
				}
				body := benchBody(int(size))
				st, err := s.Stage(t.Context(), size)
				if err != nil {
					t.Fatal(err)
				}
				for rest := body; len(rest) > 0; {
					n := min(len(rest), 32<<10)
					if _, err := st.Write(rest[:n]); err != nil {
						t.Fatal(err)
					}
					rest = rest[n:]
				}
				if _, err := s.Enqueue(t.Context(), stagedMail(st)); err != nil {
					t.Fatal(err)
				}
				m := mailing("")
				m.Body = body
				if _, err := s.Enqueue(t.Context(), m); err != nil {
					t.Fatal(err)
				}
				for _, d := range takenOf(t, s, 2) {
					if text, err := textOf(d); text != string(body) || err != nil {
						t.Errorf("the body came back changed, or %v", err)
					}
				}
				ended(t, s)
			})
		}
	}
}

// The longest body that the smallest segments take, and one byte more.
func TestStagedLongestWithTheSmallestSegments(t *testing.T) {
	t.Parallel()
	if testing.Short() {
		t.Skip("writes 37 MiB into segments of 64 KiB")
	}
	s, err := Open(t.TempDir(), Options{SegmentSize: segment.SizeMin, NoSync: true})
	if err != nil {
		t.Fatal(err)
	}
	defer ended(t, s)
	most := s.opt.MaxMessage
	if most < 31<<20 {
		t.Errorf("no body above %d bytes is taken", most)
	}
	st, err := s.Stage(t.Context(), most)
	if err != nil {
		t.Fatal(err)
	}
	piece := benchBody(4000)
	for n := int64(0); n < most; n += int64(len(piece)) {
		if _, err := st.Write(piece[:min(int64(len(piece)), most-n)]); err != nil {
			t.Fatal(err)
		}
	}
	if _, err := s.Enqueue(t.Context(), stagedMail(st)); err != nil {
		t.Fatal(err)
	}
	if d := taken(t, s); d.Body.Size() != most {
		t.Errorf("%d bytes came back of %d", d.Body.Size(), most)
	}
	for what, err := range map[string]error{
		"Stage": second(s.Stage(t.Context(), most+1)), "Admit": s.Admit(most + 1), "Enqueue": second(s.Enqueue(t.Context(), Message{
			Body: make([]byte, most+1), Recipients: []Recipient{{Queue: "q"}}})),
	} {
		if !errors.Is(err, ErrTooLarge) {
			t.Errorf("%s of one byte more: %v", what, err)
		}
	}
}
