package segment

import (
	"bytes"
	"flag"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/mtawal/mtawal/mailq"
)

var update = flag.Bool("update", false, "write the golden files anew")

// goldenSegment has every kind of frame and of record in 64 KiB.
func goldenSegment() *image {
	g := newImage(1, 0x0123456789abcdef, SizeMin)
	b := &batch{}
	b.add(OpenSize, func(dst []byte, back int64) Record {
		return PutOpen(dst, back, OpenInfo{Cut: 4096, Warm: true, InDoubt: 2})
	})
	g.frame(Open, b)

	b = &batch{}
	first := mailq.Message{
		Key: "queue-id 4711", Envelope: []byte("MAIL FROM:<s@example.net> BODY=8BITMIME"), Body: []byte("Subject: first\r\n\r\nHello.\r\n"),
		Priority: -1, ExpiresAt: Time(1_700_432_000_000_000_000),
		Recipients: []mailq.Recipient{
			{Queue: "local", Address: "a@example.org", Note: []byte("ORCPT=rfc822;a@example.org")},
			{Queue: "smtp:example.com", Address: "b@example.com", NotBefore: Time(1_700_000_600_000_000_000)},
			{Queue: "local", Address: "c@example.org"},
			{Queue: "routing", Address: "list@example.org"},
		},
	}
	enqueue := b.enqueue(10, &first)
	b.enqueue(11, simple("local", nil))
	at := b.place([]byte("a chunk of a long body"))
	b.add(ChunkSize, func(dst []byte, back int64) Record {
		return PutChunk(dst, back, 900, 0, at, 22, BodyCRC(900, []byte("a chunk of a long body")))
	})
	data := g.frame(Data, b)
	chunkAt := data.Pos + Pos(FrameHeaderSize+len(b.table)-ChunkSize)
	enqueueAt := data.Pos + FrameHeaderSize

	b = &batch{}
	chunked := simple("smtp:example.com", nil)
	b.add(EnqueueSize(chunked, 1), func(dst []byte, back int64) Record {
		return PutEnqueue(dst, back, chunked, &EnqueueFields{ID: 12, EnqueuedAt: 1_700_000_002_500_000_000, Late: 3, BodyLen: 22, BodyCRC: BodyCRC(12, []byte("a chunk of a long body")),
			Chunks: []ChunkRef{{chunkAt, 22, BodyCRC(900, []byte("a chunk of a long body"))}}})
	})
	replacement := []mailq.Recipient{{Queue: "smtp:example.com", Address: "m1@example.com"}, {Queue: "local", Address: "m2@example.org"}}
	rcpts := b.add(RecipientsSize(replacement), func(dst []byte, back int64) Record { return PutRecipients(dst, back, 10, 4, replacement) })
	rcptsBack := rcpts.Back()
	b.settle(10, SettleRun{First: 3, Count: 1, Result: mailq.Replaced})
	routed := g.frame(Data, b)

	b = &batch{}
	b.settle(10,
		SettleRun{First: 0, Count: 1, Result: mailq.Delivered, Attempts: 1},
		SettleRun{First: 1, Count: 1, Result: mailq.Deferred, Attempts: 2, Until: 1_700_001_200_000_000_000, Note: []byte("451 4.7.1 later")},
		SettleRun{First: 2, Count: 1, Result: mailq.Uncertain, Attempts: 1, Note: []byte{}},
		SettleRun{First: 4, Count: 1, Result: mailq.Held, Edit: true},
		SettleRun{First: 5, Count: 1, Result: mailq.Failed, Attempts: 1})
	b.settle(11, SettleRun{First: 0, Count: 1, Result: mailq.Removed})
	b.settle(10, SettleRun{First: 4, Count: 1, Result: mailq.Released}, SettleRun{First: 2, Count: 1, Result: mailq.Expired, Attempts: AttemptsMax})
	g.frame(Data, b)

	b = &batch{}
	b.add(QueueSize("smtp:example.com"), func(dst []byte, back int64) Record {
		return PutQueue(dst, back, "smtp:example.com", mailq.QueueState{Mode: mailq.Suspended, Doubt: mailq.DeferDoubt, DoubtDelay: time.Hour})
	})
	b.add(FlushSize("smtp:example.com"), func(dst []byte, back int64) Record {
		return PutFlush(dst, back, "smtp:example.com", 1_700_000_900_000_000_000)
	})
	b.add(ForgetSize, func(dst []byte, back int64) Record { return PutForget(dst, back, 1) })
	g.frame(Data, b)

	b = &batch{}
	b.moved(enqueue, enqueue.ID(), enqueueAt, first.Body)
	b.moved(rcpts, rcpts.ID(), routed.Pos+Pos(rcptsBack), nil)
	b.moved(Record(g.data[chunkAt.Offset():][:ChunkSize]), 12, chunkAt, []byte("a chunk of a long body"))
	g.frame(Data, b)

	b = &batch{}
	b.add(AttemptSize, func(dst []byte, back int64) Record { return PutAttempt(dst, back, 10, 1, 4) })
	g.frame(Marker, b)
	g.frame(Marker, &batch{})

	b = &batch{}
	b.add(SealSize, func(dst []byte, back int64) Record { return PutSeal(dst, back, 2, 0xfedcba9876543210) })
	g.frame(Seal, b)
	return g
}

