package wal

import (
	"errors"
	"time"

	"github.com/mtawal/mtawal/internal/disk"
	"github.com/mtawal/mtawal/segment"
)

// DumpRecord is one record of the log, or a frame without records. Its slices belong to
// the callee.
type DumpRecord struct {
	Position string    `json:"position"`
	Frame    string    `json:"frame"` // kind of its frame
	Epoch    uint64    `json:"epoch"`
	Time     time.Time `json:"time"`
	Promise  string    `json:"promise"`
	Kind     string    `json:"kind,omitempty"` // of the record; empty: the frame has none
	ID       ID        `json:"id,omitempty"`
	Moved    string    `json:"moved_from,omitempty"`

	Recipients []DumpRecipient `json:"recipients,omitempty"`
	Outcomes   []DumpOutcome   `json:"outcomes,omitempty"`
	Attempt    *DumpRun        `json:"attempt,omitempty"`
	Chunks     int             `json:"chunks,omitempty"`
	Sequence   *uint32         `json:"sequence,omitempty"`
	Queue      string          `json:"queue,omitempty"`
	State      *QueueState     `json:"state,omitempty"`
	Open       *DumpOpen       `json:"open,omitempty"`
	Successor  uint32          `json:"successor,omitempty"`
	Key        string          `json:"key,omitempty"`
	Envelope   int             `json:"envelope_bytes,omitempty"`
	Size       int64           `json:"body_bytes,omitempty"`
	// Body is there only if it was asked for and the record holds it.
	Body []byte `json:"body,omitempty"`
}

// DumpRecipient is a recipient in a DumpRecord.
type DumpRecipient struct {
	Index     int       `json:"index"`
	Queue     string    `json:"queue"`
	Address   string    `json:"address"`
	Note      string    `json:"note,omitempty"`
	NotBefore time.Time `json:"not_before,omitzero"`
}

// DumpRun is a run of recipients, by index.
type DumpRun struct {
	First int `json:"first"`
	Count int `json:"count"`
}

// DumpOutcome is an outcome for a run of recipients.
type DumpOutcome struct {
	DumpRun
	Result   Result    `json:"result"`
	Attempts int       `json:"attempts"`
	Until    time.Time `json:"until,omitzero"`
	Note     string    `json:"note,omitempty"`
}

// DumpOpen is how an opening found the log.
type DumpOpen struct {
	Cut     int64 `json:"cut_bytes"`
	Clean   bool  `json:"clean"`
	Warm    bool  `json:"warm"`
	InDoubt int64 `json:"in_doubt"`
}

// Dump calls fn with every record that is still in the log of a store, in order. It needs
// no lock and writes nothing. fn's error ends it and is returned. Beside a running owner a
// segment may be recycled meanwhile: what was shown then was there when it was read.
func Dump(dir string, o Options, bodies bool, fn func(*DumpRecord) error) error {
	var ended error
	shown := segment.Pos(0)
	err := readOnly(dir, o, func(d disk.Dir, m meta, _ Options) (err error) {
		r, err := recoverStore(d, m.uuid, true)
		if err != nil {
			return err
		}
		defer func() { err = errors.Join(err, r.close()) }()
		var prev segment.FrameHeader
		var before uint32
		for _, s := range r.found.Segments() {
			if s.Number > r.found.End.Segment() {
				break
			}
			first, ok, err := s.FirstFrame()
			if err != nil {
				return err
			}
			if s.Number != before+1 && ok {
				prev = first.Before()
			}
			before = s.Number
			stop, err := s.Scan(s.First(), prev, func(f *segment.Frame) error {
				if f.Pos >= r.found.End {
					return errStop
				}
				if f.Pos < shown {
					return nil // before a look that had to be repeated
				}
				shown = f.End()
				if ended = dumpFrame(s, f, bodies, fn); ended != nil {
					return errStop
				}
				return nil
			})
			if ended != nil || err != nil && !errors.Is(err, errStop) {
				return err
			}
			prev = stop.Last
		}
		return nil
	})
	if ended != nil {
		return ended
	}
	return err
}

func dumpFrame(s *segment.Segment, f *segment.Frame, bodies bool, fn func(*DumpRecord) error) error {
	head := DumpRecord{Position: f.Pos.String(), Frame: f.Kind.String(), Epoch: f.Epoch, Time: segment.Time(f.Time), Promise: f.Promise.String()}
	if f.FrameHeader.Records == 0 {
		return fn(&head)
	}
	return f.ForEach(func(p segment.Pos, r segment.Record) error {
		d := head
		d.Position = p.String()
		d.record(r)
		if n := r.BodyLen(); bodies && n > 0 {
			d.Body = make([]byte, n)
			if _, err := s.File.ReadAt(d.Body, f.Pos.Offset()+int64(f.BodyOff)+r.BodyOff()); err != nil {
				return err
			}
		}
		return fn(&d)
	})
}

// record fills in what the record says.
func (d *DumpRecord) record(r segment.Record) {
	d.Kind = r.Kind().String()
	if p := r.MovedFrom(); p != 0 {
		d.Moved = p.String()
	}
	switch r.Kind() {
	case segment.KindEnqueue:
		e := r.Enqueue()
		d.ID, d.Key, d.Envelope, d.Size, d.Chunks = ID(r.ID()), string(e.Key()), len(e.Envelope()), e.BodyLen, e.Chunks()
		d.recipients(0, &e)
	case segment.KindRecipients:
		e := r.Recipients()
		d.ID = ID(r.ID())
		d.recipients(e.First, &e)
	case segment.KindSettle:
		d.ID = ID(r.ID())
		r.Runs(func(s segment.SettleRun) {
			d.Outcomes = append(d.Outcomes, DumpOutcome{DumpRun: DumpRun{s.First, s.Count}, Result: s.Result, Attempts: s.Attempts,
				Until: segment.Time(s.Until), Note: string(s.Note)})
		})
	case segment.KindAttempt:
		first, count := r.AttemptRun()
		d.ID, d.Attempt = ID(r.ID()), &DumpRun{first, count}
	case segment.KindQueue:
		name, st := r.Queue()
		d.Queue, d.State = string(name), &st
	case segment.KindFlush:
		name, _ := r.Flush()
		d.Queue = string(name)
	case segment.KindChunk:
		seq, n, _ := r.Chunk()
		d.ID, d.Sequence, d.Size = ID(r.ID()), &seq, int64(n)
	case segment.KindOpen:
		o := r.Open()
		d.Open = &DumpOpen{Cut: o.Cut, Clean: o.Clean, Warm: o.Warm, InDoubt: o.InDoubt}
	case segment.KindSeal:
		d.Successor, _ = r.Seal()
	}
}

func (d *DumpRecord) recipients(base int, l interface {
	QueueNames(func(int, []byte))
	Route(int) (int, int64)
	Addresses(int, func(int, []byte, []byte) bool)
}) {
	var names []string
	l.QueueNames(func(_ int, name []byte) { names = append(names, string(name)) })
	l.Addresses(0, func(i int, address, note []byte) bool {
		q, at := l.Route(i)
		d.Recipients = append(d.Recipients, DumpRecipient{Index: base + i, Queue: names[q], Address: string(address), Note: string(note), NotBefore: segment.Time(at)})
		return true
	})
}
