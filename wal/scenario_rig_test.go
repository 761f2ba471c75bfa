package wal

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"maps"
	"os"
	"slices"
	"sync"
	"testing"
	"testing/synctest"

	"github.com/mtawal/mtawal/internal/disk"
	"github.com/mtawal/mtawal/internal/disk/memdisk"
	"github.com/mtawal/mtawal/segment"
)

// The scenarios are the cases that the rules of crash safety were made for, each a test
// named after it. They run on a page cache that can crash, with the smallest segments.

const spool = "/store"

// scenario runs f under a clock that moves on only when everybody waits: no Marker
// comes in between unless the test sleeps.
func scenario(t *testing.T, f func(t *testing.T)) {
	t.Helper()
	synctest.Test(t, f)
}

// A claim table of the usual size would be most of what a disk in memory has to copy.
func tiny(fs disk.FS) Options { return Options{SegmentSize: segment.SizeMin, claims: 1024, fs: fs} }

// roomy segments take longer bodies in one frame.
func roomy(fs disk.FS) Options { return Options{SegmentSize: 1 << 20, fs: fs} }

// started opens a store, which must work. A store that the test does not close itself is
// closed with the test, whatever has become of its disk.
func started(t *testing.T, o Options) *Store {
	t.Helper()
	s, err := Open(spool, o)
	if err != nil {
		t.Fatalf("open: %v", err)
	}
	t.Cleanup(func() { _ = s.Close() })
	return s
}

func ended(t *testing.T, s *Store) {
	t.Helper()
	if err := s.Close(); err != nil {
		t.Fatalf("close: %v", err)
	}
}

// mailing is a message to one recipient in queue q, known by its text.
func mailing(text string) Message {
	return Message{Body: []byte(text), Recipients: []Recipient{{Queue: "q", Address: "a"}}}
}

func posted(t *testing.T, s *Store, text string) ID {
	t.Helper()
	id, err := s.Enqueue(t.Context(), mailing(text))
	if err != nil {
		t.Fatalf("enqueue: %v", err)
	}
	return id
}

// taken claims the next delivery of queue q, which must be there.
func taken(t *testing.T, s *Store) *Delivery {
	t.Helper()
	d, err := s.Claim(t.Context(), "q")
	if err != nil {
		t.Fatalf("claim: %v", err)
	}
	return d
}

func textOf(d *Delivery) (string, error) {
	var b bytes.Buffer
	_, err := d.Body.WriteTo(&b)
	return b.String(), err
}

// waiting is what a store would hand out, by text: the recipients in doubt of each. It
// changes nothing in the store.
func waiting(s *Store) (map[string][]int, error) {
	c, err := s.Consumer(ConsumerOptions{ManualStart: true, InFlight: InFlightMax})
	if err != nil {
		return nil, err
	}
	defer c.Close()
	found := make(map[string][]int)
	var out []*Delivery
	for info, err := range s.Queues(context.Background()) {
		if err != nil {
			return nil, err
		}
		for {
			d, ok := c.TryNext(info.Name)
			if !ok {
				break
			}
			out = append(out, d)
			text, err := textOf(d)
			if err != nil {
				return nil, err
			}
			doubt := found[text]
			for _, r := range d.Recipients {
				if r.InDoubt {
					doubt = append(doubt, r.Index)
				}
			}
			found[text] = doubt
		}
	}
	for _, d := range out {
		d.Release()
	}
	return found, nil
}

// holds fails unless exactly these texts wait in the store.
func holds(t *testing.T, s *Store, texts ...string) {
	t.Helper()
	found, err := waiting(s)
	if err != nil {
		t.Fatal(err)
	}
	have := slices.Sorted(maps.Keys(found))
	slices.Sort(texts)
	if !slices.Equal(have, texts) {
		t.Fatalf("the store holds %.300q, want %.300q", have, texts)
	}
}

// Crashes.

// nothingMore is the power cut that keeps only what was durable.
func nothingMore(int) int { return 0 }

// allOfIt is the power cut that keeps all that was written, in its last state.
func allOfIt(n int) int { return n - 1 }

