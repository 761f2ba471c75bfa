package drill

import (
	"fmt"
	"strconv"
	"strings"
)

// Key names a message of the drill, whatever ID the store gives it. Messages of
// the load have serials from 1; a bounce is named after the recipient that it is
// about, so that two bounces for one recipient are a repeat.
type Key uint64

const (
	bounceBits = 8
	// bouncesMax is how many recipients a message may have.
	bouncesMax = 1<<bounceBits - 1
)

// LoadKey is the key of the load's message with that serial.
func LoadKey(serial uint64) Key { return Key(serial << bounceBits) }

// Serial is the serial of the load's message that k is, or is a bounce of.
func (k Key) Serial() uint64 { return uint64(k) >> bounceBits }

// Bounce is the key of the bounce for a recipient of k, which is none itself.
func (k Key) Bounce(recipient int) Key { return k | Key(recipient+1) }

// IsBounce reports whether k is a bounce.
func (k Key) IsBounce() bool { return k&bouncesMax != 0 }

// String returns "17", or "17.b2" for the bounce of its recipient 2.
func (k Key) String() string {
	if !k.IsBounce() {
		return strconv.FormatUint(k.Serial(), 10)
	}
	return fmt.Sprintf("%d.b%d", k.Serial(), k&bouncesMax-1)
}

// ParseKey reads what String wrote.
func ParseKey(s string) (Key, error) {
	a, b, bounce := strings.Cut(s, ".b")
	serial, err := strconv.ParseUint(a, 10, 64-bounceBits)
	if err != nil || serial == 0 {
		return 0, fmt.Errorf("%q is not a message of the drill", clip(s))
	}
	k := LoadKey(serial)
	if !bounce {
		return k, nil
	}
	i, err := strconv.ParseUint(b, 10, bounceBits)
	if err != nil || i >= bouncesMax {
		return 0, fmt.Errorf("%q is not a message of the drill", clip(s))
	}
	return k.Bounce(int(i)), nil
}

// clip bounds a text for a message about it.
func clip(s string) string { return clipTo(s, 80) }

func clipTo(s string, most int) string {
	if len(s) > most {
		return s[:most] + "..."
	}
	return s
}
