package measure

import (
	"fmt"
	"os"
	"runtime"
	"strings"
)

// Memory is what a process holds.
type Memory struct {
	Heap int64 // of Go, after a collection
	Anon int64 // resident, not of files: what C or mmap allocated counts too; 0 where unknown
}

// MemoryNow collects garbage and looks.
func MemoryNow() Memory {
	runtime.GC()
	runtime.GC()
	var m runtime.MemStats
	runtime.ReadMemStats(&m)
	r := Memory{Heap: int64(m.HeapAlloc)}
	b, err := os.ReadFile("/proc/self/status")
	if err != nil {
		return r
	}
	for line := range strings.Lines(string(b)) {
		if _, err := fmt.Sscanf(line, "RssAnon: %d kB", &r.Anon); err == nil {
			r.Anon <<= 10
			break
		}
	}
	return r
}
