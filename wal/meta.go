package wal

import (
	"crypto/rand"
	"encoding/hex"
	"errors"
	"fmt"
	"io/fs"

	"github.com/mtawal/mtawal/internal/disk"
	"github.com/mtawal/mtawal/segment"
)

// META makes a directory a store. One line of text, so that people can read it:
//
//	mtawal 1 UUID STATE CRC
//
// with the UUID and the CRC-32C of what is before the last space in hexadecimal. STATE is
// "making" until the first segment stands: nothing can have been acknowledged before, so
// a crash while a store is made leaves a directory in which it is made again. Then it is
// "ready", for good.
const (
	metaName   = "META"
	lockName   = "LOCK"
	metaMax    = 4096
	metaMaking = "making"
	metaReady  = "ready"
)

type meta struct {
	uuid  [16]byte
	ready bool
}

func newMeta() (m meta, err error) {
	if _, err := rand.Read(m.uuid[:]); err != nil {
		return m, fmt.Errorf("drawing a UUID: %w", err)
	}
	return m, nil
}

func (m *meta) encode() []byte {
	st := metaMaking
	if m.ready {
		st = metaReady
	}
	text := fmt.Sprintf("mtawal 1 %s %s", hex.EncodeToString(m.uuid[:]), st)
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
	var version, crc uint32
	var id, st string
	n, err := fmt.Sscanf(string(b), "mtawal %d %32s %6s %08x\n", &version, &id, &st, &crc)
	if n >= 1 && version != 1 {
		return m, fmt.Errorf("%s: store format %d: %w", metaName, version, segment.ErrVersion)
	}
	raw, err2 := hex.DecodeString(id)
	if err != nil || err2 != nil || len(raw) != len(m.uuid) {
		return m, &segment.CorruptError{File: metaName, Reason: "is not that of a store"}
	}
	m.uuid, m.ready = [16]byte(raw), st == metaReady
	if string(m.encode()) != string(b) {
		return m, &segment.CorruptError{File: metaName, Reason: "fails its checksum"}
	}
	return m, nil
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
	return dir.Sync()
}
