// Package disk is the only place of the library that touches an operating
// system: files, directories, durable writes, mappings, locks.
//
// The interfaces are small on purpose. [OS] is the real thing; package memdisk
// is a page cache that can crash; package faultdisk makes the n-th operation
// fail. Each method says what is durable when it has returned nil, since that
// is what the engine's crash argument is made of.
package disk

import (
	"errors"
	"fmt"
	"io"
)

// Alignment is the smallest unit that the log is written in, in bytes. A
// directory may ask for more, see Dir.Block.
const Alignment = 4096

// Errors that the engine acts upon. Implementations wrap them, so that
// errors.Is works on every platform.
var (
	// ErrLocked: another open store holds the lock; the error is a *LockedError.
	ErrLocked = errors.New("store is locked")
	// ErrNoSpace: ENOSPC or EDQUOT. The bytes may be written again later.
	ErrNoSpace = errors.New("no space left on the device")
	// ErrFault: a page of a mapping could not be read (EIO, truncated file).
	ErrFault = errors.New("fault in a mapped file")
	// ErrUnsafe: a name in the directory is not a plain file of ours (a link, a
	// FIFO, another owner, more than one link, open to others).
	ErrUnsafe = errors.New("not a plain private file")
)

// LockedError says who holds the lock, as far as is known. It matches
// [ErrLocked].
type LockedError struct {
	Path string
	PID  int // 0 if unknown
}

// Error names the lock, and the process that has it if that is known.
func (e *LockedError) Error() string {
	if e.PID == 0 {
		return fmt.Sprintf("%s is locked by another process", e.Path)
	}
	return fmt.Sprintf("%s is locked by process %d", e.Path, e.PID)
}

// Is reports whether target is ErrLocked.
func (e *LockedError) Is(target error) bool { return target == ErrLocked }

// FS opens directories.
type FS interface {
	// OpenDir opens a directory for a store. With create it is made (0700)
	// where it is missing, parents too, and every directory in which a name was
	// made is synced, so that the new directory survives a power cut. Without
	// create a missing one is fs.ErrNotExist.
	OpenDir(path string, create bool) (Dir, error)
}

// Info is one name in a directory.
type Info struct {
	Name    string
	Size    int64
	Blocks  int64 // bytes of the disk that it takes, those behind its end included; Size where the platform does not say
	Regular bool  // a regular file, and not a link to one
}

// Identity tells one boot and one mount from another: what was only in the page
// cache is gone if either has changed.
type Identity struct {
	Boot  [16]byte
	Mount uint64
}

// Space is the room of the file system, in bytes, as far as we may use it.
type Space struct{ Free, Total int64 }

// Dir is an open directory. Names are plain file names, never paths: see
// CheckName. Any number of goroutines may use it.
type Dir interface {
	// Path is for messages.
	Path() string
	// Holds reports whether a path lies in the directory, wherever links lead. Of the
	// path less than all may be there. The directory itself does not lie in it.
	Holds(path string) (bool, error)
	// List returns what the directory holds now, sorted by name.
	List() ([]Info, error)
	// Create makes a new file, 0600, whatever the umask is; an existing name is fs.ErrExist.
	// The name is durable only after Sync of the directory.
	Create(name string) (File, error)
	// Open opens an existing file: a regular one of ours with one link and no
	// permission for others (else ErrUnsafe), without following links and
	// without ever blocking on a FIFO.
	Open(name string, write bool) (File, error)
	// Rename replaces to, if it exists. Durable only after Sync.
	Rename(from, to string) error
	// Remove unlinks. Durable only after Sync: the name may come back.
	Remove(name string) error
	// Sync makes the names of the directory durable.
	Sync() error
	// Lock takes the exclusive lock of the directory, kept in a file of that
	// name which is never removed. Taken: a *LockedError at once. The lock dies with the
	// process or with Close of what was returned.
	Lock(name string) (io.Closer, error)
	// Identity of the boot and the mount. Another boot is always told apart. Where
	// the platform numbers mounts anew or not at all (Linux before 6.8, macOS), an
	// unmount can be missed; Windows has neither, and each process counts as a boot.
	Identity() (Identity, error)
	// Space of the file system.
	Space() (Space, error)
	// Block is the unit that one later write can't reach beyond: the largest of
	// Alignment, the file system's block and the device's.
	Block() int
	// CopyOnWrite reports a file system that does not overwrite in place, or is not
	// known to: a write into allocated space can still fail for lack of space
	// there, or through a writable mapping kill the process.
	CopyOnWrite() bool
	// Close releases the directory, not the files opened through it.
	Close() error
}

