package mail

import (
	"strconv"
	"strings"
	"testing"
	"time"
)

// kinds says which kinds of findings there are.
func kinds(v *Verdict) string {
	var s []string
	for _, k := range []struct {
		name string
		list []string
	}{{"refused", v.Refused}, {"lost", v.Lost}, {"invented", v.Invented}, {"repeated", v.Repeated}, {"silent", v.Silent}} {
		if len(k.list) > 0 {
			s = append(s, k.name)
		}
	}
	return strings.Join(s, " ")
}

// seen is a message as listed: a word for each recipient that is there, "!" in doubt, else its
// note.
type seen map[string]map[int]string

// TestJudge tells what was promised and what is there, and what has to be found.
func TestJudge(t *testing.T) {
	const ms = time.Millisecond
	for _, tt := range []struct {
		name    string
		marks   []string // 1 ms apart; "+N" waits N ms, "O!" opens once more and sees nothing
		seen    seen
		durable bool // DurableStart
		want    string
		window  int
	}{
		{name: "nothing", want: ""},
		{name: "acknowledged and there", marks: []string{"I a 1 -", "A a 7"}, seen: seen{"a": {0: ""}}},
		{name: "acknowledged and gone", marks: []string{"I a 1 -", "A a 7"}, want: "lost"},
		{name: "not acknowledged and gone", marks: []string{"I a 2 -"}},
		{name: "not acknowledged and there", marks: []string{"I a 2 -"}, seen: seen{"a": {0: "", 1: ""}}},
		{name: "half there", marks: []string{"I a 2 -"}, seen: seen{"a": {0: ""}}, want: "lost"},
		{name: "never made", seen: seen{"a": {0: ""}}, want: "invented"},
		{name: "half a batch", marks: []string{"I a 1 b", "I b 1 b"}, seen: seen{"b": {0: ""}}, want: "lost"},
		{name: "a batch", marks: []string{"I a 1 b", "I b 1 b"}, seen: seen{"b": {0: ""}, "a": {0: ""}}},
		{name: "an ID twice", marks: []string{"I a 1 -", "A a 7", "I b 1 -", "A b 7"}, seen: seen{"a": {0: ""}, "b": {0: ""}}, want: "invented repeated"},
		{name: "settled", marks: []string{"I a 1 -", "A a 7", "H a 1 0", "S a 1 0:D", "T a 1 0:D"}},
		{name: "settled and back", marks: []string{"I a 1 -", "A a 7", "H a 1 0", "S a 1 0:D", "T a 1 0:D"}, seen: seen{"a": {0: "!"}}, want: "repeated"},
		{name: "removed and back", marks: []string{"I a 1 -", "A a 7", "S a 0 0:X", "T a 0 0:X"}, seen: seen{"a": {0: ""}}, want: "repeated"},
		{name: "perhaps settled", marks: []string{"I a 1 -", "A a 7", "H a 1 0", "S a 1 0:D"}},
		{name: "perhaps settled, in doubt", marks: []string{"I a 1 -", "A a 7", "H a 1 0", "S a 1 0:D"}, seen: seen{"a": {0: "!"}}},
		{name: "started just now", marks: []string{"I a 1 -", "A a 7", "H a 1 0", "S a 1 0:D"}, seen: seen{"a": {0: ""}}, window: 1},
		{name: "started just now, durably", marks: []string{"I a 1 -", "A a 7", "H a 1 0"}, seen: seen{"a": {0: ""}}, durable: true, want: "repeated"},
		{name: "started long ago", marks: []string{"I a 1 -", "A a 7", "H a 1 0", "+300"}, seen: seen{"a": {0: ""}}, want: "repeated"},
		{name: "started before what was acknowledged", marks: []string{"I a 1 -", "A a 7", "H a 1 0", "I b 1 -", "A b 8"}, seen: seen{"a": {0: ""}, "b": {0: ""}}, want: "repeated"},
		{name: "submitted before the start", marks: []string{"I a 1 -", "A a 7", "I b 1 -", "H a 1 0", "A b 8"}, seen: seen{"a": {0: ""}, "b": {0: ""}}, window: 1},
		{name: "deferred", marks: []string{"I a 1 -", "A a 7", "H a 1 0", "S a 1 0:L", "T a 1 0:L", "+300"}, seen: seen{"a": {0: ""}}},
		{name: "perhaps deferred", marks: []string{"I a 1 -", "A a 7", "H a 1 0", "S a 1 0:L", "+300"}, seen: seen{"a": {0: NoteOf(1)}}},
		{name: "perhaps deferred, the note left out", marks: []string{"I a 1 -", "A a 7", "H a 1 0@2", "S a 1 0:L", "+300"}, seen: seen{"a": {0: "#3"}}},
		{name: "perhaps deferred, and not", marks: []string{"I a 1 -", "A a 7", "H a 1 0@3", "S a 1 0:L"}, seen: seen{"a": {0: "#3"}}, durable: true, want: "repeated"},
		{name: "deferred before", marks: []string{"I a 1 -", "A a 7", "H a 1 0", "S a 1 0:L", "T a 1 0:L", "H a 2 0", "S a 2 0:L", "+300"}, seen: seen{"a": {0: NoteOf(1)}}, window: 1}, // its commit is as slow
		{name: "deferred before, and others since", marks: []string{"I a 1 -", "A a 7", "H a 1 0", "S a 1 0:L", "T a 1 0:L", "H a 2 0", "S a 2 0:L", "I b 1 -", "A b 8"}, seen: seen{"a": {0: NoteOf(1)}, "b": {0: ""}}, want: "repeated"},
		{name: "uncertain", marks: []string{"I a 1 -", "A a 7", "H a 1 0", "S a 1 0:U", "T a 1 0:U"}, seen: seen{"a": {0: ""}}, want: "repeated"},
		{name: "uncertain, in doubt", marks: []string{"I a 1 -", "A a 7", "H a 1 0", "S a 1 0:U", "T a 1 0:U"}, seen: seen{"a": {0: "!"}}},
		{name: "doubt forgotten", marks: []string{"I a 1 -", "A a 7", "H a 1 0!", "S a 1 0:L", "T a 1 0:L"}, seen: seen{"a": {0: ""}}, want: "repeated"},
		{name: "handed out again", marks: []string{"I a 1 -", "A a 7", "H a 1 0", "S a 1 0:R", "H a 2 0"}, seen: seen{"a": {0: "!"}}, want: "repeated"},
		{name: "handed out again, announced", marks: []string{"I a 1 -", "A a 7", "H a 1 0", "S a 1 0:R", "H a 2 0!"}, seen: seen{"a": {0: "!"}}},
		{name: "handed out once used", marks: []string{"I a 1 -", "A a 7", "H a 1 0", "S a 1 0:D", "T a 1 0:D", "H a 2 0"}, want: "repeated"},
		{name: "half a settlement", marks: []string{"I a 2 -", "A a 7", "H a 1 0,1", "S a 1 0:D,1:D"}, seen: seen{"a": {0: "!"}}, want: "lost"},
		{name: "failed without a bounce", marks: []string{"I a 1 -", "A a 7", "H a 1 0", "I bounce-a/0 1 -", "S a 1 0:F"}, want: "lost"},
		{name: "failed with its bounce", marks: []string{"I a 1 -", "A a 7", "H a 1 0", "I bounce-a/0 1 -", "S a 1 0:F"}, seen: seen{"bounce-a/0": {0: ""}}},
		{name: "a bounce without a failure", marks: []string{"I a 1 -", "A a 7", "H a 1 0", "I bounce-a/0 1 -", "S a 1 0:F"}, seen: seen{"a": {0: "!"}, "bounce-a/0": {0: ""}}, want: "invented"},
		{name: "gone, and back after an opening", marks: []string{"I a 1 -", "O!"}, seen: seen{"a": {0: ""}}, want: "repeated"},
		{name: "gone after an opening", marks: []string{"I a 1 -", "O!"}},
	} {
		l := NewLedger()
		l.DurableStart = tt.durable
		at := ms
		for _, m := range tt.marks {
			if n, ok := strings.CutPrefix(m, "+"); ok {
				d, err := time.ParseDuration(n + "ms")
				if err != nil {
					t.Fatal(err)
				}
				at += d
				continue
			}
			if m == "O!" {
				l.Open(&Observation{}, tt.durable)
				continue
			}
			if err := l.Read(m, at); err != nil {
				t.Fatalf("%s: %v", tt.name, err)
			}
			at += ms
		}
		l.EndedAt = at
		o := &Observation{Messages: map[string]*SeenMessage{}}
		for key, list := range tt.seen {
			m := &SeenMessage{ID: 7, Recipients: map[int]Seen{}}
			if lm := l.Messages[key]; lm != nil && lm.Accepted {
				m.ID = lm.ID
			} else if key != "a" {
				m.ID = 99
			}
			for i, s := range list {
				m.Recipients[i] = Seen{InDoubt: s == "!", Note: strings.TrimPrefix(s, "!")}
				if n, ok := strings.CutPrefix(s, "#"); ok { // attempts
					attempts, err := strconv.Atoi(n)
					if err != nil {
						t.Fatal(err)
					}
					m.Recipients[i] = Seen{Attempts: attempts}
				}
			}
			o.Messages[key] = m
		}
		v := Judge(l.Clone(), o)
		if got := kinds(v); got != tt.want || v.InWindow != tt.window {
			t.Errorf("%s: found %q, %d in the window; want %q, %d\n%s", tt.name, got, v.InWindow, tt.want, tt.window, strings.Join(v.Findings(), "\n"))
		}
	}
}

func TestMarksThatAreNone(t *testing.T) {
	for _, text := range []string{"", "I a", "A a 1", "H a 1 0", "I a x -", "Z a 1 0"} {
		if err := NewLedger().Read(text, 0); err == nil {
			t.Errorf("%q was read", text)
		}
	}
}
