package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"slices"
	"strings"
	"sync"
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
	// dataMax is how long it may take to send a message.
	dataMax = time.Hour
)

func (r *relay) newServer() *smtp.Server {
	srv := smtp.NewServer(smtp.BackendFunc(func(c *smtp.Conn) (smtp.Session, error) {
		return &session{relay: r, conn: c}, nil
	}))
	srv.Domain = r.cfg.hostname
	srv.MaxRecipients = r.cfg.maxRecipients
	srv.MaxMessageBytes = r.cfg.maxSize
	srv.EnableSMTPUTF8 = true
	srv.EnableMTPRIORITY = true
	srv.ReadTimeout = idleMax
	srv.WriteTimeout = idleMax
	srv.ErrorLog = slog.NewLogLogger(r.log.Handler(), slog.LevelWarn)
	return srv
}

// session is one connection.
type session struct {
	relay *relay
	conn  *smtp.Conn

	// During BDAT, Data runs beside the connection's own goroutine, which may reset
	// the transaction until the last chunk is read.
	mu sync.Mutex
	tx transaction
}

// transaction is what a client has said so far of one message.
type transaction struct {
	env        envelope
	size       int64 // announced, 0 if not
	priority   int8
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
	tx := transaction{env: envelope{From: from, UTF8: opts.UTF8}, size: opts.Size}
	if from == "" {
		tx.priority = bouncePriority
	}
	s.set(tx)
	return nil
}

// Rcpt implements smtp.Session.
func (s *session) Rcpt(to string, opts *smtp.RcptOptions) error {
	tx := s.get()
	_, domain, ok := splitAddress(to)
	if !ok {
		return smtpError(553, smtp.EnhancedCode{5, 1, 3}, "recipient address not acceptable")
	}
	if !tx.env.UTF8 && !isASCII(to) {
		return smtpError(553, smtp.EnhancedCode{5, 6, 7}, "SMTPUTF8 is needed for this address")
	}
	queue := s.relay.cfg.queueFor(to, domain)
	if strings.HasPrefix(queue, remotePrefix) && s.relay.cfg.hostFor(queue) == "" {
		return smtpError(550, smtp.EnhancedCode{5, 7, 1}, "not a local domain, and no next hop to relay to")
	}
	if opts != nil && opts.MTPriority != nil {
		// The store has one priority for a message, SMTP one for each recipient.
		tx.priority = max(tx.priority, int8(*opts.MTPriority))
	}
	same := func(r mailq.Recipient) bool { return r.Address == to }
	if !slices.ContainsFunc(tx.recipients, same) { // named twice, delivered once
		tx.recipients = append(tx.recipients, mailq.Recipient{Queue: queue, Address: to})
	}
	s.set(tx)
	return nil
}

// Data implements smtp.Session. What it returns is the reply to the final dot.
func (s *session) Data(body io.Reader) error {
	tx, store := s.get(), s.relay.store
	id := store.NewID()
	ctx, cancel := context.WithTimeout(context.Background(), dataMax)
	defer cancel()

	// The body goes into the log as it comes, whatever its size. Until the message is
	// committed it is garbage there.
	staged, err := store.Stage(ctx, max(tx.size, 0))
	if err != nil {
		return storeReply(err)
	}
	defer staged.Abort() // nothing, once a message has it
	if _, err := io.WriteString(staged, s.received(id, tx.env.UTF8)); err != nil {
		return storeReply(err)
	}
	in := newIncoming(staged, s.extend)
	if err := in.receive(body); in.err != nil {
		s.relay.log.Warn("body not taken", "id", id, "err", in.err)
		return storeReply(in.err)
	} else if err != nil {
		return readReply(err)
	}
	if in.header.hops >= hopsMax {
		return smtpError(554, smtp.EnhancedCode{5, 4, 6}, "too many hops")
	}

	// Many clients announce SMTPUTF8 wherever it is offered. Only mail that
	// needs it is refused where the next hop has none.
	foreign := func(r mailq.Recipient) bool { return !isASCII(r.Address) }
	tx.env.UTF8 = !isASCII(tx.env.From) || in.header.foreign || slices.ContainsFunc(tx.recipients, foreign)
	env, err := tx.env.encode()
	if err != nil {
		return storeReply(err)
	}
	ctx, cancel = context.WithTimeout(context.Background(), enqueueWait)
	defer cancel()
	first, err := store.Enqueue(ctx, mailq.Message{
		ID:         id,
		Key:        in.key(tx.env.From, tx.recipients),
		Envelope:   env,
		Staged:     staged,
		Recipients: tx.recipients,
		Priority:   tx.priority,
		ExpiresAt:  time.Now().Add(s.relay.cfg.expire),
	})
	if err != nil {
		s.relay.log.Warn("mail not taken", "id", id, "err", err)
		return storeReply(err)
	}
	if first != id {
		s.relay.log.Info("mail came again", "id", first, "as", id)
	}
	// The message survives a power cut from here on: now, and not before, the
	// relay may answer for it. The library takes this "error" as the reply.
	return smtpError(250, smtp.EnhancedCode{2, 0, 0}, "OK: queued as %s", first)
}

// extend gives a client that sends its message more time. An error means that the
// connection is gone, which reading from it says too.
func (s *session) extend() { _ = s.conn.Conn().SetReadDeadline(time.Now().Add(idleMax)) }

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
func (s *session) received(id mailq.ID, utf8 bool) string {
	with := "ESMTP"
	if utf8 {
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

func (s *session) get() transaction {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.tx
}

func (s *session) set(tx transaction) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.tx = tx
}

// Reset implements smtp.Session.
func (s *session) Reset() {
	s.set(transaction{})
}

// Logout implements smtp.Session.
func (s *session) Logout() error { return nil }
