//go:build unix

package cases

import (
	"bufio"
	"errors"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"

	"github.com/mtawal/mtawal/wal"
)

// A second process, or a second Open, is refused at once and writes nothing; that the owner was killed is
// no obstacle, and what it had under way is in doubt.
func TestCase27_SecondOwner(t *testing.T) {
	dir := closedStore(t)
	owner := exec.Command(os.Args[0], "-test.run=^$")
	owner.Env = append(os.Environ(), ownerDir+"="+dir)
	_, err := owner.StdinPipe()
	must(t, err)
	out, err := owner.StdoutPipe()
	must(t, err)
	must(t, owner.Start())
	line, err := bufio.NewReader(out).ReadString('\n')
	if err != nil || line != "opened <nil>\n" {
		t.Errorf("the owner says %q, %v", line, err)
	}
	before := content(t, dir)
	_, err = wal.Open(dir, small)
	var locked *wal.LockedError
	if !errors.As(err, &locked) || locked.PID != owner.Process.Pid {
		t.Errorf("beside process %d: %v", owner.Process.Pid, err)
	}
	err = wal.Snapshot(bg, dir, filepath.Join(t.TempDir(), "copy"), small)
	if !errors.Is(err, wal.ErrLocked) {
		t.Errorf("a snapshot beside the owner: %v", err)
	}
	for name, b := range content(t, dir) {
		if before[name] != b && (name == "META" || strings.HasPrefix(name, "ckpt-")) { // the others the owner writes
			t.Errorf("%s was touched", name)
		}
	}
	must(t, owner.Process.Signal(syscall.SIGKILL))
	if err := owner.Wait(); err == nil {
		t.Error("the owner was not killed")
	}
	s := open(t, dir)
	if st := s.Stats(); st.InDoubt != 1 || st.UncleanOpens != 1 || st.Pending != mails {
		t.Errorf("%+v", st)
	}
	if _, err := wal.Open(dir, small); !errors.As(err, &locked) || locked.PID != os.Getpid() {
		t.Errorf("a second Open: %v", err)
	}
	must(t, s.Close())
	whole(t, dir, 0)
}

// What is no plain private file of ours under one of the store's names is refused by that name. It
// is not followed, not waited for, not changed.
func TestCase28_NotAPlainPrivateFile(t *testing.T) {
	aside := func(t *testing.T, file string) string {
		to := filepath.Join(t.TempDir(), "aside")
		must(t, os.Rename(file, to))
		return to
	}
	for what, spoil := range map[string]func(t *testing.T, file string){
		"symlink":  func(t *testing.T, f string) { must(t, os.Symlink(aside(t, f), f)) },
		"dangling": func(t *testing.T, f string) { aside(t, f); must(t, os.Symlink("nowhere", f)) },
		"hard link": func(t *testing.T, f string) {
			must(t, os.Link(f, f+".too"))
			must(t, os.Rename(f+".too", filepath.Join(filepath.Dir(filepath.Dir(f)), "too")))
		},
		"FIFO":         func(t *testing.T, f string) { aside(t, f); must(t, syscall.Mkfifo(f, 0o600)) },
		"socket":       func(t *testing.T, f string) { aside(t, f); must(t, syscall.Mknod(f, syscall.S_IFSOCK|0o600, 0)) },
		"directory":    func(t *testing.T, f string) { aside(t, f); must(t, os.Mkdir(f, 0o700)) },
		"group reads":  func(t *testing.T, f string) { must(t, os.Chmod(f, 0o640)) },
		"others write": func(t *testing.T, f string) { must(t, os.Chmod(f, 0o602)) },
		"device": func(t *testing.T, f string) {
			aside(t, f)
			if err := syscall.Mknod(f, syscall.S_IFCHR|0o600, 1<<8|5); err != nil { // /dev/zero
				t.Skip("devices are made by root: ", err)
			}
		},
		"owner": func(t *testing.T, f string) {
			if err := os.Chown(f, 12345, 12345); err != nil {
				t.Skip("files are given away by root: ", err)
			}
		},
	} {
		for _, name := range []string{"META", "LOCK", "claims", "seg-00000003", "ckpt-"} {
			t.Run(what+" as "+name, func(t *testing.T) {
				dir := closedStore(t)
				file := named(t, dir, name)[0]
				spoil(t, file)
				before := content(t, dir)
				s, err := wal.Open(dir, small)
				if err == nil {
					_ = s.Close()
					t.Fatal("it was opened")
				}
				if !strings.Contains(err.Error(), filepath.Base(file)) || !strings.Contains(err.Error(), "not a plain private file") {
					t.Errorf("the error is %v", err)
				}
				for name, b := range content(t, dir) {
					if before[name] != b {
						t.Errorf("%s was touched", name)
					}
				}
			})
		}
	}
}
