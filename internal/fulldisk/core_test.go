package fulldisk

import (
	"bufio"
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/mtawal/mtawal/wal"
)

// The core is this test binary, run again. What it is to do comes on its standard input, a
// word a line; what it was told by the store goes to its standard output, a line each, before
// anything is built on it:
//
//	open          the store is open
//	sent N        message N goes to Enqueue
//	acked N       Enqueue returned nil
//	full REASON   Enqueue was refused
//	taken N       it was claimed; "taken N doubt" if that was announced as a repeat
//	using N       its used-mark, with a bounce, goes to Commit
//	used N        Commit returned nil
//	error TEXT    something that must not be
const childEnv = "MTAWAL_FULLDISK_CHILD"

func TestMain(m *testing.M) {
	if dir := os.Getenv(childEnv); dir != "" {
		core(dir, os.Stdin, os.Stdout)
		return
	}
	os.Exit(m.Run())
}

const (
	producers   = 8
	consumers   = 4
	bodySize    = 48 << 10
	segmentSize = 4 << 20
)

func options() wal.Options { return wal.Options{SegmentSize: segmentSize} }

type coreProcess struct {
	s   *wal.Store
	mu  sync.Mutex
	out *bufio.Writer

	fills, bounces atomic.Bool
	next           atomic.Int64
}

// core serves until its input ends.
func core(dir string, in io.Reader, out io.Writer) {
	c := &coreProcess{out: bufio.NewWriter(out)}
	s, err := wal.Open(dir, options())
	if err != nil {
		c.say("error open: %v", err)
		return
	}
	c.s = s
	c.say("open")
	for range producers {
		go c.produce()
	}
	for range consumers {
		go c.bounce()
		go c.deliver()
	}
	for lines := bufio.NewScanner(in); lines.Scan(); {
		word, arg, _ := strings.Cut(lines.Text(), " ")
		switch word {
		case "fill":
			n, _ := strconv.ParseInt(arg, 10, 64)
			c.next.Store(n)
			c.fills.Store(true)
		case "stop":
			c.fills.Store(false)
		case "bounce":
			c.bounces.Store(true)
		case "queue":
			st := s.Stats()
			c.say("queue %d", st.WorkQueueLength)
		case "close":
			if err := s.Close(); err != nil {
				c.say("error close: %v", err)
			}
			c.say("closed")
			return
		}
	}
}

func (c *coreProcess) say(format string, args ...any) {
	c.mu.Lock()
	defer c.mu.Unlock()
	fmt.Fprintf(c.out, format+"\n", args...)
	_ = c.out.Flush() // the parent is gone if it fails
}

func body(n int64) []byte {
	head := fmt.Sprintf("%d\n", n)
	return append([]byte(head), bytes.Repeat([]byte{byte(n)}, bodySize-len(head))...)
}

func (c *coreProcess) produce() {
	for {
		if !c.fills.Load() {
			time.Sleep(10 * time.Millisecond)
			continue
		}
		n := c.next.Add(1)
		c.say("sent %d", n)
		_, err := c.s.Enqueue(context.Background(), wal.Message{Body: body(n), Recipients: []wal.Recipient{{Queue: "out", Address: "a"}}})
		var full *wal.FullError
		switch {
		case err == nil:
			c.say("acked %d", n)
		case errors.As(err, &full):
			c.say("full %s", full.Reason)
			time.Sleep(50 * time.Millisecond)
		default:
			c.say("error enqueue %d: %v", n, err)
			return
		}
	}
}

// bounce has each delivery end in a bounce. Where there is no room for it the delivery is
// deferred, which always works.
func (c *coreProcess) bounce() {
	ctx := context.Background()
	for !c.bounces.Load() {
		time.Sleep(10 * time.Millisecond)
	}
	for {
		d, err := c.s.Claim(ctx, "out")
		if err != nil {
			return
		}
		n, err := numberOf(d)
		if err != nil {
			c.say("error body: %v", err)
			return
		}
		doubt := ""
		if d.Recipients[0].InDoubt {
			doubt = " doubt"
		}
		c.say("taken %d%s", n, doubt)
		c.say("using %d", n)
		_, err = c.s.Commit(ctx, wal.Batch{
			Settle:  []wal.Settlement{{Delivery: d, Outcomes: []wal.Outcome{{Recipient: 0, Result: wal.Failed}}}},
			Enqueue: []wal.Message{{Body: []byte(fmt.Sprint("mail ", n, " was refused")), Recipients: []wal.Recipient{{Queue: "bounces", Address: "b"}}}},
		})
		if errors.Is(err, wal.ErrFull) {
			c.say("refused %d", n)
			err = d.Settle(ctx, []wal.Outcome{{Recipient: 0, Result: wal.Deferred, Until: time.Now().Add(100 * time.Millisecond), Note: []byte("452 4.3.1 no room for the bounce")}})
			if err != nil {
				c.say("error defer %d: %v", n, err)
				return
			}
			continue
		}
		if err != nil {
			c.say("error used-mark %d: %v", n, err)
			return
		}
		c.say("used %d", n)
	}
}

func numberOf(d *wal.Delivery) (n int64, err error) {
	var b bytes.Buffer
	if _, err := d.Body.WriteTo(&b); err != nil {
		return 0, err
	}
	head, _, _ := bytes.Cut(b.Bytes(), []byte("\n"))
	if n, err = strconv.ParseInt(string(head), 10, 64); err != nil {
		return 0, err
	}
	if !bytes.Equal(b.Bytes(), body(n)) {
		return 0, fmt.Errorf("message %d has other bytes", n)
	}
	return n, nil
}

// deliver delivers the bounces.
func (c *coreProcess) deliver() {
	for {
		d, err := c.s.Claim(context.Background(), "bounces")
		if err != nil {
			return
		}
		if err := d.SettleAll(context.Background(), wal.Delivered); err != nil {
			c.say("error bounce: %v", err)
			return
		}
	}
}
