package main

import (
	"fmt"
	"io"
	"os"
)

// tempDir makes a directory for a store on a file system that is not kept in
// memory, as long as there is one to write to.
func tempDir(stderr io.Writer) (string, error) {
	for _, parent := range []string{os.TempDir(), "/var/tmp", "."} {
		if inMemory(parent) {
			continue
		}
		if dir, err := os.MkdirTemp(parent, "walctl-drill-"); err == nil {
			return dir, nil
		}
	}
	dir, err := os.MkdirTemp("", "walctl-drill-")
	if err != nil {
		return "", fmt.Errorf("make a directory for the store: %w", err)
	}
	fmt.Fprintln(stderr, "walctl: the store is on a file system in memory; give --dir to drill a real one")
	return dir, nil
}
