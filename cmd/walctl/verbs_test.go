package main

import (
	"bufio"
	"encoding/base64"
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/mtawal/mtawal/segment"
	"github.com/mtawal/mtawal/wal"
)

// secret is in a body, hostile is an address: neither may reach a terminal as it is.
const (
	secret  = "attack at dawn \x1b]0;owned\x07"
	hostile = "eve\x1b[31m@example.org"
)

// opened makes a store with three messages in queues, one delivered and one in doubt, in
// more than one segment.
func opened(t *testing.T, dir string) *wal.Store {
	t.Helper()
	s, err := wal.Open(dir, wal.Options{SegmentSize: segment.SizeMin})
	if err != nil {
		t.Fatal(err)
	}
	enqueue := func(queue, address, body string) {
		t.Helper()
		m := wal.Message{Body: []byte(body), Key: address + body[:1], Recipients: []wal.Recipient{{Queue: queue, Address: address}}}
		if _, err := s.Enqueue(t.Context(), m); err != nil {
			t.Fatal(err)
		}
	}
	settle := func(queue string, o wal.Outcome) {
		t.Helper()
		d, err := s.Claim(t.Context(), queue)
		if err != nil {
			t.Fatal(err)
		}
		if err := d.Settle(t.Context(), []wal.Outcome{o}); err != nil {
			t.Fatal(err)
		}
	}
	enqueue("local", "bob", strings.Repeat("long ", 6000))
	enqueue("smtp:example.org", "ann@example.org", strings.Repeat("more ", 6000))
	enqueue("smtp:example.org", hostile, secret)
	enqueue("done", "carol", "done")
	settle("done", wal.Outcome{Result: wal.Delivered})
	settle("local", wal.Outcome{Result: wal.Uncertain, Note: []byte("broken \x1b[0m")})
	return s
}

// made is such a store, closed.
func made(t *testing.T) string {
	t.Helper()
	dir := filepath.Join(t.TempDir(), "store")
	closeStore(t, opened(t, dir))
	return dir
}

func closeStore(t *testing.T, s *wal.Store) {
	t.Helper()
	if err := s.Close(); err != nil {
		t.Fatal(err)
	}
}

// contents is every plain file in a directory.
func contents(t *testing.T, dir string) map[string]string {
	t.Helper()
	list, err := os.ReadDir(dir)
	if err != nil {
		t.Fatal(err)
	}
	all := make(map[string]string)
	for _, e := range list {
		all[e.Name()] = e.Type().String()
		if e.Type().IsRegular() {
			b, err := os.ReadFile(filepath.Join(dir, e.Name()))
			if err != nil {
				t.Fatal(err)
			}
			all[e.Name()] = string(b)
		}
	}
	return all
}

// untouched fails if a directory is not as it was.
func untouched(t *testing.T, dir string, before map[string]string) {
	t.Helper()
	after := contents(t, dir)
	for name, b := range before {
		if after[name] != b {
			t.Errorf("%s was touched", name)
		}
		delete(after, name)
	}
	for name := range after {
		t.Errorf("%s was made", name)
	}
}

// reading are the verbs that only look.
var reading = [][]string{{"inspect"}, {"inspect", "--json"}, {"verify"}, {"verify", "--json"}, {"dump"}, {"dump", "--json"}, {"dump", "--bodies"}, {"why"}, {"why", "--json"}, {"list"}, {"list", "--json"}}

// fine runs a verb that must succeed, quietly and fit for a terminal.
func fine(t *testing.T, args ...string) string {
	t.Helper()
	stdout, stderr, code := walctl(t, args...)
	if code != exitFine || stderr != "" {
		t.Fatalf("%q: exit code %d: %s%s", args, code, stdout, stderr)
	}
	printable(t, args, stdout)
	return stdout
}

func printable(t *testing.T, args []string, text string) {
	t.Helper()
	if strings.ContainsAny(text, "\x1b\x07\r") {
		t.Errorf("%q: a control character reaches the terminal: %q", args, text)
	}
}

// What there is none of is an empty list for programs.
func TestInspectOfAStoreWithNothingInIt(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "store")
	s, err := wal.Open(dir, wal.Options{})
	if err != nil {
		t.Fatal(err)
	}
	defer closeStore(t, s)
	var in map[string]any
	if err := json.Unmarshal([]byte(fine(t, "inspect", "--json", dir)), &in); err != nil {
		t.Fatal(err)
	}
	for _, name := range []string{"checkpoints", "queues", "segments"} {
		if list, ok := in[name].([]any); !ok || len(list) > 1 {
			t.Errorf("%s is %v", name, in[name])
		}
	}
}

