package mailq

import (
	"bytes"
	"context"
	"encoding"
	"encoding/json"
	"errors"
	"fmt"
	"go/parser"
	"go/token"
	"os"
	"reflect"
	"slices"
	"strings"
	"testing"
	"time"

	"pgregory.net/rapid"
)

func TestIDText(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		id := ID(rapid.Uint64Min(1).Draw(t, "id"))
		if s := id.String(); len(s) != 16 || strings.Trim(s, "0123456789abcdef") != "" {
			t.Fatalf("ID %d is %q, want 16 hexadecimal digits", uint64(id), s)
		}
		got, err := ParseID(id.String())
		if err != nil || got != id {
			t.Fatalf("ParseID(%q) = %v, %v", id.String(), got, err)
		}
		text, err := id.MarshalText()
		if err != nil {
			t.Fatal(err)
		}
		got = 0
		if err := got.UnmarshalText(text); err != nil || got != id {
			t.Fatalf("UnmarshalText(%q) gave %v, %v", text, got, err)
		}
	})
}

func TestIDTextSortsAsNumber(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		a, b := ID(rapid.Uint64().Draw(t, "a")), ID(rapid.Uint64().Draw(t, "b"))
		if (a < b) != (a.String() < b.String()) {
			t.Fatalf("%v and %v do not sort as %d and %d", a, b, uint64(a), uint64(b))
		}
	})
}

func TestParseIDRefuses(t *testing.T) {
	for _, s := range []string{
		"", "1", "0000000000000000", "000000000000001", "00000000000000001", "000000000000000g", "-000000000000001", "+000000000000001",
		"0x00000000000001", "0_00000000000001", " 00000000000001 ", "000000000000001\n", strings.Repeat("f", 17), strings.Repeat("x", 10000),
	} {
		id, err := ParseID(s)
		var f *FieldError
		if id != 0 || !errors.As(err, &f) || !errors.Is(err, ErrInvalid) || f.Field != "ID" {
			t.Errorf("ParseID(%.30q) = %v, %v, want a *FieldError for ID", s, id, err)
			continue
		}
		if len(err.Error()) > 200 {
			t.Errorf("the error of a string of %d bytes has %d", len(s), len(err.Error()))
		}
		was := ID(7)
		if err := was.UnmarshalText([]byte(s)); err == nil || was != 7 {
			t.Errorf("UnmarshalText(%.30q): %v, and the ID is %v", s, err, was)
		}
	}
}

func TestNames(t *testing.T) {
	type name interface {
		fmt.Stringer
		encoding.TextMarshaler
	}
	seen := map[string]name{}
	known := func(n name, want string) {
		text, err := n.MarshalText()
		if err != nil || n.String() != want || string(text) != want {
			t.Errorf("%#v is %q and marshals as %q, %v, want %q", n, n, text, err, want)
		}
		kind := fmt.Sprintf("%T %s", n, want)
		if was, ok := seen[kind]; ok {
			t.Errorf("%#v and %#v are both %q", was, n, want)
		}
		seen[kind] = n
	}
	for r, want := range map[Result]string{
		Delivered: "delivered", Failed: "failed", Expired: "expired", Removed: "removed", Replaced: "replaced", Deferred: "deferred",
		Uncertain: "uncertain", Held: "held", Released: "released", 0: "Result(0)", Released + 1: "Result(10)", 255: "Result(255)",
	} {
		known(r, want)
	}
	for s, want := range map[State]string{
		Pending: "pending", InDeferral: "deferred", OnHold: "held", Claimed: "claimed", Damaged: "damaged", Used: "used",
		0: "State(0)", Used + 1: "State(7)", 255: "State(255)",
	} {
		known(s, want)
	}
	for m, want := range map[QueueMode]string{
		Active: "active", HoldQueue: "hold", Suspended: "suspend", Suspended + 1: "QueueMode(3)", 255: "QueueMode(255)",
	} {
		known(m, want)
	}
	for p, want := range map[DoubtPolicy]string{
		Redeliver: "redeliver", HoldDoubt: "hold", DeferDoubt: "defer", DeferDoubt + 1: "DoubtPolicy(3)", 255: "DoubtPolicy(255)",
	} {
		known(p, want)
	}
}

