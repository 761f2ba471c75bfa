package checkpoint

import (
	"bytes"
	"encoding/binary"
	"errors"
	"flag"
	"math"
	"os"
	"path/filepath"
	"runtime"
	"strings"
	"testing"
	"time"

	"github.com/mtawal/mtawal/internal/disk"
	"github.com/mtawal/mtawal/internal/disk/memdisk"
	"github.com/mtawal/mtawal/mailq"
	"github.com/mtawal/mtawal/segment"
	"github.com/mtawal/mtawal/state"
)

var update = flag.Bool("update", false, "write the golden files anew")

// goldenTable has everything that a checkpoint can hold.
func goldenTable() *state.Table {
	t := state.NewTable()
	t.Applied, t.Last, t.Chain = segment.MakePos(3, 0x5000), segment.MakePos(3, 0x3000), 0x89abcdef
	t.Epoch, t.Nonce, t.Lease = 4, 0x0123456789abcdef, 5000
	t.Counts = state.Counts{Enqueued: 17, Used: mailq.UsedCounts{Delivered: 1, Failed: 2, Expired: 3, Removed: 4, Replaced: 5},
		InDoubt: 1, Weight: 8 * (20 + 1000 + 60), TailCut: 4096, UncleanOpens: 2}
	local, smtp := t.QueueNumber([]byte("local")), t.QueueNumber([]byte("smtp:example.com"))
	idle := t.QueueNumber([]byte("an idle queue"))
	t.QueueNumber([]byte("a queue that nothing names"))
	t.Queue(smtp).State = mailq.QueueState{Mode: mailq.Suspended, Doubt: mailq.DeferDoubt, DoubtDelay: time.Hour}
	t.Queue(idle).State = mailq.QueueState{Doubt: mailq.HoldDoubt}
	rcpt := func(queue uint32, s state.Standing, flags uint8) state.EntryRecipient {
		return state.EntryRecipient{Recipient: state.Recipient{Queue: queue, Standing: s, Flags: flags}}
	}
	doubt := rcpt(local, state.Pending, state.InDoubt|state.Started)
	doubt.Attempts, doubt.NotBefore, doubt.Note = 3, 1_700_000_600_000_000_000, []byte("451 4.7.1 later")
	used := rcpt(smtp, state.Used, 0)
	used.Reason, used.Attempts = mailq.Delivered, 1
	emptied := rcpt(local, state.Held, state.Deferred)
	emptied.Note, emptied.NotBefore = []byte{}, -1
	t.Load(&state.Entry{ID: 10, Loc: segment.MakePos(1, 0x1080), Weight: 20, Enqueued: 1_700_000_000, Rcpts: []state.EntryRecipient{rcpt(smtp, state.Pending, 0)}})
	t.Load(&state.Entry{ID: 11, Loc: segment.MakePos(3, 0x2080), Weight: 1000, Enqueued: 1_700_000_050, Expires: 1_700_432_000, Priority: -1, Late: 7, Keyed: true,
		Rcpts: []state.EntryRecipient{used, doubt, emptied, emptied},
		Extents: []state.Extent{{Pos: segment.MakePos(2, 0x1080), Weight: 5040, Kind: segment.KindChunk, First: 0, CRC: 0xdeadbeef},
			{Pos: segment.MakePos(2, 0x9080), Weight: 120, Kind: segment.KindRecipients, First: 2}}})
	t.Load(&state.Entry{ID: 900, Loc: segment.MakePos(1, 0x3080), Weight: 60, Enqueued: 1_699_999_999, Rcpts: []state.EntryRecipient{rcpt(local, state.Pending, 0)}})
	t.LoadKey(state.Key{Key: "queue-id 4711", ID: 11, At: 1_700_000_049_000_000_000})
	t.LoadKey(state.Key{Key: "k", ID: 4, At: 0})
	return t
}

var goldenFile = filepath.Join("testdata", "golden", "v3.ckpt")

