package mailqtest

import (
	"bytes"
	"errors"
	"io"
	"testing/iotest"

	"github.com/mtawal/mtawal/mailq"
)

var bodyTests = []test{
	{"ReadAt, WriteTo, Size and View show the bytes", bodyReads, nil},
	{"out of range", bodyRange, nil},
	{"an empty body", bodyEmpty, nil},
	{"View returns what f returns", bodyViewError, nil},
	{"WriteTo returns the writer's error", bodyWriteError, nil},
	{"many goroutines", bodyMany, nil},
	{"ErrSettled after the settle", bodySettled, nil},
	{"valid while a recipient is not settled", bodyPartly, nil},
	{"ErrSettled after Release", bodyReleased, nil},
	{"ErrClosed after Close", bodyClosed, nil},
	{"a view outlives the settle", bodyViewPinned, nil},
	{"a view outlives Close", bodyViewClose, nil},
}

// withBody enqueues and claims a message with a body of n bytes.
func (e *env) withBody(n int) (*mailq.Delivery, []byte) {
	e.Helper()
	m := mail("q", "")
	m.Body = noise(7, n)
	e.send(m)
	return e.claim("q"), m.Body
}

func bodyReads(e *env) {
	d, want := e.withBody(100_000)
	b := d.Body
	if b.Size() != int64(len(want)) {
		e.Fatalf("Size is %d, want %d", b.Size(), len(want))
	}
	for range 2 {
		if e.body(d) != string(want) {
			e.Error("WriteTo wrote other bytes")
		}
	}
	if err := iotest.TestReader(io.NewSectionReader(b, 0, b.Size()), want); err != nil {
		e.Error(err)
	}
	for _, r := range [][2]int64{{0, 1}, {0, 100_000}, {99_999, 1}, {4095, 2}, {4096, 4096}, {1, 70_000}} {
		p := make([]byte, r[1])
		if n, err := b.ReadAt(p, r[0]); int64(n) != r[1] || err != nil && err != io.EOF || !bytes.Equal(p, want[r[0]:r[0]+r[1]]) {
			e.Errorf("ReadAt of %d at %d: %d, %v, or other bytes", r[1], r[0], n, err)
		}
		calls := 0
		err := b.View(r[0], r[1], func(p []byte) error {
			calls++
			if !bytes.Equal(p, want[r[0]:r[0]+r[1]]) {
				e.Errorf("View of %d at %d showed %d other bytes", r[1], r[0], len(p))
			}
			return nil
		})
		if err != nil || calls != 1 {
			e.Errorf("View of %d at %d: %v, f called %d times", r[1], r[0], err, calls)
		}
	}
}

func bodyRange(e *env) {
	d, want := e.withBody(1000)
	p := make([]byte, 100)
	if n, err := d.Body.ReadAt(p, 950); n != 50 || err != io.EOF || !bytes.Equal(p[:50], want[950:]) {
		e.Errorf("ReadAt across the end: %d, %v, want 50 and io.EOF", n, err)
	}
	for _, off := range []int64{1000, 1001, 1 << 40, 1<<63 - 1} {
		if n, err := d.Body.ReadAt(p, off); n != 0 || err != io.EOF {
			e.Errorf("ReadAt at %d: %d, %v, want 0 and io.EOF", off, n, err)
		}
	}
	if n, err := d.Body.ReadAt(p, -1); n != 0 || err == nil || err == io.EOF {
		e.Errorf("ReadAt at -1: %d, %v, want an error", n, err)
	}
	for _, r := range [][2]int64{{-1, 1}, {0, -1}, {0, 1001}, {1000, 1}, {999, 2}, {1001, 0}, {1, 1<<63 - 1}, {1<<63 - 1, 1}, {1<<63 - 1, 1<<63 - 1}} {
		err := d.Body.View(r[0], r[1], func([]byte) error {
			e.Errorf("View of %d at %d called f", r[1], r[0])
			return nil
		})
		if err == nil {
			e.Errorf("View of %d at %d: no error", r[1], r[0])
		}
	}
}

func bodyEmpty(e *env) {
	d, _ := e.withBody(0)
	if e.body(d) != "" {
		e.Error("the empty body has bytes")
	}
	if n, err := d.Body.ReadAt(make([]byte, 1), 0); n != 0 || err != io.EOF {
		e.Errorf("ReadAt: %d, %v, want 0 and io.EOF", n, err)
	}
	calls := 0
	if err := d.Body.View(0, 0, func(p []byte) error { calls += 1 + len(p); return nil }); err != nil || calls != 1 {
		e.Errorf("View of all: %v, want f called once with nothing", err)
	}
}

