package wal

import (
	"context"
	"fmt"
	"math/rand/v2"
	"runtime"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/mtawal/mtawal/internal/disk/memdisk"
	"github.com/mtawal/mtawal/mailq"
)

// clocked is a store on a double, with a clock that the test sets.
type clocked struct {
	*Store
	t  *testing.T
	at atomic.Int64
}

func newClocked(t *testing.T) *clocked {
	t.Helper()
	c := &clocked{t: t}
	c.at.Store(time.Date(2030, 1, 2, 3, 4, 5, 0, time.UTC).UnixNano())
	c.open(memdisk.New(memdisk.Config{}))
	return c
}

func (c *clocked) open(fs *memdisk.FS) {
	c.t.Helper()
	c.Store = started(c.t, Options{SegmentSize: 16 << 20, NoSync: true, fs: fs, now: c.now})
}

func (c *clocked) now() time.Time { return time.Unix(0, c.at.Load()) }

// advance moves the clock. A write that is under way would have hung for so long: it waits for it.
func (c *clocked) advance(d time.Duration) {
	now := c.at.Add(int64(d))
	for at := c.syncingSince(); at != 0 && at < now; at = c.syncingSince() {
		runtime.Gosched()
	}
}

// fill enqueues n messages, in few commits.
func (c *clocked) fill(n int, m func(i int) Message) []ID {
	c.t.Helper()
	var ids []ID
	for len(ids) < n {
		var b Batch
		for i := len(ids); i < min(len(ids)+500, n); i++ {
			b.Enqueue = append(b.Enqueue, m(i))
		}
		some, err := c.Commit(c.t.Context(), b)
		if err != nil {
			c.t.Fatal(err)
		}
		ids = append(ids, some...)
	}
	return ids
}

func (c *clocked) consumer(o ConsumerOptions) *consumer {
	c.t.Helper()
	x, err := c.Consumer(o)
	if err != nil {
		c.t.Fatal(err)
	}
	return x.(*consumer)
}

func (c *clocked) next(x *consumer) *Delivery {
	c.t.Helper()
	ctx, cancel := context.WithTimeout(c.t.Context(), 10*time.Second)
	defer cancel()
	d, err := x.Next(ctx)
	if err != nil {
		c.t.Fatal(err)
	}
	return d
}

// none fails if a consumer has anything to hand out.
func (c *clocked) none(x *consumer) {
	c.t.Helper()
	if cl, _, err := x.take(nil); cl != nil || err != nil {
		c.t.Fatalf("claimed %v of %s, %v, want nothing", ID(cl.id), cl.q.name, err)
	}
}

func to(queue string) Message {
	return Message{Body: []byte(queue), Recipients: []Recipient{{Queue: queue, Address: "a"}}}
}

// A claim looks at one group, whatever number of them is blocked.
func TestClaimLooksAtNoBlockedQueue(t *testing.T) {
	n := 50_000
	if testing.Short() {
		n = 5000
	}
	s := newClocked(t)
	c := s.consumer(ConsumerOptions{InFlight: 4000, PerGroup: 1, ManualStart: true})
	full := 500
	for i := range n {
		c.SetGroup(fmt.Sprint("paused", i), fmt.Sprint("site", i/2))
	}
	s.fill(n, func(i int) Message { return to(fmt.Sprint("paused", i)) })
	until := s.now().Add(time.Hour)
	for i := range n / 2 {
		c.Pause(fmt.Sprint("site", i), until)
	}
	s.fill(2*full, func(i int) Message { return to(fmt.Sprint("full", i%full)) })
	for range full {
		s.next(c)
	}
	s.none(c)

	s.fill(full, func(i int) Message { return to(fmt.Sprint("free", i)) })
	for _, what := range []string{"Next", "TryNext"} {
		was := c.looks
		for i := range full / 2 {
			if what == "Next" {
				s.next(c) // in the order in which they came
			} else if _, ok := c.TryNext(fmt.Sprint("free", full/2+i)); !ok {
				t.Fatal("nothing for TryNext")
			}
		}
		if looks := c.looks - was; looks > full/2 {
			t.Errorf("%d looks for %d claims by %s", looks, full/2, what)
		}
	}
	s.none(c)

	// The pauses end together: each claim still looks at one group, and comes to each.
	s.advance(2 * time.Hour)
	was := c.looks
	seen := make(map[string]bool)
	for range n / 20 {
		d := s.next(c)
		if g := c.groupName(d.Queue); seen[g] {
			t.Fatalf("group %q is served twice while others wait", g)
		} else {
			seen[g] = true
		}
	}
	if looks := c.looks - was; looks > n/20 {
		t.Errorf("%d looks for %d claims", looks, n/20)
	}
}

// A group that is paused gives nothing until the time is over, and then without a call.
func TestPauseEnds(t *testing.T) {
	s := newClocked(t)
	c := s.consumer(ConsumerOptions{})
	c.Pause("site", s.now().Add(time.Hour))
	c.SetGroup("a", "site")
	s.fill(2, func(int) Message { return to("a") })
	s.none(c)
	c.SetGroup("a", "") // out of it while it is in its ring
	s.next(c)
	c.SetGroup("a", "site")
	s.none(c)
	s.advance(time.Hour - 1)
	s.none(c)
	s.advance(1)
	s.next(c)
	if len(c.pauses) != 0 {
		t.Error("the pause is still there")
	}
}

