package blocks

import (
	"sync"
	"time"
)

// Kind is what happened.
type Kind uint8

// The kinds of events.
const (
	Write Kind = iota + 1 // bytes were written
	Zero                  // a range was discarded, or zeroed
	Flush                 // everything before is durable
	Mark                  // somebody noted something
)

// Event is one thing that happened to a device, or beside it.
type Event struct {
	Kind Kind
	Off  int64
	Len  int64
	Data []byte // of a Write
	Text string // of a Mark
	At   time.Duration
}

// Device is a disk that is in use, and the log of what is done to it. Its methods may be
// called by any number of goroutines.
type Device struct {
	mu     sync.Mutex
	image  *Image
	log    []Event
	record bool
	start  time.Time

	delay, flushDelay time.Duration
}

// NewDevice returns a device of that size.
func NewDevice(size int64) *Device { return &Device{image: NewImage(size), start: time.Now()} }

// Size is the size in bytes.
func (d *Device) Size() int64 { return d.image.Size() }

// Insert puts a copy of an image in place of what there was, and begins a new log.
func (d *Device) Insert(m *Image) {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.image, d.log, d.record = m.Clone(), nil, true
}

// Slow sets how long a write and a flush take.
func (d *Device) Slow(write, flush time.Duration) {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.delay, d.flushDelay = write, flush
}

// Take ends the log and returns it.
func (d *Device) Take() []Event {
	d.mu.Lock()
	defer d.mu.Unlock()
	log := d.log
	d.log, d.record = nil, false
	return log
}

// Now is the time on the clock of the log.
func (d *Device) Now() time.Duration { return time.Since(d.start) }

// Read fills p.
func (d *Device) Read(p []byte, off int64) {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.image.ReadAt(p, off)
}

// Write takes a copy of p.
func (d *Device) Write(p []byte, off int64) {
	data := append(make([]byte, 0, len(p)), p...)
	wait := d.do(Event{Kind: Write, Off: off, Len: int64(len(p)), Data: data})
	sleep(wait)
}

// Zero makes zeros of a range.
func (d *Device) Zero(off, n int64) { d.do(Event{Kind: Zero, Off: off, Len: n}) }

// Flush is where everything written before becomes durable: when it returns.
func (d *Device) Flush() {
	d.mu.Lock()
	wait := d.flushDelay
	d.mu.Unlock()
	sleep(wait)
	d.do(Event{Kind: Flush})
}

// Mark notes a text in the same order.
func (d *Device) Mark(text string) { d.do(Event{Kind: Mark, Text: text}) }

func sleep(d time.Duration) {
	if d > 0 {
		time.Sleep(d)
	}
}

func (d *Device) do(e Event) (delay time.Duration) {
	d.mu.Lock()
	defer d.mu.Unlock()
	e.At = time.Since(d.start)
	d.image.apply(e)
	if d.record {
		d.log = append(d.log, e)
	}
	return d.delay
}

func (m *Image) apply(e Event) {
	switch e.Kind {
	case Write:
		m.write(e.Data, e.Off)
	case Zero:
		m.zero(e.Off, e.Len)
	}
}
