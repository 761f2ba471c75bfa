package wal

import (
	"bytes"
	"context"
	"errors"
	"io"
	"math/rand/v2"
	"strings"
	"syscall"
	"testing"
	"testing/synctest"

	"pgregory.net/rapid"

	"github.com/mtawal/mtawal/internal/disk"
	"github.com/mtawal/mtawal/internal/disk/faultdisk"
	"github.com/mtawal/mtawal/internal/disk/memdisk"
	"github.com/mtawal/mtawal/mailq"
	"github.com/mtawal/mtawal/segment"
)

// stagedBody stages a text in pieces of all sizes.
func stagedBody(t *testing.T, s *Store, text string) Staged {
	t.Helper()
	st, err := s.Stage(t.Context(), 0)
	if err != nil {
		t.Fatalf("stage: %v", err)
	}
	writeAll(t, st, text)
	return st
}

func writeAll(t *testing.T, st Staged, text string) {
	t.Helper()
	for n := 1; len(text) > 0; n = 3*n + 1 {
		n := min(n, len(text))
		if k, err := st.Write([]byte(text[:n])); k != n || err != nil {
			t.Fatalf("write of %d: %d, %v", n, k, err)
		}
		text = text[n:]
	}
}

// stagedMail is a message to one recipient in queue q, as mailing is.
func stagedMail(st Staged) Message {
	m := mailing("")
	m.Body, m.Staged = nil, st
	return m
}

// long is a text that takes several chunks, and with the smallest segments several of
// those.
func long(name string) string { return name + strings.Repeat(" a long letter", 12_000) }

// kinds counts the records of a store that is closed.
func kinds(t *testing.T, fs disk.FS) map[string]int {
	t.Helper()
	n := make(map[string]int)
	if err := Dump(spool, tiny(fs), false, func(r *DumpRecord) error { n[r.Kind]++; return nil }); err != nil {
		t.Fatal(err)
	}
	return n
}

// Short bodies go inline, long ones in chunks, and both come back as they were.
func TestStagedInlineAndInChunks(t *testing.T) {
	for name, text := range map[string]string{"empty": "", "short": "dear", "long": long("dear")} {
		t.Run(name, func(t *testing.T) {
			scenario(t, func(t *testing.T) {
				fs := memdisk.New(memdisk.Config{})
				s := started(t, tiny(fs))
				st := stagedBody(t, s, text)
				if _, err := s.Enqueue(t.Context(), stagedMail(st)); err != nil {
					t.Fatal(err)
				}
				holds(t, s, text)
				if got := s.Stats(); got.Staged != 0 || got.StagedBytes != 0 {
					t.Errorf("%d bodies are staged, %d bytes", got.Staged, got.StagedBytes)
				}
				ended(t, s)
				if n := kinds(t, fs)["chunk"]; (n > 0) != (name == "long") {
					t.Errorf("%d chunks", n)
				}
				s = started(t, tiny(fs))
				holds(t, s, text)
				ended(t, s)
			})
		})
	}
}

// What was written is read back at every offset, be it in memory, on its way, or in the log.
func TestStagedReadBack(t *testing.T) {
	fs := memdisk.New(memdisk.Config{})
	s, err := Open(spool, tiny(fs))
	if err != nil {
		t.Fatal(err)
	}
	rapid.Check(t, func(t *rapid.T) {
		st, err := s.Stage(context.Background(), 0)
		if err != nil {
			t.Fatal(err)
		}
		defer st.Abort()
		var want []byte
		for range rapid.IntRange(1, 12).Draw(t, "steps") {
			if rapid.Bool().Draw(t, "write") {
				p := make([]byte, rapid.SampledFrom([]int{0, 1, 700, 5000, s.limits.stage - 1, s.limits.stage, s.limits.stage + 1, 50_000}).Draw(t, "bytes"))
				for i := range p {
					p[i] = byte(rand.Uint32())
				}
				n, err := st.Write(p)
				want = append(want, p...)
				clear(p) // it is ours again
				if n != len(p) || err != nil || st.Size() != int64(len(want)) {
					t.Fatalf("wrote %d of %d, %v; size %d, want %d", n, len(p), err, st.Size(), len(want))
				}
				continue
			}
			off := rapid.IntRange(0, len(want)+10).Draw(t, "off")
			p := make([]byte, rapid.IntRange(0, len(want)+10).Draw(t, "n"))
			n, err := st.ReadAt(p, int64(off))
			exp := want[min(off, len(want)):min(off+len(p), len(want))]
			if !bytes.Equal(p[:n], exp) || (err == io.EOF) != (n < len(p)) || err != nil && err != io.EOF {
				t.Fatalf("ReadAt %d bytes at %d of %d: %d, %v", len(p), off, len(want), n, err)
			}
		}
	})
	st, err := s.Stage(t.Context(), 0)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := st.ReadAt(make([]byte, 1), -1); !errors.Is(err, ErrInvalid) {
		t.Errorf("ReadAt at -1: %v", err)
	}
	ended(t, s)
}

