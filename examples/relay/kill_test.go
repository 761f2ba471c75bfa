package main

import (
	"bufio"
	"crypto/sha256"
	"fmt"
	"maps"
	"math/rand/v2"
	"net/smtp"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/mtawal/mtawal/wal"
)

const (
	killRounds   = 6
	killClients  = 6
	killMessages = 400 // that a round offers; it is killed before they are through
)

// TestKilledRelayDeliversOnce kills the relay in the middle of bursts of mail.
// What was answered 250 is in the Maildir once for each recipient, whatever the
// kills came between; what was not is there at most once.
func TestKilledRelayDeliversOnce(t *testing.T) {
	seed := uint64(time.Now().UnixNano())
	t.Logf("seed %d", seed)
	rng := rand.New(rand.NewPCG(seed, 0))
	cfg := testConfig(t)
	var all ledger
	for round := range killRounds {
		p := startProcess(t, cfg)
		all.killAt(10+rng.IntN(killMessages/2), p)
		var clients sync.WaitGroup
		for c := range killClients {
			clients.Go(func() { all.burst(t, p.addr, fmt.Sprintf("r%d-c%d", round, c), killMessages/killClients) })
		}
		clients.Wait()
		p.kill()
		readSomeMail(t, cfg.maildir, rng)
	}
	t.Logf("%d recipients accepted, %d more offered, over %d kills", len(all.accepted), len(all.offered)-len(all.accepted), killRounds)

	drain(t, cfg, func() bool {
		count := all.audit(t, cfg.maildir)
		for key := range all.accepted {
			if count[key] == 0 {
				return false
			}
		}
		return true
	})
	count := all.audit(t, cfg.maildir)
	for key := range all.accepted {
		if count[key] != 1 {
			t.Errorf("accepted, and %d times in the Maildir: %s", count[key], key)
		}
	}
	for key, n := range count {
		if !all.offered[key] || n > 1 {
			t.Errorf("offered: %v, and %d times in the Maildir: %s", all.offered[key], n, key)
		}
	}
}

// drain runs the relay without new mail until done says yes and a store opened
// behind it says that nothing waits.
func drain(t *testing.T, cfg config, done func() bool) {
	t.Helper()
	for range 100 {
		p := startProcess(t, cfg)
		if !wait(done) {
			t.Error("gave up waiting for accepted mail")
			return // the audit says which
		}
		p.terminate(t)
		store, err := wal.Open(cfg.storeDir, wal.Options{})
		if err != nil {
			t.Fatal(err)
		}
		left := store.Stats().WorkQueueLength
		if err := store.Close(); err != nil {
			t.Fatal(err)
		}
		if left == 0 {
			return
		}
	}
	t.Fatal("the queues do not become empty")
}

// ledger is what the clients know. Its keys are a message and one recipient.
type ledger struct {
	mu       sync.Mutex
	offered  map[string]bool
	accepted map[string]bool
	messages int // accepted since killAt
	target   int
	victim   *process
}

func mailKey(id, address string) string { return id + " to " + address }

// killAt kills p when so many messages more were accepted.
func (l *ledger) killAt(messages int, p *process) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.messages, l.target, l.victim = 0, messages, p
}

func (l *ledger) note(id string, to []string, accepted bool) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.offered == nil {
		l.offered, l.accepted = make(map[string]bool), make(map[string]bool)
	}
	for _, a := range to {
		l.offered[mailKey(id, a)] = true
		if accepted {
			l.accepted[mailKey(id, a)] = true
		}
	}
	if accepted {
		if l.messages++; l.messages == l.target {
			l.victim.kill()
		}
	}
}

// burst sends messages over one connection, as fast as they are taken, until
// the connection breaks.
func (l *ledger) burst(t *testing.T, addr, name string, messages int) {
	c, err := smtp.Dial(addr)
	if err != nil {
		return // killed already
	}
	defer c.Close()
	for i := range messages {
		id := fmt.Sprintf("%s-m%d", name, i)
		var to []string
		for r := range 1 + i%3 {
			to = append(to, fmt.Sprintf("user%d@local.test", r))
		}
		// Offered before the first byte leaves: a 250 that was lost is no invention.
		l.note(id, to, false)
		if err := submit(c, "sender@local.test", to, testMail(id, i)); err != nil {
			return
		}
		l.note(id, to, true)
	}
	t.Errorf("%s: all was accepted before the kill", name)
}

