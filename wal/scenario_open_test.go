package wal

import (
	"errors"
	"fmt"
	"math/rand/v2"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/mtawal/mtawal/internal/disk"
	"github.com/mtawal/mtawal/internal/disk/faultdisk"
	"github.com/mtawal/mtawal/internal/disk/memdisk"
	"github.com/mtawal/mtawal/segment"
)

// Rule 3.2. "SIGKILL between write and sync; reopened, delivered; power cut; the ID is given to
// another mail, which the receiver drops as already delivered." What was only in the page
// cache is durable before it is shown.
func TestScenario_KillBetweenWriteAndSyncThenPowerCut(t *testing.T) {
	scenario(t, func(t *testing.T) {
		fs := memdisk.New(memdisk.Config{})
		s := started(t, tiny(fs))
		var image *memdisk.FS
		fs.OnOp(func(op disk.Op, name string) {
			if op == disk.OpFlush && strings.HasPrefix(name, "seg-") && image == nil {
				image = fs.Clone()
			}
		})
		posted(t, s, "cached")
		fs.OnOp(nil)
		ended(t, s)

		s = started(t, tiny(image))
		holds(t, s, "cached")
		shown := image.Clone()
		d := taken(t, s)
		if err := d.SettleAll(t.Context(), Delivered); err != nil {
			t.Fatal(err)
		}
		image.PowerCutWith(nothingMore)
		s = started(t, tiny(image))
		holds(t, s)
		if id := posted(t, s, "another"); id <= d.ID {
			t.Errorf("%v was given out, which is not above %v that was shown", id, d.ID)
		}
		ended(t, s)

		shown.PowerCutWith(nothingMore)
		s = started(t, tiny(shown))
		holds(t, s, "cached")
		ended(t, s)
	})
}

// Section 9. "A page that is clean in the cache and old on the disk (after a failed sync)": the
// kernel will never write it, so a later sync that returns nil means nothing. Only writing
// the same bytes again does.
func TestScenario_CleanInTheCacheOldOnTheDisk(t *testing.T) {
	scenario(t, func(t *testing.T) {
		fs := memdisk.New(memdisk.Config{})
		s := started(t, tiny(fs))
		posted(t, s, "durable")
		if err := fs.FailSync(segmentPath(1), memdisk.SyncLost); err != nil {
			t.Fatal(err)
		}
		if _, err := s.Enqueue(t.Context(), mailing("lost")); !errors.Is(err, ErrFailed) || !errors.Is(err, syscall.EIO) {
			t.Fatalf("a commit whose sync failed: %v", err)
		}
		if _, err := s.Enqueue(t.Context(), mailing("after")); !errors.Is(err, ErrFailed) {
			t.Fatalf("the commit after it: %v", err)
		}
		if err := s.Close(); !errors.Is(err, ErrFailed) {
			t.Fatalf("close: %v", err)
		}
		s = started(t, tiny(fs))
		holds(t, s, "durable", "lost") // it is in the cache, so it counts, and from now on for good
		fs.PowerCutWith(nothingMore)
		s = started(t, tiny(fs))
		holds(t, s, "durable", "lost")
		ended(t, s)
	})
}

// Section 2, as a table of what is found: damage or tear, below or above what is known to have
// been durable. What is known comes from later frames, from a Marker 20 ms after the last
// commit, and, as long as the page cache lives, from the claim table.
func TestScenario_DamageOrTear(t *testing.T) {
	for _, tt := range []struct {
		name    string
		idle    bool // 20 ms pass before the crash
		power   bool // the crash is a power cut
		inTable bool // else in the body
		want    string
	}{
		{"table, killed at once", false, false, true, "corrupt"},
		{"table, power cut at once", false, true, true, "cut"},
		{"table, killed later", true, false, true, "corrupt"},
		{"table, power cut later", true, true, true, "corrupt"},
		{"body, killed at once", false, false, false, "set aside"},
		{"body, power cut at once", false, true, false, "cut"},
		{"body, killed later", true, false, false, "set aside"},
		{"body, power cut later", true, true, false, "set aside"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			scenario(t, func(t *testing.T) {
				fs := memdisk.New(memdisk.Config{})
				s := started(t, tiny(fs))
				posted(t, s, "one")
				at := lookInto(t, fs.Clone()).end
				posted(t, s, "two")
				if tt.idle {
					time.Sleep(2 * markerAfter)
				}
				if tt.power {
					fs.PowerCutWith(nothingMore)
				} else {
					fs.Kill()
				}
				off := at.Offset() + 512 // the body
				if tt.inTable {
					off = at.Offset() + segment.FrameHeaderSize + 30
				}
				if err := fs.Damage(segmentPath(1), off, []byte{0xff}); err != nil {
					t.Fatal(err)
				}
				before := files(t, fs)
				s, err := Open(spool, tiny(fs))
				if tt.want == "corrupt" {
					var where *CorruptError
					if !errors.As(err, &where) || where.Segment != 1 || where.Offset != at.Offset() {
						t.Fatalf("opened with %v, want ErrCorrupt at %v", err, at)
					}
					untouched(t, fs, before)
					return
				}
				if err != nil {
					t.Fatal(err)
				}
				holds(t, s, "one")
				st := s.Stats()
				if cut := tt.want == "cut"; cut != (st.TailCut == segment.AlignmentMin) || cut == (st.Damaged == 1) {
					t.Errorf("%d bytes cut, %d damaged, want it %s", st.TailCut, st.Damaged, tt.want)
				}
				ended(t, s)
			})
		})
	}
}

