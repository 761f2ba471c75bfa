package mail

import (
	"cmp"
	"fmt"
	"maps"
	"slices"
	"time"
)

// Without DurableStart a delivery that was started in the last Window before a power cut
// may be repeated without notice: then the store sets out to write down that it was
// started. That write is a commit as any other, so a start is durable when a commit that
// was submitted a Window later would be. Whether it would be is known exactly where one
// was, and was acknowledged. Where none was, the slowest commit of that life is the measure, and
// timers may be so late on a machine with other work.
const (
	Window    = 20 * time.Millisecond
	timerLate = 100 * time.Millisecond
)

// Verdict is what a crash has shown. All but Announced, InWindow and Late are findings.
type Verdict struct {
	Refused  []string // the store did not open, or did not work afterwards
	Lost     []string
	Invented []string
	Repeated []string // after a used-mark, or without notice
	Silent   []string // damage that nobody was told of

	Announced int // recipients that came back in doubt
	InWindow  int // came back without notice, as was said they may
	// Late is the longest time before the cut at which one of these was started.
	Late time.Duration
}

// Findings are all of them, in words.
func (v *Verdict) Findings() []string {
	var all []string
	for _, k := range []struct {
		kind string
		list []string
	}{{"refused", v.Refused}, {"lost", v.Lost}, {"invented", v.Invented}, {"repeated", v.Repeated}, {"silent", v.Silent}} {
		for _, text := range k.list {
			all = append(all, k.kind+": "+text)
		}
	}
	return all
}

type judge struct {
	*Ledger
	seen *Observation
	v    Verdict
}

// Judge compares what a store shows after it was cut off with the ledger at that moment.
func Judge(l *Ledger, seen *Observation) *Verdict {
	j := &judge{Ledger: l, seen: seen}
	j.v.Silent = append(j.v.Silent, seen.Silent...)
	j.v.Invented = append(j.v.Invented, seen.Invented...)
	for _, text := range l.Odd {
		j.v.Repeated = append(j.v.Repeated, "before the crash: "+text)
	}
	for _, key := range slices.SortedFunc(maps.Keys(l.Messages), cmp.Compare[string]) {
		j.message(key, l.Messages[key])
	}
	for key, s := range seen.Messages {
		m := l.Messages[key]
		switch {
		case m == nil:
			j.invented("message %s is there and was never made", key)
			continue
		case m.Accepted && s.ID != m.ID:
			j.invented("message %s has ID %d and was accepted as %d", key, s.ID, m.ID)
		}
		if other, ok := l.IDs[s.ID]; ok && other != key {
			j.invented("message %s has ID %d, which is that of message %s", key, s.ID, other)
		}
		for i := range s.Recipients {
			if i >= len(m.Recipients) {
				j.invented("message %s has a recipient %d", key, i)
			}
		}
	}
	for batch, keys := range l.Batches {
		j.batch(batch, keys)
	}
	return &j.v
}

func (j *judge) lost(format string, args ...any) {
	j.v.Lost = append(j.v.Lost, fmt.Sprintf(format, args...))
}

func (j *judge) invented(format string, args ...any) {
	j.v.Invented = append(j.v.Invented, fmt.Sprintf(format, args...))
}

func (j *judge) repeated(format string, args ...any) {
	j.v.Repeated = append(j.v.Repeated, fmt.Sprintf(format, args...))
}

func (j *judge) shown(key string, i int) (Seen, bool) {
	s := j.seen.Messages[key]
	if s == nil {
		return Seen{}, false
	}
	r, ok := s.Recipients[i]
	return r, ok
}

// presence says whether a message was enqueued for all that is seen: it is listed, or can
// have been used up (maybe).
func (j *judge) presence(key string) (there, maybe bool) {
	m := j.Messages[key]
	if m == nil {
		return false, false
	}
	for i, r := range m.Recipients {
		if _, ok := j.shown(key, i); ok || r.Settled {
			there = true
		}
		maybe = maybe || len(r.Intents) > 0
	}
	return there, maybe
}

