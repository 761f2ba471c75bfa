package fulldisk

import (
	"bufio"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/mtawal/mtawal/wal"
)

const imageSize = 400 << 20

// A disk that is really full, by mail and by others' files: nothing acknowledged is lost, every
// used-mark succeeds though each delivery ends in a bounce, the store drains to empty and takes mail
// again by itself, whenever it was killed in between.
func TestFullDisk(t *testing.T) {
	for _, c := range []struct {
		fs   string
		mkfs []string
		// holds: space that was allocated is there. Copy-on-write file systems do not promise
		// that, so there the foreign file goes before all must be drained.
		holds bool
	}{
		{"ext4", []string{"mkfs.ext4", "-q", "-F", "-m", "0"}, true},
		{"xfs", []string{"mkfs.xfs", "-q", "-f"}, true},
		{"btrfs", []string{"mkfs.btrfs", "-q", "-f"}, false},
	} {
		t.Run(c.fs, func(t *testing.T) {
			if testing.Short() && c.fs != "ext4" {
				t.Skip("-short: ext4 alone")
			}
			dir := mounted(t, c.fs, c.mkfs)
			run(t, dir, c.holds)
		})
	}
}

// mounted makes a file system of imageSize and mounts it. Where that can't be done a tmpfs of
// that size stands in for ext4, and the others are skipped.
func mounted(t *testing.T, kind string, mkfs []string) string {
	t.Helper()
	if os.Geteuid() != 0 {
		t.Skip("skipped: mounting a file system needs root")
	}
	dir := t.TempDir()
	mount := filepath.Join(dir, "mnt")
	must(t, os.Mkdir(mount, 0o700))
	args := []string{"-t", kind, "-o", "loop"}
	image := filepath.Join(dir, "image")
	_, missing := exec.LookPath(mkfs[0])
	if missing == nil {
		f, err := os.Create(image)
		must(t, err)
		must(t, errors.Join(f.Truncate(imageSize), f.Close()))
		if out, err := exec.Command(mkfs[0], append(mkfs[1:], image)...).CombinedOutput(); err != nil {
			missing = fmt.Errorf("%s: %w: %s", mkfs[0], err, out)
		}
	}
	if missing == nil {
		if out, err := exec.Command("mount", append(args, image, mount)...).CombinedOutput(); err != nil {
			missing = fmt.Errorf("mount: %w: %s", err, out)
		}
	}
	if missing != nil && kind != "ext4" {
		t.Skipf("skipped: no %s on a loop device: %v", kind, missing)
	}
	if missing != nil {
		t.Logf("a tmpfs instead of %s on a loop device: %v", kind, missing)
		if out, err := exec.Command("mount", "-t", "tmpfs", "-o", fmt.Sprint("size=", imageSize), "none", mount).CombinedOutput(); err != nil {
			t.Skipf("skipped: neither a loop device nor a tmpfs can be mounted: %v: %s", err, out)
		}
	}
	t.Cleanup(func() {
		for range 50 { // the kernel may take a moment to close the files of who was killed
			if exec.Command("umount", mount).Run() == nil {
				return
			}
			time.Sleep(100 * time.Millisecond)
		}
		t.Errorf("%s can't be unmounted", mount)
	})
	return mount
}

