package wal

import (
	"context"
	"errors"
	"fmt"
	"path"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"testing/synctest"
	"time"

	"github.com/mtawal/mtawal/internal/disk"
	"github.com/mtawal/mtawal/internal/disk/faultdisk"
	"github.com/mtawal/mtawal/internal/disk/memdisk"
)

// gate makes the n-th durable write of the log from now on wait before it does anything, until open is
// called. Others go on.
func gate(t *testing.T, fs *memdisk.FS, n int) (open func()) {
	return gates(t, fs, n)[0]
}

// gates does so for several.
func gates(t *testing.T, fs *memdisk.FS, nth ...int) (open []func()) {
	var seen atomic.Int64
	shut := make(map[int]chan struct{})
	for _, n := range nth {
		c := make(chan struct{})
		shut[n] = c
		open = append(open, sync.OnceFunc(func() { close(c) }))
	}
	fs.OnOp(func(op disk.Op, name string) {
		if op != disk.OpWriteDurable || !strings.HasPrefix(path.Base(name), "seg-") {
			return
		}
		if c := shut[int(seen.Add(1))]; c != nil {
			<-c
		}
	})
	for i := range open {
		t.Cleanup(open[i])
	}
	return open
}

// sent submits a message and says what came of it.
func sent(s *Store, m Message) <-chan error {
	done := make(chan error, 1)
	ticket := s.Submit(Batch{Enqueue: []Message{m}})
	go func() { done <- second(ticket.Wait(context.Background())) }()
	synctest.Wait()
	return done
}

func unanswered(t *testing.T, what string, done <-chan error) {
	t.Helper()
	select {
	case err := <-done:
		t.Fatalf("%s has its answer: %v", what, err)
	default:
	}
}

// The second of two commits in flight is durable and the first is not: nobody is told anything, and a crash
// leaves neither, or both where the first got so far.
func TestSecondInFlightIsFirst(t *testing.T) {
	scenario(t, func(t *testing.T) {
		fs := memdisk.New(memdisk.Config{})
		s := started(t, tiny(fs))
		posted(t, s, "before")
		let := gate(t, fs, 1)
		first, second, third := sent(s, mailing("first")), sent(s, mailing("second")), sent(s, mailing("third"))
		unanswered(t, "the first", first)
		unanswered(t, "the second", second)
		if st := s.Stats(); st.Pending != 1 || st.SyncingSince.IsZero() {
			t.Errorf("while the first is written: %+v", st)
		}
		crash := fs.Clone()
		crash.PowerCutWith(allOfIt)
		let()
		for i, done := range []<-chan error{first, second, third} {
			if err := <-done; err != nil {
				t.Errorf("%d: %v", i, err)
			}
		}
		holds(t, s, "before", "first", "second", "third")
		ended(t, s)
		s = started(t, tiny(crash))
		holds(t, s, "before")
		if st := s.Stats(); st.TailCut == 0 {
			t.Error("nothing was cut, so the second was not in flight")
		}
		posted(t, s, "after")
		crash.Kill()
		s = started(t, tiny(crash))
		holds(t, s, "before", "after")
		ended(t, s)
	})
}

// Answers come in the order of the log, whichever write is done first.
func TestAnswersInOrder(t *testing.T) {
	scenario(t, func(t *testing.T) {
		fs := memdisk.New(memdisk.Config{})
		s := started(t, roomy(fs)) // so that no Seal counts
		for n := 1; n <= 4; n++ {
			let := gate(t, fs, n)
			var tickets []Ticket
			for i := range 12 {
				tickets = append(tickets, s.Submit(Batch{Enqueue: []Message{mailing(fmt.Sprint(n, i))}}))
				synctest.Wait()
				answers := 0
				for k := range tickets {
					select {
					case <-tickets[k].Done():
						if answers++; answers != k+1 {
							t.Fatalf("with write %d held up %d is answered, one before it is not", n, k)
						}
					default:
					}
				}
				if answers != min(i+1, n-1) {
					t.Fatalf("with write %d held up %d of %d are answered", n, answers, i+1)
				}
			}
			let()
			for i := range tickets {
				if _, err := tickets[i].Wait(t.Context()); err != nil {
					t.Error(err)
				}
			}
		}
		ended(t, s)
	})
}

