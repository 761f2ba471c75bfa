package system

import (
	"errors"
	"os"

	"github.com/hashicorp/go-hclog"
	"github.com/hashicorp/raft"
	raftwal "github.com/hashicorp/raft-wal"
	"github.com/hashicorp/raft-wal/metadb"
)

// RaftWAL is hashicorp/raft-wal. StoreLogs takes many entries with one sync: what waits meanwhile goes
// into one call.
var RaftWAL = Spec{
	Name: "raft-wal", Module: "github.com/hashicorp/raft-wal",
	Durable: "fsync by each StoreLogs (always); what waits meanwhile goes into one call",
	Queue:   "entry; next ID from memory and GetLog; entry; entry with the time. DeleteRange in front of what is alive",
	Slow:    true,
	Open: func(dir string, _ Options) (System, error) {
		// WAL.Close leaves the metadata open, and the file of it locked.
		meta := &metadb.BoltMetaDB{}
		w, err := raftwal.Open(dir, raftwal.WithLogger(hclog.NewNullLogger()), raftwal.WithMetaStore(meta))
		if err != nil {
			return nil, err
		}
		first, err := w.FirstIndex()
		if err != nil {
			return nil, errors.Join(err, w.Close())
		}
		last, err := w.LastIndex()
		if err != nil {
			return nil, errors.Join(err, w.Close())
		}
		r := &raftLog{w: w, meta: meta, next: max(last+1, 1)}
		kv := newLogKV(r, max(first, 1), false)
		for i := first; i != 0 && i <= last; i++ {
			if err := r.read(i, func(e []byte) error { return kv.replay(i, e) }); err != nil {
				return nil, errors.Join(err, w.Close())
			}
		}
		return newKVQueue(kv, false)
	},
}

type raftLog struct {
	w    *raftwal.WAL
	meta *metadb.BoltMetaDB
	next uint64
}

func (r *raftLog) write(entries [][]byte) error {
	logs := make([]*raft.Log, len(entries))
	for i, e := range entries {
		logs[i] = &raft.Log{Index: r.next + uint64(i), Term: 1, Data: e}
	}
	if err := r.w.StoreLogs(logs); err != nil {
		return err
	}
	r.next += uint64(len(entries))
	return nil
}

func (r *raftLog) read(index uint64, f func([]byte) error) error {
	var l raft.Log
	if err := r.w.GetLog(index, &l); err != nil {
		return err
	}
	return f(l.Data)
}

func (r *raftLog) drop(below uint64) error {
	first, err := r.w.FirstIndex()
	if err != nil || below <= first {
		return err
	}
	err = r.w.DeleteRange(first, below-1)
	if errors.Is(err, os.ErrNotExist) {
		return nil
	}
	return err
}

func (r *raftLog) close() error { return errors.Join(r.w.Close(), r.meta.Close()) }
