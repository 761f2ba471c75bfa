package main

import (
	"os"
	"sync/atomic"
	"testing"
	"time"

	"github.com/mtawal/mtawal/mailq"
)

// entry returns the one recipient there is.
func entry(t *testing.T, store mailq.Store) mailq.Entry {
	t.Helper()
	for e, err := range store.Entries(t.Context(), mailq.Filter{}) {
		if err != nil {
			t.Fatal(err)
		}
		return e
	}
	t.Fatal("the store is empty")
	return mailq.Entry{}
}

// Each 4xx is kept as the note, and the wait grows.
func TestDeferralsGrow(t *testing.T) {
	hop := &scriptedHop{data: func(n int) string {
		return []string{"", "451 4.7.1 greylisted", "452 4.2.2 mailbox full", "250 OK"}[n]
	}}
	addr, _, store := relayTo(t, hop, "-retry-base", "1h", "-retry-max", "3h")
	began := time.Now()
	send(t, addr, "alice@local.test", "bob@far.test")
	for i, reply := range []string{"451 4.7.1 greylisted", "452 4.2.2 mailbox full"} {
		attempts := i + 1
		eventually(t, "it was tried", func() bool {
			e := entry(t, store)
			return e.Attempts == attempts && e.State == mailq.InDeferral
		})
		e := entry(t, store)
		want(t, "note", string(e.Note), reply)
		if wait := e.NotBefore.Sub(began); wait < time.Duration(attempts)*time.Hour {
			t.Errorf("after %d attempts it is due after %v", attempts, wait)
		}
		if err := store.Flush(t.Context(), e.Queue); err != nil {
			t.Fatal(err)
		}
	}
	waitEmpty(t, store)
	want(t, "copies", receivedBy(t, hop), map[string]int{"bob@far.test": 1})
}

// A dead host costs one record, however much waits for it, and holds nothing else up.
func TestDeadHost(t *testing.T) {
	const mails = 40
	var dead atomic.Bool
	dead.Store(true)
	hop, other := &scriptedHop{greet: func() string {
		if dead.Load() {
			return "554 5.3.2 no service"
		}
		return "220 hop.test"
	}}, &scriptedHop{}
	hop.start(t)
	other.start(t)
	cfg := testConfig(t, "-next-hop", hop.addr, "-route", "well.test="+other.addr, "-workers", "1", "-retry-base", "1h", "-retry-max", "2h")
	store := openStore(t, cfg)
	accept, stopAccepting := startServer(t, store, "-next-hop", hop.addr)
	for i := range mails { // of two queues, and so of one group
		send(t, accept, "alice@local.test", []string{"bob@far.test", "carol@away.test"}[i%2])
	}
	send(t, accept, "alice@local.test", "dora@well.test")
	if err := stopAccepting(); err != nil {
		t.Fatal(err)
	}

	flush := make(chan os.Signal)
	_, stop := startStoppable(t, cfg, store, func(r *relay) { r.flush = flush })
	eventually(t, "the other host has its mail, and the dead one was asked", func() bool {
		s := store.Stats()
		return s.Used.Delivered == 1 && s.Deferred == 1 && s.Claimed == 0
	})
	s := store.Stats()
	want(t, "pending", s.Pending, mails-1)
	if _, connections := hop.got(); connections != 1 {
		t.Errorf("the dead host was asked %d times, want 1", connections)
	}

	dead.Store(false)
	flush <- os.Interrupt
	waitEmpty(t, store)
	want(t, "used", store.Stats().Used, mailq.UsedCounts{Delivered: mails + 1})
	want(t, "copies", receivedBy(t, hop), map[string]int{"bob@far.test": mails / 2, "carol@away.test": mails / 2})
	if err := stop(); err != nil {
		t.Error(err)
	}
}

// Its pause grows, and ends when it is reached.
func TestOutagesGrow(t *testing.T) {
	c := &stubConsumer{}
	s := newSites(testConfig(t, "-next-hop", "a:1", "-retry-base", "1h", "-retry-max", "3h", "-host-limit", "a:1=2"), c)
	want(t, "limit", c.limits["a:1"], 2)
	for i, hours := range []time.Duration{1, 2, 3, 3} {
		before := time.Now()
		s.failed("a:1", "451 no")
		s.failed("a:1", "451 no") // an attempt that had begun before
		if got := c.paused["a:1"].Sub(before).Round(time.Minute); got != hours*time.Hour {
			t.Errorf("outage %d: paused for %v, want %dh", i, got, hours)
		}
		want(t, "reply", s.lastReply("a:1"), "451 no")
		s.down["a:1"].until = time.Time{} // that time is over
	}
	s.reached("a:1")
	want(t, "still paused", c.paused["a:1"].IsZero(), true)
	want(t, "reply", s.lastReply("a:1"), "")
}

// Queues join the group of their host, and what is remembered of them is bounded.
func TestSitesForgetQueues(t *testing.T) {
	c := &stubConsumer{}
	s := newSites(testConfig(t, "-next-hop", "a:1"), c)
	want(t, "local mail has no host", s.join("local"), true)
	want(t, "the first claim", s.join("smtp:x"), false)
	want(t, "the second claim", s.join("smtp:x"), true)
	for i := range 3 * joinedMax {
		s.join("smtp:" + mailq.ID(i+1).String())
	}
	if len(c.groups) > joinedMax || len(s.joined) > joinedMax {
		t.Errorf("%d groups are set, %d known", len(c.groups), len(s.joined))
	}
}

// stubConsumer remembers what it is told.
type stubConsumer struct {
	mailq.Consumer
	limits map[string]int
	paused map[string]time.Time
	groups map[string]string
}

func (c *stubConsumer) Limit(group string, n int) { put(&c.limits, group, n) }

func (c *stubConsumer) Pause(group string, until time.Time) { put(&c.paused, group, until) }

func (c *stubConsumer) SetGroup(queue, group string) {
	put(&c.groups, queue, group)
	if group == "" {
		delete(c.groups, queue)
	}
}

func put[V any](m *map[string]V, key string, v V) {
	if *m == nil {
		*m = make(map[string]V)
	}
	(*m)[key] = v
}
