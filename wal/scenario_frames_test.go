package wal

import (
	"bytes"
	"errors"
	"fmt"
	"math/rand/v2"
	"testing"

	"github.com/mtawal/mtawal/internal/disk/memdisk"
	"github.com/mtawal/mtawal/segment"
)

// A frame is valid at its place, in this life of the segment, behind the frame whose header
// it is chained to, in the same epoch. Each of these alone keeps a forgery out; the first
// case shows that nothing else is missing from it.
func TestScenario_ForgedFrameBehindTheEnd(t *testing.T) {
	for _, tt := range []struct {
		name     string
		spoil    func(*forgery)
		believed bool
	}{
		{"as the store would write it", func(*forgery) {}, true},
		{"another salt", func(f *forgery) { f.header.Salt++ }, false},
		{"another position", func(f *forgery) { f.header.Pos += segment.AlignmentMin }, false},
		{"another segment", func(f *forgery) { f.header.Pos += 1 << 32 }, false},
		{"chained to another frame", func(f *forgery) { f.header.Previous++ }, false},
		{"an earlier epoch", func(f *forgery) { f.header.Epoch-- }, false},
		{"a later epoch", func(f *forgery) { f.header.Epoch++ }, false},
		{"another nonce", func(f *forgery) { f.header.Nonce++ }, false},
		{"an opening of the same epoch", func(f *forgery) { f.header.Kind = segment.Open }, false},
		{"an opening chained to another frame", func(f *forgery) {
			f.header.Kind, f.header.Epoch, f.header.Previous = segment.Open, f.header.Epoch+1, f.header.Previous+1
		}, false},
	} {
		t.Run(tt.name, func(t *testing.T) {
			scenario(t, func(t *testing.T) {
				fs := memdisk.New(memdisk.Config{})
				s := started(t, tiny(fs))
				posted(t, s, "genuine")
				fs.Kill()
				w := lookInto(t, fs)
				f := w.next("forged", 1<<40)
				f.header.Lease = 1 << 41
				tt.spoil(&f)
				if err := fs.Damage(segmentPath(w.tail.Number), w.end.Offset(), f.bytes(w.tail.Alignment)); err != nil {
					t.Fatal(err)
				}
				s = started(t, tiny(fs))
				if tt.believed {
					holds(t, s, "genuine", "forged")
				} else {
					holds(t, s, "genuine")
				}
				ended(t, s)
			})
		})
	}
}

// Rule 1.3. "A sender's body holds forged frames at 4 KiB steps; a kill leaves a prefix, and
// the scan believes them." The sender knows everything but the salts. The power fails
// while the frame is written that holds the body, and of all its pages the first is lost.
func TestScenario_ForgedFramesInABody(t *testing.T) {
	scenario(t, func(t *testing.T) {
		fs := memdisk.New(memdisk.Config{})
		s := started(t, roomy(fs))
		posted(t, s, "first")
		w := lookInto(t, fs)
		const size = 6 * segment.AlignmentMin
		forged := make([]byte, size)
		// The body begins 512 bytes into its frame.
		for off := segment.AlignmentMin - 512; off < size; off += segment.AlignmentMin {
			f := w.next("forged", 1<<40)
			f.header.Salt ^= 1 // as good as any guess
			f.header.Pos = w.end + segment.Pos(512+off)
			f.header.Promise, f.header.Lease = segment.MakePos(segment.NumberMax, 0), 1<<60
			copy(forged[off:], f.bytes(w.tail.Alignment))
		}
		before := fs.Clone()
		posted(t, s, string(forged))
		after := fs.Clone()
		ended(t, s)
		transplant(t, after, before, w.tail.Number, w.end.Offset()+segment.AlignmentMin, size)

		// What the sender wrote lies in front of every later commit, through three more lives.
		have := []string{"first"}
		for life := range 3 {
			s = started(t, roomy(before))
			holds(t, s, have...)
			have = append(have, fmt.Sprint("life ", life))
			posted(t, s, have[len(have)-1])
			before.Kill()
		}
	})
}