// The format does not change: a file of this version reads as what it was, and
// writing that makes the same file.
func TestGolden(t *testing.T) {
	want := encoded(t, goldenTable(), 123456)
	if *update {
		if err := os.MkdirAll(filepath.Dir(goldenFile), 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(goldenFile, want, 0o644); err != nil {
			t.Fatal(err)
		}
	}
	b, err := os.ReadFile(goldenFile)
	if err != nil {
		t.Fatal(err)
	}
	if !bytes.Equal(b, want) {
		t.Errorf("the state of the golden file is written differently now")
	}
	r := newReading(t)
	c, err := r.open(b)
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	table := state.NewTable()
	if err := errors.Join(c.Check(true), c.Load(table)); err != nil {
		t.Fatal(err)
	}
	if got := encoded(t, table, c.LogBytes); !bytes.Equal(got, b) {
		t.Error("the golden file is read as another state")
	}
	if c.LogBytes != 123456 || c.UUID != testUUID || c.Counts != goldenTable().Counts || c.Lease != 5000 || c.Epoch != 4 || c.Size != int64(len(b)) {
		t.Errorf("the header is read as %+v", c.Info)
	}
	if h := c.LastHeader(); h.End() != table.Applied || h.CRC != 0x89abcdef || h.Epoch != 4 || h.Nonce != 0x0123456789abcdef {
		t.Errorf("the last frame is %+v", h)
	}
	wantUsage := map[uint32]Usage{1: {2, 8 * 80}, 2: {2, 5160}, 3: {1, 8000 - 5160}}
	for n, u := range wantUsage {
		if c.Usage()[n] != u {
			t.Errorf("segment %d holds %+v, should be %+v", n, c.Usage()[n], u)
		}
	}
	if len(c.Usage()) != len(wantUsage) {
		t.Errorf("usage is %v", c.Usage())
	}
	if s := c.Summary(); s.Pos != c.Pos || len(s.Usage) != len(wantUsage) {
		t.Errorf("summary is %+v", s)
	}
	if q, ok := table.FindQueue("smtp:example.com"); !ok || table.Queue(q).State.DoubtDelay != time.Hour || table.Queue(q).Live != 1 {
		t.Error("a queue's state is lost")
	}
	if id, _, ok := table.FindKey("queue-id 4711"); !ok || id != 11 {
		t.Error("a key is lost")
	}
}

// reading is a disk with one checkpoint on it.
type reading struct {
	testing.TB
	fs  *memdisk.FS
	dir disk.Dir
}

func newReading(t testing.TB) *reading {
	fs := memdisk.New(memdisk.Config{})
	dir, err := fs.OpenDir(store, true)
	if err != nil {
		t.Fatal(err)
	}
	return &reading{t, fs, dir}
}

const anyName = "tmp-test"

func (r *reading) open(b []byte) (*File, error) {
	if err := r.fs.Put(store+"/"+anyName, b); err != nil {
		r.Fatal(err)
	}
	return Open(r.dir, anyName, testUUID)
}

// all is the first error of everything that reads a checkpoint; nil if it is accepted.
func (r *reading) all(b []byte) error {
	c, err := r.open(b)
	if err != nil {
		return err
	}
	defer c.Close()
	err, load := c.Check(false), c.Load(state.NewTable())
	if (err == nil) != (load == nil) {
		r.Errorf("Check says %v, Load says %v", err, load)
	}
	return err
}

// No bit of a checkpoint may be another without that being noticed.
func TestEveryBitFlip(t *testing.T) {
	r := newReading(t)
	good := encoded(t, goldenTable(), 123456)
	if err := r.all(good); err != nil {
		t.Fatal(err)
	}
	for i := range good {
		for bit := range 8 {
			b := bytes.Clone(good)
			b[i] ^= 1 << bit
			err := r.all(b)
			if errors.Is(err, segment.ErrVersion) && 8 <= i && i < 12 {
				continue
			}
			if !errors.Is(err, segment.ErrCorrupt) {
				t.Errorf("byte %d, bit %d: %v", i, bit, err)
			}
		}
	}
}

// A file that is too short, or too long, is no checkpoint.
func TestEveryTruncation(t *testing.T) {
	r := newReading(t)
	good := encoded(t, goldenTable(), 123456)
	for n := range good {
		if err := r.all(good[:n]); !errors.Is(err, segment.ErrCorrupt) {
			t.Errorf("the first %d of %d bytes: %v", n, len(good), err)
		}
		if n > 0 {
			if err := r.all(good[n:]); !errors.Is(err, segment.ErrCorrupt) {
				t.Errorf("without the first %d bytes: %v", n, err)
			}
		}
	}
	for _, n := range []int{1, 16, 512, 4096} {
		if err := r.all(append(bytes.Clone(good), make([]byte, n)...)); !errors.Is(err, segment.ErrCorrupt) {
			t.Errorf("%d bytes more: %v", n, err)
		}
	}
	if err := r.all(append(bytes.Clone(good), good...)); !errors.Is(err, segment.ErrCorrupt) {
		t.Errorf("twice itself: %v", err)
	}
}

func TestOpenOthers(t *testing.T) {
	r := newReading(t)
	good := encoded(t, goldenTable(), 1)
	header := func(change func(b []byte)) []byte {
		b := bytes.Clone(good)
		change(b)
		reseal(b)
		return b
	}
	for name, b := range map[string][]byte{
		"of another store":            header(func(b []byte) { b[16] ^= 1 }),
		"at a place in no segment":    header(func(b []byte) { le.PutUint64(b[32:], 0x5000); le.PutUint64(b[40:], 0x3000) }),
		"behind itself":               header(func(b []byte) { le.PutUint64(b[40:], uint64(segment.MakePos(3, 0x5000))) }),
		"behind a frame far away":     header(func(b []byte) { le.PutUint64(b[40:], uint64(segment.MakePos(2, 0x3000))) }),
		"at a place before its frame": header(func(b []byte) { le.PutUint64(b[40:], math.MaxUint64) }),
	} {
		if err := r.all(b); !errors.Is(err, segment.ErrCorrupt) {
			t.Errorf("a checkpoint %s: %v", name, err)
		}
	}
	for name, b := range map[string][]byte{
		"of a later version":    header(func(b []byte) { b[8] = version + 1 }),
		"with unknown features": header(func(b []byte) { b[15] = 0x80 }),
	} {
		if err := r.all(b); !errors.Is(err, segment.ErrVersion) {
			t.Errorf("a checkpoint %s: %v", name, err)
		}
	}
	name := Name(segment.MakePos(3, 0x6000))
	if err := r.fs.Put(store+"/"+name, good); err != nil {
		t.Fatal(err)
	}
	if _, err := Open(r.dir, name, testUUID); !errors.Is(err, segment.ErrCorrupt) {
		t.Errorf("a checkpoint under the name of another: %v", err)
	}
	if _, err := Open(r.dir, "ckpt-0000000000000001", testUUID); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("a checkpoint that is not there: %v", err)
	}
}

