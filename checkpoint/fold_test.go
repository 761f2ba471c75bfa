package checkpoint

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/mtawal/mtawal/mailq"
	"github.com/mtawal/mtawal/segment"
	"github.com/mtawal/mtawal/state"
	"pgregory.net/rapid"
)

// drawn leaves the choices to rapid, which finds the shortest history that fails.
type drawn struct{ t *rapid.T }

func (d drawn) intn(n int) int { return rapid.IntRange(0, n-1).Draw(d.t, "") }

// A fold of the checkpoint before and the log in between is, byte for byte, what a replay of
// the whole log is, and that is the state of the store that wrote it.
func TestFoldIsReplay(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		w := newWorld(t, drawn{t})
		defer func() { w.close() }()
		var base *File
		defer func() {
			if base != nil {
				w.ok(base.Close())
			}
		}()
		for range rapid.IntRange(1, 4).Draw(t, "folds") {
			for range rapid.IntRange(0, 30).Draw(t, "steps") {
				w.step()
			}
			if rapid.IntRange(0, 4).Draw(t, "reopen") == 0 {
				w.reopen()
			}
			to := w.table.Applied
			full, logBytes := w.replayed(to)
			want := encoded(w, full, logBytes)
			if !bytes.Equal(want, encoded(w, w.table, logBytes)) {
				w.fail("a replay is not the state at %v", to)
			}
			var b bytes.Buffer
			w.ok(Fold(context.Background(), &b, base, w.log, testUUID, to))
			if !bytes.Equal(b.Bytes(), want) {
				w.fail("the fold at %v is not a replay:\n%s", to, difference(w, b.Bytes(), want))
			}
			next := w.open(b.Bytes(), to)
			w.sameState(next, want, logBytes)
			if base != nil {
				w.ok(base.Close())
			}
			base = next
		}
	})
}

// sameState checks what comes out of a file.
func (w *world) sameState(c *File, want []byte, logBytes int64) {
	w.Helper()
	w.ok(c.Check(false))
	w.ok(c.Check(true))
	table := state.NewTable()
	w.ok(c.Load(table))
	if got := encoded(w, table, logBytes); !bytes.Equal(got, want) {
		w.fail("what is loaded is not what was written:\n%s", difference(w, got, want))
	}
	if c.Messages() != int64(table.Messages()) {
		w.fail("%d messages in a checkpoint that counts %d", table.Messages(), c.Messages())
	}
	held := usage(table)
	for n, u := range c.Usage() {
		if _, ok := held[n]; !ok || u.Messages <= 0 || u.Bytes < 0 {
			w.fail("usage of segment %d is %+v", n, u)
		}
		delete(held, n)
	}
	if len(held) > 0 {
		w.fail("usage knows nothing of segments %v", sortedKeys(held))
	}
}

// difference is two checkpoints in short.
func difference(w *world, got, want []byte) string {
	show := func(b []byte) []string {
		c := w.open(b, w.table.Applied)
		defer c.Close()
		var lines []string
		for it := c.entries(); ; {
			e, err := it.next()
			if e == nil || err != nil {
				break
			}
			line := []string{}
			for _, r := range e.Rcpts {
				line = append(line, c.names[r.Queue])
			}
			lines = append(lines, strings.Join(append(line, sprint(*e)), " "))
		}
		lines = append(lines, sprint(c.Info), sprint(c.names), sprint(c.states), sprint(c.keys), sprint(c.usage))
		return lines
	}
	a, b := show(got), show(want)
	var out []string
	for i := range max(len(a), len(b)) {
		var x, y string
		if i < len(a) {
			x = a[i]
		}
		if i < len(b) {
			y = b[i]
		}
		if x != y {
			out = append(out, "got  "+x, "want "+y)
		}
	}
	return strings.Join(out, "\n")
}

