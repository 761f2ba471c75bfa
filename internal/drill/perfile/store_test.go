package perfile

import (
	"bytes"
	"context"
	"errors"
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/mtawal/mtawal/mailq"
	"go.uber.org/goleak"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

func open(t *testing.T, dir string) *Store {
	t.Helper()
	s, err := Open(dir)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { s.Close() })
	return s
}

func enqueue(t *testing.T, s *Store, queues ...string) mailq.ID {
	t.Helper()
	m := mailq.Message{Envelope: []byte("env"), Body: []byte("a body")}
	for _, q := range queues {
		m.Recipients = append(m.Recipients, mailq.Recipient{Queue: q, Address: "to@" + q})
	}
	id, err := s.Enqueue(t.Context(), m)
	if err != nil {
		t.Fatal(err)
	}
	return id
}

func newConsumer(t *testing.T, s *Store, o mailq.ConsumerOptions) mailq.Consumer {
	t.Helper()
	c, err := s.Consumer(o)
	if err != nil {
		t.Fatal(err)
	}
	return c
}

func next(t *testing.T, c mailq.Consumer) *mailq.Delivery {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), 10*time.Second)
	defer cancel()
	d, err := c.Next(ctx)
	if err != nil {
		t.Fatal(err)
	}
	return d
}

func settle(t *testing.T, d *mailq.Delivery, r mailq.Result) {
	t.Helper()
	if err := d.SettleAll(t.Context(), r); err != nil {
		t.Fatal(err)
	}
}

func TestDeliver(t *testing.T) {
	dir := t.TempDir()
	s := open(t, dir)
	id := enqueue(t, s, "a", "b", "a")
	c := newConsumer(t, s, mailq.ConsumerOptions{Queues: []string{"a"}})
	d := next(t, c)
	var body bytes.Buffer
	if _, err := d.Body.WriteTo(&body); err != nil {
		t.Fatal(err)
	}
	if d.ID != id || d.Queue != "a" || string(d.Envelope) != "env" || body.String() != "a body" || len(d.Recipients) != 2 || d.Recipients[1].Index != 2 || d.Recipients[1].Address != "to@a" {
		t.Errorf("delivery %+v with body %q", d, body.String())
	}
	if _, ok := c.TryNext("b"); ok {
		t.Error("the consumer was given another's queue")
	}
	settle(t, d, mailq.Delivered)
	if err := d.SettleAll(t.Context(), mailq.Delivered); !errors.Is(err, mailq.ErrSettled) {
		t.Errorf("settled again: %v", err)
	}
	if _, err := d.Body.ReadAt(make([]byte, 1), 0); !errors.Is(err, mailq.ErrSettled) {
		t.Errorf("read after it was settled: %v", err)
	}
	settle(t, next(t, newConsumer(t, s, mailq.ConsumerOptions{})), mailq.Delivered)
	if err := s.Shutdown(t.Context()); err != nil {
		t.Fatal(err)
	}
	if st := s.Stats(); st.WorkQueueLength != 0 || st.Used.Delivered != 3 || st.Pending+st.Deferred+st.Claimed != 0 {
		t.Errorf("stats %+v", st)
	}
	if list, err := os.ReadDir(dir); err != nil || len(list) != 0 {
		t.Errorf("left behind: %v, %v", list, err)
	}
}

// A restart hands out what is not marked on disk, and knows of no doubt.
func TestRestart(t *testing.T) {
	dir := t.TempDir()
	s := open(t, dir)
	enqueue(t, s, "a", "b")
	c := newConsumer(t, s, mailq.ConsumerOptions{})
	settle(t, next(t, c), mailq.Delivered)
	s.marks.drain(t.Context())
	settle(t, next(t, c), mailq.Uncertain)
	if d := next(t, c); !d.Recipients[0].InDoubt {
		t.Error("a doubt is not announced")
	}
	s.Close()

	s = open(t, dir)
	if st := s.Stats(); st.Pending != 1 || st.WorkQueueLength != 1 {
		t.Errorf("stats %+v", st)
	}
	d := next(t, newConsumer(t, s, mailq.ConsumerOptions{}))
	if d.Queue != "b" || d.Recipients[0].Index != 1 || d.Recipients[0].InDoubt {
		t.Errorf("delivery %+v", d)
	}
}

// A mark that the worker did not get to is forgotten: the symptom of old.
func TestRestartForgetsMarks(t *testing.T) {
	dir := t.TempDir()
	s := open(t, dir)
	id := enqueue(t, s, "a")
	s.marks.stop() // the worker is gone
	settle(t, next(t, newConsumer(t, s, mailq.ConsumerOptions{})), mailq.Delivered)
	if st := s.Stats(); st.WorkQueueLength != 1 || st.Pending+st.Claimed+st.Deferred != 0 {
		t.Errorf("stats %+v, want a Work Queue Length without a backlog", st)
	}
	s.Close()
	s = open(t, dir)
	if d := next(t, newConsumer(t, s, mailq.ConsumerOptions{})); d.ID != id {
		t.Errorf("delivery of %v", d.ID)
	}
	if s.NewID() <= id {
		t.Error("an ID is used again")
	}
}

