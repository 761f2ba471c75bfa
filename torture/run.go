package main

import (
	"context"
	"encoding/gob"
	"encoding/json"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"sync"
	"time"

	"github.com/mtawal/mtawal/torture/internal/blocks"
	"github.com/mtawal/mtawal/torture/internal/core"
	"github.com/mtawal/mtawal/torture/internal/mail"
	"github.com/mtawal/mtawal/torture/internal/realfs"
	"golang.org/x/sys/unix"
)

// Totals are what a run has seen.
type Totals struct {
	Method     string        `json:"method"`
	FileSystem string        `json:"file_system"`
	Kernel     string        `json:"kernel"`
	Crashes    int           `json:"crashes"`
	Pending    int           `json:"writes_pending"` // at all the cuts together
	Announced  int           `json:"announced"`
	InWindow   int           `json:"in_window"`
	Late       time.Duration `json:"oldest_in_window_ns"`
	Lost       int           `json:"lost"`
	Invented   int           `json:"invented"`
	Repeated   int           `json:"repeated"`
	Silent     int           `json:"silent"`
	Refused    int           `json:"refused"`
	Seed       uint64        `json:"seed"`
	Elapsed    time.Duration `json:"elapsed_ns"`
}

// Findings is how many there were.
func (t Totals) Findings() int { return t.Lost + t.Invented + t.Repeated + t.Silent + t.Refused }

// run is a run under way. Any number of rigs share it.
type run struct {
	Seed    uint64
	Target  int // crashes
	Canary  bool
	Keep    string // where findings go
	Command string // begins the command that looks at one again
	Log     io.Writer

	ctx    context.Context
	mu     sync.Mutex
	totals Totals
	kept   int
	begin  time.Time
}

// keptMax is how many findings are kept as images.
const keptMax = 10

func newRun(ctx context.Context, method string, kind realfs.FS) *run {
	var u unix.Utsname
	unix.Uname(&u)
	return &run{ctx: ctx, begin: time.Now(), totals: Totals{Method: method, FileSystem: kind.Name, Kernel: unix.ByteSliceToString(u.Release[:])}}
}

// enough reports whether the run is over.
func (r *run) enough() bool {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.totals.Crashes >= r.Target || r.ctx.Err() != nil
}

// show tells now and then how far the run is.
func (r *run) show(every time.Duration) {
	t := time.NewTicker(every)
	defer t.Stop()
	for !r.enough() {
		select {
		case <-r.ctx.Done():
			return
		case <-t.C:
		}
		n := r.result()
		fmt.Fprintf(r.Log, "%s on %s: %d of %d crashes, %d findings, %v\n", n.Method, n.FileSystem, n.Crashes, r.Target, n.Findings(), n.Elapsed.Round(time.Second))
	}
}

func (r *run) pending(n int) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.totals.Pending += n
}

func (r *run) result() Totals {
	r.mu.Lock()
	defer r.mu.Unlock()
	t := r.totals
	t.Seed, t.Elapsed = r.Seed, time.Since(r.begin).Round(time.Millisecond)
	return t
}

// judged counts a crash and tells its findings.
func (r *run) judged(rig *rig, c *crashed, name string, config core.Config, v *mail.Verdict) {
	r.mu.Lock()
	defer r.mu.Unlock()
	t := &r.totals
	t.Crashes++
	t.Announced += v.Announced
	t.InWindow += v.InWindow
	t.Late = max(t.Late, v.Late)
	t.Lost += len(v.Lost)
	t.Invented += len(v.Invented)
	t.Repeated += len(v.Repeated)
	t.Silent += len(v.Silent)
	t.Refused += len(v.Refused)
	found := v.Findings()
	if len(found) == 0 {
		return
	}
	if r.kept++; r.kept > keptMax {
		return
	}
	for i, text := range found {
		if i == 10 {
			fmt.Fprintf(r.Log, "  and %d more\n", len(found)-i)
			break
		}
		fmt.Fprintf(r.Log, "crash %s: %s\n", name, text)
	}
	fmt.Fprintf(r.Log, "  %+v\n  the same load and places again: %s --seed %d\n", config, r.Command, r.Seed)
	if c == nil || r.Keep == "" {
		return
	}
	dir := filepath.Join(r.Keep, fmt.Sprintf("finding-%d", r.kept))
	if err := keep(dir, &finding{rig.kind.Name, config, c.maker, c.ledger}, c.image); err != nil {
		fmt.Fprintf(r.Log, "  it could not be kept: %v\n", err)
		return
	}
	fmt.Fprintf(r.Log, "  the very image again: go -C torture run . --replay %s\n", dir)
}

// finding is a crash that is kept, beside its image.
type finding struct {
	FS     string
	Config core.Config
	Maker  uint64
	Ledger *mail.Ledger
}

func keep(dir string, f *finding, image *blocks.Image) error {
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return err
	}
	file, err := os.Create(filepath.Join(dir, "finding.gob"))
	if err != nil {
		return err
	}
	if err := gob.NewEncoder(file).Encode(f); err != nil {
		return err
	}
	if err := file.Close(); err != nil {
		return err
	}
	text, err := json.MarshalIndent(f, "", " ")
	if err != nil {
		return err
	}
	if err := os.WriteFile(filepath.Join(dir, "finding.json"), text, 0o600); err != nil {
		return err
	}
	return image.WriteFile(filepath.Join(dir, "disk.img"))
}

// kept reads what keep has written.
func kept(dir string) (*finding, *blocks.Image, error) {
	file, err := os.Open(filepath.Join(dir, "finding.gob"))
	if err != nil {
		return nil, nil, err
	}
	defer file.Close()
	var f finding
	if err := gob.NewDecoder(file).Decode(&f); err != nil {
		return nil, nil, fmt.Errorf("read the finding: %w", err)
	}
	image, err := blocks.ReadImage(filepath.Join(dir, "disk.img"))
	return &f, image, err
}
