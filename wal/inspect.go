package wal

import (
	"encoding/hex"
	"errors"
	"fmt"
	"io/fs"
	"slices"
	"strings"
	"time"

	"github.com/mtawal/mtawal/checkpoint"
	"github.com/mtawal/mtawal/internal/disk"
	"github.com/mtawal/mtawal/mailq"
	"github.com/mtawal/mtawal/segment"
	"github.com/mtawal/mtawal/state"
)

// Inspection is a store as its files tell it.
type Inspection struct {
	Dir  string `json:"dir"`
	UUID string `json:"uuid"`
	// Origin says what this is a copy of, if it is one. Copied: it was not opened since it was
	// made, and all of its mail is in doubt.
	Origin *Origin `json:"origin,omitempty"`
	Copied bool    `json:"copied,omitempty"`
	// Clean: the log ends as a Close left it. Else the store is open, or its owner died.
	Clean bool `json:"clean"`
	// End is where the log ends; InFlight is how many bytes of it, behind the last promise,
	// a running owner may not have acknowledged yet.
	End      string `json:"end"`
	InFlight int64  `json:"in_flight"`

	Segments    []SegmentInfo    `json:"segments"`
	Checkpoints []CheckpointInfo `json:"checkpoints"`
	// Unusable says which checkpoints are damaged, and how.
	Unusable []string `json:"unusable,omitempty"`
	// Queues counts nothing as claimed, see below, and nothing as damaged: bodies are not read.
	Queues []QueueInfo `json:"queues"`

	// As in Stats; Pending, Deferred and Held are counted, and what a consumer of the owner has
	// claimed is in them: claims are not in the log.
	Messages        int64      `json:"messages"`
	Enqueued        int64      `json:"enqueued"`
	Used            UsedCounts `json:"used"`
	Pending         int64      `json:"pending"`
	Deferred        int64      `json:"deferred"`
	Held            int64      `json:"held"`
	InDoubt         int64      `json:"in_doubt"`
	WorkQueueLength int64      `json:"work_queue_length"`
	Unaccounted     int64      `json:"unaccounted"`
	LiveBytes       int64      `json:"live_bytes"`
	DeadBytes       int64      `json:"dead_bytes"`
	FreeBytes       int64      `json:"free_bytes"` // in segments
	OldestPin       mailq.Pin  `json:"oldest_pin,omitzero"`
	TailCut         int64      `json:"tail_cut"`
	UncleanOpens    int64      `json:"unclean_opens"`
}

// inspectTries is how often a read-only look is repeated when the store changes under it.
const inspectTries = 8

// readOnly runs look until it succeeds, or fails twice alike while the listing of the
// directory stands still: beside a running owner a segment may be recycled, a checkpoint
// replaced or a frame half written while it is read.
func readOnly(dir string, o Options, look func(disk.Dir, meta, Options) error) error {
	o, err := o.withDefaults()
	if err != nil {
		return err
	}
	d, err := o.openDir(dir, false)
	if err != nil {
		return err
	}
	defer d.Close()
	before, err := d.List()
	if err != nil {
		return fmt.Errorf("listing %s: %w", dir, err)
	}
	last := ""
	for try := 1; ; try++ {
		m, err := readMeta(d)
		if errors.Is(err, fs.ErrNotExist) || err == nil && !m.ready {
			return fmt.Errorf("%s: no %s, or it is not finished: %w", dir, metaName, ErrNotStore)
		}
		if err == nil {
			err = look(d, m, o)
		}
		if err == nil || errors.Is(err, ErrVersion) || errors.Is(err, errStop) {
			return err
		}
		after, lerr := d.List()
		if lerr != nil {
			return errors.Join(err, lerr)
		}
		same := slices.EqualFunc(before, after, func(a, b disk.Info) bool { return a == b })
		if same && err.Error() == last || try == inspectTries {
			return fmt.Errorf("reading the store in %s: %w", dir, err)
		}
		before, last = after, err.Error()
		time.Sleep(2 * markerAfter)
	}
}

// errStop ends a look early, at the wish of the caller's function.
var errStop = errors.New("stopped")

// Inspect looks at a store without its lock: it writes nothing, recovers nothing and
// removes nothing, so it may run beside the owner.
func Inspect(dir string, o Options) (*Inspection, error) {
	var in *Inspection
	err := readOnly(dir, o, func(d disk.Dir, m meta, o Options) error {
		r, err := recoverStore(d, m.uuid, true)
		if err != nil {
			return err
		}
		if m.copied {
			r.doubtAll()
		}
		if in, err = inspect(d, r, o.now()); err == nil {
			in.Origin, in.Copied = m.origin(), m.copied
		}
		return errors.Join(err, r.close())
	})
	return in, err
}

