package system

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"time"

	"github.com/cockroachdb/pebble/v2"
)

// Pebble groups the commits of many goroutines itself. Its options suit the load: large
// memtables, no stalls for files in level 0, and values in blob files, so that bodies are
// neither compacted again and again nor read by the scan for keys.
var Pebble = Spec{
	Name: "pebble", Module: "github.com/cockroachdb/pebble/v2",
	Durable: "pebble.Sync; its own group commit",
	Queue:   "Set; next ID from memory and Get; Delete; Set of the time",
	Open: func(dir string, _ Options) (System, error) {
		db, err := pebble.Open(dir, pebbleOptions())
		if err != nil {
			return nil, err
		}
		return newKVQueue(&pebbleKV{db: db}, false)
	},
}

func pebbleOptions() *pebble.Options {
	o := &pebble.Options{
		FormatMajorVersion:          pebble.FormatValueSeparation,
		MemTableSize:                64 << 20,
		MemTableStopWritesThreshold: 8,
		L0CompactionThreshold:       8,
		L0StopWritesThreshold:       1000,
		Logger:                      pebbleQuiet{},
	}
	o.Experimental.ValueSeparationPolicy = func() pebble.ValueSeparationPolicy {
		return pebble.ValueSeparationPolicy{Enabled: true, MinimumSize: 256, MaxBlobReferenceDepth: 10,
			RewriteMinimumAge: 10 * time.Second, TargetGarbageRatio: 0.3}
	}
	return o
}

type pebbleQuiet struct{}

func (pebbleQuiet) Infof(string, ...any)           {}
func (pebbleQuiet) Errorf(string, ...any)          {}
func (pebbleQuiet) Fatalf(format string, a ...any) { panic(fmt.Sprintf(format, a...)) }

type pebbleKV struct{ db *pebble.DB }

func (p *pebbleKV) apply(ops []op) error {
	if len(ops) == 1 {
		if ops[0].del {
			return p.db.Delete(ops[0].key(), pebble.Sync)
		}
		return p.db.Set(ops[0].key(), ops[0].value, pebble.Sync)
	}
	b := p.db.NewBatch()
	for _, o := range ops {
		var err error
		if o.del {
			err = b.Delete(o.key(), nil)
		} else {
			err = b.Set(o.key(), o.value, nil)
		}
		if err != nil {
			return errors.Join(err, b.Close())
		}
	}
	return errors.Join(b.Commit(pebble.Sync), b.Close())
}

func (p *pebbleKV) get(s space, id uint64, f func([]byte)) error {
	v, closer, err := p.db.Get(keyOf(s, id))
	if err != nil {
		return err
	}
	f(v)
	return closer.Close()
}

func (p *pebbleKV) scan(s space, f func(uint64, []byte) error) (err error) {
	it, err := p.db.NewIter(&pebble.IterOptions{LowerBound: []byte{byte(s)}, UpperBound: []byte{byte(s) + 1}})
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, it.Close()) }()
	for ok := it.First(); ok; ok = it.Next() {
		var v []byte
		if s == states {
			if v, err = it.ValueAndErr(); err != nil {
				return err
			}
		}
		if err := f(binary.BigEndian.Uint64(it.Key()[1:]), v); err != nil {
			return err
		}
	}
	return it.Error()
}

// cleared flushes and has tables that hold nothing alive dropped.
func (p *pebbleKV) cleared() error {
	if err := p.db.Flush(); err != nil {
		return err
	}
	return p.Compact()
}

func (p *pebbleKV) Checkpoint() error { return p.db.Flush() }

func (p *pebbleKV) Compact() error {
	return p.db.Compact(context.Background(), []byte{0}, []byte{0xff}, false)
}

func (p *pebbleKV) close() error { return p.db.Close() }
