package perfile

import (
	"encoding/binary"
	"encoding/json"
	"errors"
	"fmt"
	"hash/crc32"
	"io"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"

	"github.com/mtawal/mtawal/mailq"
)

// Limits of the spool.
const (
	recipientsMax = 64      // one bit each in the file's name
	headMax       = 1 << 20 // bytes of the encoded head of a file
	bodyMax       = 1 << 30
)

const (
	usedSuffix = ".used"
	tmpPrefix  = "tmp-"
)

// head is all of a message but its body. A file is its length, its JSON, the
// CRC32 of both, and the body.
type head struct {
	Envelope   []byte            `json:"envelope"`
	Recipients []mailq.Recipient `json:"recipients"`
	Body       int64             `json:"body"`
	BodyCRC    uint32            `json:"body_crc"`
	At         int64             `json:"at"` // enqueued, Unix nanoseconds
}

// name is where a message lies once the recipients in marks are used.
func name(id mailq.ID, marks uint64) string { return fmt.Sprintf("%s-%016x", id, marks) }

// parseName reads what name wrote; ok is false for any other file.
func parseName(s string) (id mailq.ID, marks uint64, ok bool) {
	a, b, found := strings.Cut(s, "-")
	if !found || len(b) != 16 {
		return 0, 0, false
	}
	id, err := mailq.ParseID(a)
	if err != nil {
		return 0, 0, false
	}
	marks, err = strconv.ParseUint(b, 16, 64)
	return id, marks, err == nil
}

func encodeHead(h head) ([]byte, error) {
	text, err := json.Marshal(h)
	if err != nil {
		return nil, fmt.Errorf("encode the head of a message: %w", err)
	}
	if len(text) > headMax {
		return nil, &mailq.LimitError{Field: "Message", Size: int64(len(text)), Max: headMax}
	}
	b := binary.LittleEndian.AppendUint32(nil, uint32(len(text)))
	b = append(b, text...)
	return binary.LittleEndian.AppendUint32(b, crc32.ChecksumIEEE(b)), nil
}

// readHead returns the head and where the body begins.
func readHead(r io.ReaderAt) (head, int64, error) {
	var h head
	var length [4]byte
	if _, err := r.ReadAt(length[:], 0); err != nil {
		return h, 0, err
	}
	n := int64(binary.LittleEndian.Uint32(length[:]))
	if n > headMax {
		return h, 0, errors.New("the head's length is beyond all bounds")
	}
	b := make([]byte, 4+n+4)
	if _, err := r.ReadAt(b, 0); err != nil {
		return h, 0, err
	}
	if crc32.ChecksumIEEE(b[:4+n]) != binary.LittleEndian.Uint32(b[4+n:]) {
		return h, 0, errors.New("the head's checksum does not match")
	}
	if err := json.Unmarshal(b[4:4+n], &h); err != nil {
		return h, 0, err
	}
	if len(h.Recipients) == 0 || len(h.Recipients) > recipientsMax || h.Body < 0 || h.Body > bodyMax {
		return h, 0, errors.New("the head makes no sense")
	}
	return h, int64(len(b)), nil
}

// writeFile makes the file of a message durable under its final name.
func (s *Store) writeFile(id mailq.ID, h head, body []byte) error {
	b, err := encodeHead(h)
	if err != nil {
		return err
	}
	tmp := filepath.Join(s.dir, tmpPrefix+id.String())
	f, err := os.OpenFile(tmp, os.O_WRONLY|os.O_CREATE|os.O_EXCL, 0o600)
	if err != nil {
		return fmt.Errorf("create a message file: %w", err)
	}
	_, err = f.Write(b)
	if err == nil {
		_, err = f.Write(body)
	}
	if err == nil {
		err = f.Sync()
	}
	if cerr := f.Close(); err == nil {
		err = cerr
	}
	if err == nil {
		err = os.Rename(tmp, filepath.Join(s.dir, name(id, 0)))
	}
	if err == nil {
		err = s.dirFile.Sync()
	}
	if err != nil {
		err = fmt.Errorf("write a message file: %w", err)
		if errors.Is(err, syscall.ENOSPC) {
			return errors.Join(&mailq.FullError{Reason: "disk", Need: int64(len(b) + len(body))}, err, os.Remove(tmp))
		}
		return err
	}
	return nil
}

// Verify reads every file of a spool that nobody has open. The answer is "ok" or
// the first finding.
func Verify(dir string) (string, error) {
	list, err := os.ReadDir(dir)
	if err != nil {
		return "", fmt.Errorf("list the spool: %w", err)
	}
	for _, e := range list {
		id, _, ok := parseName(e.Name())
		if !ok {
			continue
		}
		if err := verifyFile(filepath.Join(dir, e.Name())); err != nil {
			return fmt.Sprintf("message %s: %v", id, err), nil
		}
	}
	return "ok", nil
}

func verifyFile(path string) error {
	f, err := os.Open(path)
	if err != nil {
		return err
	}
	defer f.Close()
	h, off, err := readHead(f)
	if err != nil {
		return err
	}
	sum := crc32.NewIEEE()
	n, err := io.Copy(sum, io.NewSectionReader(f, off, h.Body))
	if err != nil {
		return err
	}
	if n != h.Body || sum.Sum32() != h.BodyCRC {
		return errors.New("the body's checksum does not match")
	}
	return nil
}
