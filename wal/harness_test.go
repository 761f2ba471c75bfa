package wal

import (
	"bytes"
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"maps"
	"os"
	"runtime"
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/mtawal/mtawal/checkpoint"
	"github.com/mtawal/mtawal/internal/disk"
	"github.com/mtawal/mtawal/journal"
	"github.com/mtawal/mtawal/segment"
	"github.com/mtawal/mtawal/state"
)

// storeDir is where the stores of these tests lie in their file systems.
const storeDir = "/store"

// onDisk are options for a store on a double: small segments, the clock of the bubble it
// runs in.
func onDisk(fs disk.FS) Options { return Options{SegmentSize: segment.SizeMin, fs: fs} }

// openOn opens the store on a double, or says why it could not.
func openOn(fs disk.FS, change ...func(*Options)) (*Store, error) {
	o := onDisk(fs)
	for _, f := range change {
		f(&o)
	}
	return Open(storeDir, o)
}

// mustOpen opens the store on a double and closes it with the test.
func mustOpen(t testing.TB, fs disk.FS, change ...func(*Options)) *Store {
	t.Helper()
	s, err := openOn(fs, change...)
	if err != nil {
		t.Fatalf("open: %v", err)
	}
	t.Cleanup(func() { _ = s.Close() }) // of a store that a test has crashed it fails
	return s
}

// bubble runs f under a fake clock that moves on only when every goroutine waits:
// timers cost nothing, and synctest.Wait finds the moment when the engine has come to
// rest. A goroutine left behind, a deadlock, and a day of that clock are errors; what waits
// for a mutex for ever is seen by the watchdog. f must not end the test; its error, or
// panic, is returned.
func bubble(t *testing.T, what string, f func() error) (err error) {
	t.Helper()
	defer watchdog(what)()
	defer func() {
		if r := recover(); r != nil { // of synctest: nothing in the bubble can go on
			err = errors.Join(err, fmt.Errorf("%v\n%s", r, stacks(true)))
		}
	}()
	synctest.Test(t, func(*testing.T) {
		defer time.AfterFunc(24*time.Hour, func() { hang(what) }).Stop()
		defer func() {
			if r := recover(); r != nil {
				err = fmt.Errorf("%v", r)
				if _, own := r.(failure); !own {
					err = fmt.Errorf("panic: %w\n%s", err, stacks(false))
				}
			}
		}()
		err = f()
	})
	return err
}

// failure is what a history panics with when it has found something.
type failure string

func stacks(all bool) []byte {
	b := make([]byte, 1<<20)
	return b[:runtime.Stack(b, all)]
}

func hang(what string) {
	fmt.Fprintf(os.Stderr, "%s hangs\n%s\n", what, stacks(true))
	os.Exit(3)
}

// watchdogAfter is how long, in real time, one history may take.
const watchdogAfter = 2 * time.Minute

// watchdog ends the process with all stacks if what it was started for does not end.
func watchdog(what string) (stop func()) {
	t := time.AfterFunc(watchdogAfter, func() { hang(what) })
	return func() { t.Stop() }
}

// rcptView is a recipient as a plain value.
type rcptView struct {
	Queue    string
	Address  string
	Note     string
	Standing state.Standing
	Reason   Result
	InDoubt  bool
	Deferred bool // the flag in the log
	Due      int64
	Attempts int
}

// messageView is a message that has a recipient not used, as a plain value.
type messageView struct {
	Envelope string
	Body     uint64 // hash
	Size     int64
	Priority int8
	Expires  int64
	Enqueued int64
	Rcpts    []rcptView
}

// view is a store as a plain map. Claims are not in it.
type view map[ID]*messageView

// viewOf reads the whole state of a store, bodies included, from memory and log.
func viewOf(s *Store) (view, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	return tableView(s.table, s.log.Acquire)
}

func tableView(t *state.Table, acquire func(uint32) (*segment.Segment, error)) (view, error) {
	v := make(view)
	var err error
	t.ForEach(func(slot uint32) {
		m := t.Msg(slot)
		mv, e := viewMessage(t, slot, acquire)
		if e != nil {
			err = errors.Join(err, fmt.Errorf("message %v: %w", ID(m.ID), e))
			return
		}
		v[ID(m.ID)] = mv
	})
	return v, err
}

