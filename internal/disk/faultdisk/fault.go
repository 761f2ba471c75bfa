// Package faultdisk wraps a file system and makes operations fail, lie or hang:
// the n-th one, once or from there on for ever. It is for tests.
//
// A sweep runs a scenario once to learn how many operations it takes, and then
// once for each of them:
//
//	d := faultdisk.New(memdisk.New(memdisk.Config{}))
//	scenario(d)
//	for n := 1; n <= d.Ops(); n++ {
//		d := faultdisk.New(memdisk.New(memdisk.Config{}))
//		d.Set(faultdisk.Plan{N: n, Err: syscall.EIO})
//		scenario(d) // d.Trace() says where it was when it goes wrong
//	}
package faultdisk

import (
	"fmt"
	"slices"
	"strings"
	"sync"
	"syscall"

	"github.com/mtawal/mtawal/internal/disk"
)

// Plan says which operation fails, and how. Operations that it does not cover
// are not counted.
type Plan struct {
	// N is the operation that fails, the first being 1; 0: none.
	N int
	// Forever: all from the N-th on fail.
	Forever bool
	// Err is what the operation returns, wrapped as package disk would; nil: syscall.EIO.
	Err error
	// After: the operation is done, and fails nevertheless.
	After bool
	// ShortWrite: half of the bytes reach the cache first. Covers WriteAt and
	// WriteDurable alone.
	ShortWrite bool
	// Lie: instead of failing, the operation does not make anything durable and
	// returns nil. Covers WriteDurable, Sync and DirSync alone.
	Lie bool
	// Only are the kinds that are covered; none: all.
	Only []disk.Op
	// Name is a prefix of the names of files (for OpenDir, of the path) that are
	// covered.
	Name string
}

var (
	writes = []disk.Op{disk.OpWriteAt, disk.OpWriteDurable}
	syncs  = []disk.Op{disk.OpWriteDurable, disk.OpSync, disk.OpDirSync}
)

func (p Plan) covers(op disk.Op, name string) bool {
	return (len(p.Only) == 0 || slices.Contains(p.Only, op)) &&
		(!p.ShortWrite || slices.Contains(writes, op)) &&
		(!p.Lie || slices.Contains(syncs, op)) &&
		strings.HasPrefix(name, p.Name)
}

// traceMax is how many operations Trace remembers.
const traceMax = 24

// FS wraps a file system. Any number of goroutines may use it.
type FS struct {
	inner disk.FS

	mu     sync.Mutex
	plan   Plan
	ops    int // covered by the plan
	failed int
	all    int
	trace  []*entry
	hook   func(disk.Op, string)
	stalls []*stall
}

type entry struct {
	n      int
	op     disk.Op
	name   string
	detail string
	result string
}

// New wraps a file system; nothing fails until Set.
func New(inner disk.FS) *FS { return &FS{inner: inner} }

// Set puts a plan into force and starts counting anew.
func (f *FS) Set(p Plan) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.plan, f.ops, f.failed = p, 0, 0
}

// Ops is how many operations that the plan covers were begun since Set.
func (f *FS) Ops() int {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.ops
}

// Failed is how many of them the plan made fail or lie.
func (f *FS) Failed() int {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.failed
}

// OnOp has h called before each operation, by the goroutine that does it and
// without a lock. nil ends it.
func (f *FS) OnOp(h func(op disk.Op, name string)) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.hook = h
}

// Trace is the last operations as text, one a line, for messages.
func (f *FS) Trace() string {
	f.mu.Lock()
	defer f.mu.Unlock()
	var b strings.Builder
	for _, e := range f.trace {
		fmt.Fprintf(&b, "%5d %-12s %s %s%s\n", e.n, e.op, e.name, e.detail, e.result)
	}
	return b.String()
}

type stall struct {
	op      disk.Op
	prefix  string
	reached chan struct{}
	once    sync.Once
	gate    chan struct{}
}

// Stall makes operations of that kind (0: any) on names with that prefix wait, before they
// do anything, until release is called; then they go on. reached is closed when
// the first one waits. release may be called again.
func (f *FS) Stall(op disk.Op, prefix string) (reached <-chan struct{}, release func()) {
	s := &stall{op: op, prefix: prefix, reached: make(chan struct{}), gate: make(chan struct{})}
	f.mu.Lock()
	defer f.mu.Unlock()
	f.stalls = append(f.stalls, s)
	return s.reached, sync.OnceFunc(func() {
		f.mu.Lock()
		defer f.mu.Unlock()
		f.stalls = slices.DeleteFunc(f.stalls, func(t *stall) bool { return t == s })
		close(s.gate)
	})
}

// verdict is what becomes of one operation.
type verdict struct {
	err error // nil: it goes its way
	Plan
	fs *FS
	e  *entry
}

// begin counts an operation, waits where it has to, and says what becomes of it.
func (f *FS) begin(op disk.Op, path, name, detail string) verdict {
	f.mu.Lock()
	f.all++
	v := verdict{fs: f, e: &entry{n: f.all, op: op, name: name, detail: detail}}
	f.trace = append(f.trace, v.e)
	if len(f.trace) > traceMax {
		f.trace = slices.Delete(f.trace, 0, 1)
	}
	if f.plan.covers(op, name) {
		f.ops++
		if n := f.plan.N; n > 0 && (f.ops == n || f.plan.Forever && f.ops > n) {
			f.failed++
			v.Plan = f.plan
			v.err = f.plan.Err
			if v.err == nil {
				v.err = syscall.EIO
			}
			v.err = disk.PathError(op.String(), path, v.err)
			v.e.result = ": made to fail: " + v.err.Error()
			if v.Lie {
				v.e.result = ": made to lie"
			}
		}
	}
	hook := f.hook
	var held []*stall
	for _, s := range f.stalls {
		if (s.op == 0 || s.op == op) && strings.HasPrefix(name, s.prefix) {
			held = append(held, s)
		}
	}
	f.mu.Unlock()
	if hook != nil {
		hook(op, name)
	}
	for _, s := range held {
		s.once.Do(func() { close(s.reached) })
		<-s.gate
	}
	return v
}

// fails reports whether the operation must not be done.
func (v verdict) fails() bool { return v.err != nil && !v.After && !v.Lie && !v.ShortWrite }

// lies reports whether the operation only says that it was done.
func (v verdict) lies() bool { return v.err != nil && v.Lie }

// end turns the outcome of an operation into what the caller hears.
func (v verdict) end(err error) error {
	if err == nil && v.err != nil && !v.Lie {
		return v.err
	}
	if err != nil {
		v.fs.mu.Lock()
		v.e.result = ": " + err.Error()
		v.fs.mu.Unlock()
	}
	return err
}

// do is an operation without a result of its own.
func (v verdict) do(f func() error) error {
	if v.fails() {
		return v.err
	}
	if v.lies() {
		return nil
	}
	return v.end(f())
}

// get is an operation with a result.
func get[T any](v verdict, f func() (T, error)) (T, error) {
	var none T
	if v.fails() {
		return none, v.err
	}
	r, err := f()
	if err = v.end(err); err != nil {
		return none, err
	}
	return r, nil
}
