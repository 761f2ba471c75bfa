package wal

import (
	"errors"
	"fmt"
	"maps"
	"math/rand/v2"
	"slices"
	"strings"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/mtawal/mtawal/internal/disk"
	"github.com/mtawal/mtawal/internal/disk/memdisk"
	"github.com/mtawal/mtawal/mailq"
	"github.com/mtawal/mtawal/segment"
)

// fullDisks are the two ways in which room ends.
var fullDisks = []string{"disk", "MaxBytes"}

// filled is a store on a disk of so many bytes that took mail until it refused. The messages
// are told apart by text.
func filled(t *testing.T, bound string, size int64) (*memdisk.FS, *Store, int) {
	t.Helper()
	fs := memdisk.New(memdisk.Config{})
	o := tiny(fs)
	o.claims = 0 // the usual: all of it is claimed at a time
	if bound == "MaxBytes" {
		o.MaxBytes = size
	} else {
		fs.SetCapacity(size)
	}
	s := started(t, o)
	return fs, s, fill(t, s, bound)
}

func fill(t *testing.T, s *Store, bound string) int {
	t.Helper()
	for n := 0; n < 10_000; n++ {
		_, err := s.Enqueue(t.Context(), mailing(fmt.Sprint("mail ", n, strings.Repeat(" long", 500))))
		var full *FullError
		if errors.As(err, &full) {
			if full.Reason != bound || n < 100 {
				t.Fatalf("after %d messages: %+v", n, full)
			}
			return n
		}
		if err != nil {
			t.Fatal(err)
		}
	}
	t.Fatal("it never fills")
	return 0
}

// inHand claims all that is due in queue q.
func inHand(t *testing.T, s *Store) []*Delivery {
	t.Helper()
	c, err := s.Consumer(ConsumerOptions{Queues: []string{"q"}, InFlight: InFlightMax})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = c.Close() })
	var list []*Delivery
	for {
		d, ok := c.TryNext("q")
		if !ok {
			return list
		}
		list = append(list, d)
	}
}

// resumes checks that intake has come back by itself.
func resumes(t *testing.T, s *Store) {
	t.Helper()
	time.Sleep(5 * spaceEvery)
	posted(t, s, "new")
	if st := s.Stats(); st.WorkQueueLength != 1 {
		t.Errorf("work queue length %d, should be that of the new message alone", st.WorkQueueLength)
	}
	ended(t, s)
}

// Rule 7.2. "Only 5xx are left; every settle needs a bounce; nothing can be marked, for ever."
// What a bounce finds no room for is deferred, which always works, and is tried again when the
// bounces are out.
func TestScenario_OnlyBouncesLeftOnAFullDisk(t *testing.T) {
	t.Parallel()
	for _, bound := range fullDisks {
		for _, order := range []string{"in order", "in reverse", "at random"} {
			t.Run(bound+" "+order, func(t *testing.T) {
				if order == "at random" && testing.Short() {
					t.Skip("tens of thousands of refusals: minutes under the race detector")
				}
				scenario(t, func(t *testing.T) {
					_, s, sent := filled(t, bound, 4<<20)
					refused := 0
					seed := rand.Uint64()
					random := rand.New(rand.NewPCG(seed, 0))
					t.Logf("seed %d", seed)
					watched(t, s)
					for round := 0; s.Stats().WorkQueueLength > 0; round++ {

						if round > 1000 {
							t.Fatalf("no end: %+v", s.Stats())
						}
						list := inHand(t, s)
						switch order {
						case "in reverse":
							for i, j := 0, len(list)-1; i < j; i, j = i+1, j-1 {
								list[i], list[j] = list[j], list[i]
							}
						case "at random":
							random.Shuffle(len(list), func(i, j int) { list[i], list[j] = list[j], list[i] })
						}
						for _, d := range list {
							bounce := Message{Body: []byte("your mail was refused"), Recipients: []Recipient{{Queue: "bounces"}}}
							_, err := s.Commit(t.Context(), Batch{Settle: []Settlement{{Delivery: d, Outcomes: []Outcome{{Recipient: 0, Result: Failed}}}}, Enqueue: []Message{bounce}})
							if errors.Is(err, ErrFull) {
								refused++
								err = d.Settle(t.Context(), []Outcome{{Recipient: 0, Result: Deferred, Until: time.Now().Add(time.Minute)}})
							}
							if err != nil {
								t.Fatalf("round %d, of %d: %v", round, sent, err)
							}
						}
						for s.Stats().Pending > 0 {
							d, err := s.Claim(t.Context(), "bounces")
							if err != nil {
								t.Fatal(err)
							}
							if err := d.SettleAll(t.Context(), Delivered); err != nil {
								t.Fatal(err)
							}
						}
						time.Sleep(time.Minute)
					}
					st := s.Stats()
					if st.Used.Failed != int64(sent) || st.Used.Delivered != int64(sent) {
						t.Errorf("%d failed and %d bounces delivered of %d", st.Used.Failed, st.Used.Delivered, sent)
					}
					t.Logf("%d messages, %d bounces refused at first", sent, refused)
					resumes(t, s)
				})
			})
		}
	}
}

