package disk

import (
	"os"
	"sync"
	"sync/atomic"
	"time"
)

// warmFor is how long a page that was brought in is taken to be there still. The kernel may take it away sooner, where
// memory is short or the log writes a block beside it past the page cache: then touching it stalls a processor for one
// read, which is what Populate is to spare it.
const warmFor = 2 * time.Second

// warmAtOnce is from how many bytes on they are asked for before they are waited for: where nothing is read around a page, see
// Mapping.Scattered, they would come in page by page.
const warmAtOnce = 16 << 10

// warmPages remembers which pages of a mapping were brought in lately: the system call that asks for them costs more
// than all else that reading a short record does, and records lie close together.
type warmPages struct {
	size  int             // of the mapping
	once  sync.Once       // makes bits, for those mappings of which there is a need
	bits  []atomic.Uint64 // by page
	until atomic.Int64    // when they are forgotten, in Unix ns
}

// has reports whether all pages of [from, till) are warm at a time, in Unix ns.
func (w *warmPages) has(now, from, till int64) bool {
	w.once.Do(func() { w.bits = make([]atomic.Uint64, w.size/os.Getpagesize()/64+1) })
	if until := w.until.Load(); now >= until || now < until-int64(warmFor) { // the clock may be set
		if w.until.CompareAndSwap(until, now+int64(warmFor)) {
			for i := range w.bits {
				w.bits[i].Store(0)
			}
		}
		return false
	}
	all := true
	w.each(from, till, func(word *atomic.Uint64, mask uint64) {
		all = all && word.Load()&mask == mask
	})
	return all
}

// add says that the pages of [from, till) were brought in, which has did not know.
func (w *warmPages) add(from, till int64) {
	w.each(from, till, func(word *atomic.Uint64, mask uint64) { word.Or(mask) })
}

// each calls f with each word that has a bit of the pages of [from, till), and the bits.
func (w *warmPages) each(from, till int64, f func(word *atomic.Uint64, mask uint64)) {
	size := int64(os.Getpagesize())
	for first, last := from/size, (till-1)/size; first <= last; {
		word := first / 64
		end := min(last, word*64+63)
		f(&w.bits[word], (^uint64(0)>>(63-(end-first)))<<(first%64))
		first = end + 1
	}
}
