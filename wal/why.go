package wal

import (
	"cmp"
	"errors"
	"fmt"
	"slices"
	"time"

	"github.com/mtawal/mtawal/checkpoint"
	"github.com/mtawal/mtawal/internal/disk"
	"github.com/mtawal/mtawal/mailq"
	"github.com/mtawal/mtawal/segment"
	"github.com/mtawal/mtawal/state"
)

// ReasonKind is a kind of reason why a segment is still there.
type ReasonKind string

// The reasons.
const (
	// ReasonMessages: messages with a recipient that is not used have bytes in it.
	ReasonMessages ReasonKind = "messages"
	// ReasonDamaged: some of them are set aside, since their bytes fail their checksum.
	ReasonDamaged ReasonKind = "damaged"
	// ReasonUsed: the newest checkpoint knows messages in it that were used since, or moved. The
	// next one will not.
	ReasonUsed ReasonKind = "used since"
	// ReasonCheckpoint: a replay from a checkpoint reads it. Two are kept, so it takes two that
	// start behind it.
	ReasonCheckpoint ReasonKind = "checkpoint"
	// ReasonTail: it is being written.
	ReasonTail ReasonKind = "being written"
	// ReasonReady: it was made ahead, for what comes next.
	ReasonReady ReasonKind = "ready"
	// ReasonReaders: a delivery that is out, a fold, a listing or a snapshot reads it now.
	ReasonReaders ReasonKind = "readers"
	// ReasonStaged: it may hold bytes of a body that is staged, or was when the newest
	// checkpoint was made.
	ReasonStaged ReasonKind = "staged bodies"
	// ReasonSnapshot: it is still to be copied by a snapshot.
	ReasonSnapshot ReasonKind = "snapshot"
	// ReasonDead: nothing needs it. It goes with the next checkpoint of the owner.
	ReasonDead ReasonKind = "dead"
)

// Reason is why a segment is still there.
type Reason struct {
	Kind ReasonKind `json:"kind"`
	// Count is of messages, readers, staged bodies or snapshots.
	Count int64 `json:"count,omitempty"`
	// Oldest of the messages.
	Oldest *HeldBy `json:"oldest,omitempty"`
	// Checkpoint is the name of the one that needs the segment; empty: there are no two.
	Checkpoint string `json:"checkpoint,omitempty"`
	// Since when the oldest of the bodies is staged.
	Since time.Time `json:"since,omitzero"`
}

// HeldBy is a message that holds bytes of a segment.
type HeldBy struct {
	ID    ID          `json:"id"`
	Since time.Time   `json:"since"` // when it was enqueued
	Queue string      `json:"queue"` // of its first recipient that is not used
	State mailq.State `json:"state"` // of that recipient
	// Recipients of it are not used.
	Recipients int `json:"recipients"`
}

// String returns the reason in a clause.
func (r Reason) String() string {
	switch r.Kind {
	case ReasonMessages:
		o := r.Oldest
		more := ""
		if o.Recipients > 1 {
			more = fmt.Sprintf(" and %d more", o.Recipients-1)
		}
		what := "messages live in it; the oldest is"
		if r.Count == 1 {
			what = "message lives in it:"
		}
		return fmt.Sprintf("%d %s %v, since %s, %v in queue %s%s", r.Count, what, o.ID, o.Since.UTC().Format(time.RFC3339), o.State, o.Queue, more)
	case ReasonDamaged:
		return fmt.Sprintf("damage: %d of these messages fail their checksum and are set aside; verify says where", r.Count)
	case ReasonUsed:
		return "the mail in it was used, or moved, after the newest checkpoint was made; the next one will know"
	case ReasonCheckpoint:
		if r.Checkpoint == "" {
			return "there are no two checkpoints yet, so nothing is given back"
		}
		return "a replay from " + r.Checkpoint + " reads it, and two checkpoints are kept"
	case ReasonTail:
		return "it is being written"
	case ReasonReady:
		return "it was made ahead, for what is written next"
	case ReasonReaders:
		return fmt.Sprintf("%d readers hold it: deliveries that are out, a fold, a listing, a snapshot", r.Count)
	case ReasonStaged:
		if r.Count == 0 {
			return "a body was staged when the newest checkpoint was made; the next one will know more"
		}
		return fmt.Sprintf("%d staged bodies may have bytes in it, the oldest since %s", r.Count, r.Since.UTC().Format(time.RFC3339))
	case ReasonSnapshot:
		return "a snapshot is still to copy it"
	case ReasonDead:
		return "nothing: it is dead, and goes with the next checkpoint"
	}
	return string(r.Kind)
}

// pins is what holds segments beside mail.
type pins struct {
	newer, older *checkpoint.Summary
	names        [2]string       // of these
	streams      map[uint32]bool // checkpoint.Plan's caller keeps these
	open         []openStream
	copied       map[uint32]int64 // snapshots that need a segment, by number
}

// openStream is a body that goes into the log ahead of its message.
type openStream struct {
	in    map[uint32]bool // segments that hold bytes of it
	since time.Time
}

