package wal

import (
	"errors"
	"fmt"
	"io/fs"
	"sync/atomic"
	"unsafe"

	"github.com/mtawal/mtawal/internal/disk"
	"github.com/mtawal/mtawal/segment"
)

// claimTable is the file "claims": which deliveries have been started and are not
// settled. It is mapped read-write, so that a claim costs a few stores and the table is exact
// after SIGKILL; after a power cut it is not trusted. Where the file system copies on write a
// store into a mapping may find the disk full and kill the process, so there the same words
// are written by pwrite.
//
//	  0  magic "MTAWALCL"
//	  8  version u64                  1
//	 16  store UUID [16]
//	 32  boot ID [16]                 zeros: not known, or a store that was administered
//	 48  mount ID u64
//	 56  synced u64                   position through which the log is durable
//	 64  closed u64                   where a Close left the log; 0 while open
//	 72  generation u64               bound into the check of each slot; new at each opening
//	 80  slots u64                    how many there are
//	 88  zeros to 4096
//	4096 slots, 32 bytes each: ID u64; first u32, count u32; position u64; check u64
//
// A slot is one run of recipients. Its ID is stored last and cleared first; each word
// with one atomic store. check is a mix of the other words and the generation. A slot
// is void where the log holds, at or behind its position, an outcome of a delivery for the
// recipient. Everything is stored under Store.mu.
type claimTable struct {
	file    disk.File
	mapping disk.Mapping // nil: written by pwrite
	words   []uint64
	gen     uint64
	free    []uint32
	err     atomic.Pointer[error] // of a write: the table can't be trusted any more
	ended   bool                  // nothing is stored any more

	todo  []claimWord // of store
	write func() error
}

// claimWord is a word of the table and what it is to be.
type claimWord struct {
	at int
	v  uint64
}

const (
	claimsName    = "claims"
	claimsMagic   = "MTAWALCL"
	claimsVersion = 1
	claimsHeader  = 4096
	claimsPiece   = 64 << 10
	claimSlotSize = 32
	// claimSlots is how many runs of recipients can be under delivery at a time.
	claimSlots = 32768

	wordSynced = 7
	wordClosed = 8
	wordSlots  = 10
)

// claimsSize is the size of a table in bytes.
func claimsSize(slots int) int64 { return claimsHeader + int64(slots)*claimSlotSize }

// run is a run of recipients of one message under delivery.
type run struct {
	id           uint64
	first, count uint32
	pos          segment.Pos
}

// claimsFound is what an earlier owner left.
type claimsFound struct {
	exact  bool // written by an owner that died in this boot and on this mount
	synced segment.Pos
	closed segment.Pos
	gen    uint64 // the nonce of its owner's epoch
	runs   []run
	filled int64 // bytes of the file in front of those that are all zero, as far as that is known

	settled *outcomeLog // where the log, as replayed, settles them
}

func mix(id, n, pos, gen uint64) uint64 {
	h := gen
	for _, v := range [...]uint64{id, n, pos} {
		h = (h ^ v) * 0x9E3779B97F4A7C15
		h ^= h >> 29
	}
	return h | 1
}

// readClaims reads what the table says, without changing it. A table that is not
// there, not whole or of another store is no table: after a power cut all of that is
// possible. One of a later version is segment.ErrVersion.
func readClaims(dir disk.Dir, uuid [16]byte) (found claimsFound, err error) {
	f, err := dir.Open(claimsName, false)
	if errors.Is(err, fs.ErrNotExist) {
		return found, nil
	}
	if err != nil {
		return found, err
	}
	defer f.Close()
	size, err := f.Size()
	if err != nil {
		return found, fmt.Errorf("size of %s: %w", claimsName, err)
	}
	found.filled = size
	if size < claimsHeader || size > claimsSize(claimSlots) || size%claimSlotSize != 0 {
		return found, nil
	}
	// In pieces: memory that is touched for the first time costs more than what is read into it.
	words := make([]uint64, claimsPiece/8)
	b := unsafe.Slice((*byte)(unsafe.Pointer(&words[0])), claimsPiece)
	if _, err := f.ReadAt(b[:claimsHeader], 0); err != nil {
		return found, fmt.Errorf("reading %s: %w", claimsName, err)
	}
	word := func(i int) uint64 { return words[i] }
	slots := int(size-claimsHeader) / claimSlotSize
	if string(b[:8]) != claimsMagic || [16]byte(b[16:32]) != uuid {
		return found, nil
	}
	if v := word(1); v != claimsVersion { // in one sector with the magic: no torn write leaves that
		return found, fmt.Errorf("%s: version %d: %w", claimsName, v, segment.ErrVersion)
	}
	if word(wordSlots) != uint64(slots) {
		return found, nil
	}
	now, err := dir.Identity()
	if err != nil {
		return found, fmt.Errorf("identity of %s: %w", dir.Path(), err)
	}
	found.exact = now.Boot != [16]byte{} && now.Boot == [16]byte(b[32:48]) && now.Mount == word(6)
	found.synced, found.closed = segment.Pos(word(wordSynced)), segment.Pos(word(wordClosed))
	gen := word(9)
	found.gen = gen
	filled := int64(claimsHeader)
	for off := filled; off < size; off += claimsPiece {
		piece := min(claimsPiece, size-off)
		if _, err := f.ReadAt(b[:piece], off); err != nil {
			return found, fmt.Errorf("reading %s: %w", claimsName, err)
		}
		for w := 0; w < int(piece/8); w += claimSlotSize / 8 {
			id, n, pos, check := word(w), word(w+1), word(w+2), word(w+3)
			if id|n|pos|check != 0 {
				filled = off + int64(w)*8 + claimSlotSize
			}
			if id != 0 && check == mix(id, n, pos, gen) {
				found.runs = append(found.runs, run{id: id, first: uint32(n), count: uint32(n >> 32), pos: segment.Pos(pos)})
			}
		}
	}
	found.filled = filled
	return found, nil
}

