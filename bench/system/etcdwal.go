//go:build !lean

package system

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"

	"go.etcd.io/etcd/server/v3/storage/wal"
	"go.etcd.io/etcd/server/v3/storage/wal/walpb"
	"go.etcd.io/raft/v3/raftpb"
	"go.uber.org/zap"
)

// EtcdWAL is the write-ahead log of etcd. Save takes many entries with one sync: what waits meanwhile goes
// into one call. It can't be read but from the front, so bodies stay in memory, as etcd's entries do.
var EtcdWAL = Spec{
	Name: "etcd wal", Module: "go.etcd.io/etcd/server/v3",
	Durable: "fdatasync by each Save (always); what waits meanwhile goes into one call",
	Queue:   "entry; next ID and body from memory; entry; entry with the time. SaveSnapshot, and files in front of what is alive are removed",
	Slow:    true,
	Open:    openEtcd,
}

type etcdLog struct {
	dir  string
	w    *wal.WAL
	next uint64
}

func ptr[T any](v T) *T { return &v }

func openEtcd(dir string, _ Options) (System, error) {
	walDir := filepath.Join(dir, "wal")
	e := &etcdLog{dir: walDir, next: 1}
	lg := zap.NewNop()
	if !wal.Exist(walDir) {
		w, err := wal.Create(lg, walDir, nil)
		if err != nil {
			return nil, err
		}
		e.w = w
		return newKVQueue(newLogKV(e, 1, true), false)
	}
	// The newest snapshot in the log is where it begins.
	snaps, err := wal.ValidSnapshotEntries(lg, walDir)
	if err != nil {
		return nil, err
	}
	snap := &walpb.Snapshot{}
	if len(snaps) > 0 {
		snap = snaps[len(snaps)-1]
	}
	w, err := wal.Open(lg, walDir, snap)
	if err != nil {
		return nil, err
	}
	e.w = w
	_, _, entries, err := w.ReadAll()
	if err != nil {
		return nil, errors.Join(err, w.Close())
	}
	kv := newLogKV(e, snap.GetIndex()+1, true)
	e.next = snap.GetIndex() + 1
	for _, en := range entries {
		if err := kv.replay(en.GetIndex(), en.GetData()); err != nil {
			return nil, errors.Join(err, w.Close())
		}
		e.next = en.GetIndex() + 1
	}
	return newKVQueue(kv, false)
}

func (e *etcdLog) write(entries [][]byte) error {
	list := make([]*raftpb.Entry, len(entries))
	for i, b := range entries {
		list[i] = &raftpb.Entry{Term: ptr(uint64(1)), Index: ptr(e.next + uint64(i)), Data: b}
	}
	last := e.next + uint64(len(entries)) - 1
	// The commit index is what makes a snapshot of an entry valid when the log is read.
	st := &raftpb.HardState{Term: ptr(uint64(1)), Vote: ptr(uint64(0)), Commit: ptr(last)}
	if err := e.w.Save(st, list); err != nil {
		return err
	}
	e.next = last + 1
	return nil
}

func (e *etcdLog) read(uint64, func([]byte) error) error { return ErrUnable }

func (e *etcdLog) drop(below uint64) error {
	if below < 2 {
		return nil
	}
	if err := e.w.SaveSnapshot(&walpb.Snapshot{Term: ptr(uint64(1)), Index: ptr(below - 1), ConfState: &raftpb.ConfState{}}); err != nil {
		return err
	}
	if err := e.w.ReleaseLockTo(below - 1); err != nil {
		return err
	}
	// etcd removes what is released in the background; released files are those in front.
	names, err := filepath.Glob(filepath.Join(e.dir, "*.wal"))
	if err != nil {
		return err
	}
	keep := 0
	for i, n := range names {
		var first uint64
		if _, err := parseWAL(filepath.Base(n), &first); err == nil && first <= below-1 {
			keep = i
		}
	}
	for _, n := range names[:keep] {
		if err := os.Remove(n); err != nil {
			return err
		}
	}
	return nil
}

func (e *etcdLog) close() error { return e.w.Close() }

// parseWAL takes the index of the first entry from a file's name.
func parseWAL(name string, first *uint64) (seq uint64, err error) {
	_, err = fmt.Sscanf(name, "%016x-%016x.wal", &seq, first)
	return seq, err
}
