package main

import (
	"bytes"
	"context"
	"io"
	"log/slog"
	"net"
	"net/mail"
	"net/smtp"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"go.uber.org/goleak"

	"github.com/mtawal/mtawal/mailq"
	"github.com/mtawal/mtawal/wal"
)

// childEnv makes the test binary the relay itself, so that a test can kill it.
const childEnv = "MTAWAL_RELAY_CHILD"

func TestMain(m *testing.M) {
	if os.Getenv(childEnv) != "" {
		main()
		return
	}
	goleak.VerifyTestMain(m)
}

// testConfig is a relay for local.test, host names and times as tests need them.
func testConfig(t *testing.T, args ...string) config {
	t.Helper()
	cfg, err := parseFlags(append([]string{
		"-listen", "127.0.0.1:0", "-hostname", "relay.test", "-local-domains", "local.test",
		"-store", filepath.Join(t.TempDir(), "queue"), "-maildir", filepath.Join(t.TempDir(), "Maildir"),
		"-retry-base", "10ms", "-retry-max", "50ms", "-stop-timeout", "20s",
	}, args...), io.Discard)
	if err != nil {
		t.Fatal(err)
	}
	return cfg
}

// openStore opens the store of cfg. Whoever serves it shuts it down.
func openStore(t *testing.T, cfg config) mailq.Store {
	t.Helper()
	store, err := wal.Open(cfg.storeDir, storeOptions(cfg, slog.New(slog.NewTextHandler(t.Output(), nil))))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := store.Close(); err != nil {
			t.Errorf("closing the store: %v", err)
		}
	})
	return store
}

// startRelay runs a relay over the store in this process until the test ends.
func startRelay(t *testing.T, cfg config, store mailq.Store) (addr string) {
	t.Helper()
	addr, stop := startStoppable(t, cfg, store)
	t.Cleanup(func() {
		if err := stop(); err != nil {
			t.Errorf("stopping the relay: %v", err)
		}
	})
	return addr
}

// startStoppable leaves the stopping to the caller; at the end of the test it
// is stopped in any case.
func startStoppable(t *testing.T, cfg config, store mailq.Store, with ...func(*relay)) (addr string, stop func() error) {
	t.Helper()
	box, err := openMaildir(cfg.maildir)
	if err != nil {
		t.Fatal(err)
	}
	l, err := net.Listen("tcp", cfg.listen)
	if err != nil {
		t.Fatal(err)
	}
	r := &relay{cfg: cfg, store: store, box: box, log: slog.New(slog.NewTextHandler(t.Output(), nil))}
	for _, f := range with {
		f(r)
	}
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- r.serve(ctx, l) }()
	stop = sync.OnceValue(func() error {
		cancel()
		return <-done
	})
	t.Cleanup(func() { _ = stop() })
	return l.Addr().String(), stop
}

// wait gives cond a minute to come true.
func wait(cond func() bool) bool {
	for end := time.Now().Add(time.Minute); time.Now().Before(end); time.Sleep(5 * time.Millisecond) {
		if cond() {
			return true
		}
	}
	return false
}

// eventually waits until cond holds, and fails the test if it never does.
func eventually(t *testing.T, what string, cond func() bool) {
	t.Helper()
	if !wait(cond) {
		t.Fatalf("gave up waiting until %s", what)
	}
}

// dial connects a client that is closed with the test.
func dial(t *testing.T, addr string) *smtp.Client {
	t.Helper()
	c, err := smtp.Dial(addr)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { c.Close() })
	return c
}

// submit sends one message. Its error is nil if and only if a 250 came.
func submit(c *smtp.Client, from string, to []string, content string) error {
	if err := c.Mail(from); err != nil {
		return err
	}
	for _, a := range to {
		if err := c.Rcpt(a); err != nil {
			return err
		}
	}
	w, err := c.Data()
	if err != nil {
		return err
	}
	if _, err := io.WriteString(w, content); err != nil {
		return err
	}
	return w.Close()
}

// stored is a message in a Maildir.
type stored struct {
	file   string
	header mail.Header
	body   string
}

// readMaildir reads what is in new and cur.
func readMaildir(t *testing.T, dir string) []stored {
	t.Helper()
	var all []stored
	for _, sub := range []string{"new", "cur"} {
		entries, err := os.ReadDir(filepath.Join(dir, sub))
		if err != nil {
			t.Fatal(err)
		}
		for _, e := range entries {
			file := filepath.Join(dir, sub, e.Name())
			b, err := os.ReadFile(file)
			if err != nil {
				t.Fatal(err)
			}
			m, err := mail.ReadMessage(bytes.NewReader(b))
			if err != nil {
				t.Fatalf("%s: %v", file, err)
			}
			body, err := io.ReadAll(m.Body)
			if err != nil {
				t.Fatal(err)
			}
			all = append(all, stored{file, m.Header, string(body)})
		}
	}
	return all
}

// memBody is a body in memory.
type memBody struct{ *bytes.Reader }

func newBody(s string) memBody { return memBody{bytes.NewReader([]byte(s))} }

func (b memBody) WriteTo(w io.Writer) (int64, error) {
	return io.Copy(w, io.NewSectionReader(b.Reader, 0, b.Size()))
}

func (b memBody) View(off, n int64, f func([]byte) error) error {
	p := make([]byte, n)
	if _, err := b.ReadAt(p, off); err != nil {
		return err
	}
	return f(p)
}

func contains(t *testing.T, what, s, want string) {
	t.Helper()
	if !strings.Contains(s, want) {
		t.Errorf("%s does not contain %q:\n%s", what, want, s)
	}
}