// openClaims makes the table empty and ours. What was in it must be durable in the log
// before. One that is not exact tells the next owner to go by the log, as after a power cut. What lies behind the bytes that were filled is
// known to be zeros.
func openClaims(dir disk.Dir, uuid [16]byte, slots int, filled int64, gen uint64, synced segment.Pos, exact bool) (*claimTable, error) {
	f, err := dir.Open(claimsName, true)
	if errors.Is(err, fs.ErrNotExist) {
		f, err = dir.Create(claimsName)
	}
	if err != nil {
		return nil, err
	}
	t := &claimTable{file: f, gen: gen}
	if err := t.init(dir, uuid, slots, filled, synced, exact); err != nil {
		return nil, errors.Join(fmt.Errorf("opening %s: %w", claimsName, err), f.Close())
	}
	return t, nil
}

func (t *claimTable) init(dir disk.Dir, uuid [16]byte, slots int, filled int64, synced segment.Pos, exact bool) error {
	want := claimsSize(slots)
	size, err := t.file.Size()
	if err != nil {
		return err
	}
	// All blocks must be there before stores go through a mapping.
	if size != want {
		if err := t.file.Allocate(want); err != nil {
			return err
		}
		if err := t.file.Truncate(want); err != nil {
			return err
		}
	}
	var who disk.Identity
	if exact {
		if who, err = dir.Identity(); err != nil {
			return err
		}
	}
	t.words = make([]uint64, want/8)
	b := unsafe.Slice((*byte)(unsafe.Pointer(&t.words[0])), min(max(filled, claimsHeader), want))
	copy(b, claimsMagic)
	t.words[1] = claimsVersion
	copy(b[16:], uuid[:])
	copy(b[32:], who.Boot[:])
	t.words[6], t.words[wordSynced], t.words[9], t.words[wordSlots] = who.Mount, uint64(synced), t.gen, uint64(slots)
	if _, err := t.file.WriteAt(b, 0); err != nil {
		return err
	}
	t.free = make([]uint32, slots)
	for i := range t.free {
		t.free[i] = uint32(slots - 1 - i)
	}
	if dir.CopyOnWrite() {
		return nil
	}
	m, err := t.file.MapWritable(want)
	if err != nil {
		return err
	}
	t.mapping = m
	t.words = unsafe.Slice((*uint64)(unsafe.Pointer(&m.Bytes()[0])), want/8)
	return nil
}

// store writes a few words, in their order.
func (t *claimTable) store(list ...claimWord) {
	// Behind a write that failed nothing is written any more: what replaces a run may
	// not be there, so the run has to stay.
	if t.ended || t.err.Load() != nil {
		return
	}
	t.todo = append(t.todo[:0], list...)
	if t.write == nil { // once, since it is on the way of every claim
		t.write = t.writeWords
	}
	var err error
	if t.mapping != nil {
		// A page that was written back is clean, and the store into it asks the file
		// system: one that has failed answers with a fault.
		err = disk.Guard(t.mapping, t.write)
	} else {
		err = t.write()
	}
	if err != nil {
		failed := err // so that only this one is on the heap
		t.err.CompareAndSwap(nil, &failed)
	}
}

func (t *claimTable) writeWords() error {
	for _, w := range t.todo {
		atomic.StoreUint64(&t.words[w.at], w.v)
		if t.mapping != nil {
			continue
		}
		b := (*[8]byte)(unsafe.Pointer(&t.words[w.at]))
		if _, err := t.file.WriteAt(b[:], int64(w.at)*8); err != nil {
			return err
		}
	}
	return nil
}

// failed is the error of a write that made the table useless.
func (t *claimTable) failed() error {
	if e := t.err.Load(); e != nil {
		return fmt.Errorf("writing %s: %w", claimsName, *e)
	}
	return nil
}

// put writes a run into a free slot. ok is false if there is none.
func (t *claimTable) put(r run) (slot uint32, ok bool) {
	n := len(t.free)
	if n == 0 {
		return 0, false
	}
	slot = t.free[n-1]
	t.free = t.free[:n-1]
	w := (claimsHeader + int(slot)*claimSlotSize) / 8
	span := uint64(r.first) | uint64(r.count)<<32
	t.store(claimWord{w + 1, span}, claimWord{w + 2, uint64(r.pos)},
		claimWord{w + 3, mix(r.id, span, uint64(r.pos), t.gen)}, claimWord{w, r.id})
	return slot, true
}

// clear empties a slot.
func (t *claimTable) clear(slot uint32) {
	t.store(claimWord{(claimsHeader + int(slot)*claimSlotSize) / 8, 0})
	t.free = append(t.free, slot)
}

// setSynced records how far the log is durable: it may be too old, never too new.
func (t *claimTable) setSynced(pos segment.Pos) { t.store(claimWord{wordSynced, uint64(pos)}) }

// end stores the last word, where the log ends, or 0 if it was not brought to a clean end. Claims may end
// behind that, of a body that could not be read say, and the mapping is gone then; the next owner finds them
// as they were. Store.mu is held.
func (t *claimTable) end(pos segment.Pos) {
	if pos != 0 {
		t.store(claimWord{wordClosed, uint64(pos)})
	}
	t.ended = true
}

// close leaves the table to the next owner, behind end.
func (t *claimTable) close(pos segment.Pos) error {
	var errs []error
	if pos != 0 {
		errs = append(errs, t.failed(), t.file.Sync())
	}
	if t.mapping != nil {
		errs = append(errs, t.mapping.Close())
	}
	return errors.Join(append(errs, t.file.Close())...)
}
