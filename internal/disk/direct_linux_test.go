package disk

import (
	"bytes"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"testing"

	"golang.org/x/sys/unix"
)

// directIn counts the descriptors with O_DIRECT that this process has of files in a directory.
func directIn(t *testing.T, d *osDir) (n int) {
	t.Helper()
	list, err := os.ReadDir("/proc/self/fd")
	ok(t, err)
	for _, e := range list {
		to, err := os.Readlink("/proc/self/fd/" + e.Name())
		if err != nil || filepath.Dir(to) != d.Path() {
			continue // of the listing itself, for one
		}
		b, err := os.ReadFile("/proc/self/fdinfo/" + e.Name())
		ok(t, err)
		_, rest, _ := strings.Cut(string(b), "flags:")
		flags, err := strconv.ParseInt(strings.Fields(rest)[0], 8, 64)
		ok(t, err)
		if flags&unix.O_DIRECT != 0 {
			n++
		}
	}
	return n
}

// The three files that were written last have descriptors for it, and no other has: a log keeps many
// segments open. Writes to several files at a time go on all the same.
func TestFewDirectDescriptorsOfADirectory(t *testing.T) {
	d := mountImage(t, "ext4", 16<<20)
	const files, writes = 8, 50
	var all [files]File
	var wg sync.WaitGroup
	want := func(i, k int) []byte {
		b := alignedBuffer(directAlign)
		copy(b, bytes.Repeat([]byte{byte(i + 1), byte(k)}, directAlign/2))
		return b
	}
	for i := range all {
		f, err := d.Create(fmt.Sprint("f", i))
		ok(t, err)
		ok(t, f.Allocate(writes*directAlign))
		ok(t, f.WriteDurable(0, want(i, 0)))
		if n := directIn(t, d); n != min(i+1, 3) {
			t.Errorf("%d descriptors after a write to %s", n, f.Name())
		}
		all[i] = f
	}
	for i, f := range all {
		wg.Go(func() {
			for k := range writes {
				if err := f.WriteDurable(int64(k)*directAlign, want(i, k)); err != nil {
					t.Errorf("write %d to %s: %v", k, f.Name(), err)
				}
			}
		})
	}
	wg.Wait()
	if n := directIn(t, d); n > 3 {
		t.Errorf("%d descriptors after writes side by side", n)
	}
	got := make([]byte, directAlign)
	for i, f := range all {
		for k := range writes {
			if _, err := f.ReadUncached(got, int64(k)*directAlign); err != nil || !bytes.Equal(got, want(i, k)) {
				t.Fatalf("write %d to %s is not there (%v)", k, f.Name(), err)
			}
		}
		ok(t, f.Close())
	}
	if n := directIn(t, d); n != 0 {
		t.Errorf("%d descriptors are left", n)
	}
}

// A file that was opened to be read is not written to, in no way.
func TestNoDirectWriteToWhatIsOpenedToBeRead(t *testing.T) {
	d := openDir(t, t.TempDir())
	f, err := d.Create("a")
	ok(t, err)
	defer f.Close()
	ok(t, f.Allocate(directAlign))
	r, err := d.Open("a", false)
	ok(t, err)
	defer r.Close()
	b := alignedBuffer(directAlign)
	b[0] = 1
	if err := r.WriteDurable(0, b); err == nil {
		t.Error("it was written to")
	}
	if _, err := f.ReadAt(b, 0); err != nil || b[0] != 0 {
		t.Error(b[0], err)
	}
}
