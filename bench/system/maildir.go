package system

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"sync"
	"sync/atomic"
	"time"
)

// Maildir is a file a message, as Postfix, Exim and Maildir have it: written under tmp, synced,
// renamed into one of 64 directories, which is synced too. In front of the body stand 8 bytes a recipient: when
// it is due, or that it is used. A used-mark of one of several and a deferral write these in
// place, as Postfix does; the last used-mark removes the file and syncs the directory.
var Maildir = Spec{
	Name:    "file per message",
	Durable: "fsync of the file, rename, fsync of the directory; unlink, fsync of the directory",
	Queue:   "file; next name from memory and read; unlink (one of several recipients: 8 bytes in place, fdatasync); 8 bytes in place",
	Slow:    true,
	Open:    openMaildir,
}

const (
	maildirs    = 64
	maildirUsed = 1<<63 - 1
)

type maildir struct {
	root string
	tmp  *os.File
	dirs [maildirs]*os.File
	last atomic.Uint64
	line line

	mu   sync.Mutex
	left map[uint64]int // recipients of messages with several that are not used
}

// maildirName tells how many recipients a message has.
func maildirName(id uint64, recipients int) string {
	return strconv.FormatUint(id, 16) + "." + strconv.Itoa(recipients)
}

func (m *maildir) path(id uint64, recipients int) string {
	return filepath.Join(m.dirs[id%maildirs].Name(), maildirName(id, recipients))
}

func openMaildir(dir string, _ Options) (_ System, err error) {
	m := &maildir{root: dir, left: make(map[uint64]int)}
	defer func() {
		if err != nil {
			err = errors.Join(err, m.Close())
		}
	}()
	open := func(name string) (*os.File, error) {
		p := filepath.Join(dir, name)
		if err := os.MkdirAll(p, 0o700); err != nil {
			return nil, err
		}
		return os.Open(p)
	}
	if m.tmp, err = open("tmp"); err != nil {
		return nil, err
	}
	var ready []uint64
	for i := range m.dirs {
		if m.dirs[i], err = open(fmt.Sprintf("%02x", i)); err != nil {
			return nil, err
		}
		names, err := m.dirs[i].Readdirnames(-1)
		if err != nil {
			return nil, err
		}
		for _, name := range names {
			var id uint64
			var n int
			if _, err := fmt.Sscanf(name, "%x.%d", &id, &n); err != nil {
				return nil, fmt.Errorf("%s: %w", name, err)
			}
			m.last.Store(max(m.last.Load(), id))
			// Every recipient's state is in the file. It has to be read: a file does not say
			// from outside whether it was deferred.
			states := make([]byte, 8*n)
			f, err := os.Open(filepath.Join(m.dirs[i].Name(), name))
			if err != nil {
				return nil, err
			}
			_, err = f.ReadAt(states, 0)
			if err := errors.Join(err, f.Close()); err != nil {
				return nil, err
			}
			for r := range n {
				at := int64(binary.LittleEndian.Uint64(states[8*r:]))
				rid := maildirID(id, n, r)
				switch at {
				case 0:
					ready = append(ready, rid)
				case maildirUsed:
					continue
				default:
					m.line.pushAt(rid, time.Unix(0, at))
				}
				if n > 1 {
					m.left[id]++
				}
			}
		}
	}
	slices.Sort(ready)
	m.line.push(ready...)
	return m, errors.Join(m.tmp.Sync(), syncDir(dir))
}

func syncDir(name string) error {
	d, err := os.Open(name)
	if err != nil {
		return err
	}
	return errors.Join(d.Sync(), d.Close())
}

// maildirID is a recipient in the line: message, how many it has, and which.
func maildirID(id uint64, n, r int) uint64 {
	return id<<(2*rcptBits) | uint64(n)<<rcptBits | uint64(r)
}

