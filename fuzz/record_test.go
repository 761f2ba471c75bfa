package fuzz

import (
	"bytes"
	"errors"
	"slices"
	"testing"

	"github.com/mtawal/mtawal/mailq"
	"github.com/mtawal/mtawal/segment"
	"github.com/mtawal/mtawal/state"
)

func FuzzRecord(f *testing.F) {
	g := readGolden(f)
	for i := range g.frames {
		err := g.frames[i].ForEach(func(_ segment.Pos, r segment.Record) error {
			f.Add([]byte(r), false)
			f.Add([]byte(r), true)
			return nil
		})
		if err != nil {
			f.Fatal(err)
		}
	}
	f.Fuzz(func(t *testing.T, b []byte, repair bool) {
		if repair && len(b) >= segment.RecordHeaderSize {
			b = slices.Clone(b)
			n := min(uint64(le.Uint32(b[4:])), uint64(len(b)))
			if n < segment.RecordHeaderSize {
				n = uint64(len(b))
			}
			le.PutUint32(b[12:], segment.CRCUpdate(segment.CRC(b[:12]), b[16:n]))
		}
		bounded(t, len(b), func() {
			r, ok, err := segment.DecodeRecord(b)
			if err != nil {
				oneKind(t, err)
			}
			if ok != (r != nil && err == nil) || !ok && err == nil && r != nil {
				t.Fatalf("ok %v, %d bytes, %v", ok, len(r), err)
			}
			if !ok {
				return
			}
			if len(r) < segment.RecordHeaderSize || !bytes.Equal(r, b[:len(r)]) || int64(len(r)) != segment.RecordLen(b) {
				t.Fatal("not the bytes that stand there")
			}
			checkRecord(t, r)
			checkApply(t, r)
		})
	})
}

// recipients reads a list in all the ways there are.
func recipients(t *testing.T, l *segment.RecipientList) []mailq.Recipient {
	t.Helper()
	var names []string
	l.QueueNames(func(i int, name []byte) {
		if i != len(names) || len(name) == 0 {
			t.Fatalf("queue %d is %q", i, name)
		}
		names = append(names, string(name))
	})
	list := make([]mailq.Recipient, 0, l.Len())
	l.Addresses(0, func(i int, address, note []byte) bool {
		q, notBefore := l.Route(i)
		list = append(list, mailq.Recipient{Queue: names[q], Address: string(address), Note: note, NotBefore: segment.Time(notBefore)})
		return true
	})
	if len(list) != l.Len() || len(list) == 0 {
		t.Fatalf("%d recipients of %d", len(list), l.Len())
	}
	return list
}

func sameList(a, b []mailq.Recipient) bool {
	return slices.EqualFunc(a, b, func(x, y mailq.Recipient) bool {
		return x.Queue == y.Queue && x.Address == y.Address && bytes.Equal(x.Note, y.Note) && x.NotBefore.Equal(y.NotBefore)
	})
}

// reread decodes what an encoder made of what was decoded before.
func reread(t *testing.T, r segment.Record) segment.Record {
	t.Helper()
	d, ok, err := segment.DecodeRecord(r)
	if !ok || err != nil {
		t.Fatalf("what was decoded is encoded to something that is not: %v, %v", ok, err)
	}
	return d
}

