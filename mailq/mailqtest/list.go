package mailqtest

import (
	"context"
	"fmt"
	"slices"
	"time"

	"github.com/mtawal/mtawal/mailq"
)

var listTests = []test{
	{"an empty store", listEmpty, nil},
	{"filters", listFilters, nil},
	{"a filter for doubt", listDoubt, []need{doubt}},
	{"limit", listLimit, nil},
	{"the loop may stop early", listBreak, nil},
	{"the loop may call the store", listNested, nil},
	{"an iterator may run twice", listTwice, nil},
	{"an ended context ends it", listContext, nil},
	{"queues by name, with counts and oldest", listQueues, nil},
	{"an empty queue is gone", listEmptyQueue, nil},
}

func listEmpty(e *env) {
	if n := len(e.entries(mailq.Filter{})); n != 0 {
		e.Errorf("Entries lists %d", n)
	}
	if n := len(e.queues()); n != 0 {
		e.Errorf("Queues lists %d", n)
	}
}

func listFilters(e *env) {
	m := mailTo("a", "x", 3)
	m.Recipients[2].Queue = "b"
	one := e.send(m)
	e.settle(e.claim("a"), outcome(0, mailq.Delivered), later(time.Hour))
	e.oneEach("a", "ab", "b", "c")
	e.claim("c")

	pick := func(f mailq.Filter) string {
		var s []string
		for _, x := range e.entries(f) {
			s = append(s, fmt.Sprint(x.Queue, ":", x.State))
		}
		slices.Sort(s)
		return fmt.Sprint(s)
	}
	for _, tt := range []struct {
		f    mailq.Filter
		want string
	}{
		{mailq.Filter{}, "[a:deferred a:pending ab:pending b:pending b:pending c:claimed]"},
		{mailq.Filter{ID: one}, "[a:deferred b:pending]"},
		{mailq.Filter{ID: e.store.NewID()}, "[]"},
		{mailq.Filter{Queue: "a"}, "[a:deferred a:pending]"},
		{mailq.Filter{Queue: "A"}, "[]"},
		{mailq.Filter{Prefix: "a"}, "[a:deferred a:pending ab:pending]"},
		{mailq.Filter{Prefix: "none"}, "[]"},
		{mailq.Filter{Queue: "b", Prefix: "a"}, "[]"},
		{mailq.Filter{Queue: "a", Prefix: "a", ID: one}, "[a:deferred]"},
		{mailq.Filter{State: mailq.Pending}, "[a:pending ab:pending b:pending b:pending]"},
		{mailq.Filter{State: mailq.InDeferral}, "[a:deferred]"},
		{mailq.Filter{State: mailq.Claimed}, "[c:claimed]"},
		{mailq.Filter{State: mailq.OnHold}, "[]"},
		{mailq.Filter{State: mailq.Damaged}, "[]"},
		{mailq.Filter{State: mailq.Pending, Queue: "b", ID: one}, "[b:pending]"},
	} {
		if got := pick(tt.f); got != tt.want {
			e.Errorf("Entries(%+v) lists %s, want %s", tt.f, got, tt.want)
		}
	}
}

func listDoubt(e *env) {
	ids := e.posts("q", 3)
	e.settleAll(e.claim("q"), mailq.Uncertain)
	got := e.entries(mailq.Filter{InDoubt: true})
	if len(got) != 1 || got[0].ID != ids[0] || !got[0].InDoubt {
		e.Errorf("Entries in doubt are %+v, want that of %v", got, ids[0])
	}
}

func listLimit(e *env) {
	e.posts("a", 5)
	e.send(mailTo("b", "x", 5))
	for _, tt := range []struct {
		f    mailq.Filter
		want int
	}{{mailq.Filter{Limit: 1}, 1}, {mailq.Filter{Limit: 7}, 7}, {mailq.Filter{Limit: 10}, 10}, {mailq.Filter{Limit: 11}, 10}, {mailq.Filter{Queue: "b", Limit: 2}, 2}} {
		if got := len(e.entries(tt.f)); got != tt.want {
			e.Errorf("Entries(%+v) lists %d, want %d", tt.f, got, tt.want)
		}
	}
}

