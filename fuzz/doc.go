// Package fuzz holds the fuzz targets of the formats. Seeds come from the golden files, so from the real
// encoders. An input that a target fails on would be kept in testdata/fuzz, where go test runs it again; there is none
// so far, so there is no such folder.
//
//	go test -fuzz=FuzzFrame -fuzztime=20s ./fuzz
//
// Since no mutation finds a checksum, the targets take a flag that has it put right:
// then what a checksum would keep out must be kept out by the rules behind it.
//
// What can be reached only from inside the engine is fuzzed in package wal: FuzzStore (the opening of a
// whole store whose files were damaged: it refuses, or is in a state in which the store was, with no
// byte handed out that was not sent), FuzzClaims (the claim table), FuzzMeta, and FuzzBatch (what
// was committed is read back as it was, before and behind a kill, or refused whole).
package fuzz