func TestInspect(t *testing.T) {
	dir := made(t)
	text := fine(t, "inspect", dir)
	for _, s := range []string{"Work Queue Length 3", "in doubt 1", "closed", "smtp:example.org", "local", "pending 3, deferred 0, held 0", "enqueued 4 = used 1 (delivered 1,", "+ 3\n", "used and not reclaimed", "the oldest message is 0000", "ckpt-"} {
		if !strings.Contains(text, s) {
			t.Errorf("%q is missing:\n%s", s, text)
		}
	}
	var in wal.Inspection
	if err := json.Unmarshal([]byte(fine(t, "inspect", "--json", dir)), &in); err != nil {
		t.Fatal(err)
	}
	if in.WorkQueueLength != 3 || in.Messages != 3 || in.Enqueued != 4 || in.Used.Delivered != 1 || in.InDoubt != 1 || !in.Clean || len(in.UUID) != 32 ||
		len(in.Checkpoints) == 0 || len(in.Segments) < 2 || in.InFlight != 0 ||
		in.Unaccounted != 0 || in.Pending != 3 || in.OldestPin.ID == 0 {
		t.Errorf("%+v", in)
	}
	var messages int64
	for _, s := range in.Segments {
		if s.Live+s.Dead+s.Free != s.Size || len(s.Why) == 0 || s.Size < segment.SizeMin {
			t.Errorf("%+v does not add up", s)
		}
		messages += s.Messages
	}
	if messages < 3 {
		t.Errorf("%d messages in all segments", messages)
	}
	depth := map[string]int64{}
	for _, q := range in.Queues {
		depth[q.Name] = q.Pending
		if q.Oldest == 0 || q.OldestAt.IsZero() {
			t.Errorf("%+v has no oldest", q)
		}
	}
	if fmt.Sprint(depth) != fmt.Sprint(map[string]int64{"local": 1, "smtp:example.org": 2}) {
		t.Errorf("queues %v", depth)
	}
}

func TestWhy(t *testing.T) {
	dir := made(t)
	text := fine(t, "why", dir)
	for _, s := range []string{"00000001 sealed: ", "message lives in it: 0000", "pending in queue local", "it is being written", "two checkpoints"} {
		if !strings.Contains(text, s) {
			t.Errorf("%q is missing:\n%s", s, text)
		}
	}
	var list []wal.SegmentInfo
	if err := json.Unmarshal([]byte(fine(t, "why", "--json", dir)), &list); err != nil || len(list) < 2 {
		t.Fatalf("%v: %+v", err, list)
	}
	for _, i := range list {
		if len(i.Why) == 0 {
			t.Errorf("%+v", i)
		}
		if one := fine(t, "why", dir, fmt.Sprintf("%08x", i.Number)); !strings.Contains(text, one) {
			t.Errorf("of one:\n%s, of all:\n%s", one, text)
		}
	}
	for _, bad := range []string{"x\x1b[31m", "0", "4711", "seg-"} {
		if _, stderr, code := walctl(t, "why", dir, bad); code != exitError || !strings.Contains(stderr, "walctl: ") {
			t.Errorf("exit code %d: %s", code, stderr)
		} else {
			printable(t, []string{"why", bad}, stderr)
		}
	}
}

// Beside a running owner what only looks works, and touches nothing; what changes
// something says who has the store.
func TestBesideAnOwner(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "store")
	s := opened(t, dir)
	if err := s.Checkpoint(t.Context()); err != nil {
		t.Fatal(err)
	}
	d, err := s.Claim(t.Context(), "smtp:example.org")
	if err != nil {
		t.Fatal(err)
	}
	text := fine(t, "inspect", dir)
	if !strings.Contains(text, "Work Queue Length 3") || !strings.Contains(text, "open, or its owner died") {
		t.Errorf("inspect:\n%s", text)
	}
	for _, verb := range reading {
		fine(t, append(verb, dir)...)
	}
	for _, verb := range []string{"checkpoint", "compact"} {
		stdout, stderr, code := walctl(t, verb, dir)
		if code != exitError || !strings.Contains(stderr, fmt.Sprint(os.Getpid())) || stdout != "" {
			t.Errorf("%s: exit code %d: %s%s", verb, code, stdout, stderr)
		}
	}
	if err := d.SettleAll(t.Context(), wal.Delivered); err != nil {
		t.Errorf("the owner can't go on: %v", err)
	}
	if text := fine(t, "inspect", dir); !strings.Contains(text, "Work Queue Length 2") {
		t.Errorf("after a delivery:\n%s", text)
	}
	closeStore(t, s)
	before := contents(t, dir)
	for _, verb := range reading {
		fine(t, append(verb, dir)...)
	}
	untouched(t, dir, before)
}