// The second of two commits in flight fails: what is before it in the log is true.
func TestSecondInFlightFails(t *testing.T) {
	scenario(t, func(t *testing.T) {
		fs := memdisk.New(memdisk.Config{})
		fails := faultdisk.New(fs)
		s := started(t, tiny(fails))
		posted(t, s, "before")
		let := gate(t, fs, 1)
		first := sent(s, mailing("first"))
		fails.Set(faultdisk.Plan{N: 1, Forever: true, Err: syscall.EIO, Only: []disk.Op{disk.OpWriteDurable}})
		next := sent(s, mailing("second"))
		unanswered(t, "the first", first)
		unanswered(t, "the second", next)
		let()
		if err := <-first; err != nil {
			t.Errorf("the first, which was written: %v", err)
		}
		if err := <-next; !errors.Is(err, ErrFailed) {
			t.Errorf("the second, which was not: %v", err)
		}
		if _, err := s.Enqueue(t.Context(), mailing("later")); !errors.Is(err, ErrFailed) {
			t.Errorf("later: %v", err)
		}
		if err := s.Close(); !errors.Is(err, ErrFailed) {
			t.Errorf("close: %v", err)
		}
		fails.Set(faultdisk.Plan{})
		s = started(t, tiny(fs))
		holds(t, s, "before", "first")
		ended(t, s)
	})
}

// The first of two fails behind the second, which was written: neither is acknowledged.
func TestFirstInFlightFailsLast(t *testing.T) {
	scenario(t, func(t *testing.T) {
		fs := memdisk.New(memdisk.Config{})
		s := started(t, tiny(fs))
		posted(t, s, "before")
		let := gate(t, fs, 1)
		first, second := sent(s, mailing("first")), sent(s, mailing("second"))
		if err := fs.FailSync(segmentPath(1), memdisk.SyncLost); err != nil {
			t.Fatal(err)
		}
		let()
		for i, done := range []<-chan error{first, second} {
			if err := <-done; !errors.Is(err, ErrFailed) {
				t.Errorf("%d: %v", i, err)
			}
		}
		if err := s.Close(); !errors.Is(err, ErrFailed) {
			t.Errorf("close: %v", err)
		}
	})
}

// Keys that leave their window leave it once, though two commits in flight look at the same window.
func TestForgottenOnceInFlight(t *testing.T) {
	scenario(t, func(t *testing.T) {
		fs := memdisk.New(memdisk.Config{})
		o := tiny(fs)
		o.KeyMax = 3
		s := started(t, o)
		keyed := func(key string) Message {
			m := mailing(key)
			m.Key = key
			return m
		}
		ids := map[string]ID{}
		for _, key := range []string{"a", "b", "c", "d"} {
			id, err := s.Enqueue(t.Context(), keyed(key))
			if err != nil {
				t.Fatal(err)
			}
			ids[key] = id
		}
		// Four keys: the next commit drops a, and the one behind it nothing.
		let := gate(t, fs, 1)
		first, second := sent(s, mailing("first")), sent(s, mailing("second"))
		let()
		if err := errors.Join(<-first, <-second); err != nil {
			t.Fatal(err)
		}
		for _, key := range []string{"b", "c", "d"} {
			id, err := s.Enqueue(t.Context(), keyed(key))
			if err != nil || id != ids[key] {
				t.Errorf("key %s is of message %v, was of %v: %v", key, id, ids[key], err)
			}
		}
		ended(t, s)
	})
}

