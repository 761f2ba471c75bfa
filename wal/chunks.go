package wal

import (
	"context"

	"github.com/mtawal/mtawal/mailq"
	"github.com/mtawal/mtawal/segment"
)

// chunksUnderWay is how many chunks of one body are in the log's groups at a time.
const chunksUnderWay = 3

// writeChunks puts a body that is too long for the frame of its message into the log
// ahead of it. From here until the message is applied or given up, no segment that may
// hold its chunks is recycled: without a message that names them they are garbage.
func (s *Store) writeChunks(ctx context.Context, t *ticket, m *Message, p *messagePlan) error {
	if n := (len(m.Body) + s.limits.chunk - 1) / s.limits.chunk; n > segment.ChunksMax {
		return &mailq.LimitError{Field: "Body", Size: int64(len(m.Body)), Max: int64(segment.ChunksMax * s.limits.chunk)}
	}
	s.mu.Lock()
	if err := s.gate(true); err != nil {
		s.mu.Unlock()
		return err
	}
	if _, ok := s.streams[t]; !ok {
		s.streams[t] = s.log.End().Segment()
		t.streaming = true
	}
	stream := s.nextID // an ID of its own, to which the checksums are bound
	s.nextID++
	s.mu.Unlock()

	var under []*ticket
	wait := func() error {
		c := under[0]
		under = under[1:]
		select {
		case <-c.done:
		case <-ctx.Done():
			return unknown(ctx)
		}
		if c.err != nil {
			return c.err
		}
		p.chunks = append(p.chunks, segment.ChunkRef{Pos: c.pos + segment.Pos(c.tableAt), Len: uint32(len(c.chunk.data)), CRC: c.chunk.crc})
		return nil
	}
	rest := m.Body
	for seq := uint32(0); len(rest) > 0; seq++ {
		piece := rest[:min(len(rest), s.limits.chunk)]
		rest = rest[len(piece):]
		c := newTicket(s)
		c.chunk = &chunkWrite{stream: stream, sequence: seq, data: piece, crc: segment.BodyCRC(stream, piece)}
		if err := s.submit(ctx, c); err != nil {
			return err
		}
		if under = append(under, c); len(under) == chunksUnderWay {
			if err := wait(); err != nil {
				return err
			}
		}
	}
	for len(under) > 0 {
		if err := wait(); err != nil {
			return err
		}
	}
	return nil
}

// endStream lets the segments of a batch's chunks go. Store.mu is held.
func (t *ticket) endStream() {
	if t.streaming {
		delete(t.s.streams, t)
		t.streaming = false
	}
}

// giveUp is endStream for a batch that was refused.
func (t *ticket) giveUp() {
	if t.streaming {
		t.s.mu.Lock()
		t.endStream()
		t.s.mu.Unlock()
	}
}
