// Package state is the state machine of a store: what its log means.
//
// [Table.Apply] is the one function that applies a record. Commits as they become
// durable, the replay at open and the making of a checkpoint all go through it, so
// that they can't disagree. It reads no clock and decides nothing: records carry
// outcomes. A record that was applied before, or that speaks of a message which is
// gone, changes nothing.
//
// The table is laid out for tens of millions of messages: no pointer per message,
// about 65 bytes for one with a single recipient, its place in the index included, which those
// that an opening loads do not have. Envelopes,
// addresses and bodies stay in the log; the table knows their positions.
//
// A Table is not safe for concurrent use.
package state
