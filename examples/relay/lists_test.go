package main

import (
	"os"
	"path/filepath"
	"testing"

	"github.com/mtawal/mtawal/mailq"
)

func TestDamagedListFile(t *testing.T) {
	for _, content := range []string{"nobody: a@b", "a@b: c", "a@b: c@d,", "a@b"} {
		file := filepath.Join(t.TempDir(), "lists")
		if err := os.WriteFile(file, []byte("# lists\n\n"+content+"\n"), 0o600); err != nil {
			t.Fatal(err)
		}
		if _, err := parseFlags([]string{"-lists", file}, t.Output()); err == nil {
			t.Errorf("%q is taken for a list", content)
		} else {
			contains(t, "error", err.Error(), "line 3")
		}
	}
}

// A list is replaced by its members, each once, those of lists in it too.
func TestList(t *testing.T) {
	file := filepath.Join(t.TempDir(), "lists")
	if err := os.WriteFile(file, []byte("team@local.test: bob@local.test, all@local.test\nall@local.test: TEAM@local.test, bob@local.test, carol@far.test\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	hop := &scriptedHop{}
	addr, cfg, store := relayTo(t, hop, "-lists", file)
	send(t, addr, "alice@local.test", "Team@local.test")
	waitEmpty(t, store)
	want(t, "used", store.Stats().Used, mailq.UsedCounts{Delivered: 2, Replaced: 1})
	want(t, "copies at the hop", receivedBy(t, hop), map[string]int{"carol@far.test": 1})
	want(t, "mails in the Maildir", len(readMaildir(t, cfg.maildir)), 1)
}