func listBreak(e *env) {
	e.posts("a", 10)
	e.posts("b", 10)
	n := 0
	for _, err := range e.store.Entries(e.ctx, mailq.Filter{}) {
		e.must(err)
		if n++; n == 3 {
			break
		}
	}
	for _, err := range e.store.Queues(e.ctx) {
		e.must(err)
		break
	}
	e.post("a", "x") // nothing is locked
	if n := len(e.entries(mailq.Filter{})); n != 21 {
		e.Errorf("Entries lists %d, want 21", n)
	}
}

func listNested(e *env) {
	e.posts("a", 5)
	e.posts("b", 5)
	c := e.all()
	e.within("calls of the store inside its iterators", func() {
		for x, err := range e.store.Entries(e.ctx, mailq.Filter{Queue: "a"}) {
			if err != nil {
				e.Errorf("Entries: %v", err)
				return
			}
			if err := e.store.MarkUsed(e.ctx, x.ID, x.Recipient); err != nil {
				e.Errorf("MarkUsed inside Entries: %v", err)
			}
			if _, err := e.store.Enqueue(e.ctx, mail("c", "x")); err != nil {
				e.Errorf("Enqueue inside Entries: %v", err)
			}
		}
		for q, err := range e.store.Queues(e.ctx) {
			if err != nil {
				e.Errorf("Queues: %v", err)
				return
			}
			if d, ok := c.TryNext(q.Name); ok {
				if err := d.SettleAll(e.ctx, mailq.Delivered); err != nil {
					e.Errorf("Settle inside Queues: %v", err)
				}
			}
		}
	})
	if n := len(e.entries(mailq.Filter{Queue: "a"})); n != 0 {
		e.Errorf("queue a holds %d, all of it was marked used", n)
	}
}

func listTwice(e *env) {
	e.posts("q", 3)
	entries, queues := e.store.Entries(e.ctx, mailq.Filter{}), e.store.Queues(e.ctx)
	for range 2 {
		n := 0
		for _, err := range entries {
			e.must(err)
			n++
		}
		for _, err := range queues {
			e.must(err)
			n++
		}
		if n != 4 {
			e.Errorf("3 entries and 1 queue came as %d", n)
		}
	}
}

func listContext(e *env) {
	e.posts("q", 3)
	ended, cancel := context.WithCancel(context.Background())
	cancel()
	last := func(what string, seen int, err error) {
		if err == nil {
			e.Errorf("%s with a context that has ended yields %d and no error", what, seen)
			return
		}
		e.wants(what+" with a context that has ended", err, context.Canceled)
	}
	n, err := 0, error(nil)
	for _, err = range e.store.Entries(ended, mailq.Filter{}) {
		n++
	}
	last("Entries", n, err)
	for _, err = range e.store.Queues(ended) {
		n++
	}
	last("Queues", n, err)
}

func listQueues(e *env) {
	m := mailTo("b", "x", 3)
	m.Recipients[2].Queue = "c"
	one := e.send(m)
	e.settle(e.claim("b"), outcome(0, mailq.Delivered), later(time.Hour))
	two := e.post("a", "x")
	e.post("b", "x")
	e.post("b", "x")
	e.claim("b")
	for range 2 {
		got := e.queues()
		if len(got) != 3 || got[0].Name != "a" || got[1].Name != "b" || got[2].Name != "c" {
			e.Fatalf("Queues lists %+v, want a, b and c", got)
		}
		if q := got[0]; q.Pending != 1 || q.Oldest != two || q.OldestAt.IsZero() || q.State != (mailq.QueueState{}) {
			e.Errorf("Queues lists %+v", q)
		}
		if q := got[1]; q.Deferred != 1 || q.Claimed+q.Pending != 2 || q.Oldest != one {
			e.Errorf("Queues lists %+v, the oldest of it is %v", q, one)
		}
		if q := got[2]; q.Pending != 1 || q.Oldest != one {
			e.Errorf("Queues lists %+v, the oldest of it is %v", q, one)
		}
		e.reopen()
	}
}

func listEmptyQueue(e *env) {
	e.oneEach("a", "b")
	e.served(e.consumer(mailq.ConsumerOptions{Queues: []string{"a"}}), "a")
	for range 2 {
		if got := e.queues(); len(got) != 1 || got[0].Name != "b" {
			e.Errorf("Queues lists %+v, want b alone", got)
		}
		e.reopen()
	}
}
