package system

import (
	"encoding/binary"
	"fmt"
	"sync"
)

// appendLog is a log of entries by index, as the write-ahead logs of Raft are one.
type appendLog interface {
	// write makes entries durable; their indexes follow those before.
	write(entries [][]byte) error
	read(index uint64, f func([]byte) error) error // ErrUnable: a log that can't be read at random
	// drop gives back entries below an index.
	drop(below uint64) error
	close() error
}

// logKV is a kv on a log. A put is an entry, a delete a short one; where things are is in
// memory, and the log is cut at the front where nothing alive is left, as Raft does it behind a
// snapshot. What can't be read at random keeps bodies in memory.
type logKV struct {
	log    appendLog
	group  grouper[op]
	memory bool // bodies are kept in memory

	mu    sync.Mutex
	next  uint64 // index of the next entry
	first uint64 // index of the first that may be alive
	live  map[string]place
	alive map[uint64]struct{} // indexes
	since int                 // bytes written since the front was cut
}

type place struct {
	index uint64
	value []byte // of states, and of bodies where they are kept
}

const (
	entryHeader = 10
	entryDelete = 1
	// cutEvery is how often the front of the log is cut, in bytes.
	cutEvery = 16 << 20
)

func newLogKV(log appendLog, first uint64, memory bool) *logKV {
	l := &logKV{log: log, memory: memory, next: first, first: first, live: make(map[string]place), alive: make(map[uint64]struct{})}
	l.group.commit = l.commit
	return l
}

// replay takes in an entry that was in the log.
func (l *logKV) replay(index uint64, e []byte) error {
	if len(e) < entryHeader {
		return fmt.Errorf("entry %d has %d bytes", index, len(e))
	}
	o := op{space: space(e[1]), id: binary.LittleEndian.Uint64(e[2:]), del: e[0] == entryDelete, value: e[entryHeader:]}
	l.note(o, index)
	l.next = index + 1
	return nil
}

// note keeps what an entry says.
func (l *logKV) note(o op, index uint64) {
	k := string(o.key())
	if was, ok := l.live[k]; ok {
		delete(l.alive, was.index)
	}
	if o.del {
		delete(l.live, k)
		return
	}
	p := place{index: index}
	if o.space == states || l.memory {
		p.value = append([]byte(nil), o.value...)
	}
	l.live[k] = p
	l.alive[index] = struct{}{}
}

func (l *logKV) apply(ops []op) error { return l.group.do(ops...) }

func (l *logKV) commit(ops []op) error {
	const part = 4 << 20
	var entries [][]byte
	n, from := 0, 0
	flush := func(to int) error {
		if err := l.log.write(entries); err != nil {
			return err
		}
		l.mu.Lock()
		for _, o := range ops[from:to] {
			l.note(o, l.next)
			l.next++
		}
		l.since += n
		l.mu.Unlock()
		entries, n, from = nil, 0, to
		return nil
	}
	for i, o := range ops {
		e := make([]byte, entryHeader, entryHeader+len(o.value))
		if o.del {
			e[0] = entryDelete
		}
		e[1] = byte(o.space)
		binary.LittleEndian.PutUint64(e[2:], o.id)
		entries = append(entries, append(e, o.value...))
		if n += len(o.value) + entryHeader; n >= part {
			if err := flush(i + 1); err != nil {
				return err
			}
		}
	}
	if len(entries) > 0 {
		if err := flush(len(ops)); err != nil {
			return err
		}
	}
	if l.since >= cutEvery {
		return l.cut()
	}
	return nil
}

// cut drops the entries in front of the first that is alive.
func (l *logKV) cut() error {
	l.mu.Lock()
	l.since = 0
	first := l.first
	for ; first < l.next-1; first++ {
		if _, ok := l.alive[first]; ok {
			break
		}
	}
	moved := first != l.first
	l.first = first
	l.mu.Unlock()
	if !moved {
		return nil
	}
	return l.log.drop(first)
}

func (l *logKV) get(s space, id uint64, f func([]byte)) error {
	l.mu.Lock()
	p, ok := l.live[string(keyOf(s, id))]
	l.mu.Unlock()
	if !ok {
		return fmt.Errorf("key %d is missing", id)
	}
	if p.value != nil || l.memory {
		f(p.value)
		return nil
	}
	return l.log.read(p.index, func(e []byte) error { f(e[entryHeader:]); return nil })
}

func (l *logKV) scan(s space, f func(uint64, []byte) error) error {
	for k, p := range l.live {
		if k[0] != byte(s) {
			continue
		}
		if err := f(binary.BigEndian.Uint64([]byte(k[1:])), p.value); err != nil {
			return err
		}
	}
	return nil
}

func (l *logKV) cleared() error { return l.cut() }
func (l *logKV) close() error   { return l.log.close() }
