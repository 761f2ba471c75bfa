package main

import (
	"errors"
	"fmt"
	"strings"
	"testing"

	"github.com/emersion/go-smtp"

	"github.com/mtawal/mtawal/mailq"
)

func TestStoreReply(t *testing.T) {
	for _, tt := range []struct {
		err  error
		want string
	}{
		{&mailq.FullError{Reason: "disk"}, "452 4.3.1"},
		{mailq.ErrClosed, "421 4.3.2"},
		{fmt.Errorf("%w: sync: input/output error", mailq.ErrFailed), "421 4.3.0"},
		{&mailq.LimitError{Field: "Body", Size: 2, Max: 1}, "552 5.3.4"},
		{&mailq.FieldError{Field: "Recipients", Reason: "none"}, "554 5.6.0"},
		{mailq.ErrUnknown, "451 4.3.0"},
		{fmt.Errorf("enqueue: %w", mailq.ErrFull), "452 4.3.1"},
		// It may be there: neither a refusal nor a promise is true.
		{errors.Join(mailq.ErrUnknown, mailq.ErrInvalid), "451 4.3.0"},
		{errors.New("never heard of"), "451 4.3.0"},
	} {
		if got := replyText(storeReply(tt.err)); !strings.HasPrefix(got, tt.want+" ") {
			t.Errorf("%v: reply %q, want %s", tt.err, got, tt.want)
		}
	}
}

func TestReplyTextIsOneLine(t *testing.T) {
	long := strings.Repeat("x", 2000)
	for _, tt := range []struct {
		reply *smtp.SMTPError
		want  string
	}{
		{smtpError(550, smtp.EnhancedCode{5, 1, 1}, "no such user"), "550 5.1.1 no such user"},
		{smtpError(450, smtp.EnhancedCodeNotSet, "busy\ntry\r\nlater\x00"), "450 busy try  later"},
		{smtpError(550, smtp.EnhancedCode{5, 1, 1}, "nö %s", long), "550 5.1.1 n? " + long[:replyMax-3]},
	} {
		got := replyText(tt.reply)
		if got != tt.want {
			t.Errorf("replyText(%v) = %q, want %q", tt.reply, got, tt.want)
		}
		if len(got) > mailq.NoteMax {
			t.Errorf("reply of %d bytes does not fit a note", len(got))
		}
	}
}
