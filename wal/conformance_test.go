package wal

import (
	"fmt"
	"sync"
	"testing"

	"go.uber.org/goleak"

	"github.com/mtawal/mtawal/internal/disk/memdisk"
	"github.com/mtawal/mtawal/mailq"
	"github.com/mtawal/mtawal/mailq/mailqtest"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

var (
	conformOptions = Options{SegmentSize: 1 << 20, MaxMessage: 8 << 20, MaxRecipients: 2000}
	conformCaps    = mailqtest.Caps{
		InDoubt: true, Edits: true, NotBefore: true, Flush: true, Holds: true, QueueStates: true, Keys: true, Replacement: true, Staging: true,
		Expiry: true, Priority: true, Groups: true,
		MaxMessage: conformOptions.MaxMessage, MaxRecipients: conformOptions.MaxRecipients,
	}
)

// TestConformance runs the contract of package mailq over real files.
func TestConformance(t *testing.T) {
	mailqtest.Run(t, func(dir string) (mailq.Store, error) { return Open(dir, conformOptions) }, conformCaps)
}

// TestConformanceCrash runs it over a disk that can be copied at an instant, as SIGKILL
// would leave it.
func TestConformanceCrash(t *testing.T) {
	var mu sync.Mutex
	disks := make(map[string]*memdisk.FS)
	caps := conformCaps
	caps.Crash = func(t *testing.T, dir string, s mailq.Store) string {
		mu.Lock()
		to := fmt.Sprintf("%s-%d", dir, len(disks))
		disks[to] = disks[dir].Clone()
		mu.Unlock()
		if err := s.Close(); err != nil {
			t.Fatal(err)
		}
		return to
	}
	mailqtest.Run(t, func(dir string) (mailq.Store, error) {
		mu.Lock()
		defer mu.Unlock()
		if disks[dir] == nil {
			disks[dir] = memdisk.New(memdisk.Config{})
		}
		o := conformOptions
		o.fs = disks[dir]
		return Open("/store", o)
	}, caps)
}
