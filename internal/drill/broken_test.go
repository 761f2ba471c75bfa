package drill

import (
	"bytes"
	"context"
	"errors"
	"io"
	"sync"
	"sync/atomic"

	"github.com/mtawal/mtawal/mailq"
)

// Stores that break one promise each, over the spool, which keeps them all as
// long as nobody kills it. The drill has to notice.

func brokenEngine(name string, wrap func(mailq.Store) mailq.Store) Engine {
	return brokenOver(PerFile, name, wrap)
}

func brokenOver(over Engine, name string, wrap func(mailq.Store) mailq.Store) Engine {
	return Engine{
		Name: name,
		Open: func(dir string, with Companion) (mailq.Store, error) {
			s, err := over.Open(dir, with)
			if err != nil {
				return nil, err
			}
			return wrap(s), nil
		},
		Verify: over.Verify,
	}
}

var brokenEngines = []Engine{
	brokenEngine("loses", func(s mailq.Store) mailq.Store { return &losing{Store: s} }),
	brokenEngine("loses-bounces", func(s mailq.Store) mailq.Store { return &unbouncing{s} }),
	brokenEngine("forgets", func(s mailq.Store) mailq.Store { return &forgetful{Store: s} }),
	brokenEngine("hides-doubt", hidingDoubt),
	brokenOver(Wal, "wal-hides-doubt", hidingDoubt),
	brokenEngine("doubts-all", func(s mailq.Store) mailq.Store {
		return &editing{s, func(d *mailq.Delivery, n int64) {
			for i := range d.Recipients {
				d.Recipients[i].InDoubt = true
			}
		}}
	}),
	brokenEngine("alters", func(s mailq.Store) mailq.Store {
		return &editing{s, func(d *mailq.Delivery, n int64) {
			if n%50 == 0 {
				d.Body = flipped{d.Body}
			}
		}}
	}),
	brokenEngine("mixes", func(s mailq.Store) mailq.Store {
		return &editing{s, func(d *mailq.Delivery, n int64) {
			if n%50 == 0 {
				d.Recipients[0].Address = "1.r0@elsewhere"
			}
		}}
	}),
	brokenEngine("gives-up", func(s mailq.Store) mailq.Store { return &givingUp{Store: s} }),
	brokenEngine("hangs", func(s mailq.Store) mailq.Store { return &hanging{Store: s} }),
	brokenEngine("leaves-a-rest", func(s mailq.Store) mailq.Store { return restful{s} }),
	{
		Name:   "never-opens",
		Open:   func(string, Companion) (mailq.Store, error) { return nil, errors.New("the door is stuck") },
		Verify: PerFile.Verify,
	},
	{
		Name:   "finds",
		Open:   PerFile.Open,
		Verify: func(string) (string, error) { return "a finding", nil },
	},
}

func hidingDoubt(s mailq.Store) mailq.Store {
	return &editing{s, func(d *mailq.Delivery, n int64) {
		for i := range d.Recipients {
			d.Recipients[i].InDoubt = false
		}
	}}
}

// losing acknowledges every 50th message and drops it.
type losing struct {
	mailq.Store
	n atomic.Int64
}

func (s *losing) Enqueue(ctx context.Context, m mailq.Message) (mailq.ID, error) {
	if s.n.Add(1)%50 == 0 {
		return s.NewID(), nil
	}
	return s.Store.Enqueue(ctx, m)
}

// unbouncing settles and drops the bounces of the batch.
type unbouncing struct{ mailq.Store }

func (s *unbouncing) Commit(ctx context.Context, b mailq.Batch) ([]mailq.ID, error) {
	ids := make([]mailq.ID, len(b.Enqueue))
	b.Enqueue = nil
	_, err := s.Store.Commit(ctx, b)
	return ids, err
}

// editing changes the n-th delivery on its way to the worker.
type editing struct {
	mailq.Store
	edit func(d *mailq.Delivery, n int64)
}

func (s *editing) Consumer(o mailq.ConsumerOptions) (mailq.Consumer, error) {
	c, err := s.Store.Consumer(o)
	return &editingConsumer{Consumer: c, edit: s.edit}, err
}

type editingConsumer struct {
	mailq.Consumer
	edit func(d *mailq.Delivery, n int64)
	n    atomic.Int64
}

func (c *editingConsumer) Next(ctx context.Context) (*mailq.Delivery, error) {
	d, err := c.Consumer.Next(ctx)
	if err == nil {
		c.edit(d, c.n.Add(1))
	}
	return d, err
}

func (c *editingConsumer) TryNext(queue string) (*mailq.Delivery, bool) {
	d, ok := c.Consumer.TryNext(queue)
	if ok {
		c.edit(d, c.n.Add(1))
	}
	return d, ok
}

// flipped is a body with a bit turned over.
type flipped struct{ mailq.Body }