func viewMessage(t *state.Table, slot uint32, acquire func(uint32) (*segment.Segment, error)) (*messageView, error) {
	m := t.Msg(slot)
	x := t.Extents(m)
	var pins []*segment.Segment
	defer func() { release(pins) }()
	for _, p := range append([]state.Extent{{Pos: m.Loc}}, x...) {
		seg, err := acquire(p.Pos.Segment())
		if err != nil {
			return nil, err
		}
		pins = append(pins, seg)
	}
	st, err := readStored(pins, m.ID, m.Loc, x)
	if err != nil {
		return nil, err
	}
	v := &messageView{Size: st.size, Priority: m.Priority, Rcpts: make([]rcptView, m.Len())}
	b := &body{size: st.size, pieces: st.body}
	text := make([]byte, st.size)
	if _, err := b.ReadAt(text, 0); err != nil && !(st.size == 0 && err == io.EOF) {
		return nil, err
	}
	v.Body = hash(text)
	for i := range st.body {
		if err := st.body[i].check(st.ids[i], st.crcs[i]); err != nil {
			return nil, err
		}
	}
	e := st.record.Enqueue()
	v.Envelope, v.Expires, v.Enqueued = string(e.Envelope()), e.ExpiresAt, e.EnqueuedAt
	seen := 0
	err = st.recipients(func(int) bool { return true }, func(i int, address, note []byte) {
		seen++
		v.Rcpts[i].Address, v.Rcpts[i].Note = string(address), string(note)
	})
	if err == nil && seen != m.Len() {
		err = fmt.Errorf("%d recipients in the log, %d in the state", seen, m.Len())
	}
	for i := range v.Rcpts {
		r, have := &v.Rcpts[i], &t.Recipients(slot)[i]
		r.Queue, r.Standing, r.Reason = t.Queue(have.Queue).Name, have.Standing, have.Reason
		r.InDoubt, r.Deferred = have.Flags&state.InDoubt != 0, have.Flags&state.Deferred != 0
		r.Due, r.Attempts = t.NotBefore(have), int(have.Attempts)
		if n := t.Note(have); n != nil {
			r.Note = string(n)
		}
		r.normal()
	}
	return v, err
}

// normal makes equal what means the same: nobody asks for the note of a used recipient.
func (r *rcptView) normal() {
	if r.Standing == state.Used {
		r.Note, r.Due, r.InDoubt, r.Deferred, r.Attempts = "", 0, false, false, 0
	}
}

// hash is FNV-1a.
func hash(b []byte) uint64 {
	h := uint64(14695981039346656037)
	for _, c := range b {
		h = (h ^ uint64(c)) * 1099511628211
	}
	return h
}

// diff says how two states differ, in a few lines; "" if they do not.
func (v view) diff(want view) string {
	var out []string
	for _, id := range slices.Sorted(maps.Keys(want)) {
		if v[id] == nil {
			out = append(out, fmt.Sprintf("%v is missing, want %+v", id, *want[id]))
		} else if d := v[id].diff(want[id]); d != "" {
			out = append(out, fmt.Sprintf("%v: %s", id, d))
		}
	}
	for _, id := range slices.Sorted(maps.Keys(v)) {
		if want[id] == nil {
			out = append(out, fmt.Sprintf("%v is there and should not be: %+v", id, *v[id]))
		}
	}
	if len(out) > 6 {
		out = append(out[:6], fmt.Sprintf("and %d more", len(out)-6))
	}
	return strings.Join(out, "\n")
}

func (m *messageView) diff(want *messageView) string {
	a, b := *m, *want
	a.Rcpts, b.Rcpts = nil, nil
	if fmt.Sprint(a) != fmt.Sprint(b) {
		return fmt.Sprintf("is %+v, want %+v", a, b)
	}
	if len(m.Rcpts) != len(want.Rcpts) {
		return fmt.Sprintf("has %d recipients, want %d", len(m.Rcpts), len(want.Rcpts))
	}
	for i := range m.Rcpts {
		if m.Rcpts[i] != want.Rcpts[i] {
			return fmt.Sprintf("recipient %d is %+v, want %+v", i, m.Rcpts[i], want.Rcpts[i])
		}
	}
	return ""
}