func inspect(d disk.Dir, r *recovered, now time.Time) (in *Inspection, err error) {
	t := r.table
	in = &Inspection{
		Dir: d.Path(), UUID: hex.EncodeToString(r.uuid[:]), Clean: r.clean(), End: r.found.End.String(),
		Checkpoints: []CheckpointInfo{}, Unusable: r.bad, Queues: []QueueInfo{}, Messages: int64(t.Messages()), Enqueued: t.Counts.Enqueued, Used: t.Counts.Used,
		TailCut: t.Counts.TailCut, UncleanOpens: t.Counts.UncleanOpens,
	}
	if r.found.Promise.Segment() == r.found.End.Segment() && r.found.End > r.found.Promise {
		in.InFlight = int64(r.found.End - r.found.Promise)
	}
	for _, c := range []*checkpoint.File{r.newest, r.older} {
		if c != nil {
			in.Checkpoints = append(in.Checkpoints, infoOf(c))
		}
	}
	in.queues(r, now)
	var o oldest
	for in.Messages > 0 && in.OldestPin.ID == 0 { // each looks at a part
		in.OldestPin = o.at(t)
	}
	in.Segments, err = r.segments(now, 0)
	for _, s := range in.Segments {
		in.LiveBytes += s.Live
		in.DeadBytes += s.Dead
		in.FreeBytes += s.Free
	}
	return in, err
}

// liveUsage is what live messages hold in each segment, by the state itself.
func liveUsage(t *state.Table) map[uint32]checkpoint.Usage {
	usage := make(map[uint32]checkpoint.Usage)
	hold := func(p segment.Pos, n int64) {
		u := usage[p.Segment()]
		u.Messages++
		u.Bytes += n
		usage[p.Segment()] = u
	}
	t.ForEach(func(slot uint32) {
		m := t.Msg(slot)
		own := m.Bytes()
		for _, x := range t.Extents(m) {
			hold(x.Pos, int64(x.Weight))
			own -= int64(x.Weight)
		}
		hold(m.Loc, max(own, 0))
	})
	return usage
}

// queues counts what waits. Nothing is claimed in a store that nobody runs; beside an
// owner, what is claimed counts as pending: claims are not in the log.
func (in *Inspection) queues(r *recovered, now time.Time) {
	t := r.table
	by := make(map[uint32]*QueueInfo)
	for n := range t.Queues() {
		if q := t.Queue(uint32(n)); q != nil && q.State != (QueueState{}) {
			by[uint32(n)] = &QueueInfo{Name: q.Name, State: q.State}
		}
	}
	order := make(map[uint32]uint64)
	t.ForEach(func(slot uint32) {
		m := t.Msg(slot)
		list := t.Recipients(slot)
		for i := range list {
			rc := &list[i]
			if rc.Standing == state.Used {
				continue
			}
			q := by[rc.Queue]
			if q == nil {
				q = &QueueInfo{Name: t.Queue(rc.Queue).Name}
				by[rc.Queue] = q
			}
			in.WorkQueueLength++
			switch r.stateOf(state.Ref{Slot: slot, Index: uint32(i)}, rc, now) {
			case mailq.OnHold:
				q.Held++
			case mailq.InDeferral:
				q.Deferred++
			default:
				q.Pending++
			}
			_, started := r.doubt[state.Ref{Slot: slot, Index: uint32(i)}]
			if rc.Flags&state.InDoubt != 0 || started {
				q.InDoubt++
				in.InDoubt++
			}
			if at := r.table.Order(m); q.Oldest == 0 || at < order[rc.Queue] {
				q.Oldest, q.OldestAt, order[rc.Queue] = ID(m.ID), time.Unix(int64(m.Enqueued), 0), at
			}
		}
	})
	for _, q := range by {
		in.Queues = append(in.Queues, *q)
		in.Pending, in.Deferred, in.Held = in.Pending+q.Pending, in.Deferred+q.Deferred, in.Held+q.Held
	}
	in.Unaccounted = in.Enqueued - in.Used.Total() - in.WorkQueueLength
	slices.SortFunc(in.Queues, func(a, b QueueInfo) int { return strings.Compare(a.Name, b.Name) })
}