// whereItIs is a store on a double as its files tell it, read without its lock.
type whereItIs struct {
	uuid [16]byte
	end  segment.Pos
	last segment.FrameHeader
	tail segment.Header // of the segment that the log ends in
}

func lookInto(t *testing.T, fs disk.FS) (w whereItIs) {
	t.Helper()
	d, err := fs.OpenDir(spool, false)
	if err != nil {
		t.Fatal(err)
	}
	defer d.Close()
	m, err := readMeta(d)
	if err != nil {
		t.Fatal(err)
	}
	r, err := recoverStore(d, m.uuid, true)
	if err != nil {
		t.Fatal(err)
	}
	w = whereItIs{uuid: m.uuid, end: r.found.End, last: r.found.Last}
	for _, s := range r.found.Segments() {
		if s.Number == w.end.Segment() {
			w.tail = s.Header
		}
	}
	if err := r.close(); err != nil {
		t.Fatal(err)
	}
	return w
}

func segmentPath(n uint32) string { return spool + "/" + segment.Name(n) }

// transplant puts bytes of one disk into another, at the same place of a segment.
func transplant(t *testing.T, from, to *memdisk.FS, number uint32, off, n int64) {
	t.Helper()
	b, err := from.Device(segmentPath(number))
	if err != nil {
		t.Fatal(err)
	}
	if err := to.Damage(segmentPath(number), off, b[off:off+n]); err != nil {
		t.Fatal(err)
	}
}

// files is every file of a double as the process sees it. A store at work renames and removes files
// between the list and the look: then all is listed again.
func files(t *testing.T, fs disk.FS) map[string]string {
	t.Helper()
	d, err := fs.OpenDir(spool, false)
	if err != nil {
		t.Fatal(err)
	}
	defer d.Close()
	for {
		all, err := contents(d)
		if err == nil {
			return all
		}
		if !errors.Is(err, os.ErrNotExist) {
			t.Fatal(err)
		}
	}
}

// contents reads every file that a directory lists.
func contents(d disk.Dir) (map[string]string, error) {
	list, err := d.List()
	if err != nil {
		return nil, err
	}
	all := make(map[string]string)
	for _, i := range list {
		f, err := d.Open(i.Name, false)
		if err != nil {
			return nil, err
		}
		b := make([]byte, i.Size)
		if _, err := f.ReadAt(b, 0); err != nil && i.Size > 0 {
			return nil, errors.Join(err, f.Close())
		}
		if err := f.Close(); err != nil {
			return nil, err
		}
		all[i.Name] = string(b)
	}
	return all, nil
}

// untouched fails if the files of a double are not as they were.
func untouched(t *testing.T, fs disk.FS, before map[string]string) {
	t.Helper()
	after := files(t, fs)
	for name, b := range before {
		if after[name] != b {
			t.Errorf("%s was touched", name)
		}
	}
	for name := range after {
		if _, ok := before[name]; !ok {
			t.Errorf("%s was made", name)
		}
	}
}

// forgery is a frame that nobody's store wrote, with one message in it.
type forgery struct {
	header segment.FrameHeader
	text   string
	id     uint64
}

// bytes encodes it for a place; what the header says is believed.
func (f *forgery) bytes(alignment uint32) []byte {
	m := mailing(f.text)
	n := segment.EnqueueSize(&m, 0)
	h := f.header
	h.Records, h.TableLen, h.BodyLen = 1, uint32(n), int64(len(f.text))
	h.Layout(alignment)
	b := make([]byte, h.Len)
	segment.PutEnqueue(b[segment.FrameHeaderSize:segment.FrameHeaderSize+n], segment.FrameHeaderSize, &m,
		&segment.EnqueueFields{ID: f.id, EnqueuedAt: 1, BodyLen: int64(len(f.text)), BodyCRC: segment.BodyCRC(f.id, []byte(f.text))})
	copy(b[h.BodyOff:], f.text)
	h.TableCRC = segment.TableSum(h.Salt, h.Pos, b[segment.FrameHeaderSize:segment.FrameHeaderSize+n])
	h.Encode(b)
	return b
}

