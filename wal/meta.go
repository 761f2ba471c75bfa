package wal

import (
	"crypto/rand"
	"encoding/hex"
	"errors"
	"fmt"
	"io/fs"
	"strconv"
	"strings"

	"github.com/mtawal/mtawal/internal/barrier"
	"github.com/mtawal/mtawal/internal/disk"
	"github.com/mtawal/mtawal/segment"
)

// META makes a directory a store. One line of text, so that people can read it:
//
//	mtawal 1 UUID STATE CRC
//	mtawal 2 UUID STATE TIME POSITION ORIGIN:BELOW,... CRC     of a copy that Snapshot made
//
// with the UUID and the CRC-32C of what is before the last space in hexadecimal. STATE is
// "making" until the first segment stands: nothing can have been acknowledged before, so
// a crash while a store is made leaves a directory in which it is made again. Then it is
// "ready", for good.
//
// A copy begins as "copied": at its first opening all of its mail is put in doubt, then it is
// "ready" too. TIME is when it was made, in Unix seconds, POSITION where the log of the copied
// store ended. ORIGIN is the UUID of the store in which messages with IDs below BELOW were
// enqueued, those below the BELOW before excepted: the last is the one that was copied, and
// there are others where that was a copy itself. TIME, POSITION and BELOW are in hexadecimal.
const (
	metaName   = "META"
	lockName   = "LOCK"
	metaMax    = 4096
	metaMaking = "making"
	metaReady  = "ready"
	metaCopied = "copied"
	// originsMax is how many stores a copy knows that its mail comes from. Where there were
	// more, the oldest are taken for the one after.
	originsMax = 32
)

type meta struct {
	uuid    [16]byte
	ready   bool
	copied  bool // a copy that was not opened yet; it is ready too
	at      int64
	pos     segment.Pos
	origins []origin // of a copy; the last is the store that was copied
}

// origin is a store in which messages were enqueued: those with IDs below a bound.
type origin struct {
	uuid  [16]byte
	below uint64
}

func newUUID() (id [16]byte, err error) {
	if _, err := rand.Read(id[:]); err != nil {
		return id, fmt.Errorf("drawing a UUID: %w", err)
	}
	return id, nil
}

func newMeta() (m meta, err error) {
	m.uuid, err = newUUID()
	return m, err
}

func (m *meta) encode() []byte {
	st := metaMaking
	switch {
	case m.copied:
		st = metaCopied
	case m.ready:
		st = metaReady
	}
	text := fmt.Sprintf("mtawal 1 %s %s", hex.EncodeToString(m.uuid[:]), st)
	if len(m.origins) > 0 {
		list := make([]string, len(m.origins))
		for i, o := range m.origins {
			list[i] = fmt.Sprintf("%s:%x", hex.EncodeToString(o.uuid[:]), o.below)
		}
		text = fmt.Sprintf("mtawal 2 %s %s %x %x %s", hex.EncodeToString(m.uuid[:]), st, m.at, uint64(m.pos), strings.Join(list, ","))
	}
	return fmt.Appendf(nil, "%s %08x\n", text, segment.CRC([]byte(text)))
}

// readMeta returns fs.ErrNotExist if there is none.
func readMeta(dir disk.Dir) (m meta, err error) {
	f, err := dir.Open(metaName, false)
	if err != nil {
		return m, err
	}
	defer f.Close()
	size, err := f.Size()
	if err != nil {
		return m, fmt.Errorf("size of %s: %w", metaName, err)
	}
	b := make([]byte, min(size, metaMax))
	if _, err := f.ReadAt(b, 0); err != nil && len(b) > 0 {
		return m, fmt.Errorf("reading %s: %w", metaName, err)
	}
	return decodeMeta(b)
}

func decodeMeta(b []byte) (m meta, err error) {
	// What does not parse encodes to something else.
	word := append(strings.Split(string(b), " "), make([]string, 8)...)
	version, err := strconv.ParseUint(word[1], 10, 32)
	if err == nil && word[0] == "mtawal" && version != 1 && version != 2 {
		return m, fmt.Errorf("%s: store format %d: %w", metaName, version, segment.ErrVersion)
	}
	m.uuid = uuidOf(word[2])
	m.copied = version == 2 && word[3] == metaCopied
	m.ready = m.copied || word[3] == metaReady
	if version == 2 {
		at, _ := strconv.ParseInt(word[4], 16, 64)
		pos, _ := strconv.ParseUint(word[5], 16, 64)
		m.at, m.pos = at, segment.Pos(pos)
		for o := range strings.SplitSeq(word[6], ",") {
			id, bound, _ := strings.Cut(o, ":")
			below, _ := strconv.ParseUint(bound, 16, 64)
			m.origins = append(m.origins, origin{uuidOf(id), below})
		}
	}
	if m.uuid == [16]byte{} || string(m.encode()) != string(b) {
		return m, &segment.CorruptError{File: metaName, Reason: "is not that of a store, or fails its checksum"}
	}
	return m, nil
}

// uuidOf is zero for what is none.
func uuidOf(s string) (id [16]byte) {
	if b, err := hex.DecodeString(s); err == nil && len(b) == len(id) {
		id = [16]byte(b)
	}
	return id
}

// writeMeta replaces META: durable when it returns nil.
func writeMeta(dir disk.Dir, m *meta) error {
	const tmp = "tmp-" + metaName
	if err := dir.Remove(tmp); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return fmt.Errorf("removing an old %s: %w", tmp, err)
	}
	f, err := dir.Create(tmp)
	if err != nil {
		return fmt.Errorf("making %s: %w", tmp, err)
	}
	_, err = f.WriteAt(m.encode(), 0)
	if err == nil {
		err = f.Sync()
	}
	if err = errors.Join(err, f.Close()); err != nil {
		return fmt.Errorf("writing %s: %w", tmp, err)
	}
	if err := dir.Rename(tmp, metaName); err != nil {
		return fmt.Errorf("publishing %s: %w", metaName, err)
	}
	if barrier.Gone(barrier.MetaName) {
		return nil
	}
	return dir.Sync()
}
