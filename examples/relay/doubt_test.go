package main

import (
	"log/slog"
	"os"
	"path/filepath"
	"testing"

	"github.com/mtawal/mtawal/mailq"
)

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
	r := &relay{cfg: cfg, store: store, box: maildir(cfg.maildir), log: slog.New(slog.DiscardHandler)}
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