func bodyViewError(e *env) {
	d, _ := e.withBody(10)
	mine := errors.New("mine")
	if err := d.Body.View(0, 10, func([]byte) error { return mine }); !errors.Is(err, mine) {
		e.Errorf("View: %v, want what f returned", err)
	}
	if e.body(d) == "" {
		e.Error("the body is gone")
	}
}

func bodyWriteError(e *env) {
	d, _ := e.withBody(100_000)
	r, w := io.Pipe()
	mine := errors.New("mine")
	r.CloseWithError(mine)
	if _, err := d.Body.WriteTo(w); !errors.Is(err, mine) {
		e.Errorf("WriteTo: %v, want the writer's error", err)
	}
}

func bodyMany(e *env) {
	d, want := e.withBody(200_000)
	wg := e.team()
	for g := range 8 {
		wg.Go(func() {
			for i := range 20 {
				off := int64((g*20 + i) * 1000)
				p := make([]byte, 5000)
				if _, err := d.Body.ReadAt(p, off); err != nil || !bytes.Equal(p, want[off:off+5000]) {
					e.Errorf("ReadAt at %d: %v or other bytes", off, err)
				}
				err := d.Body.View(off, 5000, func(p []byte) error {
					if !bytes.Equal(p, want[off:off+5000]) {
						return errors.New("other bytes")
					}
					return nil
				})
				if err != nil {
					e.Errorf("View at %d: %v", off, err)
				}
			}
		})
	}
	wg.Wait()
}

// bodyEnds fails unless every way to read gives this error.
func (e *env) bodyEnds(b mailq.Body, want error) {
	e.Helper()
	n, err := b.ReadAt(make([]byte, 5), 0)
	e.wants("ReadAt", err, want)
	m, werr := b.WriteTo(io.Discard)
	e.wants("WriteTo", werr, want)
	if n != 0 || m != 0 {
		e.Errorf("ReadAt gave %d bytes and WriteTo %d", n, m)
	}
	e.wants("View", b.View(0, 5, func(p []byte) error {
		e.Errorf("View showed %q", p)
		return nil
	}), want)
}

func bodySettled(e *env) {
	for _, r := range []mailq.Result{mailq.Delivered, mailq.Deferred} {
		d, _ := e.withBody(1000)
		e.settleAll(d, r)
		e.bodyEnds(d.Body, mailq.ErrSettled)
		e.deliverAll(e.all())
	}
}

func bodyPartly(e *env) {
	m := mailTo("q", "hello", 2)
	e.send(m)
	d := e.claim("q")
	e.settle(d, outcome(0, mailq.Delivered))
	if e.body(d) != "hello" {
		e.Error("the body has changed")
	}
	e.settle(d, outcome(1, mailq.Delivered))
	e.bodyEnds(d.Body, mailq.ErrSettled)
}

func bodyReleased(e *env) {
	d, want := e.withBody(1000)
	e.release(d)
	e.bodyEnds(d.Body, mailq.ErrSettled)
	if again := e.claim("q"); e.body(again) != string(want) {
		e.Error("the next claim's body is another")
	}
}

func bodyClosed(e *env) {
	d, _ := e.withBody(1000)
	e.close()
	e.bodyEnds(d.Body, mailq.ErrClosed)
}

func bodyViewPinned(e *env) {
	d, want := e.withBody(100_000)
	e.within("a settle inside View", func() {
		err := d.Body.View(0, 100_000, func(p []byte) error {
			if err := d.SettleAll(e.ctx, mailq.Delivered); err != nil {
				return err
			}
			if !bytes.Equal(p, want) {
				return errors.New("the bytes changed under the view")
			}
			return nil
		})
		if err != nil {
			e.Error(err)
		}
	})
}

func bodyViewClose(e *env) {
	d, want := e.withBody(100_000)
	s := e.store
	e.store = nil
	e.within("a Close inside View", func() {
		err := d.Body.View(0, 100_000, func(p []byte) error {
			err := s.Close()
			if !bytes.Equal(p, want) {
				return errors.New("the bytes changed under the view")
			}
			return err
		})
		if err != nil {
			e.Error(err)
		}
	})
}
