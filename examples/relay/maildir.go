package main

import (
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"strings"

	"github.com/mtawal/mtawal/mailq"
)

// maildir is a directory in the format of that name: tmp, new and cur.
type maildir string

// openMaildir makes the directories that are missing.
func openMaildir(dir string) (maildir, error) {
	for _, sub := range []string{"tmp", "new", "cur"} {
		if err := os.MkdirAll(filepath.Join(dir, sub), 0o700); err != nil {
			return "", err
		}
	}
	for _, d := range []string{dir, filepath.Dir(filepath.Clean(dir))} {
		if err := syncDir(d); err != nil {
			return "", err
		}
	}
	return maildir(dir), nil
}

// mailName is the same for every attempt to deliver a message to a recipient,
// and for nothing else. It is a hash, so that no address names a file.
func mailName(token, address string) string {
	sum := sha256.Sum256([]byte(token + "\x00" + address))
	return hex.EncodeToString(sum[:])
}

// deliver stores the message for one recipient, once, however often it is
// called. nil: it survives a power cut.
//
// Only this relay makes files of that name, and the recipient is claimed once
// at a time, so no lock is needed.
func (m maildir) deliver(env envelope, d *mailq.Delivery, s mailq.Slot) error {
	name := mailName(d.Token, s.Address)
	// Listing cur, where a mail reader moves what it has seen, is for those that
	// may have been here before. The store says which they are.
	sub, err := m.find(name, s.InDoubt || s.Attempts > 0)
	if err != nil {
		return err
	}
	if sub == "" {
		sub = "new"
		tmp := filepath.Join(string(m), "tmp", name)
		if err := writeMail(tmp, env, d, s); err != nil {
			return err
		}
		// From here on it may have been delivered.
		if err := d.Start(d.Context(), s.Index); err != nil {
			return err
		}
		if err := os.Rename(tmp, filepath.Join(string(m), sub, name)); err != nil {
			return err
		}
	}
	// Also for one found: the earlier attempt may have died in front of this.
	return syncDir(filepath.Join(string(m), sub))
}

// find says whether the mail is in new or in cur, under whatever flags. new
// comes first: mail moves from there to cur, never back.
func (m maildir) find(name string, again bool) (sub string, err error) {
	_, err = os.Lstat(filepath.Join(string(m), "new", name))
	if err == nil {
		return "new", nil
	}
	if !errors.Is(err, fs.ErrNotExist) {
		return "", err
	}
	if !again {
		return "", nil
	}
	entries, err := os.ReadDir(filepath.Join(string(m), "cur"))
	if err != nil {
		return "", err
	}
	for _, e := range entries {
		if base, _, _ := strings.Cut(e.Name(), ":"); base == name {
			return "cur", nil
		}
	}
	return "", nil
}

// writeMail writes the file, over what an attempt that died left there, and
// syncs it. Final delivery adds the two headers (RFC 5321 section 4.4).
func writeMail(path string, env envelope, d *mailq.Delivery, s mailq.Slot) (err error) {
	f, err := os.Create(path)
	if err != nil {
		return err
	}
	defer func() {
		if cerr := f.Close(); err == nil {
			err = cerr
		}
	}()
	_, err = fmt.Fprintf(f, "Return-Path: <%s>\r\nDelivered-To: %s\r\n", pathOf(env.From), pathOf(s.Address))
	if err != nil {
		return err
	}
	if _, err := d.Body.WriteTo(io.Writer(f)); err != nil {
		return fmt.Errorf("writing %s: %w", path, err)
	}
	return f.Sync()
}

// sync makes what was delivered survive a power cut.
func (m maildir) sync() error {
	return errors.Join(syncDir(filepath.Join(string(m), "new")), syncDir(filepath.Join(string(m), "cur")))
}

func syncDir(dir string) error {
	f, err := os.Open(dir)
	if err != nil {
		return err
	}
	return errors.Join(f.Sync(), f.Close())
}