// Section 9. "Bodies that are copies of the store's own frames, sectors and segments at every
// 4 KiB phase": salts that got out would not help, for a frame names its place.
func TestScenario_BodiesThatAreCopiesOfTheStore(t *testing.T) {
	scenario(t, func(t *testing.T) {
		for phase := 0; phase < segment.AlignmentMin; phase += 512 {
			fs := memdisk.New(memdisk.Config{})
			s := started(t, roomy(fs))
			have := []string{"one", "two", "three"}
			for _, text := range have {
				posted(t, s, text)
			}
			w := lookInto(t, fs)
			own, err := fs.Device(segmentPath(w.tail.Number))
			if err != nil {
				t.Fatal(err)
			}
			body := string(make([]byte, phase)) + string(own[:w.end.Offset()])
			before := fs.Clone()
			posted(t, s, body)
			after := fs.Clone()
			// Whole: a body like any other.
			ended(t, s)
			s = started(t, roomy(fs))
			holds(t, s, append(have, body)...)
			ended(t, s)
			// Torn: all but its first page is there.
			transplant(t, after, before, w.tail.Number, w.end.Offset()+segment.AlignmentMin, int64(len(body))/segment.AlignmentMin*segment.AlignmentMin)
			s = started(t, roomy(before))
			holds(t, s, have...)
			have = append(have, "four")
			posted(t, s, "four")
			before.Kill()
			s = started(t, roomy(before))
			holds(t, s, have...)
			ended(t, s)
		}
	})
}

// inFlight makes a store with one durable message and n more, of one frame of 4 KiB each,
// that are in the cache alone. It returns the disk before and after them.
func inFlight(t *testing.T, n int) (before, after *memdisk.FS, w whereItIs, texts []string) {
	t.Helper()
	fs := memdisk.New(memdisk.Config{})
	s := started(t, tiny(fs))
	posted(t, s, "durable")
	ended(t, s)
	o := tiny(fs)
	o.NoSync = true // so that several frames are in flight, and none promises another
	s = started(t, o)
	before = fs.Clone()
	w = lookInto(t, before)
	for i := range n {
		texts = append(texts, fmt.Sprint("in flight ", i))
		posted(t, s, texts[i])
	}
	after = fs.Clone()
	ended(t, s)
	// Every frame of it reaches the device.
	after.PowerCutWith(allOfIt)
	before.PowerCutWith(allOfIt)
	return before, after, w, texts
}

// Section 2. "The second of two commits in flight is durable, the first is not: both are
// dropped, neither was acknowledged." What is cut is counted and saved.
func TestCase02_LaterPageDurableEarlierNot(t *testing.T) {
	scenario(t, func(t *testing.T) {
		fs, after, w, _ := inFlight(t, 2)
		transplant(t, after, fs, w.tail.Number, w.end.Offset()+segment.AlignmentMin, segment.AlignmentMin)
		s := started(t, tiny(fs))
		holds(t, s, "durable")
		if st := s.Stats(); st.TailCut != 2*segment.AlignmentMin {
			t.Errorf("%d bytes were cut, want the two frames", st.TailCut)
		}
		saved := false
		want, err := after.Device(segmentPath(w.tail.Number))
		if err != nil {
			t.Fatal(err)
		}
		for name, b := range files(t, fs) {
			second := want[w.end.Offset()+segment.AlignmentMin:][:segment.AlignmentMin]
			saved = saved || len(name) > 4 && name[:4] == "cut-" && bytes.Contains([]byte(b), second)
		}
		if !saved {
			t.Error("what was cut was not saved beside the log")
		}
		// Its place is used again, safely.
		posted(t, s, "new")
		ended(t, s)
		s = started(t, tiny(fs))
		holds(t, s, "durable", "new")
		ended(t, s)
	})
}

