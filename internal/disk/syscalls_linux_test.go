package disk

import (
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"
)

const traceEnv = "MTAWAL_TEST_TRACE"

// TestTraced is what TestBarriers looks at, as a process of its own.
func TestTraced(t *testing.T) {
	base := os.Getenv(traceEnv)
	if base == "" {
		t.Skip("runs as a helper alone")
	}
	d, err := OS().OpenDir(filepath.Join(base, "x", "y"), true)
	ok(t, err)
	f, err := d.Create("a")
	ok(t, err)
	ok(t, f.WriteDurable(0, []byte("one"), []byte("two")))
	ok(t, f.WriteDurable(4096, alignedBuffer(8192)))
	ok(t, d.Sync())
	ok(t, f.Sync())
	ok(t, f.Close())
	ok(t, d.Close())
	d, err = OS().OpenDir(filepath.Join(base, "x", "y"), true)
	ok(t, err)
	ok(t, d.Close())
}

// TestBarriers checks that what makes things durable is asked of the kernel, in
// order: no other test would notice if it were not.
func TestBarriers(t *testing.T) {
	strace, err := exec.LookPath("strace")
	if err != nil {
		t.Skip(err)
	}
	exe, err := os.Executable()
	ok(t, err)
	base, out := t.TempDir(), filepath.Join(t.TempDir(), "trace")
	cmd := exec.Command(strace, "-f", "-y", "-s", "64", "-o", out, "-e", "trace=mkdirat,mkdir,fsync,fdatasync,pwritev2,openat",
		exe, "-test.run=^TestTraced$")
	cmd.Env = append(os.Environ(), traceEnv+"="+base)
	if b, err := cmd.CombinedOutput(); err != nil {
		if strings.Contains(string(b), "ptrace") {
			t.Skipf("may not trace: %s", b)
		}
		t.Fatalf("%v: %s", err, b)
	}
	b, err := os.ReadFile(out)
	ok(t, err)
	var calls []string
	for _, line := range joined(string(b)) {
		if strings.Contains(line, base) && !strings.Contains(line, "/trace") {
			calls = append(calls, strings.ReplaceAll(line, base, "BASE"))
		}
	}
	want := []string{
		`mkdir(at)?\(.*"BASE/x", 0700\) = 0`,
		`fsync\(\d+<BASE/x>\) += 0`,
		`fsync\(\d+<BASE>\) += 0`,
		`mkdir(at)?\(.*"BASE/x/y", 0700\) = 0`,
		`fsync\(\d+<BASE/x/y>\) += 0`,
		`fsync\(\d+<BASE/x>\) += 0`,
		`openat\(.*<BASE/x/y>, "a", .*O_CREAT\|O_EXCL`,
		`pwritev2\(\d+<BASE/x/y/a>, .*"one".*"two".*, 0, RWF_DSYNC\)\s+= 6`,
		`openat\(.*"/proc/self/fd/\d+", .*O_DIRECT.* = \d+<BASE/x/y/a>`,
		`pwritev2\(\d+<BASE/x/y/a>, .*, 4096, RWF_DSYNC\)\s+= 8192`,
		`fsync\(\d+<BASE/x/y>\) += 0`,
		`fsync\(\d+<BASE/x/y/a>\) += 0`,
		// A run that found the directory there can't know whether it is durable.
		`fsync\(\d+<BASE/x>\) += 0`,
	}
	rest := calls
	for _, w := range want {
		re := regexp.MustCompile(w)
		for len(rest) > 0 && !re.MatchString(rest[0]) {
			rest = rest[1:]
		}
		if len(rest) == 0 {
			t.Fatalf("no %s, where it should be, in\n%s", w, strings.Join(calls, "\n"))
		}
		rest = rest[1:]
	}
}

// joined gives the calls of a trace one a line, each where it began: strace
// breaks a call in two, "<unfinished ...>" and "<... fsync resumed>", when
// another thread of the process is heard of before it ends.
func joined(trace string) []string {
	var lines []string
	begun := map[string]int{} // by the thread's number, the line that has no end yet
	for _, line := range strings.Split(trace, "\n") {
		thread, call, _ := strings.Cut(line, " ")
		if head, ok := strings.CutSuffix(line, " <unfinished ...>"); ok {
			begun[thread] = len(lines)
			lines = append(lines, head)
			continue
		}
		if _, tail, ok := strings.Cut(call, " resumed>"); ok {
			if i, ok := begun[thread]; ok {
				lines[i] += tail
				delete(begun, thread)
			}
			continue
		}
		lines = append(lines, line)
	}
	return lines
}

func TestJoined(t *testing.T) {
	got := joined("7 fsync(5</x> <unfinished ...>\n8 openat(\"a\") = 3\n7 <... fsync resumed>) = 0\n8 close(3) = 0")
	want := []string{"7 fsync(5</x>) = 0", `8 openat("a") = 3`, "8 close(3) = 0"}
	if !slices.Equal(got, want) {
		t.Fatalf("%q, not %q", got, want)
	}
}
