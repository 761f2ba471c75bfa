package wal

import (
	"bytes"
	"errors"
	"io"
	"io/fs"
)

// stage hands a body over before its message, in pieces, and reads it back. nil: the disk has
// crashed meanwhile.
func (h *history) stage(text []byte) Staged {
	st, err := h.s.Stage(bgCtx, int64(len(text)*h.rng.IntN(2)))
	for rest := text; err == nil && len(rest) > 0; {
		n := 1 + h.rng.IntN(len(rest))
		_, err = st.Write(rest[:n])
		rest = rest[n:]
	}
	have := make([]byte, len(text))
	if err == nil {
		_, err = st.ReadAt(have, 0)
	}
	if errors.Is(err, ErrFailed) || errors.Is(err, fs.ErrClosed) { // so handles of a dead process say
		return nil
	}
	if err != nil && err != io.EOF || !bytes.Equal(have, text) {
		h.fail("a staged body of %d bytes reads as others: %v", len(text), err)
	}
	return st
}

// abandon stages a body that no message takes.
func (h *history) abandon() {
	if st := h.stage(h.body()); h.chance(2) {
		st.Abort()
	}
}