// checkRecord calls every accessor of a record, encodes what they say anew, and compares.
func checkRecord(t *testing.T, r segment.Record) {
	t.Helper()
	own := int64(len(r))
	if r.MovedFrom() != 0 {
		own -= 16 // where it came from
	}
	if r.Weight() != own+r.BodyLen() || r.BodyLen() < 0 || r.BodyOff() < 0 || r.Back() < 0 {
		t.Fatalf("%v: weight %d, body %d+%d, back %d", r.Kind(), r.Weight(), r.BodyOff(), r.BodyLen(), r.Back())
	}
	switch r.Kind() {
	case segment.KindEnqueue:
		checkEnqueue(t, r)
	case segment.KindRecipients:
		e := r.Recipients()
		list := recipients(t, &e.RecipientList)
		if e.First < 0 || e.First+len(list) > segment.RecipientsMax {
			t.Fatalf("%d recipients from %d on", len(list), e.First)
		}
		again := reread(t, segment.PutRecipients(make([]byte, segment.RecipientsSize(list)), r.Back(), r.ID(), e.First, list)).Recipients()
		if again.First != e.First || !sameList(recipients(t, &again.RecipientList), list) {
			t.Fatal("recipients change")
		}
	case segment.KindSettle:
		var runs []segment.SettleRun
		r.Runs(func(s segment.SettleRun) { runs = append(runs, s) })
		again := reread(t, segment.PutSettle(make([]byte, segment.SettleSize(runs)), r.Back(), r.ID(), r.SettleAt(), runs))
		i := 0
		again.Runs(func(s segment.SettleRun) {
			w := runs[i]
			if s.First != w.First || s.Count != w.Count || s.Result != w.Result || s.Attempts != w.Attempts || s.Until != w.Until || s.Edit != w.Edit || (s.Note == nil) != (w.Note == nil) || !bytes.Equal(s.Note, w.Note) {
				t.Fatalf("run %d: %+v became %+v", i, w, s)
			}
			if s.First < 0 || s.Count <= 0 || s.First+s.Count > segment.RecipientsMax || s.Result < mailq.Delivered || s.Result > mailq.Released {
				t.Fatalf("run %d: %+v", i, s)
			}
			i++
		})
		if i != len(runs) || i == 0 || again.ID() != r.ID() || again.SettleAt() != r.SettleAt() {
			t.Fatalf("%d runs of %d", i, len(runs))
		}
	default:
		checkSmall(t, r)
	}
	if from := r.MovedFrom(); from == 0 {
		if r[1]&1 != 0 {
			t.Fatal("a copy passes for an original")
		}
		switch r.Kind() {
		case segment.KindEnqueue, segment.KindRecipients, segment.KindChunk:
			c := reread(t, segment.PutMoved(make([]byte, segment.MovedSize(r)), 128, r, r.ID(), 77, 0))
			if c.MovedFrom() != 77 || c.Holder() != r.ID() || c.Weight() != r.Weight() || c.ID() != r.ID() || c.Kind() != r.Kind() || c.BodyLen() != r.BodyLen() {
				t.Fatalf("the copy of a %v is another", r.Kind())
			}
		}
	}
}

func checkEnqueue(t *testing.T, r segment.Record) {
	t.Helper()
	e := r.Enqueue()
	list := recipients(t, &e.RecipientList)
	m := mailq.Message{Key: string(e.Key()), Envelope: e.Envelope(), Recipients: list, Priority: e.Priority, ExpiresAt: segment.Time(e.ExpiresAt)}
	f := segment.EnqueueFields{ID: r.ID(), EnqueuedAt: e.EnqueuedAt, BodyLen: e.BodyLen, BodyOff: r.BodyOff(), BodyCRC: e.BodyCRC, Late: e.Late}
	var sum int64
	for i := range e.Chunks() {
		f.Chunks = append(f.Chunks, e.Chunk(i))
		sum += int64(e.Chunk(i).Len)
	}
	if e.BodyLen < 0 || e.Chunks() > 0 && sum != e.BodyLen || e.Chunks() == 0 && e.BodyLen > segment.SizeMax {
		t.Fatalf("a body of %d bytes in %d chunks of %d", e.BodyLen, e.Chunks(), sum)
	}
	again := reread(t, segment.PutEnqueue(make([]byte, segment.EnqueueSize(&m, len(f.Chunks))), r.Back(), &m, &f))
	d := again.Enqueue()
	if again.ID() != r.ID() || d.EnqueuedAt != e.EnqueuedAt || d.ExpiresAt != e.ExpiresAt || d.BodyLen != e.BodyLen || d.BodyCRC != e.BodyCRC || d.Late != e.Late ||
		d.Priority != e.Priority || !bytes.Equal(d.Key(), e.Key()) || !bytes.Equal(d.Envelope(), e.Envelope()) || d.Chunks() != e.Chunks() || !sameList(recipients(t, &d.RecipientList), list) {
		t.Fatalf("%+v became %+v", e, d)
	}
}

