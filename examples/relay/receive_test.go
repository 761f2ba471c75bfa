package main

import (
	"bytes"
	"fmt"
	"net/textproto"
	"slices"
	"strings"
	"testing"
	"testing/iotest"

	"github.com/mtawal/mtawal/mailq"
	"github.com/mtawal/mtawal/wal"
)

// Refused ones among the recipients do not keep the others from their mail.
func TestSomeRecipientsRefused(t *testing.T) {
	addr, cfg, store := relayTo(t, &scriptedHop{})
	talk(t, addr, "EHLO client.test", "250", "MAIL FROM:<alice@local.test>", "250",
		"RCPT TO:<no-at-sign>", "5", "RCPT TO:<bob@local.test>", "250", "RCPT TO:<a@b(c)>", "553", "RCPT TO:<carol@local.test>", "250",
		"DATA", "354", "Subject: x\n\nbody\n.", "250")
	waitEmpty(t, store)
	var to []string
	for _, m := range readMaildir(t, cfg.maildir) {
		to = append(to, m.header.Get("Delivered-To"))
	}
	slices.Sort(to)
	want(t, "delivered to", to, []string{"bob@local.test", "carol@local.test"})
}

// A client whose 250 got lost sends its mail again; one with another Message-ID, or
// none, means it.
func TestLost250MakesNoSecondCopy(t *testing.T) {
	cfg := testConfig(t)
	store := openStore(t, cfg)
	addr, stop := startStoppable(t, cfg, store)
	say := func(content string, to ...string) string {
		lines := []string{"EHLO client.test", "250", "MAIL FROM:<alice@far.test>", "250"}
		for _, a := range to {
			lines = append(lines, "RCPT TO:<"+a+">", "250")
		}
		return talk(t, addr, append(lines, "DATA", "354", content+"\n.", "250 2.0.0 OK: queued as ")...)
	}
	const a, b = "bob@local.test", "carol@local.test"
	mail := "Message-ID: <1@far.test>\nSubject: x\n\nbody"
	first := say(mail, a, b)
	waitEmpty(t, store)
	want(t, "the reply to the same mail", say(mail, b, a), first)
	want(t, "recipients so far", store.Stats().Enqueued, 2)
	if err := stop(); err != nil {
		t.Fatal(err)
	}

	store = openStore(t, cfg)
	addr = startRelay(t, cfg, store)
	want(t, "the reply after a restart", say(mail, a, b), first)
	for _, other := range []string{
		strings.Replace(mail, "<1@", "<2@", 1),
		mail + " and more",
		"Subject: x\n\nbody", // twice
		"Subject: x\n\nbody",
	} {
		if got := say(other, a, b); got == first {
			t.Errorf("%q: the reply is that to another mail", other)
		}
	}
	if got := say(mail, a); got == first {
		t.Error("one recipient fewer: the reply is that to another mail")
	}
	want(t, "recipients in all", store.Stats().Enqueued, 2+4*2+1)
}

// A SIZE that can't be stored is refused at MAIL FROM: for good, or for now.
func TestSizeRefused(t *testing.T) {
	store, err := wal.Open(t.TempDir(), wal.Options{SegmentSize: 64 << 10, MaxBytes: 2 << 20, MaxMessage: 8 << 20, MaxRecipients: 100})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { store.Close() })
	addr, _ := startServer(t, store, "-max-size", "16000000")
	last := talk(t, addr, "EHLO client.test", "250",
		"MAIL FROM:<alice@far.test> SIZE=16000001", "552 ", // over what the relay takes
		"MAIL FROM:<alice@far.test> SIZE=10000000", "552 5.3.4 ", // over what the store takes
		"MAIL FROM:<alice@far.test> SIZE=5000000", "452 4.3.1 ", // no room now
		"MAIL FROM:<alice@far.test> SIZE=1000", "250", "RCPT TO:<bob@local.test>", "250",
		"DATA", "354", "Subject: x\n\nbody\n.", "250")
	contains(t, "the last reply", last, "queued")
}

func TestConnectionLimit(t *testing.T) {
	addr, _ := startServer(t, &stubStore{}, "-max-connections", "1")
	connect := func() (c *textproto.Conn, code int) {
		c, err := textproto.Dial("tcp", addr)
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { c.Close() })
		code, _, _ = c.ReadResponse(0) // reset by the peer: 0
		return c, code
	}
	first, code := connect()
	want(t, "the first is told", code, 220)
	_, code = connect()
	want(t, "the second is told", code, 421)
	first.Close()
	eventually(t, "there is room again", func() bool {
		_, code := connect()
		return code == 220
	})
}

// The body of a list is stored once, whatever the number of its recipients.
func TestBodyIsStoredOnce(t *testing.T) {
	const recipients, size = 500, 20 << 20
	hop := &scriptedHop{digest: true}
	addr, _, store := relayTo(t, hop, "-max-size", fmt.Sprint(size+1<<20))
	var to []string
	for i := range recipients {
		to = append(to, fmt.Sprintf("member%d@far.test", i))
	}
	line := strings.Repeat("x", 70) + "\r\n"
	before := store.Stats()
	c := dial(t, addr)
	if err := submit(c, "alice@local.test", to, "Subject: test\r\n\r\n"+strings.Repeat(line, size/len(line)+1)); err != nil {
		t.Fatal(err)
	}
	waitEmpty(t, store)
	after := store.Stats()
	grown := after.LiveBytes + after.DeadBytes - before.LiveBytes - before.DeadBytes
	if grown < size || grown >= 21<<20 {
		t.Errorf("the log grew by %d bytes for a body of %d and %d recipients", grown, size, recipients)
	}
	want(t, "delivered", after.Used, mailq.UsedCounts{Delivered: recipients})
	mails, _ := hop.got()
	got := make(map[string]bool)
	for _, m := range mails {
		want(t, "the content", m.content, mails[0].content)
		for _, a := range m.to {
			got[a] = true
		}
	}
	want(t, "recipients at the hop", len(got), recipients)
}

func TestHeaderScan(t *testing.T) {
	for _, tt := range []struct {
		in                 string
		hops               int
		messageID, foreign bool
	}{
		{"", 0, false, false},
		{"Received: a\r\n\tb\r\nreceived: c\r\nSubject: x\r\n\r\nReceived: no\r\nMessage-ID: no\r\n", 2, false, false},
		{"Message-Id: <x>\r\n\r\nx", 0, true, false},
		{"\r\nMessage-ID: x\r\n", 0, false, false},
		{"\nReceived: x\n", 0, false, false},
		{"Subject: gr\xfcn\r\n\r\n", 0, false, true},
		{"Subject: x\r\n\r\ngr\xfcn", 0, false, false},
		{"Message-IDs: x\r\nReceived-SPF: x\r\nX-Received: x\r\n" + strings.Repeat("y", 5000) + "\r\nReceived: x\r\n", 1, false, false},
	} {
		for _, one := range []bool{false, true} {
			store := &stubStore{}
			in := newIncoming(&stubStaged{store: store}, func() {})
			r := bytes.NewReader([]byte(tt.in))
			var err error
			if one {
				err = in.receive(iotest.OneByteReader(r))
			} else {
				err = in.receive(r)
			}
			h := in.header
			if err != nil || h.hops != tt.hops || h.messageID != tt.messageID || h.foreign != tt.foreign {
				t.Errorf("%.40q, byte by byte %v: %d hops, Message-ID %v, foreign %v (%v)", tt.in, one, h.hops, h.messageID, h.foreign, err)
			}
		}
	}
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
