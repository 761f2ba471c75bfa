package drill

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"os/signal"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/mtawal/mtawal/mailq"
)

// order is what the parent tells a core: the first line on its standard input,
// as JSON. A line "stop" asks for a clean end; the end of the input means that
// the parent is gone.
type order struct {
	Store     string
	Dir       string
	Socket    string
	Seed      uint64
	Life      int
	First     uint64 // serial of the first message to make
	Count     int    // of messages to make
	Producers int
	Consumers int
	Mail      string
	// Companions is what ParseCompanions reads.
	Companions string
}

const (
	stateEvery  = 10 * time.Millisecond
	stopTimeout = 20 * time.Second
)

// RunCore is the child process: an MTA core on one of the engines. It ends with
// the exit code for the process.
func RunCore(engines []Engine, stdin io.Reader, stdout io.Writer) int {
	signal.Ignore(os.Interrupt) // it is for the parent to decide
	in := bufio.NewReader(stdin)
	line, err := in.ReadString('\n')
	if err != nil {
		fmt.Fprintln(os.Stderr, "a core is started by the drill alone:", err)
		return 2
	}
	c := &core{rep: &reporter{w: stdout, gone: func(error) { os.Exit(3) }}, ended: make(chan struct{})}
	if err := json.Unmarshal([]byte(line), &c.order); err != nil {
		fmt.Fprintln(os.Stderr, "read the order:", err)
		return 2
	}
	stop := make(chan struct{})
	go func() {
		if s, _ := in.ReadString('\n'); strings.TrimSpace(s) != "stop" {
			os.Exit(3)
		}
		close(stop)
		in.ReadString('\n')
		os.Exit(3)
	}()
	if err := c.run(engines, stop); err != nil {
		c.rep.say(fatalLine(err))
		return 1
	}
	c.rep.say("stopped\n")
	return 0
}

type core struct {
	order
	rep   *reporter
	load  *Load
	store mailq.Store
	next  atomic.Uint64 // serials handed to producers, from 0

	wg    sync.WaitGroup
	busy  atomic.Int64 // producers at work
	once  sync.Once
	err   error // the first fatal one
	ended chan struct{}
}

// fail ends the core with an error; the first one counts.
func (c *core) fail(err error) {
	c.once.Do(func() {
		c.err = err
		close(c.ended)
	})
}

func (c *core) run(engines []Engine, stop <-chan struct{}) error {
	e, err := engineOf(engines, c.Store)
	if err != nil {
		return err
	}
	var mail *Mail
	if c.Mail != "" {
		if mail, err = OpenMail(c.Mail); err != nil {
			return err
		}
	}
	c.load = NewLoad(c.Seed, mail)

	c.rep.say("opening\n")
	begin := time.Now()
	with, err := ParseCompanions(c.Companions)
	if err != nil {
		return err
	}
	if c.store, err = e.Open(c.Dir, with); err != nil {
		return fmt.Errorf("open the store: %w", err)
	}
	c.rep.say(fmt.Sprintf("opened %d\n", time.Since(begin)))

	if err := c.start(); err != nil {
		c.store.Close()
		return err
	}
	if with&Compaction != 0 {
		c.wg.Go(func() { c.guard(c.compact) })
	}
	c.watch(stop)
	if c.err != nil {
		c.store.Close()
		c.wg.Wait()
		return c.err
	}
	ctx, cancel := context.WithTimeout(context.Background(), stopTimeout)
	defer cancel()
	if err := c.store.Shutdown(ctx); err != nil {
		return fmt.Errorf("shut down: %w", err)
	}
	c.wg.Wait()
	return c.err
}

// start opens the consumers and sets everybody to work. A quarter of the workers
// serves the local queue and says itself when a delivery starts; with fewer than
// four one consumer has it all.
func (c *core) start() error {
	remote, local := mailq.ConsumerOptions{Prefix: "smtp:"}, mailq.ConsumerOptions{Queues: []string{localQueue}, ManualStart: true}
	locals := c.Consumers / 4
	if locals == 0 {
		remote = mailq.ConsumerOptions{}
	}
	var consumers []mailq.Consumer
	for _, o := range []mailq.ConsumerOptions{remote, local} {
		con, err := c.store.Consumer(o)
		if err != nil {
			return fmt.Errorf("open a consumer: %w", err)
		}
		consumers = append(consumers, con)
	}
	for i := range c.Consumers {
		w := &worker{core: c, consumer: consumers[0], from: i}
		if i < locals {
			w.consumer, w.manual = consumers[1], true
		}
		c.wg.Go(func() { c.guard(w.run) })
	}
	c.busy.Store(int64(c.Producers))
	for range c.Producers {
		c.wg.Go(func() {
			c.guard(c.produce)
			c.busy.Add(-1)
		})
	}
	return nil
}

// guard makes an error of a worker that of the core; that the store closes is
// none.
func (c *core) guard(f func() error) {
	if err := f(); err != nil && !errors.Is(err, mailq.ErrClosed) {
		c.fail(err)
	}
}

// watch reports the store's state until it is told to stop or something failed.
func (c *core) watch(stop <-chan struct{}) {
	tick := time.NewTicker(stateEvery)
	defer tick.Stop()
	drained := false
	for {
		select {
		case <-stop:
			return
		case <-c.ended:
			return
		case <-tick.C:
		}
		done := c.busy.Load() == 0 // asked before the state, which then holds all that was produced
		st := c.store.Stats()
		s := State{st.Pending, st.Deferred, st.Held, st.Claimed, st.WorkQueueLength}
		if drained {
			continue
		}
		c.rep.say(stateLine(s))
		if drained = done && s.Backlog() == 0; drained {
			c.rep.say("drained\n")
		}
	}
}

// produce enqueues messages until there are no more to make.
func (c *core) produce() error {
	ctx := context.Background()
	for {
		n := c.next.Add(1) - 1
		if n >= uint64(c.Count) {
			return nil
		}
		m, err := c.load.Message(c.First + n)
		if err != nil {
			return err
		}
		if n%3 == 0 {
			m.Message.ID = c.store.NewID()
		}
		c.rep.say(intendLine(m))
		for {
			_, err := c.store.Enqueue(ctx, m.Message)
			if err == nil {
				break
			}
			if !errors.Is(err, mailq.ErrFull) {
				return fmt.Errorf("enqueue message %s: %w", m.Key, err)
			}
			select {
			case <-c.ended:
				return nil
			case <-time.After(5 * time.Millisecond):
			}
		}
		c.rep.say(acceptLine(m.Key))
	}
}