// A position in the middle of the log is folded as well as its end, and a position
// inside of a frame, or behind the end, not at all.
func TestFoldInTheMiddle(t *testing.T) {
	w := newWorld(t, &seeded{1})
	defer w.close()
	var ends []segment.Pos
	for range 60 {
		w.step()
		ends = append(ends, w.table.Applied)
	}
	for _, to := range ends {
		full, logBytes := w.replayed(to)
		var b bytes.Buffer
		w.ok(Fold(context.Background(), &b, nil, w.log, testUUID, to))
		if !bytes.Equal(b.Bytes(), encoded(w, full, logBytes)) {
			t.Errorf("the fold at %v is not a replay", to)
		}
	}
	last := ends[len(ends)-1]
	for _, to := range []segment.Pos{1, ends[3] + 1, ends[3] - 512, last + 4096, segment.MakePos(last.Segment()+1, 4096), 1 << 63} {
		var b bytes.Buffer
		if err := Fold(context.Background(), &b, nil, w.log, testUUID, to); !errors.Is(err, segment.ErrCorrupt) {
			t.Errorf("a fold to %v, where no frame ends: %v", to, err)
		}
	}
}

// A base that does not belong to the log, or decayed, is noticed.
func TestFoldOfAnotherLog(t *testing.T) {
	w := newWorld(t, &seeded{2})
	defer w.close()
	for range 20 {
		w.step()
	}
	mid := w.table.Applied
	for range 20 {
		w.step()
	}
	full, logBytes := w.replayed(mid)
	good := encoded(w, full, logBytes)
	fold := func(b []byte) error {
		c := w.open(b, mid)
		defer c.Close()
		var out bytes.Buffer
		return Fold(context.Background(), &out, c, w.log, testUUID, w.table.Applied)
	}
	w.ok(fold(good))
	chain := bytes.Clone(good)
	chain[48] ^= 1
	reseal(chain)
	if err := fold(chain); !errors.Is(err, segment.ErrCorrupt) {
		t.Errorf("a base with another chain value: %v", err)
	}
	decayed := bytes.Clone(good)
	decayed[headerSize+5] ^= 0x10
	if err := fold(decayed); !errors.Is(err, segment.ErrCorrupt) {
		t.Errorf("a base whose messages decayed: %v", err)
	}
	// A log that enqueues what the base holds.
	full.Last, full.Applied = 0, 0
	full.Chain, full.Epoch, full.Nonce = 0, 0, 0
	again := w.open(encoded(w, full, 0), 0)
	defer again.Close()
	var out bytes.Buffer
	if err := Fold(context.Background(), &out, again, w.log, testUUID, w.table.Applied); err == nil {
		t.Error("messages that are in the base were enqueued again, and the fold took both")
	}
}

// failing takes so many bytes.
type failing struct{ left int }

var errFull = errors.New("no room")

func (f *failing) Write(b []byte) (int, error) {
	if len(b) > f.left {
		return f.left, errFull
	}
	f.left -= len(b)
	return len(b), nil
}

func TestFoldWriteFails(t *testing.T) {
	w := newWorld(t, &seeded{3})
	defer w.close()
	for range 30 {
		w.step()
	}
	var b bytes.Buffer
	w.ok(Fold(context.Background(), &b, nil, w.log, testUUID, w.table.Applied))
	for n := range b.Len() {
		if err := Fold(context.Background(), &failing{n}, nil, w.log, testUUID, w.table.Applied); !errors.Is(err, errFull) {
			t.Fatalf("with room for %d of %d bytes: %v", n, b.Len(), err)
		}
	}
	w.ok(Fold(context.Background(), &failing{b.Len()}, nil, w.log, testUUID, w.table.Applied))
}