// Rule 7.1. Used-marks and deferrals go on on a full disk, however many there are, also while
// held messages pin every segment.
func TestScenario_MarksGoOnOnAFullDisk(t *testing.T) {
	for _, bound := range fullDisks {
		t.Run(bound, func(t *testing.T) {
			scenario(t, func(t *testing.T) {
				const size = 3 << 20
				_, s, sent := filled(t, bound, size)
				random := rand.New(rand.NewPCG(1, 2))
				list := inHand(t, s)
				if len(list) != sent {
					t.Fatalf("%d of %d messages", len(list), sent)
				}
				random.Shuffle(sent, func(i, j int) { list[i], list[j] = list[j], list[i] })
				kept := list[:sent/10]
				for _, d := range list[len(kept):] {
					if err := d.SettleAll(t.Context(), Delivered); err != nil {
						t.Fatal(err)
					}
				}
				// Three times the disk in deferrals.
				for n := 0; n*segment.AlignmentMin < 3*size; {
					for _, d := range kept {
						n++
						if err := d.Settle(t.Context(), []Outcome{{Recipient: 0, Result: Deferred, Until: time.Now().Add(time.Minute)}}); err != nil {
							t.Fatalf("deferral %d: %v", n, err)
						}
					}
					time.Sleep(2 * time.Minute)
					if kept = inHand(t, s); len(kept) != sent/10 {
						t.Fatalf("%d messages came back of %d", len(kept), sent/10)
					}
				}
				for _, d := range kept {
					if err := d.SettleAll(t.Context(), Delivered); err != nil {
						t.Fatal(err)
					}
				}
				resumes(t, s)
			})
		})
	}
}

// Somebody else takes all that is left of the disk: what is in hand is settled nevertheless,
// a store that is killed there opens, and when there is room again all goes on.
func TestScenario_TheDiskIsTakenByOthers(t *testing.T) {
	scenario(t, func(t *testing.T) {
		fs := memdisk.New(memdisk.Config{})
		s := started(t, tiny(fs))
		texts := make(map[string]bool)
		for i := range 40 {
			text := fmt.Sprint("mail ", i)
			posted(t, s, text)
			texts[text] = true
		}
		time.Sleep(spaceEvery * 3 / 2) // the reserve is made
		fs.SetCapacity(1)
		time.Sleep(spaceEvery) // and this is seen
		if _, err := s.Enqueue(t.Context(), mailing("too much")); !errors.Is(err, ErrFull) {
			t.Fatalf("intake on a full disk: %v", err)
		}
		list := inHand(t, s)
		for _, d := range list[:35] {
			text, err := textOf(d)
			if err != nil {
				t.Fatal(err)
			}
			if err := d.SettleAll(t.Context(), Delivered); err != nil {
				t.Fatal(err)
			}
			delete(texts, text)
		}
		fs = fs.Clone()
		fs.Kill()
		s = started(t, tiny(fs))
		if st := s.Stats(); st.InDoubt != 5 || st.WorkQueueLength != 5 {
			t.Errorf("%d in doubt of %d, should be 5 of 5", st.InDoubt, st.WorkQueueLength)
		}
		for _, d := range inHand(t, s) {
			text, err := textOf(d)
			if err != nil || !texts[text] {
				t.Errorf("%q is handed out: %v", text, err)
			}
			if err := d.SettleAll(t.Context(), Delivered); err != nil {
				t.Fatal(err)
			}
		}
		fs.SetCapacity(1 << 40)
		resumes(t, s)
	})
}

