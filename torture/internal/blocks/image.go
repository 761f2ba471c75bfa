// Package blocks holds disks in memory: images that share their pages, the log of what
// was done to one in the order in which it was done, and the images that a power cut may
// leave of it.
package blocks

import (
	"fmt"
	"io"
	"os"
)

// PageSize is the unit in which images share memory.
const PageSize = 4096

type page = [PageSize]byte

var zeros page

// Image is the content of a disk. A page is never written to once it is in an image, so
// copies of an image share them. Its size is a multiple of PageSize.
type Image struct{ pages []*page } // nil: zeros

// NewImage returns a disk of zeros.
func NewImage(size int64) *Image { return &Image{make([]*page, size/PageSize)} }

// ReadImage reads a disk from a file.
func ReadImage(path string) (*Image, error) {
	f, err := os.Open(path)
	if err != nil {
		return nil, fmt.Errorf("read an image: %w", err)
	}
	defer f.Close()
	st, err := f.Stat()
	if err != nil {
		return nil, fmt.Errorf("read an image: %w", err)
	}
	m := NewImage(st.Size())
	for i := range m.pages {
		p := new(page)
		if _, err := io.ReadFull(f, p[:]); err != nil {
			return nil, fmt.Errorf("read an image: %w", err)
		}
		if *p != zeros {
			m.pages[i] = p
		}
	}
	return m, nil
}

// WriteFile writes a disk to a file, with holes for zeros.
func (m *Image) WriteFile(path string) error {
	f, err := os.Create(path)
	if err != nil {
		return fmt.Errorf("keep an image: %w", err)
	}
	err = f.Truncate(m.Size())
	for i, p := range m.pages {
		if p != nil && err == nil {
			_, err = f.WriteAt(p[:], int64(i)*PageSize)
		}
	}
	if cerr := f.Close(); err == nil {
		err = cerr
	}
	if err != nil {
		return fmt.Errorf("keep an image: %w", err)
	}
	return nil
}

// Size is the size in bytes.
func (m *Image) Size() int64 { return int64(len(m.pages)) * PageSize }

// Clone returns a copy that shares all pages.
func (m *Image) Clone() *Image { return &Image{append([]*page(nil), m.pages...)} }

// ReadAt fills p from off on.
func (m *Image) ReadAt(p []byte, off int64) {
	for len(p) > 0 {
		src := m.pages[off/PageSize]
		if src == nil {
			src = &zeros
		}
		n := copy(p, src[off%PageSize:])
		p, off = p[n:], off+int64(n)
	}
}

// write puts bytes at off. Whole pages are taken as they are, without a copy: the caller
// leaves the bytes alone from then on.
func (m *Image) write(p []byte, off int64) {
	for len(p) > 0 {
		i, in := off/PageSize, off%PageSize
		n := min(int64(len(p)), PageSize-in)
		if n == PageSize {
			m.pages[i] = (*page)(p)
		} else {
			fresh := new(page)
			if old := m.pages[i]; old != nil {
				*fresh = *old
			}
			copy(fresh[in:], p[:n])
			m.pages[i] = fresh
		}
		p, off = p[n:], off+n
	}
}

// zero puts zeros at off.
func (m *Image) zero(off, n int64) {
	for n > 0 {
		i, in := off/PageSize, off%PageSize
		l := min(n, PageSize-in)
		if l == PageSize {
			m.pages[i] = nil
		} else {
			m.write(zeros[:l], off)
		}
		off, n = off+l, n-l
	}
}
