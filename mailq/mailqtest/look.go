package mailqtest

import (
	"bytes"
	"cmp"
	"fmt"
	"slices"

	"github.com/mtawal/mtawal/mailq"
)

// body reads a delivery's whole body.
func (e *env) body(d *mailq.Delivery) string {
	e.Helper()
	var b bytes.Buffer
	n, err := d.Body.WriteTo(&b)
	if err != nil || n != int64(b.Len()) || n != d.Body.Size() {
		e.Fatalf("WriteTo: %d, %v; %d bytes came, Size says %d", n, err, b.Len(), d.Body.Size())
	}
	return b.String()
}

// entries lists what the filter selects, by ID and recipient.
func (e *env) entries(f mailq.Filter) []mailq.Entry {
	e.Helper()
	var list []mailq.Entry
	for x, err := range e.store.Entries(e.ctx, f) {
		if err != nil {
			e.Fatalf("Entries: %v", err)
		}
		list = append(list, x)
	}
	slices.SortFunc(list, func(a, b mailq.Entry) int {
		return cmp.Or(cmp.Compare(a.ID, b.ID), cmp.Compare(a.Recipient, b.Recipient))
	})
	return list
}

// find returns one recipient as Entries lists it.
func (e *env) find(id mailq.ID, recipient int) (mailq.Entry, bool) {
	e.Helper()
	for _, x := range e.entries(mailq.Filter{ID: id}) {
		if x.Recipient == recipient {
			return x, true
		}
	}
	return mailq.Entry{}, false
}

// state fails unless the recipient stands there; Used stands for not listed.
func (e *env) state(id mailq.ID, recipient int, want mailq.State) {
	e.Helper()
	got := mailq.Used
	if x, ok := e.find(id, recipient); ok {
		got = x.State
	}
	if got != want {
		e.Errorf("recipient %d of %v is %v, want %v", recipient, id, got, want)
	}
}

func (e *env) queues() []mailq.QueueInfo {
	e.Helper()
	var list []mailq.QueueInfo
	for q, err := range e.store.Queues(e.ctx) {
		if err != nil {
			e.Fatalf("Queues: %v", err)
		}
		list = append(list, q)
	}
	return list
}

// used fails unless so many are used, in all.
func (e *env) used(want mailq.UsedCounts) {
	e.Helper()
	if got := e.store.Stats().Used; got != want {
		e.Errorf("used-marks are %+v, want %+v", got, want)
	}
}

// same fails if the call f changed anything that can be seen.
func (e *env) same(what string, f func()) {
	e.Helper()
	look := func() string {
		s := e.store.Stats()
		return fmt.Sprintf("enqueued %d used %+v\n%+v", s.Enqueued, s.Used, e.entries(mailq.Filter{}))
	}
	was := look()
	f()
	if is := look(); is != was {
		e.Errorf("%s changed something:\n%s\nit was\n%s", what, is, was)
	}
}