func TestNames(t *testing.T) {
	for _, pos := range []segment.Pos{0, 1, segment.MakePos(3, 0x5000), math.MaxUint64} {
		if got, ok := ParseName(Name(pos)); !ok || got != pos {
			t.Errorf("%s is %v, %v", Name(pos), got, ok)
		}
		if len(Name(pos)) > NameMax {
			t.Errorf("%s is longer than %d", Name(pos), NameMax)
		}
	}
	for _, name := range []string{"", "ckpt-", "ckpt-1", "ckpt-000000000000000g", "ckpt-00000000000000001", "ckpt-000000000000000A", "tmp-ckpt-0000000000000001",
		"ckpt-+000000000000001", "ckpt-0000000000000001.old", "seg-00000001"} {
		if pos, ok := ParseName(name); ok {
			t.Errorf("%q passes for the checkpoint at %v", name, pos)
		}
	}
}

// base is a small checkpoint to forge from: one message in one queue.
func forged() *forgery {
	f := &forgery{info: Info{UUID: testUUID, Lease: 100}}
	f.sections[0], f.counts[0] = entryBytes(nil), 1
	f.sections[1], f.counts[1] = append(appendString(nil, "q"), 0, 0, 0), 1
	return f
}

// Files whose checksums are all right and whose content is not: refused, and without memory
// for what they only claim to hold.
func TestHostile(t *testing.T) {
	r := newReading(t)
	if err := r.all(forged().bytes()); err != nil {
		t.Fatalf("the forger's tools are bad: %v", err)
	}
	hugeVarint := binary.AppendUvarint(nil, math.MaxUint64)
	numbers := []uint64{1 << 31, 1<<32 - 1, 1 << 32, 1 << 62, 1 << 63, math.MaxUint64}
	type forging func(f *forgery, n uint64)
	for name, forge := range map[string]forging{
		"counts messages":          func(f *forgery, n uint64) { f.counts[0] = n },
		"counts queues":            func(f *forgery, n uint64) { f.counts[1] = n },
		"counts keys":              func(f *forgery, n uint64) { f.counts[2] = n },
		"counts segments":          func(f *forgery, n uint64) { f.counts[3] = n },
		"has a long section":       func(f *forgery, n uint64) { f.row = func(i int, _ *byte, _, _, l *uint64) { *l += n * uint64(i&1) } },
		"has a section far away":   func(f *forgery, n uint64) { f.row = func(i int, _ *byte, _, o, _ *uint64) { *o += n * uint64(i&1) } },
		"has a queue of long name": func(f *forgery, n uint64) { f.sections[1] = append(binary.AppendUvarint(nil, n), "qqqqqqqqqqqq"...) },
		"has a long key": func(f *forgery, n uint64) {
			f.sections[2], f.counts[2] = append(binary.AppendUvarint(nil, n), "kkkkkkkkk"...), 1
		},
		"has a segment number": func(f *forgery, n uint64) { f.sections[3], f.counts[3] = append(binary.AppendUvarint(nil, n), 1, 1), 1 },
		"has a message of that weight": func(f *forgery, n uint64) {
			f.sections[0] = append(binary.AppendUvarint(f.sections[0][:11:11], n|1<<32), f.sections[0][12:]...)
		},
		"has a message of that time": func(f *forgery, n uint64) {
			f.sections[0] = append(binary.AppendVarint(f.sections[0][:6:6], int64(n|1<<32)), f.sections[0][11:]...)
		},
		"has many recipients": func(f *forgery, n uint64) {
			b := entryBytes(func(e *state.Entry) { e.Rcpts = make([]state.EntryRecipient, 2) })
			f.sections[0] = append(binary.AppendUvarint(b[:len(b)-4:len(b)-4], n), b[len(b)-3:]...)
		},
		"has a message with many extents": func(f *forgery, n uint64) {
			b := entryBytes(func(e *state.Entry) { e.Extents = make([]state.Extent, 1) })
			f.sections[0] = append(binary.AppendUvarint(b[:13:13], n), b[14:]...)
		},
	} {
		for _, n := range numbers {
			f := forged()
			forge(f, n)
			b := f.bytes()
			var before, after runtime.MemStats
			runtime.ReadMemStats(&before)
			err := r.all(b)
			runtime.ReadMemStats(&after)
			if !errors.Is(err, segment.ErrCorrupt) {
				t.Errorf("a file that %s, %#x: %v", name, n, err)
			}
			if used := after.TotalAlloc - before.TotalAlloc; used > 1<<20 {
				t.Errorf("a file of %d bytes that %s, %#x, took %d bytes of memory", len(b), name, n, used)
			}
		}
	}
	for name, forge := range map[string]func(f *forgery){
		"has a message above its lease":  func(f *forgery) { f.info.Lease = 7 },
		"has a queue without a name":     func(f *forgery) { f.sections[1] = append(appendString(nil, ""), 0, 0, 0) },
		"has a queue of too long a name": func(f *forgery) { f.sections[1] = append(appendString(nil, strings.Repeat("q", 256)), 0, 0, 0) },
		"has a queue in an unknown mode": func(f *forgery) { f.sections[1] = append(appendString(nil, "q"), 3, 0, 0) },
		"has a queue of unknown policy":  func(f *forgery) { f.sections[1] = append(appendString(nil, "q"), 0, 3, 0) },
		"has a queue of negative delay":  func(f *forgery) { f.sections[1] = append(appendString(nil, "q"), 0, 0, 1) },
		"has half a queue":               func(f *forgery) { f.sections[1] = f.sections[1][:3] },
		"has a queue twice": func(f *forgery) {
			f.sections[0] = entryBytes(func(e *state.Entry) { e.Rcpts[0].Queue = 1 })
			f.sections[1], f.counts[1] = append(bytes.Clone(f.sections[1]), f.sections[1]...), 2
		},
		"has more queues than it counts":      func(f *forgery) { f.sections[1] = append(f.sections[1], appendString(nil, "r")...) },
		"has fewer queues than messages name": func(f *forgery) { f.sections[1], f.counts[1] = nil, 0 },
		"has more messages than it counts":    func(f *forgery) { f.sections[0] = append(f.sections[0], f.sections[0]...) },
		"has a message twice": func(f *forgery) {
			f.sections[0], f.counts[0] = append(f.sections[0], append([]byte{0}, f.sections[0][1:]...)...), 2
		},
		"has half a key":                        func(f *forgery) { f.sections[2], f.counts[2] = appendString(nil, "key"), 1 },
		"has more keys than it counts":          func(f *forgery) { f.sections[2] = append(appendString(nil, "key"), 1, 1) },
		"has half a key time":                   func(f *forgery) { f.sections[2], f.counts[2] = append(appendString(nil, "key"), 1, 0x80), 1 },
		"has segment 0":                         func(f *forgery) { f.sections[3], f.counts[3] = []byte{0, 1, 1}, 1 },
		"has half a segment":                    func(f *forgery) { f.sections[3], f.counts[3] = []byte{1, 0x80}, 1 },
		"has more segments than it counts":      func(f *forgery) { f.sections[3], f.counts[3] = []byte{1, 1, 1, 2}, 1 },
		"has a number of eleven bytes":          func(f *forgery) { f.sections[3], f.counts[3] = append(hugeVarint, hugeVarint...), 1 },
		"has more in its directory":             func(f *forgery) { f.behind = []byte{0} },
		"has a section that overlaps":           func(f *forgery) { f.row = func(i int, _ *byte, _, o, _ *uint64) { *o -= uint64(i & 1) } },
		"has a gap":                             func(f *forgery) { f.row = func(i int, _ *byte, _, _, l *uint64) { *l -= uint64(i & 1) } },
		"has a directory of a short last entry": func(f *forgery) { f.behind = []byte{5, 0, 0} },
	} {
		f := forged()
		forge(f)
		if err := r.all(f.bytes()); !errors.Is(err, segment.ErrCorrupt) {
			t.Errorf("a file that %s: %v", name, err)
		}
	}
	f := forged()
	f.row = func(i int, kind *byte, _, _, _ *uint64) { *kind += byte(i&1) * 8 }
	if err := r.all(f.bytes()); !errors.Is(err, segment.ErrVersion) {
		t.Errorf("a section of an unknown kind: %v", err)
	}
	// A directory that claims to be longer than the file.
	b := forged().bytes()
	for _, n := range []uint32{0, 1, uint32(len(b)), 1 << 31, math.MaxUint32} {
		le.PutUint32(b[len(b)-footerSize:], n)
		if err := r.all(b); !errors.Is(err, segment.ErrCorrupt) {
			t.Errorf("a directory of %d bytes: %v", n, err)
		}
	}
}