// identity is what holds of Stats at any moment, and of the queues and entries while
// nothing moves.
func identity(s *Store) error {
	st := s.Stats()
	sum := st.Pending + st.Deferred + st.Held + st.Claimed + st.Damaged
	if st.Enqueued != st.Used.Total()+sum || st.WorkQueueLength != sum {
		return fmt.Errorf("enqueued = used + pending + deferred + held + claimed + damaged does not hold: %+v", st)
	}
	var q QueueInfo
	for i, err := range s.Queues(context.Background()) {
		if err != nil {
			return fmt.Errorf("queues: %w", err)
		}
		q.Pending += i.Pending
		q.Deferred += i.Deferred
		q.Held += i.Held
		q.Claimed += i.Claimed
		q.Damaged += i.Damaged
		q.InDoubt += i.InDoubt
	}
	want := QueueInfo{Pending: st.Pending, Deferred: st.Deferred, Held: st.Held, Claimed: st.Claimed, Damaged: st.Damaged, InDoubt: st.InDoubt}
	if q != want {
		return fmt.Errorf("the queues add up to %+v, the totals are %+v", q, want)
	}
	return nil
}

// encoded is a state as the bytes of a checkpoint.
func encoded(t *state.Table, uuid [16]byte, logBytes int64) ([]byte, error) {
	var b bytes.Buffer
	err := checkpoint.Encode(&b, t, uuid, logBytes)
	return b.Bytes(), err
}

// recoverOn reads the store on a double without its lock, and hands it to look.
func recoverOn(fs disk.FS, look func(disk.Dir, *recovered) error) (err error) {
	d, err := fs.OpenDir(storeDir, false)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, d.Close()) }()
	m, err := readMeta(d)
	if err != nil {
		return err
	}
	if !m.ready {
		return ErrNotStore
	}
	r, err := recoverStore(d, m.uuid, true)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, r.close()) }()
	return look(d, r)
}

// checkpointNames lists the checkpoints on a double, the newest first.
func checkpointNames(fs disk.FS) ([]string, error) {
	d, err := fs.OpenDir(storeDir, false)
	if err != nil {
		return nil, err
	}
	defer d.Close()
	list, err := d.List()
	var names []string
	for _, f := range list {
		if _, ok := checkpoint.ParseName(f.Name); ok {
			names = append(names, f.Name)
		}
	}
	slices.SortFunc(names, func(a, b string) int { return cmp.Compare(b, a) })
	return names, err
}

// checkFolds compares the newest checkpoint, byte by byte, with what a replay from the one
// before it makes of the log up to the same position, and with a fold made again.
func checkFolds(fs disk.FS) error {
	return recoverOn(fs, func(d disk.Dir, r *recovered) error {
		if r.newest == nil {
			return nil
		}
		if err := r.newest.Check(true); err != nil {
			return err
		}
		have, err := readAll(d, r.newest.Name)
		if err != nil {
			return err
		}
		t := state.NewTable()
		var start journal.Start
		if r.older != nil {
			if err := r.older.Load(t); err != nil {
				return err
			}
			start = journal.Start{Pos: r.older.Pos, Last: r.older.LastHeader()}
		}
		// The log as the older one needs it.
		f, err := journal.Recover(d, r.uuid, start, max(start.Pos.Segment(), 1), r.found.Promise, true, func(*segment.Frame) error { return nil })
		if err != nil {
			if r.older == nil {
				return nil // its beginning was recycled
			}
			return fmt.Errorf("replaying from %s: %w", r.older.Name, err)
		}
		defer f.Close()
		if err := f.Frames(start.Pos, r.newest.Pos, start.Last, t.ApplyFrame); err != nil {
			return fmt.Errorf("replaying to %s: %w", r.newest.Name, err)
		}
		want, err := encoded(t, r.uuid, r.newest.LogBytes)
		if err != nil {
			return err
		}
		if !bytes.Equal(have, want) {
			return fmt.Errorf("%s is not what a replay makes", r.newest.Name)
		}
		var again bytes.Buffer
		if err := checkpoint.Fold(&again, r.older, f, r.uuid, r.newest.Pos); err != nil {
			return fmt.Errorf("folding again: %w", err)
		}
		if !bytes.Equal(have, again.Bytes()) {
			return fmt.Errorf("%s is not what a second fold makes", r.newest.Name)
		}
		return nil
	})
}

func readAll(d disk.Dir, name string) ([]byte, error) {
	f, err := d.Open(name, false)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	n, err := f.Size()
	if err != nil {
		return nil, err
	}
	b := make([]byte, n)
	_, err = f.ReadAt(b, 0)
	return b, err
}
