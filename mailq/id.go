package mailq

import (
	"encoding/binary"
	"encoding/hex"
	"fmt"
	"strconv"
)

// ID names a message for the life of the store. IDs are never used twice, not
// even for a message that was never committed. They are neither dense nor in
// commit order. 0 is not an ID.
type ID uint64

// String returns the ID as 16 hexadecimal digits, the form that belongs in a
// "Received: ... id X" header and in the names of files.
func (id ID) String() string {
	var raw [8]byte
	var text [16]byte
	binary.BigEndian.PutUint64(raw[:], uint64(id))
	hex.Encode(text[:], raw[:])
	return string(text[:])
}

// MarshalText implements encoding.TextMarshaler.
func (id ID) MarshalText() ([]byte, error) { return []byte(id.String()), nil }

// UnmarshalText implements encoding.TextUnmarshaler.
func (id *ID) UnmarshalText(text []byte) error {
	v, err := ParseID(string(text))
	if err != nil {
		return err
	}
	*id = v
	return nil
}

// ParseID reads what String wrote. The error is a *FieldError.
func ParseID(s string) (ID, error) {
	v, err := strconv.ParseUint(s, 16, 64)
	if err != nil || v == 0 || len(s) != 16 {
		return 0, &FieldError{Field: "ID", Reason: fmt.Sprintf("%q is not 16 hexadecimal digits other than all zeros", clip(s))}
	}
	return ID(v), nil
}

func clip(s string) string {
	const most = 40
	if len(s) > most {
		return s[:most] + "..."
	}
	return s
}
