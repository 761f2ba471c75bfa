package mailqtest

import (
	"slices"
	"time"

	"github.com/mtawal/mtawal/mailq"
)

// add enqueues what check has passed.
func (s *refStore) add(m mailq.Message) mailq.ID {
	if g, ok := m.Staged.(*refStaged); ok {
		g.end()
		m.Body = g.b
	}
	if id, ok := s.d.keys[m.Key]; ok && m.Key != "" && (s.bug != "forgets the keys of the dead" || s.message(id) != nil) {
		return id
	}
	if m.ID == 0 {
		s.d.lastID++
		m.ID = s.d.lastID
	}
	if s.bug != "takes an ID twice" {
		delete(s.d.reserved, m.ID)
	}
	if m.Key != "" {
		s.d.keys[m.Key] = m.ID
	}
	if s.bug != "keeps the caller's slices" {
		m.Body = slices.Clone(m.Body)
	}
	m.Envelope = slices.Clone(m.Envelope)
	msg := &refMessage{Message: m, at: time.Now().Round(0)}
	s.d.messages = append(s.d.messages, msg)
	s.addRecipients(msg, m.Recipients)
	msg.Recipients = nil
	return m.ID
}

func (s *refStore) addRecipients(m *refMessage, list []mailq.Recipient) {
	for _, r := range list {
		r.Note = slices.Clone(r.Note)
		m.rcpts = append(m.rcpts, &refRcpt{Recipient: r, m: m, index: len(m.rcpts)})
		s.d.enqueued++
	}
}

// apply records one outcome.
func (s *refStore) apply(x op) {
	r, o := x.r, x.o
	if x.by != nil {
		x.by.settled[r] = true
	}
	if x.by == nil && r.claim != nil && !o.Result.IsUsed() { // an edit of a claimed one
		r.edit = &o
		return
	}
	if o.Note != nil {
		r.Note = slices.Clone(o.Note)
	}
	if o.Result.IsUsed() {
		s.use(r, o)
		return
	}
	if x.by != nil {
		r.attempts++
	}
	switch o.Result {
	case mailq.Deferred:
		r.putOff(o.Until)
		r.late = r.late && s.bug != "expires again what was put off"
		if s.bug == "hands out early" {
			r.NotBefore = o.Until.Add(-20 * time.Millisecond)
		}
		if s.bug == "answers doubt with a deferral" {
			r.inDoubt = false
		}
	case mailq.Uncertain:
		s.doubt(r, o.Until)
	case mailq.Held:
		r.held = true
	case mailq.Released:
		r.held, r.NotBefore = false, time.Time{}
	}
	s.free(r)
}

// use marks a recipient used, and takes it from who has it claimed.
func (s *refStore) use(r *refRcpt, o mailq.Outcome) {
	r.used = o.Result
	switch o.Result {
	case mailq.Delivered:
		s.d.used.Delivered++
	case mailq.Failed:
		s.d.used.Failed++
	case mailq.Expired:
		s.d.used.Expired++
	case mailq.Removed:
		s.d.used.Removed++
	case mailq.Replaced:
		s.d.used.Replaced++
		if s.bug != "forgets a replacement" {
			s.addRecipients(r.m, o.Replace)
		}
	}
	r.edit = nil
	s.free(r)
	if s.bug == "hands out a used recipient again" && o.Result == mailq.Failed {
		r.used = 0
	}
}

// doubt puts a recipient in doubt, by the policy of its queue unless a time is
// given.
func (s *refStore) doubt(r *refRcpt, until time.Time) {
	q := s.d.queues[r.Queue]
	r.inDoubt = true
	switch {
	case !until.IsZero():
		r.putOff(until)
	case q.Doubt == mailq.HoldDoubt:
		r.held = true
	case q.Doubt == mailq.DeferDoubt:
		r.putOff(time.Now().Round(0).Add(q.DoubtDelay))
	}
}

func (r *refRcpt) putOff(until time.Time) {
	r.NotBefore, r.late = until, r.expired(time.Now())
}

// free ends the claim on a recipient, if there is one, after an outcome.
func (s *refStore) free(r *refRcpt) {
	c := r.claim
	r.claim, r.started = nil, false
	if o := r.edit; o != nil && s.bug != "drops an edit of a claimed recipient" {
		r.edit = nil
		s.apply(op{r: r, o: *o})
	}
	if c == nil {
		return
	}
	for _, other := range c.rcpts {
		if other.claim == c {
			return
		}
	}
	s.endClaim(c, mailq.ErrSettled)
}