// watched has the test fail, rather than hang, when nothing is committed for an hour.
func watched(t *testing.T, s *Store) {
	done := make(chan struct{})
	t.Cleanup(func() { close(done) })
	go func() {
		for last := int64(-1); ; {
			select {
			case <-done:
				return
			case <-time.After(time.Hour):
			}
			n := s.commits.Load()
			if n == last {
				list, _ := s.dir.List()
				panic(fmt.Sprintf("nothing was committed for an hour: %s\n%+v\n%+v\n%+v", roomOf(s), s.Stats(), s.Segments(), list))
			}
			last = n
		}
	}()
}

// roomOf says what a store knows about its room.
func roomOf(s *Store) string {
	left, bounded := s.lookAtRoom()
	f := &s.folds
	f.mu.Lock()
	defer f.mu.Unlock()
	return fmt.Sprintf("%d left (by MaxBytes: %v) of a reserve of %d, files %+v, end %v, next checkpoint %d, checkpoints %+v, last fold: %v",
		left, bounded, s.space.reserve.Load(), s.log.Files(), s.log.End(), f.nextSize(), f.newInfo, f.failed)
}

// A file that is given back between the two looks at what there is, is not counted as free room
// and as a file that stands ready: a reserve that is counted twice is used up, and then nobody
// can mark anything.
func TestRoomIsCountedOnce(t *testing.T) {
	for _, bound := range fullDisks {
		t.Run(bound, func(t *testing.T) {
			scenario(t, func(t *testing.T) {
				fs := memdisk.New(memdisk.Config{})
				o := tiny(fs)
				if bound == "MaxBytes" {
					o.MaxBytes = 4 << 20
				} else {
					fs.SetCapacity(4 << 20)
				}
				s := started(t, o)
				posted(t, s, "mail")
				time.Sleep(spaceEvery * 5 / 2) // the reserve is made
				want, _ := s.lookAtRoom()
				spares := s.log.Files()
				moved := 0
				var waits atomic.Bool // the maker looks too
				fs.OnOp(func(op disk.Op, _ string) {
					if op != disk.OpSpace || waits.Swap(true) || moved > 1 {
						return
					}
					defer waits.Store(false)
					moved++
					s.log.Reserve((moved - 1) * spareFiles) // given back, then made again
					time.Sleep(spaceEvery / 10)
				})
				left, by := s.lookAtRoom()
				fs.OnOp(nil)
				if left > want || by != (bound == "MaxBytes") || moved != 2 {
					t.Errorf("%d bytes are left (by MaxBytes: %v) where there were %d; files before %+v and after %+v", left, by, want, spares, s.log.Files())
				}
			})
		})
	}
}

// Notes do not have the checkpoint outgrow the blocks that are kept for it: on a disk that others
// have filled every outcome is taken, with its note as far as that goes, and checkpoints are made.
func TestScenario_NotesOnAFullDisk(t *testing.T) {
	t.Parallel()
	scenario(t, func(t *testing.T) {
		fs, s, sent := filled(t, "disk", 4<<20)
		watched(t, s)
		time.Sleep(spaceEvery * 3 / 2)
		fs.SetCapacity(1) // nothing is free, and nothing that is given back can be had again
		kept := 0
		for round := range 30 {
			list := inHand(t, s)
			if len(list) != sent {
				t.Fatalf("round %d: %d of %d messages", round, len(list), sent)
			}
			kept = 0
			for i, d := range list {
				if round > 0 && len(d.Recipients[0].Note) > 0 {
					kept++
				}
				note := []byte(strings.Repeat(fmt.Sprint(round, " of ", i, " "), 200)[:mailq.NoteMax])
				if err := d.Settle(t.Context(), []Outcome{{Recipient: 0, Result: Deferred, Until: time.Now().Add(time.Minute), Note: note}}); err != nil {
					t.Fatalf("round %d, message %d: %v", round, i, err)
				}
			}
			time.Sleep(2 * time.Minute)
		}
		if kept == 0 || kept == sent {
			t.Errorf("%d notes were kept of %d", kept, sent)
		}
		if err := s.Checkpoint(t.Context()); err != nil {
			t.Error(err)
		}
		for _, d := range inHand(t, s) {
			if err := d.SettleAll(t.Context(), Delivered); err != nil {
				t.Fatal(err)
			}
		}
		fs.SetCapacity(1 << 40)
		resumes(t, s)
	})
}

