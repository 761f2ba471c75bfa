//go:build !linux

package system

// The floors are made of Linux system calls.
var (
	floors                                                    []Spec
	FloorDirect, FloorBuffered, FloorMapped, FloorMappedLarge Spec
	FloorGroupBuffered, FloorGroupDirect                      Spec
)
