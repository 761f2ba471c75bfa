// Package drill runs a mail transfer agent's core on a store, kills it again and
// again, and audits what arrived.
//
// Three parties take part. The core is a child process: producers enqueue as
// fast as they can, consumers claim, hand over and settle. The receiving store
// is in the parent, beyond the reach of the kill: it takes messages over a
// socket in an LMTP-like dialog and keeps the [Ledger]. The executioner, also
// in the parent, sends SIGKILL at moments drawn from the seed and starts the
// next core on the same directory.
//
// What the store has promised reaches the ledger as reports of the core, one
// line each on its standard output: "intend" before Enqueue is called, "accept"
// after it returned nil, "settle" after a used-mark returned nil. A kill between
// the nil and its report leaves a message intended and not accepted. Such a
// message may arrive or not. A pipe keeps what was written to it when its writer
// dies, and the parent reads all of it before the next core starts, so that
// reports and deliveries of one life never mix with those of the next.
//
// The audit does not depend on the order in which pipe and sockets are read:
// claims and settlements carry stamps of one counter in the core, and the ledger
// is judged at the end.
package drill