// A Write to a staged body says that the disk is full, rather than wait for its deadline; and an open
// body keeps nobody from marking.
func TestScenario_StagedWriteOnAFullDisk(t *testing.T) {
	scenario(t, func(t *testing.T) {
		fs := memdisk.New(memdisk.Config{})
		s := started(t, tiny(fs))
		st, err := s.Stage(t.Context(), 0)
		if err != nil {
			t.Fatal(err)
		}
		chunk := []byte(strings.Repeat("x", s.limits.stage))
		if _, err := st.Write(chunk); err != nil {
			t.Fatal(err)
		}
		for i := range 200 {
			posted(t, s, fmt.Sprint("mail ", i))
		}
		fs.SetCapacity(1) // and the store has not looked yet
		began := time.Now()
		for err == nil {
			_, err = st.Write(chunk)
		}
		var full *FullError
		if !errors.As(err, &full) || full.Reason != "disk" || time.Since(began) > 10*spaceEvery {
			t.Errorf("after %v: %v", time.Since(began), err)
		}
		fs.SetCapacity(1 << 40)
		time.Sleep(2 * spaceEvery)
		for range 200 {
			d := taken(t, s)
			if err := d.SettleAll(t.Context(), Delivered); err != nil {
				t.Fatal(err)
			}
		}
		if err := s.Compact(t.Context()); err != nil {
			t.Fatal(err)
		}
		if n := len(s.Segments()); n > 3+len(pinnedNow(s)) {
			t.Errorf("%d segments are left, the open body holds %v", n, pinnedNow(s))
		}
		st.Abort()
		ended(t, s)
	})
}

// A store in which all is used has room for a large message, though smaller ones would
// not have had it make a checkpoint.
func TestScenario_LargeMessageOnceAllIsUsed(t *testing.T) {
	scenario(t, func(t *testing.T) {
		o := tiny(memdisk.New(memdisk.Config{}))
		o.claims, o.MaxBytes = 0, 4<<20
		o.fold = 1 << 40 // none is due
		s := started(t, o)
		const large = 400 << 10 // more than marks, and what is made ahead meanwhile, take from what is left
		for n := 0; s.roomLeft()-large >= s.space.reserve.Load(); n++ {
			posted(t, s, fmt.Sprint("mail ", n, strings.Repeat(" long", 500)))
		}
		if err := s.Checkpoint(t.Context()); err != nil {
			t.Fatal(err)
		}
		for list := range slices.Chunk(inHand(t, s), 400) { // in few frames
			var b Batch
			for _, d := range list {
				b.Settle = append(b.Settle, Settlement{Delivery: d, Outcomes: []Outcome{{Recipient: All, Result: Delivered}}})
			}
			if _, err := s.Commit(t.Context(), b); err != nil {
				t.Fatal(err)
			}
		}
		synctest.Wait()
		m := mailing(strings.Repeat("x", large))
		if _, err := s.Enqueue(t.Context(), m); err == nil {
			t.Fatal("it had room at once: the test is none")
		} else if !errors.Is(err, ErrFull) {
			t.Fatal(err)
		}
		time.Sleep(5 * spaceEvery)
		if _, err := s.Enqueue(t.Context(), m); err != nil {
			t.Errorf("nothing is live, and there is no room: %v", err)
		}
		ended(t, s)
	})
}

// What is refused while a checkpoint is made, of which that does not know that all was used meanwhile, has the
// next one made.
func TestScenario_RefusedWhileACheckpointIsMade(t *testing.T) {
	untilWhole(t, func() (missing string) {
		scenario(t, func(t *testing.T) { missing = refusedWhileACheckpointIsMade(t) })
		return missing
	})
}