// Finding is something that is not as it should be in a store.
type Finding struct {
	File   string `json:"file,omitempty"`
	Offset int64  `json:"offset,omitempty"`
	ID     ID     `json:"id,omitempty"` // of the message that is hit, if one is
	What   string `json:"what"`
}

// String returns the finding in a line.
func (f Finding) String() string {
	s := f.What
	if f.ID != 0 {
		s = fmt.Sprintf("message %v: %s", f.ID, s)
	}
	if f.File != "" {
		s = fmt.Sprintf("%s at %d: %s", f.File, f.Offset, s)
	}
	return s
}

// findingsMax bounds what Verify returns.
const findingsMax = 1000

// Verify reads every byte of a store that means something and compares it with its
// checksum, replays the log from each checkpoint and compares the states, and checks the
// invariants of the state. It needs no lock and writes nothing. The error is for a
// store that can't be read at all; what is wrong with one that can is in the findings.
func Verify(dir string, o Options) ([]Finding, error) {
	var found []Finding
	err := readOnly(dir, o, func(d disk.Dir, m meta, _ Options) error {
		v := &verifier{}
		if err := v.run(d, m.uuid); err != nil {
			return err
		}
		found = v.found
		return nil
	})
	return found, err
}

type verifier struct{ found []Finding }

func (v *verifier) add(f Finding) {
	if len(v.found) < findingsMax {
		v.found = append(v.found, f)
	}
}

// note makes a finding of an error about bytes, and returns any other.
func (v *verifier) note(id ID, err error) error {
	var c *CorruptError
	switch {
	case errors.As(err, &c):
		v.add(Finding{File: c.File, Offset: c.Offset, ID: id, What: c.Reason})
		return nil
	case errors.Is(err, disk.ErrFault):
		v.add(Finding{ID: id, What: err.Error()})
		return nil
	}
	return err
}

func (v *verifier) run(d disk.Dir, uuid [16]byte) (err error) {
	r, err := recoverStore(d, uuid, true)
	if err != nil {
		return v.note(0, err) // a store that would not open: the finding is why
	}
	defer func() { err = errors.Join(err, r.close()) }()
	for i, name := range r.bad {
		v.add(Finding{File: name, What: r.notes[i].Error()})
	}
	for _, c := range []*checkpoint.File{r.newest, r.older} {
		if c != nil {
			err := c.Check(false)
			if err == nil {
				err = c.AddsUp()
			}
			if err := v.note(0, err); err != nil {
				return err
			}
		}
	}
	if err := v.log(r); err != nil {
		return err
	}
	if err := v.messages(r); err != nil {
		return err
	}
	v.invariants(r)
	return v.older(d, r)
}

// log checks every frame of every segment, with its bodies and its place in the chain.
func (v *verifier) log(r *recovered) error {
	var prev segment.FrameHeader
	var before uint32
	for _, s := range r.found.Segments() {
		if s.Number > r.found.End.Segment() {
			continue
		}
		first, ok, err := s.FirstFrame()
		if err != nil {
			return err
		}
		if s.Number != before+1 && ok {
			prev = first.Before() // the segment before is gone: the chain begins anew
		}
		before = s.Number
		bad := func(p segment.Pos, rec segment.Record) {
			id := ID(0)
			if slot, ok := r.table.Find(rec.ID()); ok && rec.Kind() == segment.KindEnqueue && r.table.Msg(slot).Loc == p {
				id = ID(rec.ID())
			}
			v.add(Finding{File: s.File.Name(), Offset: p.Offset(), ID: id, What: "the body of this record fails its checksum"})
		}
		stop, err := s.Scan(s.First(), prev, func(f *segment.Frame) error {
			if f.Pos >= r.found.End {
				return errStop
			}
			_, err := s.CheckBodies(f, bad)
			return err
		})
		if err != nil && !errors.Is(err, errStop) {
			return err
		}
		prev = stop.Last
		if s.Number < r.found.End.Segment() && !stop.Sealed {
			v.add(Finding{File: s.File.Name(), Offset: stop.Off, What: "the frames end without a Seal"})
		}
		if s.Number == r.found.End.Segment() && stop.Off < r.found.End.Offset() && err == nil {
			v.add(Finding{File: s.File.Name(), Offset: stop.Off, What: "the frames end before the log does"})
		}
	}
	return nil
}