// dump is a segment as text: what each field decodes to.
func dump(w *strings.Builder, s *Segment) error {
	fmt.Fprintf(w, "segment %d alignment %d size %d salt %016x uuid %x created %d\n", s.Number, s.Alignment, s.Size, s.Salt, s.UUID, s.Created)
	stop, err := s.Scan(s.First(), FrameHeader{}, func(f *Frame) error {
		whole, err := s.CheckBodies(f, nil)
		if err != nil {
			return err
		}
		h := &f.FrameHeader
		fmt.Fprintf(w, "\n%v %v length %d epoch %d nonce %x promise %v lease %d time %d total %d\n", h.Pos, h.Kind, h.Len, h.Epoch, h.Nonce, h.Promise, h.Lease, h.Time, h.Total)
		fmt.Fprintf(w, "  crc %08x previous %08x table %d %08x bodies %d+%d whole %v\n", h.CRC, h.Previous, h.TableLen, h.TableCRC, h.BodyOff, h.BodyLen, whole)
		return f.ForEach(func(p Pos, r Record) error {
			fmt.Fprintf(w, "  %v %v", p, r.Kind())
			if from := r.MovedFrom(); from != 0 {
				fmt.Fprintf(w, " moved from %v held by %d", from, r.Holder())
			}
			dumpRecord(w, r)
			return nil
		})
	})
	fmt.Fprintf(w, "\nsealed %v at %#x\n", stop.Sealed, stop.Off)
	return err
}