// Each kind of record that changes a message of the base does so in a fold too, when it is
// the only one that does.
func TestFoldTouches(t *testing.T) {
	w := newWorld(t, &seeded{4})
	defer w.close()
	later := segment.Time(w.now + int64(10*time.Hour))
	const id, other = 5000, 5001
	w.next = other + 1
	data := bodyOf(7, 50)
	var back int64
	h := w.write(segment.Data, func(b *batch) {
		off := b.place(data)
		back = b.add(segment.ChunkSize, func(dst []byte, back int64) {
			segment.PutChunk(dst, back, 7, 0, off, uint32(len(data)), segment.BodyCRC(7, data))
		})
	})
	chunk := segment.ChunkRef{Pos: h.Pos + segment.Pos(back), Len: uint32(len(data)), CRC: segment.BodyCRC(7, data)}
	for n, id := range []uint64{id, other} {
		m := mailq.Message{Key: fmt.Sprint("key of ", id), Recipients: []mailq.Recipient{{Queue: "late", NotBefore: later}, {Queue: "late", NotBefore: later}}}
		f := segment.EnqueueFields{ID: id, EnqueuedAt: w.now, BodyLen: int64(chunk.Len) * int64(1-n), Chunks: []segment.ChunkRef{chunk}[:1-n]}
		if n == 1 {
			f.BodyCRC = segment.BodyCRC(id, nil)
		}
		w.write(segment.Data, func(b *batch) {
			b.add(segment.EnqueueSize(&m, len(f.Chunks)), func(dst []byte, back int64) { segment.PutEnqueue(dst, back, &m, &f) })
		})
	}
	slot, _ := w.table.Find(id)
	moved := func(pos segment.Pos, kind segment.Kind) func() {
		return func() {
			r, body := w.read(pos, id, kind)
			w.write(segment.Data, func(b *batch) {
				off := b.place(body)
				b.add(segment.MovedSize(r), func(dst []byte, back int64) { segment.PutMoved(dst, back, r, id, pos, off) })
			})
		}
	}
	more := []mailq.Recipient{{Queue: "more"}}
	var added segment.Pos
	for _, c := range []struct {
		name string
		do   func()
	}{
		{"attempt", func() {
			w.write(segment.Marker, func(b *batch) {
				b.add(segment.AttemptSize, func(dst []byte, back int64) { segment.PutAttempt(dst, back, id, 0, 1) })
			})
		}},
		{"flush", func() {
			w.write(segment.Data, func(b *batch) {
				b.add(segment.FlushSize("late"), func(dst []byte, back int64) { segment.PutFlush(dst, back, "late", w.now) })
			})
		}},
		{"moved chunk", func() { moved(w.table.Extents(w.table.Msg(slot))[0].Pos, segment.KindChunk)() }},
		{"moved message", func() { moved(w.table.Msg(slot).Loc, segment.KindEnqueue)() }},
		{"recipients", func() {
			h := w.write(segment.Data, func(b *batch) {
				b.add(segment.RecipientsSize(more), func(dst []byte, back int64) { segment.PutRecipients(dst, back, id, 2, more) })
			})
			added = h.Pos + segment.FrameHeaderSize
		}},
		{"moved recipients", func() { moved(added, segment.KindRecipients)() }},
		{"settle", func() {
			w.settleAs(id, segment.SettleRun{Count: 1, Result: mailq.Deferred, Until: w.now, Note: []byte("later")})
		}},
		{"the last settle", func() { w.settleAs(id, segment.SettleRun{Count: 3, Result: mailq.Delivered}) }},
	} {
		from := w.table.Applied
		full, n := w.replayed(from)
		before := encoded(w, full, n)
		c.do()
		to := w.table.Applied
		full, n = w.replayed(to)
		want := encoded(w, full, n)
		base := w.open(before, from)
		var b bytes.Buffer
		w.ok(Fold(context.Background(), &b, base, w.log, testUUID, to))
		if !bytes.Equal(b.Bytes(), want) {
			t.Errorf("%s: the fold is not a replay:\n%s", c.name, difference(w, b.Bytes(), want))
		}
		if e, err := Open(w.dir, base.Name, testUUID); err != nil || bytes.Equal(before[headerSize:], want[headerSize:]) {
			t.Errorf("%s: changed nothing (%v)", c.name, err)
		} else {
			w.ok(e.Close())
		}
		w.ok(base.Close())
	}
}

// short is a log that forgets its last frame.
type short struct{ Log }

func (s short) Frames(from, to segment.Pos, prev segment.FrameHeader, fn func(*segment.Frame) error) error {
	return s.Log.Frames(from, to, prev, func(f *segment.Frame) error {
		if f.End() == to {
			return nil
		}
		return fn(f)
	})
}

func TestFoldOfALogThatEndsEarly(t *testing.T) {
	w := newWorld(t, &seeded{6})
	defer w.close()
	for range 10 {
		w.step()
	}
	var b bytes.Buffer
	if err := Fold(context.Background(), &b, nil, short{w.log}, testUUID, w.table.Applied); !errors.Is(err, segment.ErrCorrupt) {
		t.Errorf("a checkpoint at a position that the log did not reach: %v", err)
	}
}
