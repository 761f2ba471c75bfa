package system

import (
	"encoding/binary"
	"errors"
	"fmt"
	"path/filepath"
	"time"

	"go.etcd.io/bbolt"
)

// Bbolt is given Batch with as many calls a transaction as there are producers, so that it does
// not wait for its delay when all of them are there. A bucket for bodies, one for recipients.
var Bbolt = Spec{
	Name: "bbolt", Module: "go.etcd.io/bbolt",
	Durable: "fdatasync by each transaction (the default); DB.Batch, MaxBatchSize = producers, MaxBatchDelay 1 ms",
	Queue:   "Put of body and recipient; next ID from memory and Get; Delete of both; Put of the time",
	Open: func(dir string, o Options) (System, error) {
		db, err := bbolt.Open(filepath.Join(dir, "bolt"), 0o600, &bbolt.Options{FreelistType: bbolt.FreelistMapType, NoFreelistSync: true})
		if err != nil {
			return nil, err
		}
		db.MaxBatchSize, db.MaxBatchDelay = max(o.Producers, 1), time.Millisecond
		err = db.Update(func(tx *bbolt.Tx) error {
			for _, s := range []space{bodies, states} {
				b, err := tx.CreateBucketIfNotExists([]byte{byte(s)})
				if err != nil {
					return err
				}
				b.FillPercent = 0.9 // keys grow
			}
			return nil
		})
		if err != nil {
			return nil, errors.Join(err, db.Close())
		}
		return newKVQueue(&boltKV{db: db}, true)
	},
}

type boltKV struct{ db *bbolt.DB }

func bucket(tx *bbolt.Tx, s space) *bbolt.Bucket {
	b := tx.Bucket([]byte{byte(s)})
	b.FillPercent = 0.9
	return b
}

func boltKey(id uint64) []byte { return binary.BigEndian.AppendUint64(nil, id) }

func (b *boltKV) apply(ops []op) error {
	return b.db.Batch(func(tx *bbolt.Tx) error {
		for _, o := range ops {
			var err error
			if o.del {
				err = bucket(tx, o.space).Delete(boltKey(o.id))
			} else {
				err = bucket(tx, o.space).Put(boltKey(o.id), o.value)
			}
			if err != nil {
				return err
			}
		}
		return nil
	})
}

func (b *boltKV) get(s space, id uint64, f func([]byte)) error {
	return b.db.View(func(tx *bbolt.Tx) error {
		v := tx.Bucket([]byte{byte(s)}).Get(boltKey(id))
		if v == nil {
			return fmt.Errorf("key %d is missing", id)
		}
		f(v)
		return nil
	})
}

func (b *boltKV) scan(s space, f func(uint64, []byte) error) error {
	return b.db.View(func(tx *bbolt.Tx) error {
		return tx.Bucket([]byte{byte(s)}).ForEach(func(k, v []byte) error {
			return f(binary.BigEndian.Uint64(k), v)
		})
	})
}

func (b *boltKV) cleared() error { return nil } // free pages are used again
func (b *boltKV) close() error   { return b.db.Close() }
