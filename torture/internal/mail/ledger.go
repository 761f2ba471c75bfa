package mail

import (
	"fmt"
	"maps"
	"slices"
	"strconv"
	"strings"
	"time"
)

// Ledger is what is known of a store at one moment, from the marks before it.
type Ledger struct {
	Messages map[string]*Message
	Batches  map[string][]string // keys by batch
	IDs      map[uint64]string   // keys by ID
	Odd      []string            // what should not be, noted while the marks were read

	// Pos counts marks. The submission of a commit that was acknowledged latest is at
	// Acked: whatever was started before it went with it, at the latest.
	Pos, Acked int
	// Slowest is the longest that an acknowledged commit has taken.
	Slowest time.Duration
	now     time.Duration
	// EndedAt is when the life of the store whose marks these are was cut off.
	EndedAt time.Duration
	// Killed: its process was killed then, and no other has opened the store since.
	Killed bool
	// DurableStart: that life waited until its starts were durable.
	DurableStart bool
}

// Message is what is known of one message.
type Message struct {
	Recipients []Recipient
	Batch      string
	Accepted   bool
	ID         uint64 // once accepted
	Submitted  int    // Pos
	// SubmittedAt is the time of that; 0 in the life after.
	SubmittedAt time.Duration
}

// Recipient is what is known of one recipient.
type Recipient struct {
	// Settled: a used-mark was acknowledged, or a store was opened and did not show it.
	Settled bool
	// Intents are the used-marks that were on their way.
	Intents []Intent
	// Doubt: it was shown as in doubt, or acknowledged as uncertain.
	Doubt bool

	Handout     int // the latest, 0: none in this life
	Attempts    int // before that
	Handed      int // Pos of it
	HandedAt    time.Duration
	Tried       byte // the code that was to settle it, 0: none yet
	Answered    bool // and that was acknowledged
	Submitted   int  // Pos of that settlement
	SubmittedAt time.Duration
}

// Intent is a used-mark on its way.
type Intent struct {
	Code    byte
	Handout int
}

// NewLedger returns the ledger of a store that is new.
func NewLedger() *Ledger {
	return &Ledger{Messages: map[string]*Message{}, Batches: map[string][]string{}, IDs: map[uint64]string{}}
}

// Clone returns a copy.
func (l *Ledger) Clone() *Ledger {
	c := *l
	c.Messages = make(map[string]*Message, len(l.Messages))
	for k, m := range l.Messages {
		d := *m
		d.Recipients = slices.Clone(m.Recipients)
		for i := range d.Recipients {
			d.Recipients[i].Intents = slices.Clone(d.Recipients[i].Intents)
		}
		c.Messages[k] = &d
	}
	c.Batches, c.IDs, c.Odd = maps.Clone(l.Batches), maps.Clone(l.IDs), slices.Clone(l.Odd)
	return &c
}

// Open begins a life of the store: what it showed counts, and nothing else is there.
func (l *Ledger) Open(seen *Observation, durableStart bool) {
	l.Pos, l.Acked, l.Slowest, l.DurableStart, l.Killed = 0, 0, 0, durableStart, false
	clear(l.Batches)
	for key, m := range l.Messages {
		s := seen.Messages[key]
		m.Batch, m.SubmittedAt = "", 0
		m.Accepted = m.Accepted || s != nil
		if s != nil {
			m.ID = s.ID
			l.IDs[s.ID] = key
		}
		for i, r := range m.Recipients {
			fresh := Recipient{Settled: true}
			if s != nil {
				if shown, ok := s.Recipients[i]; ok {
					fresh = Recipient{Doubt: shown.InDoubt || r.Doubt}
				}
			}
			m.Recipients[i] = fresh
		}
	}
}

// Kill ends a life by a kill. Until another opens the store nothing more is written, so
// whatever happens then, it is as if it happened now.
func (l *Ledger) Kill(at time.Duration) { l.EndedAt, l.Killed = at, true }

func (l *Ledger) odd(format string, args ...any) { l.Odd = append(l.Odd, fmt.Sprintf(format, args...)) }

// Read takes in the lines of a mark.
func (l *Ledger) Read(text string, at time.Duration) error {
	l.now = at
	for line := range strings.SplitSeq(text, "\n") {
		l.Pos++
		f := strings.Fields(line)
		var err error
		switch {
		case len(f) == 4 && f[0] == "I":
			err = l.intend(f[1], f[2], f[3])
		case len(f) == 3 && f[0] == "A":
			err = l.accept(f[1], f[2])
		case len(f) == 4 && f[0] == "H":
			err = l.handOut(f[1], f[2], f[3], at)
		case len(f) == 4 && (f[0] == "S" || f[0] == "T"):
			err = l.settle(f[0] == "T", f[1], f[2], f[3])
		default:
			err = fmt.Errorf("not a mark")
		}
		if err != nil {
			return fmt.Errorf("mark %q: %w", line, err)
		}
	}
	return nil
}

