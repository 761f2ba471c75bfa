package measure

import (
	"errors"
	"io/fs"
	"os"
	"path/filepath"
)

// DiskUse is the bytes that the files below a directory take on disk. Files that go away
// meanwhile are not counted.
func DiskUse(dir string) (int64, error) {
	var n int64
	err := filepath.WalkDir(dir, func(_ string, e fs.DirEntry, err error) error {
		if errors.Is(err, fs.ErrNotExist) {
			return nil
		}
		if err != nil || e.IsDir() {
			return err
		}
		i, err := e.Info()
		if errors.Is(err, fs.ErrNotExist) {
			return nil
		}
		if err != nil {
			return err
		}
		n += blocks(i)
		return nil
	})
	return n, err
}

// DropCaches has what is below a directory read from the device the next time. It returns how: the pages
// of each file are dropped, or, if all is set, the whole page cache, inodes and names too, which takes
// root, slows whatever else runs, and waits for every file system that is mounted.
func DropCaches(dir string, all bool) (how string, err error) {
	// What is dirty is not dropped.
	if err := eachFile(dir, (*os.File).Sync); err != nil {
		return "", err
	}
	if all {
		return "drop_caches=3", os.WriteFile("/proc/sys/vm/drop_caches", []byte("3\n"), 0)
	}
	return "posix_fadvise(DONTNEED) of each file", eachFile(dir, dropFile)
}

// eachFile does something with every file below a directory.
func eachFile(dir string, do func(*os.File) error) error {
	return filepath.WalkDir(dir, func(name string, e fs.DirEntry, err error) error {
		if err != nil || !e.Type().IsRegular() {
			return err
		}
		f, err := os.Open(name)
		if errors.Is(err, fs.ErrNotExist) {
			return nil // removed meanwhile
		}
		if err != nil {
			return err
		}
		return errors.Join(do(f), f.Close())
	})
}