// A few bytes can say that there are a million recipients, all alike, in each of many messages.
// They are not believed: neither beyond the message's own weight, nor beyond what the log can
// hold.
func TestHostileRuns(t *testing.T) {
	const rcpts, messages = 1 << 16, 200
	file := func(weight uint32) []byte {
		f := forged()
		var d delta
		f.sections[0], f.counts[0] = nil, messages
		note := bytes.Repeat([]byte("note"), mailq.NoteMax/4)
		e := state.Entry{Weight: weight, Rcpts: make([]state.EntryRecipient, rcpts)}
		for i := range e.Rcpts {
			e.Rcpts[i].Note = note
		}
		for range 2 {
			e.ID++
			f.sections[0] = appendEntry(f.sections[0], &d, &e, func(q uint32) uint64 { return uint64(q) })
		}
		one := f.sections[0][len(f.sections[0])/2:]
		f.sections[0] = append(f.sections[0], bytes.Repeat(one, messages-2)...)
		return f.bytes()
	}
	r := newReading(t)
	for _, c := range []struct {
		name     string
		b        []byte
		logBytes int64
		memory   uint64
	}{
		{"of no weight", file(0), math.MaxInt64, 1 << 20},
		{"of too little weight", file(2*rcpts - 1), math.MaxInt64, 1 << 20},
		{"in no log", file(2 * rcpts), 0, 1 << 20},
		{"in a log that holds less than one", file(2 * rcpts), 16*rcpts - 1, 1 << 20},
		{"in a log that holds two", file(2 * rcpts), 2 * 16 * rcpts, 48 << 20},
	} {
		f, err := r.open(c.b)
		if err != nil {
			t.Fatal(err)
		}
		f.Bound(c.logBytes)
		var before, after runtime.MemStats
		runtime.ReadMemStats(&before)
		err = f.Load(state.NewTable())
		runtime.ReadMemStats(&after)
		if used := after.TotalAlloc - before.TotalAlloc; !errors.Is(err, segment.ErrCorrupt) || used > c.memory {
			t.Errorf("recipients %s, in a file of %d bytes: %v, %d bytes of memory", c.name, len(c.b), err, used)
		}
		if err := f.Check(false); !errors.Is(err, segment.ErrCorrupt) {
			t.Errorf("recipients %s: Check says %v", c.name, err)
		}
		if err := f.Close(); err != nil {
			t.Fatal(err)
		}
	}
}

