package main

import (
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/mtawal/mtawal/mailq"
)

// relayTo runs a relay in front of hop.
func relayTo(t *testing.T, hop *scriptedHop, args ...string) (addr string, cfg config, store mailq.Store) {
	t.Helper()
	hop.start(t)
	cfg = testConfig(t, append([]string{"-next-hop", hop.addr}, args...)...)
	store = openStore(t, cfg)
	return startRelay(t, cfg, store), cfg, store
}

func send(t *testing.T, addr, from string, to ...string) {
	t.Helper()
	c := dial(t, addr)
	if err := submit(c, from, to, "Subject: test\r\n\r\nthe body\r\n.\r\n"); err != nil {
		t.Fatal(err)
	}
	if err := c.Quit(); err != nil {
		t.Fatal(err)
	}
}

func waitEmpty(t *testing.T, store mailq.Store) {
	t.Helper()
	eventually(t, "the queues are empty", func() bool { return store.Stats().WorkQueueLength == 0 })
}

// receivedBy counts the copies that the hop took for each recipient, and checks
// their content.
func receivedBy(t *testing.T, hop *scriptedHop) map[string]int {
	t.Helper()
	count := make(map[string]int)
	mails, _ := hop.got()
	for _, m := range mails {
		if !strings.HasPrefix(m.content, "Received: from") || !strings.HasSuffix(m.content, "Subject: test\n\nthe body\n.\n") {
			t.Errorf("the next hop got %q", m.content)
		}
		for _, a := range m.to {
			count[a]++
		}
	}
	return count
}

func want(t *testing.T, what string, got, want any) {
	t.Helper()
	if g, w := fmt.Sprint(got), fmt.Sprint(want); g != w {
		t.Errorf("%s: %s, want %s", what, g, w)
	}
}

func TestPartialAcceptance(t *testing.T) {
	tries := 0 // of later@, all over one queue and so one worker at a time
	hop := &scriptedHop{rcpt: func(a string) string {
		switch {
		case a == "never@far.test":
			return "550 5.1.1 no such user"
		case a == "later@far.test":
			if tries++; tries <= 2 {
				return "450 4.2.1 mailbox busy"
			}
		}
		return "250 OK"
	}}
	addr, cfg, store := relayTo(t, hop)
	send(t, addr, "alice@local.test", "now@far.test", "later@far.test", "never@far.test")
	waitEmpty(t, store)

	want(t, "copies", receivedBy(t, hop), map[string]int{"now@far.test": 1, "later@far.test": 1})
	want(t, "used", store.Stats().Used, mailq.UsedCounts{Delivered: 3, Failed: 1}) // with the bounce
	box := readMaildir(t, cfg.maildir)
	if len(box) != 1 {
		t.Fatalf("%d bounces, want 1", len(box))
	}
	r := parseReport(t, rawMail(box[0]))
	if len(r.recipients) != 1 {
		t.Fatalf("the bounce is about %d recipients, want 1", len(r.recipients))
	}
	want(t, "bounced", r.recipients[0].Get("Final-Recipient"), "rfc822; never@far.test")
}

// rawMail puts a stored message together again.
func rawMail(m stored) []byte {
	var b strings.Builder
	for name, values := range m.header {
		for _, v := range values {
			fmt.Fprintf(&b, "%s: %s\r\n", name, v)
		}
	}
	return []byte(b.String() + "\r\n" + m.body)
}

func TestTemporaryFailureThenSuccess(t *testing.T) {
	hop := &scriptedHop{data: func(n int) string {
		if n <= 3 {
			return "451 4.7.1 greylisted"
		}
		return "250 OK"
	}}
	addr, cfg, store := relayTo(t, hop)
	send(t, addr, "alice@local.test", "bob@far.test")
	waitEmpty(t, store)
	want(t, "copies", receivedBy(t, hop), map[string]int{"bob@far.test": 1})
	want(t, "bounces", len(readMaildir(t, cfg.maildir)), 0)
}

