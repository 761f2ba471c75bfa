package main

import (
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
