// Package smaps tells tests what the kernel knows of the memory of this process.
package smaps

import (
	"bufio"
	"encoding/binary"
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

// Present reports whether the page that an address lies in is in the process's page tables, see pagemap in proc_pid_pagemap(5).
func Present(t testing.TB, at uintptr) bool {
	t.Helper()
	f, err := os.Open("/proc/self/pagemap")
	if err != nil {
		t.Skip(err)
	}
	defer f.Close()
	var entry [8]byte
	if _, err := f.ReadAt(entry[:], int64(at)/int64(os.Getpagesize())*int64(len(entry))); err != nil {
		t.Fatal(err)
	}
	return binary.NativeEndian.Uint64(entry[:])>>63 != 0
}

// MappingsOf returns where a file is mapped.
func MappingsOf(t testing.TB, path string) (list []Range) {
	t.Helper()
	b, err := os.ReadFile("/proc/self/maps")
	if err != nil {
		t.Skip(err)
	}
	for line := range strings.Lines(string(b)) {
		var r Range
		if strings.HasSuffix(line, " "+path+"\n") {
			if _, err := fmt.Sscanf(line, "%x-%x", &r.From, &r.To); err != nil {
				t.Fatal(err)
			}
			list = append(list, r)
		}
	}
	return list
}

// Range is addresses [From, To).
type Range struct{ From, To uintptr }