func TestDeferAndRelease(t *testing.T) {
	s := open(t, t.TempDir())
	enqueue(t, s, "a")
	c := newConsumer(t, s, mailq.ConsumerOptions{ManualStart: true})
	d := next(t, c)
	until := time.Now().Add(20 * time.Millisecond)
	if err := d.Settle(t.Context(), []mailq.Outcome{{Result: mailq.Deferred, Until: until, Note: []byte("later")}}); err != nil {
		t.Fatal(err)
	}
	if st := s.Stats(); st.Deferred+st.Pending != 1 || st.WorkQueueLength != 1 {
		t.Errorf("stats %+v", st)
	}
	d = next(t, c)
	if time.Now().Before(until) || string(d.Recipients[0].Note) != "later" || d.Recipients[0].Attempts != 1 || d.Recipients[0].InDoubt {
		t.Errorf("slot %+v", d.Recipients[0])
	}
	d.Release()
	d.Release()
	if d = next(t, c); d.Recipients[0].InDoubt || d.Recipients[0].Attempts != 1 {
		t.Errorf("released before it was started: %+v", d.Recipients[0])
	}
	if err := d.Start(t.Context()); err != nil {
		t.Fatal(err)
	}
	d.Release()
	if d = next(t, c); !d.Recipients[0].InDoubt || d.Recipients[0].Attempts != 2 {
		t.Errorf("released after it was started: %+v", d.Recipients[0])
	}
	if err := d.SettleAll(t.Context(), mailq.Deferred); !errors.Is(err, mailq.ErrInvalid) {
		t.Errorf("deferred until no time: %v", err)
	}
	if err := d.Settle(t.Context(), []mailq.Outcome{{Recipient: mailq.All, Result: mailq.Deferred, Until: time.Now()}}); err != nil {
		t.Fatal(err)
	}
	if d = next(t, c); !d.Recipients[0].InDoubt {
		t.Error("a deferral has ended the doubt")
	}
	bounce := mailq.Message{Recipients: []mailq.Recipient{{Queue: "b"}}}
	ids, err := s.Commit(t.Context(), mailq.Batch{
		Settle:  []mailq.Settlement{{Delivery: d, Outcomes: []mailq.Outcome{{Recipient: mailq.All, Result: mailq.Failed}}}},
		Enqueue: []mailq.Message{bounce},
	})
	if err != nil || len(ids) != 1 {
		t.Fatal(ids, err)
	}
	if d := next(t, c); d.ID != ids[0] || s.Stats().InDoubt != 0 {
		t.Errorf("delivery of %v, stats %+v", d.ID, s.Stats())
	}
}

func TestVerify(t *testing.T) {
	dir := t.TempDir()
	s := open(t, dir)
	id := enqueue(t, s, "a")
	s.Close()
	if got, err := Verify(dir); got != "ok" || err != nil {
		t.Fatal(got, err)
	}
	path := filepath.Join(dir, name(id, 0))
	text, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	for i := range text {
		text[i] ^= 0x10
		if err := os.WriteFile(path, text, 0o600); err != nil {
			t.Fatal(err)
		}
		if got, err := Verify(dir); got == "ok" || err != nil {
			t.Errorf("byte %d turned over: %q, %v", i, got, err)
		}
		text[i] ^= 0x10
	}
	if err := os.WriteFile(path, text[:len(text)-1], 0o600); err != nil {
		t.Fatal(err)
	}
	if got, err := Verify(dir); got == "ok" || err != nil {
		t.Errorf("cut short: %q, %v", got, err)
	}
}

func TestOpenCleansAndRefuses(t *testing.T) {
	dir := t.TempDir()
	for _, n := range []string{tmpPrefix + "1", name(5, 3) + usedSuffix} {
		if err := os.WriteFile(filepath.Join(dir, n), nil, 0o600); err != nil {
			t.Fatal(err)
		}
	}
	s := open(t, dir)
	s.Close()
	if list, err := os.ReadDir(dir); err != nil || len(list) != 0 {
		t.Errorf("left behind: %v, %v", list, err)
	}
	if err := os.WriteFile(filepath.Join(dir, "letter.txt"), nil, 0o600); err != nil {
		t.Fatal(err)
	}
	if _, err := Open(dir); err == nil {
		t.Error("a directory with a foreign file was opened")
	}
}

func TestRefused(t *testing.T) {
	s := open(t, t.TempDir())
	if _, err := s.Enqueue(t.Context(), mailq.Message{}); !errors.Is(err, mailq.ErrInvalid) {
		t.Errorf("no recipients: %v", err)
	}
	if _, err := s.Enqueue(t.Context(), mailq.Message{Recipients: make([]mailq.Recipient, recipientsMax+1)}); !errors.Is(err, mailq.ErrTooLarge) {
		t.Errorf("too many recipients: %v", err)
	}
	if _, err := s.Commit(t.Context(), mailq.Batch{}); !errors.Is(err, mailq.ErrInvalid) {
		t.Errorf("an empty batch: %v", err)
	}
	s.Close()
	if _, err := s.Enqueue(t.Context(), mailq.Message{Recipients: []mailq.Recipient{{Queue: "a"}}}); !errors.Is(err, mailq.ErrClosed) {
		t.Errorf("closed: %v", err)
	}
	if err := s.Close(); err != nil {
		t.Errorf("closed twice: %v", err)
	}
}
