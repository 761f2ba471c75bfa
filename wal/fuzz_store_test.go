package wal

import (
	"archive/zip"
	"bytes"
	"encoding/binary"
	"errors"
	"flag"
	"fmt"
	"io"
	"maps"
	"math"
	"os"
	"path/filepath"
	"runtime/metrics"
	"slices"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/mtawal/mtawal/internal/disk"
	"github.com/mtawal/mtawal/internal/disk/memdisk"
	"github.com/mtawal/mtawal/journal"
	"github.com/mtawal/mtawal/segment"
	"github.com/mtawal/mtawal/state"
)

// fuzzed is a store that was killed, as its files, and all that it ever was.
type fuzzed struct {
	names    []string
	files    map[string][]byte
	texts    map[ID]string
	prefixes map[string]bool // of each frame of its log: what was live behind it
	live     string          // behind the last
}

// fuzzOptions are those of a store that is made, and opened, often.
func fuzzOptions(fs disk.FS) Options {
	return Options{SegmentSize: segment.SizeMin, claims: 256, fs: fs, now: func() time.Time { return time.Unix(1_700_000_000, 0) }}
}

// liveOf names the recipients of a state that are not used.
func liveOf(t *state.Table) string {
	var list []string
	t.ForEach(func(slot uint32) {
		for i, r := range t.Recipients(slot) {
			if r.Standing != state.Used {
				list = append(list, fmt.Sprintf("%x.%d", t.Msg(slot).ID, i))
			}
		}
	})
	slices.Sort(list)
	return strings.Join(list, " ")
}

// fuzzText is the body of the i-th message.
func fuzzText(i int) string {
	if i == 20 {
		return strings.Repeat("in pieces ", 9000)
	}
	return fmt.Sprintf("%d %s", i, strings.Repeat("text ", 100+700*(i%3)))
}

const fuzzMessages = 36

// fuzzKilled makes a store with mail in several segments, two checkpoints, a long body, notes and
// keys, and kills it with deliveries under way.
func fuzzKilled(t *testing.T) *memdisk.FS {
	t.Helper()
	fs := memdisk.New(memdisk.Config{})
	s, err := Open(spool, fuzzOptions(fs))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = s.Close() })
	ok := func(err error) {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
	}
	s.folds.running.Lock() // the log is to be there from its beginning: there are no others than these
	defer s.folds.running.Unlock()
	for i := range fuzzMessages {
		m := Message{Key: fmt.Sprint("key ", i), Envelope: []byte("from"), Body: []byte(fuzzText(i)),
			Recipients: []Recipient{{Queue: "q", Address: "a"}, {Queue: "r", Address: "b", Note: []byte("note")}}}
		id, err := s.Enqueue(t.Context(), m)
		ok(err)
		if i == 12 || i == 24 {
			s.folds.running.Unlock()
			err := s.Checkpoint(t.Context())
			s.folds.running.Lock()
			ok(err)
		}
		if i%4 == 3 {
			d, err := s.Claim(t.Context(), "q")
			ok(err)
			ok(d.SettleAll(t.Context(), Delivered))
			_, err = s.Commit(t.Context(), Batch{Edit: []Edit{{ID: id, Outcomes: []Outcome{{Recipient: 1, Result: Failed, Note: []byte("550 no")}}}}})
			ok(err)
		}
		if i%9 == 8 {
			d, err := s.Claim(t.Context(), "r")
			ok(err)
			ok(d.Settle(t.Context(), []Outcome{{Recipient: All, Result: Deferred, Until: time.Now()}}))
		}
	}
	for range fuzzClaimed {
		_, err := s.Claim(t.Context(), "q")
		ok(err)
	}
	fs.Kill()
	return fs
}

// fuzzClaimed is how many deliveries were under way.
const fuzzClaimed = 3

// fuzzArchive holds the files of the store: the same in every run, so that an input that was found
// means the same. To make it anew: go test ./wal -run TestFuzzArchive -args -update
var fuzzArchive = filepath.Join("testdata", "fuzzstore.zip")

var update = flag.Bool("update", false, "make "+fuzzArchive+" anew")

