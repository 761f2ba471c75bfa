package main

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"slices"
	"strings"
	"time"

	"github.com/emersion/go-smtp"

	"github.com/mtawal/mtawal/mailq"
)

const (
	// headerRoom is what the relay adds to a message, at most, in bytes.
	headerRoom = 1 << 10
	// hopsMax is how many Received headers say that mail goes round in circles.
	hopsMax = 50
	// enqueueWait is how long a client waits for the store. Its own patience
	// after the final dot is 10 minutes (RFC 5321 section 4.5.3.2.6).
	enqueueWait = 2 * time.Minute
	// idleMax is how long a client may say nothing.
	idleMax = 5 * time.Minute
)

func (r *relay) newServer() *smtp.Server {
	srv := smtp.NewServer(smtp.BackendFunc(func(c *smtp.Conn) (smtp.Session, error) {
		return &session{relay: r, conn: c}, nil
	}))
	srv.Domain = r.cfg.hostname
	srv.MaxRecipients = r.cfg.maxRecipients
	srv.MaxMessageBytes = r.cfg.maxSize
	srv.EnableSMTPUTF8 = true
	srv.ReadTimeout = idleMax
	srv.WriteTimeout = idleMax
	srv.ErrorLog = slog.NewLogLogger(r.log.Handler(), slog.LevelWarn)
	return srv
}

// session is the state of one connection: the transaction that is open.
type session struct {
	relay *relay
	conn  *smtp.Conn

	env        envelope
	recipients []mailq.Recipient
}

// Mail implements smtp.Session.
func (s *session) Mail(from string, opts *smtp.MailOptions) error {
	if from != "" {
		if _, _, ok := splitAddress(from); !ok {
			return smtpError(553, smtp.EnhancedCode{5, 1, 7}, "sender address not acceptable")
		}
	}
	if !opts.UTF8 && !isASCII(from) {
		return smtpError(553, smtp.EnhancedCode{5, 6, 7}, "SMTPUTF8 is needed for this address")
	}
	// Better to refuse now than after megabytes.
	if err := s.relay.store.Admit(opts.Size + headerRoom); err != nil {
		return storeReply(err)
	}
	s.env = envelope{From: from, UTF8: opts.UTF8}
	s.recipients = nil
	return nil
}

// Rcpt implements smtp.Session.
func (s *session) Rcpt(to string, _ *smtp.RcptOptions) error {
	_, domain, ok := splitAddress(to)
	if !ok {
		return smtpError(553, smtp.EnhancedCode{5, 1, 3}, "recipient address not acceptable")
	}
	if !s.env.UTF8 && !isASCII(to) {
		return smtpError(553, smtp.EnhancedCode{5, 6, 7}, "SMTPUTF8 is needed for this address")
	}
	queue := s.relay.cfg.queueOf(domain)
	if queue != localQueue && s.relay.cfg.nextHop == "" {
		return smtpError(550, smtp.EnhancedCode{5, 7, 1}, "not a local domain, and no next hop to relay to")
	}
	same := func(r mailq.Recipient) bool { return r.Address == to }
	if !slices.ContainsFunc(s.recipients, same) { // named twice, delivered once
		s.recipients = append(s.recipients, mailq.Recipient{Queue: queue, Address: to})
	}
	return nil
}

// Data implements smtp.Session. What it returns is the reply to the final dot.
func (s *session) Data(body io.Reader) error {
	// The body comes first: during BDAT this runs beside the connection's own
	// goroutine, which may reset the session until the last chunk is read.
	content, err := io.ReadAll(body)
	if err != nil {
		return readReply(err)
	}
	header := headerOf(content)
	if hops(header) >= hopsMax {
		return smtpError(554, smtp.EnhancedCode{5, 4, 6}, "too many hops")
	}
	// Many clients announce SMTPUTF8 wherever it is offered. Only mail that
	// needs it is refused where the next hop has none.
	foreign := func(r mailq.Recipient) bool { return !isASCII(r.Address) }
	s.env.UTF8 = !isASCII(s.env.From) || !isASCII(string(header)) || slices.ContainsFunc(s.recipients, foreign)
	env, err := s.env.encode()
	if err != nil {
		return storeReply(err)
	}

	id := s.relay.store.NewID()
	ctx, cancel := context.WithTimeout(context.Background(), enqueueWait)
	defer cancel()
	_, err = s.relay.store.Enqueue(ctx, mailq.Message{
		ID:         id,
		Envelope:   env,
		Body:       append([]byte(s.received(id)), content...),
		Recipients: s.recipients,
	})
	if err != nil {
		s.relay.log.Warn("mail not taken", "id", id, "err", err)
		return storeReply(err)
	}
	// The message survives a power cut from here on: now, and not before, the
	// relay may answer for it. The library takes this "error" as the reply.
	return smtpError(250, smtp.EnhancedCode{2, 0, 0}, "OK: queued as %s", id)
}

// readReply is for a body that did not come whole.
func readReply(err error) error {
	var reply *smtp.SMTPError
	switch {
	case errors.As(err, &reply): // too large
		return reply
	case errors.Is(err, smtp.ErrTooLongLine):
		return smtpError(554, smtp.EnhancedCode{5, 6, 0}, "line too long")
	}
	return smtpError(451, smtp.EnhancedCode{4, 4, 2}, "message not received whole, try again")
}

// received is the trace header of RFC 5321 section 4.4.
func (s *session) received(id mailq.ID) string {
	with := "ESMTP"
	if s.env.UTF8 {
		with = "UTF8SMTP"
	}
	from := "unknown"
	if addr, ok := s.conn.Conn().RemoteAddr().(*net.TCPAddr); ok {
		from = addr.IP.String()
	}
	// The name is the client's claim: nothing in it may end a header or a comment.
	helo := strings.Map(func(r rune) rune {
		if r <= ' ' || r >= 0x7f || strings.ContainsRune(`()<>"\;`, r) {
			return '?'
		}
		return r
	}, s.conn.Hostname())
	return fmt.Sprintf("Received: from %.255s ([%s])\r\n\tby %.255s with %s id %s;\r\n\t%s\r\n",
		helo, from, s.relay.cfg.hostname, with, id, time.Now().Format(time.RFC1123Z))
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

// hops counts the Received fields of a header.
func hops(header []byte) int {
	n := 0
	for line := range bytes.Lines(header) {
		name, _, _ := bytes.Cut(line, []byte(":"))
		if bytes.EqualFold(name, []byte("Received")) {
			n++
		}
	}
	return n
}

// Reset implements smtp.Session.
func (s *session) Reset() {
	s.env, s.recipients = envelope{}, nil
}

// Logout implements smtp.Session.
func (s *session) Logout() error { return nil }
