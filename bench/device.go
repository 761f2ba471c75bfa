package main

import (
	"fmt"
	"os"
	"strconv"
	"strings"
)

// counter counts the bytes that a block device was given, by whomever.
type counter struct {
	what string
	read func() float64
}

const sectorSize = 512 // of the kernel's counters, whatever the device's is

// counterFor finds the device below a directory. Where there is none to be seen, it
// counts what this process caused to be written.
func counterFor(dir string) *counter {
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
			return &counter{file, read}
		}
	}
	return &counter{"/proc/self/io", ownBytes}
}

// ownBytes is what this process caused to be written, in pages that it made dirty or
// wrote directly: -1 where the system does not tell.
func ownBytes() float64 {
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
