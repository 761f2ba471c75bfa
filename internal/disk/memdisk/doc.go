// Package memdisk is a file system in memory that can crash: a model of a page
// cache over a device, for tests.
//
// A file has two images, in pages of 4096 bytes that are made of sectors of 512:
// the cache, which is what reads and mappings see, and the device, which is what
// a power cut leaves. Names and lengths come in two versions likewise.
//
//	                    cache     device
//	WriteAt             written   by chance, sector by sector, after a power cut
//	WriteDurable        written   written, for the sectors of these bytes and no others
//	store into mapping  written   as WriteAt
//	File.Sync           -         all dirty pages of the file, and its length
//	failed sync         marked    as before: a later Sync returns nil and writes nothing
//	                    clean
//	Create, Rename,     done      a prefix of what was done since Dir.Sync
//	Remove                        (or any subset: Config.Names)
//	Dir.Sync            -         all names
//
// What a device may do and this one can: keep any mix of the old and new sectors
// of a page, in any order over pages; keep a state between the two, for a page
// that was written twice; keep the length, the data and the name of a file
// independently of one another; bring removed files back. A sector is written as
// a whole or not at all, and what is durable stays as it is (Config.Garbage
// takes even that back for the rest of a page that was being written).
//
// [FS.Kill] ends the process and keeps the cache, [FS.PowerCut] ends both,
// [FS.Remount] writes the cache back first, [FS.Clone] makes a copy that can be
// crashed in its stead. After each of them whoever holds a handle of before gets
// fs.ErrClosed, and mappings of before keep memory that nobody else sees; so the
// goroutines of the killed engine may go on running, and do no harm. Stores
// into a writable mapping that may run beside a crash must be atomic and
// eight bytes wide, since the crash reads the memory.
//
// All that is left to chance is asked of the caller, in an order that depends on
// the history alone: from a *rand.Rand, or from a [Choices] that goes through
// all that can happen.
//
// Mapped memory is the cache itself, on the heap, where the race detector sees
// it. It can't grow while it is mapped: allocate first, then map.
package memdisk
