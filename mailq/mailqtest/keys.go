package mailqtest

import (
	"slices"
	"strings"

	"github.com/mtawal/mtawal/mailq"
)

var keyTests = []test{
	{"a key seen before gives the first ID", keySeen, []need{keys}},
	{"also after the message is used, and reopening", keyLasts, []need{keys}},
	{"also after a crash", keyLastsCrash, []need{keys, crash}},
	{"in a batch the rest is applied", keyBatch, []need{keys}},
	{"a refused message leaves no key", keyRefused, []need{keys}},
	{"keys are opaque", keyOpaque, []need{keys}},
	{"many at once", keyMany, []need{keys}},
}

func keyed(key, body string) mailq.Message {
	m := mail("q", body)
	m.Key = key
	return m
}

func keySeen(e *env) {
	id := e.send(keyed("k", "first"))
	for range 3 {
		if again := e.send(keyed("k", "again")); again != id {
			e.Errorf("Enqueue with a key seen before: %v, want %v", again, id)
		}
	}
	if other := e.send(keyed("K", "other")); other == id {
		e.Error("another key gave the same message")
	}
	if one, two := e.post("q", "x"), e.post("q", "x"); one == two {
		e.Error("no key gave the same message")
	}
	if n := e.store.Stats().Enqueued; n != 4 {
		e.Errorf("%d enqueued, want 4", n)
	}
	if b := e.body(e.nextID(e.all(), id)); b != "first" {
		e.Errorf("the body is %q, want the first", b)
	}
}

func keyLasts(e *env)      { e.keyLasts(e.reopen) }
func keyLastsCrash(e *env) { e.keyLasts(e.crash) }

func (e *env) keyLasts(again func()) {
	e.Helper()
	live, dead := e.send(keyed("live", "x")), e.send(keyed("dead", "x"))
	e.markUsed(dead, mailq.All)
	for range 2 {
		if id := e.send(keyed("dead", "again")); id != dead {
			e.Errorf("the key of a dead message gave %v, want %v", id, dead)
		}
		if id := e.send(keyed("live", "again")); id != live {
			e.Errorf("the key of a live message gave %v, want %v", id, live)
		}
		again()
	}
	e.stands("at the end", 1, 0, 0, 1)
}

func keyBatch(e *env) {
	first := e.send(keyed("k", "first"))
	e.post("done", "x")
	d := e.claim("done")
	ids := e.commit(mailq.Batch{
		Settle:  settlement(d, outcome(0, mailq.Failed)),
		Enqueue: []mailq.Message{mail("q", "a"), keyed("k", "again"), keyed("new", "b")},
	})
	if len(ids) != 3 || ids[1] != first || ids[0] == first || ids[2] == first {
		e.Errorf("Commit returned %v, want the first message %v second", ids, first)
	}
	e.used(mailq.UsedCounts{Failed: 1})
	e.came(e.deliverAll(e.all()), []mailq.ID{first, ids[0], ids[2]})
	e.commit(mailq.Batch{Enqueue: []mailq.Message{keyed("k", "only a repeat")}})
}

func keyRefused(e *env) {
	m := keyed("k", "x")
	m.Recipients = nil
	_, err := e.store.Enqueue(e.ctx, m)
	e.refused("a message without recipients", err, "Recipients")
	e.nextID(e.all(), e.send(keyed("k", "fine")))
}

func keyOpaque(e *env) {
	var ids []mailq.ID
	list := []string{"a", "a\x00", "A", " ", "\xff", "../a", strings.Repeat("k", mailq.KeyMax), strings.Repeat("k", mailq.KeyMax-1)}
	for _, k := range list {
		ids = append(ids, e.send(keyed(k, "x")))
	}
	e.reopen()
	for i, k := range list {
		if id := e.send(keyed(k, "again")); id != ids[i] || slices.Index(ids, id) != i {
			e.Errorf("key %.20q gave %v, want %v", k, id, ids[i])
		}
	}
}

func keyMany(e *env) {
	for _, k := range []string{"a", "b", "c", "d"} {
		got := make([]mailq.ID, 8)
		s := e.store
		wg := e.team()
		for g := range got {
			wg.Go(func() {
				var err error
				if got[g], err = s.Enqueue(e.ctx, keyed(k, "x")); err != nil {
					e.Errorf("Enqueue: %v", err)
				}
			})
		}
		wg.Wait()
		for _, id := range got {
			if id == 0 || id != got[0] {
				e.Fatalf("one key gave %v", got)
			}
		}
	}
	if n := e.store.Stats().Enqueued; n != 4 {
		e.Errorf("%d enqueued under 4 keys", n)
	}
}