func TestFuzzArchive(t *testing.T) {
	if *update {
		var b bytes.Buffer
		z := zip.NewWriter(&b)
		all := files(t, fuzzKilled(t))
		for _, name := range slices.Sorted(maps.Keys(all)) {
			if strings.HasPrefix(name, "free-") {
				continue
			}
			w, err := z.Create(name)
			if err == nil {
				_, err = w.Write([]byte(all[name]))
			}
			if err != nil {
				t.Fatal(err)
			}
		}
		if err := errors.Join(z.Close(), os.WriteFile(fuzzArchive, b.Bytes(), 0o644)); err != nil {
			t.Fatal(err)
		}
	}
	z := fuzzStore(t)
	segments, checkpoints := 0, 0
	for _, name := range z.names {
		switch {
		case strings.HasPrefix(name, "seg-"):
			segments++
		case strings.HasPrefix(name, "ckpt-"):
			checkpoints++
		}
	}
	if segments < 4 || checkpoints != 2 || len(z.texts) != fuzzMessages || len(z.prefixes) < 40 || z.live == "" {
		t.Errorf("%v with %d messages and %d states", z.names, len(z.texts), len(z.prefixes))
	}
	if live, err := z.checkOpen(t, z.disk(t, z.files)); err != nil || live != z.live {
		t.Errorf("as it is, it opens to %s, %v\nwant %s", live, err, z.live)
	}
}

// fuzzStore reads the archive.
func fuzzStore(t testing.TB) *fuzzed {
	t.Helper()
	r, err := zip.OpenReader(fuzzArchive)
	if err != nil {
		t.Fatal(err)
	}
	defer r.Close()
	z := &fuzzed{files: make(map[string][]byte), texts: make(map[ID]string), prefixes: map[string]bool{"": true}}
	for _, e := range r.File {
		f, err := e.Open()
		if err != nil {
			t.Fatal(err)
		}
		b, err := io.ReadAll(f)
		if err := errors.Join(err, f.Close()); err != nil {
			t.Fatal(err)
		}
		z.names = append(z.names, e.Name)
		z.files[e.Name] = b
	}
	d, err := z.disk(t, z.files).OpenDir(spool, false)
	if err != nil {
		t.Fatal(err)
	}
	m, err := readMeta(d)
	if err != nil {
		t.Fatal(err)
	}
	table := state.NewTable()
	found, err := journal.Recover(d, m.uuid, journal.Start{}, journal.Known{}, true, func(f *segment.Frame) error {
		err := table.ApplyFrame(f)
		z.live = liveOf(table)
		z.prefixes[z.live] = true
		return errors.Join(err, f.ForEach(func(_ segment.Pos, r segment.Record) error {
			if r.Kind() == segment.KindEnqueue {
				e := r.Enqueue()
				var i int
				_, err := fmt.Sscanf(string(e.Key()), "key %d", &i)
				z.texts[ID(r.ID())] = fuzzText(i)
				return err
			}
			return nil
		}))
	})
	if err != nil {
		t.Fatal(err)
	}
	if err := errors.Join(found.Close(), d.Close()); err != nil {
		t.Fatal(err)
	}
	return z
}

// disk is a file system with the store on it, some files of which are others.
func (z *fuzzed) disk(t testing.TB, files map[string][]byte) *memdisk.FS {
	t.Helper()
	fs := memdisk.New(memdisk.Config{})
	d, err := fs.OpenDir(spool, true)
	if err != nil {
		t.Fatal(err)
	}
	if err := d.Close(); err != nil {
		t.Fatal(err)
	}
	for name, b := range files {
		if err := fs.Put(spool+"/"+name, b); err != nil {
			t.Fatal(err)
		}
	}
	return fs
}

