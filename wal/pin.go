package wal

import (
	"time"

	"github.com/mtawal/mtawal/mailq"
	"github.com/mtawal/mtawal/state"
)

// oldest remembers the oldest message that is not dead. Looking for it means looking at
// every message, so that is done at most once a second; until then it is the last one found.
type oldest struct {
	slot   uint32
	looked time.Time
	pin    mailq.Pin
}

func (o *oldest) at(t *state.Table, now time.Time) mailq.Pin {
	if t.Messages() == 0 {
		o.pin = mailq.Pin{}
		return o.pin
	}
	known := o.pin.ID != 0
	if known && t.Lives(o.slot, uint64(o.pin.ID)) || known && now.Sub(o.looked) < time.Second {
		return o.pin
	}
	o.looked = now
	first := uint64(1<<64 - 1)
	t.ForEach(func(slot uint32) {
		if m := t.Msg(slot); m.Order() < first {
			first, o.slot = m.Order(), slot
			o.pin = mailq.Pin{Kind: mailq.PinMessage, ID: ID(m.ID), Since: time.Unix(int64(m.Enqueued), 0)}
		}
	})
	return o.pin
}

// oldestPin is what has kept bytes of the log for the longest time. Store.mu is held.
func (s *Store) oldestPin(now time.Time) mailq.Pin {
	p := s.oldest.at(s.table, now)
	for st := range s.streams {
		if st.first > 0 && st.staged && (p.Kind == "" || st.opened.Before(p.Since)) {
			p = mailq.Pin{Kind: mailq.PinStaged, Since: st.opened}
		}
	}
	return p
}
