package wal

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"math/rand/v2"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/mtawal/mtawal/internal/disk"
	"github.com/mtawal/mtawal/internal/disk/memdisk"
)

// boundedLives is a store with Options.MaxBytes that crashes again and again.
type boundedLives struct {
	*testing.T
	rng *rand.Rand
	fs  *memdisk.FS
	opt Options
	s   *Store
	in  []*Delivery // hand
	n   int         // messages so far
}

// markMax is how long a used-mark or a deferral may take, in the time of the bubble: none, but where two
// checkpoints must come first.
const markMax = 2 * time.Second

// diskTaken is what all files take of the disk.
func diskTaken(t testing.TB, fs *memdisk.FS) int64 {
	t.Helper()
	d, err := fs.OpenDir(spool, false)
	if err != nil {
		t.Fatal(err)
	}
	defer d.Close()
	s, err := d.Space()
	if err != nil {
		t.Fatal(err)
	}
	return s.Total - s.Free
}

// within fails if the files take more than the bound.
func (b *boundedLives) within(what string, fs *memdisk.FS) {
	b.Helper()
	if n := diskTaken(b.T, fs); b.opt.MaxBytes > 0 && n > b.opt.MaxBytes {
		d, _ := fs.OpenDir(spool, false)
		list, _ := d.List()
		room := ""
		if b.s != nil {
			room = roomOf(b.s)
		}
		b.Fatalf("%s: the files take %d bytes of MaxBytes %d, %d too many: %+v\n%s", what, n, b.opt.MaxBytes, n-b.opt.MaxBytes, list, room)
	}
}

// quick has a call that may not wait for room not do so.
func (b *boundedLives) quick(what string, f func(context.Context) error) error {
	b.Helper()
	began := time.Now()
	ctx, cancel := context.WithTimeout(b.Context(), markMax)
	defer cancel()
	err := f(ctx)
	took := time.Since(began)
	if took >= markMax {
		list, _ := b.s.dir.List()
		segs := ""
		for _, i := range b.s.Segments() {
			segs += fmt.Sprintf("%x %s live %d (%d messages) %v\n", i.Number, i.State, i.Live, i.Messages, i.Why)
		}
		b.Fatalf("%s waited for %v: %s\nMaxBytes %d bound %d\n%s%+v", what, took, roomOf(b.s), b.opt.MaxBytes, b.s.space.bound.Load(), segs, list)
	}
	return err
}

func (b *boundedLives) claimAll() {
	b.Helper()
	c, err := b.s.Consumer(ConsumerOptions{Queues: []string{"q"}, InFlight: InFlightMax})
	if err != nil {
		b.Fatal(err)
	}
	b.Cleanup(func() { _ = c.Close() })
	for {
		d, ok := c.TryNext("q")
		if !ok {
			return
		}
		b.in = append(b.in, d)
	}
}

// pop takes a delivery out of the hand.
func (b *boundedLives) pop() *Delivery {
	if len(b.in) == 0 {
		b.claimAll()
	}
	if len(b.in) == 0 {
		return nil
	}
	i := b.rng.IntN(len(b.in))
	d := b.in[i]
	b.in = slices.Delete(b.in, i, i+1)
	return d
}

func (b *boundedLives) post() {
	b.Helper()
	size := b.rng.IntN(3000)
	if b.rng.IntN(10) == 0 {
		size = b.rng.IntN(60_000)
	}
	m := mailing(fmt.Sprint("mail ", b.n, strings.Repeat("x", size)))
	m.Envelope = []byte(strings.Repeat("e", b.rng.IntN(200)))
	b.n++
	if _, err := b.s.Enqueue(b.Context(), m); err != nil && !errors.Is(err, ErrFull) {
		b.Fatalf("enqueue: %v", err)
	}
}

// act does one thing that a core does.
func (b *boundedLives) act() {
	b.Helper()
	switch b.rng.IntN(20) {
	case 0:
		time.Sleep(time.Duration(b.rng.IntN(3000)) * time.Millisecond)
	case 1:
		if err := b.s.Checkpoint(b.Context()); err != nil {
			b.Fatal(err)
		}
	case 2:
		if b.rng.IntN(4) == 0 {
			if err := b.s.Compact(b.Context()); err != nil && !errors.Is(err, ErrFull) && !errors.Is(err, ErrTooLarge) {
				b.Fatal(err)
			}
		}
	case 3, 4, 5, 6:
		for range b.rng.IntN(20) {
			d := b.pop()
			if d == nil {
				return
			}
			if err := b.quick("a used-mark", func(ctx context.Context) error { return d.SettleAll(ctx, Delivered) }); err != nil {
				b.Fatal(err)
			}
		}
	case 7, 8, 9:
		d := b.pop()
		if d == nil {
			return
		}
		later := func(ctx context.Context) error {
			note := []byte(strings.Repeat("n", b.rng.IntN(300)))
			return d.Settle(ctx, []Outcome{{Recipient: 0, Result: Deferred, Until: time.Now().Add(time.Second), Note: note}})
		}
		if b.rng.IntN(2) == 0 {
			if err := b.quick("a deferral", later); err != nil {
				b.Fatal(err)
			}
			return
		}
		bounce := Message{Body: []byte("it was refused"), Recipients: []Recipient{{Queue: "q"}}}
		err := b.quick("a bounce", func(ctx context.Context) error {
			_, err := b.s.Commit(ctx, Batch{Settle: []Settlement{{Delivery: d, Outcomes: []Outcome{{Recipient: 0, Result: Failed}}}}, Enqueue: []Message{bounce}})
			return err
		})
		if errors.Is(err, ErrFull) {
			err = b.quick("a deferral", later)
		}
		if err != nil {
			b.Fatal(err)
		}
	default:
		for range 1 + b.rng.IntN(20) {
			b.post()
		}
	}
}

