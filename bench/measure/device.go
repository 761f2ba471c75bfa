// Package measure is what is read off the machine: latencies, bytes that reach the device,
// disk use, memory, and what the machine is.
package measure

import (
	"fmt"
	"os"
	"strconv"
	"strings"
)

// Counter counts the bytes that a block device was given, by whomever.
type Counter struct {
	What string // where the kernel says so
	Read func() float64
}

const sectorSize = 512 // of the kernel's counters, whatever the device's is

// CounterFor finds the device below a directory. Where there is none to be seen, it
// counts what this process caused to be written.
func CounterFor(dir string) *Counter {
	if dev, ok := deviceOf(dir); ok {
		file := "/sys/dev/block/" + dev + "/stat"
		read := func() float64 {
			b, err := os.ReadFile(file)
			f := strings.Fields(string(b))
			if err != nil || len(f) < 7 {
				return -1
			}
			n, err := strconv.ParseFloat(f[6], 64)
			if err != nil {
				return -1
			}
			return n * sectorSize
		}
		if read() >= 0 {
			return &Counter{file, read}
		}
	}
	return &Counter{"/proc/self/io", OwnBytes}
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
