// Package wal is an embedded store for the queues of a mail transfer agent, on a
// write-ahead log.
//
// # Entry points
//
//   - [Open] a store in a directory. [Options] by value; the zero value is durable.
//   - [Store.Enqueue] a message: nil means that it survives a power cut.
//   - [Store.Consumer], or [Store.Claim] for one queue, hands deliveries out;
//     Delivery.Settle records what became of them.
//   - [Store.Commit] applies a batch as a whole: "recipient 3 failed" and its bounce.
//   - [Inspect], [Verify] and [Dump] look at a store without opening it.
//
// The vocabulary is that of package mailq, aliased here so that one import is enough; the
// promises are stated there and in DESIGN.md.
//
// # Reading the source
//
// open.go (recovery and the Open frame), commit.go (the way of a commit), plan.go (what
// is valid), claim.go and claimtable.go (what is under delivery), sched.go (what is due),
// folds.go (checkpoints and recycling), close.go.
package wal
