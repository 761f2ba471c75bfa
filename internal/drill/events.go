package drill

import (
	"fmt"
	"io"
	"strconv"
	"strings"
	"sync/atomic"
	"time"

	"github.com/mtawal/mtawal/mailq"
)

// lineMax bounds a report, in bytes. Reports are shorter than what a pipe takes
// in one piece, so a kill does not cut them.
const lineMax = 4000

// Reports of a core, one line each:
//
//	opening
//	opened NANOSECONDS
//	intend KEY RECIPIENTS DIGEST
//	accept KEY
//	settle KEY SEQ RESULT INDEX[,INDEX...]
//	state PENDING DEFERRED HELD CLAIMED WORKQUEUE
//	drained
//	stopped
//	fatal "TEXT"
//
// settle is sent for used-marks only.

// reporter writes reports. Any number of goroutines may use it.
type reporter struct {
	w    io.Writer // one Write a report, each atomic
	seq  atomic.Uint64
	gone func(error) // the parent does not read any more
}

// next is the next number of the core's own clock.
func (r *reporter) next() uint64 { return r.seq.Add(1) }

// say writes lines as one.
func (r *reporter) say(lines string) {
	if _, err := io.WriteString(r.w, lines); err != nil {
		r.gone(err)
	}
}

func intendLine(m Made) string {
	return fmt.Sprintf("intend %s %d %s\n", m.Key, len(m.Message.Recipients), m.Digest)
}

func acceptLine(k Key) string { return fmt.Sprintf("accept %s\n", k) }

func settleLine(k Key, seq uint64, r mailq.Result, indexes []int) string {
	if len(indexes) == 0 {
		return ""
	}
	words := make([]string, len(indexes))
	for i, n := range indexes {
		words[i] = strconv.Itoa(n)
	}
	return fmt.Sprintf("settle %s %d %s %s\n", k, seq, r, strings.Join(words, ","))
}

func stateLine(s State) string {
	return fmt.Sprintf("state %d %d %d %d %d\n", s.Pending, s.Deferred, s.Held, s.Claimed, s.WorkQueueLength)
}

func fatalLine(err error) string {
	text := strconv.Quote(clipTo(err.Error(), lineMax/8))
	return "fatal " + text + "\n"
}

// State is what a core says of its store.
type State struct {
	Pending, Deferred, Held, Claimed, WorkQueueLength int64
}

// Backlog is what waits or is being delivered.
func (s State) Backlog() int64 { return s.Pending + s.Deferred + s.Held + s.Claimed }

// listener is told what a core reports of itself.
type listener struct {
	opening func()
	opened  func(time.Duration)
	state   func(State)
	drained func()
	stopped func()
	fatal   func(string)
}

// hear applies one report to the ledger or tells the listener.
func hear(l *Ledger, life int, line string, to listener) error {
	word, rest, _ := strings.Cut(line, " ")
	args := strings.Fields(rest)
	bad := func(err error) error { return fmt.Errorf("report %q of a core: %w", clip(line), err) }
	switch {
	case word == "opening" && len(args) == 0:
		to.opening()
	case word == "opened" && len(args) == 1:
		n, err := strconv.ParseInt(args[0], 10, 64)
		if err != nil {
			return bad(err)
		}
		to.opened(time.Duration(n))
	case word == "intend" && len(args) == 3:
		k, err := ParseKey(args[0])
		if err != nil {
			return bad(err)
		}
		n, err := strconv.Atoi(args[1])
		if err != nil || n < 1 || n > bouncesMax {
			return bad(fmt.Errorf("%q is no count of recipients", args[1]))
		}
		d, err := ParseDigest(args[2])
		if err != nil {
			return bad(err)
		}
		l.Intend(k, n, d)
	case word == "accept" && len(args) == 1:
		k, err := ParseKey(args[0])
		if err != nil {
			return bad(err)
		}
		l.Accept(k)
	case word == "settle" && len(args) == 4:
		return hearSettle(l, life, args, bad)
	case word == "state" && len(args) == 5:
		var v [5]int64
		for i, a := range args {
			var err error
			if v[i], err = strconv.ParseInt(a, 10, 64); err != nil {
				return bad(err)
			}
		}
		to.state(State{v[0], v[1], v[2], v[3], v[4]})
	case word == "drained" && len(args) == 0:
		to.drained()
	case word == "stopped" && len(args) == 0:
		to.stopped()
	case word == "fatal":
		text, err := strconv.Unquote(rest)
		if err != nil {
			return bad(err)
		}
		to.fatal(text)
	default:
		return bad(fmt.Errorf("not understood"))
	}
	return nil
}

func hearSettle(l *Ledger, life int, args []string, bad func(error) error) error {
	k, err := ParseKey(args[0])
	if err != nil {
		return bad(err)
	}
	seq, err := strconv.ParseUint(args[1], 10, stampSeqBits)
	if err != nil {
		return bad(err)
	}
	r := mailq.Delivered
	for r.IsUsed() && r.String() != args[2] {
		r++
	}
	if !r.IsUsed() {
		return bad(fmt.Errorf("%q is no used-mark", args[2]))
	}
	for w := range strings.SplitSeq(args[3], ",") {
		i, err := strconv.Atoi(w)
		if err != nil {
			return bad(err)
		}
		l.Settle(k, i, r, NewStamp(life, seq))
	}
	return nil
}