// A chunk that is not any more what was written is an error of ReadAt, and of nobody else.
func TestStagedReadBackOfDamage(t *testing.T) {
	fs := memdisk.New(memdisk.Config{})
	s := started(t, tiny(fs))
	st := stagedBody(t, s, long("dear"))
	if err := st.(*stream).await(t.Context(), 0); err != nil {
		t.Fatal(err)
	}
	pos := st.(*stream).chunks[1].Pos
	seg, err := s.log.Acquire(pos.Segment())
	if err != nil {
		t.Fatal(err)
	}
	_, at, err := seg.AnyRecord(pos.Offset(), segment.KindChunk)
	release([]*segment.Segment{seg})
	if err != nil {
		t.Fatal(err)
	}
	if err := fs.Damage(segmentPath(pos.Segment()), at+100, []byte("?")); err != nil {
		t.Fatal(err)
	}
	p := make([]byte, st.Size())
	if n, err := st.ReadAt(p, 0); !errors.Is(err, ErrCorrupt) || string(p[:n]) != long("dear")[:n] {
		t.Errorf("%d bytes were read, and %v", n, err)
	}
	st.Abort()
	posted(t, s, "and the store goes on")
	ended(t, s)
}

// Each wrong use has its error, and changes nothing.
func TestStagedWrongUse(t *testing.T) {
	ctx := t.Context()
	s := started(t, tiny(memdisk.New(memdisk.Config{})))
	other := started(t, tiny(memdisk.New(memdisk.Config{})))
	send := func(s *Store, list ...Message) error {
		_, err := s.Commit(ctx, Batch{Enqueue: list})
		return err
	}
	for _, text := range []string{"short", long("long")} {
		taken, aborted, good := stagedBody(t, s, text), stagedBody(t, s, text), stagedBody(t, s, text)
		if err := send(s, stagedMail(taken)); err != nil {
			t.Fatal(err)
		}
		aborted.Abort()
		both := stagedMail(good)
		both.Body = []byte("b")
		for name, err := range map[string]error{
			"taken":               send(s, stagedMail(taken)),
			"aborted":             send(s, stagedMail(aborted)),
			"of another store":    send(other, stagedMail(good)),
			"twice in a batch":    send(s, stagedMail(good), stagedMail(good)),
			"beside a taken one":  send(s, stagedMail(good), stagedMail(taken)),
			"beside a body":       send(s, both),
			"read after taken":    second(taken.ReadAt(make([]byte, 1), 0)),
			"read after abort":    second(aborted.ReadAt(make([]byte, 1), 0)),
			"written after taken": second(taken.Write([]byte("x"))),
			"written after abort": second(aborted.Write([]byte("x"))),
		} {
			var field *mailq.FieldError
			if !errors.As(err, &field) || !strings.HasPrefix(field.Field, "Staged") && field.Field != "Body" {
				t.Errorf("%s: %v", name, err)
			}
		}
		// It is none the worse for all that.
		writeAll(t, good, " and more")
		if err := send(s, stagedMail(good)); err != nil {
			t.Fatal(err)
		}
		d := takenOf(t, s, 2)
		if got, err := textOf(d[1]); got != text+" and more" || err != nil {
			t.Errorf("the body is %.50q, %v", got, err)
		}
	}
	if st := s.Stats(); st.Staged != 0 || st.StagedBytes != 0 || len(s.streams) != 0 {
		t.Errorf("%d bodies are staged, %d bytes", st.Staged, st.StagedBytes)
	}
}

