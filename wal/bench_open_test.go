package wal

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"runtime"
	"testing"
	"time"

	"github.com/mtawal/mtawal/internal/disk"
)

// benchKilled fills a store in dir, with a checkpoint between the two parts alone, and leaves
// its files in another directory as SIGKILL would.
func benchKilled(b *testing.B, dir string, before, behind func(s *Store)) string {
	b.Helper()
	s, err := Open(dir+"/live", Options{NoSync: true})
	if err != nil {
		b.Fatal(err)
	}
	if before != nil {
		before(s)
		if err := s.Checkpoint(b.Context()); err != nil {
			b.Fatal(err)
		}
	}
	s.folds.running.Lock() // the next one would be due
	behind(s)
	benchCopy(b, dir+"/live", dir+"/image")
	s.folds.running.Unlock()
	_ = s.Close() // of no interest any more
	if err := os.RemoveAll(dir + "/live"); err != nil {
		b.Fatal(err)
	}
	return dir + "/image"
}

func benchCopy(b *testing.B, from, to string) {
	b.Helper()
	if err := os.RemoveAll(to); err != nil {
		b.Fatal(err)
	}
	if err := os.Mkdir(to, 0o700); err != nil {
		b.Fatal(err)
	}
	list, err := os.ReadDir(from)
	if err != nil {
		b.Fatal(err)
	}
	for _, f := range list {
		data, err := os.ReadFile(filepath.Join(from, f.Name()))
		if os.IsNotExist(err) {
			continue // one that was being made
		}
		if err == nil {
			err = os.WriteFile(filepath.Join(to, f.Name()), data, 0o600)
		}
		if err != nil {
			b.Fatal(err)
		}
	}
}

// benchClose closes a store and waits until it has let go of its directory: on a busy machine
// the last checkpoint may take longer than Close does.
func benchClose(b *testing.B, s *Store, dir string) {
	b.Helper()
	err := s.Close()
	if !errors.Is(err, ErrUnknown) {
		if err != nil {
			b.Fatal(err)
		}
		return
	}
	for {
		d, err := disk.OS().OpenDir(dir, false)
		if err != nil {
			b.Fatal(err)
		}
		lock, err := d.Lock(lockName)
		if err == nil {
			err = lock.Close()
		} else if errors.Is(err, ErrLocked) {
			time.Sleep(100 * time.Millisecond)
			err = nil
		}
		if err = errors.Join(err, d.Close()); err != nil {
			b.Fatal(err)
		}
		if lock != nil {
			return
		}
	}
}

// benchFilled enqueues n messages to what recipients says, and returns their IDs.
func benchFilled(b *testing.B, s *Store, n, each int, recipients func(i int) []Recipient) (ids []ID) {
	b.Helper()
	body := benchBody(64)
	for len(ids) < n {
		var batch Batch
		for i := len(ids); i < n && len(batch.Enqueue) < each; i++ {
			batch.Enqueue = append(batch.Enqueue, Message{Body: body, Recipients: recipients(i)})
		}
		got, err := s.Commit(b.Context(), batch)
		if err != nil {
			b.Fatal(err)
		}
		ids = append(ids, got...)
	}
	return ids
}

// settledAll gives every message the same outcome, 1000 in a commit.
func settledAll(b *testing.B, s *Store, ids []ID, o Outcome) {
	b.Helper()
	for len(ids) > 0 {
		var batch Batch
		for _, id := range ids[:min(1000, len(ids))] {
			batch.Edit = append(batch.Edit, Edit{ID: id, Outcomes: []Outcome{o}})
		}
		if _, err := s.Commit(b.Context(), batch); err != nil {
			b.Fatal(err)
		}
		ids = ids[len(batch.Edit):]
	}
}

// BenchmarkOpenReplay opens what SIGKILL left, of which much is in the log behind the last checkpoint:
// 1,000,000 messages that were used; two segments of deferrals (with a checkpoint of up to 16 MiB
// the most there is before the next one is due) of 200,000 messages; 20 messages of 100,000
// recipients in 1000 queues, 1000 of each used one by one.
func BenchmarkOpenReplay(b *testing.B) {
	one := func(int) []Recipient {
		return []Recipient{{Queue: "smtp:example.org", Address: "bob@example.org"}}
	}
	const lists, long = 20, 100_000
	list := func(int) []Recipient {
		r := make([]Recipient, long)
		for i := range r {
			r[i] = Recipient{Queue: fmt.Sprintf("smtp:%d.example.org", i%1000), Address: fmt.Sprintf("user-%d@%d.example.org", i, i%1000)}
		}
		return r
	}
	for _, bench := range []struct {
		name           string
		before, behind func(s *Store)
		recipients     int64 // that are not used
	}{
		{"used=1000000", nil, func(s *Store) {
			settledAll(b, s, benchFilled(b, s, 1_000_000, 1000, one), Outcome{Recipient: All, Result: Delivered})
		}, 0},
		{"deferrals=2segments", func(s *Store) { benchFilled(b, s, 200_000, 1000, one) }, func(s *Store) {
			var ids []ID
			for e, err := range s.Entries(b.Context(), Filter{}) {
				if err != nil {
					b.Fatal(err)
				}
				ids = append(ids, e.ID)
			}
			for round := 0; s.folds.grown.Load() < s.opt.fold; round++ {
				settledAll(b, s, ids, Outcome{Recipient: All, Result: Deferred, Until: time.Now().Add(time.Duration(round+1) * time.Hour)})
			}
		}, 200_000},
		{"lists=20x100000", nil, func(s *Store) {
			for _, id := range benchFilled(b, s, lists, 1, list) {
				var batch Batch
				for i := range 1000 {
					batch.Edit = append(batch.Edit, Edit{ID: id, Outcomes: []Outcome{{Recipient: i * 97, Result: Delivered}}})
				}
				if _, err := s.Commit(b.Context(), batch); err != nil {
					b.Fatal(err)
				}
			}
		}, lists * (long - 1000)},
	} {
		b.Run(bench.name, func(b *testing.B) {
			dir := b.TempDir()
			image := benchKilled(b, dir, bench.before, bench.behind)
			work := filepath.Join(dir, "work")
			b.ReportAllocs()
			for b.Loop() {
				b.StopTimer()
				benchCopy(b, image, work)
				runtime.GC()
				b.StartTimer()
				s, err := Open(work, Options{NoSync: true})
				if err != nil {
					b.Fatal(err)
				}
				b.StopTimer()
				if n := s.Stats().WorkQueueLength; n != bench.recipients {
					b.Fatalf("%d recipients are not used, want %d", n, bench.recipients)
				}
				benchClose(b, s, work)
				b.StartTimer()
			}
		})
	}
}
