//go:build unix

package disk_test

import (
	"bufio"
	"errors"
	"fmt"
	"io/fs"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"

	"github.com/mtawal/mtawal/internal/disk"
)

func osEnv(t *testing.T) env {
	t.Helper()
	return newEnv(t, disk.OS(), t.TempDir())
}

func (e env) join(name string) string { return filepath.Join(e.path, name) }

func TestOnlyPlainPrivateFiles(t *testing.T) {
	e := osEnv(t)
	e.create("good", "x")
	e.create("linked", "")
	e.create("readable", "")
	e.create("writable", "")
	e.create("foreign", "")
	e.ok(os.Chmod(e.join("readable"), 0o640))
	e.ok(os.Chmod(e.join("writable"), 0o602))
	e.ok(os.Link(e.join("linked"), e.join("second")))
	e.ok(os.Symlink("good", e.join("symlink")))
	e.ok(os.Symlink("nowhere", e.join("dangling")))
	e.ok(os.Mkdir(e.join("dir"), 0o700))
	e.ok(syscall.Mkfifo(e.join("fifo"), 0o600))
	reasons := map[string]string{
		"linked": "2 links", "second": "2 links", "readable": "mode is 0640", "writable": "mode is 0602",
		"symlink": "symbolic link", "dangling": "symbolic link", "dir": "directory", "fifo": "FIFO",
	}
	if l, err := net.Listen("unix", e.join("socket")); err == nil { // else the path is too long for one
		defer l.Close()
		reasons["socket"] = "socket"
	}
	if os.Geteuid() == 0 {
		e.ok(os.Chown(e.join("foreign"), 12345, -1))
		reasons["foreign"] = "owner is 12345"
	}
	for name, reason := range reasons {
		for _, write := range []bool{false, true} {
			_, err := e.dir.Open(name, write)
			e.is(err, disk.ErrUnsafe, e.join(name))
			e.is(err, disk.ErrUnsafe, reason)
		}
		_, err := e.dir.Lock(name)
		e.is(err, disk.ErrUnsafe, reason)
		if _, err := e.dir.Create(name); !errors.Is(err, fs.ErrExist) {
			t.Errorf("create %s: %v", name, err)
		}
	}
	infos, err := e.dir.List()
	e.ok(err)
	for _, i := range infos {
		_, odd := map[string]bool{"symlink": true, "dangling": true, "dir": true, "fifo": true, "socket": true}[i.Name]
		if i.Regular == odd {
			t.Errorf("%s: regular is %v", i.Name, i.Regular)
		}
	}
	good, err := e.dir.Open("good", true)
	e.ok(err)
	defer good.Close()
	e.ok(os.Link(e.join("good"), e.join("third")))
	if own, err := good.Exclusive(); err != nil || own {
		t.Error("with two links it is exclusive:", own, err)
	}
}

func TestModesWhateverTheUmask(t *testing.T) {
	old := syscall.Umask(0)
	defer syscall.Umask(old)
	for _, mask := range []int{0, 0o777} {
		base := t.TempDir() // with the umask of before
		syscall.Umask(mask)
		deep := filepath.Join(base, "x", "y")
		d, err := disk.OS().OpenDir(deep, true)
		if err != nil {
			t.Fatal(err)
		}
		f, err := d.Create("a")
		if err != nil {
			t.Fatal(err)
		}
		l, err := d.Lock("LOCK")
		if err != nil {
			t.Fatal(err)
		}
		syscall.Umask(old)
		for _, c := range []any{l.Close(), f.Close(), d.Close()} {
			if c != nil {
				t.Error(c)
			}
		}
		for name, want := range map[string]fs.FileMode{"x": 0o700, "x/y": 0o700, "x/y/a": 0o600, "x/y/LOCK": 0o600} {
			fi, err := os.Stat(filepath.Join(base, name))
			if err != nil || fi.Mode().Perm() != want {
				t.Errorf("umask %o: %s: %v, %v", mask, name, fi.Mode(), err)
			}
		}
	}
}

func TestModeOfAnExistingDirectoryStays(t *testing.T) {
	path := filepath.Join(t.TempDir(), "d")
	if err := os.Mkdir(path, 0o755); err != nil {
		t.Fatal(err)
	}
	d, err := disk.OS().OpenDir(path, true)
	if err != nil {
		t.Fatal(err)
	}
	defer d.Close()
	if fi, err := os.Stat(path); err != nil || fi.Mode().Perm() != 0o755 {
		t.Error(fi.Mode(), err)
	}
}

