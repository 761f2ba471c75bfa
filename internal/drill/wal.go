package drill

import (
	"fmt"

	"github.com/mtawal/mtawal/mailq"
	"github.com/mtawal/mtawal/wal"
)

// segmentSize is smaller than the engine's default, so that kills meet more
// changes of segment, checkpoints and recycled segments.
const segmentSize = 16 << 20

// Wal is the engine of this module.
var Wal = Engine{
	Name: "wal",
	Open: func(dir string) (mailq.Store, error) {
		return opened(wal.Open(dir, wal.Options{SegmentSize: segmentSize}))
	},
	Verify: func(dir string) (string, error) {
		found, err := wal.Verify(dir, wal.Options{})
		if err != nil || len(found) == 0 {
			return "ok", err
		}
		return fmt.Sprintf("%d findings, the first: %v", len(found), found[0]), nil
	},
}