// messages reads every live message as a consumer would.
func (v *verifier) messages(r *recovered) error {
	var slots []uint32
	r.table.ForEach(func(slot uint32) { slots = append(slots, slot) })
	for _, slot := range slots {
		m := r.table.Msg(slot)
		if err := v.note(ID(m.ID), checkMessage(r, slot)); err != nil {
			return err
		}
	}
	return nil
}

func checkMessage(r *recovered, slot uint32) (err error) {
	m := r.table.Msg(slot)
	x := r.table.Extents(m)
	var pins []*segment.Segment
	defer func() { release(pins) }()
	for _, p := range append([]state.Extent{{Pos: m.Loc}}, x...) {
		s, err := r.found.Acquire(p.Pos.Segment())
		if err != nil {
			return err
		}
		pins = append(pins, s)
	}
	st, err := readStored(pins, m.ID, m.Loc, x)
	if err != nil {
		return err
	}
	if err := st.check(); err != nil {
		return err
	}
	n := 0
	err = st.guard(func() error {
		st.recipients(0, segment.RecipientsMax, func(int, []byte, []byte) { n++ })
		return nil
	})
	if err != nil {
		return err
	}
	if want := r.table.Len(slot); n != want {
		return &CorruptError{Segment: m.Loc.Segment(), File: segment.Name(m.Loc.Segment()), Offset: m.Loc.Offset(),
			Reason: fmt.Sprintf("the record has %d recipients, the state %d", n, want)}
	}
	return nil
}

// invariants checks the totals against a count.
func (v *verifier) invariants(r *recovered) {
	t := r.table
	var live, doubt, weight int64
	messages := 0
	queues := make(map[uint32]int64)
	t.ForEach(func(slot uint32) {
		m := t.Msg(slot)
		messages++
		weight += m.Bytes()
		n := 0
		list := t.Recipients(slot)
		for i := range list {
			if list[i].Standing == state.Used {
				continue
			}
			n++
			queues[list[i].Queue]++
			if list[i].Flags&state.InDoubt != 0 {
				doubt++
			}
		}
		live += int64(n)
		if have := t.Live(m); n != have {
			v.add(Finding{ID: ID(m.ID), What: fmt.Sprintf("counts %d recipients that are not used, has %d", have, n)})
		}
		if m.ID >= t.Lease {
			v.add(Finding{ID: ID(m.ID), What: "its ID is not below the lease"})
		}
	})
	same := func(what string, have, want int64) {
		if have != want {
			v.add(Finding{What: fmt.Sprintf("%s: the total is %d, counted are %d", what, have, want)})
		}
	}
	same("enqueued minus used", t.Counts.Enqueued-t.Counts.Used.Total(), live)
	same("in doubt", t.Counts.InDoubt, doubt)
	same("weight", t.Counts.Weight, weight)
	same("messages", int64(t.Messages()), int64(messages))
	for n := range t.Queues() {
		if q := t.Queue(uint32(n)); q != nil {
			same("queue "+q.Name, q.Live, queues[uint32(n)])
			if q.Live == 0 && q.State == (QueueState{}) {
				v.add(Finding{What: "queue " + q.Name + ": it is empty and still there"})
			}
		}
	}
}

// older replays from the older checkpoint too: it must arrive at the same state.
func (v *verifier) older(d disk.Dir, r *recovered) error {
	if r.older == nil {
		return nil
	}
	o := &recovered{dir: d, uuid: r.uuid, claims: r.claims}
	if err := o.replay(r.older, true); err != nil {
		if errors.Is(err, errUnusable) {
			return nil // found by Check
		}
		return v.note(0, err)
	}
	defer o.found.Close()
	if o.table.Applied != r.table.Applied {
		return nil // an owner has gone on meanwhile
	}
	if a, b := tableSum(r.table, r.uuid), tableSum(o.table, r.uuid); a != b {
		v.add(Finding{File: r.older.Name, What: fmt.Sprintf("replay from it arrives at another state (%08x) than from %s (%08x)", b, r.newest.Name, a)})
	}
	return nil
}

// tableSum is the checksum of a state, written as a checkpoint.
func tableSum(t *state.Table, uuid [16]byte) uint32 {
	var s summer
	_ = checkpoint.Encode(&s, t, uuid, 0) // the only errors are those of the writer
	return uint32(s)
}

type summer uint32

func (s *summer) Write(b []byte) (int, error) {
	*s = summer(segment.CRCUpdate(uint32(*s), b))
	return len(b), nil
}
