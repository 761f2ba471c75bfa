package system

import (
	"os"
	"path/filepath"
	"sync"
	"sync/atomic"
	"unsafe"

	"golang.org/x/sys/unix"
)

// FloorSize is the length of the file that a floor writes round and round: zeros that
// were written once, as recycled segments are.
const FloorSize = 128 << 20

// The floors: one writer that makes as many bytes durable as mtawal does for a message, and a group
// commit that does nothing else.
var (
	FloorDirect   = floor("bare O_DIRECT|O_DSYNC", "O_DIRECT|O_DSYNC write", openBare(direct, 1))
	FloorBuffered = floor("bare RWF_DSYNC", "pwritev2(RWF_DSYNC)", openBare(buffered, 1))
	FloorMapped   = floor("bare mapping + msync", "msync(MS_SYNC), folios of one page", openBare(mapped, 1))
	// Each commit writes a whole folio, up to 2 MiB.
	FloorMappedLarge   = floor("bare mapping, large folios", "msync(MS_SYNC), folios as large as the kernel makes them", openBare(mapped, 256))
	FloorGroupBuffered = group("bare group, RWF_DSYNC", "pwritev2(RWF_DSYNC)", openGroup(buffered))
	FloorGroupDirect   = group("bare group, O_DIRECT", "O_DIRECT|O_DSYNC write", openGroup(direct))
)

var floors = []Spec{FloorDirect, FloorBuffered, FloorMapped, FloorMappedLarge, FloorGroupBuffered, FloorGroupDirect}

type opener func(dir string, o Options) (System, error)

func floor(name, durable string, open opener) Spec {
	return Spec{Name: name, Durable: durable, Queue: "none: bytes are made durable, no more", Floor: true, Open: open}
}

func group(name, durable string, open opener) Spec {
	s := floor(name, durable, open)
	s.Group = true
	return s
}

// way is how bytes reach the device.
type way int

const (
	buffered way = iota
	direct
	mapped
)

// appender writes bytes durably, one behind the other, round and round a file.
type appender struct {
	way  way
	file *os.File
	mem  []byte
	off  int64
	name string
	size int64

	wrote atomic.Int64
}

// newAppender fills the file in writes of so many pages: where the kernel has large
// folios, their size follows that of the write. A file that is there is used again.
func newAppender(dir string, w way, pages int, o Options) (_ *appender, err error) {
	a := &appender{way: w, name: filepath.Join(dir, "floor"), size: o.FloorSize}
	if a.size == 0 {
		a.size = FloorSize
	}
	f, err := os.OpenFile(a.name, os.O_RDWR|os.O_CREATE, 0o600)
	if err != nil {
		return nil, err
	}
	a.file = f
	defer func() {
		if err != nil {
			_ = a.file.Close()
		}
	}()
	st, err := f.Stat()
	if err != nil {
		return nil, err
	}
	if st.Size() != a.size {
		zeros := make([]byte, pages*4096)
		for off := int64(0); off < a.size; off += int64(len(zeros)) {
			if _, err := f.WriteAt(zeros, off); err != nil {
				return nil, err
			}
		}
		if err := f.Sync(); err != nil {
			return nil, err
		}
	}
	switch w {
	case direct:
		if err := f.Close(); err != nil {
			return nil, err
		}
		a.file, err = os.OpenFile(a.name, os.O_WRONLY|unix.O_DIRECT|unix.O_DSYNC, 0)
	case mapped:
		a.mem, err = unix.Mmap(int(f.Fd()), 0, int(a.size), unix.PROT_READ|unix.PROT_WRITE, unix.MAP_SHARED)
	}
	return a, err
}

// write writes b, whole pages at a page's start.
func (a *appender) write(b []byte) error {
	if a.off+int64(len(b)) > a.size {
		a.off = 0
	}
	off := a.off
	a.off += int64(len(b))
	defer a.wrote.Add(int64(len(b)))
	switch a.way {
	case direct:
		_, err := a.file.WriteAt(b, off)
		return err
	case mapped:
		copy(a.mem[off:], b)
		return unix.Msync(a.mem[off:off+int64(len(b))], unix.MS_SYNC)
	}
	for len(b) > 0 {
		n, err := unix.Pwritev2(int(a.file.Fd()), [][]byte{b}, off, unix.RWF_DSYNC)
		if err != nil && err != unix.EINTR {
			return err
		}
		b, off = b[max(n, 0):], off+int64(max(n, 0))
	}
	return nil
}

