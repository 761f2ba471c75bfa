package wal

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/mtawal/mtawal/internal/disk"
	"github.com/mtawal/mtawal/internal/disk/faultdisk"
	"github.com/mtawal/mtawal/internal/disk/memdisk"
	"github.com/mtawal/mtawal/mailq"
)

// TestSnapshot_UnderLoad: copies that are made while mail comes and goes, folds run and
// segments are recycled and emptied. Each is the store as it was at one moment of the call.
func TestSnapshot_UnderLoad(t *testing.T) {
	o := tiny(memdisk.New(memdisk.Config{}))
	s := started(t, o)
	a := newAccount()
	ctx, stop := context.WithCancel(t.Context())
	defer stop()
	var wg sync.WaitGroup
	for p := range 4 {
		wg.Go(func() {
			for n := 0; ctx.Err() == nil; n++ {
				text := fmt.Sprintf("%d/%d %s", p, n, strings.Repeat("long ", 300+100*(n%5)))
				if n%40 == 7 {
					text += strings.Repeat("in pieces ", 8000)
				}
				if err := a.post(s, text); err != nil {
					t.Error(err)
					return
				}
			}
		})
	}
	for range 4 {
		wg.Go(func() {
			for n := 0; ; n++ {
				d, err := s.Claim(ctx, "q")
				if err != nil {
					return
				}
				text, err := textOf(d)
				switch {
				case err != nil:
				case n%10 == 3: // stays, so that segments become sparse
					err = d.SettleAll(context.Background(), Held)
				default:
					a.note(a.using, text)
					if err = d.SettleAll(context.Background(), Delivered); err == nil {
						a.note(a.used, text)
					}
				}
				if err != nil {
					t.Error(err)
					return
				}
			}
		})
	}
	wg.Go(func() {
		for ctx.Err() == nil {
			if err := s.Compact(ctx); err != nil && ctx.Err() == nil {
				t.Error(err)
			}
		}
	})
	for i := range 12 {
		dir := fmt.Sprint(copied, i)
		told := a.copy()
		if err := s.Snapshot(t.Context(), dir); err != nil {
			t.Fatal(err)
		}
		asked := a.copy()
		told.sent, told.using = asked.sent, asked.using
		verified(t, dir, o)
		c, err := Open(dir, o)
		if err != nil {
			t.Fatal(err)
		}
		released(t, c)
		found, err := waiting(c)
		if err := errors.Join(err, told.compare(found), c.Close()); err != nil {
			t.Fatalf("copy %d: %v", i, err)
		}
		for text, doubt := range found {
			if len(doubt) != 1 {
				t.Fatalf("copy %d: %.20q is not in doubt", i, text)
			}
		}
	}
	stop()
	wg.Wait()
	if st := s.Stats(); st.Segments > 200 {
		t.Errorf("%d segments: what was pinned is not given back", st.Segments)
	}
	ended(t, s)
	verified(t, spool, o)
}

// released ends the holds of all mail.
func released(t *testing.T, s *Store) {
	t.Helper()
	var b Batch
	for _, e := range allOf(t, s) {
		b.Edit = append(b.Edit, Edit{ID: e.ID, Outcomes: []Outcome{{Recipient: e.Recipient, Result: Released}}})
	}
	for part := range slices.Chunk(b.Edit, 100) {
		if _, err := s.Commit(t.Context(), Batch{Edit: part}); err != nil {
			t.Fatal(err)
		}
	}
}

