package main

import (
	"context"
	"errors"
	"net"
	"time"

	"github.com/emersion/go-smtp"

	"github.com/mtawal/mtawal/mailq"
)

const (
	// perConnectionMax bounds what one connection carries, so that one queue
	// doesn't keep a worker for ever.
	perConnectionMax = 100
	dialWait         = 30 * time.Second
	quitWait         = 5 * time.Second
)

// nextHop is a connection to the next hop, or none. One worker uses it.
type nextHop struct {
	cfg    config
	host   string // host:port
	sites  *sites
	conn   net.Conn
	client *smtp.Client // nil: not connected
}

func (h *nextHop) connected() bool { return h.client != nil }

// send makes one attempt and says what became of each recipient.
func (h *nextHop) send(env envelope, d *mailq.Delivery) []verdict {
	if err := h.connect(d.Context()); err != nil {
		reply := h.hostReply(err)
		h.sites.failed(h.host, reply)
		return verdicts(d.Recipients, mailq.Deferred, reply)
	}
	// Should the claim end (the store closes), the talk ends too.
	conn := h.conn
	stop := context.AfterFunc(d.Context(), func() { conn.Close() })
	defer stop()

	if ok, _ := h.client.Extension("SMTPUTF8"); env.UTF8 && !ok {
		return verdicts(d.Recipients, mailq.Failed, "550 5.6.7 the next hop does not take internationalized mail")
	}
	err := h.client.Mail(pathOf(env.From), &smtp.MailOptions{Size: d.Body.Size(), UTF8: env.UTF8})
	if err != nil {
		return h.refused(d.Recipients, err)
	}
	var vs []verdict
	var accepted []mailq.Slot
	for _, s := range d.Recipients {
		if err := h.rcpt(s.Address); err != nil {
			vs = append(vs, h.refused([]mailq.Slot{s}, err)...)
			continue
		}
		accepted = append(accepted, s)
	}
	if len(accepted) == 0 {
		if h.connected() && h.client.Reset() != nil {
			h.drop()
		}
		return vs
	}
	return append(vs, h.data(accepted, d)...)
}

func indexes(slots []mailq.Slot) []int {
	var is []int
	for _, s := range slots {
		is = append(is, s.Index)
	}
	return is
}

func (h *nextHop) rcpt(address string) error {
	if !h.connected() {
		return errors.New("connection lost")
	}
	return h.client.Rcpt(pathOf(address), nil)
}

// data hands over the content for the recipients that were accepted. The final
// dot divides it: whatever breaks before it is a failed attempt, whatever breaks
// after it may have been a delivery.
func (h *nextHop) data(accepted []mailq.Slot, d *mailq.Delivery) []verdict {
	if !h.connected() {
		return verdicts(accepted, mailq.Deferred, h.hostReply(errors.New("connection lost")))
	}
	w, err := h.client.Data()
	if err != nil {
		return h.refused(accepted, err)
	}
	err = h.conn.SetDeadline(time.Now().Add(h.cfg.finalWait))
	if err == nil {
		_, err = d.Body.WriteTo(w)
	}
	if err != nil {
		h.drop() // no dot: half a message is none
		return verdicts(accepted, mailq.Deferred, h.hostReply(err))
	}
	// If the process dies from here on, the store says that it may have been
	// delivered. Who was removed from the queue meanwhile is not sent to.
	if err := d.Start(d.Context(), indexes(accepted)...); err != nil {
		h.drop()
		return verdicts(accepted, mailq.Deferred, "451 4.3.0 not sent: "+oneLine(err.Error(), replyMax))
	}
	if _, err = w.CloseWithResponse(); err != nil {
		if reply, ok := errors.AsType[*smtp.SMTPError](err); ok && reply.Code/100 != 2 {
			return h.refused(accepted, err)
		} else if ok { // the first digit decides (RFC 5321 section 4.2.1)
			return verdicts(accepted, mailq.Delivered, "")
		}
		h.drop()
		return verdicts(accepted, mailq.Uncertain, "451 4.4.2 connection lost after the final dot: "+oneLine(err.Error(), replyMax))
	}
	return verdicts(accepted, mailq.Delivered, "")
}

// refused is the verdict on recipients that a command failed for. 5xx is for
// good; 4xx, nonsense and lost connections are not.
func (h *nextHop) refused(slots []mailq.Slot, err error) []verdict {
	reply, ok := errors.AsType[*smtp.SMTPError](err)
	if !ok {
		h.drop()
		return verdicts(slots, mailq.Deferred, h.hostReply(err))
	}
	if reply.Code == 421 {
		h.drop()
		h.sites.failed(h.host, replyText(reply))
	}
	if reply.Code/100 == 5 {
		return verdicts(slots, mailq.Failed, replyText(reply))
	}
	return verdicts(slots, mailq.Deferred, replyText(reply))
}

// hostReply is the note for an attempt that the host, not the mail, failed.
func (h *nextHop) hostReply(err error) string {
	if reply, ok := errors.AsType[*smtp.SMTPError](err); ok {
		return replyText(reply)
	}
	return "451 4.4.1 " + oneLine(err.Error(), replyMax)
}

// connect makes sure that there is a connection. Any refusal here, 5xx too, is
// about the host, so no mail fails for it.
func (h *nextHop) connect(ctx context.Context) error {
	if h.connected() {
		return nil
	}
	if h.host == "" {
		return errors.New("no next hop is configured for this domain")
	}
	dialer := net.Dialer{Timeout: dialWait}
	conn, err := dialer.DialContext(ctx, "tcp", h.host)
	if err != nil {
		return err
	}
	stop := context.AfterFunc(ctx, func() { conn.Close() })
	defer stop()
	client := smtp.NewClient(conn)
	client.CommandTimeout, client.SubmissionTimeout = h.cfg.commandWait, h.cfg.finalWait
	if err := client.Hello(h.cfg.hostname); err != nil {
		client.Close()
		return err
	}
	h.conn, h.client = conn, client
	h.sites.reached(h.host)
	return nil
}

// drop closes the connection without a word.
func (h *nextHop) drop() {
	if h.connected() {
		h.client.Close() // whatever it says, the connection is not used again
		h.conn, h.client = nil, nil
	}
}

// quit ends the connection in good manners.
func (h *nextHop) quit() {
	if !h.connected() {
		return
	}
	h.client.CommandTimeout = quitWait
	if h.client.Quit() != nil {
		h.drop()
	}
	h.conn, h.client = nil, nil
}
