package main

import (
	"bytes"
	"crypto/sha256"
	"encoding/hex"
	"hash"
	"io"
	"slices"
	"strings"

	"github.com/mtawal/mtawal/mailq"
)

// headerScan looks at the header of a message as it passes by, in constant memory.
type headerScan struct {
	hops      int  // Received fields
	messageID bool // there is a Message-ID
	foreign   bool // a byte is not ASCII

	over bool
	line []byte // the beginning of the line, as long as any name that matters
	long bool   // the line is longer
}

const lineStart = len("Message-ID:")

// Write implements io.Writer. It doesn't fail.
func (h *headerScan) Write(p []byte) (int, error) {
	for rest := p; len(rest) > 0 && !h.over; {
		part, after, ended := bytes.Cut(rest, []byte("\n"))
		rest = after
		h.foreign = h.foreign || slices.ContainsFunc(part, func(b byte) bool { return b >= 0x80 })
		room := lineStart - len(h.line)
		h.long = h.long || len(part) > room
		h.line = append(h.line, part[:min(len(part), room)]...)
		if ended {
			h.endLine()
		}
	}
	return len(p), nil
}

func (h *headerScan) endLine() {
	name, _, _ := bytes.Cut(h.line, []byte(":"))
	switch {
	case !h.long && len(bytes.TrimSuffix(h.line, []byte("\r"))) == 0:
		h.over = true
	case bytes.EqualFold(name, []byte("Received")):
		h.hops++
	case bytes.EqualFold(name, []byte("Message-ID")):
		h.messageID = true
	}
	h.line, h.long = h.line[:0], false
}

// incoming is a body on its way from a client into the store.
type incoming struct {
	staged mailq.Staged
	moved  func() // called for each piece that came
	header headerScan
	sum    hash.Hash
	err    error // the store's
}

func newIncoming(staged mailq.Staged, moved func()) *incoming {
	return &incoming{staged: staged, moved: moved, sum: sha256.New()}
}

// receive takes the whole body. If the store refuses it, err is the store's.
func (in *incoming) receive(body io.Reader) error {
	_, err := io.Copy(in, body)
	return err
}

// Write implements io.Writer.
func (in *incoming) Write(p []byte) (int, error) {
	in.moved()
	in.header.Write(p)
	in.sum.Write(p)
	n, err := in.staged.Write(p)
	in.err = err
	return n, err
}

// key is the same for each try of a client to send this mail, whose 250 may have got
// lost (RFC 1047), and for no other mail. Without a Message-ID two mails may be
// alike, and there is none.
func (in *incoming) key(from string, to []mailq.Recipient) string {
	if !in.header.messageID {
		return ""
	}
	var addresses []string
	for _, r := range to {
		addresses = append(addresses, r.Address)
	}
	slices.Sort(addresses)
	sum := sha256.Sum256(in.sum.Sum([]byte(from + "\x00" + strings.Join(addresses, "\x00") + "\x00")))
	return hex.EncodeToString(sum[:])
}