// Section 2. "Behind a Seal, successor missing or not valid as a segment: corrupt", promised or
// not; for a Seal is written when its successor stands.
func TestScenario_SealWithoutSuccessor(t *testing.T) {
	for _, missing := range []bool{true, false} {
		scenario(t, func(t *testing.T) {
			fs := memdisk.New(memdisk.Config{})
			s := started(t, tiny(fs))
			for i := 0; len(s.Segments()) == 1; i++ {
				posted(t, s, fmt.Sprint(i))
			}
			fs.PowerCutWith(nothingMore) // so that the claim table promises nothing
			for _, n := range []uint32{2, 3} {
				if !missing {
					_ = fs.Damage(segmentPath(n), 100, []byte{1}) // 3 may not have been made
					continue
				}
				d, err := fs.OpenDir(spool, false)
				if err != nil {
					t.Fatal(err)
				}
				_ = d.Remove(segment.Name(n)) // likewise
				if err := d.Close(); err != nil {
					t.Fatal(err)
				}
			}
			before := files(t, fs)
			var where *CorruptError
			if _, err := Open(spool, tiny(fs)); !errors.As(err, &where) || where.Segment != 2 {
				t.Fatalf("opened with %v, want ErrCorrupt in segment 2", err)
			}
			untouched(t, fs, before)
		})
	}
}

// Rule 3.5. A log that does not reach the newest checkpoint's position is damage, also where an
// older checkpoint would make do with it: never an older state.
func TestScenario_LogShorterThanItsCheckpoint(t *testing.T) {
	scenario(t, func(t *testing.T) {
		fs := memdisk.New(memdisk.Config{})
		s := started(t, tiny(fs))
		posted(t, s, "one")
		if err := s.Checkpoint(t.Context()); err != nil {
			t.Fatal(err)
		}
		at := lookInto(t, fs.Clone()).end
		posted(t, s, "two")
		ended(t, s) // with the second checkpoint
		end := lookInto(t, fs).end
		fs.PowerCutWith(nothingMore)
		if err := fs.Damage(segmentPath(1), at.Offset(), make([]byte, end-at)); err != nil {
			t.Fatal(err)
		}
		before := files(t, fs)
		if _, err := Open(spool, tiny(fs)); !errors.Is(err, ErrCorrupt) {
			t.Fatalf("opened with %v, want ErrCorrupt", err)
		}
		untouched(t, fs, before)
	})
}

// Rule 3.3. "A segment number below the oldest replay start that holds no live message is dead,
// whatever is in it (files reappear after power cuts)." It is not replayed and is gone again.
func TestCase09_DeletedSegmentReappears(t *testing.T) {
	for _, what := range []string{"as it was", "garbage", "empty"} {
		t.Run(what, func(t *testing.T) {
			scenario(t, func(t *testing.T) {
				fs := memdisk.New(memdisk.Config{})
				o := tiny(fs)
				o.fold = 1 << 40 // the checkpoints are made here
				s := started(t, o)
				a := newAccount()
				for i := range 40 {
					if err := a.post(s, fmt.Sprint("mail ", i)); err != nil {
						t.Fatal(err)
					}
				}
				first, err := fs.Device(segmentPath(1))
				if err != nil {
					t.Fatal(err)
				}
				for range 39 {
					if err := a.deliver(s, Delivered); err != nil {
						t.Fatal(err)
					}
				}
				if err := s.Compact(t.Context()); err != nil {
					t.Fatal(err)
				}
				ended(t, s)
				if _, err := fs.Device(segmentPath(1)); err == nil {
					t.Fatal("segment 1 was not recycled")
				}
				switch what {
				case "garbage":
					first = []byte(strings.Repeat("garbage ", 1000))
				case "empty":
					first = nil
				}
				if err := fs.Put(segmentPath(1), first); err != nil {
					t.Fatal(err)
				}
				s = started(t, tiny(fs))
				holds(t, s, "mail 39")
				ended(t, s)
				if _, err := fs.Device(segmentPath(1)); err == nil {
					t.Error("it is still there")
				}
			})
		})
	}
}

