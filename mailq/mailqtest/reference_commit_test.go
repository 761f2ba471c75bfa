package mailqtest

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"unicode"
	"unicode/utf8"

	"github.com/mtawal/mtawal/mailq"
)

func tooLarge(field string, n, most int64) error {
	if n > most {
		return &mailq.LimitError{Field: field, Size: n, Max: most}
	}
	return nil
}

func badName(field, name string) error {
	if err := tooLarge(field, int64(len(name)), mailq.QueueNameMax); err != nil {
		return err
	}
	if name == "" || !utf8.ValidString(name) {
		return &mailq.FieldError{Field: field, Reason: "empty or not UTF-8"}
	}
	for _, r := range name {
		if unicode.IsControl(r) {
			return &mailq.FieldError{Field: field, Reason: "a control character"}
		}
	}
	return nil
}

func first(errs ...error) error {
	for _, err := range errs {
		if err != nil {
			return err
		}
	}
	return nil
}

// checkRecipients is the error of new recipients.
func (s *refStore) checkRecipients(field string, list []mailq.Recipient) error {
	for i, r := range list {
		f := fmt.Sprintf("%s[%d].", field, i)
		name := badName(f+"Queue", r.Queue)
		if s.bug == "takes any queue name" {
			name = nil
		}
		if err := first(name, tooLarge(f+"Address", int64(len(r.Address)), mailq.AddressMax),
			tooLarge(f+"Note", int64(len(r.Note)), mailq.NoteMax)); err != nil {
			return err
		}
		if s.d.queues[r.Queue].Mode == mailq.Suspended && s.bug != "takes mail for a suspended queue" {
			return &mailq.FieldError{Field: f + "Queue", Reason: "suspended"}
		}
	}
	return nil
}

func (s *refStore) checkMessage(m mailq.Message, taken map[any]bool) error {
	body := int64(len(m.Body))
	if m.Staged != nil {
		var err error
		if body, err = s.checkStaged(m, taken); err != nil {
			return err
		}
	}
	if m.ID != 0 && (!s.d.reserved[m.ID] || taken[m.ID]) {
		return &mailq.FieldError{Field: "ID", Reason: "not reserved, or used"}
	}
	taken[m.ID] = true
	if len(m.Recipients) == 0 {
		return &mailq.FieldError{Field: "Recipients", Reason: "none"}
	}
	return first(tooLarge("Body", body, refMaxMessage), tooLarge("Envelope", int64(len(m.Envelope)), mailq.EnvelopeMax),
		tooLarge("Key", int64(len(m.Key)), mailq.KeyMax), tooLarge("Recipients", int64(len(m.Recipients)), refMaxRecipients),
		s.checkRecipients("Recipients", m.Recipients))
}

// op is one outcome for one recipient: a batch is made into a list of them,
// which is then applied without any further decision.
type op struct {
	r  *refRcpt
	o  mailq.Outcome
	by *refClaim // nil in an edit
}

// resolve makes ops of the outcomes for a list of recipients. A recipient may
// stand in one of them only.
func (s *refStore) resolve(list []*refRcpt, by *refClaim, outcomes []mailq.Outcome, touched map[any]bool) ([]op, error) {
	var ops []op
	if len(outcomes) == 0 {
		return nil, &mailq.FieldError{Field: "Outcomes", Reason: "none"}
	}
	for i, o := range outcomes {
		f := fmt.Sprintf("Outcomes[%d].", i)
		if o.Result < mailq.Delivered || o.Result > mailq.Released {
			return nil, &mailq.FieldError{Field: f + "Result", Reason: "no such result"}
		}
		if o.Result == mailq.Deferred && o.Until.IsZero() && s.bug != "defers until no time" {
			return nil, &mailq.FieldError{Field: f + "Until", Reason: "not set"}
		}
		if o.Result != mailq.Replaced && len(o.Replace) > 0 {
			return nil, &mailq.FieldError{Field: f + "Replace", Reason: "with Replaced only"}
		}
		if err := first(tooLarge(f+"Note", int64(len(o.Note)), mailq.NoteMax), s.checkRecipients(f+"Replace", o.Replace)); err != nil {
			return nil, err
		}
		n := len(ops)
		for _, r := range list {
			if o.Recipient == mailq.All && (touched[r] || (by == nil && r.used != 0) || (by != nil && by.settled[r])) || o.Recipient != mailq.All && o.Recipient != r.index {
				continue
			}
			switch {
			case touched[r]:
				return nil, &mailq.FieldError{Field: f + "Recipient", Reason: "named twice"}
			case by != nil && by.settled[r]:
				return nil, mailq.ErrSettled
			case r.used != 0 && s.bug == "marks a used recipient again":
			case r.used != 0:
				return nil, mailq.ErrUsed
			case by != nil && r.claim != by:
				return nil, mailq.ErrSettled
			}
			touched[r] = true
			ops = append(ops, op{r, o, by})
		}
		if len(ops) == n && (o.Recipient != mailq.All || by == nil) {
			return nil, mailq.ErrNotFound
		}
		if len(ops) == n {
			return nil, mailq.ErrSettled
		}
	}
	return ops, nil
}

