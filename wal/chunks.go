package wal

import (
	"context"
	"fmt"
	"slices"
	"sync"
	"time"

	"github.com/mtawal/mtawal/mailq"
	"github.com/mtawal/mtawal/segment"
)

// stream is a body that goes into the log ahead of its message: one that is too long for
// its message's frame, or one that is staged. Until its message is applied, or it ends, no
// segment that holds a chunk of it is recycled: without a message that names them they are
// garbage.
//
// Lock order: Store.mu before mu. mu is held over no system call.
type stream struct {
	s      *Store
	staged bool // by Stage: has a deadline, and counts
	ctx    context.Context
	opened time.Time

	// Of whoever uses it, see use.
	id       uint64 // to which the checksums of its chunks are bound; 0 before the first
	sequence uint32

	mu       sync.Mutex
	user     any           // nil, writing, or the *ticket of the batch that has it
	over     error         // why it has ended
	ended    chan struct{} // closed when over is set
	bad      error         // of a Write: nothing but Abort remains
	unwanted bool          // aborted while a batch had it
	touched  time.Time     // last written to
	reserved int64         // bytes that count against StagedBytes
	chunks   []segment.ChunkRef
	under    []*ticket // chunks that are not known to be durable yet, in order
	length   int64     // of all chunks, those under way included
	buf      []byte    // what comes behind them
	back     readBack
}

// underWayMax bounds what one stream has in the log's groups at a time, in the longest chunks.
const underWayMax = 3

// newStream enters a stream with the store. Store.mu is held.
func (s *Store) newStream(ctx context.Context) *stream {
	st := &stream{s: s, ctx: ctx, ended: make(chan struct{})}
	s.streams[st] = struct{}{}
	return st
}

// bring works out the plans of a batch's messages. Bodies that do not go into its frame are
// in the log when it returns nil. After an error the ticket must give up.
func (s *Store) bring(ctx context.Context, t *ticket) error {
	t.plans = t.plans[:0]
	for i := range t.enqueue {
		m := &t.enqueue[i]
		p := messagePlan{body: m.Body, size: int64(len(m.Body))}
		if m.Staged != nil || len(m.Body) > s.limits.chunk {
			if err := s.bringStream(ctx, t, m, &p); err != nil {
				return inBatch(t, "Enqueue", i, err)
			}
		}
		p.table = segment.EnqueueSize(m, len(p.chunks))
		t.plans = append(t.plans, p)
	}
	return nil
}

func (s *Store) bringStream(ctx context.Context, t *ticket, m *Message, p *messagePlan) error {
	bounce := len(t.settle) > 0
	var st *stream
	if m.Staged != nil {
		st = m.Staged.(*stream)
		if err := st.use(t); err != nil {
			return err
		}
		t.streams = append(t.streams, st)
		if st.length == 0 {
			p.body, p.size = st.buf, int64(len(st.buf))
			return nil
		}
		if len(st.buf) > 0 {
			if err := st.put(ctx, st.buf, bounce); err != nil {
				return err
			}
		}
	} else {
		if !bounce {
			if err := s.Admit(p.size); err != nil {
				return err
			}
		}
		s.mu.Lock()
		if err := s.gate(bounce); err != nil {
			s.mu.Unlock()
			return err
		}
		if !bounce {
			if err := s.admitNow(s.logRoom(p.size), s.placed, s.adding); err != nil {
				s.mu.Unlock()
				return err
			}
		}
		st = s.newStream(ctx)
		st.user = t
		t.streams = append(t.streams, st)
		s.mu.Unlock()
		for piece := range slices.Chunk(m.Body, s.limits.chunk) {
			if err := st.put(ctx, piece, bounce); err != nil {
				return err
			}
		}
	}
	if err := st.await(ctx, 0); err != nil {
		return err
	}
	p.body, p.size, p.chunks = nil, st.length, st.chunks
	return nil
}

// put writes one chunk: all that the stream buffers, or, where it buffers nothing, bytes of
// the caller's, which may be changed when it has returned. bounce says that it belongs to a
// batch that settles.
func (st *stream) put(ctx context.Context, data []byte, bounce bool) error {
	s := st.s
	if st.sequence == segment.ChunksMax {
		return &mailq.LimitError{Field: "Body", Size: st.length + int64(len(data)), Max: st.length}
	}
	if st.id == 0 {
		s.mu.Lock()
		st.id = s.nextID // an ID of its own
		s.nextID++
		s.mu.Unlock()
	}
	c := newTicket(s)
	c.chunk = &chunkWrite{from: st, sequence: st.sequence, data: data, length: uint32(len(data)), bounce: bounce}
	if err := s.submit(ctx, c); err != nil {
		return err
	}
	c.chunk.data = nil // it was copied, and is somebody else's again
	st.sequence++
	st.mu.Lock()
	st.under = append(st.under, c)
	st.length += int64(len(data))
	st.buf = st.buf[:0]
	st.mu.Unlock()
	return st.await(ctx, underWayMax*s.limits.chunk)
}