// Links don't hide that a path leads into a directory.
func TestHoldsThroughLinks(t *testing.T) {
	base := t.TempDir()
	path := filepath.Join(base, "store")
	d, err := disk.OS().OpenDir(filepath.Join(path), true)
	if err != nil {
		t.Fatal(err)
	}
	defer d.Close()
	for _, err := range []error{
		os.Mkdir(filepath.Join(path, "x"), 0o700), os.Symlink(path, filepath.Join(base, "link")), os.Symlink(filepath.Join(path, "x"), filepath.Join(base, "into")),
		os.Symlink(base, filepath.Join(path, "out")), os.WriteFile(filepath.Join(base, "file"), nil, 0o600),
	} {
		if err != nil {
			t.Fatal(err)
		}
	}
	for name, want := range map[string]bool{
		"link": false, "link/new": true, "link/x": true, "into": true, "into/new/deep": true, "store/out": false, "store/out/new": false, "store/out/store/new": true, "new": false,
	} {
		if got, err := d.Holds(filepath.Join(base, name)); err != nil || got != want {
			t.Errorf("it holds %s: %v, %v", name, got, err)
		}
	}
	if _, err := d.Holds(filepath.Join(base, "file", "new")); err == nil {
		t.Error("a path through a file is none")
	}
	t.Chdir(path)
	if got, err := d.Holds("new"); err != nil || !got {
		t.Errorf("it holds a path from within: %v, %v", got, err)
	}
}

func TestOpenDirThatIsAFile(t *testing.T) {
	e := osEnv(t)
	e.create("a", "")
	for _, create := range []bool{false, true} {
		for _, path := range []string{e.join("a"), e.join("a/b")} {
			if d, err := disk.OS().OpenDir(path, create); err == nil {
				t.Error("opened", path)
				_ = d.Close()
			}
		}
	}
}

// What the path means later does not matter.
func TestDirectoryRenamedMeanwhile(t *testing.T) {
	e := osEnv(t)
	e.create("a", "mine")
	e.ok(os.Rename(e.path, e.path+".old"))
	e.ok(os.Mkdir(e.path, 0o700))
	e.ok(os.WriteFile(e.join("a"), []byte("other"), 0o600))
	f, err := e.dir.Open("a", false)
	e.ok(err)
	defer f.Close()
	if got := e.content(f); got != "mine" {
		t.Errorf("%q", got)
	}
	e.create("b", "")
	e.ok(e.dir.Rename("b", "c"))
	e.ok(e.dir.Remove("a"))
	e.ok(e.dir.Sync())
	if got := e.names(); got != "c:0:true" {
		t.Error(got)
	}
	if b, err := os.ReadFile(e.join("a")); err != nil || string(b) != "other" {
		t.Errorf("the other directory was touched: %q, %v", b, err)
	}
}

const lockEnv = "MTAWAL_TEST_LOCK"

// TestLockHolder is the other process of TestLockOfAnotherProcess.
func TestLockHolder(t *testing.T) {
	path := os.Getenv(lockEnv)
	if path == "" {
		t.Skip("runs as a helper alone")
	}
	d, err := disk.OS().OpenDir(path, false)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := d.Lock("LOCK"); err != nil {
		t.Fatal(err)
	}
	fmt.Println("locked")
	_, _ = os.Stdin.Read(make([]byte, 1)) // until it is killed
}

func TestLockOfAnotherProcess(t *testing.T) {
	e := osEnv(t)
	exe, err := os.Executable()
	e.ok(err)
	cmd := exec.Command(exe, "-test.run=^TestLockHolder$", "-test.v")
	cmd.Env = append(os.Environ(), lockEnv+"="+e.path)
	_, err = cmd.StdinPipe()
	e.ok(err)
	out, err := cmd.StdoutPipe()
	e.ok(err)
	e.ok(cmd.Start())
	locked := false
	for s := bufio.NewScanner(out); !locked && s.Scan(); {
		locked = strings.HasPrefix(s.Text(), "locked")
	}
	if !locked {
		t.Fatal("the other process did not get the lock:", cmd.Wait())
	}
	_, err = e.dir.Lock("LOCK")
	var le *disk.LockedError
	if !errors.As(err, &le) || le.PID != cmd.Process.Pid || !errors.Is(err, disk.ErrLocked) {
		t.Errorf("%v; the holder is %d", err, cmd.Process.Pid)
	}
	e.ok(cmd.Process.Kill())
	_ = cmd.Wait() // killed
	l, err := e.dir.Lock("LOCK")
	if err != nil {
		t.Fatal("a killed holder still has it:", err)
	}
	e.ok(l.Close())
}

// A PID that nobody wrote is unknown, and no error.
func TestLockFileWithOtherContent(t *testing.T) {
	for _, content := range []string{"", "x", "-5\n", strings.Repeat("9", 100)} {
		e := osEnv(t)
		e.create("LOCK", content)
		f, err := os.OpenFile(e.join("LOCK"), os.O_RDWR, 0)
		e.ok(err)
		e.ok(syscall.Flock(int(f.Fd()), syscall.LOCK_EX))
		_, err = e.dir.Lock("LOCK")
		var le *disk.LockedError
		if !errors.As(err, &le) || le.PID != 0 {
			t.Errorf("%q: %v", content, err)
		}
		e.ok(f.Close())
	}
}

// FIFOs and the like must not hang; the test itself would.
func TestOpenNeverBlocks(t *testing.T) {
	e := osEnv(t)
	e.ok(syscall.Mkfifo(e.join("LOCK"), 0o600))
	_, err := e.dir.Lock("LOCK")
	e.is(err, disk.ErrUnsafe, "FIFO")
}