// crashed makes a store that died with all that an opening has to deal with: a checkpoint, a
// log behind it in two segments, a delivery under way, a commit in the cache alone and
// one torn.
func crashed(t *testing.T) (*memdisk.FS, *account) {
	t.Helper()
	fs := memdisk.New(memdisk.Config{})
	s := started(t, tiny(fs))
	a := newAccount()
	post := func(n int) {
		t.Helper()
		for range n {
			if err := a.post(s, fmt.Sprint("mail ", len(a.sent))); err != nil {
				t.Fatal(err)
			}
		}
	}
	post(10)
	if err := s.Checkpoint(t.Context()); err != nil {
		t.Fatal(err)
	}
	post(5)
	if err := a.deliver(s, Delivered); err != nil {
		t.Fatal(err)
	}
	taken(t, s)
	var image *memdisk.FS
	var told *account
	fs.OnOp(func(op disk.Op, name string) {
		if op == disk.OpFlush && image == nil {
			image, told = fs.Clone(), a.copy()
		}
	})
	post(1)
	fs.OnOp(nil)
	ended(t, s)
	return image, told
}

// Cases 15 and 22. A crash at each step of an opening, and at each of the opening after it.
func TestCase15_CrashInRecoveryAndInTheNext(t *testing.T) {
	t.Parallel()
	scenario(t, func(t *testing.T) {
		fs, a := crashed(t)
		rng := rand.New(rand.NewPCG(3, 3))
		cuts := map[string]func(*memdisk.FS){
			"kill":                  func(fs *memdisk.FS) { fs.Kill() },
			"power cut, least":      func(fs *memdisk.FS) { fs.PowerCutWith(nothingMore) },
			"power cut, most":       func(fs *memdisk.FS) { fs.PowerCutWith(allOfIt) },
			"power cut, seed (3,3)": func(fs *memdisk.FS) { fs.PowerCut(rng) },
		}
		open := func(fs *memdisk.FS) []audited {
			return a.shots(fs, func() {
				s, err := Open(spool, tiny(fs))
				if err != nil {
					t.Fatal(err)
				}
				ended(t, s)
			})
		}
		tried, step := 0, 19
		if testing.Short() {
			step = 101
		}
		// All of the first opening, and of each of the second ones a few, others each time.
		for i, first := range open(fs) {
			for how, cut := range cuts {
				one := first.image.Clone()
				cut(one)
				for j, second := range open(one.Clone()) {
					if (i+j)%step != 0 {
						continue
					}
					for how2, cut2 := range cuts {
						two := second.image.Clone()
						cut2(two)
						tried++
						if err := second.account.audit(two); err != nil {
							t.Fatalf("%s %s, then %s %s: %v", how, first.what, how2, second.what, err)
						}
					}
				}
			}
		}
		t.Logf("%d crashes of crashed openings", tried)
	})
}

// Case 22 and rule 7.1. "Opening a full disk needs no new byte", and used-marks go on.
func TestCase22_RecoveryOnAFullDisk(t *testing.T) {
	for _, cow := range []bool{false, true} {
		scenario(t, func(t *testing.T) {
			fs := memdisk.New(memdisk.Config{})
			s := started(t, tiny(fs))
			for i := range 3 {
				posted(t, s, fmt.Sprint(i))
			}
			time.Sleep(time.Second) // the next segment stands
			fs.Kill()
			if cow {
				// What was torn can't be saved.
				if err := fs.Damage(segmentPath(1), lookInto(t, fs).end.Offset()+100, []byte("torn")); err != nil {
					t.Fatal(err)
				}
			}
			fs.SetCapacity(0)
			s = started(t, tiny(fs))
			if err := s.Admit(1); !errors.Is(err, ErrFull) {
				t.Errorf("Admit on a full disk: %v", err)
			}
			if _, err := s.Enqueue(t.Context(), mailing("new")); !errors.Is(err, ErrFull) {
				t.Errorf("Enqueue on a full disk: %v", err)
			}
			holds(t, s, "0", "1", "2")
			d := taken(t, s)
			if err := d.SettleAll(t.Context(), Delivered); err != nil {
				t.Errorf("a used-mark on a full disk: %v", err)
			}
			fs.SetCapacity(1 << 30)
			time.Sleep(2 * spaceEvery)
			posted(t, s, "new")
			ended(t, s)
		})
	}
}

