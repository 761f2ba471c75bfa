package main

import (
	"bufio"
	"bytes"
	"io"
	"mime"
	"mime/multipart"
	"net/mail"
	"net/textproto"
	"strings"
	"testing"
	"time"

	"github.com/mtawal/mtawal/mailq"
)

// report is a bounce, taken apart.
type report struct {
	header     mail.Header
	types      []string
	text       string
	message    textproto.MIMEHeader
	recipients []textproto.MIMEHeader
	original   string
}

func parseReport(t *testing.T, b []byte) report {
	t.Helper()
	m, err := mail.ReadMessage(bytes.NewReader(b))
	if err != nil {
		t.Fatal(err)
	}
	r := report{header: m.Header}
	kind, params, err := mime.ParseMediaType(m.Header.Get("Content-Type"))
	if err != nil || kind != "multipart/report" || params["report-type"] != "delivery-status" {
		t.Fatalf("content type %q (%v), want a delivery-status report", m.Header.Get("Content-Type"), err)
	}
	parts := multipart.NewReader(m.Body, params["boundary"])
	for range 3 {
		p, err := parts.NextPart()
		if err != nil {
			t.Fatal(err)
		}
		content, err := io.ReadAll(p)
		if err != nil {
			t.Fatal(err)
		}
		r.types = append(r.types, p.Header.Get("Content-Type"))
		switch len(r.types) {
		case 1:
			r.text = string(content)
		case 2:
			// Groups of fields with an empty line between them.
			fields := textproto.NewReader(bufio.NewReader(io.MultiReader(bytes.NewReader(content), strings.NewReader("\r\n"))))
			if r.message, err = fields.ReadMIMEHeader(); err != nil {
				t.Fatal(err)
			}
			for range strings.Count(string(content), "\r\n\r\n") {
				group, err := fields.ReadMIMEHeader()
				if err != nil {
					t.Fatal(err)
				}
				r.recipients = append(r.recipients, group)
			}
		case 3:
			r.original = string(content)
		}
	}
	if _, err := parts.NextPart(); err != io.EOF {
		t.Errorf("after the third part: %v, want EOF", err)
	}
	return r
}

func TestBounceIsADeliveryStatusNotification(t *testing.T) {
	cfg := config{hostname: "relay.test", nextHop: "hop.test:25"}
	d := &mailq.Delivery{ID: 7, Queue: "smtp:far.test", EnqueuedAt: time.Unix(1e9, 0), Body: newBody("Subject: hello\r\nX-A: b\r\n\r\nsecret body\r\n")}
	b := bounceBody(cfg, 8, envelope{From: "alice@local.test"}, d, []verdict{
		{slot: mailq.Slot{Address: "x@far.test"}, result: mailq.Failed, reply: "550 5.1.1 no such user"},
		{slot: mailq.Slot{Address: "a b@far.test"}, result: mailq.Failed, reply: "554 go away"},
	})
	r := parseReport(t, b)
	for field, want := range map[string]string{
		"To": "<alice@local.test>", "From": "Mail Delivery System <MAILER-DAEMON@relay.test>",
		"Message-Id": "<0000000000000008@relay.test>", "Auto-Submitted": "auto-replied",
	} {
		if got := r.header.Get(field); got != want {
			t.Errorf("%s: %q, want %q", field, got, want)
		}
	}
	contains(t, "text", r.text, "<x@far.test>\r\n    550 5.1.1 no such user")
	if want := []string{"text/plain; charset=utf-8", "message/delivery-status", "text/rfc822-headers"}; strings.Join(r.types, " ") != strings.Join(want, " ") {
		t.Errorf("parts %q, want %q", r.types, want)
	}
	if got := r.message.Get("Reporting-MTA"); got != "dns; relay.test" {
		t.Errorf("Reporting-MTA: %q", got)
	}
	if len(r.recipients) != 2 {
		t.Fatalf("%d recipients, want 2", len(r.recipients))
	}
	for i, want := range []map[string]string{
		{"Final-Recipient": "rfc822; x@far.test", "Action": "failed", "Status": "5.1.1", "Diagnostic-Code": "smtp; 550 5.1.1 no such user", "Remote-MTA": "dns; hop.test"},
		{"Final-Recipient": `rfc822; "a b"@far.test`, "Action": "failed", "Status": "5.0.0", "Diagnostic-Code": "smtp; 554 go away"},
	} {
		for field, value := range want {
			if got := r.recipients[i].Get(field); got != value {
				t.Errorf("recipient %d: %s: %q, want %q", i, field, got, value)
			}
		}
	}
	if r.original != "Subject: hello\r\nX-A: b\r\n" {
		t.Errorf("returned %q, want the header alone", r.original)
	}
}

func TestBounceStaysSmall(t *testing.T) {
	d := &mailq.Delivery{ID: 7, Body: newBody("Subject: " + strings.Repeat("x", 10*bounceHeadersMax))}
	var failed []verdict
	for range 100 {
		failed = append(failed, verdict{slot: mailq.Slot{Address: strings.Repeat("x", localPartMax) + "@" + strings.Repeat("d", domainMax)},
			result: mailq.Failed, reply: "550 5.1.1 " + strings.Repeat("y", replyMax)})
	}
	b := bounceBody(config{hostname: "relay.test"}, 8, envelope{From: "a@b"}, d, failed)
	if len(b) > bounceMax {
		t.Errorf("a bounce of %d bytes, limit %d", len(b), bounceMax)
	}
	if r := parseReport(t, b); len(r.original) != bounceHeadersMax {
		t.Errorf("%d bytes of header returned, want %d", len(r.original), bounceHeadersMax)
	}
}