func TestVerify(t *testing.T) {
	dir := made(t)
	if text := fine(t, "verify", dir); text != "ok\n" {
		t.Errorf("%q", text)
	}
	var v struct {
		OK       bool          `json:"ok"`
		Findings []wal.Finding `json:"findings"`
	}
	if err := json.Unmarshal([]byte(fine(t, "verify", "--json", dir)), &v); err != nil || !v.OK || v.Findings == nil || len(v.Findings) > 0 {
		t.Errorf("%v: %+v", err, v)
	}
	// A byte of a body that waits.
	name := filepath.Join(dir, segment.Name(1))
	b, err := os.ReadFile(name)
	if err != nil {
		t.Fatal(err)
	}
	b[strings.Index(string(b), "long long")+17] ^= 4
	if err := os.WriteFile(name, b, 0o600); err != nil {
		t.Fatal(err)
	}
	before := contents(t, dir)
	stdout, stderr, code := walctl(t, "list", "--state", "damaged", dir)
	if code != exitFine || stdout != "" || !strings.Contains(stderr, "walctl verify") {
		t.Errorf("list of what is damaged: exit code %d: %s%s", code, stdout, stderr)
	}
	if text := fine(t, "inspect", dir); !strings.Contains(text, "walctl verify") {
		t.Errorf("inspect does not say where to look for damage:\n%s", text)
	}
	stdout, stderr, code = walctl(t, "verify", dir)
	if code != exitFindings || !strings.Contains(stdout, segment.Name(1)) || !strings.Contains(stdout, "checksum") || stderr != "" {
		t.Errorf("exit code %d: %s%s", code, stdout, stderr)
	}
	stdout, _, code = walctl(t, "verify", "--json", dir)
	if err := json.Unmarshal([]byte(stdout), &v); err != nil || code != exitFindings || v.OK || len(v.Findings) == 0 || v.Findings[0].File != segment.Name(1) {
		t.Errorf("exit code %d, %v: %s", code, err, stdout)
	}
	untouched(t, dir, before)
}

func TestDump(t *testing.T) {
	dir := made(t)
	text := fine(t, "dump", dir)
	for _, s := range []string{"enqueue", "settle", "uncertain", "seal", "open", "delivered", `eve\x1b[31m@example.org in smtp:example.org`, `broken \x1b`, "successor 00000002"} {
		if !strings.Contains(text, s) {
			t.Errorf("%q is missing:\n%s", s, text)
		}
	}
	if strings.Contains(text, "attack") || strings.Contains(fine(t, "dump", "--json", dir), base64.StdEncoding.EncodeToString([]byte(secret))) {
		t.Error("bodies are printed, and nobody asked for them")
	}
	if text := fine(t, "dump", "--bodies", dir); !strings.Contains(text, `attack at dawn \x1b]0;owned\a`) {
		t.Errorf("no body:\n%.2000s", text)
	}
	kinds := map[string]int{}
	var body []byte
	lines := bufio.NewScanner(strings.NewReader(fine(t, "dump", "--json", "--bodies", dir)))
	lines.Buffer(nil, 1<<20)
	for lines.Scan() {
		var d struct {
			Kind       string
			Recipients []wal.DumpRecipient
			Body       []byte
		}
		if err := json.Unmarshal(lines.Bytes(), &d); err != nil {
			t.Fatalf("%v: %.200s", err, lines.Text())
		}
		kinds[d.Kind]++
		if slices.ContainsFunc(d.Recipients, func(r wal.DumpRecipient) bool { return r.Address == hostile }) {
			body = d.Body
		}
	}
	if lines.Err() != nil || kinds["enqueue"] != 4 || kinds["settle"] != 2 || string(body) != secret {
		t.Errorf("%v, %v, body %q", lines.Err(), kinds, body)
	}
}

func TestCheckpointAndCompact(t *testing.T) {
	dir := made(t)
	s, err := wal.Open(dir, wal.Options{SegmentSize: segment.SizeMin})
	if err != nil {
		t.Fatal(err)
	}
	for queue, n := range map[string]int{"local": 1, "smtp:example.org": 2} {
		for range n {
			d, err := s.Claim(t.Context(), queue)
			if err != nil {
				t.Fatal(err)
			}
			if err := d.SettleAll(t.Context(), wal.Delivered); err != nil {
				t.Fatal(err)
			}
		}
	}
	closeStore(t, s)
	checkpoints := func() string { return fmt.Sprint(filepath.Glob(filepath.Join(dir, "ckpt-*"))) }
	before := checkpoints()
	if text := fine(t, "checkpoint", dir); text != "" {
		t.Errorf("checkpoint says %q", text)
	}
	if checkpoints() == before {
		t.Errorf("no other checkpoints than before: %s", before)
	}
	if text := fine(t, "compact", dir); !strings.Contains(text, "segments") || !strings.Contains(text, "dead bytes") {
		t.Errorf("compact says %q", text)
	}
	if _, err := os.Stat(filepath.Join(dir, segment.Name(1))); err == nil {
		t.Error("a dead segment is still there")
	}
	if text := fine(t, "verify", dir); text != "ok\n" {
		t.Errorf("%q", text)
	}
	if text := fine(t, "inspect", dir); !strings.Contains(text, "Work Queue Length 0") {
		t.Errorf("inspect:\n%s", text)
	}
}
