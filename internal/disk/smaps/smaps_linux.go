// Package smaps tells tests what the kernel knows of the memory of this process.
package smaps

import (
	"bufio"
	"fmt"
	"os"
	"strings"
	"testing"
)

// IsHuge reports whether the kernel was asked to back an address with huge pages, see VmFlags in proc_pid_smaps(5). It skips the
// test where there are none to ask for.
func IsHuge(t testing.TB, at uintptr) bool {
	t.Helper()
	if _, err := os.Stat("/sys/kernel/mm/transparent_hugepage/enabled"); err != nil {
		t.Skip("this kernel has no huge pages to ask for:", err)
	}
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
			return strings.Contains(flags, " hg")
		}
	}
	t.Skip("no flags of mappings in /proc/self/smaps")
	return false
}
