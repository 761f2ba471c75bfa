// Package realfs makes, mounts and cuts off real file systems on loop devices. It needs
// root and linux.
package realfs

import (
	"errors"
	"fmt"
	"math/rand/v2"
	"os"
	"os/exec"
	"strings"
	"time"

	"golang.org/x/sys/unix"
)

// FS is a kind of file system.
type FS struct {
	Name string
	Size int64 // of its image
	mkfs []string
	// options of a mount, of which one is drawn.
	options []string
	// Shutdown: FS_IOC_SHUTDOWN works.
	Shutdown bool
}

var kinds = []FS{
	{
		Name: "ext4", Size: 32 << 20, Shutdown: true,
		mkfs:    []string{"mkfs.ext4", "-q", "-F", "-b", "4096", "-E", "lazy_itable_init=0,lazy_journal_init=0"},
		options: []string{"", "commit=1", "nodelalloc,commit=1", "data=writeback,commit=1"},
	},
	{
		// Below 300 MB only with an option that mkfs.xfs keeps for tests: the log is small,
		// so that its recovery is quick.
		Name: "xfs", Size: 64 << 20, Shutdown: true,
		mkfs:    []string{"mkfs.xfs", "-q", "-f", "--unsupported"},
		options: []string{"nouuid", "nouuid,noalign", "nouuid,wsync"}, // a finding has the UUID of its rig
	},
	{
		Name: "btrfs", Size: 128 << 20,
		mkfs:    []string{"mkfs.btrfs", "-q", "-f"},
		options: []string{"", "commit=1", "notreelog,commit=1"},
	},
}

// Names are the kinds there are.
func Names() []string {
	var names []string
	for _, k := range kinds {
		names = append(names, k.Name)
	}
	return names
}

// ByName returns a kind.
func ByName(name string) (FS, error) {
	for _, k := range kinds {
		if k.Name == name {
			return k, nil
		}
	}
	return FS{}, fmt.Errorf("no file system is called %q: there are %s", name, strings.Join(Names(), ", "))
}

// Missing says what this machine lacks to run a kind, or nothing.
func Missing(k FS) string {
	if os.Geteuid() != 0 {
		return "no root"
	}
	for _, path := range []string{"/dev/fuse", "/dev/loop-control"} {
		if _, err := os.Stat(path); err != nil {
			return "no " + path
		}
	}
	known, err := os.ReadFile("/proc/filesystems")
	if err != nil || !strings.Contains(string(known), "\t"+k.Name+"\n") {
		return "the kernel has no " + k.Name
	}
	if _, err := exec.LookPath(k.mkfs[0]); err != nil {
		return "no " + k.mkfs[0]
	}
	return ""
}

// Make makes a file system in a file.
func (k FS) Make(path string) error {
	if err := os.WriteFile(path, nil, 0o600); err != nil {
		return fmt.Errorf("make %s: %w", k.Name, err)
	}
	if err := os.Truncate(path, k.Size); err != nil {
		return fmt.Errorf("make %s: %w", k.Name, err)
	}
	out, err := exec.Command(k.mkfs[0], append(k.mkfs[1:len(k.mkfs):len(k.mkfs)], path)...).CombinedOutput()
	if err != nil {
		return fmt.Errorf("make %s: %w: %s", k.Name, err, strings.TrimSpace(string(out)))
	}
	return nil
}

// Options draws the options of a mount.
func (k FS) Options(rng *rand.Rand) string { return k.options[rng.IntN(len(k.options))] }

// Mount mounts a device.
func (k FS) Mount(dev, dir, options string) error {
	if err := unix.Mount(dev, dir, k.Name, unix.MS_NOATIME, options); err != nil {
		return fmt.Errorf("mount %s (%s): %w", k.Name, options, err)
	}
	return nil
}

// Unmount unmounts a directory, and waits for those who still look.
func Unmount(dir string) error {
	var err error
	for range 200 {
		if err = unix.Unmount(dir, 0); !errors.Is(err, unix.EBUSY) {
			break
		}
		time.Sleep(10 * time.Millisecond)
	}
	if err != nil {
		return fmt.Errorf("unmount %s: %w", dir, err)
	}
	return nil
}

// Cut makes the file system of a directory forget all that it has not written: as a power
// cut, and nothing is flushed.
func Cut(dir string) error {
	const shutdown, noLogFlush = 0x8004587d, 2
	fd, err := unix.Open(dir, unix.O_RDONLY|unix.O_DIRECTORY|unix.O_CLOEXEC, 0)
	if err != nil {
		return fmt.Errorf("cut off %s: %w", dir, err)
	}
	defer unix.Close(fd)
	if err := unix.IoctlSetPointerInt(fd, shutdown, noLogFlush); err != nil {
		return fmt.Errorf("cut off %s: %w", dir, err)
	}
	return nil
}
