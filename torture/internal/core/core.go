package core

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"time"

	"github.com/mtawal/mtawal/internal/eager"
	"github.com/mtawal/mtawal/torture/internal/mail"
	"github.com/mtawal/mtawal/torture/internal/realfs"
	"github.com/mtawal/mtawal/wal"
	"golang.org/x/sys/unix"
)

// life is one request under way.
type life struct {
	*Request
	maker mail.Maker
	store *wal.Store
	resp  Response
	began time.Time

	mu   sync.Mutex // of the marks, trouble and the cut
	file int        // of the marks, -1: kept here
	over bool       // cut off: nothing that comes now counts
	ids  map[string]wal.ID
}

func carryOut(r *Request) *Response {
	l := &life{Request: r, maker: mail.Maker{Seed: r.Seed}, began: time.Now(), file: -1, ids: map[string]wal.ID{}}
	if r.Mark != "" {
		fd, err := unix.Open(r.Mark, unix.O_WRONLY|unix.O_CLOEXEC, 0)
		if err != nil {
			return &Response{Broken: fmt.Sprintf("open the file for marks: %v", err)}
		}
		defer unix.Close(fd)
		l.file = fd
	}
	if err := l.run(); err != nil {
		l.resp.Broken = err.Error()
	}
	return &l.resp
}

func (l *life) options() wal.Options {
	eager.Cold.Store(l.Config.Eager)
	return wal.Options{SegmentSize: l.Config.SegmentSize, MaxBytes: l.Config.MaxBytes, DurableStart: l.Config.DurableStart, NoSync: l.Config.NoSync && l.Load}
}

func (l *life) run() error {
	var err error
	if l.store, err = wal.Open(l.Dir, l.options()); err != nil {
		l.resp.Refused = fmt.Sprintf("the store does not open: %v", err)
		return nil
	}
	defer l.store.Close()
	deliveries, err := l.observe()
	if err != nil {
		l.resp.Refused = fmt.Sprintf("the store does not show what is in it: %v", err)
		return nil
	}
	text, err := json.Marshal(l.resp.Seen)
	if err != nil {
		return err
	}
	l.mark("O " + string(text))
	if l.Load {
		for _, d := range deliveries {
			d.Release()
		}
		return l.load()
	}
	return l.audit(deliveries)
}

// mark notes lines, in the order of everything that happens to the disk.
func (l *life) mark(lines ...string) {
	text := strings.Join(lines, "\n")
	l.mu.Lock()
	defer l.mu.Unlock()
	l.markLocked(text)
}

func (l *life) markLocked(text string) {
	if l.over {
		return
	}
	if l.file < 0 {
		l.resp.Marks = append(l.resp.Marks, TimedMark{text, time.Since(l.began)})
		return
	}
	if _, err := unix.Write(l.file, []byte(text+"\n")); err != nil && l.resp.Broken == "" {
		l.resp.Broken = fmt.Sprintf("note %q: %v", text, err)
	}
}

func (l *life) trouble(format string, args ...any) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.over || len(l.resp.Trouble) == 10 {
		return
	}
	l.resp.Trouble = append(l.resp.Trouble, fmt.Sprintf(format, args...))
}

// cut cuts the file system off. What was noted before has happened before.
func (l *life) cut() error {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.markLocked("C")
	err := realfs.Cut(l.Cut)
	l.over = true
	return err
}

// extents says where the files of the store are.
func (l *life) extents() error {
	list, err := os.ReadDir(l.Dir)
	if err != nil {
		return fmt.Errorf("look for the store's files: %w", err)
	}
	for _, e := range list {
		x, err := realfs.Extents(filepath.Join(l.Dir, e.Name()))
		if err != nil && !errors.Is(err, unix.ENOENT) {
			return err
		}
		l.resp.Extents = append(l.resp.Extents, x...)
	}
	return nil
}

// after ends the key of the message that an audit leaves in the store.
const after = "-after"

