package checkpoint

import (
	"encoding/binary"
	"math/bits"
)

// cursor reads varints and bytes; after the first thing that is not there bad is
// set and everything is zero. It moves an index, not the slice: a store of a pointer to
// memory is one that the collector of garbage wants to know of.
type cursor struct {
	b   []byte
	at  int
	bad bool
}

func (c *cursor) left() int { return len(c.b) - c.at }

func (c *cursor) fail() { c.bad, c.at = true, len(c.b) }

func (c *cursor) uvarint() uint64 {
	// The common case by hand: one byte.
	if c.at < len(c.b) {
		if v := c.b[c.at]; v < 0x80 {
			c.at++
			return uint64(v)
		}
	}
	return c.longer()
}

// longer is uvarint of more than one byte: eight of them are read as one word.
func (c *cursor) longer() uint64 {
	if c.left() < binary.MaxVarintLen64 {
		v, n := binary.Uvarint(c.b[c.at:])
		if n <= 0 {
			c.fail()
			return 0
		}
		c.at += n
		return v
	}
	b := c.b[c.at : c.at+binary.MaxVarintLen64]
	w := le.Uint64(b)
	if ends := ^w & 0x8080808080808080; ends != 0 {
		c.at += bits.TrailingZeros64(ends)/8 + 1
		return sevens(w & (ends ^ (ends - 1))) // through the last byte
	}
	v, last := sevens(w)|uint64(b[8])<<56, b[8]
	c.at += 9
	if last >= 0x80 {
		v, last = v&^(1<<63)|uint64(b[9])<<63, b[9]
		c.at++
		if last > 1 {
			c.fail()
			return 0
		}
	}
	return v
}

// sevens puts the low seven bits of each byte together: of each pair, each four, all eight.
func sevens(w uint64) uint64 {
	w = w&0x007f007f007f007f | w&0x7f007f007f007f00>>1
	w = w&0x00003fff00003fff | w&0x3fff00003fff0000>>2
	return w&0x0fffffff | w&0x0fffffff00000000>>4
}

// upTo is uvarint for what is a number up to most.
func (c *cursor) upTo(most uint64) uint64 {
	v := c.uvarint()
	c.bad = c.bad || v > most
	return v
}

func (c *cursor) varint() int64 {
	return unzigzag(c.uvarint())
}

func unzigzag(u uint64) int64 { return int64(u>>1) ^ -int64(u&1) }

func (c *cursor) bytes(n uint64) []byte {
	if n > uint64(c.left()) {
		c.fail()
		return nil
	}
	end := c.at + int(n)
	v := c.b[c.at:end:end]
	c.at = end
	return v
}

func (c *cursor) byte() byte {
	if c.at == len(c.b) {
		c.bad = true
		return 0
	}
	v := c.b[c.at]
	c.at++
	return v
}

func (c *cursor) uint32() uint32 {
	if v := c.bytes(4); v != nil {
		return le.Uint32(v)
	}
	return 0
}

func (c *cursor) uint64() uint64 {
	if v := c.bytes(8); v != nil {
		return le.Uint64(v)
	}
	return 0
}