func (m *maildir) write(body []byte, recipients int, sync bool) (uint64, error) {
	id := m.last.Add(1)
	tmp := filepath.Join(m.tmp.Name(), maildirName(id, recipients))
	f, err := os.OpenFile(tmp, os.O_WRONLY|os.O_CREATE|os.O_EXCL, 0o600)
	if err != nil {
		return 0, err
	}
	b := make([]byte, 8*recipients, 8*recipients+len(body))
	_, err = f.Write(append(b, body...))
	if err == nil && sync {
		err = f.Sync()
	}
	if err := errors.Join(err, f.Close()); err != nil {
		return 0, err
	}
	if recipients > 1 {
		m.mu.Lock()
		m.left[id] = recipients
		m.mu.Unlock()
	}
	return id, os.Rename(tmp, m.path(id, recipients))
}

func (m *maildir) Enqueue(msg Message) error {
	id, err := m.write(msg.Body, msg.Recipients, true)
	if err != nil {
		return err
	}
	if err := m.dirs[id%maildirs].Sync(); err != nil {
		return err
	}
	for r := range msg.Recipients {
		m.line.push(maildirID(id, msg.Recipients, r))
	}
	return nil
}

// Fill writes files without a sync each; the kernel is asked once.
func (m *maildir) Fill(list [][]byte) error {
	for _, b := range list {
		id, err := m.write(b, 1, false)
		if err != nil {
			return err
		}
		m.line.push(maildirID(id, 1, 0))
	}
	return syncFS(m.tmp)
}

type maildirJob struct {
	m  *maildir
	id uint64
}

func (m *maildir) Claim(ctx context.Context) (Job, error) {
	id, err := m.line.next(ctx)
	return maildirJob{m, id}, err
}

func (m *maildir) Pending() int { return m.line.waiting() }

func (j maildirJob) parts() (id uint64, n, r int) {
	return j.id >> (2 * rcptBits), int(j.id >> rcptBits & rcptMask), int(j.id & rcptMask)
}

func (j maildirJob) Read(f func([]byte)) error {
	id, n, _ := j.parts()
	b, err := os.ReadFile(j.m.path(id, n))
	if err != nil {
		return err
	}
	f(b[8*n:])
	return nil
}

// set writes the state of a recipient in place.
func (j maildirJob) set(v int64) error {
	id, n, r := j.parts()
	f, err := os.OpenFile(j.m.path(id, n), os.O_WRONLY, 0)
	if err != nil {
		return err
	}
	_, err = f.WriteAt(binary.LittleEndian.AppendUint64(nil, uint64(v)), int64(8*r))
	if err == nil {
		err = dataSync(f)
	}
	return errors.Join(err, f.Close())
}

func (j maildirJob) Used() error {
	id, n, _ := j.parts()
	defer j.m.line.ended()
	last := n == 1
	if n > 1 {
		if err := j.set(maildirUsed); err != nil {
			return err
		}
		j.m.mu.Lock()
		if j.m.left[id]--; j.m.left[id] == 0 {
			delete(j.m.left, id)
			last = true
		}
		j.m.mu.Unlock()
	}
	if !last {
		return nil
	}
	if err := os.Remove(j.m.path(id, n)); err != nil {
		return err
	}
	return j.m.dirs[id%maildirs].Sync()
}

func (j maildirJob) Defer(until time.Time) error {
	if err := j.set(until.UnixNano()); err != nil {
		return err
	}
	j.m.line.pushAt(j.id, until)
	j.m.line.ended()
	return nil
}

func (m *maildir) Clear() error {
	done := make(map[uint64]bool)
	for _, rid := range m.line.takeAll() {
		id, n, _ := maildirJob{m, rid}.parts()
		if done[id] {
			continue
		}
		done[id] = true
		if err := os.Remove(m.path(id, n)); err != nil {
			return err
		}
		delete(m.left, id)
	}
	return syncFS(m.tmp)
}

func (m *maildir) Close() error {
	var errs []error
	for _, d := range append(m.dirs[:], m.tmp) {
		if d != nil {
			errs = append(errs, d.Close())
		}
	}
	return errors.Join(errs...)
}