// What was said stays with the recipient, for the bounce that may follow days later.
func TestTemporaryFailureIsNoted(t *testing.T) {
	hop := &scriptedHop{rcpt: func(string) string { return "450-4.2.1 mailbox\r\n450 4.2.1 busy" }}
	addr, _, store := relayTo(t, hop, "-retry-base", "1h", "-retry-max", "2h")
	before := time.Now()
	send(t, addr, "alice@local.test", "bob@far.test")
	eventually(t, "the recipient is deferred", func() bool { return store.Stats().Deferred == 1 })
	for e, err := range store.Entries(t.Context(), mailq.Filter{}) {
		if err != nil {
			t.Fatal(err)
		}
		want(t, "note", string(e.Note), "450 4.2.1 mailbox busy")
		want(t, "queue", e.Queue, "smtp:far.test")
		want(t, "attempts", e.Attempts, 1)
		want(t, "in doubt", e.InDoubt, false)
		if wait := e.NotBefore.Sub(before); wait < time.Hour || wait > 2*time.Hour {
			t.Errorf("due in %v, want an hour", wait)
		}
	}
}

func TestPermanentFailureBounces(t *testing.T) {
	for _, tt := range []struct {
		name string
		hop  *scriptedHop
	}{
		{"RCPT", &scriptedHop{rcpt: func(string) string { return "550 5.1.1 no such user" }}},
		{"final dot", &scriptedHop{data: func(int) string { return "554 5.1.1 no such user" }}},
	} {
		t.Run(tt.name, func(t *testing.T) {
			addr, cfg, store := relayTo(t, tt.hop)
			send(t, addr, "alice@local.test", "bob@far.test")
			waitEmpty(t, store)
			want(t, "used", store.Stats().Used, mailq.UsedCounts{Delivered: 1, Failed: 1})
			box := readMaildir(t, cfg.maildir)
			if len(box) != 1 {
				t.Fatalf("%d bounces, want 1", len(box))
			}
			want(t, "sender of the bounce", box[0].header.Get("Return-Path"), "<>")
			want(t, "recipient of the bounce", box[0].header.Get("Delivered-To"), "alice@local.test")
			r := parseReport(t, rawMail(box[0]))
			want(t, "status", r.recipients[0].Get("Status"), "5.1.1")
			contains(t, "the bounce", r.original, "Subject: test")
		})
	}
}

func TestNullSenderGetsNoBounce(t *testing.T) {
	hop := &scriptedHop{rcpt: func(string) string { return "550 5.1.1 no such user" }}
	addr, cfg, store := relayTo(t, hop)
	send(t, addr, "", "bob@far.test")
	waitEmpty(t, store)
	want(t, "used", store.Stats().Used, mailq.UsedCounts{Failed: 1})
	want(t, "bounces", len(readMaildir(t, cfg.maildir)), 0)
}

// Nobody knows whether it was delivered: the store says so, and it is sent again.
func TestCutAfterTheFinalDot(t *testing.T) {
	hop := &scriptedHop{data: func(n int) string {
		if n == 1 {
			return cut
		}
		return "250 OK"
	}}
	addr, _, store := relayTo(t, hop)
	send(t, addr, "alice@local.test", "bob@far.test")
	waitEmpty(t, store)
	want(t, "copies", receivedBy(t, hop), map[string]int{"bob@far.test": 2})
}

func TestCutAfterTheFinalDotIsInDoubt(t *testing.T) {
	hop := &scriptedHop{data: func(int) string { return cut }}
	addr, _, store := relayTo(t, hop, "-retry-base", "1h", "-retry-max", "2h")
	send(t, addr, "alice@local.test", "bob@far.test")
	eventually(t, "the recipient is in doubt and waits", func() bool {
		s := store.Stats()
		return s.InDoubt == 1 && s.Deferred == 1
	})
	want(t, "copies", receivedBy(t, hop), map[string]int{"bob@far.test": 1})
}

