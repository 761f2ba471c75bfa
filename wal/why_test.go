package wal

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/mtawal/mtawal/internal/disk/memdisk"
	"github.com/mtawal/mtawal/mailq"
	"github.com/mtawal/mtawal/segment"
)

// reasons is the kinds of reasons of a segment, "" if it is not there.
func reasons(list []SegmentInfo, n uint32) string {
	for _, i := range list {
		if i.Number == n {
			var kinds []string
			for _, r := range i.Why {
				kinds = append(kinds, string(r.Kind))
			}
			return strings.Join(kinds, ", ")
		}
	}
	return ""
}

// Each thing that may hold a segment is said, and when it is gone the segment goes.
func TestWhy(t *testing.T) {
	scenario(t, func(t *testing.T) {
		fs := memdisk.New(memdisk.Config{})
		opt := tiny(fs)
		opt.fold = 1 << 40 // checkpoints are made here
		s := started(t, opt)
		long := strings.Repeat("m", 30_000)
		why := func(n uint32, want string) SegmentInfo {
			t.Helper()
			list := s.Segments()
			if got := reasons(list, n); got != want {
				t.Errorf("segment %d is there because of %q, want %q", n, got, want)
			}
			for _, i := range list {
				if i.Live+i.Dead+i.Free != i.Size || len(i.Why) == 0 {
					t.Errorf("%+v does not add up", i)
				}
				if i.Number == n {
					return i
				}
			}
			return SegmentInfo{}
		}
		used := func(id ID) {
			t.Helper()
			if err := s.MarkUsed(t.Context(), id, mailq.All); err != nil {
				t.Fatal(err)
			}
		}
		// fill moves the end of the log into another segment; what it writes is used.
		fill := func() {
			t.Helper()
			for n := s.log.End().Segment(); s.log.End().Segment() == n; {
				used(posted(t, s, long))
			}
		}
		checkpoint := func() {
			t.Helper()
			if err := s.Checkpoint(t.Context()); err != nil {
				t.Fatal(err)
			}
		}
		at := time.Now()
		first := must(s.Enqueue(t.Context(), Message{Body: []byte(long), Recipients: []Recipient{
			{Queue: "q", Address: "a", NotBefore: at.Add(time.Hour)}, {Queue: "r", Address: "b"}}}))(t)
		why(1, "being written, messages, checkpoint")
		time.Sleep(time.Second)
		second := posted(t, s, "x")
		fill()
		i := why(1, "messages, checkpoint")
		o := i.Why[0].Oldest
		if i.Why[0].Count != 2 || o.ID != first || o.Queue != "q" || o.State != mailq.InDeferral || o.Recipients != 2 || o.Since.Unix() != at.Unix() {
			t.Errorf("%+v, %+v", i.Why[0], o)
		}
		if text := i.Why[0].String(); text != fmt.Sprintf("2 messages live in it; the oldest is %v, since 2000-01-01T00:00:00Z, deferred in queue q and 1 more", first) {
			t.Error(text)
		}
		if i.Why[1].Checkpoint != "" {
			t.Errorf("%+v", i.Why[1])
		}
		checkpoint()
		why(1, "messages, checkpoint") // there is no second one
		fill()
		checkpoint()
		why(1, "messages")
		why(s.folds.older.Pos.Segment(), "checkpoint")

		// Used: the newest checkpoint does not know, the next one does.
		used(second)
		used(first)
		why(1, "used since")
		fill()
		checkpoint()
		why(1, "")

		// A staged body holds everything from its first byte on.
		st := must(s.Stage(t.Context(), 0))(t)
		if _, err := st.Write(make([]byte, 2*stageChunk)); err != nil {
			t.Fatal(err)
		}
		n := s.log.End().Segment()
		fill()
		checkpoint()
		fill()
		checkpoint()
		if i := why(n, "staged bodies"); i.Why[0].Count != 1 || i.Why[0].Since.IsZero() {
			t.Errorf("%+v", i.Why[0])
		}
		st.Abort()
		why(n, "staged bodies") // as of the checkpoint
		fill()
		checkpoint()
		why(n, "")

		// A reader: the segment is out of the log, and its file is there.
		n = s.log.End().Segment()
		third := posted(t, s, "y")
		for _, err := range s.Entries(t.Context(), Filter{ID: third}) {
			if err != nil {
				t.Fatal(err)
			}
			d, err := s.Claim(t.Context(), "q")
			if err != nil {
				t.Fatal(err)
			}
			fill()
			if err := d.Body.View(0, 1, func([]byte) error {
				used(third)
				fill()
				checkpoint()
				fill()
				checkpoint()
				if i := why(n, "readers"); i.State != SegmentRetired || i.Why[0].Count == 0 {
					t.Errorf("%+v", i)
				}
				return nil
			}); err != nil {
				t.Fatal(err)
			}
		}
		why(n, "")

		// Damage.
		hurt := located(s, posted(t, s, "hurt"))
		n = hurt.Segment()
		fill()
		checkpoint()
		fill()
		checkpoint()
		if err := fs.Damage(segmentPath(n), hurt.Offset()+20, []byte{0xff, 0xff}); err != nil {
			t.Fatal(err)
		}
		if _, err := claimFor(t, s, time.Second); err == nil {
			t.Error("a damaged message was handed out")
		}
		why(n, "messages, damaged")
		live := s.Segments()
		ended(t, s)
		files := must(Why(spool, tiny(fs), 0))(t)
		for _, i := range live {
			a, b := reasons(live, i.Number), reasons(files, i.Number)
			if strings.Contains(a+b, "checkpoint") {
				continue // Close has made another
			}
			if strings.TrimSuffix(a, ", damaged") != b {
				t.Errorf("segment %d: the store says %q, its files %q", i.Number, a, b)
			}
		}
		one := must(Why(spool, tiny(fs), n))(t)
		if got := reasons(one, n); len(one) != 1 || got != "messages, damaged" {
			t.Errorf("the files say %q of segment %d", got, n)
		}
		if _, err := Why(spool, tiny(fs), 4711); !errors.Is(err, ErrNotFound) {
			t.Errorf("no such segment: %v", err)
		}
	})
}

