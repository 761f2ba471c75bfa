package main

import (
	"bufio"
	"crypto/sha256"
	"fmt"
	"io"
	"net"
	"net/textproto"
	"strings"
	"sync"
	"testing"
)

// cut, as a reply, closes the connection instead.
const cut = ""

// scriptedHop is an SMTP server that answers what the test says.
type scriptedHop struct {
	// greet says the greeting; nil: 220. digest keeps the hash of contents instead of them.
	greet  func() string
	digest bool
	// rcpt and data say the reply to a recipient and to the final dot; nil: 250.
	rcpt func(address string) string
	data func(transaction int) string // counted from 1, over all connections
	// noDot closes the connection of that transaction, at the reply to DATA.
	noDot int

	addr string

	mu           sync.Mutex
	conns        map[net.Conn]bool
	accepted     int // connections
	transactions int
	mails        []hopMail // those answered 250, and those cut after the final dot
}

type hopMail struct {
	from    string
	to      []string
	content string
}

// start listens until the test ends.
func (h *scriptedHop) start(t *testing.T) {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	h.addr, h.conns = l.Addr().String(), make(map[net.Conn]bool)
	var wg sync.WaitGroup
	wg.Go(func() {
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			h.mu.Lock()
			h.conns[c] = true
			h.accepted++
			h.mu.Unlock()
			wg.Go(func() {
				h.serve(c)
				c.Close()
			})
		}
	})
	t.Cleanup(func() {
		l.Close()
		h.mu.Lock()
		for c := range h.conns {
			c.Close()
		}
		h.mu.Unlock()
		wg.Wait()
	})
}

func (h *scriptedHop) serve(conn net.Conn) {
	r := textproto.NewReader(bufio.NewReader(conn))
	say := func(reply string) bool {
		if reply == cut {
			return false
		}
		_, err := io.WriteString(conn, reply+"\r\n")
		return err == nil
	}
	greeting := "220 hop.test"
	if h.greet != nil {
		greeting = h.greet()
	}
	if !say(greeting) {
		return
	}
	var m hopMail
	for {
		line, err := r.ReadLine()
		if err != nil {
			return
		}
		reply := "250 2.0.0 OK"
		_, path, _ := strings.Cut(line, "<")
		path, _, _ = strings.Cut(path, ">")
		switch verb, _, _ := strings.Cut(line, " "); strings.ToUpper(verb) {
		case "EHLO":
			reply = "250-hop.test\r\n250-8BITMIME\r\n250 SIZE 100000000"
		case "MAIL":
			m = hopMail{from: path}
		case "RCPT":
			if h.rcpt != nil {
				reply = h.rcpt(path)
			}
			if strings.HasPrefix(reply, "25") {
				m.to = append(m.to, path)
			}
		case "DATA":
			h.mu.Lock()
			h.transactions++
			n := h.transactions
			h.mu.Unlock()
			if n == h.noDot || !say("354 go on") {
				return
			}
			var err error
			if m.content, err = h.read(r.DotReader()); err != nil {
				return
			}
			if h.data != nil {
				reply = h.data(n)
			}
			if reply == cut || strings.HasPrefix(reply, "25") {
				h.mu.Lock()
				h.mails = append(h.mails, m)
				h.mu.Unlock()
			}
		case "QUIT":
			say("221 bye")
			return
		}
		if !say(reply) {
			return
		}
	}
}

func (h *scriptedHop) read(r io.Reader) (string, error) {
	if h.digest {
		sum := sha256.New()
		_, err := io.Copy(sum, r)
		return fmt.Sprintf("%x", sum.Sum(nil)), err
	}
	b, err := io.ReadAll(r)
	return string(b), err
}

// got returns what arrived so far and over how many connections.
func (h *scriptedHop) got() (mails []hopMail, connections int) {
	h.mu.Lock()
	defer h.mu.Unlock()
	return append([]hopMail(nil), h.mails...), h.accepted
}