// checkOpen opens what became of the store: an error of a kind that says what is wrong, or a
// state that the store was in, with no byte handed out that was not sent. It takes bounded
// memory and a bounded number of operations of the disk.
func (z *fuzzed) checkOpen(t *testing.T, fs *memdisk.FS) (live string, err error) {
	t.Helper()
	var ops atomic.Int64
	fs.OnOp(func(disk.Op, string) { ops.Add(1) })
	sample := []metrics.Sample{{Name: "/gc/heap/allocs:bytes"}}
	metrics.Read(sample)
	before := sample[0].Value.Uint64()
	s, err := Open(spool, fuzzOptions(fs))
	metrics.Read(sample)
	fs.OnOp(nil)
	if n := sample[0].Value.Uint64() - before; n > 64<<20 {
		t.Fatalf("%d bytes allocated to open a store of half a megabyte", n)
	}
	if n := ops.Load(); n > 10_000 {
		t.Fatalf("%d operations of the disk to open a store of half a megabyte", n)
	}
	if err != nil {
		for _, kind := range []error{ErrCorrupt, ErrVersion, ErrNotStore, disk.ErrUnsafe} {
			if errors.Is(err, kind) {
				return "", err
			}
		}
		t.Fatalf("an error of no kind that bytes may give cause to: %v", err)
	}
	defer func() {
		if err := s.Close(); err != nil {
			t.Errorf("close: %v", err)
		}
	}()
	var list []string
	for e, err := range s.Entries(t.Context(), Filter{}) {
		if err != nil {
			t.Fatal(err)
		}
		list = append(list, fmt.Sprintf("%x.%d", uint64(e.ID), e.Recipient))
	}
	slices.Sort(list)
	if live = strings.Join(list, " "); !z.prefixes[live] {
		t.Fatalf("the store was never in this state: %s\nthe last was %s", live, z.live)
	}
	c, err := s.Consumer(ConsumerOptions{ManualStart: true})
	if err != nil {
		t.Fatal(err)
	}
	for _, queue := range []string{"q", "r"} {
		for {
			d, ok := c.TryNext(queue)
			if !ok {
				break
			}
			if text, err := textOf(d); err == nil && text != z.texts[d.ID] {
				t.Fatalf("%v is handed out with another body: %.100q", d.ID, text)
			}
		}
	}
	if err := c.Close(); err != nil {
		t.Fatal(err)
	}
	st := s.Stats()
	if st.Enqueued != st.Used.Total()+st.Pending+st.Deferred+st.Held+st.Claimed+st.Damaged {
		t.Fatalf("it does not add up: %+v", st)
	}
	return live, nil
}

// The edits of FuzzStore: one byte that says which file and what, a place, and bytes.
const (
	editPut = iota
	editTruncate
	editRemove
	editSwap
	edits
)

// FuzzStore damages the files of a whole store and opens it: bytes put anywhere, files cut short,
// removed, or in the place of another. Whatever was done, an opening refuses, or finds a state in
// which the store was; and opened again it is the same.
func FuzzStore(f *testing.F) {
	z := fuzzStore(f)
	f.Add([]byte{})
	at := func(file, what int, off int, b ...byte) []byte {
		e := []byte{byte(file*edits + what)}
		e = binary.LittleEndian.AppendUint32(e, uint32(off))
		return append(append(e, byte(len(b))), b...)
	}
	for i, name := range z.names {
		f.Add(at(i, editTruncate, 0))
		f.Add(at(i, editTruncate, len(z.files[name])/2))
		f.Add(at(i, editRemove, 0))
		f.Add(at(i, editSwap, (i+1)%len(z.names)))
		f.Add(at(i, editPut, 40, 1, 2, 3))
		if _, ok := segment.ParseName(name); ok {
			f.Add(at(i, editPut, 4096+9, 3))
			f.Add(at(i, editPut, 8192+140, 0xff, 0xff))
			f.Add(at(i, editPut, 12288+600, []byte("another body")...))
			f.Add(append(at(i, editPut, 8192, make([]byte, 128)...), at((i+1)%len(z.names), editPut, 4096, z.files[name][4096:4096+128]...)...))
		}
	}
	f.Fuzz(func(t *testing.T, script []byte) {
		files := maps.Clone(z.files)
		for n := 0; len(script) >= 6 && n < 16; n++ {
			i, what := int(script[0])/edits%len(z.names), script[0]%edits
			off, length := int(binary.LittleEndian.Uint32(script[1:])&math.MaxInt32), int(script[5])
			put := script[6:min(6+length, len(script))]
			script = script[6+len(put):]
			name := z.names[i]
			b := files[name]
			switch what {
			case editPut:
				if len(b) > 0 {
					b = bytes.Clone(b)
					copy(b[off%len(b):], put)
					files[name] = b
				}
			case editTruncate:
				files[name] = b[:off%(len(b)+1)]
			case editRemove:
				delete(files, name)
			case editSwap:
				other := z.names[off%len(z.names)]
				files[name], files[other] = files[other], b
			}
		}
		fs := z.disk(t, files)
		first, err := z.checkOpen(t, fs)
		second, err2 := z.checkOpen(t, fs)
		if (err == nil) != (err2 == nil) || first != second {
			t.Fatalf("opened again it is another: %v, then %v", err, err2)
		}
	})
}

