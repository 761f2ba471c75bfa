package drill

import (
	"bytes"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"
)

func TestLoadIsMadeOfItsSeed(t *testing.T) {
	a, b, c := NewLoad(1, nil), NewLoad(1, nil), NewLoad(2, nil)
	counts := map[int]int{}
	var sizes []int
	digests := map[Digest]bool{}
	for serial := uint64(1); serial <= 2000; serial++ {
		x, err := a.Message(serial)
		if err != nil {
			t.Fatal(err)
		}
		y, _ := b.Message(serial)
		z, _ := c.Message(serial)
		if x.Digest != y.Digest || !bytes.Equal(x.Message.Body, y.Message.Body) || len(x.Message.Recipients) != len(y.Message.Recipients) {
			t.Fatalf("message %d differs between two loads of one seed", serial)
		}
		if x.Digest == z.Digest || digests[x.Digest] || x.Digest != Sum(x.Message.Body) {
			t.Fatalf("message %d is not one of a kind", serial)
		}
		if k, err := parseEnvelope(x.Message.Envelope); k != x.Key || err != nil {
			t.Fatalf("envelope %q is read as %v, %v", x.Message.Envelope, k, err)
		}
		digests[x.Digest] = true
		counts[len(x.Message.Recipients)]++
		sizes = append(sizes, len(x.Message.Body))
	}
	slices.Sort(sizes)
	if sizes[0] < bodyMin || sizes[1999] > bodyMax+200 || sizes[1000] < 8<<10 || sizes[1000] > 20<<10 || sizes[1999] < 200<<10 {
		t.Errorf("sizes from %d over %d to %d", sizes[0], sizes[1000], sizes[1999])
	}
	for n := 1; n <= recipientsMax; n++ {
		if counts[n] == 0 {
			t.Errorf("no message has %d recipients", n)
		}
	}
	if len(counts) != recipientsMax {
		t.Errorf("recipients: %v", counts)
	}
}

func TestPolicy(t *testing.T) {
	p := Policy{Seed: 5}
	var refused, later, cuts int
	for serial := uint64(1); serial <= 10000; serial++ {
		k := LoadKey(serial)
		switch p.Answer(k, 0, 0) {
		case Refuse:
			refused++
			if p.Answer(k, 0, 3) != Refuse {
				t.Fatalf("message %d is refused once and not again", serial)
			}
		case Later:
			later++
		}
		if p.Cut(k, 0, 0) != CutNone {
			cuts++
		}
		if p.Answer(k.Bounce(0), 0, 0) == Refuse {
			t.Fatalf("the bounce for %d is refused", serial)
		}
		if a := p.Answer(k, 0, 100); a == Later {
			t.Fatalf("message %d is deferred for ever", serial)
		}
	}
	if refused == 0 || later == 0 || cuts == 0 || refused+later+cuts > 2000 {
		t.Errorf("of 10000: %d refused, %d deferred, %d cut", refused, later, cuts)
	}
}

func TestSchedule(t *testing.T) {
	s := newSchedule(3, 40)
	if len(s) != 40 {
		t.Fatalf("%d kills", len(s))
	}
	rush := 0
	for i, k := range s {
		if k.at < 0.98*float64(i)/40 || k.at >= 0.98*float64(i+1)/40 {
			t.Errorf("kill %d is at %v", i, k.at)
		}
		if k.rush {
			rush++
		}
	}
	if rush == 0 || rush == 40 || s[0].rush {
		t.Errorf("%d kills strike during an opening", rush)
	}
	x := executioner{kills: []kill{{at: 0.5}, {rush: true}, {at: 0.9}}}
	now := time.Unix(1000, 0)
	open := view{opening: now, opened: true}
	for i, step := range []struct {
		v        view
		progress float64
		want     bool
	}{
		{view{}, 1, false},                            // not open
		{open, 0.4, false},                            // not far enough
		{open, 0.5, true},                             // now
		{view{}, 0.5, false},                          // the next core has not begun
		{view{opening: now}, 0.5, true},               // it opens
		{open, 0.6, false},                            //
		{view{opened: true, drained: now}, 0.6, true}, // late
		{open, 1, false},                              // none left
	} {
		got := x.strike(now, step.v, step.progress)
		if got != step.want {
			t.Errorf("step %d: strike is %v", i, got)
		}
		if got {
			x.done()
		}
	}
}

func write(t *testing.T, path, text string) {
	t.Helper()
	if err := os.MkdirAll(filepath.Dir(path), 0o700); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
}

func TestMail(t *testing.T) {
	dir := t.TempDir()
	at := func(p string) string { return filepath.Join(dir, p) }
	write(t, at("md/cur/1:2,S"), "one")
	write(t, at("md/new/2"), "two")
	write(t, at("md/tmp/3"), "not delivered yet")
	write(t, at("md/new/.hidden"), "x")
	write(t, at("md/new/empty"), "")
	write(t, at("mh/1"), "one")
	write(t, at("mh/2"), "two")
	write(t, at("mh/.mh_sequences"), "x")
	write(t, at("plain.mbox"), "From a\nS: 1\n\nbody\nFrom here on\n\nFrom b\nS: 2\n\n>From x\n\n\nFrom c\nlast")
	write(t, at("crlf.mbox"), "From a\r\none\r\n\r\nFrom b\r\ntwo\r\n\r\n")
	write(t, at("long.mbox"), "From "+strings.Repeat("x", 3<<20)+"\n"+strings.Repeat("y", 3<<20)+"\n\nFrom b\nFrom c\nz\n")
	for _, tt := range []struct {
		path    string
		want    []string
		skipped int
	}{
		{"md", []string{"one", "two"}, 1},
		{"mh", []string{"one", "two"}, 0},
		{"plain.mbox", []string{"S: 1\n\nbody\nFrom here on\n", "S: 2\n\n>From x\n\n", "last"}, 0},
		{"crlf.mbox", []string{"one\r\n", "two\r\n"}, 0},
		{"long.mbox", []string{strings.Repeat("y", 3<<20) + "\n", "From c\nz\n"}, 0},
	} {
		m, err := OpenMail(at(tt.path))
		if err != nil {
			t.Errorf("%s: %v", tt.path, err)
			continue
		}
		var got []string
		for i := range m.Len() {
			b, err := m.Read(i)
			if err != nil {
				t.Fatal(err)
			}
			got = append(got, string(b))
		}
		if !slices.Equal(got, tt.want) || m.Skipped != tt.skipped {
			t.Errorf("%s: %d messages, %d passed over: %.200q", tt.path, len(got), m.Skipped, got)
		}
	}
	write(t, at("none/cur/.x"), "")
	write(t, at("no.mbox"), "Subject: hello\n\n")
	write(t, at("empty.mbox"), "")
	for _, p := range []string{"none", "no.mbox", "empty.mbox", "missing"} {
		if m, err := OpenMail(at(p)); err == nil {
			t.Errorf("%s: %d messages", p, m.Len())
		}
	}
	m, err := OpenMail(at("mh"))
	if err != nil {
		t.Fatal(err)
	}
	made, err := NewLoad(1, m).Message(1)
	if err != nil || string(made.Message.Body) != "one" && string(made.Message.Body) != "two" || made.Digest != Sum(made.Message.Body) {
		t.Errorf("a message made of mail is %+v, %v", made, err)
	}
}
