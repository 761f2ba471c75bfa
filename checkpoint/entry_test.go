package checkpoint

import (
	"bytes"
	"errors"
	"fmt"
	"math"
	"reflect"
	"testing"

	"github.com/mtawal/mtawal/mailq"
	"github.com/mtawal/mtawal/segment"
	"github.com/mtawal/mtawal/state"
	"pgregory.net/rapid"
)

func genRecipient(queues int) *rapid.Generator[state.EntryRecipient] {
	return rapid.Custom(func(t *rapid.T) state.EntryRecipient {
		var r state.EntryRecipient
		r.Queue = uint32(rapid.IntRange(0, queues-1).Draw(t, "queue"))
		r.Standing = state.Standing(rapid.IntRange(0, int(state.Used)).Draw(t, "standing"))
		if r.Standing == state.Used {
			r.Reason = rapid.SampledFrom([]mailq.Result{mailq.Delivered, mailq.Failed, mailq.Expired, mailq.Removed, mailq.Replaced}).Draw(t, "reason")
			r.Attempts = rapid.Uint16().Draw(t, "attempts")
			r.Queue = 0
			return r
		}
		r.Flags = rapid.Uint8Range(0, flagMask).Draw(t, "flags")
		r.Attempts = rapid.Uint16().Draw(t, "attempts")
		r.NotBefore = rapid.Int64().Draw(t, "due")
		if rapid.Bool().Draw(t, "note") {
			r.Note = rapid.SliceOfN(rapid.Byte(), 0, 30).Draw(t, "bytes")
		}
		return r
	})
}

func genPos() *rapid.Generator[segment.Pos] {
	return rapid.Custom(func(t *rapid.T) segment.Pos {
		return segment.MakePos(rapid.Uint32Range(1, segment.NumberMax).Draw(t, "segment"), rapid.Int64Range(0, 1<<32-1).Draw(t, "offset"))
	})
}

func genEntry(queues int) *rapid.Generator[state.Entry] {
	return rapid.Custom(func(t *rapid.T) state.Entry {
		e := state.Entry{
			ID: rapid.Uint64Min(1).Draw(t, "id"), Loc: genPos().Draw(t, "loc"),
			Weight: rapid.Uint32().Draw(t, "weight"), Expires: rapid.Uint32().Draw(t, "expires"), Enqueued: rapid.Uint32().Draw(t, "enqueued"),
			Late: rapid.Uint32().Draw(t, "late"), Priority: rapid.Int8().Draw(t, "priority"), Keyed: rapid.Bool().Draw(t, "keyed"),
		}
		for range rapid.IntRange(0, 3).Draw(t, "extents") {
			e.Extents = append(e.Extents, state.Extent{Pos: genPos().Draw(t, "pos"), Weight: rapid.Uint32().Draw(t, "weight"),
				Kind: segment.KindChunk, First: rapid.Uint32().Draw(t, "first"), CRC: rapid.Uint32().Draw(t, "crc")})
		}
		// Runs of equal recipients, at least one of them alive.
		for range rapid.IntRange(1, 4).Draw(t, "runs") {
			r := genRecipient(queues).Draw(t, "recipient")
			for range rapid.IntRange(1, 3).Draw(t, "length") {
				e.Rcpts = append(e.Rcpts, r)
			}
		}
		e.Weight = max(e.Weight, rcptWeight*uint32(len(e.Rcpts)))
		alive := &e.Rcpts[rapid.IntRange(0, len(e.Rcpts)-1).Draw(t, "alive")]
		if alive.Standing == state.Used {
			alive.Standing, alive.Reason = state.Pending, 0
		}
		return e
	})
}

