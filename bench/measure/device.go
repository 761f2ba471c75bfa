// Package measure is what is read off the machine: latencies, bytes that reach the device,
// disk use, memory, and what the machine is.
package measure

import (
	"fmt"
	"os"
	"strconv"
	"strings"
	"time"
)

// Counter counts the bytes that a block device was given, by whomever.
type Counter struct {
	What string // where the kernel says so
	Read func() float64
	// activity changes with every request that changes what is on the device, discards included.
	activity func() string
}

// Settle waits until nothing was done to the device for a moment, at most as long as most. What was given
// to the kernel and not yet to the device may still come. It returns how long the device was busy still.
func (c *Counter) Settle(most time.Duration) (busy time.Duration) {
	const step, calm = 5 * time.Millisecond, 50 * time.Millisecond
	start := time.Now()
	end := start.Add(most)
	last, since := c.activity(), start
	for now := since; now.Sub(since) < calm && now.Before(end); now = time.Now() {
		time.Sleep(step)
		if a := c.activity(); a != last {
			last, since = a, time.Now()
		}
	}
	return since.Sub(start)
}

const sectorSize = 512 // of the kernel's counters, whatever the device's is

// CounterFor finds the device below a directory. Where there is none to be seen, it
// counts what this process caused to be written.
func CounterFor(dir string) *Counter {
	if dev, ok := deviceOf(dir); ok {
		file := "/sys/dev/block/" + dev + "/stat"
		fields := func() []string { // none where there are not as many as any kernel has
			b, err := os.ReadFile(file)
			if f := strings.Fields(string(b)); err == nil && len(f) >= 11 {
				return f
			}
			return nil
		}
		read := func() float64 {
			f := fields()
			if f == nil {
				return -1
			}
			n, err := strconv.ParseFloat(f[6], 64)
			if err != nil {
				return -1
			}
			return n * sectorSize
		}
		if read() >= 0 {
			return &Counter{file, read, func() string {
				f := fields()
				if f == nil {
					return ""
				}
				return fmt.Sprint(f[4:8], f[11:]) // writes; discards and flushes, which older kernels do not count
			}}
		}
	}
	return &Counter{"/proc/self/io", OwnBytes, func() string { return fmt.Sprint(OwnBytes()) }}
}

// OwnBytes is what this process caused to be written, in pages that it made dirty or
// wrote directly: -1 where the system does not tell.
func OwnBytes() float64 {
	b, err := os.ReadFile("/proc/self/io")
	if err != nil {
		return -1
	}
	var n float64
	for line := range strings.Lines(string(b)) {
		if _, err := fmt.Sscanf(line, "write_bytes: %g", &n); err == nil {
			return n
		}
	}
	return -1
}