// Unreadable blocks are the device's error, not damage.
func TestOpenUnreadable(t *testing.T) {
	table := goldenTable()
	for i := range 3000 { // several pages of each kind
		table.LoadKey(state.Key{Key: "a key of some length", ID: uint64(i)})
		table.Load(&state.Entry{ID: uint64(1000 + i), Loc: segment.MakePos(1, 0x1080), Weight: 20, Rcpts: make([]state.EntryRecipient, 1)})
	}
	good := encoded(t, table, 1)
	r := newReading(t)
	seen := map[bool]int{}
	for off := int64(0); off < int64(len(good)); off += memdisk.PageSize {
		c, err := r.open(good)
		if err == nil {
			err = c.Close()
		}
		if err != nil {
			t.Fatal(err)
		}
		if err := r.fs.Unreadable(store+"/"+anyName, off, 1); err != nil {
			t.Fatal(err)
		}
		c, err = Open(r.dir, anyName, testUUID)
		seen[err == nil]++
		if err == nil {
			if err = c.Check(false); !errors.Is(err, disk.ErrFault) {
				t.Errorf("Check with page %d unreadable: %v", off/memdisk.PageSize, err)
			}
			err = c.Load(state.NewTable())
			if err2 := c.Close(); err2 != nil {
				t.Error(err2)
			}
		}
		if !errors.Is(err, disk.ErrFault) || errors.Is(err, segment.ErrCorrupt) {
			t.Errorf("page %d unreadable: %v", off/memdisk.PageSize, err)
		}
	}
	if seen[true] == 0 || seen[false] == 0 {
		t.Errorf("pages of one kind only: %v", seen)
	}
}
