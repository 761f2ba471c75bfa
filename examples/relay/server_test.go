package main

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/textproto"
	"strings"
	"sync"
	"testing"

	"github.com/mtawal/mtawal/mailq"
)

// stubStore takes everything, or nothing.
type stubStore struct {
	mailq.Store
	admit, stage, write, enqueue error

	mu   sync.Mutex
	got  []mailq.Message
	open int // bodies staged, in no message and not aborted
}

// stubStaged is a body in memory.
type stubStaged struct {
	mailq.Staged
	store *stubStore
	taken bool
	bytes []byte
}

func (s *stubStaged) Write(p []byte) (int, error) {
	if s.store.write != nil {
		return 0, s.store.write
	}
	s.bytes = append(s.bytes, p...)
	return len(p), nil
}

func (s *stubStaged) Abort() {
	if !s.taken {
		s.store.mu.Lock()
		defer s.store.mu.Unlock()
		s.store.open--
	}
}

func (s *stubStore) Stage(context.Context, int64) (mailq.Staged, error) {
	if s.stage != nil {
		return nil, s.stage
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	s.open++
	return &stubStaged{store: s}, nil
}

func (s *stubStore) NewID() mailq.ID   { return 0xabc }
func (s *stubStore) Admit(int64) error { return s.admit }

func (s *stubStore) Enqueue(_ context.Context, m mailq.Message) (mailq.ID, error) {
	if s.enqueue != nil {
		return 0, s.enqueue
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	body := m.Staged.(*stubStaged)
	body.taken = true
	s.open--
	m.Body = body.bytes
	s.got = append(s.got, m)
	return m.ID, nil
}

func (s *stubStore) messages() []mailq.Message {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.got
}

// startServer runs the receiving side alone.
func startServer(t *testing.T, store mailq.Store, args ...string) (addr string, stop func() error) {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	r := &relay{cfg: testConfig(t, args...), store: store, log: slog.New(slog.NewTextHandler(t.Output(), nil))}
	srv := r.newServer()
	done := make(chan error, 1)
	go func() { done <- srv.Serve(&drainListener{Listener: l, most: r.cfg.maxConnections}) }()
	stop = sync.OnceValue(func() error { return errors.Join(srv.Shutdown(t.Context()), <-done) })
	t.Cleanup(func() {
		// The test's context has ended here.
		srv.Close()
	})
	return l.Addr().String(), stop
}

// talk sends lines, each with the beginning of the reply to it, and returns the
// last reply.
func talk(t *testing.T, addr string, lines ...string) string {
	t.Helper()
	c, err := textproto.Dial("tcp", addr)
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	var last string
	expect := func(to, want string) {
		code, msg, err := c.ReadResponse(0)
		if err != nil {
			t.Fatalf("reply to %q: %v", to, err)
		}
		last = fmt.Sprintf("%d %s", code, msg)
		if !strings.HasPrefix(last, want) {
			t.Fatalf("reply to %q: %q, want %q", to, last, want)
		}
	}
	expect("the connection", "220 ")
	for i := 0; i < len(lines); i += 2 {
		if _, err := c.W.WriteString(strings.ReplaceAll(lines[i], "\n", "\r\n") + "\r\n"); err != nil {
			t.Fatal(err)
		}
		if err := c.W.Flush(); err != nil {
			t.Fatal(err)
		}
		expect(lines[i], lines[i+1])
	}
	return last
}

func TestServerReplies(t *testing.T) {
	const (
		hello = "EHLO client.test"
		from  = "MAIL FROM:<alice@far.test>"
		to    = "RCPT TO:<bob@local.test>"
		mail  = "Subject: x\n\nbody\n."
	)
	full := &mailq.FullError{Reason: "MaxBytes"}
	for _, tt := range []struct {
		name  string
		store *stubStore
		args  []string
		lines []string
	}{
		{"taken", &stubStore{}, nil,
			[]string{hello, "250", from, "250", to, "250", "DATA", "354", mail, "250 2.0.0 OK: queued as 0000000000000abc"}},
		{"BDAT", &stubStore{}, nil,
			[]string{hello, "250", from, "250", to, "250", "BDAT 10 LAST\nSubject:", "250 2.0.0 OK: queued as 0000000000000abc"}},
		{"full", &stubStore{enqueue: full}, nil,
			[]string{hello, "250", from, "250", to, "250", "DATA", "354", mail, "452 4.3.1 ", from, "250"}},
		{"no stage", &stubStore{stage: full}, nil,
			[]string{hello, "250", from, "250", to, "250", "DATA", "354", mail, "452 4.3.1 ", from, "250"}},
		{"full in the middle", &stubStore{write: full}, nil,
			[]string{hello, "250", from, "250", to, "250", "DATA", "354", mail, "452 4.3.1 ", from, "250"}},
		{"full in the middle of BDAT", &stubStore{write: full}, nil,
			[]string{hello, "250", from, "250", to, "250", "BDAT 10 LAST\nSubject:", "452 4.3.1 ", from, "250"}},
		{"reset in the middle", &stubStore{}, nil,
			[]string{hello, "250", from, "250", to, "250", "BDAT 10\nSubject:", "250", "RSET", "250", from, "250"}},
		{"given up by the store", &stubStore{write: context.DeadlineExceeded}, nil,
			[]string{hello, "250", from, "250", to, "250", "DATA", "354", mail, "451 4.3.0 "}},
		{"closed", &stubStore{enqueue: mailq.ErrClosed}, nil,
			[]string{hello, "250", from, "250", to, "250", "DATA", "354", mail, "421 4.3.2 "}},
		{"failed", &stubStore{enqueue: fmt.Errorf("%w: sync", mailq.ErrFailed)}, nil,
			[]string{hello, "250", from, "250", to, "250", "DATA", "354", mail, "421 4.3.0 "}},
		{"unknown", &stubStore{enqueue: mailq.ErrUnknown}, nil,
			[]string{hello, "250", from, "250", to, "250", "DATA", "354", mail, "451 4.3.0 "}},
		{"refused at MAIL", &stubStore{admit: full}, nil,
			[]string{hello, "250", from + " SIZE=1000", "452 4.3.1 "}},
		{"too large for the store", &stubStore{admit: &mailq.LimitError{Field: "Body", Size: 9, Max: 8}}, nil,
			[]string{hello, "250", from + " SIZE=1000", "552 5.3.4 "}},
		{"SIZE over the limit", &stubStore{}, []string{"-max-size", "1000"},
			[]string{hello, "250", from + " SIZE=1001", "552 5.3.4 "}},
		{"body over the limit", &stubStore{}, []string{"-max-size", "10"},
			[]string{hello, "250", from, "250", to, "250", "DATA", "354", mail, "552 5.3.4 ", from, "250"}},
		{"line over the limit", &stubStore{}, nil,
			[]string{hello, "250", from, "250", to, "250", "DATA", "354", strings.Repeat("x", 5000) + "\n.", "554 5.6.0 "}},
		{"too many recipients", &stubStore{}, []string{"-max-recipients", "1"},
			[]string{hello, "250", from, "250", to, "250", "RCPT TO:<carol@local.test>", "452 4.5.3 "}},
		{"no relaying", &stubStore{}, nil,
			[]string{hello, "250", from, "250", "RCPT TO:<bob@far.test>", "550 5.7.1 "}},
		{"null sender", &stubStore{}, nil,
			[]string{hello, "250", "MAIL FROM:<>", "250", to, "250"}},
		{"bad sender", &stubStore{}, nil,
			[]string{hello, "250", "MAIL FROM:<a@b(c)>", "553 5.1.7 "}},
		{"bad recipient", &stubStore{}, nil,
			[]string{hello, "250", from, "250", "RCPT TO:<a@b(c)>", "553 5.1.3 "}},
		{"UTF-8 not announced", &stubStore{}, nil,
			[]string{hello, "250", "MAIL FROM:<grün@far.test>", "553 5.6.7 ", "MAIL FROM:<grün@far.test> SMTPUTF8", "250", "RCPT TO:<blau@local.test>", "250"}},
		{"going in circles", &stubStore{}, nil,
			[]string{hello, "250", from, "250", to, "250", "DATA", "354", strings.Repeat("Received: x\n", hopsMax) + "\n.", "554 5.4.6 "}},
	} {
		t.Run(tt.name, func(t *testing.T) {
			addr, _ := startServer(t, tt.store, tt.args...)
			last := talk(t, addr, tt.lines...)
			if took := strings.Contains(last, "queued"); took != (len(tt.store.messages()) == 1) {
				t.Errorf("the reply was %q, the store holds %d", last, len(tt.store.messages()))
			}
			eventually(t, "no body is left staged", func() bool {
				tt.store.mu.Lock()
				defer tt.store.mu.Unlock()
				return tt.store.open == 0
			})
		})
	}
}

func TestServerOffers(t *testing.T) {
	addr, _ := startServer(t, &stubStore{})
	got := talk(t, addr, "EHLO client.test", "250")
	for _, ext := range []string{"SIZE 10485760", "8BITMIME", "PIPELINING", "SMTPUTF8", "ENHANCEDSTATUSCODES"} {
		contains(t, "the greeting", got, ext)
	}
}

func TestServerEnqueues(t *testing.T) {
	store := &stubStore{}
	addr, _ := startServer(t, store, "-next-hop", "127.0.0.1:1")
	talk(t, addr, "EHLO evil)(.test", "250", "MAIL FROM:<alice@far.test>", "250",
		"RCPT TO:<bob@LOCAL.test>", "250", "RCPT TO:<carol@Far.test>", "250", "RCPT TO:<bob@LOCAL.test>", "250",
		"DATA", "354", "Subject: x\n\n..dot\n.", "250")
	got := store.messages()
	if len(got) != 1 {
		t.Fatalf("%d messages, want 1", len(got))
	}
	m := got[0]
	want := []mailq.Recipient{{Queue: "local", Address: "bob@LOCAL.test"}, {Queue: "smtp:far.test", Address: "carol@Far.test"}}
	if fmt.Sprint(m.Recipients) != fmt.Sprint(want) {
		t.Errorf("recipients %v, want %v", m.Recipients, want)
	}
	if env, err := decodeEnvelope(m.Envelope); err != nil || env.From != "alice@far.test" {
		t.Errorf("envelope %+v (%v)", env, err)
	}
	trace, rest, _ := strings.Cut(string(m.Body), "Subject:")
	if rest != " x\r\n\r\n.dot\r\n" {
		t.Errorf("body %q", rest)
	}
	if !strings.HasPrefix(trace, "Received: from evil??.test ([127.0.0.1])\r\n\tby relay.test with ESMTP id 0000000000000abc;\r\n\t") ||
		strings.Count(trace, "\r\n") != 3 || len(trace) > headerRoom {
		t.Errorf("trace header %q", trace)
	}
}

// Clients announce SMTPUTF8 without need. A next hop without it is good enough
// for such mail.
func TestUTF8OnlyWhereNeeded(t *testing.T) {
	for _, tt := range []struct {
		from, to, content string
		want              bool
	}{
		{"alice@far.test", "bob@local.test", "Subject: x\n\ngrün", false},
		{"alice@far.test", "bob@local.test", "Subject: grün\n\nx", true},
		{"grün@far.test", "bob@local.test", "Subject: x\n\nx", true},
		{"alice@far.test", "grün@local.test", "Subject: x\n\nx", true},
	} {
		store := &stubStore{}
		addr, _ := startServer(t, store)
		talk(t, addr, "EHLO client.test", "250", "MAIL FROM:<"+tt.from+"> SMTPUTF8 BODY=8BITMIME", "250", "RCPT TO:<"+tt.to+">", "250",
			"DATA", "354", tt.content+"\n.", "250")
		env, err := decodeEnvelope(store.messages()[0].Envelope)
		if err != nil || env.UTF8 != tt.want {
			t.Errorf("from %s to %s, %q: %+v (%v), want %v", tt.from, tt.to, tt.content, env, err, tt.want)
		}
	}
}

// A client that says nothing doesn't hold up the end, and hears of it.
func TestServerDrainsIdleConnections(t *testing.T) {
	addr, stop := startServer(t, &stubStore{})
	c, err := textproto.Dial("tcp", addr)
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	if _, _, err := c.ReadResponse(220); err != nil {
		t.Fatal(err)
	}
	if err := stop(); err != nil {
		t.Fatal(err)
	}
	if _, msg, err := c.ReadResponse(421); err != nil {
		t.Errorf("at the end: %v %q, want 421", err, msg)
	}
}
