package wal

import (
	"cmp"
	"errors"
	"slices"
	"sync"
	"sync/atomic"

	"github.com/mtawal/mtawal/segment"
)

// What a compaction copies is read ahead of the copying, just what is copied and in as few reads as that takes: around
// a page that is missed the system would read a megabyte, in the way of commits. ADR 0007 has what that costs.
const (
	// fetchReaders bring in what is copied next: one by one, each would wait for the device behind all that commits have it
	// write. Four are twice as much in the way.
	fetchReaders = 2
	// fetchAhead is of how many frames they do so ahead, and frameMost how many pieces of one at a time.
	fetchAhead = 16
	frameMost  = 64
	// frameSpan is how far from each other the records of one frame lie, as far as they are brought in together.
	frameSpan = 16 << 10
	// fetchGap is how much that nobody wants is read to save a read.
	fetchGap = 8 << 10
	// fetchMax bounds one read.
	fetchMax = 256 << 10
)

// scatter says whether nothing of segments is to be read but what is asked for.
func (s *Store) scatter(sparse map[uint32]bool, yes bool) error {
	for n := range sparse {
		seg, err := s.log.Acquire(n)
		if err != nil {
			continue // it is gone already
		}
		if err = errors.Join(seg.Scattered(yes), seg.Release()); err != nil {
			return err
		}
	}
	return nil
}

// inOneFrame is how many of the first pieces of a list in the order of the log have records that lie close together.
func inOneFrame(pieces []heldPiece) int {
	n := 1
	for first := pieces[0].pos; n < len(pieces) && n < frameMost; n++ {
		if p := pieces[n].pos; p.Segment() != first.Segment() || p.Offset()-first.Offset() > frameSpan {
			break
		}
	}
	return n
}

// fetcher hands out pieces in the order of the log, when they have been read into memory.
type fetcher struct {
	rest    []heldPiece // that nobody was asked for
	asked   []*fetchGroup
	at      int // in the first of asked
	groups  chan *fetchGroup
	ended   atomic.Bool
	readers sync.WaitGroup
}

// fetchGroup is pieces of one frame.
type fetchGroup struct {
	pieces []heldPiece
	done   chan struct{}
}

// fetcher starts to read pieces, until it is closed.
func (s *Store) fetcher(pieces []heldPiece) *fetcher {
	f := &fetcher{rest: pieces, groups: make(chan *fetchGroup, fetchAhead)}
	for range fetchReaders {
		f.readers.Go(func() {
			for g := range f.groups {
				if !f.ended.Load() {
					s.fetch(g.pieces)
				}
				close(g.done)
			}
		})
	}
	return f
}

// next is the first piece that was not taken, nil if there is none. It waits for it.
func (f *fetcher) next() *heldPiece {
	for len(f.asked) < fetchAhead && len(f.rest) > 0 {
		n := inOneFrame(f.rest)
		g := &fetchGroup{f.rest[:n], make(chan struct{})}
		f.asked, f.rest = append(f.asked, g), f.rest[n:]
		f.groups <- g
	}
	if len(f.asked) == 0 {
		return nil
	}
	g := f.asked[0]
	<-g.done
	return &g.pieces[f.at]
}

// taken goes on to the piece behind the one that next returns.
func (f *fetcher) taken() {
	if f.at++; f.at == len(f.asked[0].pieces) {
		f.asked, f.at = f.asked[1:], 0
	}
}

func (f *fetcher) close() {
	f.ended.Store(true)
	close(f.groups)
	f.readers.Wait()
}

// fetch reads pieces of one frame into memory. Whatever is wrong with one is found when it is copied.
func (s *Store) fetch(group []heldPiece) {
	var seg *segment.Segment
	for len(group) > 0 {
		var err error
		if seg, err = s.acquirePiece(&group[0]); seg != nil || err != nil {
			break
		}
		group = group[1:] // it is not held there any more
	}
	if seg == nil {
		return
	}
	defer func() { _ = seg.Release() }()
	m, err := seg.Map()
	if err != nil {
		return
	}
	first, last := group[0].pos.Offset(), group[len(group)-1].pos.Offset()
	m.Prefetch(first, last-first+1)
	var list []span
	for i := range group {
		if f, err := find(seg, &group[i]); err == nil && f.n > 0 {
			list = append(list, span{f.at, f.at + f.n})
		}
	}
	list = joined(list)
	for _, x := range list {
		m.Prefetch(x.from, x.till-x.from)
	}
	for _, x := range list {
		_ = m.Warm(x.from, x.till-x.from) // waits for it
	}
}

// span is bytes of a segment.
type span struct{ from, till int64 }

// joined is spans in order, as few as fetchGap and fetchMax make them. The list is used up.
func joined(list []span) []span {
	slices.SortFunc(list, func(a, b span) int { return cmp.Compare(a.from, b.from) })
	out := list[:0]
	for _, x := range list {
		if n := len(out); n > 0 && x.from-out[n-1].till <= fetchGap && x.till-out[n-1].from <= fetchMax {
			out[n-1].till = max(out[n-1].till, x.till)
		} else {
			out = append(out, x)
		}
	}
	return out
}