// What is decoded is what was encoded, entry for entry, and nothing is left over.
func TestEntryRoundTrip(t *testing.T) {
	const queues = 5
	same := func(q uint32) uint64 { return uint64(q) }
	rapid.Check(t, func(t *rapid.T) {
		list := rapid.SliceOfNDistinct(genEntry(queues), 1, 5, func(e state.Entry) uint64 { return e.ID }).Draw(t, "entries")
		for i := range list { // in the order of IDs
			for j := i; j > 0 && list[j].ID < list[j-1].ID; j-- {
				list[j], list[j-1] = list[j-1], list[j]
			}
		}
		var b []byte
		var d delta
		for i := range list {
			b = appendEntry(b, &d, &list[i], same)
		}
		c, d := cursor{b: b}, delta{}
		var e state.Entry // used again, as readers do
		for i := range list {
			if err := decodeEntry(&c, &d, &e, queues, math.MaxUint64); err != nil {
				t.Fatalf("entry %d: %v", i, err)
			}
			got, want := e, list[i]
			if len(got.Extents) == 0 {
				got.Extents = nil
			}
			if !reflect.DeepEqual(got, want) {
				t.Fatalf("entry %d is %+v, was %+v", i, got, want)
			}
		}
		if c.left() != 0 {
			t.Fatalf("%d bytes are left over", c.left())
		}
		// Cut anywhere, the last entry is not there any more.
		cut := rapid.IntRange(0, len(b)-1).Draw(t, "cut")
		c, d = cursor{b: b[:cut:cut]}, delta{}
		for range list {
			if err := decodeEntry(&c, &d, &e, queues, math.MaxUint64); err != nil {
				if !errors.Is(err, errEntry) {
					t.Fatal(err)
				}
				return
			}
		}
		t.Fatalf("%d bytes of %d hold all the entries", cut, len(b))
	})
}

// entryBytes is a good entry of one recipient in queue 0, with the fields that a test
// changes in their places.
func entryBytes(change func(e *state.Entry)) []byte {
	e := state.Entry{ID: 7, Loc: segment.MakePos(1, 8192), Enqueued: 1_700_000_000, Weight: 20, Rcpts: make([]state.EntryRecipient, 1)}
	if change != nil {
		change(&e)
	}
	var d delta
	return appendEntry(nil, &d, &e, func(q uint32) uint64 { return uint64(q) })
}