func (a *appender) close() error {
	if a.mem != nil {
		if err := unix.Munmap(a.mem); err != nil {
			return err
		}
	}
	return a.file.Close()
}

// aligned returns memory for direct I/O.
func aligned(n int) []byte {
	b := make([]byte, n+4096)
	skip := -int(uintptr(unsafe.Pointer(unsafe.SliceData(b)))) & 4095
	return b[skip : skip+n : skip+n]
}

// bare is one thread that copies a body into a buffer and makes as many bytes durable
// as mtawal does for it.
type bare struct {
	mu  sync.Mutex
	a   *appender
	buf []byte
}

func openBare(w way, pages int) opener {
	return func(dir string, o Options) (System, error) {
		a, err := newAppender(dir, w, pages, o)
		if err != nil {
			return nil, err
		}
		return &bare{a: a, buf: aligned(4096)}, nil
	}
}

// headRoom is what mtawal has in front of a body: the frame's header and a record.
const headRoom = 512

func (b *bare) Enqueue(m Message) error {
	b.mu.Lock()
	defer b.mu.Unlock()
	n := (len(m.Body) + headRoom + 4095) &^ 4095
	if cap(b.buf) < n {
		b.buf = aligned(n)
	}
	b.buf = b.buf[:n]
	copy(b.buf[n-len(m.Body):], m.Body)
	return b.a.write(b.buf)
}

func (b *bare) Clear() error { return nil }
func (b *bare) Close() error { return b.a.close() }

// groupLoop is a group commit and nothing else: no records, no checksums, no queues.
// Producers copy into the buffer that fills while the other one is written.
type groupLoop struct {
	a    *appender
	work chan struct{}
	done chan struct{}

	mu      sync.Mutex
	roomy   *sync.Cond
	filling *batch
	spare   *batch
	stop    bool
}

type batch struct {
	buf  []byte
	done chan struct{}
	err  error
}

const groupMax = 4 << 20

func openGroup(w way) opener {
	return func(dir string, o Options) (System, error) {
		a, err := newAppender(dir, w, 1, o)
		if err != nil {
			return nil, err
		}
		fresh := func() *batch { return &batch{buf: aligned(groupMax)[:0], done: make(chan struct{})} }
		g := &groupLoop{a: a, work: make(chan struct{}, 1), done: make(chan struct{}), filling: fresh(), spare: fresh()}
		g.roomy = sync.NewCond(&g.mu)
		go g.run()
		return g, nil
	}
}

func (g *groupLoop) poke() {
	select {
	case g.work <- struct{}{}:
	default:
	}
}

func (g *groupLoop) Enqueue(m Message) error {
	body := m.Body
	g.mu.Lock()
	for g.filling == nil || len(g.filling.buf)+len(body) > groupMax {
		g.roomy.Wait()
	}
	b := g.filling
	b.buf = append(b.buf, body...)
	done := b.done
	g.mu.Unlock()
	g.poke()
	<-done
	return b.err
}

func (g *groupLoop) run() {
	defer close(g.done)
	for range g.work {
		for {
			g.mu.Lock()
			b, stop := g.filling, g.stop
			if len(b.buf) == 0 {
				g.mu.Unlock()
				if stop {
					return
				}
				break
			}
			g.filling, g.spare = g.spare, nil
			g.mu.Unlock()
			n := (len(b.buf) + 4095) &^ 4095
			err := g.a.write(b.buf[:n])
			// Who waits still reads b.err: the memory goes on in a new batch.
			b.err = err
			next := &batch{buf: b.buf[:0], done: make(chan struct{})}
			close(b.done)
			g.mu.Lock()
			g.spare = next
			g.roomy.Broadcast()
			g.mu.Unlock()
		}
	}
}

func (g *groupLoop) Clear() error { return nil }

// Wrote is how many bytes the loop has written.
func (g *groupLoop) Wrote() int64 { return g.a.wrote.Load() }

func (g *groupLoop) Close() error {
	g.mu.Lock()
	g.stop = true
	g.mu.Unlock()
	g.poke()
	<-g.done
	return g.a.close()
}
