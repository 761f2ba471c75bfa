package measure

import (
	"os"
	"runtime"
	"runtime/debug"
	"strings"
	"time"
)

// Env is where it was measured.
type Env struct {
	Time       string            `json:"time"`
	Go         string            `json:"go"`
	OS         string            `json:"os"`
	Kernel     string            `json:"kernel,omitempty"`
	CPU        string            `json:"cpu,omitempty"`
	CPUs       int               `json:"cpus"`
	Memory     string            `json:"memory,omitempty"`
	FileSystem string            `json:"file_system,omitempty"` // type and mount options
	Device     string            `json:"device,omitempty"`      // of the counters
	Load       string            `json:"load_average,omitempty"`
	Modules    map[string]string `json:"modules"` // versions of what this program links
}

// Environment describes the machine and the file system below a directory.
func Environment(dir string) Env {
	e := Env{Time: time.Now().UTC().Format(time.RFC3339), Go: runtime.Version(), OS: runtime.GOOS + "/" + runtime.GOARCH,
		CPUs: runtime.NumCPU(), Device: CounterFor(dir).What, Modules: make(map[string]string)}
	e.Kernel = firstLine("/proc/sys/kernel/osrelease")
	e.Load = firstLine("/proc/loadavg")
	e.CPU = field("/proc/cpuinfo", "model name")
	e.Memory = field("/proc/meminfo", "MemTotal")
	if b, err := os.ReadFile("/proc/self/mounts"); err == nil {
		longest := -1
		for line := range strings.Lines(string(b)) {
			f := strings.Fields(line)
			if len(f) < 4 || !strings.HasPrefix(dir+"/", strings.TrimSuffix(f[1], "/")+"/") || len(f[1]) < longest {
				continue
			}
			longest, e.FileSystem = len(f[1]), f[2]+" ("+f[3]+")"
		}
	}
	if i, ok := debug.ReadBuildInfo(); ok {
		for _, d := range i.Deps {
			e.Modules[d.Path] = d.Version
		}
	}
	return e
}

func firstLine(file string) string {
	b, err := os.ReadFile(file)
	if err != nil {
		return ""
	}
	return strings.TrimSpace(string(b))
}

func field(file, want string) string {
	b, err := os.ReadFile(file)
	if err != nil {
		return ""
	}
	for line := range strings.Lines(string(b)) {
		if name, v, ok := strings.Cut(line, ":"); ok && strings.TrimSpace(name) == want {
			return strings.TrimSpace(v)
		}
	}
	return ""
}