func (l *Ledger) intend(key, count, batch string) error {
	n, err := strconv.Atoi(count)
	if err != nil {
		return err
	}
	if m := l.Messages[key]; m != nil {
		// The bounce of a settlement that was refused, or cut off, made again.
		if m.Submitted, m.SubmittedAt = l.Pos, l.now; len(m.Recipients) != n {
			return fmt.Errorf("intended twice and differently")
		}
		if !m.Accepted {
			clear(m.Recipients)
		}
		return nil
	}
	m := &Message{Recipients: make([]Recipient, n), Submitted: l.Pos, SubmittedAt: l.now}
	if batch != "-" {
		m.Batch = batch
		l.Batches[batch] = append(l.Batches[batch], key)
	}
	l.Messages[key] = m
	return nil
}

func (l *Ledger) accept(key, id string) error {
	m := l.Messages[key]
	n, err := strconv.ParseUint(id, 10, 64)
	if m == nil || err != nil {
		return fmt.Errorf("accepted and never intended, or not an ID")
	}
	m.Accepted, m.ID = true, n
	if m.Batch != "" {
		m.Submitted = 0 // a batch may fill its frame, so that what was started goes with the next
	}
	l.acked(m.Submitted, m.SubmittedAt)
	if other, ok := l.IDs[n]; ok && other != key {
		l.odd("ID %d of message %s was that of message %s", n, key, other)
	}
	l.IDs[n] = key
	return nil
}

func (l *Ledger) acked(pos int, at time.Duration) {
	l.Acked, l.Slowest = max(l.Acked, pos), max(l.Slowest, l.now-at)
}

// slowest is the longest that a commit has taken, or has been waited for at the end.
func (l *Ledger) slowest() time.Duration {
	most := l.Slowest
	for _, m := range l.Messages {
		if !m.Accepted && m.SubmittedAt > 0 {
			most = max(most, l.EndedAt-m.SubmittedAt)
		}
		for _, r := range m.Recipients {
			if r.Tried != 0 && r.Tried != Released && !r.Answered {
				most = max(most, l.EndedAt-r.SubmittedAt)
			}
		}
	}
	return most
}

// find returns the recipients that a list names, with what stands behind each number.
func (l *Ledger) find(key, list string) (map[int]string, *Message, error) {
	m := l.Messages[key]
	if m == nil {
		return nil, nil, fmt.Errorf("of a message that nobody has made")
	}
	found := map[int]string{}
	for word := range strings.SplitSeq(list, ",") {
		digits := word
		if n := strings.IndexAny(word, ":!@"); n >= 0 {
			digits = word[:n]
		}
		i, err := strconv.Atoi(digits)
		if err != nil || i < 0 || i >= len(m.Recipients) {
			return nil, nil, fmt.Errorf("recipient %q", word)
		}
		found[i] = word[len(digits):]
	}
	return found, m, nil
}

func (l *Ledger) handOut(key, handout, list string, at time.Duration) error {
	found, m, err := l.find(key, list)
	if err != nil {
		return err
	}
	n, err := strconv.Atoi(handout)
	if err != nil {
		return err
	}
	for i, suffix := range found {
		r := &m.Recipients[i]
		rest, announced := strings.CutSuffix(suffix, "!")
		attempts, _ := strconv.Atoi(strings.TrimPrefix(rest, "@"))
		switch {
		case r.Settled && slices.ContainsFunc(r.Intents, func(n Intent) bool { return n.Code == Removed }):
			// Claimed before it was removed, and noted after.
		case r.Settled:
			l.odd("message %s, recipient %d: handed out after its used-mark", key, i)
		case !announced && (r.Doubt || r.Handout != 0 && r.Tried != Deferred):
			l.odd("message %s, recipient %d: handed out again, not announced", key, i)
		}
		r.Doubt = r.Doubt || announced
		r.Handout, r.Handed, r.HandedAt, r.Tried, r.Answered, r.Attempts = n, l.Pos, at, 0, false, attempts
	}
	return nil
}

func (l *Ledger) settle(done bool, key, handout, list string) error {
	found, m, err := l.find(key, list)
	if err != nil {
		return err
	}
	n, err := strconv.Atoi(handout)
	if err != nil {
		return err
	}
	for i, suffix := range found {
		r := &m.Recipients[i]
		code := suffix[1]
		final := code == Delivered || code == Failed || code == Removed
		if !done {
			if final {
				r.Intents = append(r.Intents, Intent{code, n})
			}
			if n == r.Handout && code != Removed {
				r.Tried, r.Submitted, r.SubmittedAt = code, l.Pos, l.now
			}
			continue
		}
		if n == r.Handout && code != Removed {
			r.Answered = true
			l.acked(r.Submitted, r.SubmittedAt)
		}
		r.Settled = r.Settled || final
		r.Doubt = r.Doubt || code == Uncertain
	}
	return nil
}