// located is where the record of a message is.
func located(s *Store, id ID) segment.Pos {
	s.mu.Lock()
	defer s.mu.Unlock()
	slot, _ := s.table.Find(uint64(id))
	return s.table.Msg(slot).Loc
}

// claimFor claims from queue q for some time.
func claimFor(t *testing.T, s *Store, d time.Duration) (*Delivery, error) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), d)
	defer cancel()
	return s.Claim(ctx, "q")
}

// After a random history: what Segments says is what recycling does.
func TestWhyIsExact(t *testing.T) {
	seed := rand.Uint64()
	t.Logf("seed %d", seed)
	r := rand.New(rand.NewPCG(seed, 0))
	o := tiny(memdisk.New(memdisk.Config{}))
	o.CompactMin = 1 << 40 // nothing is moved beside it
	s := started(t, o)
	var ids []ID
	for range 60 {
		switch k := r.IntN(10); {
		case k < 6:
			ids = append(ids, posted(t, s, strings.Repeat("m", 1000+r.IntN(40_000))))
		case k < 9 && len(ids) > 0:
			i := r.IntN(len(ids))
			if err := s.MarkUsed(t.Context(), ids[i], mailq.All); err != nil {
				t.Fatal(err)
			}
			ids = slices.Delete(ids, i, i+1)
		case k == 9:
			if err := s.Checkpoint(t.Context()); err != nil {
				t.Fatal(err)
			}
		}
		before := s.Segments()
		for _, i := range before {
			if len(i.Why) == 0 || i.Messages != s.holdings().of(i.Number) || i.Live+i.Dead+i.Free != i.Size {
				t.Errorf("%+v", i)
			}
		}
		// One checkpoint more takes what is dead, and nothing that has a reason of its own.
		if err := s.Checkpoint(t.Context()); err != nil {
			t.Fatal(err)
		}
		after := s.Segments()
		for _, i := range before {
			was, is := reasons(before, i.Number), reasons(after, i.Number)
			if strings.Contains(was, string(ReasonMessages)) && is == "" || strings.Contains(is, string(ReasonDead)) || strings.Contains(is, string(ReasonUsed)) ||
				was == string(ReasonDead) && is != "" || was == string(ReasonUsed) && is != "" {
				t.Errorf("segment %d was there because of %q, and a checkpoint later because of %q", i.Number, was, is)
			}
		}
	}
	ended(t, s)
}

func (h holdings) of(n uint32) int64 {
	if h[n] == nil {
		return 0
	}
	return h[n].messages
}
