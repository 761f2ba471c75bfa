package fuzz

import (
	"bytes"
	"encoding/binary"
	"errors"
	"os"
	"path/filepath"
	"testing"

	"github.com/mtawal/mtawal/checkpoint"
	"github.com/mtawal/mtawal/internal/disk/memdisk"
	"github.com/mtawal/mtawal/segment"
	"github.com/mtawal/mtawal/state"
)

// FuzzCheckpoint reads checkpoints whose checksums are right, whatever is in them: the
// first 508 bytes of the header, the four sections and how much each says to hold. What
// is accepted is a state, so that it is written and read back as itself.
func FuzzCheckpoint(f *testing.F) {
	golden, err := os.ReadFile(filepath.Join("..", "checkpoint", "testdata", "golden", "v3.ckpt"))
	if err != nil {
		f.Fatal(err)
	}
	head := golden[:508]
	foot := len(golden) - 16
	dir := golden[foot-int(le.Uint32(golden[foot:])) : foot]
	var sections [4][]byte
	var counts [4]uint64
	for i := range sections {
		var row [3]uint64 // count, offset, length
		dir = dir[1:]
		for k := range row {
			v, n := binary.Uvarint(dir)
			row[k], dir = v, dir[n:]
		}
		dir = dir[4:]
		counts[i], sections[i] = row[0], golden[row[1]:][:row[2]]
	}
	uuid := [16]byte(golden[16:32])
	f.Add(head, sections[0], sections[1], sections[2], sections[3], counts[0], counts[1], counts[2], counts[3])
	f.Add(head, []byte{}, []byte{}, []byte{}, []byte{}, uint64(0), uint64(0), uint64(0), uint64(0))
	f.Add(head, sections[0], sections[1], sections[2], sections[3], counts[0], counts[1]+1, ^uint64(0), uint64(1)<<63)
	f.Fuzz(func(t *testing.T, head, messages, queues, keys, segments []byte, n0, n1, n2, n3 uint64) {
		head = append(bytes.Clone(head), make([]byte, 508)...)[:508]
		b := le.AppendUint32(head, segment.CRC(head))
		var dir []byte
		for i, s := range [][]byte{messages, queues, keys, segments} {
			dir = append(dir, byte(i+1))
			for _, v := range []uint64{[]uint64{n0, n1, n2, n3}[i], uint64(len(b)), uint64(len(s))} {
				dir = binary.AppendUvarint(dir, v)
			}
			dir = le.AppendUint32(dir, segment.CRC(s))
			b = append(b, s...)
		}
		b = append(b, dir...)
		b = le.AppendUint32(b, uint32(len(dir)))
		b = le.AppendUint32(b, segment.CRC(dir))
		b = append(b, "MTAWALCE"...)

		first, info, err := roundTrip(t, b, uuid)
		if err != nil {
			if !errors.Is(err, segment.ErrCorrupt) && !errors.Is(err, segment.ErrVersion) {
				t.Fatalf("neither corrupt nor of another version: %v", err)
			}
			return
		}
		second, _, err := roundTrip(t, first, info.UUID)
		if err != nil {
			t.Fatalf("accepted, and what is written of it is not: %v", err)
		}
		if !bytes.Equal(first, second) {
			t.Fatal("written twice, it is two states")
		}
	})
}

// roundTrip opens a checkpoint, loads it and writes its state.
func roundTrip(t *testing.T, b []byte, uuid [16]byte) (out []byte, info checkpoint.Info, err error) {
	fs := memdisk.New(memdisk.Config{})
	dir, err := fs.OpenDir("/store", true)
	if err != nil {
		t.Fatal(err)
	}
	if err := fs.Put("/store/any", b); err != nil {
		t.Fatal(err)
	}
	c, err := checkpoint.Open(dir, "any", uuid)
	if err != nil {
		return nil, info, err
	}
	defer func() {
		if err := c.Close(); err != nil {
			t.Error(err)
		}
	}()
	table := state.NewTable()
	const logBytes = 1 << 16 // recipients could not be in more, so their memory is bounded
	c.Bound(logBytes)
	var check, load error
	bounded(t, len(b)+logBytes, func() { check, load = c.Check(true), c.Load(table) })
	if (check == nil) != (load == nil) {
		t.Fatalf("Check says %v, Load says %v", check, load)
	}
	if load != nil {
		return nil, info, load
	}
	var w bytes.Buffer
	if err := checkpoint.Encode(&w, table, c.UUID, c.LogBytes); err != nil {
		t.Fatalf("a state that can't be written: %v", err)
	}
	return w.Bytes(), c.Info, nil
}
