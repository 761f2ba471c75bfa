package core

import (
	"encoding/gob"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"sync"
	"time"
)

// Verb is the hidden verb of the child process.
const Verb = "core"

// Serve is the child process: it carries out requests until its input ends.
func Serve(in io.Reader, out io.Writer) error {
	dec, enc := gob.NewDecoder(in), gob.NewEncoder(out)
	for {
		var r Request
		if err := dec.Decode(&r); err != nil {
			if errors.Is(err, io.EOF) {
				return nil
			}
			return fmt.Errorf("read a request: %w", err)
		}
		if err := enc.Encode(carryOut(&r)); err != nil {
			return fmt.Errorf("answer: %w", err)
		}
	}
}

// Child is a core as its parent sees it.
type Child struct {
	cmd    *exec.Cmd
	in     io.WriteCloser
	enc    *gob.Encoder
	dec    *gob.Decoder
	stderr tail
}

// Start starts a core.
func Start() (*Child, error) {
	exe, err := os.Executable()
	if err != nil {
		return nil, fmt.Errorf("find this program: %w", err)
	}
	c := &Child{cmd: exec.Command(exe, Verb)}
	c.cmd.Stderr = &c.stderr
	out, err := c.cmd.StdoutPipe()
	if err != nil {
		return nil, fmt.Errorf("start a core: %w", err)
	}
	if c.in, err = c.cmd.StdinPipe(); err != nil {
		return nil, fmt.Errorf("start a core: %w", err)
	}
	if err := c.cmd.Start(); err != nil {
		return nil, fmt.Errorf("start a core: %w", err)
	}
	c.enc, c.dec = gob.NewEncoder(c.in), gob.NewDecoder(out)
	return c, nil
}

// Do has a request carried out. An error is a core that died, or hung and was killed, which
// is of no use any more; it quotes what the core wrote to its standard error.
func (c *Child) Do(r *Request, within time.Duration) (*Response, error) {
	hung := time.AfterFunc(within, func() { c.cmd.Process.Signal(os.Interrupt) })
	dead := time.AfterFunc(within+5*time.Second, func() { c.cmd.Process.Kill() })
	defer dead.Stop()
	defer hung.Stop()
	var resp Response
	err := c.enc.Encode(r)
	if err == nil {
		err = c.dec.Decode(&resp)
	}
	if err != nil {
		c.cmd.Process.Kill()
		c.cmd.Wait()
		return nil, fmt.Errorf("the process with the store died, or took longer than %v: %w\n%s", within, err, c.stderr.String())
	}
	return &resp, nil
}

// Kill ends the process at once, whatever it does. A request under way returns an error.
func (c *Child) Kill() { c.cmd.Process.Kill() }

// Stop ends the core.
func (c *Child) Stop() {
	c.in.Close()
	c.cmd.Wait()
}

// tail keeps the beginning of what is written to it.
type tail struct {
	mu sync.Mutex
	b  []byte
}

func (t *tail) Write(p []byte) (int, error) {
	t.mu.Lock()
	defer t.mu.Unlock()
	if room := 32<<10 - len(t.b); room > 0 {
		t.b = append(t.b, p[:min(room, len(p))]...)
	}
	return len(p), nil
}

func (t *tail) String() string {
	t.mu.Lock()
	defer t.mu.Unlock()
	return string(t.b)
}
