// Package linear checks that what many goroutines see of a store at the same time could have
// been seen by one after the other: that Enqueue, TryNext, Settle and MarkUsed are
// linearizable. It is a module of its own, so that the checker
// (github.com/anishathalye/porcupine) stays out of the library's go.mod.
package linear
