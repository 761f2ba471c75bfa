//go:build !lean

package system

import (
	"encoding/binary"
	"errors"

	"github.com/dgraph-io/badger/v4"
	"github.com/dgraph-io/badger/v4/options"
)

// Badger keeps bodies in its value log, so that a scan reads keys alone. Transactions of
// many goroutines share one: its own pipeline syncs once for each that it takes from its channel.
var Badger = Spec{
	Name: "badger", Module: "github.com/dgraph-io/badger/v4",
	Durable: "SyncWrites; what waits meanwhile goes into one transaction",
	Queue:   "Set; next ID from memory and Get; Delete; Set of the time",
	Open: func(dir string, _ Options) (System, error) {
		o := badger.DefaultOptions(dir).WithSyncWrites(true).WithLogger(nil).WithValueThreshold(256).
			WithCompression(options.None).WithDetectConflicts(false).WithNumVersionsToKeep(1).WithMetricsEnabled(false)
		db, err := badger.Open(o)
		if err != nil {
			return nil, err
		}
		b := &badgerKV{db: db}
		b.group.commit = b.commit
		return newKVQueue(b, false)
	},
}

type badgerKV struct {
	db    *badger.DB
	group grouper[op]
}

func (b *badgerKV) apply(ops []op) error { return b.group.do(ops...) }

func (b *badgerKV) commit(ops []op) error {
	txn := b.db.NewTransaction(true)
	defer func() { txn.Discard() }()
	for _, o := range ops {
		do := func() error {
			if o.del {
				return txn.Delete(o.key())
			}
			return txn.Set(o.key(), o.value)
		}
		err := do()
		if errors.Is(err, badger.ErrTxnTooBig) {
			if err := txn.Commit(); err != nil {
				return err
			}
			txn = b.db.NewTransaction(true)
			err = do()
		}
		if err != nil {
			return err
		}
	}
	return txn.Commit()
}

func (b *badgerKV) get(s space, id uint64, f func([]byte)) error {
	return b.db.View(func(txn *badger.Txn) error {
		item, err := txn.Get(keyOf(s, id))
		if err != nil {
			return err
		}
		return item.Value(func(v []byte) error { f(v); return nil })
	})
}

func (b *badgerKV) scan(s space, f func(uint64, []byte) error) error {
	return b.db.View(func(txn *badger.Txn) error {
		it := txn.NewIterator(badger.IteratorOptions{Prefix: []byte{byte(s)}})
		defer it.Close()
		for it.Rewind(); it.Valid(); it.Next() {
			id := binary.BigEndian.Uint64(it.Item().Key()[1:])
			if s == bodies {
				if err := f(id, nil); err != nil {
					return err
				}
				continue
			}
			if err := it.Item().Value(func(v []byte) error { return f(id, v) }); err != nil {
				return err
			}
		}
		return nil
	})
}

// cleared collects value log files in which little is alive, as a user has to.
func (b *badgerKV) cleared() error { return b.Compact() }

func (b *badgerKV) Checkpoint() error { return ErrUnable }

func (b *badgerKV) Compact() error {
	for {
		switch err := b.db.RunValueLogGC(0.3); {
		case errors.Is(err, badger.ErrNoRewrite):
			return nil
		case err != nil:
			return err
		}
	}
}

func (b *badgerKV) close() error { return b.db.Close() }
