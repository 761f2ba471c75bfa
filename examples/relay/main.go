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
	"sync"
	"syscall"

	"github.com/mtawal/mtawal/mailq"
	"github.com/mtawal/mtawal/wal"
)

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
	flush <-chan os.Signal // all that is deferred is to be tried now
}

func storeOptions(cfg config, log *slog.Logger) wal.Options {
	return wal.Options{
		MaxMessage:    max(cfg.maxSize, bounceMax) + headerRoom,
		MaxRecipients: max(cfg.maxRecipients, wal.MaxRecipientsDefault), // lists have more
		StagedMax:     cfg.maxConnections,
		StageTimeout:  2 * idleMax, // a client is cut off before
		Logger:        log,
	}
}

// run opens the store, says on out where it listens, and relays mail until ctx
// ends or the store fails.
func run(ctx context.Context, cfg config, out io.Writer) (err error) {
	log := slog.New(slog.NewTextHandler(os.Stderr, nil))
	box, err := openMaildir(cfg.maildir)
	if err != nil {
		return err
	}
	store, err := wal.Open(cfg.storeDir, storeOptions(cfg, log))
	if err != nil {
		return fmt.Errorf("opening the store %s: %w", cfg.storeDir, err)
	}
	defer func() { err = errors.Join(err, store.Close()) }()

	flush := make(chan os.Signal, 1)
	signal.Notify(flush, syscall.SIGHUP)
	defer signal.Stop(flush)
	l, err := net.Listen("tcp", cfg.listen)
	if err != nil {
		return err
	}
	if _, err := fmt.Fprintln(out, "listening", l.Addr()); err != nil {
		return errors.Join(err, l.Close())
	}
	r := &relay{cfg: cfg, store: store, box: box, log: log, flush: flush}
	return r.serve(ctx, l)
}

// flushAll makes all that is deferred due, and asks the hosts that were down.
func (r *relay) flushAll(ctx context.Context, s *sites) error {
	s.retry()
	for q, err := range r.store.Queues(ctx) {
		if err != nil {
			return err
		}
		if q.Deferred == 0 {
			continue
		}
		if err := r.store.Flush(ctx, q.Name); err != nil {
			return err
		}
	}
	return nil
}

// serve looks through what a crash left, then runs both sides until ctx ends or one of them fails, then stops them in
// bounded time. It shuts the store down.
func (r *relay) serve(ctx context.Context, l net.Listener) error {
	if err := errors.Join(r.setPolicies(ctx), r.resolveDoubt(ctx)); err != nil {
		return errors.Join(err, l.Close())
	}
	consumer, err := r.store.Consumer(mailq.ConsumerOptions{
		InFlight: r.cfg.workers,
		// One host that hangs leaves the other half of the workers.
		PerGroup: max(1, r.cfg.workers/2),
		// A delivery can't have happened before the final dot.
		ManualStart: true,
	})
	if err != nil {
		return errors.Join(fmt.Errorf("opening the consumer: %w", err), l.Close())
	}
	sites := newSites(r.cfg, consumer)
	failed := make(chan error, r.cfg.workers+1)
	var workers sync.WaitGroup
	for range r.cfg.workers {
		workers.Go(func() { failed <- r.work(consumer, sites) })
	}
	srv := r.newServer()
	workers.Go(func() { failed <- srv.Serve(&drainListener{Listener: l, most: r.cfg.maxConnections}) })

	var cause error
	for waiting := true; waiting; {
		select {
		case <-r.flush:
			if err := r.flushAll(ctx, sites); err != nil {
				r.log.Warn("not all of the queues is tried now", "err", err)
			}
		case <-ctx.Done():
			waiting = false
		case cause = <-failed:
			waiting = false
		}
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