// testMail is a message of that name, with its own checksum.
func testMail(id string, i int) string {
	body := strings.Repeat(fmt.Sprintf("line of %s\r\n", id), 1+i*i%700)
	return fmt.Sprintf("Subject: %s\r\nX-Sum: %x\r\n\r\n%s", id, sha256.Sum256([]byte(body)), body)
}

// audit counts the copies in the Maildir and checks that they are whole.
func (l *ledger) audit(t *testing.T, dir string) map[string]int {
	t.Helper()
	count := make(map[string]int)
	for _, m := range readMaildir(t, dir) {
		if sum := fmt.Sprintf("%x", sha256.Sum256([]byte(m.body))); sum != m.header.Get("X-Sum") {
			t.Errorf("%s: the body is not the one that was sent", m.file)
		}
		count[mailKey(m.header.Get("Subject"), m.header.Get("Delivered-To"))]++
	}
	return count
}

// readSomeMail does what a mail reader does: it moves some of new to cur.
func readSomeMail(t *testing.T, dir string, rng *rand.Rand) {
	t.Helper()
	entries, err := os.ReadDir(filepath.Join(dir, "new"))
	if err != nil {
		t.Fatal(err)
	}
	for _, e := range entries {
		if rng.IntN(2) == 0 {
			move("new/"+e.Name(), "cur/"+e.Name()+[]string{":2,", ":2,S", ":2,RS"}[rng.IntN(3)])(t, dir)
		}
	}
}

// process is a relay in a process of its own.
type process struct {
	cmd  *exec.Cmd
	addr string
	end  func() error // waits for its end, once
}

// startProcess starts the relay and waits until it says where it listens. It
// is dead when the test has ended.
func startProcess(t *testing.T, cfg config) *process {
	t.Helper()
	cmd := exec.Command(os.Args[0],
		"-listen", cfg.listen, "-hostname", cfg.hostname, "-store", cfg.storeDir, "-maildir", cfg.maildir,
		"-local-domains", strings.Join(sortedKeys(cfg.local), ","), "-retry-base", "10ms", "-retry-max", "50ms")
	cmd.Env = append(os.Environ(), childEnv+"=1")
	log := &tail{}
	cmd.Stderr = log
	stdout, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	p := &process{cmd: cmd, end: sync.OnceValue(cmd.Wait)}
	t.Cleanup(func() {
		p.kill()
		if t.Failed() {
			t.Logf("the relay's log ends with:\n%s", log)
		}
	})
	line, err := bufio.NewReader(stdout).ReadString('\n')
	addr, ok := strings.CutPrefix(strings.TrimSpace(line), "listening ")
	if err != nil || !ok {
		t.Fatalf("the relay said %q (%v), want where it listens", line, err)
	}
	p.addr = addr
	return p
}

// kill is SIGKILL: the process gets no chance to do anything about it.
func (p *process) kill() {
	_ = p.cmd.Process.Kill() // an error means that it is dead already
	_ = p.end()              // "signal: killed"
}

// terminate asks the relay to stop, and wants it to do so in good order.
func (p *process) terminate(t *testing.T) {
	t.Helper()
	if err := p.cmd.Process.Signal(syscall.SIGTERM); err != nil {
		t.Fatal(err)
	}
	if err := p.end(); err != nil {
		t.Errorf("after SIGTERM: %v", err)
	}
}

func sortedKeys(m map[string]bool) []string { return slices.Sorted(maps.Keys(m)) }

// tail keeps the end of a log.
type tail struct{ b []byte }

func (l *tail) Write(p []byte) (int, error) {
	const most = 16 << 10
	l.b = append(l.b, p...)
	if len(l.b) > 2*most {
		l.b = append([]byte(nil), l.b[len(l.b)-most:]...)
	}
	return len(p), nil
}

func (l *tail) String() string { return string(l.b) }