// What no writer writes is refused.
func TestEntryMalformed(t *testing.T) {
	plain := entryBytes(nil)
	shapeAt := len(plain) - 3 // shape, standing, queue
	with := func(b []byte, at int, v ...byte) []byte {
		return append(append(append([]byte{}, b[:at]...), v...), b[at+1:]...)
	}
	max64 := []byte{0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0x01}
	huge := func(b []byte, at int) []byte { return with(b, at, max64...) }
	used := func(r mailq.Result) []byte { return with(with(plain, shapeAt+1, byte(state.Used)), shapeAt+2, byte(r)) }
	other := func(b ...byte) []byte { // and one that is alive
		return append(append(append(bytes.Clone(plain[:shapeAt]), shapeMany, 2, 1), b...), 1, 0, 0)
	}
	many := entryBytes(func(e *state.Entry) { e.Rcpts = make([]state.EntryRecipient, 3) })
	extents := entryBytes(func(e *state.Entry) { e.Extents = []state.Extent{{Pos: segment.MakePos(1, 4096)}} })
	at := func(number uint32) []byte {
		return entryBytes(func(e *state.Entry) { e.Loc = segment.MakePos(number, 8192) })
	}
	extentAt := func(number uint32) []byte {
		return entryBytes(func(e *state.Entry) { e.Extents = []state.Extent{{Pos: segment.MakePos(number, 8192)}} })
	}
	note := entryBytes(func(e *state.Entry) { e.Rcpts[0].Note = []byte("n") })
	if err := decodeEntry(&cursor{b: other(byte(state.Used), byte(mailq.Delivered))}, &delta{}, new(state.Entry), 1, math.MaxUint64); err != nil {
		t.Errorf("one used, one not: %v", err)
	}
	for name, b := range map[string][]byte{
		"nothing":                     {},
		"no ID":                       with(plain, 0, 0),
		"in segment 0":                at(0),
		"in segment 2^31":             at(segment.NumberMax + 1),
		"an extent in segment 0":      extentAt(0),
		"an extent in segment 2^31":   extentAt(segment.NumberMax + 1),
		"an unknown shape":            with(plain, shapeAt, 0x40),
		"another unknown shape":       with(plain, shapeAt, 0x80),
		"a queue that is not there":   with(plain, shapeAt+2, 1),
		"a queue of 2^64-1":           huge(plain, shapeAt+2),
		"a standing of no name":       with(plain, shapeAt+1, 3),
		"used for no reason":          used(0),
		"used, deferred":              used(mailq.Deferred),
		"all of them used":            used(mailq.Delivered),
		"one used, with a time":       other(byte(state.Used)|rcptTime, byte(mailq.Delivered), 2),
		"one used, in doubt":          other(byte(state.Used)|state.InDoubt<<flagShift, byte(mailq.Delivered)),
		"a varint of eleven bytes":    append(append([]byte{}, max64[:9]...), 0xff, 0xff, 1),
		"extents, and none":           with(extents, shapeAt+1, 0),
		"extents, 2^64-1 of them":     huge(extents, shapeAt+1),
		"one recipient, said as many": with(many, shapeAt+1, 1),
		"2^64-1 recipients":           huge(many, shapeAt+1),
		"a run of none":               with(many, shapeAt+2, 0),
		"a run longer than the list":  with(many, shapeAt+2, 4),
		"a run of 2^64-1":             huge(many, shapeAt+2),
		"a run that is too short":     with(many, shapeAt+2, 2),
		"a note of 2^64-1 bytes":      huge(note, len(note)-2),
		"a note of 2^32-1 bytes":      with(note, len(note)-2, 0xff, 0xff, 0xff, 0xff, 0x0f),
		"a note that is too long":     append(with(note, len(note)-2, 0x81, 0x08), make([]byte, mailq.NoteMax+1)...),
	} {
		var e state.Entry
		c := cursor{b: b}
		if err := decodeEntry(&c, &delta{}, &e, 1, math.MaxUint64); !errors.Is(err, errEntry) {
			t.Errorf("%s: %v, and %+v", name, err, e)
		}
	}
	// The last ID there can be is followed by none.
	c := cursor{b: append(huge(plain, 0), plain...)}
	var d delta
	var e state.Entry
	if err := decodeEntry(&c, &d, &e, 1, math.MaxUint64); err != nil || e.ID != math.MaxUint64 {
		t.Errorf("the last ID: %v, %x", err, e.ID)
	}
	if err := decodeEntry(&c, &d, &e, 1, math.MaxUint64); !errors.Is(err, errEntry) {
		t.Errorf("an ID behind the last: %v, %x", err, e.ID)
	}
}