// check makes a batch into ops, or says why it can't be applied.
func (s *refStore) check(b mailq.Batch) ([]op, error) {
	if s.closed {
		return nil, mailq.ErrClosed
	}
	if len(b.Settle)+len(b.Enqueue)+len(b.Edit) == 0 {
		return nil, &mailq.FieldError{Field: "Batch", Reason: "empty"}
	}
	if s.draining && len(b.Enqueue) > 0 && (len(b.Settle) == 0 || s.bug == "refuses a bounce in Shutdown") {
		return nil, mailq.ErrClosed
	}
	var all []op
	seen := map[any]bool{}
	for i, t := range b.Settle {
		var c *refClaim
		if t.Delivery != nil {
			c, _ = t.Delivery.Claim().(*refClaim)
		}
		if c == nil || c.s != s {
			return nil, &mailq.FieldError{Field: fmt.Sprintf("Settle[%d].Delivery", i), Reason: "no claim of this store"}
		}
		ops, err := s.resolve(c.rcpts, c, t.Outcomes, seen)
		if err != nil {
			return nil, err
		}
		all = append(all, ops...)
	}
	for _, x := range b.Edit {
		m := s.message(x.ID)
		if m == nil {
			return nil, mailq.ErrNotFound
		}
		ops, err := s.resolve(m.rcpts, nil, x.Outcomes, seen)
		if err != nil {
			return nil, err
		}
		all = append(all, ops...)
	}
	taken := map[any]bool{}
	for _, m := range b.Enqueue {
		if err := s.checkMessage(m, taken); err != nil {
			return nil, err
		}
	}
	return all, nil
}

func (s *refStore) message(id mailq.ID) *refMessage {
	for _, m := range s.d.messages {
		if m.ID == id {
			return m
		}
	}
	return nil
}

func (s *refStore) Commit(_ context.Context, b mailq.Batch) ([]mailq.ID, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	ops, err := s.check(b)
	if s.bug == "applies half a bad batch" && err != nil && !s.closed && len(b.Enqueue) > 1 && s.checkMessage(b.Enqueue[0], map[any]bool{}) == nil {
		s.add(b.Enqueue[0])
	}
	if err != nil {
		return nil, err
	}
	s.commits++
	for _, o := range ops {
		s.apply(o)
	}
	if s.bug == "forgets a batch's bounce" && len(b.Settle) > 0 {
		b.Enqueue = nil
	}
	var ids []mailq.ID
	for _, m := range b.Enqueue {
		ids = append(ids, s.add(m))
	}
	s.d.messages = slices.DeleteFunc(s.d.messages, func(m *refMessage) bool {
		return !slices.ContainsFunc(m.rcpts, func(r *refRcpt) bool { return r.used == 0 })
	})
	s.changed()
	return ids, nil
}

func (s *refStore) Enqueue(ctx context.Context, m mailq.Message) (mailq.ID, error) {
	ids, err := s.Commit(ctx, mailq.Batch{Enqueue: []mailq.Message{m}})
	if err != nil {
		return 0, err
	}
	return ids[0], nil
}

// refTicket is a commit that is over.
type refTicket struct {
	ids  []mailq.ID
	err  error
	done chan struct{}
}

func (t *refTicket) Done() <-chan struct{}                    { return t.done }
func (t *refTicket) Wait(context.Context) ([]mailq.ID, error) { return t.ids, t.err }

func (s *refStore) Submit(b mailq.Batch) mailq.Ticket {
	t := &refTicket{done: make(chan struct{})}
	t.ids, t.err = s.Commit(context.Background(), b)
	close(t.done)
	return t
}

func (s *refStore) MarkUsed(ctx context.Context, id mailq.ID, recipients ...int) error {
	s.mu.Lock()
	closed, m := s.closed, s.message(id)
	var o []mailq.Outcome
	for _, n := range slices.Compact(slices.Sorted(slices.Values(recipients))) { // All comes first
		switch {
		case m == nil:
		case n < mailq.All || n >= len(m.rcpts):
			m = nil
		case n == mailq.All:
			o = []mailq.Outcome{{Recipient: mailq.All, Result: mailq.Delivered}}
		case m.rcpts[n].used == 0 && (len(o) == 0 || o[0].Recipient != mailq.All):
			o = append(o, mailq.Outcome{Recipient: n, Result: mailq.Delivered})
		}
	}
	s.mu.Unlock()
	switch {
	case closed:
		return mailq.ErrClosed
	case len(recipients) == 0:
		return &mailq.FieldError{Field: "recipients", Reason: "none named"}
	case m == nil:
		return mailq.ErrNotFound
	case len(o) == 0:
		return nil
	}
	_, err := s.Commit(ctx, mailq.Batch{Edit: []mailq.Edit{{ID: id, Outcomes: o}}})
	if errors.Is(err, mailq.ErrUsed) { // by somebody else just now
		return s.MarkUsed(ctx, id, recipients...)
	}
	return err
}
