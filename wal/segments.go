package wal

import (
	"time"

	"github.com/mtawal/mtawal/journal"
	"github.com/mtawal/mtawal/mailq"
	"github.com/mtawal/mtawal/segment"
	"github.com/mtawal/mtawal/state"
)

// SegmentState says where a segment file is in its life.
type SegmentState string

// The states of a segment.
const (
	SegmentReady   SegmentState = "ready"   // made ahead; no frame was written to it in this life
	SegmentTail    SegmentState = "tail"    // being written
	SegmentSealed  SegmentState = "sealed"  // full
	SegmentRetired SegmentState = "retired" // out of the log, or not in it any more: only a file
)

// SegmentInfo is a segment of a store, and why it is still there. Live, Dead and Free add up
// to Size.
type SegmentInfo struct {
	Number   uint32       `json:"number"`
	State    SegmentState `json:"state"`
	Size     int64        `json:"size"`
	Live     int64        `json:"live"`     // held by messages with a recipient that is not used
	Dead     int64        `json:"dead"`     // the rest of what was written
	Free     int64        `json:"free"`     // not written in this life of the file
	Messages int64        `json:"messages"` // that hold something in it
	// Why has at least one reason. All of them must be gone before the file can be given back.
	Why []Reason `json:"why"`
}

// fill sets what is live, dead and free, the frames ending at used.
func (i *SegmentInfo) fill(used int64, h *holding) {
	if h != nil {
		i.Live, i.Messages = min(h.bytes, used), h.messages
	}
	i.Dead, i.Free = used-i.Live, i.Size-used
}

// holding is what live messages hold in a segment.
type holding struct {
	bytes, messages, damaged int64

	last   uint64 // ID of the message that was counted last
	order  uint64 // of the oldest
	oldest HeldBy
}

// holdings collects what messages hold, by segment.
type holdings map[uint32]*holding

// add counts a message. at says in which state a recipient is.
func (h holdings) add(t *state.Table, slot uint32, damaged bool, at func(ref state.Ref, r *state.Recipient) mailq.State) {
	m := t.Msg(slot)
	own := m.Bytes()
	for _, x := range t.Extents(m) {
		h.hold(t, slot, x.Pos, int64(x.Weight), damaged, at)
		own -= int64(x.Weight)
	}
	h.hold(t, slot, m.Loc, max(own, 0), damaged, at)
}

func (h holdings) hold(t *state.Table, slot uint32, p segment.Pos, bytes int64, damaged bool, at func(state.Ref, *state.Recipient) mailq.State) {
	g := h[p.Segment()]
	if g == nil {
		g = &holding{order: 1<<64 - 1}
		h[p.Segment()] = g
	}
	g.bytes += bytes
	m := t.Msg(slot)
	if g.last == m.ID {
		return
	}
	g.last = m.ID
	g.messages++
	if damaged {
		g.damaged++
	}
	order := t.Order(m)
	if order >= g.order {
		return
	}
	g.order = order
	g.oldest = HeldBy{ID: ID(m.ID), Since: time.Unix(int64(m.Enqueued), 0)}
	list := t.Recipients(slot)
	for i := range list {
		if r := &list[i]; r.Standing != state.Used {
			if g.oldest.Recipients == 0 {
				g.oldest.Queue, g.oldest.State = t.Queue(r.Queue).Name, at(state.Ref{Slot: slot, Index: uint32(i)}, r)
			}
			g.oldest.Recipients++
		}
	}
}

// segmentUse is a segment of the log, and what lives in it as of the newest checkpoint.
type segmentUse struct {
	journal.Info
	Live  int64
	Known bool // it lies before that checkpoint: else what lives in it is not known
}

// segmentUses lists the segments of the log in order, without a look at any message.
func (s *Store) segmentUses() []segmentUse {
	s.folds.mu.Lock()
	sum := s.folds.sumNew
	s.folds.mu.Unlock()
	var list []segmentUse
	for _, i := range s.log.Segments() {
		if i.Retired {
			continue
		}
		u := segmentUse{Info: i}
		if sum != nil {
			u.Live, u.Known = sum.Usage[i.Number].Bytes, i.Number < sum.Pos.Segment()
		}
		list = append(list, u)
	}
	return list
}

// Segments lists the segments of the log in order, and those out of it that somebody still
// reads, with the reasons why each is still there. It costs a look at every message, with the
// lock let go in between, so it is weakly consistent. Those that stand ready for what
// comes next are not in it.
func (s *Store) Segments() []SegmentInfo {
	held := s.holdings()
	w := s.pins()
	var list []SegmentInfo
	for _, i := range s.log.Segments() {
		e := SegmentInfo{Number: i.Number, State: SegmentTail, Size: i.Size}
		switch {
		case i.Retired:
			e.State = SegmentRetired
		case i.Sealed:
			e.State = SegmentSealed
		}
		e.fill(i.End, held[i.Number])
		e.explain(held[i.Number], &w, i.Readers)
		list = append(list, e)
	}
	return list
}

// holdings looks at every message.
func (s *Store) holdings() holdings {
	h := make(holdings)
	at := func(_ state.Ref, r *state.Recipient) mailq.State { return stateOf(r) }
	s.mu.Lock()
	defer s.mu.Unlock()
	for slot := uint32(0); slot < s.table.Slots(); slot++ {
		if slot%4096 == 4095 {
			s.mu.Unlock()
			s.mu.Lock()
		}
		if s.table.Lives(slot, 0) {
			h.add(s.table, slot, s.damaged[s.table.Msg(slot).ID] != nil, at)
		}
	}
	return h
}

// pins is what the store knows of reasons other than mail.
func (s *Store) pins() pins {
	var w pins
	f := &s.folds
	f.mu.Lock()
	w.newer, w.older, w.streams = f.sumNew, f.sumOld, f.streams
	for i, c := range f.newInfo {
		w.names[i] = c.Name
	}
	for p := range f.pins {
		for n := range p.from {
			if w.copied == nil {
				w.copied = make(map[uint32]int64)
			}
			w.copied[n]++
		}
	}
	f.mu.Unlock()
	s.mu.Lock()
	defer s.mu.Unlock()
	for st := range s.streams {
		if in := make(map[uint32]bool); st.pins(in) {
			w.open = append(w.open, openStream{in, st.opened})
		}
	}
	return w
}
