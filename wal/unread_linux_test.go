package wal

import (
	"os"
	"path/filepath"
	"testing"

	"github.com/mtawal/mtawal/internal/disk/smaps"
	"github.com/mtawal/mtawal/segment"
)

// Where the log is to go on nothing is in the page tables of the process, though an opening has read it: each commit past the page cache would
// have every processor take it out.
func TestNothingIsMappedWhereTheLogGoesOn(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "store")
	o := Options{SegmentSize: 1 << 20}
	s := must(Open(dir, o))(t)
	posted(t, s, "a")
	ended(t, s)
	if err := os.Remove(filepath.Join(dir, "claims")); err != nil { // then an opening looks through all of the rest
		t.Fatal(err)
	}
	s = must(Open(dir, o))(t)
	defer func() { ended(t, s) }()
	end := s.log.End()
	list := smaps.MappingsOf(t, filepath.Join(dir, segment.Name(end.Segment())))
	if len(list) == 0 {
		t.Skip("the segment is not mapped, or is under another name")
	}
	page := uintptr(os.Getpagesize())
	first := (uintptr(end.Offset()) + page - 1) / page * page
	for _, m := range list {
		for at := m.From + first; at < m.To; at += page {
			if smaps.Present(t, at) {
				t.Fatalf("the page at %d of the segment, whose log ends at %d, is mapped", at-m.From, end.Offset())
			}
		}
	}
}