// What of a paused group expires is handed out all the same, in one delivery; by a consumer
// that has paused everything, and while its limits are met.
func TestPausedExpire(t *testing.T) {
	s := newClocked(t)
	c := s.consumer(ConsumerOptions{PerGroup: 1})
	over := s.now().Add(time.Hour)
	list := fanout("", 5)
	list.ExpiresAt, list.Recipients[2].NotBefore = over, over.Add(time.Hour)
	ids := s.fill(3, func(i int) Message {
		m := list
		if i == 2 {
			m.ExpiresAt = over.Add(time.Hour)
		}
		return m
	})
	s.next(c).Release() // it was started, and is in doubt
	s.eventually(func() bool { return s.Stats().Claimed == 0 })
	c.Pause("q", over.Add(time.Hour))
	s.none(c)
	s.advance(time.Hour)
	for _, id := range ids[:2] {
		d := s.next(c)
		if d.ID != id || !d.Expired || len(d.Recipients) != 5 {
			t.Fatalf("%v came, expired %v, with %d recipients; want 5 of %v, expired", d.ID, d.Expired, len(d.Recipients), id)
		}
	}
	s.none(c)
	s.advance(time.Hour)
	if d := s.next(c); d.ID != ids[2] || !d.Expired {
		t.Fatalf("%v came, expired %v", d.ID, d.Expired)
	}
	s.none(c)
}

// Higher priority goes first, in the order of commits; but of any 16 claims at least one is
// of the oldest.
func TestPriorityBound(t *testing.T) {
	for seed := range uint64(10) {
		t.Run(fmt.Sprint(seed), func(t *testing.T) {
			rng := rand.New(rand.NewPCG(seed, 1))
			s := newClocked(t)
			c := s.consumer(ConsumerOptions{})
			var wait []mailOf // by age
			top, since := 1+rng.IntN(20), 0
			for range 400 {
				if rng.IntN(2) == 0 || len(wait) == 0 {
					prio := make([]int8, 1+rng.IntN(5))
					ids := s.fill(len(prio), func(i int) Message {
						prio[i] = int8(rng.IntN(top)*13 - 128)
						m := to("q")
						m.Priority = prio[i]
						return m
					})
					for i, id := range ids {
						wait = append(wait, mailOf{id, prio[i]})
					}
					continue
				}
				best := 0
				for i, m := range wait {
					if m.priority > wait[best].priority {
						best = i
					}
				}
				d := s.next(c)
				at := 0
				for wait[at].id != d.ID {
					at++
				}
				if since++; at == 0 {
					since = 0
				}
				if at != 0 && at != best {
					t.Fatalf("%+v came, the best is %+v, the oldest %+v", wait[at], wait[best], wait[0])
				}
				if at == 0 && best != 0 && rng.IntN(4) == 0 {
					d.Release() // it comes back to where it was
					s.eventually(func() bool { return s.Stats().Claimed == 0 })
					continue
				}
				if since >= oldestWithin {
					t.Fatalf("the oldest has not come in %d claims", since)
				}
				if err := d.SettleAll(t.Context(), mailq.Delivered); err != nil {
					t.Fatal(err)
				}
				wait = append(wait[:at], wait[at+1:]...)
			}
		})
	}
}

type mailOf struct {
	id       ID
	priority int8
}

func (c *clocked) eventually(f func() bool) {
	c.t.Helper()
	for end := time.Now().Add(10 * time.Second); !f(); time.Sleep(time.Millisecond) {
		if time.Now().After(end) {
			c.t.Fatal("it does not come to be")
		}
	}
}

// A list of 100,000 in one queue is handed out a hundred at a time, to many at once, each
// recipient to one of them.
func TestListInParallel(t *testing.T) {
	t.Parallel()
	n, workers := 100_000, 16
	if testing.Short() {
		n = 5000
	}
	s := must(Open(t.TempDir(), Options{NoSync: true}))(t)
	defer s.Close()
	list := Message{Body: make([]byte, 64<<10)}
	for i := range n {
		list.Recipients = append(list.Recipients, Recipient{Queue: "q", Address: fmt.Sprintf("subscriber-%d@example.org", i)})
	}
	must(s.Enqueue(t.Context(), list))(t)
	c := must(s.Consumer(ConsumerOptions{InFlight: workers, Queues: []string{"q"}}))(t)
	began := time.Now()
	got := make([]atomic.Int32, n)
	var first, all sync.WaitGroup // the first of each worker are out together
	first.Add(workers)
	for range workers {
		all.Go(func() {
			for k := 0; ; k++ {
				d, ok := c.TryNext("q")
				if k == 0 {
					first.Done()
					first.Wait()
				}
				if !ok {
					return
				}
				if len(d.Recipients) > maxRecipientsPer {
					t.Errorf("a delivery to %d", len(d.Recipients))
				}
				for _, r := range d.Recipients {
					if got[r.Index].Add(1) != 1 || r.Address != list.Recipients[r.Index].Address {
						t.Errorf("recipient %d came %d times, as %q", r.Index, got[r.Index].Load(), r.Address)
					}
				}
				if err := d.SettleAll(context.Background(), Delivered); err != nil {
					t.Error(err)
				}
			}
		})
	}
	all.Wait()
	st := s.Stats()
	if st.Used.Delivered != int64(n) || st.WorkQueueLength != 0 {
		t.Errorf("%+v", st)
	}
	t.Logf("%.0f recipients a second", float64(n)/time.Since(began).Seconds())
}
