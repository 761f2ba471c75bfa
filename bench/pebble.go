package main

import (
	"encoding/binary"
	"fmt"
	"sync"
	"sync/atomic"

	"github.com/cockroachdb/pebble/v2"
)

var pebbleMaker = maker{name: "pebble 2.1.7", durable: "pebble.Sync", open: openPebble}

// peb is Pebble as a queue: keys are numbers that grow, the queue of them is in memory,
// so that a claim costs one Get. The options are those that suit the load: large
// memtables, and no stalls for files in level 0.
type peb struct {
	db   *pebble.DB
	next atomic.Uint64

	mu    sync.Mutex
	queue []uint64
	from  uint64
}

func pebbleOptions() *pebble.Options {
	return &pebble.Options{
		MemTableSize:                64 << 20,
		MemTableStopWritesThreshold: 8,
		L0CompactionThreshold:       8,
		L0StopWritesThreshold:       1000,
		Logger:                      quiet{},
	}
}

type quiet struct{}

func (quiet) Infof(string, ...any)           {}
func (quiet) Errorf(string, ...any)          {}
func (quiet) Fatalf(format string, a ...any) { panic(fmt.Sprintf(format, a...)) }

func openPebble(dir string, _ shape) (system, error) {
	db, err := pebble.Open(dir, pebbleOptions())
	if err != nil {
		return nil, err
	}
	return &peb{db: db}, nil
}

func key(n uint64) []byte { return binary.BigEndian.AppendUint64(nil, n) }

func (p *peb) Enqueue(_ int, body []byte) error {
	return p.db.Set(key(p.next.Add(1)), body, pebble.Sync)
}

func (p *peb) Cycle(_ int, body []byte) error {
	n := p.next.Add(1)
	if err := p.db.Set(key(n), body, pebble.Sync); err != nil {
		return err
	}
	p.mu.Lock()
	p.queue = append(p.queue, n)
	n, p.queue = p.queue[0], p.queue[1:]
	p.mu.Unlock()
	b, closer, err := p.db.Get(key(n))
	if err != nil {
		return err
	}
	touch(b)
	if err := closer.Close(); err != nil {
		return err
	}
	return p.db.Delete(key(n), pebble.Sync)
}

func (p *peb) Reset() error {
	to := p.next.Load() + 1
	if err := p.db.DeleteRange(key(p.from), key(to), pebble.Sync); err != nil {
		return err
	}
	if err := p.db.Flush(); err != nil {
		return err
	}
	// Tables that lie in the deleted range whole are dropped; that is cheap.
	if err := p.db.Compact(ctx, key(p.from), key(to), false); err != nil {
		return err
	}
	p.from = to
	return nil
}

func (p *peb) Close() error { return p.db.Close() }
