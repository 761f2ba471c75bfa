package linear

import (
	"context"
	"errors"
	"math/rand/v2"
	"os"
	"slices"
	"strconv"
	"sync"
	"testing"
	"time"

	"github.com/anishathalye/porcupine"

	"github.com/mtawal/mtawal/wal"
)

var queues = []string{"a", "b"}

// recorder notes the calls of many goroutines.
type recorder struct {
	mu    sync.Mutex
	ops   []porcupine.Operation
	began time.Time
}

func (r *recorder) do(client int, c call, f func() call) {
	from := time.Since(r.began)
	out := f()
	to := time.Since(r.began)
	r.mu.Lock()
	defer r.mu.Unlock()
	r.ops = append(r.ops, porcupine.Operation{ClientId: client, Input: c, Call: int64(from), Output: out, Return: int64(to)})
}

// load has goroutines enqueue, claim, settle, release and mark used at random, and returns
// what they saw.
func load(t *testing.T, s *wal.Store, seed uint64, clients, each int) []porcupine.Operation {
	t.Helper()
	ctx := t.Context()
	r := &recorder{began: time.Now()}
	consumer, err := s.Consumer(wal.ConsumerOptions{ManualStart: true, InFlight: wal.InFlightMax})
	if err != nil {
		t.Fatal(err)
	}
	defer consumer.Close()
	var known struct {
		sync.Mutex
		ids map[string][]wal.ID
	}
	known.ids = map[string][]wal.ID{}
	out := make([][]*wal.Delivery, clients)
	var wg sync.WaitGroup
	for c := range clients {
		rng := rand.New(rand.NewPCG(seed, uint64(c)))
		wg.Go(func() {
			var held []*wal.Delivery
			for range each {
				q := queues[rng.IntN(len(queues))]
				switch n := rng.IntN(10); {
				case n < 3:
					r.do(c, call{kind: enqueue, queue: q}, func() call {
						id, err := s.Enqueue(ctx, wal.Message{Body: []byte("x"), Recipients: []wal.Recipient{{Queue: q, Address: "a"}}})
						if err != nil {
							t.Errorf("enqueue: %v", err)
						}
						known.Lock()
						known.ids[q] = append(known.ids[q], id)
						known.Unlock()
						return call{kind: enqueue, queue: q, id: id, ok: true}
					})
				case n < 6:
					r.do(c, call{kind: claim, queue: q}, func() call {
						d, ok := consumer.TryNext(q)
						if !ok {
							return call{kind: claim, queue: q}
						}
						held = append(held, d)
						return call{kind: claim, queue: q, id: d.ID, ok: true}
					})
				case n < 9 && len(held) > 0:
					i := rng.IntN(len(held))
					d := held[i]
					held = slices.Delete(held, i, i+1)
					k, result := used, wal.Delivered
					if rng.IntN(3) == 0 {
						k, result = release, wal.Released
					}
					r.do(c, call{kind: k, queue: d.Queue, id: d.ID}, func() call {
						err := d.SettleAll(ctx, result)
						if err != nil && !errors.Is(err, wal.ErrUsed) && !errors.Is(err, wal.ErrSettled) {
							t.Errorf("settle: %v", err)
						}
						return call{kind: k, queue: d.Queue, id: d.ID, ok: err == nil}
					})
				default:
					known.Lock()
					list := known.ids[q]
					var id wal.ID
					if len(list) > 0 {
						id = list[max(len(list)-1-rng.IntN(6), 0)]
					}
					known.Unlock()
					if id == 0 {
						continue
					}
					r.do(c, call{kind: mark, queue: q, id: id}, func() call {
						err := s.MarkUsed(ctx, id, wal.All)
						if err != nil && !errors.Is(err, wal.ErrNotFound) && !errors.Is(err, wal.ErrUsed) {
							t.Errorf("mark used: %v", err)
						}
						return call{kind: mark, queue: q, id: id, ok: err == nil}
					})
				}
			}
			out[c] = held // a release here would be a call that is not noted
		})
	}
	wg.Wait()
	for _, d := range slices.Concat(out...) {
		d.Release()
	}
	return r.ops
}

// TestLinearizable checks histories of a store on real files, with a checkpoint beside each.
func TestLinearizable(t *testing.T) {
	seed, err := strconv.ParseUint(os.Getenv("LINEAR_SEED"), 10, 64)
	if err != nil {
		seed = rand.Uint64()
	}
	t.Logf("LINEAR_SEED=%d", seed)
	rounds := 40
	if testing.Short() {
		rounds = 8
	}
	calls := 0
	for n := range rounds {
		s, err := wal.Open(t.TempDir(), wal.Options{SegmentSize: 64 << 10})
		if err != nil {
			t.Fatal(err)
		}
		var beside sync.WaitGroup
		beside.Go(func() {
			if err := s.Checkpoint(context.Background()); err != nil {
				t.Errorf("checkpoint: %v", err)
			}
		})
		ops := load(t, s, seed+uint64(n), 2+n%7, 60)
		beside.Wait()
		if err := s.Close(); err != nil {
			t.Fatal(err)
		}
		calls += len(ops)
		switch porcupine.CheckOperationsTimeout(queueModel, ops, 30*time.Second) {
		case porcupine.Illegal:
			t.Fatalf("round %d of seed %d: no order of these calls explains what they returned:\n%v", n, seed, ops)
		case porcupine.Unknown:
			t.Logf("round %d of seed %d: too many orders to try in the time", n, seed)
		}
	}
	t.Logf("%d calls in %d rounds", calls, rounds)
}

// TestCheckerNotices spoils histories that are good: each must be found out.
func TestCheckerNotices(t *testing.T) {
	at := int64(0)
	one := func(c call) porcupine.Operation {
		at += 2
		return porcupine.Operation{Input: c, Output: c, Call: at, Return: at + 1}
	}
	good := []porcupine.Operation{
		one(call{enqueue, "a", 1, true}), one(call{enqueue, "a", 2, true}), one(call{claim, "a", 1, true}), one(call{release, "a", 1, true}),
		one(call{claim, "a", 1, true}), one(call{mark, "a", 1, true}), one(call{used, "a", 1, false}), one(call{claim, "a", 2, true}),
		one(call{used, "a", 2, true}), one(call{claim, "a", 0, false}),
	}
	if !porcupine.CheckOperations(queueModel, good) {
		t.Fatal("a good history is refused")
	}
	for _, tt := range []struct {
		name string
		at   int
		c    call
	}{
		{"handed out again after it was used", 9, call{claim, "a", 1, true}},
		{"handed out to two", 3, call{claim, "a", 1, true}},
		{"nothing there though it is", 4, call{claim, "a", 0, false}},
		{"used twice", 6, call{used, "a", 1, true}},
		{"a settlement that is lost", 8, call{used, "a", 2, false}},
		{"a mark that is lost", 5, call{mark, "a", 1, false}},
		{"out of order", 2, call{claim, "a", 2, true}},
		{"an ID that is given twice", 1, call{enqueue, "a", 1, true}},
	} {
		bad := slices.Clone(good)
		bad[tt.at].Output = tt.c
		if porcupine.CheckOperations(queueModel, bad) {
			t.Errorf("%s: not noticed", tt.name)
		}
	}
}
