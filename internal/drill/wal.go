package drill

import (
	"fmt"
	"math/rand/v2"
	"time"

	"github.com/mtawal/mtawal/internal/eager"
	"github.com/mtawal/mtawal/mailq"
	"github.com/mtawal/mtawal/wal"
)

// segmentSize is smaller than the engine's default, so that kills meet more
// changes of segment, checkpoints and recycled segments; with companions it is smaller
// still.
const (
	segmentSize      = 16 << 20
	segmentSizeSmall = 1 << 20
	segmentSizeTiny  = 256 << 10
	fullDiskBytes    = 20 << 20 // of which six segments and two checkpoints are kept back
	slowCommitMax    = 5 * time.Millisecond
)

// Wal is the engine of this module.
var Wal = Engine{
	Name: "wal",
	Open: func(dir string, with Companion) (mailq.Store, error) {
		o := wal.Options{SegmentSize: segmentSize}
		if with&(Compaction|FullDisk) != 0 {
			o.SegmentSize = segmentSizeSmall
		}
		if with&Compaction != 0 {
			eager.Cold.Store(true)
			o.SegmentSize = segmentSizeTiny
		}
		if with&FullDisk != 0 {
			o.MaxBytes = fullDiskBytes
		}
		if with&SlowDisk != 0 {
			o.Trace = &wal.Trace{Durable: func(wal.CommitInfo) { time.Sleep(rand.N(slowCommitMax)) }}
		}
		return opened(wal.Open(dir, o))
	},
	Verify: func(dir string) (string, error) {
		found, err := wal.Verify(dir, wal.Options{})
		if err != nil || len(found) == 0 {
			return "ok", err
		}
		return fmt.Sprintf("%d findings, the first: %v", len(found), found[0]), nil
	},
}