// next is the frame that would be valid behind the end of the log.
func (w *whereItIs) next(text string, id uint64) forgery {
	return forgery{text: text, id: id, header: segment.FrameHeader{
		Kind: segment.Data, Salt: w.tail.Salt, Pos: w.end, Epoch: w.last.Epoch, Nonce: w.last.Nonce,
		Promise: w.last.End(), Lease: w.last.Lease, Time: 1, Previous: w.last.CRC,
	}}
}

// account is what the user of a store was told, by text. It may be used by several
// goroutines, and copied for the moment of a crash.
type account struct {
	mu    sync.Mutex
	sent  map[string]bool // handed to Enqueue
	acked map[string]bool
	using map[string]bool // a used-mark was handed over
	used  map[string]bool
}

func newAccount() *account {
	return &account{sent: map[string]bool{}, acked: map[string]bool{}, using: map[string]bool{}, used: map[string]bool{}}
}

func (a *account) note(m map[string]bool, text string) {
	a.mu.Lock()
	defer a.mu.Unlock()
	m[text] = true
}

func (a *account) copy() *account {
	a.mu.Lock()
	defer a.mu.Unlock()
	return &account{sent: maps.Clone(a.sent), acked: maps.Clone(a.acked), using: maps.Clone(a.using), used: maps.Clone(a.used)}
}

// post enqueues a text and takes note.
func (a *account) post(s *Store, text string) error {
	a.note(a.sent, text)
	_, err := s.Enqueue(context.Background(), mailing(text))
	if err == nil {
		a.note(a.acked, text)
	}
	return err
}

// deliver claims the next and settles it, and takes note.
func (a *account) deliver(s *Store, r Result) error {
	d, err := s.Claim(context.Background(), "q")
	if err != nil {
		return err
	}
	text, err := textOf(d)
	if err != nil {
		return err
	}
	if a.used[text] {
		return fmt.Errorf("%.40q was used and is handed out again", text)
	}
	a.note(a.using, text)
	if err = d.SettleAll(context.Background(), r); err == nil {
		a.note(a.used, text)
	}
	return err
}

// audit opens what a crash left and compares it with what the user was told then.
func (a *account) audit(fs disk.FS) error {
	s, err := Open(spool, tiny(fs))
	if err != nil {
		return fmt.Errorf("open: %w", err)
	}
	found, err := waiting(s)
	if err == nil {
		err = a.compare(found)
	}
	return errors.Join(err, s.Close())
}

func (a *account) compare(found map[string][]int) error {
	for text := range a.acked {
		if _, ok := found[text]; !ok && !a.using[text] {
			return fmt.Errorf("%.40q is lost", text)
		}
	}
	for text := range found {
		switch {
		case a.used[text]:
			return fmt.Errorf("%.40q was used and is back", text)
		case !a.sent[text]:
			return fmt.Errorf("%.40q was never sent", text)
		}
	}
	return nil
}

// audited is a crash image with what had been told at that moment.
type audited struct {
	account *account
	image   *memdisk.FS
	what    string
}

// changing are the operations that leave another disk than they found.
var changing = []disk.Op{disk.OpCreate, disk.OpRename, disk.OpRemove, disk.OpDirSync, disk.OpWriteAt, disk.OpWriteDurable, disk.OpFlush,
	disk.OpSync, disk.OpAllocate, disk.OpTruncate}

// shots runs f and returns a copy of the disk before each operation of it that changes
// something: what a kill at that moment would leave.
func (a *account) shots(fs *memdisk.FS, f func()) []audited {
	var mu sync.Mutex
	var list []audited
	fs.OnOp(func(op disk.Op, name string) {
		if !slices.Contains(changing, op) {
			return
		}
		mu.Lock()
		defer mu.Unlock()
		// What was told before must hold; what was asked for until after may.
		told := a.copy()
		image := fs.Clone()
		asked := a.copy()
		told.sent, told.using = asked.sent, asked.using
		list = append(list, audited{told, image, fmt.Sprintf("before operation %d, %v %s", len(list)+1, op, name)})
	})
	f()
	fs.OnOp(nil)
	mu.Lock()
	defer mu.Unlock()
	return list
}
