package drill

import (
	"errors"
	"strings"
	"testing"
	"time"

	"github.com/mtawal/mtawal/mailq"
)

func quiet() listener {
	return listener{
		opening: func() {}, opened: func(time.Duration) {}, state: func(State) {}, drained: func() {}, stopped: func() {}, fatal: func(string) {},
	}
}

func TestReportsAreHeard(t *testing.T) {
	m := NewLoad(1, nil).Bounce(LoadKey(3), 2)
	l := NewLedger()
	var state State
	var fatal string
	to := quiet()
	to.state = func(s State) { state = s }
	to.fatal = func(s string) { fatal = s }
	lines := intendLine(m) + acceptLine(m.Key) + settleLine(m.Key, 7, mailq.Failed, []int{0}) + settleLine(m.Key, 8, mailq.Delivered, nil) +
		stateLine(State{1, 2, 3, 4, 5}) + fatalLine(errors.New("no\nspace \x1b[31m"+strings.Repeat("\x00", lineMax)))
	for line := range strings.Lines(lines) {
		if len(line) > lineMax {
			t.Errorf("a line of %d bytes", len(line))
		}
		if err := hear(l, 2, strings.TrimSuffix(line, "\n"), to); err != nil {
			t.Error(err)
		}
	}
	e := l.entries[m.Key]
	if e == nil || !e.intended || !e.accepted || e.count != 1 || e.digest != m.Digest || e.recipients[0].settled != NewStamp(2, 7) || e.recipients[0].result != mailq.Failed {
		t.Errorf("the ledger holds %+v", e)
	}
	if state != (State{1, 2, 3, 4, 5}) || !strings.HasPrefix(fatal, "no\nspace") {
		t.Errorf("heard %+v and %q", state, fatal)
	}
}

func TestNonsenseIsNotHeard(t *testing.T) {
	for _, line := range []string{
		"", "hello", "opened", "opened x", "intend 1 1", "intend 1 0 " + Digest{}.String(), "intend 1 1 00", "accept", "accept 0",
		"settle 1 1 deferred 0", "settle 1 1 delivered x", "settle 1 99999999999999 delivered 0", "state 1 2 3 4", "state 1 2 3 4 x", "fatal x", "drained now",
	} {
		l := NewLedger()
		if err := hear(l, 1, line, quiet()); err == nil {
			t.Errorf("%q was understood", line)
		}
		if len(l.entries) != 0 {
			t.Errorf("%q reached the ledger", line)
		}
	}
}
