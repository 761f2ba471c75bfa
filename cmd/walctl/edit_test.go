package main

import (
	"bufio"
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/mtawal/mtawal/segment"
	"github.com/mtawal/mtawal/wal"
)

// listedBy is what list --json shows, by address.
func listedBy(t *testing.T, args ...string) map[string]entryFields {
	t.Helper()
	got := map[string]entryFields{}
	lines := bufio.NewScanner(strings.NewReader(fine(t, append([]string{"list", "--json"}, args...)...)))
	for lines.Scan() {
		var e entryFields
		if err := json.Unmarshal(lines.Bytes(), &e); err != nil {
			t.Fatalf("%v: %s", err, lines.Text())
		}
		got[e.Address] = e
	}
	return got
}

type entryFields struct {
	ID        wal.ID
	Recipient int
	Queue     string
	Address   string
	State     wal.State
	InDoubt   bool `json:"in_doubt"`
	Size      int64
	Attempts  int
	Note      string
	Error     string
}

func TestList(t *testing.T) {
	dir := made(t)
	text := fine(t, "list", dir)
	lines := strings.Split(strings.TrimSpace(text), "\n")
	if len(lines) != 3 {
		t.Errorf("%d lines:\n%s", len(lines), text)
	}
	for i, s := range []string{"local  bob", "smtp:example.org  ann@example.org", `smtp:example.org  eve\x1b[31m@example.org`} {
		if i < len(lines) && !strings.Contains(lines[i], s) {
			t.Errorf("%q is missing in %q: the oldest comes first", s, lines[i])
		}
	}
	if !strings.Contains(lines[0], `29.3 KiB`) || !strings.Contains(lines[0], `attempts 1  in doubt  broken \x1b[0m`) {
		t.Errorf("%q", lines[0])
	}
	all := listedBy(t, dir)
	if e := all["bob"]; len(all) != 3 || !e.InDoubt || e.Size != 30000 || e.Note != "broken \x1b[0m" || e.Attempts != 1 || e.Queue != "local" || e.Error != "" {
		t.Errorf("%+v", all)
	}
	for _, tt := range []struct {
		args []string
		want int
	}{
		{[]string{"--queue", "smtp:example.org"}, 2},
		{[]string{"--queue", "smtp"}, 0},
		{[]string{"--prefix", "smtp"}, 2},
		{[]string{"--in-doubt"}, 1},
		{[]string{"--state", "pending"}, 3},
		{[]string{"--state", "held"}, 0},
		{[]string{"--limit", "2"}, 2},
		{[]string{"--id", all["bob"].ID.String()}, 1},
		{[]string{"--id", "00000000ffffffff"}, 0},
	} {
		if got := listedBy(t, append(tt.args, dir)...); len(got) != tt.want {
			t.Errorf("%q lists %v, want %d", tt.args, got, tt.want)
		}
	}
	for _, args := range [][]string{{"--id", "7"}, {"--state", "x\x1b[31m"}, {"--limit", "-3"}} {
		stdout, stderr, code := walctl(t, append(append([]string{"list"}, args...), dir)...)
		if code != exitError || stdout != "" || args[0] == "--state" && !strings.Contains(stderr, "it is pending, deferred or held") {
			t.Errorf("%q: exit code %d: %s%s", args, code, stdout, stderr)
		}
		printable(t, args, stderr)
	}
}

// What is damaged is listed, with what is wrong with it, and can be removed.
func TestListDamaged(t *testing.T) {
	dir := made(t)
	id := listedBy(t, dir)["ann@example.org"].ID
	in, err := wal.Inspect(dir, wal.Options{})
	if err != nil {
		t.Fatal(err)
	}
	for _, s := range in.Segments { // its address stands in its record
		name := filepath.Join(dir, segment.Name(s.Number))
		b, err := os.ReadFile(name)
		if err != nil {
			t.Fatal(err)
		}
		if i := strings.Index(string(b), "ann@example.org"); i > 0 {
			b[i] ^= 1
			if err := os.WriteFile(name, b, 0o600); err != nil {
				t.Fatal(err)
			}
		}
	}
	found := false
	for _, e := range listedBy(t, dir) {
		found = found || e.ID == id && strings.Contains(e.Error, "checksum")
	}
	if text := fine(t, "list", dir); !found || !strings.Contains(text, "UNREADABLE") {
		t.Errorf("%s", text)
	}
	fine(t, "remove", dir, id.String())
	if all := listedBy(t, dir); len(all) != 2 {
		t.Errorf("%+v", all)
	}
}