// live opens the store, uses it and has it crash at some operation of the disk, or closes it.
func (b *boundedLives) live(acts int, check bool) {
	b.Helper()
	if check && b.n > 0 {
		b.within("after a crash", b.fs)
	}
	s, err := Open(spool, b.opt)
	if err != nil {
		b.Fatalf("open: %v", err)
	}
	b.Cleanup(func() { _ = s.Close() })
	b.s, b.in = s, nil
	if check {
		b.within("opened", b.fs)
	}
	var mu sync.Mutex
	var image *memdisk.FS
	at, ops := b.rng.IntN(40*acts), 0
	fs := b.fs
	fs.OnOp(func(op disk.Op, _ string) {
		if !slices.Contains(changing, op) {
			return
		}
		mu.Lock()
		defer mu.Unlock()
		if ops++; image == nil || ops == at {
			image = fs.Clone()
		}
	})
	for range acts {
		b.act()
		if check {
			b.within("in use", fs)
		}
	}
	clean := b.rng.IntN(4) == 0
	if clean {
		fs.OnOp(nil)
	}
	if err := s.Close(); err != nil {
		b.Fatal(err)
	}
	fs.OnOp(nil)
	if !clean {
		b.fs = image
	}
	switch {
	case clean:
	case b.rng.IntN(3) == 0:
		b.fs.Kill()
	default:
		b.fs.PowerCut(b.rng)
	}
	b.opt.fs = b.fs
	b.s = nil
}

func newBoundedLives(t *testing.T, seed uint64) *boundedLives {
	t.Logf("seed %d", seed)
	b := &boundedLives{T: t, rng: rand.New(rand.NewPCG(seed, 0))}
	b.fs = memdisk.New(memdisk.Config{Names: memdisk.NameModel(seed % 2), WholePages: true})
	b.opt = tiny(b.fs)
	return b
}

// However a store ended, and whatever came back with that, its files take no more than MaxBytes:
// before it is opened again, when it is, and in use. No mark waits for what is not given back.
func TestScenario_MaxBytesHoldsOverCrashes(t *testing.T) {
	t.Parallel()
	for seed := range boundSeeds(t) {
		t.Run(fmt.Sprint("seed ", seed), func(t *testing.T) {
			scenario(t, func(t *testing.T) {
				b := newBoundedLives(t, seed)
				b.opt.MaxBytes = int64(16+b.rng.IntN(30)) * b.opt.SegmentSize
				for range 12 {
					b.live(20+b.rng.IntN(60), true)
				}
			})
		})
	}
}

// A store that is opened with a smaller MaxBytes than it takes, or with other segments, opens. Marks
// and deferrals go on, and when all mail is used it is within the bound and takes mail.
func TestScenario_AnotherMaxBytes(t *testing.T) {
	t.Parallel()
	for seed := range boundSeeds(t) {
		t.Run(fmt.Sprint("seed ", seed), func(t *testing.T) {
			scenario(t, func(t *testing.T) {
				b := newBoundedLives(t, seed)
				for range 12 {
					b.opt.SegmentSize = 64 << (10 + b.rng.IntN(4))
					b.opt.MaxBytes = 0
					if b.rng.IntN(2) == 0 {
						b.opt.MaxBytes = 512<<10 + 10*b.opt.SegmentSize
					}
					b.live(20+b.rng.IntN(60), false)
				}
				b.opt.SegmentSize, b.opt.MaxBytes = 64<<10, 2<<20
				b.s = started(t, b.opt)
				for b.in = nil; b.s.Stats().WorkQueueLength > 0; time.Sleep(2 * time.Second) { // till deferred ones are due
					for d := b.pop(); d != nil; d = b.pop() {
						if err := b.quick("a used-mark", func(ctx context.Context) error { return d.SettleAll(ctx, Delivered) }); err != nil {
							t.Fatal(err)
						}
					}
				}
				time.Sleep(5 * spaceEvery)
				b.within("empty", b.fs)
				if bound := b.s.space.bound.Load(); bound != b.opt.MaxBytes {
					t.Errorf("the bound is %d of %d", bound, b.opt.MaxBytes)
				}
				posted(t, b.s, "new")
				ended(t, b.s)
			})
		})
	}
}

