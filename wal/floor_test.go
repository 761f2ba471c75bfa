package wal

import (
	"math/rand/v2"
	"testing"
	"time"

	"github.com/mtawal/mtawal/internal/disk/memdisk"
	"github.com/mtawal/mtawal/mailq"
)

// The symptom of Q238189: a queue that is drained again and again, but for some that stay. The
// floor of the minute shows them first, that of the hour when they have stayed for an hour.
func TestFloorClimbs(t *testing.T) {
	scenario(t, func(t *testing.T) {
		s := started(t, tiny(memdisk.New(memdisk.Config{})))
		floors := func(want mailq.Floors) {
			t.Helper()
			if st := s.Stats(); st.WorkQueueFloor != want {
				t.Errorf("after %v of %d recipients the floor is %+v, want %+v", time.Since(s.floor.began), st.WorkQueueLength, st.WorkQueueFloor, want)
			}
		}
		burst := func(stays int) {
			t.Helper()
			for range 10 {
				posted(t, s, "m")
			}
			for range 10 - stays {
				if err := taken(t, s).SettleAll(t.Context(), Delivered); err != nil {
					t.Fatal(err)
				}
			}
		}
		floors(mailq.Floors{})
		for range 30 {
			burst(0)
			time.Sleep(10 * time.Second)
		}
		floors(mailq.Floors{})
		burst(3)
		floors(mailq.Floors{})
		time.Sleep(62 * time.Second)
		floors(mailq.Floors{Minute: 3})
		// A dip that nobody looks at is noticed.
		burst(0)
		for range 3 {
			if err := taken(t, s).SettleAll(t.Context(), Delivered); err != nil {
				t.Fatal(err)
			}
		}
		burst(4)
		floors(mailq.Floors{})
		time.Sleep(11 * time.Minute)
		floors(mailq.Floors{Minute: 4, TenMinutes: 4})
		burst(2)
		time.Sleep(2 * time.Minute)
		floors(mailq.Floors{Minute: 6, TenMinutes: 4})
		time.Sleep(10 * time.Minute)
		floors(mailq.Floors{Minute: 6, TenMinutes: 6})
		time.Sleep(39 * time.Minute)
		floors(mailq.Floors{Minute: 6, TenMinutes: 6, Hour: 4})
		time.Sleep(20 * time.Minute)
		floors(mailq.Floors{Minute: 6, TenMinutes: 6, Hour: 6})
		ended(t, s)
		s = started(t, tiny(s.opt.fs))
		floors(mailq.Floors{Minute: 6, TenMinutes: 6, Hour: 6})
	})
}

// The floors against all values there were.
func TestFloorModel(t *testing.T) {
	seed := rand.Uint64()
	t.Logf("seed %d", seed)
	r := rand.New(rand.NewPCG(seed, 0))
	for range 50 {
		type step struct {
			at time.Duration // since then it is v
			v  int64
		}
		began := time.Now()
		var f floor
		f.init(began, 5)
		steps := []step{{0, 5}}
		at := time.Duration(0)
		for range 200 {
			at += time.Duration(r.ExpFloat64() * float64([]time.Duration{time.Millisecond, time.Second, time.Minute, time.Hour}[r.IntN(4)]))
			v := r.Int64N(20)
			f.observe(began.Add(at), v)
			steps = append(steps, step{at, v})
			at += time.Duration(r.Int64N(int64(90 * time.Second)))
			got := f.lowest(began.Add(at))
			for _, w := range []struct {
				got    int64
				length time.Duration
			}{{got.Minute, time.Minute}, {got.TenMinutes, 10 * time.Minute}, {got.Hour, time.Hour}} {
				// It reaches back by its length, and to the beginning of that stretch.
				stretch := w.length / floorStretches
				from := at/stretch*stretch - w.length
				want := v
				for i, s := range steps {
					if i+1 == len(steps) || steps[i+1].at >= from {
						want = min(want, s.v)
					}
				}
				if w.got != want {
					t.Fatalf("at %v the floor of %v is %d, want %d", at, w.length, w.got, want)
				}
			}
		}
	}
}

// What pins the log: the oldest mail, or a body that was staged before it.
func TestOldestPin(t *testing.T) {
	scenario(t, func(t *testing.T) {
		s := started(t, roomy(memdisk.New(memdisk.Config{})))
		pin := func(kind mailq.PinKind, id ID, since time.Time) {
			t.Helper()
			p := s.Stats().OldestPin
			if p.Kind != kind || p.ID != id || p.Since.Unix() != since.Unix() && kind != "" {
				t.Errorf("pinned by %+v, want %s %v of %v", p, kind, id, since)
			}
		}
		pin("", 0, time.Time{})
		st, err := s.Stage(t.Context(), 0)
		if err != nil {
			t.Fatal(err)
		}
		began := time.Now()
		pin("", 0, time.Time{}) // none of it is in the log
		time.Sleep(time.Second)
		id := posted(t, s, "a")
		pin(mailq.PinMessage, id, time.Now())
		if _, err := st.Write(make([]byte, 3*stageChunk)); err != nil {
			t.Fatal(err)
		}
		pin(mailq.PinStaged, 0, began)
		st.Abort()
		time.Sleep(10 * time.Second)
		second := posted(t, s, "b")
		pin(mailq.PinMessage, id, began.Add(time.Second))
		if err := s.MarkUsed(t.Context(), id, mailq.All); err != nil {
			t.Fatal(err)
		}
		pin(mailq.PinMessage, second, began.Add(11*time.Second))
		if err := s.MarkUsed(t.Context(), second, mailq.All); err != nil {
			t.Fatal(err)
		}
		pin("", 0, time.Time{})
		ended(t, s)
	})
}
