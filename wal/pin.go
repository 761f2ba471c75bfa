package wal

import (
	"time"

	"github.com/mtawal/mtawal/mailq"
	"github.com/mtawal/mtawal/state"
)

// oldest remembers the oldest message that is not dead. Looking for it means looking at every
// message, so each call looks at a bounded part; until that is done it is the one before.
type oldest struct {
	slot uint32
	pin  mailq.Pin

	next  uint32 // slot at which the look goes on; 0: none is under way
	best  uint32
	order uint64 // of the best so far, 0 for none
}

// oldestStep is how many slots one call looks at: well below a millisecond.
const oldestStep = 1 << 17

func (o *oldest) at(t *state.Table) mailq.Pin {
	if t.Messages() == 0 {
		*o = oldest{}
		return o.pin
	}
	if o.pin.ID != 0 && t.Lives(o.slot, uint64(o.pin.ID)) {
		return o.pin
	}
	o.next = t.ForEachFrom(o.next, oldestStep, func(slot uint32) {
		// The best may have gone meanwhile, and its slot have another: that one is younger than all.
		if order := t.Order(t.Msg(slot)); o.order == 0 || order < o.order {
			o.best, o.order = slot, order
		}
	})
	if o.next < t.Slots() {
		return o.pin
	}
	if o.order != 0 && t.Lives(o.best, 0) && t.Order(t.Msg(o.best)) == o.order {
		m := t.Msg(o.best)
		o.slot, o.pin = o.best, mailq.Pin{Kind: mailq.PinMessage, ID: ID(m.ID), Since: time.Unix(int64(m.Enqueued), 0)}
	}
	o.next, o.order = 0, 0
	return o.pin
}

// oldestPin is what has kept bytes of the log for the longest time. Store.mu is held.
func (s *Store) oldestPin() mailq.Pin {
	p := s.oldest.at(s.table)
	for st := range s.streams {
		if st.staged && st.inLog() && (p.Kind == "" || st.opened.Before(p.Since)) {
			p = mailq.Pin{Kind: mailq.PinStaged, Since: st.opened}
		}
	}
	s.folds.mu.Lock()
	defer s.folds.mu.Unlock()
	for c := range s.folds.pins {
		if p.Kind == "" || c.since.Before(p.Since) {
			p = mailq.Pin{Kind: mailq.PinSnapshot, Since: c.since}
		}
	}
	return p
}