func TestHoldReleaseRemove(t *testing.T) {
	dir := made(t)
	all := listedBy(t, dir)
	bob, ann, eve := all["bob"].ID.String(), all["ann@example.org"].ID.String(), all[hostile].ID.String()
	states := func(want string) {
		t.Helper()
		var got []string
		all := listedBy(t, dir)
		for _, a := range []string{"bob", "ann@example.org", hostile} {
			if e, ok := all[a]; ok {
				got = append(got, e.State.String())
			} else {
				got = append(got, "-")
			}
		}
		if fmt.Sprint(got) != want {
			t.Errorf("they are %v, want %s", got, want)
		}
	}
	says := func(want string, code int, args ...string) {
		t.Helper()
		stdout, stderr, got := walctl(t, args...)
		if got != code || stdout != want || stderr != "" {
			t.Errorf("%q: exit code %d, %q %q, want %d, %q", args, got, stdout, stderr, code, want)
		}
	}
	says("held 1 recipients of 1 messages\n", exitFine, "hold", dir, bob)
	states("[held pending pending]")
	says("held 2 recipients of 2 messages\n", exitFine, "hold", dir, "--queue", "smtp:example.org")
	states("[held held held]")
	says("released 1 recipients of 1 messages\n", exitFine, "release", dir, ann)
	says(ann+": nothing to be released\nreleased 1 recipients of 1 messages\n", exitFindings, "release", dir, ann, bob)
	states("[pending pending held]")
	const none = "there is no queue nobody: nothing waits there; inspect shows those that there are\n"
	for _, verb := range []string{"hold", "release", "remove"} {
		says(none, exitFindings, verb, dir, "--queue", "nobody")
		says(none, exitFindings, verb, dir, "--queue", "nobody", eve)
	}
	says("released 0 recipients of 0 messages\n", exitFine, "release", dir, "--queue", "local")
	says(bob+": nothing to be removed\nremoved 1 recipients of 1 messages\n", exitFindings, "remove", dir, bob, ann, "--queue", "smtp:example.org")
	states("[pending - held]")
	says("released 1 recipients of 1 messages\n", exitFine, "release", dir, "--queue", "smtp:example.org")
	states("[pending - pending]")
	var done edited
	if err := json.Unmarshal([]byte(fine(t, "remove", "--json", dir, eve, bob)), &done); err != nil || done.Recipients != 2 || done.Messages != 2 || done.NotFound == nil {
		t.Errorf("%+v, %v", done, err)
	}
	if text := fine(t, "inspect", dir); !strings.Contains(text, "Work Queue Length 0") || !strings.Contains(text, "removed 3") {
		t.Error(text)
	}
	if text := fine(t, "verify", dir); text != "ok\n" {
		t.Error(text)
	}
	for _, args := range [][]string{{"remove", dir}, {"remove", dir, "x\x1b[31m"}, {"hold"}, {"hold", filepath.Join(dir, "none"), bob}} {
		stdout, stderr, code := walctl(t, args...)
		if code != exitError || stderr == "" || stdout != "" {
			t.Errorf("%q: exit code %d: %s%s", args, code, stdout, stderr)
		}
		printable(t, args, stderr)
	}
}

// More messages than one commit takes, each with recipients elsewhere.
func TestRemoveMany(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "store")
	s, err := wal.Open(dir, wal.Options{SegmentSize: 1 << 20})
	if err != nil {
		t.Fatal(err)
	}
	const n = 2*editMax + 17
	for range n {
		m := wal.Message{Recipients: []wal.Recipient{{Queue: "q", Address: "a"}, {Queue: "r", Address: "b"}, {Queue: "q", Address: "c"}}}
		if _, err := s.Enqueue(t.Context(), m); err != nil {
			t.Fatal(err)
		}
	}
	closeStore(t, s)
	if text := fine(t, "remove", dir, "--queue", "q"); text != fmt.Sprintf("removed %d recipients of %d messages\n", 2*n, n) {
		t.Error(text)
	}
	if text := fine(t, "inspect", dir); !strings.Contains(text, fmt.Sprintf("Work Queue Length %d:", n)) || !strings.Contains(text, fmt.Sprintf("removed %d", 2*n)) {
		t.Error(text)
	}
	list, err := filepath.Glob(filepath.Join(dir, "seg-*"))
	if err != nil {
		t.Fatal(err)
	}
	for _, name := range list {
		if i, err := os.Stat(name); err != nil || i.Size() != 1<<20 {
			t.Errorf("%s: %v, %v: the size of segments is to stay", name, i, err)
		}
	}
}