func dumpRecord(w *strings.Builder, r Record) {
	list := func(l *RecipientList) {
		var names []string
		l.QueueNames(func(_ int, name []byte) { names = append(names, string(name)) })
		l.Addresses(0, func(i int, address, note []byte) bool {
			q, notBefore := l.Route(i)
			fmt.Fprintf(w, "    %d: %q in %q note %q not before %d\n", i, address, names[q], note, notBefore)
			return true
		})
		for i := range l.Chunks() {
			c := l.Chunk(i)
			fmt.Fprintf(w, "    chunk %d: %v length %d crc %08x\n", i, c.Pos, c.Len, c.CRC)
		}
	}
	switch r.Kind() {
	case KindEnqueue:
		e := r.Enqueue()
		fmt.Fprintf(w, " id %x late %d at %d expires %d priority %d key %q envelope %q body %d+%d crc %08x\n", r.ID(), e.Late, e.EnqueuedAt, e.ExpiresAt, e.Priority, e.Key(), e.Envelope(), r.BodyOff(), e.BodyLen, e.BodyCRC)
		list(&e.RecipientList)
	case KindRecipients:
		e := r.Recipients()
		fmt.Fprintf(w, " id %x first %d\n", r.ID(), e.First)
		list(&e.RecipientList)
	case KindSettle:
		fmt.Fprintf(w, " id %x at %d\n", r.ID(), r.SettleAt())
		r.Runs(func(s SettleRun) {
			fmt.Fprintf(w, "    %d+%d %v attempts %d until %d", s.First, s.Count, s.Result, s.Attempts, s.Until)
			if s.Note != nil {
				fmt.Fprintf(w, " note %q", s.Note)
			}
			if s.Edit {
				fmt.Fprint(w, " edit")
			}
			fmt.Fprintln(w)
		})
	case KindAttempt:
		first, count := r.AttemptRun()
		fmt.Fprintf(w, " id %x %d+%d\n", r.ID(), first, count)
	case KindQueue:
		name, s := r.Queue()
		fmt.Fprintf(w, " %q mode %d doubt %d delay %v\n", name, s.Mode, s.Doubt, s.DoubtDelay)
	case KindFlush:
		name, at := r.Flush()
		fmt.Fprintf(w, " %q at %d\n", name, at)
	case KindChunk:
		seq, n, crc := r.Chunk()
		fmt.Fprintf(w, " stream %x sequence %d body %d+%d crc %08x\n", r.ID(), seq, r.BodyOff(), n, crc)
	case KindForget:
		fmt.Fprintf(w, " %d\n", r.Forget())
	case KindOpen:
		fmt.Fprintf(w, " %+v\n", r.Open())
	case KindSeal:
		number, salt := r.Seal()
		fmt.Fprintf(w, " successor %d salt %016x\n", number, salt)
	}
}

// TestGolden pins the format: what was written by the first version can be read,
// means the same, and is written the same.
func TestGolden(t *testing.T) {
	g := goldenSegment()
	name := filepath.Join("testdata", "golden", "v1-all")
	if *update {
		write(t, name+".seg", g.data)
	}
	golden, err := os.ReadFile(name + ".seg")
	if err != nil {
		t.Fatal(err)
	}
	if !bytes.Equal(g.data, golden) {
		at := 0
		for at < min(len(g.data), len(golden)) && g.data[at] == golden[at] {
			at++
		}
		t.Errorf("encoded otherwise than %s, from offset %#x on", name, at)
	}
	g.data = golden
	s, _ := g.open(t)
	var w strings.Builder
	if err := dump(&w, s); err != nil {
		t.Fatal(err)
	}
	if *update {
		write(t, name+".txt", []byte(w.String()))
	}
	text, err := os.ReadFile(name + ".txt")
	if err != nil {
		t.Fatal(err)
	}
	got, want := strings.Split(w.String(), "\n"), strings.Split(string(text), "\n")
	for i := range max(len(got), len(want)) {
		if i >= len(got) || i >= len(want) || got[i] != want[i] {
			t.Fatalf("decoded otherwise than %s.txt, from line %d on; all of it:\n%s", name, i+1, w.String())
		}
	}
	seen := map[string]bool{}
	for line := range strings.SplitSeq(w.String(), "\n") {
		if f := strings.Fields(line); len(f) > 1 {
			seen[f[1]] = true
		}
	}
	for k := KindEnqueue; k <= KindSeal; k++ {
		if !seen[k.String()] {
			t.Errorf("there is no %v record in it", k)
		}
	}
	for k := Data; k <= Open; k++ {
		if !seen[k.String()] {
			t.Errorf("there is no %v frame in it", k)
		}
	}
}

func write(t *testing.T, name string, b []byte) {
	t.Helper()
	if err := os.WriteFile(name, b, 0o644); err != nil {
		t.Fatal(err)
	}
}