// A start is durable when its own record has landed, not when an earlier one of the same claim has; and
// whoever waits for it does not have empty commits made.
func TestStartsInFlight(t *testing.T) {
	scenario(t, func(t *testing.T) {
		fs := memdisk.New(memdisk.Config{})
		o := tiny(fs)
		o.DurableStart = true
		s := started(t, o)
		m := mailing("two of them")
		m.Recipients = append(m.Recipients, Recipient{Queue: "q", Address: "b"})
		if _, err := s.Enqueue(t.Context(), m); err != nil {
			t.Fatal(err)
		}
		c, err := s.Consumer(ConsumerOptions{ManualStart: true, MaxRecipients: 2})
		if err != nil {
			t.Fatal(err)
		}
		d, err := c.Next(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		start := func(i int) <-chan error {
			done := make(chan error, 1)
			go func() { done <- d.Start(t.Context(), d.Recipients[i].Index) }()
			synctest.Wait()
			return done
		}
		before := s.commits.Load()
		let := gates(t, fs, 1, 2)
		a, b := start(0), start(1)
		unanswered(t, "the first start", a)
		let[0]()
		synctest.Wait()
		unanswered(t, "the second start", b)
		let[1]()
		if err := errors.Join(<-a, <-b); err != nil {
			t.Error(err)
		}
		if n := s.commits.Load() - before; n > 2 {
			t.Errorf("%d commits for two starts", n)
		}
		if err := d.SettleAll(t.Context(), Delivered); err != nil {
			t.Fatal(err)
		}
		ended(t, s)
	})
}

// What writes no frame leases no IDs: whoever asks for one is not left waiting for it.
func TestLeaseNeedsAFrame(t *testing.T) {
	scenario(t, func(t *testing.T) {
		s := started(t, tiny(memdisk.New(memdisk.Config{})))
		m := mailing("keyed")
		m.Key = "k"
		if _, err := s.Enqueue(t.Context(), m); err != nil {
			t.Fatal(err)
		}
		time.Sleep(time.Second) // its Marker
		if _, err := s.Enqueue(t.Context(), m); err != nil {
			t.Fatal(err)
		}
		for range 2*leaseBlock + 2 {
			s.NewID()
		}
		ended(t, s)
	})
}

// A write that failed ends the store at once, though one before it hangs: nothing new is taken.
func TestFailureBehindAWriteThatHangs(t *testing.T) {
	scenario(t, func(t *testing.T) {
		fs := memdisk.New(memdisk.Config{})
		fails := faultdisk.New(fs)
		s := started(t, tiny(fails))
		let := gate(t, fs, 1)
		first := sent(s, mailing("first"))
		fails.Set(faultdisk.Plan{N: 1, Err: syscall.EIO, Only: []disk.Op{disk.OpWriteDurable}, Name: "seg-"})
		next := sent(s, mailing("second"))
		if err := s.Admit(1); !errors.Is(err, ErrFailed) {
			t.Errorf("while the first hangs: %v", err)
		}
		let()
		if err := <-first; err != nil {
			t.Errorf("the first, which was written: %v", err)
		}
		if err := <-next; !errors.Is(err, ErrFailed) {
			t.Errorf("the second: %v", err)
		}
	})
}

// Whoever waits for the log to move does not wait for a write that finds no room.
func TestNudgeWhileAWriteFindsNoRoom(t *testing.T) {
	scenario(t, func(t *testing.T) {
		fails := faultdisk.New(memdisk.New(memdisk.Config{}))
		s := started(t, tiny(fails))
		posted(t, s, "before")
		fails.Set(faultdisk.Plan{N: 1, Forever: true, Err: syscall.ENOSPC, Only: []disk.Op{disk.OpWriteDurable}, Name: "seg-"})
		first := sent(s, mailing("finds the disk full"))
		nudged := make(chan error, 1)
		go func() { nudged <- s.nudge() }()
		time.Sleep(time.Second)
		select {
		case err := <-nudged:
			if err != nil {
				t.Error(err)
			}
		default:
			t.Error("the nudge waits for the disk")
		}
		fails.Set(faultdisk.Plan{})
		if err := <-first; err != nil {
			t.Error(err)
		}
		ended(t, s)
	})
}

// A second commit is sent after one that is in flight when it carries as many batches or as many bytes, or can carry no more;
// else when the other has landed.
func TestSecondInFlightCarriesAsMuch(t *testing.T) {
	scenario(t, func(t *testing.T) {
		s := started(t, roomy(memdisk.New(memdisk.Config{})))
		for _, c := range []struct {
			what string
			then []int // lengths of the messages that come while one frame with three messages of 1000 bytes is in flight
			last bool  // with the last of them they are sent
		}{
			{"fewer and shorter", []int{100, 1000}, false},
			{"as many", []int{10, 10, 10}, true},
			{"as long", []int{9000}, true},
			{"one", []int{10}, false},
		} {
			lets := gates(t, s.opt.fs.(*memdisk.FS), 1, 3)
			var all []<-chan error
			post := func(n int) { all = append(all, sent(s, mailing(strings.Repeat("x", n)))) }
			for range 5 { // two are in flight, and three wait
				post(1000)
			}
			lets[0]()
			synctest.Wait()
			inFlight := func() int {
				s.mu.Lock()
				defer s.mu.Unlock()
				return len(s.committer.flights)
			}
			if n := inFlight(); n != 1 {
				t.Fatalf("%s: %d are in flight, where there should be the three", c.what, n)
			}
			for i, n := range c.then {
				post(n)
				if got, last := inFlight() == 2, i == len(c.then)-1; got != (c.last && last) {
					t.Errorf("%s: behind number %d it is %v that it was sent", c.what, i+1, got)
				}
			}
			if !c.last { // nothing fits beside a batch as long as that
				long := Batch{Enqueue: []Message{mailing(strings.Repeat("x", 240_000)), mailing(strings.Repeat("y", 240_000)), mailing(strings.Repeat("z", 240_000))}}
				done := make(chan error, 1)
				go func() { done <- second(s.Commit(context.Background(), long)) }()
				all = append(all, done)
				synctest.Wait()
				if inFlight() != 2 {
					t.Errorf("%s: it was not sent though somebody waits for room", c.what)
				}
			}
			lets[1]()
			for i, done := range all {
				if err := <-done; err != nil {
					t.Errorf("%s, %d: %v", c.what, i, err)
				}
			}
		}
		ended(t, s)
	})
}