// refusedWhileACheckpointIsMade returns what it has not come to.
func refusedWhileACheckpointIsMade(t *testing.T) (missing string) {
	fs := memdisk.New(memdisk.Config{})
	o := tiny(fs)
	o.claims, o.MaxBytes = 0, 4<<20
	s := started(t, o)
	const large = 200 << 10
	for n := 0; s.roomLeft()-large >= s.space.reserve.Load(); n++ {
		posted(t, s, fmt.Sprint("mail ", n, strings.Repeat(" long", 500)))
	}
	if err := s.Checkpoint(t.Context()); err != nil { // so that none is due soon
		t.Fatal(err)
	}
	list := inHand(t, s)
	m := mailing(strings.Repeat("x", large))
	var once, admitted atomic.Bool
	fs.OnOp(func(op disk.Op, name string) {
		if !strings.Contains(name, "ckpt") || !slices.Contains(changing, op) || once.Swap(true) {
			return
		}
		for list := range slices.Chunk(list, 400) { // in few frames
			var b Batch
			for _, d := range list {
				b.Settle = append(b.Settle, Settlement{Delivery: d, Outcomes: []Outcome{{Recipient: All, Result: Delivered}}})
			}
			if _, err := s.Commit(t.Context(), b); err != nil {
				t.Error(err)
			}
		}
		if _, err := s.Enqueue(t.Context(), m); err == nil {
			admitted.Store(true)
		} else if !errors.Is(err, ErrFull) {
			t.Error(err)
		}
	})
	posted(t, s, "one more") // at a position of its own
	s.folds.poke()
	time.Sleep(5 * spaceEvery)
	fs.OnOp(nil)
	if !once.Load() {
		t.Fatal("no checkpoint was made")
	}
	if _, err := s.Enqueue(t.Context(), m); err != nil {
		t.Errorf("one message is live, and there is no room: %v", err)
	}
	ended(t, s)
	if admitted.Load() {
		return "nothing was refused"
	}
	return ""
}

// One message of ten lives in each segment of a full disk: none is dead, and intake comes back all
// the same, since they are emptied out of the reserve.
func TestScenario_SparseSegmentsOfAFullDisk(t *testing.T) {
	for _, bound := range fullDisks {
		t.Run(bound, func(t *testing.T) {
			scenario(t, func(t *testing.T) {
				_, s, sent := filled(t, bound, 4<<20)
				watched(t, s)
				left := 0
				for i, d := range inHand(t, s) {
					if i%10 == 0 {
						left++
						d.Release() // in hand it would keep the segment that it was copied out of
						continue
					}
					if err := d.SettleAll(t.Context(), Delivered); err != nil {
						t.Fatal(err)
					}
				}
				time.Sleep(30 * spaceEvery)
				if err := s.Admit(1000); err != nil {
					t.Errorf("%d of %d messages are left, and intake is shut: %v; %s", left, sent, err, roomOf(s))
				}
				if st := s.Stats(); st.WorkQueueLength != int64(left) {
					t.Errorf("%d of %d messages are left; %+v", left, sent, st)
				}
			})
		})
	}
}

// A store that was empty for a while is small, takes mail as before, and is found as it is by the
// next opening.
func TestScenario_AnIdleStoreShrinks(t *testing.T) {
	scenario(t, func(t *testing.T) {
		fs := memdisk.New(memdisk.Config{})
		o := tiny(fs)
		o.SegmentSize = 4 << 20
		s := started(t, o)
		long := strings.Repeat("long ", 1<<16)
		for round := range 2 {
			for i := range 60 {
				posted(t, s, fmt.Sprint(round, " mail ", i, long))
			}
			for range 60 {
				if err := taken(t, s).SettleAll(t.Context(), Delivered); err != nil {
					t.Fatal(err)
				}
			}
			if st := s.Stats(); st.DiskBytes < 20<<20 {
				t.Fatalf("%d bytes before it is idle", st.DiskBytes)
			}
			time.Sleep(spareIdle + 10*spaceEvery)
			st := s.Stats()
			list, err := s.dir.List()
			if err != nil {
				t.Fatal(err)
			}
			if st.DiskBytes > 4<<20 || st.UnlinkedBytes != 0 {
				t.Errorf("round %d: %d bytes on disk, %d of them without a name: %v", round, st.DiskBytes, st.UnlinkedBytes, list)
			}
			killed := fs.Clone()
			killed.Kill()
			o := o
			o.fs = killed
			again := started(t, o)
			posted(t, again, long)
			holds(t, again, long)
			ended(t, again)
		}
		posted(t, s, strings.Repeat(long, 9)) // more than a small segment takes
		ended(t, s)
		if found, err := Verify(spool, o); err != nil || len(found) > 0 {
			t.Errorf("verify: %v, %v", found, err)
		}
	})
}

