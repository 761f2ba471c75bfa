package cases

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"go.uber.org/goleak"

	"github.com/mtawal/mtawal/segment"
	"github.com/mtawal/mtawal/wal"
)

func TestMain(m *testing.M) {
	if dir := os.Getenv(ownerDir); dir != "" {
		own(dir)
		return
	}
	goleak.VerifyTestMain(m)
}

// ownerDir has this program open a store, take a delivery and wait, rather than test.
const ownerDir = "MTAWAL_CASES_OWNER"

func own(dir string) {
	s, err := wal.Open(dir, small)
	if err == nil {
		_, err = s.Claim(bg, "q")
	}
	fmt.Println("opened", err)
	_, _ = io.Copy(io.Discard, os.Stdin) // until it is killed
}

var bg = context.Background()

// small is the options of the stores here: several segments with little mail.
var small = wal.Options{SegmentSize: segment.SizeMin}

func must(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

// mail is the i-th message: 3,000 bytes, so that eight or so fill a segment.
func mail(i int) wal.Message {
	return wal.Message{Body: fmt.Appendf(nil, "mail %d %s", i, strings.Repeat("text ", 600)), Recipients: []wal.Recipient{{Queue: "q", Address: "a"}}}
}

const mails = 60

// closedStore is a store with mail in several segments and two checkpoints, the first of them in the
// middle of the log.
func closedStore(t *testing.T) string {
	t.Helper()
	dir := filepath.Join(t.TempDir(), "store")
	fill(t, dir)
	return dir
}

func fill(t *testing.T, dir string) {
	t.Helper()
	s := open(t, dir)
	for i := range mails {
		_, err := s.Enqueue(bg, mail(i))
		must(t, err)
		if i == 40 {
			must(t, s.Checkpoint(bg))
		}
	}
	must(t, s.Close())
}

func open(t *testing.T, dir string) *wal.Store {
	t.Helper()
	s, err := wal.Open(dir, small)
	must(t, err)
	return s
}

// whole opens a store, which must have all of the mail but so many that are damaged, and checks it.
func whole(t *testing.T, dir string, damaged int) {
	t.Helper()
	s := open(t, dir)
	if got := delivered(t, s); got != mails-damaged {
		t.Errorf("%d delivered, want %d", got, mails-damaged)
	}
	if st := s.Stats(); st.WorkQueueLength != int64(damaged) || st.Damaged != int64(damaged) {
		t.Errorf("%+v", st)
	}
	must(t, s.Close())
	if damaged == 0 {
		verified(t, dir)
	}
}

// delivered settles all that the store hands out.
func delivered(t *testing.T, s *wal.Store) (n int) {
	t.Helper()
	c, err := s.Consumer(wal.ConsumerOptions{})
	must(t, err)
	for ; ; n++ {
		d, ok := c.TryNext("q")
		if !ok {
			break
		}
		var b bytes.Buffer
		_, err := d.Body.WriteTo(&b)
		must(t, err)
		if !strings.HasPrefix(b.String(), "mail ") {
			t.Errorf("never sent: %.40q", b.String())
		}
		must(t, d.SettleAll(bg, wal.Delivered))
	}
	must(t, c.Close())
	return n
}

func verified(t *testing.T, dir string) {
	t.Helper()
	if found, err := wal.Verify(dir, wal.Options{}); err != nil || len(found) > 0 {
		t.Errorf("verify: %v, %v", found, err)
	}
}

// refused opens a store, which must not work for a reason that names the file, and must touch
// nothing.
func refused(t *testing.T, dir string, want error, says string) {
	t.Helper()
	before := content(t, dir)
	s, err := wal.Open(dir, small)
	if err == nil {
		_ = s.Close()
		t.Fatal("it was opened")
	}
	if !errors.Is(err, want) || !strings.Contains(err.Error(), says) {
		t.Errorf("the error is %q, want %v that says %q", err, want, says)
	}
	after := content(t, dir)
	for name, b := range before {
		if after[name] != b {
			t.Errorf("%s was touched", name)
		}
	}
	if len(after) != len(before) {
		t.Errorf("%d names before, %d after", len(before), len(after))
	}
}

// content is every file of a directory but the lock, links and other things as their kind.
func content(t *testing.T, dir string) map[string]string {
	t.Helper()
	list, err := os.ReadDir(dir)
	must(t, err)
	all := make(map[string]string)
	for _, e := range list {
		if e.Name() == "LOCK" {
			continue // says who tried last
		}
		all[e.Name()] = e.Type().String()
		if e.Type().IsRegular() {
			b, err := os.ReadFile(filepath.Join(dir, e.Name()))
			if errors.Is(err, os.ErrNotExist) { // a running owner has removed it since
				delete(all, e.Name())
				continue
			}
			must(t, err)
			all[e.Name()] = string(b)
		}
	}
	return all
}

// named is the files of a store whose names begin so, in order.
func named(t *testing.T, dir, prefix string) []string {
	t.Helper()
	list, err := filepath.Glob(filepath.Join(dir, prefix+"*"))
	must(t, err)
	slices.Sort(list)
	if len(list) == 0 {
		t.Fatalf("no %s*", prefix)
	}
	return list
}

// edit changes a file in place.
func edit(t *testing.T, file string, f func(b []byte)) {
	t.Helper()
	b, err := os.ReadFile(file)
	must(t, err)
	f(b)
	must(t, os.WriteFile(file, b, 0o600))
}

// framesOf is the frames of a segment, as they stand behind each other.
func framesOf(t *testing.T, b []byte) (h segment.Header, frames []segment.FrameHeader) {
	t.Helper()
	h, err := segment.DecodeHeader(b)
	must(t, err)
	for off := h.First(); off < h.Size; {
		f, ok, err := segment.DecodeFrameHeader(&h, off, b[off:])
		must(t, err)
		if !ok {
			break
		}
		frames = append(frames, f)
		off += f.Len
	}
	return h, frames
}
