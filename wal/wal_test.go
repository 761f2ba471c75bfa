package wal_test

import (
	"bytes"
	"context"
	"fmt"
	"testing"

	"github.com/mtawal/mtawal/wal"
)

func TestSmoke(t *testing.T) {
	dir := t.TempDir()
	ctx := context.Background()
	s, err := wal.Open(dir, wal.Options{SegmentSize: 1 << 20})
	if err != nil {
		t.Fatal(err)
	}
	for i := range 1000 {
		if _, err := s.Enqueue(ctx, wal.Message{Body: bytes.Repeat([]byte{byte(i)}, 4096), Envelope: []byte("e"),
			Recipients: []wal.Recipient{{Queue: "smtp:example.org", Address: fmt.Sprint("u", i)}, {Queue: "local", Address: "x"}}}); err != nil {
			t.Fatal(err)
		}
	}
	t.Logf("%+v", s.Stats())
	for i := range 500 {
		d, err := s.Claim(ctx, "local")
		if err != nil {
			t.Fatal(err)
		}
		if int(d.Recipients[0].Index) != 1 {
			t.Fatal(d)
		}
		if err := d.SettleAll(ctx, wal.Delivered); err != nil {
			t.Fatal(i, err)
		}
	}
	t.Logf("%+v", s.Stats())
	if err := s.Compact(ctx); err != nil {
		t.Fatal(err)
	}
	if err := s.Close(); err != nil {
		t.Fatal(err)
	}
	s, err = wal.Open(dir, wal.Options{SegmentSize: 1 << 20})
	if err != nil {
		t.Fatal(err)
	}
	t.Logf("%+v", s.Stats())
	if err := s.Close(); err != nil {
		t.Fatal(err)
	}
}