// explain says why a segment is still there, by the rule that recycling goes by: see
// checkpoint.Plan.
func (i *SegmentInfo) explain(h *holding, w *pins, readers int) {
	add := func(r Reason) { i.Why = append(i.Why, r) }
	switch i.State {
	case SegmentReady:
		add(Reason{Kind: ReasonReady})
		return
	case SegmentTail:
		add(Reason{Kind: ReasonTail})
	}
	if h != nil && h.messages > 0 {
		add(Reason{Kind: ReasonMessages, Count: h.messages, Oldest: &h.oldest})
		if h.damaged > 0 {
			add(Reason{Kind: ReasonDamaged, Count: h.damaged})
		}
	}
	if i.State != SegmentRetired {
		switch n := i.Number; {
		case w.newer == nil || w.older == nil:
			add(Reason{Kind: ReasonCheckpoint})
		case n >= w.newer.Pos.Segment():
			add(Reason{Kind: ReasonCheckpoint, Checkpoint: w.names[0]})
		case n >= w.older.Pos.Segment():
			add(Reason{Kind: ReasonCheckpoint, Checkpoint: w.names[1]})
		case (h == nil || h.messages == 0) && w.newer.Usage[n].Messages > 0:
			add(Reason{Kind: ReasonUsed})
		}
		staged := Reason{Kind: ReasonStaged}
		for _, o := range w.open {
			if o.in[i.Number] {
				if staged.Count++; staged.Count == 1 || o.since.Before(staged.Since) {
					staged.Since = o.since
				}
			}
		}
		if staged.Count > 0 || w.newer != nil && w.streams[i.Number] && i.Number < w.newer.Pos.Segment() {
			add(staged)
		}
	}
	if n := w.copied[i.Number]; n > 0 {
		add(Reason{Kind: ReasonSnapshot, Count: n})
	}
	if readers > 0 {
		add(Reason{Kind: ReasonReaders, Count: int64(readers)})
	}
	if len(i.Why) == 0 {
		add(Reason{Kind: ReasonDead})
	}
}

// Why lists the segment files of a store with the reasons why each is still there: all of them, or
// the one with a number. It takes no lock and writes nothing, so it may run beside the
// owner, of whose readers and staged bodies the files tell nothing. The mail in one that is named is
// read, so that damage is among the reasons. ErrNotFound: there is no such segment.
func Why(dir string, o Options, number uint32) ([]SegmentInfo, error) {
	var list []SegmentInfo
	err := readOnly(dir, o, func(d disk.Dir, m meta, o Options) error {
		r, err := recoverStore(d, m.uuid, true)
		if err != nil {
			return err
		}
		list, err = r.segments(o.now(), number)
		return errors.Join(err, r.close())
	})
	if err != nil || number == 0 {
		return list, err
	}
	for _, i := range list {
		if i.Number == number {
			return []SegmentInfo{i}, nil
		}
	}
	return nil, fmt.Errorf("segment %08x: %w", number, ErrNotFound)
}

// segments says what stands in each segment file, and why it is there.
func (r *recovered) segments(now time.Time, number uint32) ([]SegmentInfo, error) {
	h := make(holdings)
	var err error
	r.table.ForEach(func(slot uint32) {
		damaged := false
		if number != 0 && r.holds(slot, number) {
			cerr := checkMessage(r, slot)
			damaged = errors.Is(cerr, segment.ErrCorrupt) || errors.Is(cerr, disk.ErrFault)
			if cerr != nil && !damaged && err == nil {
				err = cerr
			}
		}
		h.add(r.table, slot, damaged, func(ref state.Ref, rc *state.Recipient) mailq.State { return r.stateOf(ref, rc, now) })
	})
	if err != nil {
		return nil, err
	}
	var w pins
	for i, c := range []*checkpoint.File{r.newest, r.older} {
		if c == nil {
			continue
		}
		sum := c.Summary()
		w.names[i] = c.Name
		if i == 0 {
			w.newer = &sum
		} else {
			w.older = &sum
		}
	}
	var list []SegmentInfo
	for _, n := range r.found.Unneeded() {
		size := r.sizes[n]
		e := SegmentInfo{Number: n, State: SegmentRetired, Size: size}
		e.fill(size, nil)
		e.explain(nil, &w, 0)
		list = append(list, e)
	}
	for _, s := range r.found.Segments() {
		e := SegmentInfo{Number: s.Number, Size: s.Size, State: SegmentSealed}
		used := s.Size
		switch end := r.found.End; {
		case s.Number == end.Segment():
			e.State, used = SegmentTail, end.Offset()
		case s.Number > end.Segment():
			e.State, used = SegmentReady, s.First()
		}
		e.fill(used, h[s.Number])
		e.explain(h[s.Number], &w, 0)
		list = append(list, e)
	}
	slices.SortFunc(list, func(a, b SegmentInfo) int { return cmp.Compare(a.Number, b.Number) })
	return list, nil
}

// holds reports whether a message has bytes in a segment.
func (r *recovered) holds(slot, number uint32) bool {
	m := r.table.Msg(slot)
	return m.Loc.Segment() == number ||
		slices.ContainsFunc(r.table.Extents(m), func(x state.Extent) bool { return x.Pos.Segment() == number })
}

// stateOf is where a recipient stands in a store that nobody runs. Beside an owner, what is claimed
// is pending: claims are not in the log.
func (r *recovered) stateOf(ref state.Ref, rc *state.Recipient, now time.Time) mailq.State {
	m := r.table.Msg(ref.Slot)
	switch {
	case rc.Standing == state.Used:
		return mailq.Used
	case rc.Standing == state.Held:
		return mailq.OnHold
	case r.table.NotBefore(rc) > now.UnixNano() && (m.Expires == 0 || m.ExpiresAt() > now.UnixNano()):
		return mailq.InDeferral
	}
	return mailq.Pending
}
