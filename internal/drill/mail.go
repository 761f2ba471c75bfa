package drill

import (
	"bufio"
	"bytes"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"
)

// Limits of real mail.
const (
	// MailMax is the largest message that is taken, in bytes; larger ones are
	// passed over.
	MailMax = 32 << 20
	// MailsMax is how many messages are indexed.
	MailsMax = 10_000_000
)

// Mail is a collection of real messages. It holds where they are, not what is in
// them. Any number of goroutines may read.
type Mail struct {
	spans []span
	// Skipped is how many were passed over: empty, or larger than MailMax.
	Skipped int
}

type span struct {
	path      string
	off, size int64
}

// OpenMail indexes a Maildir, a directory of files with one message each (such
// as MH), or an mbox file. Messages are opaque: only the "From " lines of an
// mbox are looked at.
func OpenMail(path string) (*Mail, error) {
	info, err := os.Stat(path)
	if err != nil {
		return nil, fmt.Errorf("open mail: %w", err)
	}
	m := &Mail{}
	switch {
	case info.Mode().IsRegular():
		err = m.addMbox(path)
	case info.IsDir():
		err = m.addDir(path)
	default:
		err = errors.New("is neither a directory nor a file")
	}
	if err != nil {
		return nil, fmt.Errorf("read mail in %s: %w", path, err)
	}
	if len(m.spans) == 0 {
		return nil, fmt.Errorf("read mail in %s: no message found (%d passed over)", path, m.Skipped)
	}
	return m, nil
}

// Len is the number of messages, at least one.
func (m *Mail) Len() int { return len(m.spans) }

// Read returns the bytes of the i-th message.
func (m *Mail) Read(i int) ([]byte, error) {
	s := m.spans[i]
	f, err := os.Open(s.path)
	if err != nil {
		return nil, fmt.Errorf("read mail: %w", err)
	}
	defer f.Close()
	b := make([]byte, s.size)
	if _, err := f.ReadAt(b, s.off); err != nil {
		return nil, fmt.Errorf("read mail: %w", err)
	}
	return b, nil
}

func (m *Mail) add(s span) error {
	if s.size == 0 || s.size > MailMax {
		m.Skipped++
		return nil
	}
	if len(m.spans) == MailsMax {
		return fmt.Errorf("more than %d messages", MailsMax)
	}
	m.spans = append(m.spans, s)
	return nil
}

func (m *Mail) addDir(dir string) error {
	dirs := []string{}
	for _, sub := range []string{"cur", "new"} {
		if info, err := os.Stat(filepath.Join(dir, sub)); err == nil && info.IsDir() {
			dirs = append(dirs, filepath.Join(dir, sub))
		}
	}
	if len(dirs) == 0 {
		dirs = append(dirs, dir)
	}
	for _, d := range dirs {
		list, err := os.ReadDir(d)
		if err != nil {
			return err
		}
		for _, e := range list {
			if !e.Type().IsRegular() || strings.HasPrefix(e.Name(), ".") {
				continue
			}
			info, err := e.Info()
			if err != nil {
				return err
			}
			if err := m.add(span{path: filepath.Join(d, e.Name()), size: info.Size()}); err != nil {
				return err
			}
		}
	}
	return nil
}

// addMbox finds messages between lines that begin with "From ", at the start of
// the file or behind an empty line.
func (m *Mail) addMbox(path string) error {
	f, err := os.Open(path)
	if err != nil {
		return err
	}
	defer f.Close()
	r := bufio.NewReaderSize(f, 1<<20)
	var (
		off   int64       // of the line
		begin = int64(-1) // of the message
		blank = true      // the line before was empty
		gap   int64       // its length
		fresh = true      // the piece begins a line
	)
	for {
		piece, err := r.ReadSlice('\n')
		if err != nil && err != io.EOF && err != bufio.ErrBufferFull {
			return err
		}
		if len(piece) == 0 {
			break
		}
		whole := err == nil
		if fresh && blank && bytes.HasPrefix(piece, []byte("From ")) {
			if begin >= 0 {
				if err := m.add(span{path, begin, off - gap - begin}); err != nil {
					return err
				}
			}
			begin = -1
			for err == bufio.ErrBufferFull { // the rest of a very long From line
				off += int64(len(piece))
				piece, err = r.ReadSlice('\n')
			}
			begin = off + int64(len(piece))
			whole = err == nil
		} else if begin < 0 {
			return errors.New("it does not begin with a From line, so it is no mbox")
		}
		line := bytes.TrimRight(piece, "\r\n")
		blank = fresh && whole && len(line) == 0
		gap = 0
		if blank {
			gap = int64(len(piece))
		}
		off += int64(len(piece))
		fresh = whole
		if err == io.EOF {
			break
		}
	}
	if begin < 0 {
		return nil
	}
	return m.add(span{path, begin, off - gap - begin})
}
