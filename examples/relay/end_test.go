package main

import (
	"os"
	"path/filepath"
	"sync/atomic"
	"testing"
	"time"

	"github.com/mtawal/mtawal/mailq"
)

// Mail that is too old goes back to its sender, with the last reply.
func TestExpiryBounceQuotesTheLastReply(t *testing.T) {
	for expire := 2 * time.Second; ; expire *= 2 {
		var tries atomic.Int32
		hop := &scriptedHop{rcpt: func(string) string { tries.Add(1); return "450 4.2.1 mailbox busy" }}
		addr, cfg, store := relayTo(t, hop, "-expire", expire.String(), "-retry-base", "1h", "-retry-max", "2h")
		send(t, addr, "alice@local.test", "bob@far.test")
		waitEmpty(t, store)
		if tries.Load() == 0 && expire < time.Minute {
			continue // a machine too slow for a single try
		}
		want(t, "used", store.Stats().Used, mailq.UsedCounts{Delivered: 1, Expired: 1})
		box := readMaildir(t, cfg.maildir)
		if len(box) != 1 {
			t.Fatalf("%d bounces, want 1", len(box))
		}
		r := parseReport(t, rawMail(box[0]))
		want(t, "status", r.recipients[0].Get("Status"), "4.4.7")
		want(t, "diagnostic", r.recipients[0].Get("Diagnostic-Code"), "smtp; 450 4.2.1 mailbox busy")
		contains(t, "text", r.text, "given up; the last answer was:\r\n    450 4.2.1 mailbox busy")
		return
	}
}

// Mail never tried tells why: its host was down. A bounce that expires ends.
func TestExpiryWithoutATry(t *testing.T) {
	hop := &scriptedHop{greet: func() string { return "554 5.3.2 no service" }}
	hop.start(t)
	cfg := testConfig(t, "-next-hop", hop.addr, "-retry-base", "1h", "-retry-max", "2h", "-workers", "1")
	store := openStore(t, cfg)
	accept, stopAccepting := startServer(t, store, "-next-hop", hop.addr, "-expire", "1ns")
	addr := startRelay(t, cfg, store)
	send(t, addr, "alice@local.test", "first@far.test")
	eventually(t, "the host was asked", func() bool { return store.Stats().Deferred == 1 })
	send(t, accept, "alice@local.test", "bob@far.test")
	send(t, accept, "", "carol@far.test") // no bounce of a bounce
	eventually(t, "both are given up", func() bool { return store.Stats().Used == mailq.UsedCounts{Delivered: 1, Expired: 2} })
	if err := stopAccepting(); err != nil {
		t.Fatal(err)
	}
	box := readMaildir(t, cfg.maildir)
	if len(box) != 1 {
		t.Fatalf("%d bounces, want 1", len(box))
	}
	r := parseReport(t, rawMail(box[0]))
	want(t, "who", r.recipients[0].Get("Final-Recipient"), "rfc822; bob@far.test")
	want(t, "diagnostic", r.recipients[0].Get("Diagnostic-Code"), "smtp; 554 5.3.2 no service")
}

// One recipient is removed by an operator while the mail is on its way. The others are
// not sent again for it.
func TestRemovedDuringDelivery(t *testing.T) {
	var store mailq.Store
	ready := make(chan struct{})
	hop := &scriptedHop{data: func(int) string {
		<-ready
		for e, err := range store.Entries(t.Context(), mailq.Filter{}) {
			if err != nil || e.Address != "bob@far.test" {
				continue
			}
			if _, err := store.Commit(t.Context(), mailq.Batch{Edit: []mailq.Edit{
				{ID: e.ID, Outcomes: []mailq.Outcome{{Recipient: e.Recipient, Result: mailq.Removed}}},
			}}); err != nil {
				t.Error(err)
			}
		}
		return "250 OK"
	}}
	addr, _, s := relayTo(t, hop)
	store = s
	close(ready)
	send(t, addr, "alice@local.test", "bob@far.test", "carol@far.test", "dora@far.test")
	waitEmpty(t, store)
	want(t, "used", store.Stats().Used, mailq.UsedCounts{Delivered: 2, Removed: 1})
	want(t, "copies", receivedBy(t, hop), map[string]int{"bob@far.test": 1, "carol@far.test": 1, "dora@far.test": 1})
}

