package checkpoint

import (
	"math"

	"github.com/mtawal/mtawal/segment"
	"github.com/mtawal/mtawal/state"
)

// plainMax is the most bytes that plain looks at.
const plainMax = 7*shortMax + 2

// plain decodes the next message if it is one as nearly all are: its recipient is pending, without a time or a note, and
// it may expire, and have had its ID before it was committed. It is decodeEntry without what such a one does not have. Where it
// returns false nothing was read, and decodeEntry knows what it is, or what is wrong with it.
func (it *entries) plain(p *state.Plain) bool {
	c := &it.cur
	if it.left == 0 || c.left() < plainMax {
		return false
	}
	b := c.b[c.at : c.at+plainMax]
	step, at := shortVarint(b, 0)
	loc, at := shortVarint(b, at)
	enqueued, at := shortVarint(b, at)
	weight, at := shortVarint(b, at)
	if at > plainMax-3*shortMax-2 || b[at]&^(shapeExpires|shapeLate) != 0 {
		return false
	}
	shape := b[at]
	at++
	var expires, late uint64
	if shape&shapeExpires != 0 {
		expires, at = shortVarint(b, at)
	}
	if shape&shapeLate != 0 {
		late, at = shortVarint(b, at)
	}
	if at > plainMax-shortMax-1 || b[at] != byte(state.Pending) { // and nothing more
		return false
	}
	queue, at := shortVarint(b, at+1)
	p.ID, p.Loc = it.d.id+step, it.d.loc+segment.Pos(unzigzag(loc))
	seconds := int64(it.d.enqueued) + unzigzag(enqueued)
	switch {
	case at > plainMax, step == 0, p.ID < it.d.id, p.ID >= it.c.Lease, !inLog(p.Loc), seconds < 0, seconds > math.MaxUint32,
		max(weight, expires, late) > math.MaxUint32, weight < rcptWeight, it.room < rcptWeight, queue >= uint64(len(it.c.names)):
		return false
	}
	p.Enqueued, p.Weight, p.Queue = uint32(seconds), uint32(weight), uint32(queue)
	p.Expires, p.Late = uint32(expires), uint32(late)
	it.d.id, it.d.loc, it.d.enqueued = p.ID, p.Loc, p.Enqueued
	it.left--
	it.room -= rcptWeight
	c.at += at
	return true
}

// shortMax is how long the varints are that short reads.
const shortMax = 5 // a time in seconds has five

// shortVarint reads a varint. By the cursor a message takes twice as long: 50 ns and 25. One that is longer, or behind such a one, ends far behind b.
func shortVarint(b []byte, at int) (v uint64, end int) {
	if at > plainMax-shortMax {
		return 0, math.MaxInt32
	}
	for n, c := range b[at : at+shortMax] {
		v |= uint64(c&0x7f) << (7 * n)
		if c < 0x80 {
			return v, at + n + 1
		}
	}
	return 0, math.MaxInt32
}
