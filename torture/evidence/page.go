package main

import (
	"fmt"
	"os"
	"os/exec"
	"runtime"
	"strings"

	"golang.org/x/sys/unix"
)

// The table stands between these two lines; the rest of the page is written by hand.
const (
	begin = "<!-- table: go -C torture run ./evidence -->"
	end   = "<!-- end of the table -->"
)

// write puts the table into the page.
func write(path, commit string, all []*row) error {
	text, err := os.ReadFile(path)
	if err != nil {
		return fmt.Errorf("read the page: %w", err)
	}
	before, rest, ok1 := strings.Cut(string(text), begin)
	_, after, ok2 := strings.Cut(rest, end)
	if !ok1 || !ok2 {
		return fmt.Errorf("%s has no place for the table: no line %q or no line %q behind it", path, begin, end)
	}
	page := before + begin + "\n" + table(commit, all) + end + after
	if err := os.WriteFile(path, []byte(page), 0o644); err != nil {
		return fmt.Errorf("write the page: %w", err)
	}
	return nil
}

func table(commit string, all []*row) string {
	var b strings.Builder
	fmt.Fprintf(&b, "\nOf commit %s, %s/%s, %s.\n\n", commit, runtime.GOOS, runtime.GOARCH, runtime.Version())
	b.WriteString("| method | file system | kernel | crashes | lost | invented | repeated | silent | refused | announced | in the window | seed | command |\n")
	b.WriteString("|---|---|---|---|---|---|---|---|---|---|---|---|---|\n")
	for _, r := range all {
		if !r.done {
			continue
		}
		method := r.Method
		if r.with != "" {
			method += ", " + r.with
		}
		if r.control {
			method = "control: " + method
		}
		fmt.Fprintf(&b, "| %s | %s | %s | %d | %d | %d | %d | %d | %d | %d | %d | %d | `%s` |\n", method, r.FileSystem, kernel(), r.Crashes,
			r.Lost, r.Invented, r.Repeated, r.Silent, r.Refused, r.Announced, r.InWindow, r.Seed, r.command())
	}
	return b.String() + "\n"
}

// commit names the code that is measured.
func commit() string {
	out, err := exec.Command("git", "rev-parse", "--short", "HEAD").Output()
	if err != nil {
		return "unknown"
	}
	name := strings.TrimSpace(string(out))
	if out, err := exec.Command("git", "status", "--porcelain", "--", ":/*.go").Output(); err != nil || len(out) > 0 {
		name += " and changes since"
	}
	return name
}

// kernel is the version without what a vendor appends.
func kernel() string {
	var u unix.Utsname
	if err := unix.Uname(&u); err != nil {
		return "unknown"
	}
	name, _, _ := strings.Cut(unix.ByteSliceToString(u.Release[:]), "-")
	return name
}

// fileSystem is what the drill's temporary directory is on.
func fileSystem() string {
	var s unix.Statfs_t
	if err := unix.Statfs(os.TempDir(), &s); err != nil {
		return "unknown"
	}
	names := map[int64]string{unix.EXT4_SUPER_MAGIC: "ext4", unix.XFS_SUPER_MAGIC: "xfs", unix.BTRFS_SUPER_MAGIC: "btrfs", unix.TMPFS_MAGIC: "tmpfs"}
	name, ok := names[int64(s.Type)]
	if !ok {
		name = fmt.Sprintf("%#x", s.Type)
	}
	return name
}
