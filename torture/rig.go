package main

import (
	"errors"
	"fmt"
	"math/rand/v2"
	"os"
	"path/filepath"
	"time"

	"github.com/mtawal/mtawal/torture/internal/blocks"
	"github.com/mtawal/mtawal/torture/internal/core"
	"github.com/mtawal/mtawal/torture/internal/fusedisk"
	"github.com/mtawal/mtawal/torture/internal/realfs"
)

// rig is a disk with a place to mount it and a process that uses it. One goroutine at a
// time has it.
type rig struct {
	kind   realfs.FS
	dir    string // everything of the rig
	device *blocks.Device
	disk   *fusedisk.Disk
	blank  *blocks.Image // a new file system
	child  *core.Child
}

// requestMax bounds what a core may take for a request, on a machine with other work.
const requestMax = 2 * time.Minute

func newRig(kind realfs.FS) (_ *rig, err error) {
	r := &rig{kind: kind, device: blocks.NewDevice(kind.Size)}
	if r.dir, err = os.MkdirTemp("", "torture-"); err != nil {
		return nil, fmt.Errorf("make a place to mount: %w", err)
	}
	defer func() {
		if err != nil {
			r.close()
		}
	}()
	for _, name := range []string{"fuse", "mnt"} {
		if err = os.Mkdir(filepath.Join(r.dir, name), 0o700); err != nil {
			return nil, fmt.Errorf("make a place to mount: %w", err)
		}
	}
	image := filepath.Join(r.dir, "blank")
	if err = kind.Make(image); err != nil {
		return nil, err
	}
	if r.blank, err = blocks.ReadImage(image); err != nil {
		return nil, err
	}
	if err = os.Remove(image); err != nil {
		return nil, fmt.Errorf("remove the image: %w", err)
	}
	if r.disk, err = fusedisk.Mount(filepath.Join(r.dir, "fuse"), r.device); err != nil {
		return nil, err
	}
	return r, nil
}

func (r *rig) close() error {
	if r.child != nil {
		r.child.Stop()
	}
	var err error
	if r.disk != nil {
		err = r.disk.Unmount()
	}
	if err != nil {
		return err // what is mounted must not be removed
	}
	return os.RemoveAll(r.dir)
}

func (r *rig) mountpoint() string { return filepath.Join(r.dir, "mnt") }
func (r *rig) store() string      { return filepath.Join(r.dir, "mnt", "store") }

// errNotMounted is a file system that does not survive its own crash.
var errNotMounted = errors.New("the file system does not mount")

// mounted runs a function while the disk is mounted.
func (r *rig) mounted(rng *rand.Rand, f func() error) (err error) {
	loop, err := realfs.Attach(r.disk.Disk)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, loop.Detach()) }()
	if err := r.kind.Mount(loop.Path, r.mountpoint(), r.kind.Options(rng)); err != nil {
		return fmt.Errorf("%w: %w", errNotMounted, err)
	}
	defer func() { err = errors.Join(err, realfs.Unmount(r.mountpoint())) }()
	return f()
}

// forget spares the unmounting of a file system that nobody will look at again its last
// writes.
func (r *rig) forget() error {
	if !r.kind.Shutdown {
		return nil
	}
	return realfs.Cut(r.mountpoint())
}

// do has the core carry out a request; a core that dies is replaced.
func (r *rig) do(q *core.Request) (*core.Response, error) {
	var err error
	if r.child == nil {
		if r.child, err = core.Start(); err != nil {
			return nil, err
		}
	}
	resp, err := r.child.Do(q, requestMax)
	if err != nil {
		r.child = nil
		return &core.Response{Refused: err.Error()}, nil
	}
	if resp.Broken != "" {
		return nil, fmt.Errorf("the core: %s", resp.Broken)
	}
	return resp, nil
}

// doKilled has the core carry out a request and kills it after some time. If the core was
// quicker, its response is returned.
func (r *rig) doKilled(q *core.Request, after time.Duration) (*core.Response, error) {
	var err error
	if r.child == nil {
		if r.child, err = core.Start(); err != nil {
			return nil, err
		}
	}
	t := time.AfterFunc(after, r.child.Kill)
	resp, err := r.child.Do(q, requestMax)
	if err == nil && !t.Stop() {
		err = errors.New("killed just after")
	}
	if err != nil {
		r.child = nil
		return nil, nil
	}
	if resp.Broken != "" {
		return nil, fmt.Errorf("the core: %s", resp.Broken)
	}
	return resp, nil
}

// configOf draws what a life of the store is like.
func configOf(rng *rand.Rand) core.Config {
	half := func() bool { return rng.IntN(2) == 0 }
	segment := []int64{64 << 10, 64 << 10, 128 << 10, 256 << 10, 1 << 20}[rng.IntN(5)]
	room := int64(0)
	if rng.IntN(5) == 0 {
		room = 2<<20 + 16*segment // six segments, two checkpoints and the claim table are kept back
	}
	c := core.Config{
		SegmentSize: segment, MaxBytes: room,
		DurableStart: half(),
		Producers:    1 + rng.IntN(8), Consumers: 1 + rng.IntN(8),
		For:      time.Duration(200+rng.IntN(800)) * time.Millisecond,
		Messages: 50 + rng.IntN(400),
		Close:    half(), Staged: half(), Batches: half(), Operator: half(), Compact: half(), Fold: half(), Sync: half(),
	}
	if half() { // there is much to copy, into segments of 64 KiB at least, and nobody else does
		c.Eager, c.Fold, c.Compact = true, true, false
		c.SegmentSize = max(c.SegmentSize, 128<<10)
		c.Messages *= 4
		if c.MaxBytes > 0 {
			c.MaxBytes = 2<<20 + 16*c.SegmentSize
		}
	}
	return c
}
