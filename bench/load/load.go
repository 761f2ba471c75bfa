// Package load is the workloads, one a file. Those that measure a rate let the systems take
// turns, round after round, so that the drift of the machine hits all alike.
package load

import (
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"time"

	"github.com/mtawal/mtawal/bench/report"
	"github.com/mtawal/mtawal/bench/system"
)

// Config is what the flags say.
type Config struct {
	Dir      string // to work in; it is the caller's to remove
	Quick    bool
	Full     bool           // all sizes with all producers, every system at every backlog
	Only     *regexp.Regexp // of "workload/system"
	Rounds   int
	Round    time.Duration // how long a turn lasts, at most
	Pending  []int         // backlogs of recovery
	Backlog  int           // messages that are drained
	DropAll  bool          // the whole page cache is dropped before a cold drain, not the files' pages
	Steady   int64         // bytes of a steady run
	Deferred int           // messages that are retried in one
	Systems  []system.Spec
	Floor    int64 // size of a floor's file, for tests
	Out      io.Writer
	Report   *report.Report
	Done     func() error // called after each workload; may be nil
}

// Workload is something that can be asked for by name.
type Workload struct {
	Name string
	Run  func(c *Config) error
}

// All are the workloads in the order in which they run.
func All(c *Config) (list []Workload) {
	list = append(list, enqueues(c)...)
	list = append(list, cycles(c)...)
	list = append(list, deferrals(c)...)
	list = append(list, drains(c)...)
	list = append(list, recoveries(c)...)
	list = append(list, backgrounds(c)...)
	return append(list, steadies(c)...)
}

// Run runs what was asked for. What one system fails at is in the report, and in the error.
func Run(c *Config) error {
	var errs []error
	for _, w := range All(c) {
		if err := w.Run(c); err != nil {
			errs = append(errs, errors.Join(errors.New(w.Name), err))
		}
		if c.Done != nil {
			if err := c.Done(); err != nil {
				return errors.Join(append(errs, err)...)
			}
		}
	}
	return errors.Join(errs...)
}

// chosen are the systems of a workload that were asked for.
func (c *Config) chosen(workload string, want func(system.Spec) bool) (list []system.Spec) {
	for _, s := range c.Systems {
		if want(s) && c.Only.MatchString(workload+"/"+s.Name) {
			list = append(list, s)
		}
	}
	return list
}

func isQueue(s system.Spec) bool { return !s.Floor }
func isPeer(s system.Spec) bool  { return !s.Floor && s.Name != system.Mtawal.Name }

// dirFor makes a directory for a system. Floors keep theirs from one workload to the next: what is in
// it takes long to make.
func (c *Config) dirFor(s system.Spec) (string, error) {
	dir := filepath.Join(c.Dir, slug(s.Name))
	if !s.Floor {
		if err := os.RemoveAll(dir); err != nil {
			return "", err
		}
	}
	return dir, os.MkdirAll(dir, 0o700)
}

func (c *Config) open(s system.Spec, producers int) (system.System, string, error) {
	dir, err := c.dirFor(s)
	if err != nil {
		return nil, dir, err
	}
	sys, err := s.Open(dir, system.Options{Producers: producers, FloorSize: c.Floor})
	return sys, dir, err
}

// gone removes what a system left.
func gone(s system.Spec, dir string) error {
	if s.Floor {
		return nil
	}
	return os.RemoveAll(dir)
}

func slug(s string) string {
	return strings.Map(func(r rune) rune {
		if r >= 'a' && r <= 'z' || r >= '0' && r <= '9' {
			return r
		}
		return '-'
	}, strings.ToLower(s))
}

// size is a size of bodies with its name and its mean.
type size struct {
	name string
	draw func(*rand.Rand) int
	mean int
}

var (
	size512  = size{"512 B", system.Fixed(512), 512}
	size4K   = size{"4 KiB", system.Fixed(4 << 10), 4 << 10}
	size64K  = size{"64 KiB", system.Fixed(64 << 10), 64 << 10}
	size1M   = size{"1 MiB", system.Fixed(1 << 20), 1 << 20}
	sizeMail = size{"mail mix", system.Mail, 40 << 10}
)

// count writes a number of things.
func count(n int, what string) string {
	if n == 1 {
		return "1 " + what
	}
	return fmt.Sprintf("%d %ss", n, what)
}

// fill puts n messages into a queue, with one commit for many.
func fill(sys system.System, n int, bytes int) error {
	f, ok := sys.(system.Filler)
	if !ok {
		return system.ErrUnable
	}
	pay := system.NewPayloads(7, system.Fixed(bytes))
	const part = 256
	for n > 0 {
		list := make([][]byte, min(part, n))
		for i := range list {
			list[i] = pay.Next()
		}
		if err := f.Fill(list); err != nil {
			return err
		}
		n -= len(list)
	}
	return nil
}
