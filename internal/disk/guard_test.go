package disk_test

import (
	"errors"
	"os"
	"path/filepath"
	"runtime"
	"runtime/debug"
	"strings"
	"testing"

	"github.com/mtawal/mtawal/internal/disk"
)

// truncated maps 64 KiB of a real file and cuts it to one page.
func truncated(t *testing.T) disk.Mapping {
	t.Helper()
	if runtime.GOOS == "windows" {
		t.Skip("Windows does not cut a mapped file")
	}
	e := newEnv(t, disk.OS(), t.TempDir())
	f := e.create("a", strings.Repeat("x", 1<<16))
	m, err := f.Map(1 << 16)
	e.ok(err)
	e.ok(os.Truncate(filepath.Join(e.path, "a"), 4096))
	t.Cleanup(func() { e.ok(m.Close()) })
	return m
}

// sink keeps the compiler from leaving a read out.
var sink int

func sum(b []byte) int {
	sink = 0
	for _, c := range b {
		sink += int(c)
	}
	return sink
}

func TestGuardTurnsAFaultIntoAnError(t *testing.T) {
	m := truncated(t)
	n := 0
	if err := disk.Guard(m, func() error { n = sum(m.Bytes()[:4096]); return nil }); err != nil || n != 4096*'x' {
		t.Error("what is there can't be read:", n, err)
	}
	for name, read := range map[string]func(){
		"a loop": func() { n = sum(m.Bytes()[4090:]) },
		"a copy": func() { copy(make([]byte, 1<<16), m.Bytes()) },
	} {
		err := disk.Guard(m, func() error { read(); return nil })
		var re runtime.Error
		if !errors.Is(err, disk.ErrFault) || !errors.As(err, &re) {
			t.Errorf("%s: %v", name, err)
		}
	}
	if err := disk.Guard(m, func() error { sum(m.Bytes()[8192:8193]); return nil }); err == nil ||
		!strings.Contains(err.Error(), "at offset 8192") {
		t.Error("the place is not said:", err)
	}
}

func TestGuardPassesTheRest(t *testing.T) {
	m, other := truncated(t), truncated(t)
	want := errors.New("mine")
	if err := disk.Guard(m, func() error { return want }); err != want {
		t.Error(err)
	}
	catch := func(f func()) (r any) {
		defer func() { r = recover() }()
		_ = disk.Guard(m, func() error { f(); return nil })
		return nil
	}
	if r := catch(func() { panic(want) }); r != want {
		t.Error("a panic was changed:", r)
	}
	if r := catch(func() { var p *int; *p = 1 }); r == nil {
		t.Error("a nil dereference was swallowed")
	}
	if r := catch(func() { sum(other.Bytes()) }); r == nil {
		t.Error("a fault in another mapping was swallowed")
	}
	if r := catch(func() { // but its own guard has it
		if err := disk.Guard(other, func() error { sum(other.Bytes()); return nil }); !errors.Is(err, disk.ErrFault) {
			t.Error(err)
		}
	}); r != nil {
		t.Error(r)
	}
}

func TestGuardRestoresTheSetting(t *testing.T) {
	m := truncated(t)
	for _, was := range []bool{false, true} {
		outer := debug.SetPanicOnFault(was)
		_ = disk.Guard(m, func() error { sum(m.Bytes()); return nil })
		if got := debug.SetPanicOnFault(outer); got != was {
			t.Errorf("was %v, is %v", was, got)
		}
	}
}

func TestGuardAfterClose(t *testing.T) {
	m := truncated(t)
	if err := m.Close(); err != nil {
		t.Fatal(err)
	}
	if err := disk.Guard(m, func() error { return nil }); err != nil {
		t.Error(err)
	}
}
