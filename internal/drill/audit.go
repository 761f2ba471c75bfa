package drill

import (
	"cmp"
	"fmt"
	"slices"
)

// Audit is the ledger's judgement. It is final once the queues are drained:
// what is still on its way counts as lost.
type Audit struct {
	// Messages of the load that the store acknowledged, and their recipients.
	Messages, Recipients int
	// Delivered is how many of those recipients the receiving store has the
	// message for or, where it refused them for good, the bounce.
	Delivered int
	// Bounced is how many of Delivered are there as a bounce.
	Bounced int
	// Lost counts recipients of acknowledged messages, bounces among them, for
	// whom nothing intact arrived; and those of a message that was not
	// acknowledged but seen, since a message is in the store as a whole or not.
	Lost int
	// Duplicated counts hand-overs after an acknowledged used-mark, and
	// hand-overs of what the receiving store had already without a word of it.
	Duplicated int
	// InDoubt counts hand-overs of what the receiving store had already, where
	// the store had said so.
	InDoubt int
	// Unfounded counts hand-overs announced as in doubt of what had never been
	// offered before. A claim that a kill ended in time makes one.
	Unfounded int
	// Unknown is how many messages of the load were intended and never
	// acknowledged, UnknownArrived how many of them arrived.
	Unknown, UnknownArrived int
	// Altered counts hand-overs whose body was not the one enqueued. They are
	// no deliveries.
	Altered int
	// Invented counts hand-overs of messages or recipients that nobody enqueued.
	Invented int
	// Findings names the offenders, in the order of their keys, at most
	// FindingsMax of a kind.
	Findings []string
}

// FindingsMax is how many findings of a kind are told.
const FindingsMax = 10

// Clean reports whether nothing was lost, repeated without notice, altered or
// invented.
func (a Audit) Clean() bool {
	return a.Lost == 0 && a.Duplicated == 0 && a.Altered == 0 && a.Invented == 0 && len(a.Findings) == 0
}

// auditor collects findings beside the counts.
type auditor struct {
	Audit
	told map[string]int
}

func (a *auditor) find(count *int, kind, format string, args ...any) {
	*count++
	if a.told[kind]++; a.told[kind] <= FindingsMax {
		a.Findings = append(a.Findings, kind+": "+fmt.Sprintf(format, args...))
	}
}

// Audit judges what the ledger holds.
func (l *Ledger) Audit() Audit {
	l.mu.Lock()
	defer l.mu.Unlock()
	a := auditor{told: map[string]int{}}
	for _, text := range l.odd {
		a.find(new(int), "odd", "%s", text)
	}
	keys := make([]Key, 0, len(l.entries))
	for k := range l.entries {
		keys = append(keys, k)
	}
	slices.SortFunc(keys, cmp.Compare[Key])
	for _, k := range keys {
		l.auditEntryLocked(&a, k, l.entries[k])
	}
	return a.Audit
}

func (l *Ledger) auditEntryLocked(a *auditor, k Key, e *entry) {
	arrived := false // anything of it, intact
	copies := make([]int, max(e.count, len(e.recipients)))
	for i, rc := range e.recipients {
		if !e.intended || i >= e.count {
			for _, h := range rc.handOvers {
				a.find(&a.Invented, "invented", "message %s, recipient %d: handed over in life %d, never enqueued", k, i, h.stamp.Life())
			}
			continue
		}
		copies[i] = a.handOvers(k, i, rc, e.digest)
		arrived = arrived || len(rc.handOvers) > 0
	}
	load := !k.IsBounce()
	if load {
		switch {
		case e.accepted:
			a.Messages++
			a.Recipients += e.count
		case e.intended:
			a.Unknown++
			if arrived {
				a.UnknownArrived++
			}
		}
	}
	if !e.accepted && !arrived {
		return // never promised, never seen
	}
	for i := range e.count {
		b := l.bounceLocked(k, i)
		switch {
		case copies[i] > 0 || b == bounceReceived:
			if load && e.accepted {
				a.Delivered++
				if copies[i] == 0 {
					a.Bounced++
				}
			}
		case b == bounceAccepted: // lost as a bounce, and counted there
		default:
			a.find(&a.Lost, "lost", "message %s, recipient %d: %s, never received", k, i, standing(e, i))
		}
	}
}

// standing says in words what was promised about a recipient.
func standing(e *entry, i int) string {
	s := "seen but not acknowledged"
	if e.accepted {
		s = "acknowledged"
	}
	if i < len(e.recipients) && e.recipients[i].settled != 0 {
		s += fmt.Sprintf(", settled as %v in life %d", e.recipients[i].result, e.recipients[i].settled.Life())
	}
	return s
}

// What is known of the bounce for a recipient.
const (
	bounceUnheard  = iota
	bounceAccepted // acknowledged, and not received
	bounceReceived // intact, whether acknowledged or not
)

func (l *Ledger) bounceLocked(k Key, i int) int {
	if k.IsBounce() {
		return bounceUnheard
	}
	e := l.entries[k.Bounce(i)]
	switch {
	case e == nil:
		return bounceUnheard
	case len(e.recipients) > 0 && slices.ContainsFunc(e.recipients[0].handOvers, func(h seen) bool { return h.stored && h.digest == e.digest }):
		return bounceReceived
	case e.accepted:
		return bounceAccepted
	}
	return bounceUnheard
}

// handOvers judges the hand-overs of one recipient and returns how many intact
// copies the receiving store has.
func (a *auditor) handOvers(k Key, i int, rc received, want Digest) int {
	slices.SortStableFunc(rc.handOvers, func(x, y seen) int { return cmp.Compare(x.stamp, y.stamp) })
	copies := 0
	for n, h := range rc.handOvers {
		if n == 0 && h.inDoubt {
			a.Unfounded++
		}
		switch {
		case h.digest != want:
			a.find(&a.Altered, "altered", "message %s, recipient %d: the body received in life %d is not the one enqueued", k, i, h.stamp.Life())
			continue
		case rc.settled != 0 && h.stamp > rc.settled:
			a.find(&a.Duplicated, "duplicated", "message %s, recipient %d: handed over in life %d after its mark %q was acknowledged in life %d",
				k, i, h.stamp.Life(), rc.result, rc.settled.Life())
		case copies > 0 && !h.inDoubt:
			a.find(&a.Duplicated, "duplicated", "message %s, recipient %d: handed over again in life %d, not announced", k, i, h.stamp.Life())
		case copies > 0:
			a.InDoubt++
		}
		if h.stored {
			copies++
		}
	}
	return copies
}