// Mail of which nobody knows whether it arrived waits for an operator where that is
// wanted.
func TestDoubtIsHeld(t *testing.T) {
	hop := &scriptedHop{data: func(n int) string {
		if n == 1 {
			return cut
		}
		return "250 OK"
	}}
	addr, _, store := relayTo(t, hop, "-hold-doubt", "far.test")
	send(t, addr, "alice@local.test", "bob@far.test")
	eventually(t, "it is held in doubt", func() bool { s := store.Stats(); return s.Held == 1 && s.InDoubt == 1 })
	want(t, "copies", receivedBy(t, hop), map[string]int{"bob@far.test": 1})
	e := entry(t, store)
	if _, err := store.Commit(t.Context(), mailq.Batch{Edit: []mailq.Edit{
		{ID: e.ID, Outcomes: []mailq.Outcome{{Recipient: mailq.All, Result: mailq.Released}}},
	}}); err != nil {
		t.Fatal(err)
	}
	waitEmpty(t, store)
	want(t, "copies", receivedBy(t, hop), map[string]int{"bob@far.test": 2})
}

// The relay died after it had delivered two of three mails, one of which was read
// since. At start it finds them by their tokens.
func TestDoubtIsResolvedAtStart(t *testing.T) {
	cfg := testConfig(t)
	t.Run("first life", func(t *testing.T) {
		store := openStore(t, cfg)
		addr, _ := startServer(t, store)
		for _, a := range []string{"new@local.test", "cur@local.test", "lost@local.test"} {
			send(t, addr, "alice@far.test", a)
		}
		box, err := openMaildir(cfg.maildir)
		if err != nil {
			t.Fatal(err)
		}
		c, err := store.Consumer(mailq.ConsumerOptions{})
		if err != nil {
			t.Fatal(err)
		}
		for range 3 {
			d, err := c.Next(t.Context())
			if err != nil {
				t.Fatal(err)
			}
			if s := d.Recipients[0]; s.Address != "lost@local.test" {
				if err := box.deliver(envelope{From: "alice@far.test"}, d, s); err != nil {
					t.Fatal(err)
				}
				if name := mailName(d.Token, s.Address); s.Address == "cur@local.test" {
					move("new/"+name, "cur/"+name+":2,S")(t, cfg.maildir)
				}
			}
		}
	}) // closed with the claims out
	store := openStore(t, cfg)
	want(t, "in doubt after the end", store.Stats().InDoubt, 3)
	r := &relay{cfg: cfg, store: store, box: maildir(cfg.maildir), log: discard}
	if err := r.resolveDoubt(t.Context()); err != nil {
		t.Fatal(err)
	}
	s := store.Stats()
	want(t, "in doubt, delivered", []int64{s.InDoubt, s.Used.Delivered}, []int64{1, 2})
	startRelay(t, cfg, store)
	waitEmpty(t, store)
	for _, sub := range []string{"new", "cur"} {
		files, err := os.ReadDir(filepath.Join(cfg.maildir, sub))
		if err != nil {
			t.Fatal(err)
		}
		want(t, "mails in "+sub, len(files), map[string]int{"new": 2, "cur": 1}[sub])
	}
}

func TestDamagedListFile(t *testing.T) {
	for _, content := range []string{"nobody: a@b", "a@b: c", "a@b: c@d,", "a@b"} {
		file := filepath.Join(t.TempDir(), "lists")
		if err := os.WriteFile(file, []byte("# lists\n\n"+content+"\n"), 0o600); err != nil {
			t.Fatal(err)
		}
		if _, err := parseFlags([]string{"-lists", file}, t.Output()); err == nil {
			t.Errorf("%q is taken for a list", content)
		} else {
			contains(t, "error", err.Error(), "line 3")
		}
	}
}

// A list is replaced by its members, each once, those of lists in it too.
func TestList(t *testing.T) {
	file := filepath.Join(t.TempDir(), "lists")
	if err := os.WriteFile(file, []byte("team@local.test: bob@local.test, all@local.test\nall@local.test: TEAM@local.test, bob@local.test, carol@far.test\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	hop := &scriptedHop{}
	addr, cfg, store := relayTo(t, hop, "-lists", file)
	send(t, addr, "alice@local.test", "Team@local.test")
	waitEmpty(t, store)
	want(t, "used", store.Stats().Used, mailq.UsedCounts{Delivered: 2, Replaced: 1})
	want(t, "copies at the hop", receivedBy(t, hop), map[string]int{"carol@far.test": 1})
	want(t, "mails in the Maildir", len(readMaildir(t, cfg.maildir)), 1)
}

// Priority goes with the message; mail of the null sender goes behind.
func TestPriority(t *testing.T) {
	store := &stubStore{}
	addr, _ := startServer(t, store)
	for i, tt := range []struct {
		from, to string
		want     int8
	}{{"a@local.test", "<b@local.test>", 0}, {"", "<b@local.test>", bouncePriority}, {"a@local.test", "<b@local.test> MT-PRIORITY=4", 4}} {
		talk(t, addr, "EHLO client.test", "250", "MAIL FROM:<"+tt.from+">", "250", "RCPT TO:"+tt.to, "250", "DATA", "354", "a: b\n.", "250")
		want(t, "priority", store.messages()[i].Priority, tt.want)
	}
}
