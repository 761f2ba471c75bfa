// Package wal is the engine: a mail queue on a write-ahead log of mapped segments.
package wal
