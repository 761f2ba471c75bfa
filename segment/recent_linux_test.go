package segment

import (
	"bufio"
	"fmt"
	"os"
	"strings"
	"testing"
	"unsafe"
)

// Frames of a store of ordinary size are laid out in memory that the kernel was asked to back with
// huge pages.
func TestSlabsAskForHugePages(t *testing.T) {
	if _, err := os.Stat("/sys/kernel/mm/transparent_hugepage/enabled"); err != nil {
		t.Skip("this kernel has no huge pages to ask for:", err)
	}
	_, _, body := NewRecent(Room{Table: 512 << 10, Body: 4 << 20}).Next()
	first := uintptr(unsafe.Pointer(unsafe.SliceData(body[:1])))
	for at := first; at < first+4<<20; at += 1 << 20 {
		if flags := memoryFlags(t, at); !strings.Contains(flags, " hg") {
			t.Errorf("memory of a slab at %d KiB: %s", (at-first)>>10, flags)
		}
	}
}

// memoryFlags are those of the mapping that an address lies in, see proc_pid_smaps(5).
func memoryFlags(t *testing.T, at uintptr) string {
	f, err := os.Open("/proc/self/smaps")
	if err != nil {
		t.Skip(err)
	}
	defer f.Close()
	in := false
	for s := bufio.NewScanner(f); s.Scan(); {
		var from, to uintptr
		if n, _ := fmt.Sscanf(s.Text(), "%x-%x ", &from, &to); n == 2 {
			in = from <= at && at < to
		}
		if flags, ok := strings.CutPrefix(s.Text(), "VmFlags:"); ok && in {
			return flags
		}
	}
	t.Skip("no flags of mappings in /proc/self/smaps")
	return ""
}