// audit delivers all there is, uses the store as an MTA would, closes and verifies it.
func (l *life) audit(deliveries []*wal.Delivery) error {
	failed := func(what string, err error) error {
		l.resp.Refused = fmt.Sprintf("%s after recovery: %v", what, err)
		return nil
	}
	ctx := context.Background()
	for key, id := range l.Keyed {
		msg := l.maker.Message(key)
		switch got, err := l.store.Enqueue(ctx, msg); {
		case errors.Is(err, wal.ErrFull):
		case err != nil:
			return failed("an enqueue with a known key", err)
		case uint64(got) != id:
			l.trouble("message %s with a known key was taken again: as %d, it was %d", key, got, id)
		}
	}
	const (
		together      = 300     // in a batch: it has to fit into the smallest segment
		auditHandouts = 1 << 30 // a number a batch, beyond those of loads
	)
	for n := 1; len(deliveries) > 0; n++ {
		some := deliveries[:min(together, len(deliveries))]
		deliveries = deliveries[len(some):]
		var b wal.Batch
		var lists []string
		for _, d := range some {
			codes := map[int]byte{}
			for _, r := range d.Recipients {
				codes[r.Index] = mail.Delivered
			}
			lists = append(lists, fmt.Sprintf("%s %d %s", d.Envelope, auditHandouts+n, mail.Codes(codes)))
			b.Settle = append(b.Settle, wal.Settlement{Delivery: d, Outcomes: []wal.Outcome{{Recipient: wal.All, Result: wal.Delivered}}})
		}
		l.markAll("S ", lists)
		if _, err := l.store.Commit(ctx, b); err != nil {
			return failed("a settlement", err)
		}
		l.markAll("T ", lists)
	}
	if n := l.store.Stats().WorkQueueLength; n != 0 {
		l.trouble("the Work Queue Length is %d and nothing is left to deliver", n)
	}
	if err := l.enqueueOne(ctx, l.Life+after); err != nil {
		return failed("an enqueue", err)
	}
	if err := l.extents(); err != nil {
		return err
	}
	if err := l.close(l.store); err != nil {
		return failed("closing", err)
	}
	found, err := wal.Verify(l.Dir, wal.Options{})
	if err != nil {
		return failed("verification", err)
	}
	for _, f := range found {
		l.trouble("verify: %v", f)
	}
	if !l.Reopen {
		return nil
	}
	again, err := wal.Open(l.Dir, l.options())
	if err != nil {
		return failed("opening once more", err)
	}
	last, _, _ := l.maker.Head(l.Life + after)
	if st := again.Stats(); st.WorkQueueLength != int64(len(last.Recipients)) || st.InDoubt != 0 {
		l.trouble("opened once more after all but one message were used: Work Queue Length %d, in doubt %d", st.WorkQueueLength, st.InDoubt)
	}
	if err := l.close(again); err != nil {
		return failed("closing once more", err)
	}
	return nil
}

// close closes the store. On a machine with much other work a write may take so long that Close
// does not wait for it: then the store stays locked until it is done.
func (l *life) close(s *wal.Store) error {
	err := s.Close()
	for begin := time.Now(); errors.Is(err, wal.ErrUnknown) && time.Since(begin) < time.Minute; {
		time.Sleep(50 * time.Millisecond)
		again, oerr := wal.Open(l.Dir, l.options())
		if errors.Is(oerr, wal.ErrLocked) {
			continue
		}
		if oerr != nil {
			return oerr
		}
		return again.Close()
	}
	return err
}

func (l *life) markAll(word string, lists []string) {
	var lines []string
	for _, s := range lists {
		lines = append(lines, word+s)
	}
	l.mark(lines...)
}

// enqueueOne enqueues the message of a key.
func (l *life) enqueueOne(ctx context.Context, key string) error {
	msg := l.maker.Message(key)
	l.mark(fmt.Sprintf("I %s %d -", key, len(msg.Recipients)))
	id, err := l.store.Enqueue(ctx, msg)
	for begin := time.Now(); errors.Is(err, wal.ErrFull) && time.Since(begin) < time.Minute; {
		time.Sleep(5 * time.Millisecond) // all is used, so that there has to be room soon
		id, err = l.store.Enqueue(ctx, msg)
	}
	if err != nil {
		return err
	}
	l.accepted(key, id)
	return nil
}

func (l *life) accepted(key string, id wal.ID) {
	l.mark(fmt.Sprintf("A %s %d", key, id))
	l.mu.Lock()
	defer l.mu.Unlock()
	l.ids[key] = id
}