func must(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

// ledger is what the core said, over all its lives.
type ledger struct {
	mu      sync.Mutex
	moved   *sync.Cond
	acked   map[int64]bool
	using   map[int64]bool // a used-mark was asked for
	used    map[int64]bool
	full    map[string]int // refusals of intake, by reason
	refused int            // bounces
	highest int64
	queue   int64
	opens   int
	closed  bool
	wrong   []string
	changed time.Time // a recipient was used, a message acked, or the queue is shorter
}

func (l *ledger) line(s string) {
	l.mu.Lock()
	defer l.mu.Unlock()
	defer l.moved.Broadcast()
	word, arg, _ := strings.Cut(s, " ")
	arg, doubt, _ := strings.Cut(arg, " ")
	n, _ := strconv.ParseInt(arg, 10, 64)
	switch word {
	case "open":
		l.opens++
	case "sent":
		l.highest = max(l.highest, n)
	case "acked":
		l.acked[n] = true
		l.changed = time.Now()
	case "full":
		l.full[arg]++
	case "taken":
		if l.used[n] {
			l.wrong = append(l.wrong, fmt.Sprintf("message %d was used, and is handed out again", n))
		}
		if l.using[n] && doubt == "" {
			l.wrong = append(l.wrong, fmt.Sprintf("message %d may have been used, and is handed out again without notice", n))
		}
	case "using":
		l.using[n] = true
	case "refused":
		l.using[n] = false
		l.refused++
	case "used":
		l.used[n] = true
		l.changed = time.Now()
	case "queue":
		if n < l.queue {
			l.changed = time.Now()
		}
		l.queue = n
	case "closed":
		l.closed = true
	default:
		l.wrong = append(l.wrong, s)
	}
}

// child is a life of the core.
type child struct {
	cmd  *exec.Cmd
	in   io.WriteCloser
	done chan struct{} // its output has ended
}

type rig struct {
	*testing.T
	dir string
	l   *ledger
	c   *child
	rng *rand.Rand
}

func (r *rig) start() {
	r.Helper()
	cmd := exec.Command(os.Args[0])
	cmd.Env = append(os.Environ(), childEnv+"="+r.dir)
	cmd.Stderr = os.Stderr
	in, err := cmd.StdinPipe()
	must(r.T, err)
	out, err := cmd.StdoutPipe()
	must(r.T, err)
	must(r.T, cmd.Start())
	c := &child{cmd: cmd, in: in, done: make(chan struct{})}
	go func() {
		defer close(c.done)
		for lines := bufio.NewScanner(out); lines.Scan(); {
			r.l.line(lines.Text())
		}
	}()
	r.c = c
	opens := r.get(func(l *ledger) int64 { return int64(l.opens) })
	r.wait("the store opens", time.Minute, func(l *ledger) bool { return int64(l.opens) > opens || len(l.wrong) > 0 })
}

func (r *rig) tell(word string) {
	r.Helper()
	_, err := io.WriteString(r.c.in, word+"\n")
	must(r.T, err)
}

// kill ends the core with SIGKILL. What it said before counts.
func (r *rig) kill() {
	_ = r.c.cmd.Process.Signal(syscall.SIGKILL)
	<-r.c.done
	_ = r.c.cmd.Wait()
	r.c = nil
}

func (r *rig) get(f func(l *ledger) int64) int64 {
	r.l.mu.Lock()
	defer r.l.mu.Unlock()
	return f(r.l)
}

// wait waits until the ledger is so. It fails when nothing has changed for so long.
func (r *rig) wait(what string, patience time.Duration, so func(l *ledger) bool) {
	r.Helper()
	if !r.waits(patience, so) {
		r.fail("waited for " + what)
	}
}

func (r *rig) waits(patience time.Duration, so func(l *ledger) bool) bool {
	began := time.Now()
	for {
		r.l.mu.Lock()
		ok, wrong, changed := so(r.l), len(r.l.wrong), r.l.changed
		r.l.mu.Unlock()
		if wrong > 0 {
			r.fail("wrong")
		}
		if ok {
			return true
		}
		if changed.Before(began) {
			changed = began
		}
		if time.Since(changed) > patience {
			return false
		}
		time.Sleep(5 * time.Millisecond)
	}
}

func (r *rig) fail(what string) {
	r.Helper()
	l := r.l
	l.mu.Lock()
	defer l.mu.Unlock()
	ls, _ := exec.Command("sh", "-c", "ls -ls "+r.dir+" | grep -v ' seg-'; ls "+r.dir+" | grep -c seg-").CombinedOutput()
	df, _ := exec.Command("df", "-k", r.dir).CombinedOutput()
	r.Fatalf("%s: %d acked, %d used, refusals %v, %d bounces refused, queue %d, wrong: %q\n%s%s", what, len(l.acked), len(l.used), l.full, l.refused, l.queue, l.wrong, df, ls)
}

// takeAll has somebody else's file take all that is left of the file system.
func (r *rig) takeAll() (free func()) {
	r.Helper()
	name := filepath.Join(filepath.Dir(r.dir), "foreign")
	f, err := os.Create(name)
	must(r.T, err)
	b := make([]byte, 1<<20)
	for len(b) >= 4096 {
		if _, err := f.Write(b); err != nil {
			if !errors.Is(err, syscall.ENOSPC) {
				r.Fatal(err)
			}
			b = b[:len(b)/2]
		}
	}
	_ = f.Sync() // ENOSPC is what is wanted
	must(r.T, f.Close())
	return func() { must(r.T, os.Remove(name)) }
}

func run(t *testing.T, mount string, holds bool) {
	seed := rand.Uint64()
	t.Logf("seed %d", seed)
	r := &rig{T: t, dir: filepath.Join(mount, "store"), rng: rand.New(rand.NewPCG(seed, 0)),
		l: &ledger{acked: map[int64]bool{}, using: map[int64]bool{}, used: map[int64]bool{}, full: map[string]int{}, changed: time.Now()}}
	r.l.moved = sync.NewCond(&r.l.mu)
	t.Cleanup(func() {
		if r.c != nil {
			r.kill()
		}
	})
	began := time.Now()
	step := func(what string) { t.Logf("%6.1fs %s", time.Since(began).Seconds(), what) }
	r.start()

	// Mail fills it, with a kill on the way.
	part := int64(1000 + r.rng.IntN(3000))
	r.tell("fill 0")
	r.wait("mail to be taken", time.Minute, func(l *ledger) bool { return int64(len(l.acked)) >= part || l.full["disk"] > 0 })
	r.kill()
	r.start()
	r.tell(fmt.Sprint("fill ", r.get(func(l *ledger) int64 { return l.highest })))
	r.wait("intake to end", time.Minute, func(l *ledger) bool { return l.full["disk"] > producers })
	r.tell("stop")
	step(fmt.Sprintf("full of %d messages", r.get(func(l *ledger) int64 { return int64(len(l.acked)) })))

	// Others take the rest, and the store is killed and opens there.
	time.Sleep(1500 * time.Millisecond) // its reserve is made once a second
	free := r.takeAll()
	r.kill()
	r.start()
	step("opened on a disk that others have filled")

	// Every delivery ends in a bounce.
	r.tell("bounce")
	acked := r.get(func(l *ledger) int64 { return int64(len(l.acked)) })
	for _, part := range []int64{5, 3, 2} {
		least := acked/part - int64(r.rng.IntN(int(acked/10)))
		enough := func(l *ledger) bool { return int64(len(l.used)) >= least }
		if !r.waits(15*time.Second, enough) {
			if holds {
				r.fail(fmt.Sprintf("waited for %d of %d to be used", least, acked))
			}
			step("nothing is marked any more, as may be on this file system")
			break
		}
		r.kill()
		r.start()
		r.tell("bounce")
	}
	if holds {
		r.wait("the store to drain", 15*time.Second, r.drained())
		step("drained beside the foreign file")
	}
	free()
	r.wait("the store to drain", time.Minute, r.drained())
	step("drained")

	// Intake has come back by itself.
	before := r.get(func(l *ledger) int64 { return int64(len(l.acked)) })
	r.tell(fmt.Sprint("fill ", r.get(func(l *ledger) int64 { return l.highest })))
	r.wait("intake to resume", time.Minute, func(l *ledger) bool { return int64(len(l.acked)) >= before+100 })
	r.tell("stop")
	r.wait("the store to drain", time.Minute, r.drained())
	r.tell("close")
	r.wait("the store to close", time.Minute, func(l *ledger) bool { return l.closed })
	if err := r.c.cmd.Wait(); err != nil {
		t.Error(err)
	}
	r.c = nil
	l := r.l
	for n := range l.acked {
		if !l.using[n] {
			t.Errorf("message %d is lost", n)
		}
	}
	if found, err := wal.Verify(r.dir, options()); err != nil || len(found) > 0 {
		t.Errorf("verify: %v, %v", found, err)
	}
	step(fmt.Sprintf("%d messages, %d marked used, %d bounces refused at first, %d openings", len(l.acked), len(l.used), l.refused, l.opens))
}

// drained asks the core for the length of its queue.
func (r *rig) drained() func(l *ledger) bool {
	var asked time.Time
	r.l.mu.Lock()
	r.l.queue = -1
	r.l.mu.Unlock()
	return func(l *ledger) bool {
		if time.Since(asked) > 100*time.Millisecond {
			asked = time.Now()
			r.tell("queue")
		}
		return l.queue == 0
	}
}
