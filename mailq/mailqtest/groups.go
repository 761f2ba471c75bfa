package mailqtest

import (
	"time"

	"github.com/mtawal/mtawal/mailq"
)

var groupTests = []test{
	{"PerGroup over the queues of a group", groupPerGroup, []need{groups}},
	{"Limit", groupLimit, []need{groups}},
	{"Pause", groupPause, []need{groups}},
	{"fair over groups, then queues", groupFair, []need{groups}},
}

func groupPerGroup(e *env) {
	for _, q := range []string{"a", "b", "c"} {
		e.posts(q, 2)
	}
	c := e.consumer(mailq.ConsumerOptions{PerGroup: 1})
	c.SetGroup("a", "site")
	c.SetGroup("b", "site")
	one, two := e.next(c), e.next(c)
	if (one.Queue == "c") == (two.Queue == "c") {
		e.Fatalf("%q and %q are out, want c and one of the site", one.Queue, two.Queue)
	}
	e.nothing(c, "a", "b", "c")
	if one.Queue == "c" {
		one, two = two, one
	}
	e.settleAll(one, mailq.Delivered)
	if d := e.next(c); d.Queue == "c" {
		e.Error("a second delivery of c is out")
	}
	e.nothing(c, "a", "b", "c")
}

func groupLimit(e *env) {
	e.posts("a", 3)
	e.posts("b", 3)
	c := e.all()
	c.SetGroup("a", "site")
	c.SetGroup("b", "site")
	c.Limit("site", 2)
	d := e.next(c)
	e.next(c)
	e.nothing(c, "a", "b")
	waiting := e.waiting(e.ctx, c)
	e.settleAll(d, mailq.Delivered)
	e.must(e.outcome(waiting).err)
	e.nothing(c, "a", "b")
	waiting = e.waiting(e.ctx, c)
	c.Limit("site", 0)
	e.must(e.outcome(waiting).err)
	e.next(c)
	e.next(c)
}

func groupPause(e *env) {
	e.posts("a", 2)
	e.posts("b", 1)
	c := e.consumer(mailq.ConsumerOptions{})
	c.Pause("a", time.Now().Add(time.Hour)) // by default a queue is its own group
	if d := e.next(c); d.Queue != "b" {
		e.Fatalf("%q came, it is paused", d.Queue)
	}
	e.nothing(c, "a", "b")
	waiting := e.waiting(e.ctx, c)
	until := time.Now().Round(0).Add(20 * time.Millisecond)
	c.Pause("a", until)
	n := e.outcome(waiting)
	e.must(n.err)
	if now := time.Now().Round(0); now.Before(until) {
		e.Errorf("it came %v before the end of the pause", until.Sub(now))
	}
	c.Pause("a", time.Now().Add(time.Hour))
	e.alive(n.d)
	e.nothing(c, "a")
	e.next(e.all()) // the pause is the consumer's, not the store's
	c.Pause("a", time.Time{})
}

func groupFair(e *env) {
	for _, q := range []string{"a1", "a2", "a3", "b"} {
		e.posts(q, 10)
	}
	c := e.all()
	for _, q := range []string{"a1", "a2", "a3"} {
		c.SetGroup(q, "a")
	}
	got := map[string]int{}
	for range 12 {
		got[e.next(c).Queue]++
	}
	if got["b"] < 5 || got["b"] > 7 || got["a1"] == 0 || got["a2"] == 0 || got["a3"] == 0 {
		e.Errorf("12 deliveries came from %v, want half of them from b and the rest from each of the others", got)
	}
}
