package wal

import (
	"fmt"
	"slices"
	"unicode"
	"unicode/utf8"

	"github.com/mtawal/mtawal/mailq"
	"github.com/mtawal/mtawal/segment"
)

// check refuses what is wrong with a batch whatever the state of the store is.
func (s *Store) check(t *ticket) error {
	if len(t.settle) == 0 && len(t.enqueue) == 0 && len(t.edit) == 0 && t.chunk == nil && t.queue == nil && len(t.moves) == 0 {
		return &mailq.FieldError{Field: "Batch", Reason: "is empty"}
	}
	if len(t.enqueue) > 0 {
		if err := s.opt.owned(); err != nil {
			return err
		}
	}
	for i := range t.enqueue {
		if err := s.checkMessage(&t.enqueue[i]); err != nil {
			return inBatch(t, "Enqueue", i, err)
		}
	}
	for i := range t.settle {
		d := &t.settle[i]
		if d.Delivery == nil {
			return inBatch(t, "Settle", i, &mailq.FieldError{Field: "Delivery", Reason: "is nil"})
		}
		if c, ok := d.Delivery.Claim().(*claim); !ok || c.s != s {
			return inBatch(t, "Settle", i, &mailq.FieldError{Field: "Delivery", Reason: "is not of this store"})
		}
		if err := s.checkOutcomes(d.Outcomes); err != nil {
			return inBatch(t, "Settle", i, err)
		}
		t.replaces = t.replaces || slices.ContainsFunc(d.Outcomes, replaces)
	}
	for i := range t.edit {
		if t.edit[i].ID == 0 {
			return inBatch(t, "Edit", i, &mailq.FieldError{Field: "ID", Reason: "is 0"})
		}
		if err := s.checkOutcomes(t.edit[i].Outcomes); err != nil {
			return inBatch(t, "Edit", i, err)
		}
		t.replaces = t.replaces || slices.ContainsFunc(t.edit[i].Outcomes, replaces)
	}
	return nil
}

func replaces(o Outcome) bool { return o.Result == Replaced }

// inBatch says where in a batch of several things the wrong one is.
func inBatch(t *ticket, list string, i int, err error) error {
	if len(t.enqueue)+len(t.settle)+len(t.edit) == 1 {
		return err
	}
	return fmt.Errorf("%s[%d]: %w", list, i, err)
}

func tooLarge(field string, n, most int) error {
	return &mailq.LimitError{Field: field, Size: int64(n), Max: int64(most)}
}

func (s *Store) checkMessage(m *Message) error {
	switch {
	case m.Body != nil && m.Staged != nil:
		return &mailq.FieldError{Field: "Body", Reason: "is set, and so is Staged"}
	case int64(len(m.Body)) > s.opt.MaxMessage:
		return &mailq.LimitError{Field: "Body", Size: int64(len(m.Body)), Max: s.opt.MaxMessage}
	case len(m.Envelope) > mailq.EnvelopeMax:
		return tooLarge("Envelope", len(m.Envelope), mailq.EnvelopeMax)
	case len(m.Key) > mailq.KeyMax:
		return tooLarge("Key", len(m.Key), mailq.KeyMax)
	}
	if m.Staged != nil {
		if st, ok := m.Staged.(*stream); !ok || st.s != s {
			return &mailq.FieldError{Field: "Staged", Reason: "was not staged in this store"}
		}
	}
	return s.checkRecipients("Recipients", m.Recipients)
}

func (s *Store) checkRecipients(field string, list []Recipient) error {
	if len(list) == 0 {
		return &mailq.FieldError{Field: field, Reason: "names nobody"}
	}
	if len(list) > s.opt.MaxRecipients {
		return tooLarge(field, len(list), s.opt.MaxRecipients)
	}
	last := ""
	for i := range list {
		r := &list[i]
		if i == 0 || r.Queue != last {
			if err := checkQueue(r.Queue); err != nil {
				return inField(fmt.Sprintf("%s[%d].Queue", field, i), err)
			}
			last = r.Queue
		}
		if len(r.Address) > mailq.AddressMax {
			return tooLarge(fmt.Sprintf("%s[%d].Address", field, i), len(r.Address), mailq.AddressMax)
		}
		if len(r.Note) > mailq.NoteMax {
			return tooLarge(fmt.Sprintf("%s[%d].Note", field, i), len(r.Note), mailq.NoteMax)
		}
	}
	return nil
}

// inField puts the name of a field into an error of checkQueue.
func inField(name string, err error) error {
	switch e := err.(type) {
	case *mailq.LimitError:
		return &mailq.LimitError{Field: name, Size: e.Size, Max: e.Max}
	case *mailq.FieldError:
		return &mailq.FieldError{Field: name, Reason: e.Reason}
	}
	return err
}

// checkQueue refuses names that no store should have to print. A name is never a
// path: what it contains beside control characters does not matter.
func checkQueue(name string) error {
	switch {
	case name == "":
		return &mailq.FieldError{Field: "Queue", Reason: "is empty"}
	case len(name) > mailq.QueueNameMax:
		return tooLarge("Queue", len(name), mailq.QueueNameMax)
	}
	for i := range len(name) {
		if c := name[i]; c < ' ' || c >= 0x7f {
			return checkQueueSlow(name)
		}
	}
	return nil
}

func checkQueueSlow(name string) error {
	if !utf8.ValidString(name) {
		return &mailq.FieldError{Field: "Queue", Reason: "is not UTF-8"}
	}
	for _, r := range name {
		if unicode.IsControl(r) {
			return &mailq.FieldError{Field: "Queue", Reason: fmt.Sprintf("has the control character %U", r)}
		}
	}
	return nil
}

func (s *Store) checkOutcomes(list []Outcome) error {
	if len(list) == 0 {
		return &mailq.FieldError{Field: "Outcomes", Reason: "names nobody"}
	}
	if len(list) > segment.RecipientsMax {
		return tooLarge("Outcomes", len(list), segment.RecipientsMax)
	}
	for i := range list {
		o := &list[i]
		field := func(name string) string { return fmt.Sprintf("Outcomes[%d].%s", i, name) }
		switch {
		case o.Result < Delivered || o.Result > Released:
			return &mailq.FieldError{Field: field("Result"), Reason: "is none"}
		case o.Recipient < 0 && o.Recipient != All:
			return &mailq.FieldError{Field: field("Recipient"), Reason: "is negative"}
		case o.Result == Deferred && o.Until.IsZero():
			// Due at once, it would be a loop of commits.
			return &mailq.FieldError{Field: field("Until"), Reason: "is not set"}
		case len(o.Note) > mailq.NoteMax:
			return tooLarge(field("Note"), len(o.Note), mailq.NoteMax)
		case o.Result == Replaced:
			if err := s.checkRecipients(field("Replace"), o.Replace); err != nil {
				return err
			}
		case len(o.Replace) > 0:
			return &mailq.FieldError{Field: field("Replace"), Reason: "goes with Replaced only"}
		}
	}
	return nil
}
