package journal

import (
	"bytes"
	"testing"
	"unsafe"

	"github.com/mtawal/mtawal/internal/disk"
	"github.com/mtawal/mtawal/internal/disk/memdisk"
	"github.com/mtawal/mtawal/segment"
)

// watched notes what the last durable write was given.
type watched struct {
	disk.Dir
	bufs [][]byte
}

func (w *watched) Open(name string, write bool) (disk.File, error) {
	f, err := w.Dir.Open(name, write)
	return watchedFile{f, w}, err
}

type watchedFile struct {
	disk.File
	dir *watched
}

func (f watchedFile) WriteDurable(off int64, bufs ...[]byte) error {
	f.dir.bufs = append(f.dir.bufs[:0], bufs...)
	return f.File.WriteDurable(off, bufs...)
}

// A frame is written from the memory that it was laid out in, in parts that suit a direct write,
// however large the block is that it has to fill: no part of it is copied, and none is held twice.
func TestFramesAreWrittenFromWhereTheyAreLaidOut(t *testing.T) {
	for _, size := range []int{block, 4 * block, 16 * block} {
		m := memdisk.New(memdisk.Config{Block: size})
		r := on(t, m)
		w := &watched{Dir: r.dir}
		r.dir = w
		room := segment.Room{Table: 16 << 10, Body: 64 << 10}
		r.opt.SegmentSize, r.opt.Recent = 64*int64(size), segment.NewRecent(room)
		r.ok(MakeFirst(r.dir, testUUID, r.opt))
		r.open()
		for i, n := range []int{0, 1, 511, 512, 4095, 4096, 5000, 40000, room.Body - block} {
			d := message(r.next, n)
			if n == 0 {
				d = marker()
			}
			r.next++
			slab, table, body := r.opt.Recent.Next()
			table, body = append(table, d.Table...), append(body, d.Body...)
			d.Slab = slab
			d.Table, d.Body = r.opt.Recent.Take(slab, table, body)
			h := r.append(d)
			total := 0
			for k, b := range w.bufs {
				total += len(b)
				if len(b)%512 != 0 || uintptr(unsafe.Pointer(unsafe.SliceData(b)))%512 != 0 {
					t.Errorf("block %d, frame %d: part %d, %d bytes at %p, suits no direct write", size, i, k, len(b), b)
				}
			}
			if int64(total) != h.Len || total%size != 0 {
				t.Errorf("block %d, frame %d: %d bytes are written, its length is %d", size, i, total, h.Len)
			}
			parts := [][]byte{table, body}[:1+min(n, 1)]
			for k, p := range parts {
				if &w.bufs[k][0] != &p[0] || !bytes.Equal(w.bufs[k][:len(p)], p) {
					t.Errorf("block %d, frame %d: part %d is written from a copy", size, i, k)
				}
			}
			if rest := w.bufs[len(parts)-1:]; len(rest) == 2 && len(bytes.Trim(rest[1], "\x00")) > 0 {
				t.Errorf("block %d, frame %d: it is not padded with zeros", size, i)
			}
		}
		r.crash().replays("after a kill", withoutSeals(r.frames))
	}
}
