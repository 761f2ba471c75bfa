package drill

import (
	"bufio"
	"encoding/json"
	"fmt"
	"io"
	"os/exec"
	"sync"
	"syscall"
	"time"
)

// life is one core, from its start to its end, as the parent sees it.
type life struct {
	n      int
	cmd    *exec.Cmd
	stdin  io.WriteCloser
	stderr *tail
	gone   chan struct{} // closed once all reports are heard and the process is reaped

	mu      sync.Mutex
	opening time.Time     // when the core set out to open its store
	opened  bool          // the store is open
	took    time.Duration // of the opening
	state   State
	drained time.Time // nothing is left to make or to deliver
	stopped bool
	fatal   string // why the core gave up
	garbled error  // a report that makes no sense
	exit    error
}

// startLife starts a core and listens to its reports.
func startLife(n int, cmd *exec.Cmd, o order, l *Ledger) (*life, error) {
	lf := &life{n: n, cmd: cmd, stderr: &tail{}, gone: make(chan struct{})}
	cmd.Stderr = lf.stderr
	out, err := cmd.StdoutPipe()
	if err != nil {
		return nil, fmt.Errorf("start a core: %w", err)
	}
	if lf.stdin, err = cmd.StdinPipe(); err != nil {
		return nil, fmt.Errorf("start a core: %w", err)
	}
	text, err := json.Marshal(o)
	if err != nil {
		return nil, fmt.Errorf("start a core: %w", err)
	}
	if err := cmd.Start(); err != nil {
		return nil, fmt.Errorf("start a core: %w", err)
	}
	go lf.listen(out, l)
	// An error here is a core that died at once, which its exit tells better.
	lf.stdin.Write(append(text, '\n'))
	return lf, nil
}

// listen hears reports until the core is gone.
func (lf *life) listen(out io.Reader, l *Ledger) {
	defer close(lf.gone)
	set := func(f func()) {
		lf.mu.Lock()
		defer lf.mu.Unlock()
		f()
	}
	to := listener{
		opening: func() { set(func() { lf.opening = time.Now() }) },
		opened:  func(d time.Duration) { set(func() { lf.opened, lf.took = true, d }) },
		state:   func(s State) { set(func() { lf.state = s }) },
		drained: func() { set(func() { lf.drained = time.Now() }) },
		stopped: func() { set(func() { lf.stopped = true }) },
		fatal:   func(s string) { set(func() { lf.fatal = s }) },
	}
	in := bufio.NewReaderSize(out, lineMax)
	for {
		line, err := in.ReadSlice('\n')
		if err != nil {
			// What a kill left of the last line was never said.
			if err == bufio.ErrBufferFull {
				set(func() { lf.garbled = fmt.Errorf("a core's report of more than %d bytes", lineMax) })
				io.Copy(io.Discard, out)
			}
			break
		}
		if err := hear(l, lf.n, string(line[:len(line)-1]), to); err != nil {
			set(func() { lf.garbled = err })
			io.Copy(io.Discard, out)
			break
		}
	}
	err := lf.cmd.Wait()
	set(func() { lf.exit = err })
}

// view is what is known of a life at one moment.
type view struct {
	opening time.Time
	opened  bool
	took    time.Duration
	state   State
	drained time.Time
	stopped bool
	trouble string // why the core ended, or has to
}

func (lf *life) view() view {
	lf.mu.Lock()
	defer lf.mu.Unlock()
	v := view{lf.opening, lf.opened, lf.took, lf.state, lf.drained, lf.stopped, ""}
	switch {
	case lf.fatal != "":
		v.trouble = lf.fatal
	case lf.garbled != nil:
		v.trouble = lf.garbled.Error()
	case lf.exit != nil:
		v.trouble = "the core died: " + lf.exit.Error()
	}
	return v
}

// kill ends the process and waits until everything it said is heard.
func (lf *life) kill() {
	lf.cmd.Process.Kill() // an error is a process that is dead
	<-lf.gone
	lf.stdin.Close()
}

// dump makes a Go process that hangs say where, and ends it.
func (lf *life) dump() {
	if lf.cmd.Process.Signal(syscall.SIGQUIT) == nil {
		select {
		case <-lf.gone:
		case <-time.After(5 * time.Second):
		}
	}
	lf.kill()
}

// stop asks for a clean end and reports whether it came within the time.
func (lf *life) stop(within time.Duration) bool {
	if _, err := io.WriteString(lf.stdin, "stop\n"); err != nil {
		return false
	}
	select {
	case <-lf.gone:
		lf.stdin.Close()
		return lf.view().stopped
	case <-time.After(within):
		return false
	}
}

// tail keeps the last bytes of what is written to it.
type tail struct {
	mu sync.Mutex
	b  []byte
}

const tailMax = 64 << 10

func (t *tail) Write(p []byte) (int, error) {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.b = append(t.b, p...)
	if n := len(t.b) - tailMax; n > 0 {
		t.b = append(t.b[:0], t.b[n:]...)
	}
	return len(p), nil
}

func (t *tail) String() string {
	t.mu.Lock()
	defer t.mu.Unlock()
	return string(t.b)
}
