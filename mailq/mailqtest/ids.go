package mailqtest

import (
	"math"

	"github.com/mtawal/mtawal/mailq"
)

var idTests = []test{
	{"NewID never repeats", idsDoNotRepeat, nil},
	{"NewID never repeats after a crash", idsDoNotRepeatAfterCrash, []need{crash}},
	{"NewID for many goroutines", idsForMany, nil},
	{"a reserved ID is the message's", idReserved, nil},
	{"a reserved ID is refused twice", idReservedTwice, nil},
	{"a reserved ID is refused twice in one batch", idReservedTwiceInBatch, nil},
	{"the ID of a dead message is refused", idOfDead, nil},
	{"an ID nobody reserved is refused", idNotReserved, nil},
}

// idSet fails on an ID that it has seen before.
type idSet struct {
	e    *env
	seen map[mailq.ID]string
}

func (s *idSet) add(id mailq.ID, from string) {
	s.e.Helper()
	if id == 0 {
		s.e.Fatalf("%s: ID 0", from)
	}
	if was, ok := s.seen[id]; ok {
		s.e.Fatalf("%s: ID %v was given before, by %s", from, id, was)
	}
	s.seen[id] = from
}

func (s *idSet) take(from string) {
	s.e.Helper()
	for range 300 {
		s.add(s.e.store.NewID(), "NewID "+from)
	}
	s.add(s.e.post("q", "x"), "Enqueue "+from)
	for _, id := range s.e.commit(mailq.Batch{Enqueue: []mailq.Message{mail("q", "y"), mail("q", "z")}}) {
		s.add(id, "Commit "+from)
	}
}

func idsDoNotRepeat(e *env) {
	s := idSet{e, map[mailq.ID]string{}}
	s.take("of the first opening")
	e.reopen()
	s.take("of the second opening")
	e.deliverAll(e.all())
	e.reopen()
	s.take("of the third opening, after an empty store was closed")
}

func idsDoNotRepeatAfterCrash(e *env) {
	s := idSet{e, map[mailq.ID]string{}}
	s.take("of the first opening")
	for range 300 {
		s.add(e.store.NewID(), "NewID just before the crash")
	}
	e.crash()
	s.take("after the crash")
	e.crash()
	s.take("after the second crash")
}

func idsForMany(e *env) {
	got := make([][]mailq.ID, 8)
	wg := e.team()
	for g := range got {
		wg.Go(func() {
			for range 500 {
				got[g] = append(got[g], e.store.NewID())
			}
		})
	}
	wg.Wait()
	s := idSet{e, map[mailq.ID]string{}}
	for _, ids := range got {
		for _, id := range ids {
			s.add(id, "NewID")
		}
	}
}

func idReserved(e *env) {
	first, second := e.store.NewID(), e.store.NewID()
	m := mail("q", "x")
	for _, id := range []mailq.ID{second, first} {
		m.ID = id
		if got := e.send(m); got != id {
			e.Errorf("Enqueue with ID %v returned %v", id, got)
		}
		if _, ok := e.find(id, 0); !ok {
			e.Errorf("the message is not listed under its ID %v", id)
		}
	}
}

func idReservedTwice(e *env) {
	m := mail("q", "first")
	m.ID = e.store.NewID()
	e.send(m)
	e.same("Enqueue with an ID in use", func() {
		again := mail("q", "second")
		again.ID = m.ID
		_, err := e.store.Enqueue(e.ctx, again)
		e.refused("Enqueue with an ID in use", err, "ID")
	})
}

func idReservedTwiceInBatch(e *env) {
	m := mail("q", "x")
	m.ID = e.store.NewID()
	e.same("a batch with an ID twice", func() {
		_, err := e.store.Commit(e.ctx, mailq.Batch{Enqueue: []mailq.Message{m, m}})
		e.refused("a batch with an ID twice", err, "ID")
	})
	e.send(m)
}

func idOfDead(e *env) {
	m := mail("q", "x")
	m.ID = e.store.NewID()
	e.send(m)
	e.deliverAll(e.all())
	for _, when := range []string{"right after", "after reopening"} {
		_, err := e.store.Enqueue(e.ctx, m)
		e.refused("Enqueue with the ID of a dead message "+when, err, "ID")
		e.reopen()
	}
}

func idNotReserved(e *env) {
	m := mail("q", "x")
	m.ID = math.MaxUint64
	_, err := e.store.Enqueue(e.ctx, m)
	e.refused("Enqueue with an ID from nowhere", err, "ID")
}