// Section 2, last row: what can't be read is neither damaged nor torn. The error is the
// device's, and nothing is touched.
func TestScenario_UnreadableLog(t *testing.T) {
	scenario(t, func(t *testing.T) {
		fs := memdisk.New(memdisk.Config{})
		s := started(t, tiny(fs))
		posted(t, s, "one")
		at := lookInto(t, fs.Clone()).end
		posted(t, s, "two")
		posted(t, s, "three")
		fs.Kill()
		before := files(t, fs)
		sick := fs.Clone()
		if err := sick.Unreadable(segmentPath(1), at.Offset(), 1); err != nil {
			t.Fatal(err)
		}
		if _, err := Open(spool, tiny(sick)); !errors.Is(err, syscall.EIO) || errors.Is(err, ErrCorrupt) {
			t.Errorf("opened with %v, want the error of the device", err)
		}
		// The same disk, when it has recovered.
		untouched(t, fs, before)
		s = started(t, tiny(fs))
		holds(t, s, "one", "two", "three")
		ended(t, s)
	})
}

// Case 25. A body that can't be read is that message's trouble alone.
func TestCase25_UnreadableBody(t *testing.T) {
	scenario(t, func(t *testing.T) {
		fs := memdisk.New(memdisk.Config{})
		s := started(t, tiny(fs))
		posted(t, s, "one")
		at := lookInto(t, fs.Clone()).end
		long := strings.Repeat("long", 2000)
		posted(t, s, long)
		posted(t, s, "three")
		if err := fs.Unreadable(segmentPath(1), at.Offset()+segment.AlignmentMin, 1); err != nil {
			t.Fatal(err)
		}
		holds(t, s, "one", "three")
		if st := s.Stats(); st.Damaged != 1 || st.WorkQueueLength != 3 {
			t.Errorf("%d damaged of %d, want 1 of 3", st.Damaged, st.WorkQueueLength)
		}
		ended(t, s)
	})
}

// Rule 8.3. "Read-only opens take no lock, recover nothing, remove nothing", beside an owner and
// on what a crash left.
func TestScenario_LookingTouchesNothing(t *testing.T) {
	scenario(t, func(t *testing.T) {
		inner, _ := crashed(t)
		fs := faultdisk.New(inner)
		changes := faultdisk.Plan{Only: append(slices.Clone(changing), disk.OpLock, disk.OpMapWritable)}
		look := func(what string) {
			t.Helper()
			fs.Set(changes)
			if in, err := Inspect(spool, tiny(fs)); err != nil || in.Messages == 0 {
				t.Errorf("Inspect %s: %+v, %v", what, in, err)
			}
			if found, err := Verify(spool, tiny(fs)); err != nil || len(found) > 0 {
				t.Errorf("Verify %s: %v, %v", what, found, err)
			}
			n := 0
			if err := Dump(spool, tiny(fs), true, func(*DumpRecord) error { n++; return nil }); err != nil || n == 0 {
				t.Errorf("Dump %s: %d records, %v", what, n, err)
			}
			if fs.Ops() > 0 {
				t.Errorf("looking %s changed something:\n%s", what, fs.Trace())
			}
		}
		look("at what a crash left")
		s := started(t, tiny(fs))
		posted(t, s, "more")
		time.Sleep(spaceEvery * 3 / 2) // what it does in the background is done
		look("beside the owner")
		ended(t, s)
		look("at a closed store")
	})
}

// What a crash left half made and can't be removed keeps a store from being opened before anything is written: else each try would take
// more room.
func TestScenario_LeftoverThatStays(t *testing.T) {
	scenario(t, func(t *testing.T) {
		inner := memdisk.New(memdisk.Config{})
		fs := faultdisk.New(inner)
		s := started(t, tiny(fs))
		posted(t, s, "a")
		ended(t, s)
		if err := inner.Put(spool+"/free-new-00000009", make([]byte, segment.SizeMin)); err != nil {
			t.Fatal(err)
		}
		before := files(t, inner)
		fs.Set(faultdisk.Plan{N: 1, Forever: true, Err: syscall.EIO, Only: []disk.Op{disk.OpRemove}})
		for range 3 {
			if s, err := Open(spool, tiny(fs)); !errors.Is(err, syscall.EIO) {
				t.Errorf("opened: %v, %v", s, err)
			}
			untouched(t, inner, before)
		}
		fs.Set(faultdisk.Plan{})
		s = must(Open(spool, tiny(fs)))(t)
		holds(t, s, "a")
		ended(t, s)
	})
}
