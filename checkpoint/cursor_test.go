package checkpoint

import (
	"encoding/binary"
	"testing"

	"pgregory.net/rapid"
)

// A varint is read as encoding/binary does, whatever the bytes and whatever stands behind
// them.
func TestCursorUvarint(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		v := rapid.Uint64().Draw(t, "value") >> rapid.IntRange(0, 63).Draw(t, "shift")
		b := binary.AppendUvarint(nil, v)
		if rapid.Bool().Draw(t, "any bytes") {
			b = rapid.SliceOfN(rapid.OneOf(rapid.ByteRange(0x80, 0xff), rapid.Byte()), 1, 12).Draw(t, "bytes")
		}
		b = append(b, make([]byte, rapid.IntRange(0, 12).Draw(t, "behind"))...)
		want, n := binary.Uvarint(b)
		c := cursor{b: b}
		got := c.uvarint()
		if n <= 0 {
			if !c.bad || got != 0 || c.left() != 0 {
				t.Fatalf("% x is %d, bad %v, %d left; want bad", b, got, c.bad, c.left())
			}
		} else if c.bad || got != want || c.at != n {
			t.Fatalf("% x is %d of %d bytes, bad %v; want %d of %d", b, got, c.at, c.bad, want, n)
		}
	})
}