// await waits until no more than so many bytes are under way.
func (st *stream) await(ctx context.Context, most int) error {
	for {
		st.mu.Lock()
		err := st.reap()
		n := 0
		for _, c := range st.under {
			n += int(c.chunk.length)
		}
		var first *ticket
		if n > most {
			first = st.under[0]
		}
		st.mu.Unlock()
		if err != nil || first == nil {
			return err
		}
		full := time.NewTimer(retryFull)
		select {
		case <-first.done:
		case <-st.ended:
			err = st.why()
		case <-ctx.Done():
			err = fmt.Errorf("waiting for a body to reach the log: %w", context.Cause(ctx))
		case <-full.C:
			if st.s.space.full.Load() { // its message is not in the log, so nothing is
				err = st.s.fullError(int64(n), 0)
			}
		}
		full.Stop()
		if err != nil {
			return err
		}
	}
}

// reap takes note of the chunks that have become durable. mu is held.
func (st *stream) reap() error {
	for len(st.under) > 0 {
		c := st.under[0]
		select {
		case <-c.done:
		default:
			return nil
		}
		if c.err != nil {
			return c.err
		}
		n := c.chunk.length
		st.chunks = append(st.chunks, segment.ChunkRef{Pos: c.pos + segment.Pos(c.tableAt), Len: n, CRC: c.chunk.crc})
		if st.staged {
			st.back.add(int64(n))
		}
		st.under[0] = nil
		st.under = st.under[1:]
	}
	st.under = nil
	return nil
}

func (st *stream) why() error {
	st.mu.Lock()
	defer st.mu.Unlock()
	return st.over
}

// end ends the stream and lets go of its segments and its memory. While a batch has it they
// are kept: its message may be in the log, to be applied here or by the next owner.
// Store.mu is held.
func (st *stream) end(why error) {
	st.mu.Lock()
	defer st.mu.Unlock()
	if st.over == nil {
		st.over = why
		close(st.ended)
		if st.staged {
			st.s.staged--
			st.s.stagedBytes.Add(-st.reserved)
		}
		release(st.back.unpin(true))
		st.s.roomy.Broadcast() // a Write may be waiting for room
	}
	if !st.inBatch() {
		delete(st.s.streams, st)
	}
	st.drop()
}

// pins adds the segments that hold chunks of the stream, and reports whether any does. Store.mu
// is held.
func (st *stream) pins(segments map[uint32]bool) (any bool) {
	st.mu.Lock()
	defer st.mu.Unlock()
	for _, c := range st.chunks {
		segments[c.Pos.Segment()], any = true, true
	}
	for _, t := range st.under {
		if t.pos != 0 { // else it is not in the log yet
			segments[t.pos.Segment()], any = true, true
		}
	}
	return any
}

// inLog reports whether a chunk of it is in the log, or on its way there.
func (st *stream) inLog() bool {
	st.mu.Lock()
	defer st.mu.Unlock()
	return len(st.chunks)+len(st.under) > 0
}

func (st *stream) inBatch() bool {
	_, ok := st.user.(*ticket)
	return ok
}

// letGo ends the batch's use of a stream.
func (st *stream) letGo() (unwanted bool) {
	st.mu.Lock()
	defer st.mu.Unlock()
	st.user = nil
	st.touched = st.s.opt.now()
	return st.over != nil || st.unwanted || !st.staged
}

// endStreams ends what a batch has taken: its messages hold the chunks now. Store.mu is
// held.
func (t *ticket) endStreams() {
	for _, st := range t.streams {
		st.letGo()
		st.end(errTaken)
	}
	t.streams = nil
}

// giveUp lets go of the streams of a batch that was refused. What was staged stays so.
func (t *ticket) giveUp() {
	for _, st := range t.streams {
		if st.letGo() {
			t.s.mu.Lock()
			st.end(errAborted)
			t.s.mu.Unlock()
		}
	}
	t.streams = nil
}

// endAll ends every stream. Store.mu is held.
func (s *Store) endAll(why error) {
	for st := range s.streams {
		st.end(why)
	}
}
