package main

import (
	"errors"
	"fmt"
	"strings"

	"github.com/emersion/go-smtp"

	"github.com/mtawal/mtawal/mailq"
)

func smtpError(code int, enhanced smtp.EnhancedCode, format string, args ...any) *smtp.SMTPError {
	return &smtp.SMTPError{Code: code, EnhancedCode: enhanced, Message: fmt.Sprintf(format, args...)}
}

// storeReply is what a client is told when the store did not take its mail. It
// promises nothing that the store doesn't: a 4xx where a retry may succeed, a
// 5xx where none can.
func storeReply(err error) *smtp.SMTPError {
	switch {
	case errors.Is(err, mailq.ErrUnknown):
		// It may be in the store. The client has to assume that it is not.
		return smtpError(451, smtp.EnhancedCode{4, 3, 0}, "outcome unknown, try again")
	case errors.Is(err, mailq.ErrFull):
		return smtpError(452, smtp.EnhancedCode{4, 3, 1}, "insufficient storage, try again later")
	case errors.Is(err, mailq.ErrClosed):
		return smtpError(421, smtp.EnhancedCode{4, 3, 2}, "shutting down, try again later")
	case errors.Is(err, mailq.ErrFailed):
		return smtpError(421, smtp.EnhancedCode{4, 3, 0}, "storage failed, try again later")
	case errors.Is(err, mailq.ErrTooLarge):
		return smtpError(552, smtp.EnhancedCode{5, 3, 4}, "too large: %s", oneLine(err.Error(), 200))
	case errors.Is(err, mailq.ErrInvalid):
		return smtpError(554, smtp.EnhancedCode{5, 6, 0}, "not acceptable: %s", oneLine(err.Error(), 200))
	}
	return smtpError(451, smtp.EnhancedCode{4, 3, 0}, "local error, try again later")
}

// replyText is a reply on one line, as notes and bounces quote it.
func replyText(e *smtp.SMTPError) string {
	text := oneLine(e.Message, replyMax)
	if e.EnhancedCode == smtp.EnhancedCodeNotSet || e.EnhancedCode == smtp.NoEnhancedCode {
		return fmt.Sprintf("%d %s", e.Code, text)
	}
	return fmt.Sprintf("%d %s %s", e.Code, enhancedText(e.EnhancedCode), text)
}

func enhancedText(c smtp.EnhancedCode) string { return fmt.Sprintf("%d.%d.%d", c[0], c[1], c[2]) }

// replyMax is how much of the text of a reply is kept, in bytes: with the codes
// before it, it fits a note and a header line.
const replyMax = 500

// oneLine makes text of strangers fit for one line of a header: printable ASCII
// and at most n bytes.
func oneLine(s string, n int) string {
	s = strings.Map(func(r rune) rune {
		if r < ' ' || r == 0x7f {
			return ' '
		}
		if r > 0x7f {
			return '?'
		}
		return r
	}, s)
	return strings.TrimSpace(s[:min(len(s), n)])
}