// File is an open file. All methods may run beside each other; where two write
// the same bytes, either may win. After Close they return fs.ErrClosed; Close
// does not wait for those that run.
type File interface {
	io.ReaderAt
	// Name is the name that the file was opened by.
	Name() string
	// WriteAt writes into the page cache. Nothing is durable.
	io.WriterAt
	// WriteDurable writes the buffers one behind the other at off. nil: these bytes,
	// and the metadata to find them, survive a power cut. It says nothing about bytes
	// that other calls wrote. An interrupted or short write is continued inside. Whole blocks, at the
	// start of one, from memory that is aligned to Alignment, go past the page cache where that
	// can be; reads and mappings see them all the same. The buffers must not change meanwhile.
	WriteDurable(off int64, bufs ...[]byte) error
	// ReadUncached reads from the device, not from the page cache, where the
	// platform can; elsewhere it is ReadAt.
	ReadUncached(p []byte, off int64) (int, error)
	// Sync makes all that was written through this file durable. An error is
	// final: what failed once may be reported as fine later and still be lost.
	Sync() error
	// Size of the file now.
	Size() (int64, error)
	// Allocate reserves blocks for [0, size) and makes the file that long, or
	// leaves it as long as it is if that is longer. What is new reads as zeros.
	// Durable only after Sync. On an error the file is as long as before.
	Allocate(size int64) error
	// Reserve reserves blocks for [0, size) and leaves the length as it is: a later write
	// there finds room. What lies behind the end of the file goes back with Truncate. It is
	// errors.ErrUnsupported where the platform has no such blocks. Durable only after Sync.
	Reserve(size int64) error
	// Truncate cuts or extends the file. Durable only after Sync.
	Truncate(size int64) error
	// Forget has the page cache let go of what it has of the file, as far as that is clean and not mapped: a write past it has to
	// take each page out. A hint.
	Forget()
	// Exclusive reports whether the file's blocks are its own: one link, and
	// not shared by a reflink as far as can be told.
	Exclusive() (bool, error)
	// Map maps [0, length) read-only. It fails if the file is shorter.
	Map(length int64) (Mapping, error)
	// MapWritable maps [0, length) read-write and shared: a store into it
	// survives the death of the process, not a power cut.
	MapWritable(length int64) (Mapping, error)
	// Close closes the file. Nothing is durable by that; mappings stay.
	Close() error
}

// Mapping is a mapped file. It stays valid after the file was closed.
type Mapping interface {
	// Bytes is the memory. Reading it may fault: see Guard. It is invalid after
	// Close.
	Bytes() []byte
	// Populate brings [off, off+n) into memory by a call that the scheduler sees, so that
	// touching it afterwards does not stall the process. An unreadable page is
	// ErrFault.
	Populate(off, n int64) error
	// Warm is Populate for what is read in small pieces that lie close together: what it brought in a moment ago is taken to
	// be there still. If it is not, touching it does stall, and may fault, as it may in any case: see Guard.
	Warm(off, n int64) error
	// Prefetch asks for [off, off+n) to be brought in, and waits for none of it. A hint.
	Prefetch(off, n int64)
	// Scattered says whether what is read from now on is not in order: then nothing is to be read around it. A hint.
	Scattered(yes bool)
	// Drop takes [off, off+n) out of the process's page tables, until it is read again: a write past the page cache into what is in
	// them has every processor take it out first, which costs more than all else that the kernel does for a short one. A hint.
	Drop(off, n int64)
	// Close unmaps. Closing again is nil.
	Close() error
}
