package wal

import (
	"bytes"
	"errors"
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/mtawal/mtawal/internal/disk/memdisk"
	"github.com/mtawal/mtawal/segment"
	"github.com/mtawal/mtawal/state"
)

// FuzzBatch hands a batch to a store and reads back what it holds, before and behind a kill: as
// it was given, or refused whole with an error that names the field.
func FuzzBatch(f *testing.F) {
	f.Add("q", "a@example.org", []byte("note"), []byte("from"), []byte("dear"), "key", int64(0), int64(0), int8(0), uint8(1), uint8(1))
	f.Add("smtp:example.org", "", []byte{}, []byte{}, []byte{}, "", int64(1), int64(-1), int8(-5), uint8(200), uint8(4))
	f.Add("", "x\x00\n", make([]byte, 1025), make([]byte, 70_000), make([]byte, 200_000), strings.Repeat("k", 256), int64(1)<<62, int64(-1)<<63, int8(127), uint8(0), uint8(6))
	f.Add("q\xff", strings.Repeat("a", 1024), []byte{0}, []byte{1}, bytes.Repeat([]byte{7}, 60_000), "k", int64(1_800_000_000), int64(1_900_000_000), int8(-128), uint8(255), uint8(9))
	f.Fuzz(func(t *testing.T, queue, address string, note, envelope, body []byte, key string, notBefore, expires int64, priority int8, rcpts, result uint8) {
		fs := memdisk.New(memdisk.Config{})
		o := fuzzOptions(fs)
		s, err := Open(spool, o)
		if err != nil {
			t.Fatal(err)
		}
		defer func() { _ = s.Close() }()
		m := Message{Key: key, Envelope: envelope, Body: body, Priority: priority}
		at := func(sec int64) (when time.Time) {
			if sec != 0 {
				when = time.Unix(sec, 0)
			}
			return when
		}
		m.ExpiresAt = at(expires)
		for i := range rcpts {
			m.Recipients = append(m.Recipients, Recipient{Queue: queue, Address: address, Note: note, NotBefore: at(notBefore)})
			if i%2 == 1 {
				m.Recipients[i].Queue = "other"
			}
		}
		first, err := s.Enqueue(t.Context(), mailing("the first"))
		if err != nil {
			t.Fatal(err)
		}
		outcome := Outcome{Result: Result(result), Note: note, Until: at(notBefore)}
		ids, err := s.Commit(t.Context(), Batch{Enqueue: []Message{m}, Edit: []Edit{{ID: first, Outcomes: []Outcome{outcome}}}})
		if err != nil {
			if !errors.Is(err, ErrInvalid) && !errors.Is(err, ErrTooLarge) && !errors.Is(err, ErrFull) {
				t.Fatalf("refused with %v", err)
			}
			m.Recipients = nil // nothing of it may be there
		} else if len(ids) != 1 {
			t.Fatalf("%d IDs", len(ids))
		}
		before := contentOf(t, s, m, ids)
		fs.Kill()
		again, err := Open(spool, o)
		if err != nil {
			t.Fatal(err)
		}
		defer func() { _ = again.Close() }()
		if after := contentOf(t, again, m, ids); before != after {
			t.Fatalf("before the kill %s\nafter it %s", before, after)
		}
	})
}

// contentOf checks what a store holds beside the first message, and returns all of it as text.
func contentOf(t *testing.T, s *Store, m Message, ids []ID) string {
	t.Helper()
	n := 0
	var all []string
	for e, err := range s.Entries(t.Context(), Filter{}) {
		if err != nil {
			t.Fatal(err)
		}
		all = append(all, fmt.Sprintf("%v.%d %q %q %q %v %v %d %v %v %d %q %d", e.ID, e.Recipient, e.Queue, e.Address, e.Note, e.State, e.InDoubt, e.Attempts,
			e.NotBefore.UnixNano(), e.ExpiresAt.Unix(), e.Priority, e.Envelope, e.Size))
		if len(ids) == 0 || e.ID != ids[0] {
			continue
		}
		n++
		r := m.Recipients[e.Recipient]
		if e.Queue != r.Queue || e.Address != r.Address || !bytes.Equal(e.Note, r.Note) || e.Priority != m.Priority || !bytes.Equal(e.Envelope, m.Envelope) || e.Size != int64(len(m.Body)) {
			t.Fatalf("%+v\nwas enqueued as %+v", e, r)
		}
	}
	if n != len(m.Recipients) {
		t.Fatalf("%d recipients, want %d", n, len(m.Recipients))
	}
	slices.Sort(all)
	if n == 0 {
		return strings.Join(all, "\n")
	}
	// The body, whatever the time is.
	slot, ok := s.table.Find(uint64(ids[0]))
	if !ok {
		t.Fatal("the message is not there")
	}
	got, err := bodyOf(s, slot)
	if err != nil || !bytes.Equal(got, m.Body) {
		t.Fatalf("a body of %d bytes became one of %d: %v", len(m.Body), len(got), err)
	}
	return strings.Join(all, "\n")
}

// bodyOf reads a body that is in the log, due or not.
func bodyOf(s *Store, slot uint32) (b []byte, err error) {
	m := s.table.Msg(slot)
	x := s.table.Extents(m)
	var pins []*segment.Segment
	defer func() { release(pins) }()
	for _, p := range append([]state.Extent{{Pos: m.Loc}}, x...) {
		seg, err := s.log.Acquire(p.Pos.Segment())
		if err != nil {
			return nil, err
		}
		pins = append(pins, seg)
	}
	st, err := readStored(pins, m.ID, m.Loc, x)
	if err != nil {
		return nil, err
	}
	b = make([]byte, st.size)
	if len(b) > 0 {
		_, err = (&body{size: st.size, pieces: st.body, pins: pins}).ReadAt(b, 0)
	}
	return b, err
}
