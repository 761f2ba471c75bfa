// Package fusedisk shows a blocks.Device as a file, for a loop device to stand on: each
// block write and each barrier of the file system above comes by in order. A second
// file takes notes in the same order.
package fusedisk

import (
	"context"
	"fmt"
	"path/filepath"
	"strings"
	"syscall"
	"time"

	"github.com/hanwen/go-fuse/v2/fs"
	"github.com/hanwen/go-fuse/v2/fuse"
	"github.com/mtawal/mtawal/torture/internal/blocks"
)

// Names of the two files.
const (
	DiskName = "disk.img"
	MarkName = "mark"
)

// Mount shows a device in a directory. The directory must not be used by goroutines of
// this process in a way that the scheduler does not see: the server is in it.
func Mount(dir string, d *blocks.Device) (*Disk, error) {
	long := time.Hour
	root := &root{device: d}
	s, err := fs.Mount(dir, root, &fs.Options{
		MountOptions: fuse.MountOptions{
			DirectMountStrict: true, MaxWrite: 1 << 19, DisableXAttrs: true, FsName: "torture", Name: "torture",
		},
		EntryTimeout: &long, AttrTimeout: &long, NegativeTimeout: &long,
	})
	if err != nil {
		return nil, fmt.Errorf("mount FUSE: %w", err)
	}
	return &Disk{Disk: filepath.Join(dir, DiskName), Mark: filepath.Join(dir, MarkName), server: s}, nil
}

// Disk is a device that is shown.
type Disk struct {
	Disk, Mark string // paths
	server     *fuse.Server
}

// Unmount ends it.
func (d *Disk) Unmount() error {
	var err error
	for range 50 {
		if err = d.server.Unmount(); err == nil {
			return nil
		}
		time.Sleep(20 * time.Millisecond)
	}
	return fmt.Errorf("unmount FUSE: %w", err)
}

type root struct {
	fs.Inode
	device *blocks.Device
}

func (r *root) OnAdd(ctx context.Context) {
	add := func(name string, n fs.InodeEmbedder) {
		r.AddChild(name, r.NewPersistentInode(ctx, n, fs.StableAttr{Mode: syscall.S_IFREG}), true)
	}
	add(DiskName, &diskNode{device: r.device})
	add(MarkName, &markNode{device: r.device})
}

type diskNode struct {
	fs.Inode
	device *blocks.Device
}

func (n *diskNode) Getattr(_ context.Context, _ fs.FileHandle, out *fuse.AttrOut) syscall.Errno {
	out.Mode, out.Size, out.Blocks = 0o600, uint64(n.device.Size()), uint64(n.device.Size()/512)
	return 0
}

func (n *diskNode) Open(context.Context, uint32) (fs.FileHandle, uint32, syscall.Errno) {
	return nil, fuse.FOPEN_DIRECT_IO, 0
}

func (n *diskNode) Read(_ context.Context, _ fs.FileHandle, p []byte, off int64) (fuse.ReadResult, syscall.Errno) {
	p = p[:max(0, min(int64(len(p)), n.device.Size()-off))]
	n.device.Read(p, off)
	return fuse.ReadResultData(p), 0
}

func (n *diskNode) Write(_ context.Context, _ fs.FileHandle, p []byte, off int64) (uint32, syscall.Errno) {
	if off+int64(len(p)) > n.device.Size() {
		return 0, syscall.ENOSPC
	}
	n.device.Write(p, off)
	return uint32(len(p)), 0
}

func (n *diskNode) Fsync(context.Context, fs.FileHandle, uint32) syscall.Errno {
	n.device.Flush()
	return 0
}

func (n *diskNode) Allocate(_ context.Context, _ fs.FileHandle, off, size uint64, mode uint32) syscall.Errno {
	const punchHole, zeroRange = 2, 0x10
	if mode&(punchHole|zeroRange) == 0 {
		return syscall.EOPNOTSUPP
	}
	if off > uint64(n.device.Size()) || size > uint64(n.device.Size())-off {
		return syscall.EINVAL
	}
	n.device.Zero(int64(off), int64(size))
	return 0
}

type markNode struct {
	fs.Inode
	device *blocks.Device
}

func (n *markNode) Getattr(_ context.Context, _ fs.FileHandle, out *fuse.AttrOut) syscall.Errno {
	out.Mode = 0o600
	return 0
}

func (n *markNode) Open(context.Context, uint32) (fs.FileHandle, uint32, syscall.Errno) {
	return nil, fuse.FOPEN_DIRECT_IO, 0
}

func (n *markNode) Write(_ context.Context, _ fs.FileHandle, p []byte, _ int64) (uint32, syscall.Errno) {
	n.device.Mark(strings.TrimSuffix(string(p), "\n"))
	return uint32(len(p)), 0
}