// The same picture, when the second says that the first had been durable: then this is damage,
// and nothing is touched.
func TestScenario_FirstLostThoughTheSecondPromisedIt(t *testing.T) {
	scenario(t, func(t *testing.T) {
		fs := memdisk.New(memdisk.Config{})
		s := started(t, tiny(fs))
		before := fs.Clone()
		w := lookInto(t, before)
		posted(t, s, "one")
		posted(t, s, "two")
		after := fs.Clone()
		ended(t, s)
		after.PowerCutWith(nothingMore)
		before.PowerCutWith(nothingMore)
		transplant(t, after, before, w.tail.Number, w.end.Offset()+segment.AlignmentMin, segment.AlignmentMin)
		was := files(t, before)
		_, err := Open(spool, tiny(before))
		var where *CorruptError
		if !errors.As(err, &where) || where.Segment != w.tail.Number || where.Offset != w.end.Offset() {
			t.Fatalf("opened with %v, want ErrCorrupt at %v", err, w.end)
		}
		delete(was, lockName)
		now := files(t, before)
		delete(now, lockName)
		for name := range was {
			if now[name] != was[name] {
				t.Errorf("%s was touched", name)
			}
		}
	})
}

// Rule 1.4. "Two crashes with two frames in flight; the stale second frame becomes valid
// behind a new first one of equal length." And section 9: three crashes in a row. Of four
// frames in flight the first is lost; each opening puts a frame of the same length in
// front of the next stale one.
func TestScenario_TwoCrashesTwoFramesInFlight(t *testing.T) {
	scenario(t, func(t *testing.T) {
		fs, after, w, _ := inFlight(t, 5)
		transplant(t, after, fs, w.tail.Number, w.end.Offset()+segment.AlignmentMin, 4*segment.AlignmentMin)
		for range 4 {
			s := started(t, tiny(fs))
			holds(t, s, "durable")
			fs.Kill()
			if end := lookInto(t, fs).end; end != w.end+segment.AlignmentMin {
				t.Fatalf("after an opening of one frame the log ends at %v, want %v", end, w.end+segment.AlignmentMin)
			}
			w.end += segment.AlignmentMin
		}
	})
}

// The same by chance: whatever a power cut keeps of what was in flight, what is there
// afterwards is a beginning of what was sent in that life, and stays so.
func TestScenario_CrashesInARowLeaveAPrefix(t *testing.T) {
	scenario(t, func(t *testing.T) {
		seeds := 60
		if testing.Short() {
			seeds = 10
		}
		for seed := range uint64(seeds) {
			rng := rand.New(rand.NewPCG(seed, 2))
			fs := memdisk.New(memdisk.Config{Names: memdisk.NameModel(seed % 2), WholePages: seed%3 == 0})
			o := tiny(fs)
			o.NoSync = true
			var sure []string // there for good
			for life := range 4 {
				s, err := Open(spool, o)
				if err != nil {
					t.Fatalf("seed %d, life %d: %v", seed, life, err)
				}
				found, err := waiting(s)
				if err != nil {
					t.Fatalf("seed %d, life %d: %v", seed, life, err)
				}
				var sent []string
				n := 0
				for i := range 4 {
					text := fmt.Sprint("life ", life-1, " letter ", i)
					if _, ok := found[text]; ok {
						n++
						sent = append(sent, text)
						if n != i+1 {
							t.Fatalf("seed %d: %q is there, one before it is not", seed, text)
						}
					}
				}
				sure = append(sure, sent...)
				if len(found) != len(sure) {
					t.Fatalf("seed %d, life %d: %d messages are there, want %q", seed, life, len(found), sure)
				}
				for i := range 4 {
					if _, err := s.Enqueue(t.Context(), mailing(fmt.Sprint("life ", life, " letter ", i))); err != nil {
						t.Fatal(err)
					}
				}
				image := fs.Clone()
				image.PowerCut(rng)
				_ = s.Close() // of the store whose disk is given up
				fs = image
				o.fs = fs
			}
		}
	})
}
