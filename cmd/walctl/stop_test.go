//go:build unix

package main

import (
	"bytes"
	"context"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"
)

// stuck is a pipe that takes nothing more: whoever writes to it waits for ever.
func stuck(t *testing.T) *os.File {
	t.Helper()
	var fds [2]int
	if err := syscall.Pipe(fds[:]); err != nil {
		t.Fatal(err)
	}
	if err := syscall.SetNonblock(fds[1], true); err != nil {
		t.Fatal(err)
	}
	for _, size := range []int{4096, 1} {
		for b := make([]byte, size); ; {
			if _, err := syscall.Write(fds[1], b); err != nil {
				break
			}
		}
	}
	if err := syscall.SetNonblock(fds[1], false); err != nil {
		t.Fatal(err)
	}
	r, w := os.NewFile(uintptr(fds[0]), "pipe"), os.NewFile(uintptr(fds[1]), "pipe")
	t.Cleanup(func() { r.Close(); w.Close() })
	return w
}

// child is walctl as a process, in a process group of its own.
func child(t *testing.T, args ...string) (c *exec.Cmd, stderr *bytes.Buffer) {
	t.Helper()
	c, stderr = exec.Command(os.Args[0], args...), new(bytes.Buffer)
	c.Env = append(os.Environ(), verbEnv+"=1")
	c.Stderr = stderr
	c.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	return c, stderr
}

// A signal ends each verb that only looks, whatever it waits for, and a second one those that change something.
func TestSignalsEndEachVerb(t *testing.T) {
	dir := made(t)
	for _, args := range [][]string{{"inspect"}, {"list"}, {"why"}, {"verify"}, {"dump"}, {"compact"}, {"hold", "--queue", "local"}, {"flush", "local"}, {"snapshot", filepath.Join(t.TempDir(), "copy")}} {
		t.Run(args[0], func(t *testing.T) {
			c, stderr := child(t, append([]string{args[0], dir}, args[1:]...)...)
			c.Stdout = stuck(t)
			if err := c.Start(); err != nil {
				t.Fatal(err)
			}
			ended := make(chan error, 1)
			go func() { ended <- c.Wait() }()
			changes := args[0] == "compact" || args[0] == "hold" || args[0] == "flush" || args[0] == "snapshot"
			again := time.NewTicker(100 * time.Millisecond)
			defer again.Stop()
			var err error
			time.Sleep(100 * time.Millisecond)
			for sent := 0; ; sent++ {
				if sent == 0 || changes {
					if err := syscall.Kill(c.Process.Pid, syscall.SIGINT); err != nil {
						t.Fatal(err)
					}
				}
				select {
				case err = <-ended:
				case <-again.C:
					if sent < 300 {
						continue
					}
					_ = c.Process.Kill()
					t.Fatalf("it goes on after the signal: %v, %s", <-ended, stderr)
				}
				break
			}
			if err == nil {
				t.Error("it ended as if nothing had happened")
			}
		})
	}
	if text := fine(t, "verify", dir); text != "ok\n" {
		t.Error(text)
	}
}

// What is interrupted before it began has changed nothing, and says so.
func TestInterruptedBeforeItBegan(t *testing.T) {
	dir := made(t)
	before := contents(t, dir)
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	for _, args := range [][]string{{"compact"}, {"checkpoint"}, {"remove", "--queue", "local"}, {"flush", "local"}, {"queue", "local", "--mode", "hold"}, {"snapshot", filepath.Join(t.TempDir(), "copy")}} {
		var out, errs bytes.Buffer
		root := newRoot()
		root.SetOut(&out)
		root.SetErr(&errs)
		if code := execute(ctx, root, append([]string{args[0], dir}, args[1:]...)); code != exitError || !strings.HasPrefix(errs.String(), "walctl: interrupted") || out.Len() > 0 {
			t.Errorf("%q: exit code %d: %s%s", args, code, out.String(), errs.String())
		}
	}
	untouched(t, dir, before)
}

// An interrupted drill says how far it was, and nobody is left of its process group.
func TestDrillEndsWithASignal(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "store")
	c, stderr := child(t, "drill", "--dir", dir, "--messages", "1000000", "--kills", "0")
	if err := c.Start(); err != nil {
		t.Fatal(err)
	}
	ended := make(chan error, 1)
	go func() { ended <- c.Wait() }()
	for tries := 0; ; tries++ { // until a core has opened its store
		if list, _ := filepath.Glob(filepath.Join(dir, "seg-*")); len(list) > 0 {
			break
		}
		if tries == 3000 {
			_ = syscall.Kill(-c.Process.Pid, syscall.SIGKILL)
			t.Fatalf("no store after 30 s: %v, %s", <-ended, stderr)
		}
		time.Sleep(10 * time.Millisecond)
	}
	if err := syscall.Kill(-c.Process.Pid, syscall.SIGINT); err != nil { // as a terminal does
		t.Fatal(err)
	}
	select {
	case <-ended:
	case <-time.After(time.Minute):
		_ = syscall.Kill(-c.Process.Pid, syscall.SIGKILL)
		t.Fatalf("it goes on: %v", <-ended)
	}
	if code := c.ProcessState.ExitCode(); code != exitError || !strings.Contains(stderr.String(), "walctl: interrupted: wal had accepted ") {
		t.Errorf("exit code %d: %s", code, stderr)
	}
	if err := syscall.Kill(-c.Process.Pid, 0); err != syscall.ESRCH {
		_ = syscall.Kill(-c.Process.Pid, syscall.SIGKILL)
		t.Errorf("somebody is left: %v", err)
	}
}