func boundSeeds(t *testing.T) uint64 {
	if testing.Short() {
		return 5
	}
	return 20
}

// rounds fills the store and settles all of it, again and again, and returns what it took each time.
func rounds(t *testing.T, s *Store, n int) (took []int) {
	t.Helper()
	for range n {
		mails := 0
		for ; ; mails++ {
			_, err := s.Enqueue(t.Context(), mailing(fmt.Sprint("mail ", mails, strings.Repeat(" long", 400))))
			if errors.Is(err, ErrFull) {
				break
			}
			if err != nil {
				t.Fatal(err)
			}
		}
		for _, d := range inHand(t, s) {
			if err := d.SettleAll(t.Context(), Delivered); err != nil {
				t.Fatal(err)
			}
		}
		took = append(took, mails)
		time.Sleep(spareIdle + 5*spaceEvery)
	}
	return took
}

// A new store with a MaxBytes that is too small to take mail for long is not made, and one with the least that
// is said to be needed takes mail again and again.
func TestScenario_LeastMaxBytes(t *testing.T) {
	for _, size := range []int64{64 << 10, 256 << 10, 1 << 20} {
		t.Run(fmt.Sprint(size), func(t *testing.T) {
			scenario(t, func(t *testing.T) {
				o := tiny(memdisk.New(memdisk.Config{}))
				o.SegmentSize = size
				least := o.leastBytes(disk.Alignment)
				for _, o.MaxBytes = range []int64{1, 1000, 6 * size, least - 1} {
					s, err := Open(spool, o)
					var field *FieldError
					if !errors.As(err, &field) || field.Field != "Options.MaxBytes" || !strings.Contains(field.Reason, fmt.Sprint(least)) {
						t.Fatalf("with MaxBytes %d: %v, %v, want a FieldError that names %d", o.MaxBytes, s, err, least)
					}
				}
				if n := diskTaken(t, o.fs.(*memdisk.FS)); n != 0 {
					t.Errorf("what was refused takes %d bytes", n)
				}
				o.MaxBytes = least
				s := started(t, o)
				if took := rounds(t, s, 8); slices.Contains(took, 0) {
					t.Errorf("with MaxBytes %d it took %v", least, took)
				}
				ended(t, s)
			})
		})
	}
	for _, most := range []int64{1000, 64 << 20, 256 << 20, 384 << 20, 577 << 20} {
		if _, err := Open(spool, Options{MaxBytes: most, fs: memdisk.New(memdisk.Config{})}); !errors.Is(err, ErrInvalid) {
			t.Errorf("with the default segments and MaxBytes %d: %v", most, err)
		}
	}
	scenario(t, func(t *testing.T) {
		ended(t, started(t, Options{MaxBytes: 578 << 20, fs: memdisk.New(memdisk.Config{})}))
	})
}

// A store that is there opens with less than a new one needs: it says so and delivers what it holds. With two segments
// less than that its intake ends for good.
func TestScenario_LessThanTheLeastMaxBytes(t *testing.T) {
	scenario(t, func(t *testing.T) {
		o := tiny(memdisk.New(memdisk.Config{}))
		ended(t, started(t, o))
		least := o.leastBytes(disk.Alignment)
		o.MaxBytes = least - 2*o.SegmentSize
		s := started(t, o)
		if took := rounds(t, s, 4); took[3] != 0 {
			t.Errorf("with MaxBytes %d it took %v: the least is not %d", o.MaxBytes, took, least)
		}
		ended(t, s)

		o.MaxBytes = 0
		s = started(t, o)
		for i := range 100 {
			posted(t, s, fmt.Sprint("mail ", i, strings.Repeat(" long", 400)))
		}
		ended(t, s)
		for _, o.MaxBytes = range []int64{least - 1, 5 * o.SegmentSize, 1000} {
			var log strings.Builder
			o.Logger = slog.New(slog.NewTextHandler(&log, nil))
			s = started(t, o)
			for _, d := range inHand(t, s)[:20] {
				if err := d.SettleAll(t.Context(), Delivered); err != nil {
					t.Fatal(err)
				}
			}
			ended(t, s)
			if want := fmt.Sprint("needs=", least); !strings.Contains(log.String(), want) || strings.Count(log.String(), "level=WARN") != 1 {
				t.Errorf("with MaxBytes %d it was not said, once, that it %s: %s", o.MaxBytes, want, log.String())
			}
		}
	})
}
