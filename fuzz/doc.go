// Package fuzz holds the fuzz targets and, in testdata/fuzz, the inputs that they
// found. Seeds come from the golden files, so from the real encoders.
//
//	go test -fuzz=FuzzFrame -fuzztime=20s ./fuzz
//
// Since no mutation finds a checksum, the targets take a flag that has it put right:
// then what a checksum would keep out must be kept out by the rules behind it.
package fuzz
