package wal

import (
	"context"
	"errors"
	"testing"
	"testing/synctest"
	"time"

	"github.com/mtawal/mtawal/internal/disk"
	"github.com/mtawal/mtawal/internal/disk/faultdisk"
	"github.com/mtawal/mtawal/internal/disk/memdisk"
	"github.com/mtawal/mtawal/segment"
)

// later is the outcome of a recipient that is to be tried again.
func later(i int) []Outcome {
	return []Outcome{{Recipient: i, Result: Deferred, Until: time.Now().Add(time.Hour)}}
}

// Rule 6.2. "Exactly the started and unsettled recipients are in doubt", also where one frame settles recipients
// of a run one after the other, and the kill comes between two stores into the table.
func TestScenario_KilledWhileOneFrameEndsPartsOfARun(t *testing.T) {
	scenario(t, func(t *testing.T) {
		fs := memdisk.New(memdisk.Config{CopyOnWrite: true}) // whose stores are operations
		s := started(t, tiny(fs))
		if _, err := s.Enqueue(t.Context(), fanout("mail", 4)); err != nil {
			t.Fatal(err)
		}
		d := taken(t, s)
		var images []*memdisk.FS
		fs.OnOp(func(op disk.Op, name string) {
			if op == disk.OpWriteAt && name == claimsName { // the frame is durable by then
				images = append(images, fs.Clone())
			}
		})
		b := Batch{Settle: []Settlement{{Delivery: d, Outcomes: later(0)}}, Edit: []Edit{{ID: d.ID, Outcomes: []Outcome{{Recipient: 1, Result: Delivered}}}}}
		if _, err := s.Commit(t.Context(), b); err != nil {
			t.Fatal(err)
		}
		fs.OnOp(nil)
		if len(images) < 10 {
			t.Fatalf("%d stores into the table", len(images))
		}
		for _, im := range images {
			im.Kill()
			s := started(t, tiny(im))
			doubts(t, s, "mail", 2, 3)
			ended(t, s)
		}
		ended(t, s)
	})
}

// gapped is a message of which queue q has two recipients that are not neighbours: they take two slots.
func gapped(text string) Message {
	m := fanout(text, 3)
	m.Recipients[1].Queue = "elsewhere"
	return m
}

// Whoever waits for slots gets those that a delivery gives back before it ends.
func TestScenario_SlotsComeBackFromADeliveryUnderWay(t *testing.T) {
	scenario(t, func(t *testing.T) {
		o := tiny(memdisk.New(memdisk.Config{}))
		o.claims = 5
		s := started(t, o)
		for _, m := range []Message{gapped("first"), gapped("second")} {
			if _, err := s.Enqueue(t.Context(), m); err != nil {
				t.Fatal(err)
			}
		}
		c, err := s.Consumer(ConsumerOptions{Queues: []string{"q"}, MaxRecipients: 4})
		if err != nil {
			t.Fatal(err)
		}
		first, err := c.Next(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
		defer cancel()
		got := make(chan error, 1)
		go func() {
			_, err := c.Next(ctx)
			got <- err
		}()
		synctest.Wait()
		select {
		case err := <-got:
			t.Fatalf("it did not wait for slots: %v", err)
		default:
		}
		if err := first.Settle(t.Context(), later(2)); err != nil {
			t.Fatal(err)
		}
		if err := <-got; err != nil {
			t.Errorf("a slot is free, and nobody said so: %v", err)
		}
		ended(t, s)
	})
}

// A start takes the slots that it needs and no more, and one that there can be no note of is none.
func TestScenario_StartTakesWhatItNeeds(t *testing.T) {
	scenario(t, func(t *testing.T) {
		fs := faultdisk.New(memdisk.New(memdisk.Config{CopyOnWrite: true}))
		o := tiny(fs)
		o.claims = 4
		s := started(t, o)
		for _, m := range []Message{fanout("four", 4), mailing("one")} {
			if _, err := s.Enqueue(t.Context(), m); err != nil {
				t.Fatal(err)
			}
		}
		c, err := s.Consumer(ConsumerOptions{ManualStart: true, MaxRecipients: 4})
		if err != nil {
			t.Fatal(err)
		}
		four, err := c.Next(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		one, err := c.Next(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		if err := one.Start(t.Context()); err != nil {
			t.Fatal(err)
		}
		if err := four.Start(t.Context()); !errors.Is(err, ErrFull) {
			t.Errorf("four with three slots left: %v", err)
		}
		if err := four.Start(t.Context(), 0, 2, 3); err != nil {
			t.Errorf("three with three slots left: %v", err)
		}
		fs.Set(faultdisk.Plan{N: 1, Forever: true, Only: []disk.Op{disk.OpWriteAt}, Name: claimsName})
		if err := four.Start(t.Context(), 1); !errors.Is(err, ErrFailed) {
			t.Errorf("a slot that can't be written: %v", err)
		}
		if err := four.Start(t.Context(), 1); !errors.Is(err, ErrFailed) {
			t.Errorf("the table has failed: %v", err)
		}
		if s.Close() == nil {
			t.Error("the table has failed, and Close says nothing")
		}
	})
}

// A claim table of a later version is refused, and not taken for one that a power cut left.
func TestScenario_ClaimTableOfALaterVersion(t *testing.T) {
	scenario(t, func(t *testing.T) {
		fs := memdisk.New(memdisk.Config{})
		s := started(t, tiny(fs))
		posted(t, s, "mail")
		taken(t, s)
		fs.Kill()
		d, err := fs.OpenDir(spool, false)
		if err != nil {
			t.Fatal(err)
		}
		f, err := d.Open(claimsName, true)
		if err != nil {
			t.Fatal(err)
		}
		version := func(v byte) {
			t.Helper()
			if _, err := f.WriteAt([]byte{v}, 8); err != nil {
				t.Fatal(err)
			}
		}
		version(claimsVersion + 1)
		if _, err := Open(spool, tiny(fs)); !errors.Is(err, segment.ErrVersion) {
			t.Errorf("opening it: %v", err)
		}
		version(claimsVersion)
		s = started(t, tiny(fs))
		doubts(t, s, "mail", 0)
		ended(t, s)
		if err := errors.Join(f.Close(), d.Close()); err != nil {
			t.Fatal(err)
		}
	})
}