func (b flipped) WriteTo(w io.Writer) (int64, error) {
	var buf bytes.Buffer
	if _, err := b.Body.WriteTo(&buf); err != nil {
		return 0, err
	}
	buf.Bytes()[buf.Len()/2] ^= 1
	return buf.WriteTo(w)
}

// forgetful hands out some deliveries again after they were settled, with the
// excuse of a doubt.
type forgetful struct {
	mailq.Store
	mu    sync.Mutex
	again []*mailq.Delivery
	n     int
}

func (s *forgetful) Consumer(o mailq.ConsumerOptions) (mailq.Consumer, error) {
	c, err := s.Store.Consumer(o)
	return &forgetfulConsumer{Consumer: c, store: s}, err
}

type forgetfulConsumer struct {
	mailq.Consumer
	store *forgetful
}

func (c *forgetfulConsumer) Next(ctx context.Context) (*mailq.Delivery, error) {
	s := c.store
	s.mu.Lock()
	if len(s.again) > 0 {
		d := s.again[0]
		s.again = s.again[1:]
		s.mu.Unlock()
		return d, nil
	}
	s.mu.Unlock()
	d, err := c.Consumer.Next(ctx)
	if err != nil {
		return nil, err
	}
	var buf bytes.Buffer
	if _, err := d.Body.WriteTo(&buf); err != nil {
		return nil, err
	}
	copied := *d
	copied.Body = bytesBody{bytes.NewReader(buf.Bytes())}
	copied.Recipients = nil
	for _, r := range d.Recipients {
		r.InDoubt = true
		copied.Recipients = append(copied.Recipients, r)
	}
	return mailq.NewDelivery(*d, &remembered{Claim: d.Claim(), store: s, copied: copied}), nil
}

// remembered is a claim that puts the delivery back once it is delivered.
type remembered struct {
	mailq.Claim
	store  *forgetful
	copied mailq.Delivery
}

func (c *remembered) Settle(ctx context.Context, o []mailq.Outcome) error {
	err := c.Claim.Settle(ctx, o)
	if err != nil || len(o) != 1 || o[0].Recipient != mailq.All || o[0].Result != mailq.Delivered {
		return err
	}
	c.store.mu.Lock()
	defer c.store.mu.Unlock()
	if c.store.n++; c.store.n%20 == 1 {
		c.store.again = append(c.store.again, mailq.NewDelivery(c.copied, careless{}))
	}
	return nil
}

// Commit finds the real claims behind the wrapped ones.
func (s *forgetful) Commit(ctx context.Context, b mailq.Batch) ([]mailq.ID, error) {
	var real []mailq.Settlement
	for _, st := range b.Settle {
		switch c := st.Delivery.Claim().(type) {
		case careless:
			continue
		case *remembered:
			st.Delivery = mailq.NewDelivery(*st.Delivery, c.Claim)
		}
		real = append(real, st)
	}
	b.Settle = real
	if len(b.Settle)+len(b.Enqueue) == 0 {
		return nil, nil
	}
	return s.Store.Commit(ctx, b)
}

func (s *forgetful) Submit(b mailq.Batch) mailq.Ticket {
	_, err := s.Commit(context.Background(), b)
	return done{err}
}

type done struct{ err error }

func (d done) Done() <-chan struct{} {
	c := make(chan struct{})
	close(c)
	return c
}
func (d done) Wait(context.Context) ([]mailq.ID, error) { return nil, d.err }

// careless is a claim on nothing.
type careless struct{}

func (careless) Start(context.Context, []int) error            { return nil }
func (careless) Settle(context.Context, []mailq.Outcome) error { return nil }
func (careless) Release()                                      {}
func (careless) Context() context.Context                      { return context.Background() }

type bytesBody struct{ *bytes.Reader }

func (b bytesBody) WriteTo(w io.Writer) (int64, error) {
	return io.Copy(w, io.NewSectionReader(b.Reader, 0, b.Size()))
}

func (b bytesBody) View(off, n int64, f func([]byte) error) error {
	p := make([]byte, n)
	if _, err := b.ReadAt(p, off); err != nil {
		return err
	}
	return f(p)
}

// givingUp fails for good after 100 messages.
type givingUp struct {
	mailq.Store
	n atomic.Int64
}

func (s *givingUp) Enqueue(ctx context.Context, m mailq.Message) (mailq.ID, error) {
	if s.n.Add(1) > 100 {
		return 0, mailq.ErrFailed
	}
	return s.Store.Enqueue(ctx, m)
}

// hanging takes no message after the 100th, and does not say so.
type hanging struct {
	mailq.Store
	n atomic.Int64
}

func (s *hanging) Enqueue(ctx context.Context, m mailq.Message) (mailq.ID, error) {
	if s.n.Add(1) > 100 {
		select {}
	}
	return s.Store.Enqueue(ctx, m)
}

// restful says that something is left when nothing is.
type restful struct{ mailq.Store }

func (s restful) Stats() mailq.Stats {
	st := s.Store.Stats()
	st.WorkQueueLength++
	return st
}
