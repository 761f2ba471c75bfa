package blocks

import "math/rand/v2"

// Survivors says which of the writes that no flush covers are on the disk after a cut.
type Survivors uint8

// The ways of a power cut.
const (
	None    Survivors = iota // of the writes since the last flush, none
	All                      // all of them
	Prefix                   // the first ones, in order
	Writes                   // some, each whole
	Pages                    // some pages of each
	Sectors                  // some sectors of pages that may tear, some pages of the others
	survivors
)

var survivorNames = [...]string{"none", "all", "prefix", "writes", "pages", "sectors"}

// String returns the way in a word.
func (s Survivors) String() string { return survivorNames[s] }

// SurvivorsOf draws a way.
func SurvivorsOf(rng *rand.Rand) Survivors { return Survivors(rng.IntN(int(survivors))) }

const sectorSize = 512

// History is a log that is cut again and again, at ascending places.
type History struct {
	Log []Event
	// Tears says of a page, by its number, that a cut may leave some of its sectors new
	// and some old. Others are old or new as a whole.
	Tears func(page int64) bool

	durable *Image // base and all that a flush covers, before done
	done    int    // events that are in durable
}

// NewHistory returns the history of a disk that was base when the log began.
func NewHistory(base *Image, log []Event) *History {
	return &History{Log: log, durable: base.Clone(), Tears: func(int64) bool { return false }}
}

// Crash returns what a cut leaves when the first n events have happened. n is not below
// that of the call before. It also says how many writes were pending.
func (h *History) Crash(n int, how Survivors, rng *rand.Rand) (*Image, int) {
	flushed := h.done
	for i := n - 1; i >= h.done; i-- {
		if h.Log[i].Kind == Flush {
			flushed = i + 1
			break
		}
	}
	for ; h.done < flushed; h.done++ {
		h.durable.apply(h.Log[h.done])
	}
	var pending []Event
	for _, e := range h.Log[h.done:n] {
		if e.Kind == Write || e.Kind == Zero {
			pending = append(pending, e)
		}
	}
	m := h.durable.Clone()
	switch how {
	case None:
		return m, len(pending)
	case Prefix:
		for _, e := range pending[:rng.IntN(len(pending)+1)] {
			m.apply(e)
		}
		return m, len(pending)
	}
	keep := rng.Float64()
	for _, e := range pending {
		switch {
		case how == All:
			m.apply(e)
		case how == Writes || e.Kind == Zero:
			if rng.Float64() < keep {
				m.apply(e)
			}
		default:
			h.tear(m, e, how == Sectors, keep, rng)
		}
	}
	return m, len(pending)
}

// tear applies parts of a write.
func (h *History) tear(m *Image, e Event, sectors bool, keep float64, rng *rand.Rand) {
	for off := e.Off; off < e.Off+e.Len; {
		end := min(off/PageSize*PageSize+PageSize, e.Off+e.Len)
		data := e.Data[off-e.Off : end-e.Off]
		if !sectors || !h.Tears(off/PageSize) {
			if rng.Float64() < keep {
				m.write(data, off)
			}
			off = end
			continue
		}
		for len(data) > 0 {
			n := min(sectorSize-int(off%sectorSize), len(data))
			if rng.Float64() < keep {
				m.write(data[:n], off)
			}
			data, off = data[n:], off+int64(n)
		}
	}
}
