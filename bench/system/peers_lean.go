//go:build lean

package system

var others []Spec
