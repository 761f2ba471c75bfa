package wal

import (
	"bytes"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/mtawal/mtawal/internal/disk"
	"github.com/mtawal/mtawal/internal/disk/memdisk"
)

// filesWith are the files of a directory in which some bytes stand.
func filesWith(t *testing.T, dir, text string) (list []string) {
	t.Helper()
	names, err := filepath.Glob(filepath.Join(dir, "*"))
	if err != nil {
		t.Fatal(err)
	}
	for _, name := range names {
		b, err := os.ReadFile(name)
		if err != nil && !os.IsNotExist(err) {
			t.Fatal(err)
		}
		if bytes.Contains(b, []byte(text)) {
			list = append(list, filepath.Base(name))
		}
	}
	return list
}

// With Scrub a body is in no file of the store once its segment is dead, whether that is kept for
// another life or removed, moved bodies and bodies in chunks included. Until then it is.
func TestScrub(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "store")
	s, err := Open(dir, Options{SegmentSize: 64 << 10, Scrub: true})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = s.Close() })
	const secret = "what nobody else is to read"
	for i := range 60 {
		text := fmt.Sprint(secret, i, strings.Repeat(" long", 500))
		if i%7 == 0 {
			text += strings.Repeat(" and longer "+secret, 3000)
		}
		posted(t, s, text)
	}
	var last *Delivery
	for i := range 60 {
		d := taken(t, s)
		if i == 20 {
			last = d
			continue
		}
		if err := d.SettleAll(t.Context(), Delivered); err != nil {
			t.Fatal(err)
		}
	}
	last.Release()
	if len(filesWith(t, dir, secret)) == 0 {
		t.Error("the bodies are not found while they should be there")
	}
	if err := s.Compact(t.Context()); err != nil { // the last one is moved
		t.Fatal(err)
	}
	if err := taken(t, s).SettleAll(t.Context(), Delivered); err != nil {
		t.Fatal(err)
	}
	for range 40 { // the tail is full
		posted(t, s, strings.Repeat("harmless ", 300))
		if err := taken(t, s).SettleAll(t.Context(), Delivered); err != nil {
			t.Fatal(err)
		}
	}
	if err := s.Compact(t.Context()); err != nil {
		t.Fatal(err)
	}
	if found := filesWith(t, dir, secret); len(found) > 0 {
		t.Errorf("found in %v", found)
	}
	ended(t, s)
}

// Compact returns when what it found dead is wiped, however long that takes.
func TestCompactWaitsForScrubbing(t *testing.T) {
	scenario(t, func(t *testing.T) {
		fs := memdisk.New(memdisk.Config{})
		o := tiny(fs)
		o.Scrub = true
		s := started(t, o)
		const secret = "what nobody else is to read"
		for range 20 {
			posted(t, s, strings.Repeat(secret, 300))
			if err := taken(t, s).SettleAll(t.Context(), Delivered); err != nil {
				t.Fatal(err)
			}
		}
		for range 20 { // the tail is full
			posted(t, s, strings.Repeat("harmless ", 900))
		}
		fs.OnOp(func(op disk.Op, name string) {
			if op == disk.OpWriteDurable && strings.Contains(name, "free-") {
				time.Sleep(time.Second)
			}
		})
		if err := s.Compact(t.Context()); err != nil {
			t.Fatal(err)
		}
		for name, b := range files(t, fs) {
			if strings.Contains(b, secret) {
				t.Errorf("a body is in %s", name)
			}
		}
		fs.OnOp(nil)
		ended(t, s)
	})
}
