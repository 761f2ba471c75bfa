// Relay is a small SMTP relay that links mtawal as the queue of a mail
// transfer agent would. It is meant to be read: server.go takes mail in,
// deliver.go takes it out, and README.md maps each SMTP situation to the call
// that answers for it.
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"io"
	"log/slog"
	"net"
	"os"
	"os/signal"
	"strings"
	"sync"
	"syscall"
	"time"

	"github.com/mtawal/mtawal/mailq"
	"github.com/mtawal/mtawal/wal"
)

// config is what the flags say.
type config struct {
	listen   string
	storeDir string
	maildir  string
	hostname string
	local    map[string]bool // domains delivered into the Maildir, lower case
	nextHop  string          // host:port for all other mail; "": there is no other mail

	workers       int
	maxSize       int64 // bytes of a message
	maxRecipients int
	retryBase     time.Duration
	retryMax      time.Duration
	stopTimeout   time.Duration
	commandWait   time.Duration // for a reply of the next hop
	finalWait     time.Duration // for the transfer of a body, then for the reply to the final dot
}

func parseFlags(args []string, output io.Writer) (config, error) {
	var c config
	var domains string
	host, err := os.Hostname()
	if err != nil {
		host = "localhost"
	}
	fs := flag.NewFlagSet("relay", flag.ContinueOnError)
	fs.SetOutput(output)
	fs.StringVar(&c.listen, "listen", "127.0.0.1:2525", "`address` to accept SMTP on; there is no authentication, keep it on loopback")
	fs.StringVar(&c.storeDir, "store", "queue", "`directory` of the store")
	fs.StringVar(&c.maildir, "maildir", "Maildir", "`directory` that mail for local domains goes to")
	fs.StringVar(&c.hostname, "hostname", host, "`name` of this relay in greetings and headers")
	fs.StringVar(&domains, "local-domains", "localhost", "`domains` delivered into the Maildir, separated by commas")
	fs.StringVar(&c.nextHop, "next-hop", "", "`host:port` that all other mail goes to; without it only local mail is accepted")
	fs.IntVar(&c.workers, "workers", 8, "deliveries at a time")
	fs.Int64Var(&c.maxSize, "max-size", 10<<20, "largest message in `bytes`")
	fs.IntVar(&c.maxRecipients, "max-recipients", 1000, "most recipients of a message")
	fs.DurationVar(&c.retryBase, "retry-base", time.Minute, "wait before the second attempt; it doubles each time")
	fs.DurationVar(&c.retryMax, "retry-max", 4*time.Hour, "longest wait between attempts")
	fs.DurationVar(&c.stopTimeout, "stop-timeout", 30*time.Second, "what deliveries under way get to finish on SIGTERM")
	fs.DurationVar(&c.commandWait, "command-timeout", 5*time.Minute, "wait for a reply of the next hop")
	fs.DurationVar(&c.finalWait, "data-timeout", 10*time.Minute, "time to send a body, then wait for the reply to the final dot")
	if err := fs.Parse(args); err != nil {
		return config{}, err
	}
	c.local = make(map[string]bool)
	for d := range strings.SplitSeq(domains, ",") {
		if d = strings.ToLower(strings.TrimSpace(d)); d != "" {
			c.local[d] = true
		}
	}
	switch {
	case fs.NArg() > 0:
		return config{}, fmt.Errorf("unexpected argument %q", fs.Arg(0))
	case c.workers < 1 || c.maxRecipients < 1 || c.maxSize < 1:
		return config{}, errors.New("-workers, -max-recipients and -max-size must be at least 1")
	case c.retryBase <= 0 || c.retryMax < c.retryBase:
		return config{}, errors.New("-retry-base must be above 0 and at most -retry-max")
	case c.stopTimeout <= 0 || c.commandWait <= 0 || c.finalWait <= 0:
		return config{}, errors.New("timeouts must be above 0")
	}
	return c, nil
}

func main() {
	cfg, err := parseFlags(os.Args[1:], os.Stderr)
	if errors.Is(err, flag.ErrHelp) {
		return
	}
	if err != nil {
		fmt.Fprintln(os.Stderr, "relay:", err)
		os.Exit(2)
	}
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	if err := run(ctx, cfg, os.Stdout); err != nil {
		fmt.Fprintln(os.Stderr, "relay:", err)
		os.Exit(1)
	}
}

// relay is what the two sides share.
type relay struct {
	cfg   config
	store mailq.Store
	box   maildir
	log   *slog.Logger
}

// run opens the store, says on out where it listens, and relays mail until ctx
// ends or the store fails.
func run(ctx context.Context, cfg config, out io.Writer) (err error) {
	log := slog.New(slog.NewTextHandler(os.Stderr, nil))
	box, err := openMaildir(cfg.maildir)
	if err != nil {
		return err
	}
	store, err := wal.Open(cfg.storeDir, wal.Options{
		MaxMessage:    max(cfg.maxSize, bounceMax) + headerRoom,
		MaxRecipients: cfg.maxRecipients,
		Logger:        log,
	})
	if err != nil {
		return fmt.Errorf("opening the store %s: %w", cfg.storeDir, err)
	}
	defer func() { err = errors.Join(err, store.Close()) }()

	l, err := net.Listen("tcp", cfg.listen)
	if err != nil {
		return err
	}
	if _, err := fmt.Fprintln(out, "listening", l.Addr()); err != nil {
		return errors.Join(err, l.Close())
	}
	r := &relay{cfg: cfg, store: store, box: box, log: log}
	return r.serve(ctx, l)
}

// serve runs both sides until ctx ends or one of them fails, then stops them in
// bounded time. It shuts the store down.
func (r *relay) serve(ctx context.Context, l net.Listener) error {
	consumer, err := r.store.Consumer(mailq.ConsumerOptions{
		InFlight: r.cfg.workers,
		// One destination that hangs leaves the other half of the workers.
		PerGroup: max(1, r.cfg.workers/2),
	})
	if err != nil {
		return errors.Join(fmt.Errorf("opening the consumer: %w", err), l.Close())
	}
	failed := make(chan error, r.cfg.workers+1)
	var workers sync.WaitGroup
	for range r.cfg.workers {
		workers.Go(func() { failed <- r.work(consumer) })
	}
	srv := r.newServer()
	workers.Go(func() { failed <- srv.Serve(&drainListener{Listener: l}) })

	var cause error
	select {
	case <-ctx.Done():
	case cause = <-failed:
	}

	// First the doors: whoever is idle gets 421, whoever waits for a 250 gets
	// it. Then the claims: Shutdown waits for deliveries under way, and ends
	// their contexts when the time is over, which cuts their connections.
	stop, cancel := context.WithTimeout(context.Background(), r.cfg.stopTimeout)
	defer cancel()
	if err := srv.Shutdown(stop); err != nil {
		cause = errors.Join(cause, fmt.Errorf("closing SMTP connections: %w", err), srv.Close())
	}
	if err := r.store.Shutdown(stop); err != nil {
		cause = errors.Join(cause, fmt.Errorf("shutting the store down: %w", err))
	}
	workers.Wait()
	return errors.Join(cause, consumer.Close())
}
