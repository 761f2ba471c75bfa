//go:build !linux

package disk

func adviseHuge(uintptr, uintptr) {}