func checkSmall(t *testing.T, r segment.Record) {
	t.Helper()
	b, back := make([]byte, len(r)), r.Back()
	switch r.Kind() {
	case segment.KindAttempt:
		first, count := r.AttemptRun()
		if first < 0 || count <= 0 || first+count > segment.RecipientsMax {
			t.Fatalf("attempt of %d from %d on", count, first)
		}
		if f, c := reread(t, segment.PutAttempt(b, back, r.ID(), first, count)).AttemptRun(); f != first || c != count {
			t.Fatal("an attempt changes")
		}
	case segment.KindQueue:
		name, s := r.Queue()
		if n, again := reread(t, segment.PutQueue(make([]byte, segment.QueueSize(string(name))), back, string(name), s)).Queue(); !bytes.Equal(n, name) || again != s || len(n) == 0 || len(n) > mailq.QueueNameMax {
			t.Fatalf("%q %+v became %q %+v", name, s, n, again)
		}
	case segment.KindFlush:
		name, at := r.Flush()
		if n, again := reread(t, segment.PutFlush(make([]byte, segment.FlushSize(string(name))), back, string(name), at)).Flush(); !bytes.Equal(n, name) || again != at || len(n) == 0 || len(n) > mailq.QueueNameMax {
			t.Fatalf("%q %d became %q %d", name, at, n, again)
		}
	case segment.KindChunk:
		seq, length, crc := r.Chunk()
		if s, l, c := reread(t, segment.PutChunk(b, back, r.ID(), seq, r.BodyOff(), length, crc)).Chunk(); s != seq || l != length || c != crc {
			t.Fatal("a chunk changes")
		}
	case segment.KindForget:
		if n := reread(t, segment.PutForget(b, back, r.Forget())).Forget(); n != r.Forget() {
			t.Fatal("a forget changes")
		}
	case segment.KindOpen:
		if o := reread(t, segment.PutOpen(make([]byte, segment.OpenSize), back, r.Open())).Open(); o != r.Open() {
			t.Fatal("an open changes")
		}
	case segment.KindSeal:
		number, salt := r.Seal()
		if number == 0 || number > segment.NumberMax {
			t.Fatalf("successor %d", number)
		}
		if n, s := reread(t, segment.PutSeal(b, back, number, salt)).Seal(); n != number || s != salt {
			t.Fatal("a seal changes")
		}
	default:
		t.Fatalf("a record of %v", r.Kind())
	}
}

// checkApply applies a record to a small state: no panic, and the totals agree.
func checkApply(t *testing.T, r segment.Record) {
	t.Helper()
	table := state.NewTable()
	for id := uint64(9); id <= 12; id++ {
		m := mailq.Message{Key: "k", Recipients: []mailq.Recipient{{Queue: "local"}, {Queue: "smtp:example.com"}, {Queue: "local"}, {Queue: "local"}}}
		if id == 12 {
			m.Recipients = m.Recipients[:1]
		}
		e := segment.PutEnqueue(make([]byte, segment.EnqueueSize(&m, 0)), 128, &m, &segment.EnqueueFields{ID: id})
		if err := table.Apply(segment.Pos(id), e); err != nil {
			t.Fatal(err)
		}
	}
	err := table.Apply(1<<32, r)
	if err != nil {
		if !errors.Is(err, segment.ErrCorrupt) {
			t.Fatal(err)
		}
	}
	var live, queued, doubt, weight int64
	table.ForEach(func(slot uint32) {
		m := table.Msg(slot)
		weight += m.Bytes()
		n := 0
		for _, rc := range table.Recipients(slot) {
			if rc.Standing != state.Used {
				n++
			}
			doubt += int64(rc.Flags & state.InDoubt)
		}
		if n != table.Live(m) || n == 0 {
			t.Fatalf("message %x: %d live, %d counted", m.ID, n, table.Live(m))
		}
		live += int64(n)
	})
	for q := range table.Queues() {
		queued += table.Queue(uint32(q)).Live
	}
	c := table.Counts
	if c.Enqueued != c.Used.Total()+live || queued != live || c.InDoubt != doubt || c.Weight != weight {
		t.Fatalf("%+v with %d live, %d queued, %d in doubt, weight %d", c, live, queued, doubt, weight)
	}
	if r.MovedFrom() != 0 && (c.Enqueued != 13 || live != 13) {
		t.Fatal("a copy enqueued or used something")
	}
}
