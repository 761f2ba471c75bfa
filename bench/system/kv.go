package system

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"slices"
	"sync"
	"sync/atomic"
	"time"
)

// kv is a durable ordered store, as the key-value peers are one. The queue above it is
// the same for all: kvQueue.
type kv interface {
	// apply makes all of it durable, or nothing. Values may be used again afterwards.
	apply(ops []op) error
	get(s space, id uint64, f func(value []byte)) error
	// scan shows all of a space, in any order; values only of the recipients' space.
	scan(s space, f func(id uint64, value []byte) error) error
	// cleared makes the space of what was deleted ready for more. Not timed.
	cleared() error
	close() error
}

type op struct {
	space space
	id    uint64
	value []byte
	del   bool
}

// space is one of the two kinds of records.
type space byte

const (
	// bodies by message. The last bit of an ID says that the message has several recipients.
	bodies space = 'b'
	// states of recipients: when each is due, 0 for now. The ID is the message's with
	// the recipient's index in the last 7 bits. A recipient that is alone and not deferred
	// has none, unless the store keeps an index.
	states space = 'r'
)

const (
	rcptBits = 7
	rcptMask = 1<<rcptBits - 1
)

// kvQueue is a queue of mail on a kv. Enqueue puts the body, and a small record for each
// recipient where there are several. A claim takes the next ID from memory and gets the body. The
// used-mark deletes the recipient's record, and the body with the last of them. A deferral puts
// the small record with the time. After opening the queue is made anew from all keys.
type kvQueue struct {
	kv    kv
	index bool // single recipients too have a record, which is quicker to scan than bodies
	last  atomic.Uint64
	line  line

	mu       sync.Mutex
	left     map[uint64]int  // of messages with several recipients: how many are not used
	deferred map[uint64]bool // single recipients that have a record
	garbage  []uint64        // bodies whose recipients are used, durably: deleted with the next commit
}

func newKVQueue(store kv, index bool) (*kvQueue, error) {
	q := &kvQueue{kv: store, index: index, left: make(map[uint64]int), deferred: make(map[uint64]bool)}
	if err := q.load(); err != nil {
		return nil, errors.Join(err, store.close())
	}
	return q, nil
}

// load makes the queue in memory from what is there.
func (q *kvQueue) load() error {
	type item struct {
		id uint64
		at int64
	}
	var late []item
	var ready []uint64
	err := q.kv.scan(states, func(id uint64, value []byte) error {
		if len(value) != 8 {
			return fmt.Errorf("record of recipient %d has %d bytes", id, len(value))
		}
		at := int64(binary.LittleEndian.Uint64(value))
		if at > 0 {
			late = append(late, item{id, at})
		} else {
			ready = append(ready, id)
		}
		m := id >> rcptBits
		if m&1 == 1 {
			q.left[m]++
		} else if !q.index {
			q.deferred[m] = true
		}
		q.last.Store(max(q.last.Load(), m>>1))
		return nil
	})
	if err != nil {
		return err
	}
	if !q.index {
		err = q.kv.scan(bodies, func(id uint64, _ []byte) error {
			q.last.Store(max(q.last.Load(), id>>1))
			switch {
			case id&1 == 0 && !q.deferred[id]:
				ready = append(ready, id<<rcptBits)
			case id&1 == 1 && q.left[id] == 0:
				q.garbage = append(q.garbage, id)
			}
			return nil
		})
		if err != nil {
			return err
		}
	}
	if !slices.IsSorted(ready) {
		slices.Sort(ready)
	}
	q.line.push(ready...)
	for _, i := range late {
		q.line.pushAt(i.id, time.Unix(0, i.at))
	}
	return nil
}

var dueNow = make([]byte, 8)

// puts are the operations that enqueue a message.
func (q *kvQueue) puts(ops []op, body []byte, recipients int) (_ []op, id uint64) {
	id = q.last.Add(1) << 1
	if recipients > 1 {
		id |= 1
	}
	ops = append(ops, op{space: bodies, id: id, value: body})
	if recipients > 1 || q.index {
		for i := range recipients {
			ops = append(ops, op{space: states, id: id<<rcptBits | uint64(i), value: dueNow})
		}
	}
	return ops, id
}

