package main

import (
	"strings"
	"testing"

	"github.com/mtawal/mtawal/mailq"
)

func TestSplitAddress(t *testing.T) {
	for _, tt := range []struct {
		in, local, domain string
		ok                bool
	}{
		{"a@B.Example", "a", "b.example", true},
		{"a b@c", "a b", "c", true},
		{"a@b@c", "a@b", "c", true},
		{"grün@bücher.example", "grün", "bücher.example", true},
		{"a@[127.0.0.1]", "a", "[127.0.0.1]", true},
		{"a", "", "", false},
		{"@b", "", "", false},
		{"a@", "", "", false},
		{"a\r\nRCPT@b", "", "", false},
		{"a@b\x00", "", "", false},
		{"a@b(c)", "", "", false},
		{"a@\xff", "", "", false},
		{strings.Repeat("a", localPartMax) + "@b", strings.Repeat("a", localPartMax), "b", true},
		{strings.Repeat("a", localPartMax+1) + "@b", "", "", false},
		{"a@" + strings.Repeat("b", domainMax), "a", strings.Repeat("b", domainMax), true},
		{"a@" + strings.Repeat("b", domainMax+1), "", "", false},
		// Lower case is longer than upper case here.
		{"a@" + strings.Repeat("Ⱥ", domainMax/2), "", "", false},
	} {
		local, domain, ok := splitAddress(tt.in)
		if local != tt.local || domain != tt.domain || ok != tt.ok {
			t.Errorf("splitAddress(%q) = %q, %q, %v", tt.in, local, domain, ok)
		}
		if queue := (config{}).queueFor(tt.in, domain); ok && len(queue) > mailq.QueueNameMax {
			t.Errorf("%q: a queue name of %d bytes", tt.in, len(queue))
		}
	}
}

func TestPathOfQuotesWhatTheServerUnquoted(t *testing.T) {
	for in, want := range map[string]string{
		"a.b+c@d":     "a.b+c@d",
		"grün@d":      "grün@d",
		"a b@d":       `"a b"@d`,
		"x> SIZE=1@d": `"x> SIZE=1"@d`,
		`q"u\o@d`:     `"q\"u\\o"@d`,
		"a@b@d":       `"a@b"@d`,
		"":            "",
	} {
		if got := pathOf(in); got != want {
			t.Errorf("pathOf(%q) = %q, want %q", in, got, want)
		}
	}
}
