package main

import (
	"encoding/json"
	"fmt"
	"strings"
	"unicode"
	"unicode/utf8"

	"github.com/mtawal/mtawal/mailq"
)

// envelope is what the relay has to know of a message beside its recipients.
// The store keeps it as bytes that mean nothing to it.
type envelope struct {
	From string `json:"from"` // "": the null sender, which gets no bounces
	UTF8 bool   `json:"utf8,omitempty"`
}

func (e envelope) encode() ([]byte, error) { return json.Marshal(e) }

func decodeEnvelope(b []byte) (envelope, error) {
	var e envelope
	if err := json.Unmarshal(b, &e); err != nil {
		return envelope{}, fmt.Errorf("decoding the envelope: %w", err)
	}
	return e, nil
}

// Limits of an address in bytes: RFC 5321 section 4.5.3.1, and the name of a
// queue.
const (
	localPartMax = 64
	domainMax    = mailq.QueueNameMax - len(remotePrefix)
)

// splitAddress returns the local part of an address, without quotes, and its
// domain in lower case. ok is false for what has no place in a header, an SMTP
// command or the name of a queue.
func splitAddress(address string) (local, domain string, ok bool) {
	at := strings.LastIndexByte(address, '@')
	if at < 1 || at > localPartMax || len(address)-at-1 > domainMax || at == len(address)-1 {
		return "", "", false
	}
	local, domain = address[:at], strings.ToLower(address[at+1:])
	if !utf8.ValidString(address) || strings.ContainsFunc(address, unicode.IsControl) ||
		strings.ContainsAny(domain, " ()<>,;\"\\@") || len(domain) > domainMax {
		return "", "", false
	}
	return local, domain, true
}

// pathOf writes an address as it stands between angle brackets, with the quotes
// that the server took off. Without them the local part `x> SIZE=1` would
// become a parameter of the command.
func pathOf(address string) string {
	at := strings.LastIndexByte(address, '@')
	if at < 0 {
		return address
	}
	local := address[:at]
	plain := func(r rune) bool {
		return r > 0x7f || unicode.IsLetter(r) || unicode.IsDigit(r) || strings.ContainsRune(".!#$%&'*+-/=?^_`{|}~", r)
	}
	if !strings.ContainsFunc(local, func(r rune) bool { return !plain(r) }) {
		return address
	}
	return `"` + strings.NewReplacer(`\`, `\\`, `"`, `\"`).Replace(local) + `"` + address[at:]
}

func isASCII(s string) bool {
	return !strings.ContainsFunc(s, func(r rune) bool { return r > 0x7f })
}