// FuzzClaims writes a claim table of its own for a store that was killed, with the checks of its
// slots right: header words, then slots of five words: slot, ID, first and count, position. No table
// has mail lost, invented or used; only that nothing is there which it says was durable may
// refuse the store.
func FuzzClaims(f *testing.F) {
	z := fuzzStore(f)
	real := z.files[claimsName]
	word := func(b []byte, i int) uint64 { return binary.LittleEndian.Uint64(b[8*i:]) }
	header := bytes.Clone(real[:88])
	f.Add(header, []byte{})
	var slots []byte
	for i := range 256 {
		if b := real[claimsHeader+i*claimSlotSize:]; word(b, 0) != 0 {
			slots = binary.LittleEndian.AppendUint64(slots, uint64(i))
			slots = append(slots, b[:24]...)
		}
	}
	if len(slots) != fuzzClaimed*32 {
		f.Fatalf("%d bytes of slots", len(slots))
	}
	f.Add(header, slots)
	for _, w := range []int{1, 4, 6, wordSynced, wordClosed, 9, wordSlots} {
		other := bytes.Clone(header)
		other[8*w]++
		f.Add(other, slots)
	}
	wide := bytes.Clone(slots)
	binary.LittleEndian.PutUint64(wide[16:], 1<<63|1)
	f.Add(header, wide)
	f.Fuzz(func(t *testing.T, head, slots []byte) {
		b := make([]byte, len(real))
		copy(b, real[:88])
		copy(b[:88], head)
		gen := word(b, 9)
		for ; len(slots) >= 32; slots = slots[32:] {
			id, span, pos := word(slots, 1), word(slots, 2), word(slots, 3)
			at := b[claimsHeader+int(word(slots, 0)%256)*claimSlotSize:]
			for i, v := range []uint64{id, span, pos, mix(id, span, pos, gen)} {
				binary.LittleEndian.PutUint64(at[8*i:], v)
			}
		}
		files := maps.Clone(z.files)
		files[claimsName] = b
		fs := z.disk(t, files)
		synced := segment.Pos(word(b, wordSynced))
		live, err := z.checkOpen(t, fs)
		if err != nil {
			if errors.Is(err, ErrCorrupt) && synced > segment.Pos(word(real, wordSynced)) {
				return // it says that more had been durable
			}
			if errors.Is(err, ErrVersion) && word(b, 1) != claimsVersion && bytes.Equal(b[:8], real[:8]) && bytes.Equal(b[16:32], real[16:32]) {
				return // a table of this store that another version has written
			}
			t.Fatalf("refused: %v", err)
		}
		if live != z.live {
			t.Fatalf("the table has changed what is live: %s\nwas %s", live, z.live)
		}
	})
}

// FuzzMeta reads what stands in META: what is accepted is written as it was.
func FuzzMeta(f *testing.F) {
	for _, m := range []meta{
		{uuid: [16]byte{1}}, {uuid: [16]byte{2}, ready: true},
		{uuid: [16]byte{3}, ready: true, copied: true, at: 1_700_000_000, pos: segment.MakePos(3, 8192), origins: []origin{{[16]byte{4}, 77}, {[16]byte{5}, 1 << 40}}},
		{uuid: [16]byte{6}, ready: true, origins: []origin{{}}},
	} {
		f.Add(m.encode(), false)
		f.Add(m.encode()[:40], true)
	}
	f.Add([]byte("mtawal 3 x\n"), true)
	f.Fuzz(func(t *testing.T, b []byte, repair bool) {
		if i := bytes.LastIndexByte(b, ' '); repair && i >= 0 {
			b = fmt.Appendf(nil, "%s %08x\n", b[:i], segment.CRC(b[:i]))
		}
		m, err := decodeMeta(b)
		if err != nil {
			if errors.Is(err, ErrVersion) == errors.Is(err, ErrCorrupt) {
				t.Fatalf("an error of no kind, or of both: %v", err)
			}
			return
		}
		if !bytes.Equal(m.encode(), b) || m.copied && !m.ready || m.uuid == [16]byte{} {
			t.Fatalf("%q was accepted as %+v", b, m)
		}
		for range m.origins {
			_ = m.origin()
		}
	})
}