// Half a message is none: no doubt, and one copy.
func TestCutBeforeTheFinalDotIsNoDoubt(t *testing.T) {
	hop := &scriptedHop{noDot: 1}
	addr, _, store := relayTo(t, hop)
	send(t, addr, "alice@local.test", "bob@far.test")
	waitEmpty(t, store)
	want(t, "copies", receivedBy(t, hop), map[string]int{"bob@far.test": 1})
}

func TestNextHopDown(t *testing.T) {
	hop := &scriptedHop{}
	hop.start(t)
	cfg := testConfig(t, "-next-hop", "127.0.0.1:1", "-retry-base", "1h", "-retry-max", "2h")
	store := openStore(t, cfg)
	addr := startRelay(t, cfg, store)
	send(t, addr, "alice@local.test", "bob@far.test")
	eventually(t, "the recipient is deferred", func() bool { return store.Stats().Deferred == 1 })
	want(t, "in doubt", store.Stats().InDoubt, 0)
}

// One connection carries what waits for the same destination.
func TestConnectionIsReused(t *testing.T) {
	const mails = 10
	hop := &scriptedHop{}
	hop.start(t)
	cfg := testConfig(t, "-next-hop", hop.addr, "-workers", "1")
	store := openStore(t, cfg)
	env, err := envelope{From: "alice@local.test"}.encode()
	if err != nil {
		t.Fatal(err)
	}
	for i := range mails {
		if _, err := store.Enqueue(t.Context(), mailq.Message{
			Envelope:   env,
			Body:       []byte("Received: from\r\nSubject: test\r\n\r\nthe body\r\n.\r\n"),
			Recipients: []mailq.Recipient{{Queue: cfg.queueFor("r@far.test", "far.test"), Address: fmt.Sprintf("r%d@far.test", i)}},
		}); err != nil {
			t.Fatal(err)
		}
	}
	startRelay(t, cfg, store)
	waitEmpty(t, store)
	want(t, "recipients", len(receivedBy(t, hop)), mails)
	if _, connections := hop.got(); connections != 1 {
		t.Errorf("%d connections for %d mails of one queue, want 1", connections, mails)
	}
}

// A quoted local part can't become a parameter of the command.
func TestQuotedLocalPart(t *testing.T) {
	hop := &scriptedHop{}
	addr, _, store := relayTo(t, hop)
	talk(t, addr, "EHLO client.test", "250", `MAIL FROM:<alice@local.test>`, "250", `RCPT TO:<"x y"@far.test>`, "250",
		"DATA", "354", "Subject: test\n\nthe body\n..\n.", "250")
	waitEmpty(t, store)
	want(t, "copies", receivedBy(t, hop), map[string]int{`"x y"@far.test`: 1})
}

// Stopping in the middle of a delivery is bounded, and nothing is lost by it.
func TestStopDuringDelivery(t *testing.T) {
	stuck := make(chan struct{})
	release := make(chan struct{})
	hop := &scriptedHop{data: func(n int) string {
		if n == 1 {
			close(stuck)
			<-release
		}
		return "250 OK"
	}}
	hop.start(t)
	t.Cleanup(func() { close(release) }) // before the hop's own
	cfg := testConfig(t, "-next-hop", hop.addr, "-stop-timeout", "200ms")
	t.Run("first life", func(t *testing.T) {
		store := openStore(t, cfg)
		addr, stop := startStoppable(t, cfg, store)
		send(t, addr, "alice@local.test", "bob@far.test")
		<-stuck
		if err := stop(); err == nil {
			t.Error("a delivery was under way, and stopping says that all was well")
		}
	})
	store := openStore(t, cfg)
	want(t, "in doubt after the stop", store.Stats().InDoubt, 1)
	startRelay(t, cfg, store)
	waitEmpty(t, store)
	mails, _ := hop.got()
	if len(mails) == 0 {
		t.Error("nothing arrived")
	}
}
