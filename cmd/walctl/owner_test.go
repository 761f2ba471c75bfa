package main

import (
	"bufio"
	"context"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"github.com/mtawal/mtawal/mailq"
	"github.com/mtawal/mtawal/segment"
	"github.com/mtawal/mtawal/wal"
)

// Environment of child processes that are this test's binary: one has the owner of a store there run, the other walctl.
const (
	ownerEnv = "WALCTL_TEST_OWNER"
	verbEnv  = "WALCTL_TEST_VERB"
)

// ownerOptions are not the default ones in all that walctl is to leave to the owner.
func ownerOptions() wal.Options {
	return wal.Options{SegmentSize: segment.SizeMin, Doubt: mailq.HoldDoubt, Scrub: true}
}

// own is an owner that has one message out for delivery, and one waiting, until it is killed.
func own(dir string) error {
	s, err := wal.Open(dir, ownerOptions())
	if err != nil {
		return err
	}
	ctx := context.Background()
	for _, q := range []string{"out", "waiting"} {
		if _, err := s.Enqueue(ctx, wal.Message{Body: []byte(q), Recipients: []wal.Recipient{{Queue: q, Address: q}}}); err != nil {
			return err
		}
	}
	if _, err := s.Claim(ctx, "out"); err != nil {
		return err
	}
	fmt.Println("ready")
	select {}
}

// killed is a store whose owner was killed so.
func killed(t *testing.T) string {
	t.Helper()
	dir := filepath.Join(t.TempDir(), "store")
	c := exec.Command(os.Args[0])
	c.Env = append(os.Environ(), ownerEnv+"="+dir)
	c.Stderr = os.Stderr
	out, err := c.StdoutPipe()
	if err == nil {
		err = c.Start()
	}
	if err != nil {
		t.Fatal(err)
	}
	line, err := bufio.NewReader(out).ReadString('\n')
	if line != "ready\n" {
		t.Errorf("the owner says %q, %v", line, err)
	}
	_ = c.Process.Kill()
	_ = c.Wait()
	return dir
}

// What was being delivered when the owner was killed is decided by the owner's policy, whatever walctl did meanwhile.
func TestDoubtIsLeftToTheOwner(t *testing.T) {
	for _, args := range [][]string{nil, {"checkpoint"}, {"compact"}, {"hold", "--queue", "waiting"}, {"release", "--queue", "out"}, {"remove", "--queue", "waiting"},
		{"flush", "out"}, {"queue", "out", "--mode", "suspend"}, {"snapshot", filepath.Join(t.TempDir(), "copy")}} {
		t.Run(fmt.Sprint(args), func(t *testing.T) {
			dir := killed(t)
			for range 2 {
				if args != nil {
					if _, stderr, code := walctl(t, append([]string{args[0], dir}, args[1:]...)...); code == exitError && args[0] != "snapshot" {
						t.Fatal(stderr)
					}
				}
			}
			if e := listedBy(t, dir)["out"]; !e.InDoubt || e.State != mailq.Pending {
				t.Errorf("before the owner came back it is listed as %+v", e)
			}
			s, err := wal.Open(dir, ownerOptions())
			if err != nil {
				t.Fatal(err)
			}
			closeStore(t, s)
			all := listedBy(t, dir)
			if e := all["out"]; !e.InDoubt || e.State != mailq.OnHold || e.Attempts != 1 {
				t.Errorf("the owner finds %+v", e)
			}
			if all["waiting"].InDoubt {
				t.Errorf("what nobody had claimed is in doubt: %+v", all)
			}
		})
	}
}

// What walctl finds dead it writes over with zeros, as the owner may have promised.
func TestCompactScrubs(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "store")
	o := ownerOptions()
	o.SegmentSize = 1 << 20
	s, err := wal.Open(dir, o)
	if err != nil {
		t.Fatal(err)
	}
	// It stays, and holds the segment until that is emptied.
	if _, err := s.Enqueue(t.Context(), wal.Message{Body: []byte("harmless"), Recipients: []wal.Recipient{{Queue: "q", Address: "a"}}}); err != nil {
		t.Fatal(err)
	}
	const text = "what nobody else is to read"
	var used wal.Batch
	post := func(body string) {
		t.Helper()
		id, err := s.Enqueue(t.Context(), wal.Message{Body: []byte(body), Recipients: []wal.Recipient{{Queue: "q", Address: "a"}}})
		if err != nil {
			t.Fatal(err)
		}
		used.Edit = append(used.Edit, wal.Edit{ID: id, Outcomes: []wal.Outcome{{Recipient: wal.All, Result: wal.Delivered}}})
	}
	for range 20 {
		post(strings.Repeat(text, 1600))
	}
	for range 12 { // the last segment holds none of it
		post(strings.Repeat("harmless ", 3000))
	}
	if _, err := s.Commit(t.Context(), used); err != nil {
		t.Fatal(err)
	}
	closeStore(t, s)
	holding := func() (list []string) {
		for name, b := range contents(t, dir) {
			if strings.Contains(b, text) {
				list = append(list, name)
			}
		}
		return list
	}
	if len(holding()) == 0 {
		t.Error("no file holds a body, before anything is given back")
	}
	fine(t, "compact", dir)
	if list := holding(); len(list) > 0 {
		t.Errorf("bodies are in %v", list)
	}
}