func TestNamesAreRead(t *testing.T) {
	for r := Result(0); r <= Released+1; r++ {
		got := Result(77)
		if err := got.UnmarshalText([]byte(r.String())); (err == nil) != (r >= Delivered && r <= Released) || err == nil && got != r || err != nil && (got != 77 || !errors.Is(err, ErrInvalid)) {
			t.Errorf("%q is read as %v, %v", r, got, err)
		}
	}
	for s := State(0); s <= Used+1; s++ {
		got := State(77)
		if err := got.UnmarshalText([]byte(s.String())); (err == nil) != (s >= Pending && s <= Used) || err == nil && got != s || err != nil && (got != 77 || !errors.Is(err, ErrInvalid)) {
			t.Errorf("%q is read as %v, %v", s, got, err)
		}
	}
	for n := range uint8(4) {
		m, p := QueueMode(77), DoubtPolicy(77)
		if err := m.UnmarshalText([]byte(QueueMode(n).String())); (err == nil) != (n < 3) || err == nil && m != QueueMode(n) || err != nil && (m != 77 || !errors.Is(err, ErrInvalid)) {
			t.Errorf("%q is read as %v, %v", QueueMode(n), m, err)
		}
		if err := p.UnmarshalText([]byte(DoubtPolicy(n).String())); (err == nil) != (n < 3) || err == nil && p != DoubtPolicy(n) || err != nil && (p != 77 || !errors.Is(err, ErrInvalid)) {
			t.Errorf("%q is read as %v, %v", DoubtPolicy(n), p, err)
		}
	}
	var r Result
	var s State
	var m QueueMode
	var p DoubtPolicy
	if r.UnmarshalText(nil) == nil || s.UnmarshalText([]byte("Pending")) == nil || m.UnmarshalText([]byte("held")) == nil || p.UnmarshalText(nil) == nil {
		t.Error("what is no name is read")
	}
}

func TestIsUsed(t *testing.T) {
	for r := range Result(20) {
		want := slices.Contains([]Result{Delivered, Failed, Expired, Removed, Replaced}, r)
		if r.IsUsed() != want {
			t.Errorf("%v: IsUsed is %v, want %v", r, r.IsUsed(), want)
		}
	}
}

// Every reason counts, a reason added later too.
func TestUsedCountsTotal(t *testing.T) {
	var u UsedCounts
	v := reflect.ValueOf(&u).Elem()
	want := int64(0)
	for i := range v.NumField() {
		n := int64(1) << (8 * i)
		v.Field(i).SetInt(n)
		want += n
	}
	if got := u.Total(); got != want {
		t.Errorf("Total of %+v is %d, want %d", u, got, want)
	}
}

func TestErrors(t *testing.T) {
	sentinels := []error{ErrInvalid, ErrTooLarge, ErrNotFound, ErrUsed, ErrSettled, ErrFull, ErrClosed, ErrFailed, ErrUnknown}
	for _, tt := range []struct {
		err  error
		is   error
		says string
	}{
		{&FieldError{Field: "Recipients[2].Queue", Reason: "empty"}, ErrInvalid, "Recipients[2].Queue: empty"},
		{&LimitError{Field: "Body", Size: 11, Max: 10}, ErrTooLarge, "Body: 11 is over the limit of 10"},
		{&FullError{Reason: "disk", Need: 5, Free: -3}, ErrFull, "store is full (disk): 5 bytes wanted, -3 available"},
	} {
		if got := tt.err.Error(); got != tt.says {
			t.Errorf("the error says %q, want %q", got, tt.says)
		}
		for _, s := range sentinels {
			if got := errors.Is(fmt.Errorf("enqueue: %w", tt.err), s); got != (s == tt.is) {
				t.Errorf("%T is %v: %v", tt.err, s, got)
			}
		}
	}
	for i, a := range sentinels {
		for j, b := range sentinels {
			if errors.Is(a, b) != (i == j) {
				t.Errorf("%v is %v", a, b)
			}
		}
	}
}

// claim notes what a delivery passes on to it.
type claim struct {
	started  []int
	outcomes []Outcome
	released int
	err      error
	ctx      context.Context
}

func (c *claim) Start(_ context.Context, r []int) error      { c.started = r; return c.err }
func (c *claim) Settle(_ context.Context, o []Outcome) error { c.outcomes = o; return c.err }
func (c *claim) Release()                                    { c.released++ }
func (c *claim) Context() context.Context                    { return c.ctx }

func TestDeliveryPassesOn(t *testing.T) {
	c := &claim{err: ErrUsed, ctx: t.Context()}
	d := NewDelivery(Delivery{ID: 7, Queue: "q"}, c)
	if d.ID != 7 || d.Queue != "q" || d.Claim() != Claim(c) || d.Context() != c.ctx {
		t.Errorf("the delivery is %+v", d)
	}
	if err := d.Start(t.Context()); err != ErrUsed || len(c.started) != 0 {
		t.Errorf("Start passed on %v and returned %v", c.started, err)
	}
	if err := d.Start(t.Context(), 3, 4); err != ErrUsed || !slices.Equal(c.started, []int{3, 4}) {
		t.Errorf("Start passed on %v and returned %v", c.started, err)
	}
	o := []Outcome{{Recipient: 2, Result: Deferred, Note: []byte("n")}}
	if err := d.Settle(t.Context(), o); err != ErrUsed || !reflect.DeepEqual(c.outcomes, o) {
		t.Errorf("Settle passed on %+v and returned %v", c.outcomes, err)
	}
	if err := d.SettleAll(t.Context(), Failed); err != ErrUsed || !reflect.DeepEqual(c.outcomes, []Outcome{{Recipient: All, Result: Failed}}) {
		t.Errorf("SettleAll passed on %+v and returned %v", c.outcomes, err)
	}
	d.Release()
	if c.released != 1 {
		t.Errorf("Release was passed on %d times", c.released)
	}
}

