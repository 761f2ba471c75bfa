// Package barrier names what the crash safety of the store hangs on, one place in the code
// each, so that a test can take one away and see that the suite notices.
//
// Without the build tag barriermutant [Gone] is false for all of them, which the compiler
// knows: it drops the call and what depends on it. With the tag the environment variable
// MTAWAL_BARRIER says which one is gone. internal/barrier/mutants takes them away one at a
// time.
package barrier

// Barrier is one of them.
type Barrier uint8

// The barriers. Each says what is left out when it is gone.
const (
	None Barrier = iota
	// CommitSync: a commit is acknowledged from the page cache.
	CommitSync
	// TailRewrite: what replay accepted without a promise is not written again.
	TailRewrite
	// Salt: every life of a segment has the same.
	Salt
	// Chain: a frame need not carry the checksum of the one before it.
	Chain
	// Epoch: a frame may be of an earlier opening.
	Epoch
	// SuccessorSync: the Seal is written when the successor is not synced yet.
	SuccessorSync
	// SuccessorName: the Seal is written when the successor's name is not durable yet.
	SuccessorName
	// SealSync: the successor's first frame is written when the Seal is not durable yet.
	SealSync
	// MetaName: the names of a new store are not synced.
	MetaName
	// TailNames: the names that replay relied upon are not synced.
	TailNames
	// CheckpointName: the name of a new checkpoint is not synced.
	CheckpointName
	// ParentSync: directories that were made are not synced, nor those that they are in.
	ParentSync
	// CheckpointSync: a checkpoint gets its final name before its bytes are synced.
	CheckpointSync
	// ReadBack: a checkpoint counts, and the oldest goes, before it was read back.
	ReadBack
	// OlderReadBack: checkpoints of an earlier run count without being read back.
	OlderReadBack
	// DoubtBeforeSlots: the claim table is emptied before the log says what is in doubt.
	DoubtBeforeSlots
	// KeyWait: whoever repeats a key is told at once that it is stored.
	KeyWait
	// LockOutlives: Close lets the lock go while a write hangs.
	LockOutlives
	// StreamPin: chunks that no message names yet hold no segment.
	StreamPin
	// ReaderPin: a segment is recycled while somebody reads in it.
	ReaderPin
	// Latch: the store goes on after a write that failed.
	Latch
	// NamesLatch: the log goes on after a sync of its directory that failed.
	NamesLatch
	// ClaimChecksum: a body is handed out whatever its checksum says.
	ClaimChecksum
	// TailChecksum: an unpromised frame is accepted whatever its bodies' checksums say.
	TailChecksum
	// MoveChecksum: a compaction copies a body whatever its checksum says.
	MoveChecksum
	// SizeCheck: a segment is sealed whatever its file's length is.
	SizeCheck
	// DeadName: a dead segment is wiped, and has another life, before its old name is durably gone.
	DeadName
	// OlderStart: a segment is recycled though a replay from the older checkpoint would read it.
	OlderStart
	// SpareTaken: a checkpoint is written over the spare file before the name of that is durably gone.
	SpareTaken
	// SpareSync: a spare segment file counts before it is durable that it is one.
	SpareSync
	// ScrubSync: a dead segment is wiped in the page cache only.
	ScrubSync
	// ScrubLeft: what a crash left of dead segments is removed without being wiped.
	ScrubLeft
	// Unmap: a dead segment goes while it is mapped.
	Unmap
	// ColdSync: a cold segment stands ready when what was written ahead is in the page cache only.
	ColdSync
	end
)

var names = [end]string{
	None: "none", CommitSync: "commit-sync", TailRewrite: "tail-rewrite", Salt: "salt", Chain: "chain", Epoch: "epoch",
	SuccessorSync: "successor-sync", SuccessorName: "successor-name", SealSync: "seal-sync", MetaName: "meta-name",
	TailNames: "tail-names", CheckpointName: "checkpoint-name", ParentSync: "parent-sync", CheckpointSync: "checkpoint-sync",
	ReadBack: "read-back", OlderReadBack: "older-read-back", DoubtBeforeSlots: "doubt-before-slots", KeyWait: "key-wait",
	LockOutlives: "lock-outlives", StreamPin: "stream-pin", ReaderPin: "reader-pin", Latch: "latch", NamesLatch: "names-latch",
	ClaimChecksum: "claim-checksum", TailChecksum: "tail-checksum", MoveChecksum: "move-checksum", SizeCheck: "size-check",
	DeadName: "dead-name", OlderStart: "older-start", SpareTaken: "spare-taken", SpareSync: "spare-sync",
	ScrubSync: "scrub-sync", ScrubLeft: "scrub-left", Unmap: "unmap", ColdSync: "cold-sync",
}

func (b Barrier) String() string { return names[b] }

// All are the barriers in order.
func All() []Barrier {
	var list []Barrier
	for b := None + 1; b < end; b++ {
		list = append(list, b)
	}
	return list
}
