package disk

import "fmt"

// Op is a kind of disk operation. The test doubles count, trace, fail and hold
// operations by it.
type Op uint8

// The kinds of operations. OpFlush is the moment inside WriteDurable when the
// bytes are in the cache and not on the device yet; only a model has it.
const (
	OpOpenDir Op = iota + 1
	OpList
	OpCreate
	OpOpen
	OpRename
	OpRemove
	OpDirSync
	OpLock
	OpIdentity
	OpSpace
	OpReadAt
	OpWriteAt
	OpWriteDurable
	OpFlush
	OpReadUncached
	OpSync
	OpSize
	OpAllocate
	OpTruncate
	OpExclusive
	OpMap
	OpMapWritable
	OpPopulate
	opEnd
)

var opNames = [opEnd]string{
	OpOpenDir: "OpenDir", OpList: "List", OpCreate: "Create", OpOpen: "Open", OpRename: "Rename",
	OpRemove: "Remove", OpDirSync: "DirSync", OpLock: "Lock", OpIdentity: "Identity", OpSpace: "Space",
	OpReadAt: "ReadAt", OpWriteAt: "WriteAt", OpWriteDurable: "WriteDurable", OpFlush: "Flush",
	OpReadUncached: "ReadUncached", OpSync: "Sync", OpSize: "Size", OpAllocate: "Allocate",
	OpTruncate: "Truncate", OpExclusive: "Exclusive", OpMap: "Map", OpMapWritable: "MapWritable",
	OpPopulate: "Populate",
}

// String returns the name of the operation.
func (o Op) String() string {
	if o < opEnd && opNames[o] != "" {
		return opNames[o]
	}
	return fmt.Sprintf("Op(%d)", uint8(o))
}
