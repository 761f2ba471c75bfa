package main

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"mime/multipart"
	"net"
	"net/textproto"
	"strings"
	"time"

	"github.com/mtawal/mtawal/mailq"
)

// bounceHeadersMax is how much of the header of the message a bounce returns,
// in bytes.
const bounceHeadersMax = 32 << 10

// bounceMax is the size of a bounce, at most, in bytes: what it returns, and
// two paragraphs for each of the 100 recipients of a delivery.
const bounceMax = 1 << 20

// bouncePriority: mail from people goes first.
const bouncePriority = -1

// bounceBody is a delivery status notification (RFC 3464) about the recipients
// that failed.
func bounceBody(cfg config, id mailq.ID, env envelope, d *mailq.Delivery, failed []verdict) []byte {
	var parts bytes.Buffer
	w := multipart.NewWriter(&parts)

	text := part(w, "text/plain; charset=utf-8")
	fmt.Fprintf(text, "This is the mail system at %s.\r\n\r\nYour message could not be delivered to:\r\n\r\n", cfg.hostname)
	for _, v := range failed {
		fmt.Fprintf(text, "<%s>\r\n", pathOf(v.slot.Address))
		if v.result == mailq.Expired {
			fmt.Fprintf(text, "    given up; the last answer was:\r\n")
		}
		fmt.Fprintf(text, "    %s\r\n", v.reply)
		if v.slot.InDoubt {
			fmt.Fprintf(text, "    an earlier attempt broke off, and may have delivered it\r\n")
		}
	}

	kind, headers := "message/delivery-status", "text/rfc822-headers"
	if env.UTF8 { // RFC 6533
		kind, headers = "message/global-delivery-status", "message/global-headers"
	}
	status := part(w, kind)
	fmt.Fprintf(status, "Reporting-MTA: dns; %s\r\nX-Queue-ID: %s\r\nArrival-Date: %s\r\n",
		cfg.hostname, d.ID, d.EnqueuedAt.Format(time.RFC1123Z))
	for _, v := range failed {
		addressType := "rfc822"
		if !isASCII(v.slot.Address) {
			addressType = "utf-8"
		}
		fmt.Fprintf(status, "\r\nFinal-Recipient: %s; %s\r\nAction: failed\r\nStatus: %s\r\nDiagnostic-Code: smtp; %s\r\n",
			addressType, pathOf(v.slot.Address), statusOf(v), v.reply)
		if host, _, err := net.SplitHostPort(cfg.hostFor(d.Queue)); err == nil {
			fmt.Fprintf(status, "Remote-MTA: dns; %s\r\n", host)
		}
	}

	original := part(w, headers)
	original.Write(returned(d.Body))
	// Writes to a buffer don't fail, here and above.
	_ = w.Close()

	var b bytes.Buffer
	fmt.Fprintf(&b, "From: Mail Delivery System <MAILER-DAEMON@%s>\r\nTo: <%s>\r\n", cfg.hostname, pathOf(env.From))
	fmt.Fprintf(&b, "Subject: Undelivered mail returned to sender\r\nDate: %s\r\nMessage-ID: <%s@%s>\r\n",
		time.Now().Format(time.RFC1123Z), id, cfg.hostname)
	fmt.Fprintf(&b, "Auto-Submitted: auto-replied\r\nMIME-Version: 1.0\r\n"+
		"Content-Type: multipart/report; report-type=delivery-status;\r\n\tboundary=\"%s\"\r\n\r\n", w.Boundary())
	b.Write(parts.Bytes())
	return b.Bytes()
}

// part begins a part. It can't fail: the writer is a buffer.
func part(w *multipart.Writer, contentType string) io.Writer {
	p, err := w.CreatePart(textproto.MIMEHeader{"Content-Type": {contentType}})
	if err != nil {
		return io.Discard
	}
	return p
}

// statusOf is the enhanced code in a reply such as "550 5.1.1 no such user", or
// 5.0.0 if it has none; of one given up, that its time was over (RFC 3463).
func statusOf(v verdict) string {
	if v.result == mailq.Expired {
		return "4.4.7"
	}
	fields := strings.Fields(v.reply)
	if len(fields) >= 2 && strings.HasPrefix(fields[1], "5.") {
		return fields[1]
	}
	return "5.0.0"
}

// returned is what the bounce shows of the message: its header, cut off where
// it is too long. What can't be read is left out: the sender is told of the
// failure all the same.
func returned(body mailq.Body) []byte {
	b := make([]byte, min(body.Size(), bounceHeadersMax))
	n, err := body.ReadAt(b, 0)
	if err != nil && !errors.Is(err, io.EOF) {
		return nil
	}
	return headerOf(b[:n])
}

// headerOf is the header of a message, with its last line end.
func headerOf(content []byte) []byte {
	if bytes.HasPrefix(content, []byte("\r\n")) {
		return nil
	}
	if end := bytes.Index(content, []byte("\r\n\r\n")); end >= 0 {
		return content[:end+2]
	}
	return content
}
