package mailqtest

import (
	"slices"

	"github.com/mtawal/mtawal/mailq"
)

var orderTests = []test{
	{"first in, first out", orderFIFO, nil},
	{"across reopening", orderReopen, nil},
	{"after Release", orderRelease, nil},
	{"reserved IDs do not matter", orderReserved, nil},
	{"several claims out", orderClaims, nil},
	{"in each of many queues", orderQueues, nil},
}

// came fails unless the messages came in this order.
func (e *env) came(got, want []mailq.ID) {
	e.Helper()
	if !slices.Equal(got, want) {
		e.Errorf("they came as\n%v, want\n%v", got, want)
	}
}

func orderFIFO(e *env) {
	want := e.posts("q", 100)
	e.came(e.deliverAll(e.all()), want)
}

func orderReopen(e *env) {
	want := e.posts("q", 10)
	e.reopen()
	want = append(want, e.posts("q", 10)...)
	e.reopen()
	c := e.all()
	for _, id := range want[:5] {
		e.settleAll(e.nextID(c, id), mailq.Delivered)
	}
	e.reopen()
	want = append(want, e.posts("q", 5)...)
	e.came(e.deliverAll(e.all()), want[5:])
}

func orderRelease(e *env) {
	ids := e.posts("q", 5)
	c := e.all()
	var out []*mailq.Delivery
	for _, id := range ids[:3] {
		out = append(out, e.nextID(c, id))
	}
	for _, i := range []int{1, 0, 2} {
		e.release(out[i])
	}
	e.came(e.deliverAll(c), ids)
}

func orderReserved(e *env) {
	var reserved, want []mailq.ID
	for range 5 {
		reserved = append(reserved, e.store.NewID())
	}
	for _, id := range slices.Backward(reserved) {
		m := mail("q", "x")
		m.ID = id
		want = append(want, e.send(m), e.post("q", "y"))
	}
	e.reopen()
	e.came(e.deliverAll(e.all()), want)
}

func orderClaims(e *env) {
	want := e.posts("q", 20)
	c, other := e.all(), e.all()
	for i, id := range want {
		from := c
		if i%3 == 0 {
			from = other
		}
		e.nextID(from, id)
	}
}

func orderQueues(e *env) {
	want := map[string][]mailq.ID{}
	for range 10 {
		for _, q := range []string{"a", "b", "c", "d"} {
			want[q] = append(want[q], e.post(q, q))
		}
	}
	e.reopen()
	c := e.all()
	got := map[string][]mailq.ID{}
	for range 40 {
		d := e.next(c)
		got[d.Queue] = append(got[d.Queue], d.ID)
	}
	for q := range want {
		e.came(got[q], want[q])
	}
}