// A store whose mail is delivered as fast as it comes is empty whenever somebody looks, and not idle: it does
// not make segments small and large in turn.
func TestScenario_AStoreThatIsNearlyAlwaysEmptyIsNotIdle(t *testing.T) {
	scenario(t, func(t *testing.T) {
		fs := memdisk.New(memdisk.Config{})
		made := 0
		fs.OnOp(func(op disk.Op, name string) {
			if op == disk.OpCreate && strings.Contains(name, "free-new-") {
				made++
			}
		})
		s := started(t, Options{SegmentSize: 4 << 20, claims: 1024, fs: fs})
		const mails = 1000
		for range mails {
			time.Sleep(spaceEvery / 7)
			posted(t, s, "mail")
			if err := taken(t, s).SettleAll(t.Context(), Delivered); err != nil {
				t.Fatal(err)
			}
		}
		// The first two, a small one for as long as it was new and empty, and what was written.
		if most := 4 + 3*mails*2*segment.AlignmentMin/(4<<20); made > most {
			t.Errorf("%d segments were made, for at most %d that were needed", made, most)
		}
		ended(t, s)
		fs.OnOp(nil)
	})
}

// An idle store gives back the blocks for checkpoints that one before it, which was killed, had held: all
// that it has of them is names.
func TestScenario_AnIdleStoreGivesBackWhatAKilledOneHeld(t *testing.T) {
	scenario(t, func(t *testing.T) {
		fs := memdisk.New(memdisk.Config{})
		s := started(t, tiny(fs))
		for range 3 {
			posted(t, s, "mail")
			time.Sleep(3 * spaceEvery / 2)
			if err := taken(t, s).SettleAll(t.Context(), Delivered); err != nil {
				t.Fatal(err)
			}
			if names := files(t, fs); !slices.Contains(slices.Collect(maps.Keys(names)), "spare-ckpt") {
				t.Fatalf("nothing is held by %v", slices.Sorted(maps.Keys(names)))
			}
			killed := fs.Clone()
			again := started(t, tiny(killed))
			time.Sleep(3 * spaceEvery)
			space, err := again.dir.Space()
			if err != nil {
				t.Fatal(err)
			}
			names := files(t, killed)
			var bytes int64
			for _, b := range names {
				bytes += (int64(len(b)) + memdisk.PageSize - 1) &^ (memdisk.PageSize - 1)
			}
			if _, kept := names["spare-ckpt"]; kept || space.Total-space.Free != bytes {
				t.Errorf("%d bytes of the disk are in use, %d of them in files: %v", space.Total-space.Free, bytes, slices.Sorted(maps.Keys(names)))
			}
			ended(t, again)
			if err := s.Checkpoint(t.Context()); err != nil {
				t.Fatal(err)
			}
		}
		ended(t, s)
	})
}

// A backlog that is delivered while nothing comes gives its room back as it goes, though all the marks together are shorter than
// what else makes a checkpoint due.
func TestScenario_ADeliveredBacklogComesBack(t *testing.T) {
	scenario(t, func(t *testing.T) {
		o := tiny(memdisk.New(memdisk.Config{}))
		o.fold = 1 << 20
		s := started(t, o)
		const n, batch = 400, 40
		var ids []ID
		for i := range n {
			ids = append(ids, posted(t, s, fmt.Sprint("mail ", i, strings.Repeat(" long", 2000))))
		}
		if err := s.Checkpoint(t.Context()); err != nil {
			t.Fatal(err)
		}
		full, from := s.Stats(), s.log.Appended()
		for i, part := range slices.Collect(slices.Chunk(ids, batch)) {
			var b Batch
			for _, id := range part {
				b.Edit = append(b.Edit, Edit{ID: id, Outcomes: []Outcome{{Recipient: All, Result: Delivered}}})
			}
			if _, err := s.Commit(t.Context(), b); err != nil {
				t.Fatal(err)
			}
			synctest.Wait()
			// Unknown to the checkpoint may be what died since, and one batch of it; CompactSpace is for what is known.
			st := s.Stats()
			if most := max(o.fold, st.LiveBytes/deadPart) + full.LiveBytes/(n/batch) + CompactSpaceDefault*st.LiveBytes/100 + 8*o.SegmentSize; st.LiveBytes+st.DeadBytes > most {
				t.Errorf("%d batches are delivered, and the log is %d bytes for %d live ones, want at most %d", i+1, st.LiveBytes+st.DeadBytes, st.LiveBytes, most)
			}
		}
		if grown := s.log.Appended() - from; grown >= o.fold {
			t.Errorf("the log has grown by %d bytes; this tests nothing", grown)
		}
	})
}