// Tools read this: a name that changes breaks them.
func TestJSON(t *testing.T) {
	for _, tt := range []struct {
		v    any
		want string
	}{
		{Entry{ID: 0xab, Recipient: 1, Queue: "q", Address: "a", State: OnHold, InDoubt: true, Attempts: 2, Size: 3, Envelope: []byte("secret")},
			`{"id":"00000000000000ab","recipient":1,"queue":"q","address":"a","state":"held","in_doubt":true,"attempts":2,"enqueued_at":"0001-01-01T00:00:00Z","size":3}`},
		{QueueInfo{Name: "q", Pending: 1}, `{"name":"q","pending":1,"deferred":0,"held":0,"claimed":0,"in_doubt":0,"damaged":0}`},
		{QueueInfo{Name: "q", State: QueueState{Mode: HoldQueue}, Oldest: 1},
			`{"name":"q","state":{"mode":"hold","doubt":"redeliver"},"pending":0,"deferred":0,"held":0,"claimed":0,"in_doubt":0,"damaged":0,"oldest":"0000000000000001"}`},
		{QueueState{Mode: Suspended, Doubt: DeferDoubt, DoubtDelay: 90 * time.Second}, `{"mode":"suspend","doubt":"defer","doubt_delay":"1m30s"}`},
		{UsedCounts{Delivered: 1, Replaced: 2}, `{"delivered":1,"failed":0,"expired":0,"removed":0,"replaced":2}`},
	} {
		got, err := json.Marshal(tt.v)
		if err != nil || string(got) != tt.want {
			t.Errorf("%T marshals as\n%s, %v, want\n%s", tt.v, got, err, tt.want)
		}
	}
	var s map[string]any
	b, err := json.Marshal(Stats{})
	if err != nil || json.NewDecoder(bytes.NewReader(b)).Decode(&s) != nil {
		t.Fatalf("Stats marshals as %s, %v", b, err)
	}
	for _, k := range []string{"enqueued", "used", "pending", "deferred", "held", "claimed", "in_doubt", "damaged", "work_queue_length"} {
		if _, ok := s[k]; !ok {
			t.Errorf("Stats marshals without %q: %s", k, b)
		}
	}
}

// What a tool has read from a store can be read back.
func TestQueueStateIsRead(t *testing.T) {
	for _, s := range []QueueState{{}, {Mode: HoldQueue, Doubt: HoldDoubt}, {Mode: Suspended, Doubt: DeferDoubt, DoubtDelay: 36*time.Hour + 1}} {
		b, err := json.Marshal(s)
		got := QueueState{DoubtDelay: 7}
		if err != nil || json.Unmarshal(b, &got) != nil || got != s {
			t.Errorf("%+v is written as %s, %v, and read as %+v", s, b, err, got)
		}
	}
	for _, text := range []string{`{"mode":"x"}`, `{"doubt":"x"}`, `{"doubt_delay":"1 hour"}`, `{"mode":1}`, `7`} {
		got := QueueState{Mode: Suspended}
		if err := json.Unmarshal([]byte(text), &got); err == nil || got != (QueueState{Mode: Suspended}) {
			t.Errorf("%s is read as %+v, %v", text, got, err)
		}
	}
}

func TestStandardLibraryAlone(t *testing.T) {
	files, err := os.ReadDir(".")
	if err != nil {
		t.Fatal(err)
	}
	n := 0
	for _, f := range files {
		if !strings.HasSuffix(f.Name(), ".go") || strings.HasSuffix(f.Name(), "_test.go") {
			continue
		}
		n++
		src, err := parser.ParseFile(token.NewFileSet(), f.Name(), nil, parser.ImportsOnly)
		if err != nil {
			t.Fatal(err)
		}
		for _, i := range src.Imports {
			if strings.Contains(i.Path.Value, ".") {
				t.Errorf("%s imports %s", f.Name(), i.Path.Value)
			}
		}
	}
	if n == 0 {
		t.Error("no file was looked at")
	}
}