// The checkpoint that a copy is folded from is not written over while it is read, however many are
// made meanwhile.
func TestSnapshot_TheBaseIsNotWrittenOver(t *testing.T) {
	disks := faultdisk.New(memdisk.New(memdisk.Config{}))
	o := tiny(disks)
	s := started(t, o)
	s.folds.keepRoom(true)
	want := make(map[string]bool)
	for i := range 300 {
		text := fmt.Sprint("mail ", i)
		posted(t, s, text)
		want[text] = true
	}
	checkpoint := func() {
		t.Helper()
		if err := s.Checkpoint(t.Context()); err != nil {
			t.Fatal(err)
		}
	}
	checkpoint()
	posted(t, s, "the last")
	want["the last"] = true
	reached, release := disks.Stall(disk.OpWriteAt, copyPrefix+"ckpt-")
	done := make(chan error, 1)
	go func() { done <- s.Snapshot(t.Context(), copied) }()
	<-reached
	for i := range 5 {
		s.folds.keepRoom(true)
		for j := range 20 * i { // longer each time
			posted(t, s, fmt.Sprint("later ", i, j))
		}
		checkpoint()
	}
	release()
	if err := <-done; err != nil {
		t.Fatal(err)
	}
	ended(t, s)
	verified(t, copied, o)
	c, err := Open(copied, o)
	if err != nil {
		t.Fatal(err)
	}
	defer ended(t, c)
	released(t, c)
	found, err := waiting(c)
	if err != nil {
		t.Fatal(err)
	}
	for text := range want {
		if found[text] == nil {
			t.Errorf("%q is not in the copy", text)
		}
	}
	if len(found) != len(want) {
		t.Errorf("%d mails are in the copy, want %d", len(found), len(want))
	}
}

// TestSnapshot_Pins: while a copy is made nothing that it needs is recycled, what it pins counts
// against the room, and as soon as it is copied it comes back.
func TestSnapshot_Pins(t *testing.T) {
	scenario(t, func(t *testing.T) {
		disks := faultdisk.New(memdisk.New(memdisk.Config{}))
		o := tiny(disks)
		o.claims = 0
		o.MaxBytes = 4 << 20
		s := started(t, o)
		sent := fill(t, s, "MaxBytes")
		reached, release := disks.Stall(disk.OpWriteAt, "copy-seg-")
		done := make(chan error, 1)
		go func() { done <- s.Snapshot(t.Context(), copied) }()
		<-reached
		for _, d := range inHand(t, s) {
			if err := d.SettleAll(t.Context(), Delivered); err != nil {
				t.Fatal(err)
			}
		}
		for range 3 {
			if err := s.Checkpoint(t.Context()); err != nil {
				t.Fatal(err)
			}
			time.Sleep(5 * spaceEvery)
		}
		if numbers := s.log.Numbers(); len(numbers) < 20 || numbers[0] != 1 {
			t.Errorf("while all is pinned the log has %v", numbers)
		}
		if why := reasons(s.Segments(), 2); !strings.Contains(why, string(ReasonSnapshot)) {
			t.Errorf("segment 2 is there because of %q", why)
		}
		if p := s.Stats().OldestPin; p.Kind != mailq.PinSnapshot {
			t.Errorf("the oldest pin is %+v", p)
		}
		var more []ID // what the checkpoints have become smaller by
		for err := error(nil); err == nil; {
			var id ID
			if id, err = s.Enqueue(t.Context(), letter()); err == nil {
				more = append(more, id)
			} else if !errors.Is(err, ErrFull) {
				t.Fatal(err)
			}
		}
		if len(more) > sent/4 {
			t.Errorf("all room of %d messages is pinned, and %d more found some", sent, len(more))
		}
		for _, id := range more {
			if err := s.MarkUsed(t.Context(), id, All); err != nil {
				t.Fatal(err)
			}
		}
		release()
		if err := <-done; err != nil {
			t.Fatal(err)
		}
		time.Sleep(5 * spaceEvery)
		if err := s.Compact(t.Context()); err != nil {
			t.Fatal(err)
		}
		time.Sleep(5 * spaceEvery)
		if numbers := s.log.Numbers(); len(numbers) > 5 {
			t.Errorf("when the copy is made the log still has %v", numbers)
		}
		posted(t, s, "room again")
		c, err := Open(copied, o)
		if err != nil {
			t.Fatal(err)
		}
		if st := c.Stats(); st.WorkQueueLength != int64(sent) || st.InDoubt != int64(sent) {
			t.Errorf("of %d messages the copy has: %+v", sent, st)
		}
		if err := c.Close(); err != nil {
			t.Fatal(err)
		}
		ended(t, s)
	})
}
