//go:build unix

package main

import (
	"bytes"
	"encoding/binary"
	"math/rand/v2"
	"os"
	"path/filepath"
	"runtime/metrics"
	"strings"
	"testing"

	"github.com/mtawal/mtawal/segment"
)

// Files that somebody prepared: random bytes, a sparse file of 1 TiB, tables that say they hold 2^32
// records and are full of empty ones, a later version, control characters. Each verb ends, with bounded memory,
// an exit code that is not 0 and nothing that a terminal obeys, and changes nothing.
func TestCase30_WalctlOnHostileFiles(t *testing.T) {
	rng := rand.New(rand.NewPCG(30, 30))
	noise := make([]byte, segment.SizeMin)
	for i := range noise {
		noise[i] = byte(rng.Uint32())
	}
	le := binary.LittleEndian
	write := func(t *testing.T, file string, b []byte) {
		t.Helper()
		if err := os.WriteFile(file, b, 0o600); err != nil {
			t.Fatal(err)
		}
	}
	change := func(t *testing.T, file string, f func(b []byte) []byte) {
		t.Helper()
		b, err := os.ReadFile(file)
		if err != nil {
			t.Fatal(err)
		}
		write(t, file, f(b))
	}
	// The second frame of the log with another table, checksums and all, and no checkpoint that spares
	// its being read.
	table := func(t *testing.T, dir string, records uint32, fill func(table []byte)) {
		t.Helper()
		list, err := filepath.Glob(filepath.Join(dir, "ckpt-*"))
		if err != nil {
			t.Fatal(err)
		}
		for _, name := range list {
			if err := os.Remove(name); err != nil {
				t.Fatal(err)
			}
		}
		change(t, filepath.Join(dir, segment.Name(1)), func(b []byte) []byte {
			h, err := segment.DecodeHeader(b)
			if err != nil {
				t.Fatal(err)
			}
			open, ok, err := segment.DecodeFrameHeader(&h, h.First(), b[h.First():])
			if !ok || err != nil {
				t.Fatal(ok, err)
			}
			at := open.End().Offset()
			f, ok, err := segment.DecodeFrameHeader(&h, at, b[at:])
			if !ok || err != nil {
				t.Fatal(ok, err)
			}
			f.Records, f.TableLen, f.BodyLen = records, 16<<10, 0
			f.Layout(h.Alignment)
			table := b[at+segment.FrameHeaderSize:][:f.TableLen]
			fill(table)
			f.TableCRC = segment.TableSum(f.Salt, f.Pos, table)
			f.Encode(b[at:])
			return b
		})
	}
	control := []byte("\x1b[2J\x1b]0;owned\x07\r\n\x9b31m")
	first, meta := segment.Name(1), "META"
	for _, tt := range []struct {
		name  string
		spoil func(t *testing.T, dir string)
		verbs []string // all of them, unless they are named
	}{
		{"random segment", func(t *testing.T, dir string) { write(t, filepath.Join(dir, first), noise) }, nil},
		{"random META", func(t *testing.T, dir string) { write(t, filepath.Join(dir, meta), noise) }, nil},
		{"random everything", func(t *testing.T, dir string) {
			for name := range contents(t, dir) {
				write(t, filepath.Join(dir, name), noise)
			}
		}, nil},
		{"sparse segment of 1 TiB", func(t *testing.T, dir string) {
			if err := os.Truncate(filepath.Join(dir, first), 1<<40); err != nil {
				t.Skip("no file of 1 TiB here: ", err)
			}
		}, nil},
		{"sparse checkpoint of 1 TiB", func(t *testing.T, dir string) {
			list, err := filepath.Glob(filepath.Join(dir, "ckpt-*"))
			if err != nil || len(list) == 0 {
				t.Fatal(list, err)
			}
			for _, name := range list {
				if err := os.Truncate(name, 1<<40); err != nil {
					t.Skip("no file of 1 TiB here: ", err)
				}
			}
		}, []string{"verify"}},
		{"sparse META of 1 TiB", func(t *testing.T, dir string) {
			if err := os.Truncate(filepath.Join(dir, meta), 1<<40); err != nil {
				t.Skip("no file of 1 TiB here: ", err)
			}
		}, nil},
		{"2^32 empty records", func(t *testing.T, dir string) {
			table(t, dir, 1<<32-1, func(table []byte) {
				for at := 0; at < len(table); at += 16 {
					clear(table[at : at+16])
					table[at] = byte(segment.KindForget)
					le.PutUint32(table[at+4:], 16)
					le.PutUint32(table[at+12:], segment.CRC(table[at:at+12]))
				}
			})
		}, nil},
		{"records of no length", func(t *testing.T, dir string) { table(t, dir, 1<<10, func(table []byte) { clear(table) }) }, nil},
		{"segment of a later version", func(t *testing.T, dir string) {
			change(t, filepath.Join(dir, first), func(b []byte) []byte { b[8] = 99; return b })
		}, nil},
		{"META of a later version", func(t *testing.T, dir string) {
			write(t, filepath.Join(dir, meta), append([]byte("mtawal 99 "), control...))
		}, nil},
		{"control characters in META", func(t *testing.T, dir string) {
			change(t, filepath.Join(dir, meta), func(b []byte) []byte { return append(b[:20:20], control...) })
		}, nil},
		{"control characters in a segment", func(t *testing.T, dir string) {
			write(t, filepath.Join(dir, first), bytes.Repeat(control, segment.SizeMin/len(control)))
		}, nil},
	} {
		t.Run(tt.name, func(t *testing.T) {
			dir := made(t)
			tt.spoil(t, dir)
			// Sparse files are told apart by their length alone.
			sizes := func() (s string) {
				list, err := os.ReadDir(dir)
				if err != nil {
					t.Fatal(err)
				}
				for _, e := range list {
					if i, err := e.Info(); err == nil && e.Name() != "LOCK" {
						s += i.Name() + i.ModTime().String() + strings.Repeat("x", int(i.Size()%97))
					}
				}
				return s
			}
			before := sizes()
			verbs := append(reading, []string{"checkpoint"}, []string{"compact"})
			if tt.verbs != nil {
				verbs = [][]string{tt.verbs}
			}
			for _, verb := range append(verbs, []string{"snapshot"}) {
				args := append(verb[:len(verb):len(verb)], dir)
				if verb[0] == "snapshot" {
					if tt.verbs != nil {
						continue
					}
					args = append(args, filepath.Join(t.TempDir(), "copy"))
				}
				sample := []metrics.Sample{{Name: "/gc/heap/allocs:bytes"}}
				metrics.Read(sample)
				was := sample[0].Value.Uint64()
				stdout, stderr, code := walctl(t, args...)
				metrics.Read(sample)
				if n := sample[0].Value.Uint64() - was; n > 64<<20 {
					t.Errorf("%q: %d bytes were allocated", verb, n)
				}
				if code == exitFine || stdout+stderr == "" {
					t.Errorf("%q: exit code %d: %.500s%.500s", verb, code, stdout, stderr)
				}
				printable(t, args, stdout+stderr)
				if len(stdout)+len(stderr) > 1<<20 {
					t.Errorf("%q says %d bytes", verb, len(stdout)+len(stderr))
				}
			}
			if sizes() != before {
				t.Error("something was touched")
			}
		})
	}
}