// takenOf claims so many deliveries of queue q and settles them.
func takenOf(t *testing.T, s *Store, n int) []*Delivery {
	t.Helper()
	list := make([]*Delivery, 0, n)
	for range n {
		list = append(list, taken(t, s))
	}
	t.Cleanup(func() {
		for _, d := range list {
			d.Release()
		}
	})
	return list
}

// While a batch has a body, no other batch gets it, nothing is written to it, and Abort waits
// for the outcome. Between the disk and the state its segments are still held.
func TestStagedInABatch(t *testing.T) {
	for _, refused := range []bool{false, true} {
		scenario(t, func(t *testing.T) {
			fs := faultdisk.New(memdisk.New(memdisk.Config{}))
			s := started(t, tiny(fs))
			st := stagedBody(t, s, long("dear"))
			writeAll(t, st, "tail")
			m := stagedMail(st)
			if refused {
				m.ID = 12345 // found out when its chunks are in the log
			}
			reached, letGo := fs.Stall(disk.OpWriteDurable, "seg-")
			done := make(chan error, 1)
			go func() { done <- second(s.Enqueue(context.Background(), m)) }()
			<-reached
			synctest.Wait()
			if _, err := s.Enqueue(t.Context(), m); !errors.Is(err, ErrInvalid) || !strings.Contains(err.Error(), "in a batch") {
				t.Errorf("in a second batch: %v", err)
			}
			if _, err := st.Write([]byte("x")); !errors.Is(err, ErrInvalid) {
				t.Errorf("a Write: %v", err)
			}
			p := make([]byte, 4)
			if _, err := st.ReadAt(p, 0); string(p) != "dear" || err != nil {
				t.Errorf("a read: %q, %v", p, err)
			}
			st.Abort()
			if s.Stats().Staged != 1 {
				t.Error("Abort has taken it from the batch")
			}
			letGo()
			if err := <-done; refused != errors.Is(err, ErrInvalid) || !refused && err != nil {
				t.Errorf("the batch: %v", err)
			}
			if n := s.Stats().Staged; n != 0 || len(s.streams) != 0 {
				t.Errorf("%d bodies are staged, %d streams are open", n, len(s.streams))
			}
			ended(t, s)
		})
	}
}

// Rule 8.1. "An open stream pins its segments until its Enqueue is applied": neither
// Abort nor Close nor a failure of the store ends that while the batch is on its way.
func TestScenario_StreamOfABatchIsHeldUntilItIsApplied(t *testing.T) {
	for name, act := range map[string]func(s *Store, st Staged){
		"abort": func(_ *Store, st Staged) { st.Abort() },
		"close": func(s *Store, _ Staged) { s.beginClose() },
		"latch": func(s *Store, _ Staged) { s.latch(syscall.EIO) },
	} {
		t.Run(name, func(t *testing.T) {
			scenario(t, func(t *testing.T) {
				var s *Store
				var st Staged
				seen := 0
				o := tiny(memdisk.New(memdisk.Config{}))
				o.Trace = &Trace{Durable: func(CommitInfo) {
					if seen > 0 || !landsNow(s, st) {
						return
					}
					seen++
					act(s, st)
					s.mu.Lock()
					defer s.mu.Unlock()
					if got := s.streamSegments(); !got[st.(*stream).chunks[0].Pos.Segment()] {
						t.Errorf("segments %v are held, the chunks are %+v", got, st.(*stream).chunks)
					}
				}}
				s = started(t, o)
				body := stagedBody(t, s, long("dear"))
				if err := body.(*stream).await(t.Context(), 0); err != nil {
					t.Fatal(err)
				}
				st = body
				_, err := s.Enqueue(t.Context(), stagedMail(st))
				if name != "latch" && err != nil {
					t.Error(err)
				}
				if seen == 0 {
					t.Error("the batch was never seen on its way")
				}
			})
		})
	}
}

// landsNow reports whether the batch that takes a body is in the frame that lands.
func landsNow(s *Store, body Staged) bool {
	st, _ := body.(*stream)
	if st == nil {
		return false
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	st.mu.Lock()
	defer st.mu.Unlock()
	t, _ := st.user.(*ticket)
	return t != nil && t.group != nil && t.group == s.committer.flights[0]
}

// pinnedNow is the segments that open streams hold.
func pinnedNow(s *Store) map[uint32]bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.streamSegments()
}