func (j *judge) message(key string, m *Message) {
	there, maybe := j.presence(key)
	for i := range m.Recipients {
		r := &m.Recipients[i]
		s, listed := j.shown(key, i)
		switch {
		case listed && r.Settled:
			j.repeated("message %s, recipient %d: there again after its used-mark was acknowledged, or after it was seen to be gone", key, i)
		case listed:
			j.doubt(key, i, r, s)
		case r.Settled || len(r.Intents) > 0:
			j.bounce(key, i, r)
		case m.Accepted:
			j.lost("message %s, recipient %d: acknowledged", key, i)
		case there || maybe:
			j.lost("message %s, recipient %d: others of the message are there", key, i)
		}
		if listed && !r.Settled {
			j.whole(key, m, i)
		}
	}
}

// doubt judges a recipient that is there, by what was done for it before.
func (j *judge) doubt(key string, i int, r *Recipient, s Seen) {
	if s.InDoubt {
		j.v.Announced++
		return
	}
	if r.Doubt {
		j.repeated("message %s, recipient %d: was in doubt before, and is announced no more", key, i)
		return
	}
	if r.Handout == 0 {
		return
	}
	// A full disk may have left the note out, but not the count.
	if r.Tried == Deferred && (r.Answered || s.Note == NoteOf(r.Handout) || s.Attempts > r.Attempts) {
		return // known not to be delivered
	}
	age := j.EndedAt - r.HandedAt
	switch {
	case j.DurableStart:
		j.repeated("message %s, recipient %d: handed out %v before the cut, not announced, with DurableStart", key, i, age)
	case r.Handed < j.Acked:
		j.repeated("message %s, recipient %d: handed out (%d) %v before the cut, not announced, though a commit submitted later was acknowledged; tried %q, note %q", key, i, r.Handout, age, r.Tried, s.Note)
	case age > Window+j.slowest()+timerLate:
		j.repeated("message %s, recipient %d: handed out %v before the cut, not announced, and the slowest commit took %v", key, i, age, j.slowest())
	default:
		j.v.InWindow++
		j.v.Late = max(j.v.Late, age)
	}
}

// bounce: a recipient that can only have gone by failing has left its bounce.
func (j *judge) bounce(key string, i int, r *Recipient) {
	if len(r.Intents) == 0 || slices.ContainsFunc(r.Intents, func(n Intent) bool { return n.Code != Failed }) {
		return
	}
	if there, maybe := j.presence(Bounce(key, i)); !there && !maybe {
		j.lost("message %s, recipient %d: failed, and its bounce is not there", key, i)
	}
}

// whole: a recipient that is there has not been settled; then none of the same settlement
// is, and no bounce of it is there.
func (j *judge) whole(key string, m *Message, i int) {
	for _, n := range m.Recipients[i].Intents {
		if n.Code == Failed {
			if there, _ := j.presence(Bounce(key, i)); there {
				j.invented("message %s, recipient %d: the bounce is there, and so is the recipient", key, i)
			}
		}
		for k, other := range m.Recipients {
			if _, listed := j.shown(key, k); !listed && len(other.Intents) == 1 && other.Intents[0].Handout == n.Handout && len(m.Recipients[i].Intents) == 1 {
				j.lost("message %s: of one settlement recipient %d is used and recipient %d is not", key, k, i)
			}
		}
	}
}

// batch: all of it or nothing.
func (j *judge) batch(name string, keys []string) {
	var in, out string
	for _, key := range keys {
		switch there, maybe := j.presence(key); {
		case there || maybe || j.Messages[key].Accepted:
			in = key
		default:
			out = key
		}
	}
	if in != "" && out != "" {
		j.lost("batch %s: message %s is there and message %s is not", name, in, out)
	}
}
