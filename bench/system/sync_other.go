//go:build !linux

package system

import "os"

func syncFS(f *os.File) error   { return f.Sync() }
func dataSync(f *os.File) error { return f.Sync() }