func TestQueueAndFlush(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "store")
	s := opened(t, dir)
	d, err := s.Claim(t.Context(), "smtp:example.org")
	if err != nil {
		t.Fatal(err)
	}
	if err := d.Settle(t.Context(), []wal.Outcome{{Recipient: wal.All, Result: wal.Deferred, Until: time.Now()}}); err != nil {
		t.Fatal(err)
	}
	d, err = s.Claim(t.Context(), "smtp:example.org")
	if err != nil {
		t.Fatal(err)
	}
	later := wal.Outcome{Recipient: wal.All, Result: wal.Deferred, Until: time.Now().Add(time.Hour)}
	if err := d.Settle(t.Context(), []wal.Outcome{later}); err != nil {
		t.Fatal(err)
	}
	closeStore(t, s)
	if n := len(listedBy(t, "--state", "deferred", dir)); n != 1 {
		t.Errorf("%d deferred", n)
	}
	if text := fine(t, "list", "--state", "deferred", dir); !strings.Contains(text, "  until 20") {
		t.Error(text)
	}
	if text := fine(t, "flush", dir, "smtp:example.org"); text != "flushed 1 recipients in queue smtp:example.org\n" {
		t.Error(text)
	}
	if n := len(listedBy(t, "--state", "deferred", dir)); n != 0 {
		t.Errorf("after the flush %d deferred", n)
	}
	// Nothing to do, in a queue that there is and in one that there is not: nothing is written about it.
	if text := fine(t, "flush", dir, "smtp:example.org"); text != "flushed 0 recipients in queue smtp:example.org\n" {
		t.Error(text)
	}
	if stdout, stderr, code := walctl(t, "flush", dir, "smtp:example.ogr"); code != exitFindings || !strings.Contains(stdout, "there is no queue smtp:example.ogr") || stderr != "" {
		t.Errorf("exit code %d: %s%s", code, stdout, stderr)
	}
	if text := fine(t, "dump", dir); strings.Count(text, " flush ") != 1 {
		t.Errorf("of one flush that had something to do there is\n%s", text)
	}
	says := func(want string, args ...string) {
		t.Helper()
		if text := fine(t, append([]string{"queue", dir}, args...)...); text != want {
			t.Errorf("%q says %q, want %q", args, text, want)
		}
	}
	says("queue smtp:example.org has mode hold, and doubt redeliver\n", "smtp:example.org", "--mode", "hold")
	says("queue smtp:example.org has mode hold, and doubt defer by 1m0s\n", "smtp:example.org", "--doubt", "defer", "--delay", "1m")
	says("queue new is new: nothing waits there yet. It has mode suspend, and doubt redeliver\n", "new", "--mode", "suspend")
	says("queue new has mode suspend, and doubt hold\n", "new", "--doubt", "hold")
	in, err := wal.Inspect(dir, wal.Options{})
	if err != nil {
		t.Fatal(err)
	}
	for _, q := range in.Queues {
		if q.Name == "smtp:example.org" && (q.State.Mode != wal.HoldQueue || q.State.Doubt != wal.DeferDoubt || q.State.DoubtDelay != time.Minute) {
			t.Errorf("%+v", q)
		}
	}
	if text := fine(t, "inspect", dir); !strings.Contains(text, "smtp:example.org (hold, doubt: defer by 1m0s)") || !strings.Contains(text, "new (suspend, doubt: hold)") {
		t.Error(text)
	}
	const asText = `"mode":"hold","doubt":"defer","doubt_delay":"1m0s"`
	for _, verb := range []string{"inspect", "dump"} {
		if text := fine(t, verb, "--json", dir); !strings.Contains(strings.Join(strings.Fields(text), ""), asText) {
			t.Errorf("%s --json has no %s:\n%s", verb, asText, text)
		}
	}
	if text := fine(t, "dump", dir); !strings.Contains(text, " mode hold doubt defer delay 1m0s") {
		t.Error(text)
	}
	fine(t, "queue", dir, "smtp:example.org", "--mode", "active")
	if text := fine(t, "inspect", dir); strings.Contains(text, "(hold)") {
		t.Error(text)
	}
	for _, args := range [][]string{{"queue", dir, "q"}, {"queue", dir, "q", "--mode", "x\x1b[31m"}, {"queue", dir, "q", "--doubt", "x"}, {"queue", dir, "x\x1b[31m", "--mode", "hold"}, {"flush", dir, ""}} {
		stdout, stderr, code := walctl(t, args...)
		if code != exitError || stderr == "" {
			t.Errorf("%q: exit code %d: %s%s", args, code, stdout, stderr)
		}
		printable(t, args, stderr)
	}
}

// Beside a running owner what changes something refuses, says who has the store, and does nothing.
func TestEditBesideAnOwner(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "store")
	s := opened(t, dir)
	id := listedBy(t, dir)["bob"].ID.String()
	for _, args := range [][]string{{"hold", dir, id}, {"release", dir, id}, {"remove", dir, id}, {"remove", dir, "--queue", "local"}, {"flush", dir, "local"},
		{"queue", dir, "local", "--mode", "hold"}, {"checkpoint", dir}, {"compact", dir}} {
		stdout, stderr, code := walctl(t, args...)
		if code != exitError || stdout != "" || !strings.Contains(stderr, fmt.Sprintf("process %d", os.Getpid())) || !strings.Contains(stderr, "nothing was done") {
			t.Errorf("%q: exit code %d: %s%s", args, code, stdout, stderr)
		}
	}
	if st := s.Stats(); st.WorkQueueLength != 3 || st.Held != 0 {
		t.Errorf("%+v", st)
	}
	closeStore(t, s)
}