// A message that is decoded as a plain one is what it is when it is decoded as any, bytes that are no message included.
func TestPlainIsAsAny(t *testing.T) {
	const queues = 5
	seen, refused := 0, 0
	rapid.Check(t, func(t *rapid.T) {
		first := rapid.Uint64Range(1000, 1<<20).Draw(t, "first")
		at := state.Plain{ID: first, Loc: segment.MakePos(1, 1<<10), Enqueued: rapid.Uint32Max(50).Draw(t, "enqueued")}
		var b []byte
		var d delta
		for range rapid.IntRange(1, 20).Draw(t, "entries") {
			at.ID += rapid.Uint64Range(1, 300).Draw(t, "step")
			at.Loc += segment.Pos(rapid.Int64Range(0, 1<<22).Draw(t, "distance"))
			e := state.Entry{ID: at.ID, Loc: at.Loc, Enqueued: at.Enqueued + rapid.Uint32Max(50).Draw(t, "later"),
				Weight: rapid.Uint32Range(1, 1<<22).Draw(t, "weight"), Rcpts: make([]state.EntryRecipient, 1)}
			e.Rcpts[0].Queue = rapid.Uint32Max(queues).Draw(t, "queue") // one too many
			switch rapid.IntRange(0, 9).Draw(t, "more") {
			case 0:
				e.Priority = 1
			case 4:
				e.Expires = rapid.Uint32().Draw(t, "expires")
			case 5:
				e.Late = rapid.Uint32().Draw(t, "late")
			case 6:
				e.Expires, e.Late = 1_800_000_000, 3
			case 1:
				e.Rcpts[0].Flags = state.InDoubt
			case 2:
				e.Rcpts[0].Standing = state.Held
			case 3:
				e.Rcpts[0].NotBefore = 1
			}
			b = appendEntry(b, &d, &e, func(q uint32) uint64 { return uint64(q) })
		}
		c := &File{names: make([]string, queues)}
		c.Lease = rapid.Uint64Range(at.ID-100, at.ID+100).Draw(t, "lease")
		c.sections[0] = sectionRef{count: 20, length: int64(len(b))}
		room := rapid.Uint64Range(0, 50*rcptWeight).Draw(t, "room")
		padded := append(b, make([]byte, plainMax)...)
		check := func(damage string) {
			it := &entries{c: c, cur: cursor{b: padded}, left: 1 << 20, room: room}
			other := *it
			for it.cur.at < len(b) {
				var p state.Plain
				plain := it.plain(&p)
				e, err := other.next()
				switch {
				case !plain && err != nil:
					refused++
					return
				case !plain:
					it.left, it.cur, it.d, it.room = other.left, other.cur, other.d, other.room
					continue
				case err != nil:
					t.Fatalf("%s: %+v is plain, and as any: %v", damage, p, err)
				}
				seen++
				want := state.Entry{ID: p.ID, Loc: p.Loc, Weight: p.Weight, Enqueued: p.Enqueued, Expires: p.Expires, Late: p.Late, Extents: e.Extents, Rcpts: e.Rcpts}
				if r := (state.Recipient{Queue: p.Queue}); !reflect.DeepEqual(*e, want) || len(e.Rcpts) != 1 || !reflect.DeepEqual(e.Rcpts[0], state.EntryRecipient{Recipient: r}) {
					t.Fatalf("%s: %+v is plain, as any it is %+v", damage, p, *e)
				}
				if it.cur.at != other.cur.at || it.d != other.d || it.room != other.room || it.left != other.left {
					t.Fatalf("%s: behind it %+v %+v %d %d, as any %+v %+v %d %d", damage, it.cur.at, it.d, it.room, it.left, other.cur.at, other.d, other.room, other.left)
				}
			}
		}
		check("whole")
		for i := range b {
			was := padded[i]
			for _, v := range []byte{0, 1, 0x7f, 0x80, 0xff, was ^ 1} {
				padded[i] = v
				check(fmt.Sprintf("byte %d is %#x", i, v))
			}
			padded[i] = was
		}
	})
	if seen == 0 || refused == 0 {
		t.Errorf("%d plain ones, %d refused: the test shows nothing", seen, refused)
	}
	c := &File{names: make([]string, 1)}
	c.Lease = math.MaxUint64
	beyond := &entries{c: c, cur: cursor{b: append([]byte{5, 0, 0, rcptWeight, 0, 0, 0}, make([]byte, plainMax)...)}, left: 1, room: 100,
		d: delta{id: math.MaxUint64 - 1, loc: segment.MakePos(1, 0)}}
	if p := (state.Plain{}); beyond.plain(&p) {
		t.Errorf("behind ID %x comes %x", beyond.d.id, p.ID)
	}
}

// Memory is taken for as many messages as there can be, not for as many as a count says.
func TestAtMost(t *testing.T) {
	for _, c := range []struct {
		it   entries
		want uint64
	}{
		{entries{left: 3, cur: cursor{b: make([]byte, 70)}, room: 1000}, 3},
		{entries{left: 1 << 40, cur: cursor{b: make([]byte, 70)}, room: 1000}, 10},
		{entries{left: 1 << 40, cur: cursor{b: make([]byte, 70)}, room: 8 * rcptWeight}, 8},
	} {
		if n := c.it.atMost(); n != c.want {
			t.Errorf("%d announced, %d bytes, room for %d: %d, want %d", c.it.left, len(c.it.cur.b), c.it.room, n, c.want)
		}
	}
}
