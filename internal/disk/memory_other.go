//go:build !linux

package disk

// AdviseHuge does nothing here.
func AdviseHuge([]byte) {}