func (q *kvQueue) Enqueue(m Message) error {
	ops, id := q.puts(nil, m.Body, m.Recipients)
	if m.Recipients > 1 {
		q.mu.Lock()
		q.left[id] = m.Recipients
		q.mu.Unlock()
	}
	if err := q.kv.apply(ops); err != nil {
		return err
	}
	ids := make([]uint64, m.Recipients)
	for i := range ids {
		ids[i] = id<<rcptBits | uint64(i)
	}
	q.line.push(ids...)
	return nil
}

func (q *kvQueue) Fill(list [][]byte) error {
	var ops []op
	ids := make([]uint64, len(list))
	for i, b := range list {
		var id uint64
		ops, id = q.puts(ops, b, 1)
		ids[i] = id << rcptBits
	}
	if err := q.kv.apply(ops); err != nil {
		return err
	}
	q.line.push(ids...)
	return nil
}

type kvJob struct {
	q  *kvQueue
	id uint64
}

func (q *kvQueue) Claim(ctx context.Context) (Job, error) {
	id, err := q.line.next(ctx)
	return kvJob{q, id}, err
}

func (q *kvQueue) Pending() int { return q.line.waiting() }

func (j kvJob) Read(f func([]byte)) error { return j.q.kv.get(bodies, j.id>>rcptBits, f) }

func (j kvJob) Used() error {
	q, m := j.q, j.id>>rcptBits
	defer q.line.ended()
	q.mu.Lock()
	var ops []op
	for _, g := range q.garbage {
		ops = append(ops, op{space: bodies, id: g, del: true})
	}
	q.garbage = q.garbage[:0]
	several := m&1 == 1
	if several || q.index || q.deferred[m] {
		ops = append(ops, op{space: states, id: j.id, del: true})
		delete(q.deferred, m)
	}
	q.mu.Unlock()
	if !several {
		ops = append(ops, op{space: bodies, id: m, del: true})
	}
	if err := q.kv.apply(ops); err != nil {
		return err
	}
	if several {
		// The body goes when the marks of all are durable: before, one that is not might
		// come back without it.
		q.mu.Lock()
		if q.left[m]--; q.left[m] == 0 {
			delete(q.left, m)
			q.garbage = append(q.garbage, m)
		}
		q.mu.Unlock()
	}
	return nil
}

func (j kvJob) Defer(until time.Time) error {
	q, m := j.q, j.id>>rcptBits
	if m&1 == 0 && !q.index {
		q.mu.Lock()
		q.deferred[m] = true
		q.mu.Unlock()
	}
	value := binary.LittleEndian.AppendUint64(nil, uint64(until.UnixNano()))
	if err := q.kv.apply([]op{{space: states, id: j.id, value: value}}); err != nil {
		return err
	}
	q.line.pushAt(j.id, until)
	q.line.ended()
	return nil
}

// Clear deletes all in batches.
func (q *kvQueue) Clear() error {
	seen := make(map[uint64]bool)
	var ops []op
	for _, id := range q.line.takeAll() {
		m := id >> rcptBits
		if m&1 == 1 || q.index || q.deferred[m] {
			ops = append(ops, op{space: states, id: id, del: true})
		}
		if !seen[m] {
			seen[m] = true
			ops = append(ops, op{space: bodies, id: m, del: true})
		}
		delete(q.left, m)
		delete(q.deferred, m)
	}
	for _, m := range q.garbage {
		ops = append(ops, op{space: bodies, id: m, del: true})
	}
	q.garbage = nil
	for part := range slices.Chunk(ops, 1000) {
		if err := q.kv.apply(part); err != nil {
			return err
		}
	}
	return q.kv.cleared()
}

func (q *kvQueue) Checkpoint() error {
	if m, ok := q.kv.(Maintainer); ok {
		return m.Checkpoint()
	}
	return ErrUnable
}

func (q *kvQueue) Compact() error {
	if m, ok := q.kv.(Maintainer); ok {
		return m.Compact()
	}
	return ErrUnable
}

func (q *kvQueue) Close() error { return q.kv.close() }

// key is the ordered key of a record, for stores that have one key space.
func (o op) key() []byte { return keyOf(o.space, o.id) }

func keyOf(s space, id uint64) []byte {
	return binary.BigEndian.AppendUint64([]byte{byte(s)}, id)
}
