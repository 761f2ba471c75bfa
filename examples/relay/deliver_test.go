package main

import (
	"context"
	"log/slog"
	"testing"
	"time"

	"github.com/mtawal/mtawal/mailq"
)

func TestBackoff(t *testing.T) {
	for attempts, want := range []time.Duration{1, 2, 4, 8, 10, 10} {
		if got := backoff(time.Minute, 10*time.Minute, attempts); got != want*time.Minute {
			t.Errorf("after %d attempts %v, want %v", attempts, got, want*time.Minute)
		}
	}
	if got := backoff(time.Nanosecond, 1<<62, 1<<30); got != 1<<62 {
		t.Errorf("after many attempts %v", got)
	}
}

// fullStore has room for outcomes, not for new mail.
type fullStore struct {
	mailq.Store
	settled []mailq.Outcome
}

func (s *fullStore) NewID() mailq.ID { return 9 }

func (s *fullStore) Commit(_ context.Context, b mailq.Batch) ([]mailq.ID, error) {
	if len(b.Enqueue) > 0 {
		return nil, &mailq.FullError{Reason: "disk"}
	}
	for _, st := range b.Settle {
		s.settled = append(s.settled, st.Outcomes...)
	}
	return nil, nil
}

type noClaim struct{ mailq.Claim }

func (noClaim) Release() {}

func (noClaim) Start(context.Context, []int) error { return nil }

func (noClaim) Context() context.Context { return context.Background() }

func TestFailureWaitsForRoomForItsBounce(t *testing.T) {
	store := &fullStore{}
	r := &relay{cfg: testConfig(t), store: store, log: slog.New(slog.DiscardHandler)}
	env, err := envelope{From: "alice@local.test"}.encode()
	if err != nil {
		t.Fatal(err)
	}
	d := mailq.NewDelivery(mailq.Delivery{ID: 7, Envelope: env, Body: newBody("a: b\r\n\r\n")}, noClaim{})
	before := time.Now()
	r.settle(d, []verdict{
		{slot: mailq.Slot{Index: 0}, result: mailq.Delivered, reply: ""},
		{slot: mailq.Slot{Index: 1}, result: mailq.Failed, reply: "550 no"},
		{slot: mailq.Slot{Index: 2}, result: mailq.Expired, reply: "550 no"},
		{slot: mailq.Slot{Index: 3}, result: mailq.Replaced, replace: []mailq.Recipient{{Queue: "local"}}},
	})
	if len(store.settled) != 4 {
		t.Fatalf("%d outcomes, want 4", len(store.settled))
	}
	if o := store.settled[0]; o.Result != mailq.Delivered || o.Recipient != 0 {
		t.Errorf("the delivered one: %+v", o)
	}
	for i, note := range []string{1: "550 no", 2: "550 no", 3: ""} {
		if o := store.settled[i]; i > 0 && (o.Result != mailq.Deferred || o.Recipient != i || string(o.Note) != note || !o.Until.After(before) || o.Replace != nil) {
			t.Errorf("recipient %d: %+v, want it deferred", i, o)
		}
	}
}
