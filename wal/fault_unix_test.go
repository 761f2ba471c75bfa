//go:build unix

package wal

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/mtawal/mtawal/internal/disk"
	"github.com/mtawal/mtawal/segment"
)

// The pages of a long record, which is read where it is mapped, go when its checksum was compared: the
// device fails, or somebody cuts the file. Its message can't be read, and the process lives.
func TestLongRecordWhosePagesGo(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "store")
	s, err := Open(dir, Options{SegmentSize: 1 << 20})
	if err != nil {
		t.Fatal(err)
	}
	defer s.Close() // of a file that was cut it says so
	m := Message{Envelope: []byte("from")}
	for i := range 2000 {
		m.Recipients = append(m.Recipients, Recipient{Queue: "q", Address: strings.Repeat("a", 40) + fmt.Sprint(i)})
	}
	id, err := s.Enqueue(t.Context(), m)
	if err != nil {
		t.Fatal(err)
	}
	s.mu.Lock()
	slot, ok := s.table.Find(uint64(id))
	loc := s.table.Msg(slot).Loc
	st := stored{pins: s.pinMessage(nil, loc, nil)}
	s.mu.Unlock()
	if !ok || len(st.pins) != 1 {
		t.Fatal("the message is not there")
	}
	defer release(st.pins)
	var at int64
	if st.record, at, err = st.pins[0].Record(loc.Offset(), uint64(id)); err != nil {
		t.Fatal(err)
	}
	if err := os.Truncate(filepath.Join(dir, segment.Name(loc.Segment())), 0); err != nil {
		t.Fatal(err)
	}
	if err := st.findBody(st.pins[0], at, uint64(id), loc, nil); !errors.Is(err, disk.ErrFault) {
		t.Errorf("a record whose pages are gone: %v", err)
	}
}
