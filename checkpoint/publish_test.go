package checkpoint

import (
	"bytes"
	"context"
	"errors"
	"io/fs"
	"math/rand/v2"
	"strings"
	"testing"

	"github.com/mtawal/mtawal/internal/disk"
	"github.com/mtawal/mtawal/internal/disk/faultdisk"
	"github.com/mtawal/mtawal/internal/disk/memdisk"
	"github.com/mtawal/mtawal/journal"
	"github.com/mtawal/mtawal/segment"
)

// publishing is a log at rest with a checkpoint in its middle, to make the next one of.
type publishing struct {
	testing.TB
	fs       *memdisk.FS
	old, new segment.Pos
	oldBytes []byte
	newBytes []byte
}

// setUp makes the log on a disk of that kind.
func setUp(t testing.TB, c memdisk.Config, steps int) *publishing {
	t.Helper()
	w := newWorld(t, &seeded{5})
	for range 240 { // so many that they fill some pages
		w.enqueue()
	}
	for range steps {
		w.step()
	}
	p := &publishing{TB: t, old: w.table.Applied}
	full, n := w.replayed(p.old)
	p.oldBytes = encoded(t, full, n)
	for range steps {
		w.step()
	}
	p.new = w.table.Applied
	full, n = w.replayed(p.new)
	p.newBytes = encoded(t, full, n)
	if len(p.newBytes) < memdisk.PageSize {
		t.Fatalf("a checkpoint of %d bytes can't be torn between pages", len(p.newBytes))
	}
	w.close()
	p.fs = memdisk.New(c)
	if _, err := p.fs.OpenDir(store, true); err != nil {
		t.Fatal(err)
	}
	list, err := w.fs.Clone().OpenDir(store, false)
	if err != nil {
		t.Fatal(err)
	}
	names, err := list.List()
	if err != nil {
		t.Fatal(err)
	}
	for _, i := range names {
		b, err := w.fs.Device(store + "/" + i.Name)
		if err != nil {
			t.Fatal(err)
		}
		p.put(p.fs, i.Name, b)
	}
	p.put(p.fs, Name(p.old), p.oldBytes)
	return p
}

func (p *publishing) put(fs *memdisk.FS, name string, b []byte) {
	p.Helper()
	if err := fs.Put(store+"/"+name, b); err != nil {
		p.Fatal(err)
	}
}

// publish is what a store does to make its next checkpoint.
func (p *publishing) publish(fs disk.FS) (*File, error) {
	return p.publishWithin(context.Background(), fs)
}

func (p *publishing) publishWithin(ctx context.Context, fs disk.FS) (*File, error) {
	dir, err := fs.OpenDir(store, false)
	if err != nil {
		return nil, err
	}
	found, err := journal.Recover(dir, testUUID, journal.Start{}, journal.Known{}, true, func(*segment.Frame) error { return nil })
	if err != nil {
		return nil, err
	}
	base, err := Open(dir, Name(p.old), testUUID)
	if err != nil {
		return nil, errors.Join(err, found.Close())
	}
	c, err := Publish(ctx, dir, base, found, testUUID, p.new, 0)
	return c, errors.Join(err, base.Close(), found.Close())
}

// look checks what is left: the old checkpoint is as it was, and the new one is whole
// if its name is there, which is reported. Of what another name holds nobody cares.
func (p *publishing) look(fs *memdisk.FS, what any) (found bool) {
	p.Helper()
	dir, err := fs.OpenDir(store, false)
	if err != nil {
		p.Fatal(err)
	}
	list, err := dir.List()
	if err != nil {
		p.Fatal(err)
	}
	old := false
	for _, i := range list {
		pos, ok := ParseName(i.Name)
		if !ok {
			if !strings.HasPrefix(i.Name, "seg-") && !strings.HasPrefix(i.Name, TempPrefix) {
				p.Errorf("%v: a file %s is left", what, i.Name)
			}
			continue
		}
		want := p.oldBytes
		if pos == p.new {
			found, want = true, p.newBytes
		} else {
			old = pos == p.old
		}
		f, err := dir.Open(i.Name, false)
		if err != nil {
			p.Fatal(err)
		}
		got := make([]byte, i.Size)
		if _, err := f.ReadAt(got, 0); err != nil || !bytes.Equal(got, want) {
			p.Errorf("%v: %s is not what was made (%v)", what, i.Name, err)
		}
		if err := f.Close(); err != nil {
			p.Fatal(err)
		}
		c, err := Open(dir, i.Name, testUUID)
		if err != nil {
			p.Errorf("%v: %s: %v", what, i.Name, err)
			continue
		}
		if err := errors.Join(c.Check(true), c.Close()); err != nil {
			p.Errorf("%v: %s: %v", what, i.Name, err)
		}
	}
	if !old {
		p.Errorf("%v: the old checkpoint is gone", what)
	}
	return found
}

// again publishes on what a crash left.
func (p *publishing) again(fs *memdisk.FS, what any) {
	p.Helper()
	c, err := p.publish(fs)
	if err != nil {
		p.Errorf("%v: publishing again: %v", what, err)
		return
	}
	if err := c.Close(); err != nil {
		p.Error(err)
	}
	if !p.look(fs, what) {
		p.Errorf("%v: published again, and not there", what)
	}
}

// A crash at any operation leaves the old checkpoint, and under the name of the new
// one nothing or all of it; and the next try succeeds.
func TestPublishCrash(t *testing.T) {
	for _, c := range []memdisk.Config{{}, {Names: memdisk.NamesSubset}, {Names: memdisk.NamesSubset, Garbage: true}} {
		p := setUp(t, c, 20)
		var images []*memdisk.FS
		var ops []string
		p.fs.OnOp(func(op disk.Op, name string) {
			images = append(images, p.fs.Clone())
			ops = append(ops, op.String()+" "+name)
		})
		done, err := p.publish(p.fs)
		p.fs.OnOp(nil)
		if err != nil {
			t.Fatal(err)
		}
		images, ops = append(images, p.fs.Clone()), append(ops, "the end")
		there := map[bool]int{}
		for i, image := range images {
			if i > 0 && ops[i] == ops[i-1] && strings.HasPrefix(ops[i], "Populate") {
				continue
			}
			killed := image.Clone()
			there[p.look(killed, "killed before "+ops[i])]++
			if i%4 == 0 {
				p.again(killed, "killed before "+ops[i])
			}
			for seed := range uint64(12) {
				cut := image.Clone()
				what := []any{"power cut before ", ops[i], " seed ", seed}
				cut.PowerCut(rand.New(rand.NewPCG(seed, uint64(i))))
				found := p.look(cut, what)
				if there[found]++; ops[i] == "the end" && !found {
					t.Errorf("%v: it was published, and is gone", what)
				}
				if (i+int(seed))%16 == 0 {
					p.again(cut, what)
				}
			}
		}
		if there[true] == 0 || there[false] == 0 {
			t.Errorf("not both were seen: %v", there)
		}
		if err := done.Close(); err != nil {
			t.Error(err)
		}
	}
}

// A context that ends before any operation ends Publish with its cause, and nothing of the new checkpoint is left, or comes too
// late; and the next try succeeds.
func TestPublishEndsWithItsContext(t *testing.T) {
	p := setUp(t, memdisk.Config{}, 20)
	why := errors.New("the store is closed")
	ended, done := 0, 0
	for n := 0; ; n++ {
		image := p.fs.Clone()
		ctx, cancel := context.WithCancelCause(t.Context())
		ops := 0
		image.OnOp(func(disk.Op, string) {
			if ops++; ops == n+1 {
				cancel(why)
			}
		})
		c, err := p.publishWithin(ctx, image)
		image.OnOp(nil)
		cancel(nil)
		if err == nil {
			err = c.Close()
			done++
		} else if errors.Is(err, why) {
			err = nil
			ended++
			if p.look(image, n) {
				t.Errorf("ended at operation %d, and the checkpoint is there", n)
			}
			p.again(image, n)
		}
		if err != nil {
			t.Errorf("operation %d: %v", n, err)
		}
		if ops <= n {
			break
		}
	}
	if ended < 3 || done < 3 {
		t.Errorf("%d were ended and %d were done", ended, done)
	}
}

// Every operation fails in turn: Publish says so, what is there is whole, and nothing stays
// open.
func TestPublishFails(t *testing.T) {
	p := setUp(t, memdisk.Config{}, 20)
	n := 0
	{
		d := faultdisk.New(p.fs.Clone())
		d.Set(faultdisk.Plan{})
		c, err := p.publish(d)
		if err != nil {
			t.Fatal(err)
		}
		n = d.Ops()
		if err := c.Close(); err != nil {
			t.Error(err)
		}
	}
	for _, plan := range []faultdisk.Plan{{}, {Forever: true}, {After: true}, {Err: disk.ErrNoSpace}, {ShortWrite: true}} {
		for plan.N = 1; plan.N <= n; plan.N++ {
			image := p.fs.Clone()
			d := faultdisk.New(image)
			d.Set(plan)
			c, err := p.publish(d)
			if d.Failed() == 0 {
				if c != nil {
					err = errors.Join(err, c.Close())
				}
				if err != nil {
					t.Errorf("nothing failed but %v", err)
				}
				break
			}
			if err == nil {
				// A read that failed was done another way.
				err = c.Close()
			}
			d.Set(faultdisk.Plan{})
			found := p.look(image, d.Trace())
			if c != nil && err == nil && !found {
				t.Errorf("published and not there:\n%s", d.Trace())
			}
			p.again(image, plan)
		}
	}
}

// A sync that lied is found by reading back, and what it left is not taken for a checkpoint
// at the next opening, though the page cache has it right until then.
func TestPublishReadBackSyncLies(t *testing.T) {
	for _, fault := range []memdisk.SyncFault{memdisk.SyncLies, memdisk.SyncLost} {
		p := setUp(t, memdisk.Config{}, 20)
		p.fs.OnOp(func(op disk.Op, name string) {
			if op == disk.OpSync && strings.HasPrefix(name, TempPrefix) {
				if err := p.fs.FailSync(store+"/"+name, fault); err != nil {
					t.Error(err)
				}
			}
		})
		c, err := p.publish(p.fs)
		p.fs.OnOp(nil)
		if err == nil {
			t.Errorf("fault %d: published what the device does not hold", fault)
			if err := c.Close(); err != nil {
				t.Error(err)
			}
		}
		if want := fault == memdisk.SyncLies; errors.Is(err, segment.ErrCorrupt) != want {
			t.Errorf("fault %d: %v", fault, err)
		}
		if p.look(p.fs.Clone(), fault) {
			t.Errorf("fault %d: it was seen to be bad and kept its name", fault)
		}
		p.again(p.fs, fault)
	}
}

// oldDevice is a directory whose device has another byte at one place of one file than
// the page cache.
type oldDevice struct {
	disk.Dir
	name string
	at   int64
}

type oldFile struct {
	disk.File
	at int64
}

func (d *oldDevice) Open(name string, write bool) (disk.File, error) {
	f, err := d.Dir.Open(name, write)
	if err == nil && name == d.name {
		f = &oldFile{f, d.at}
	}
	return f, err
}

func (f *oldFile) ReadUncached(p []byte, off int64) (int, error) {
	n, err := f.File.ReadUncached(p, off)
	if i := f.at - off; i >= 0 && i < int64(n) {
		p[i] ^= 0x20
	}
	return n, err
}

type oldFS struct {
	disk.FS
	name string
	at   int64
}

func (f *oldFS) OpenDir(path string, create bool) (disk.Dir, error) {
	d, err := f.FS.OpenDir(path, create)
	return &oldDevice{d, f.name, f.at}, err
}

// Not one byte may be another on the device: of the header, the sections, the directory.
func TestPublishReadBackEveryByte(t *testing.T) {
	p := setUp(t, memdisk.Config{}, 20)
	for at := range p.newBytes {
		if at > 600 && at < len(p.newBytes)-200 && at%97 != 0 {
			continue
		}
		c, err := p.publish(&oldFS{p.fs, Name(p.new), int64(at)})
		if err == nil {
			err = c.Close()
			t.Errorf("byte %d of %d is another on the device, which was not seen (%v)", at, len(p.newBytes), err)
		} else if !errors.Is(err, segment.ErrCorrupt) {
			t.Errorf("byte %d: %v", at, err)
		}
		if p.look(p.fs, at) {
			t.Fatalf("byte %d: it was seen to be bad and kept its name", at)
		}
	}
}

// Where the disk is full nothing is left that takes room.
func TestPublishFull(t *testing.T) {
	p := setUp(t, memdisk.Config{}, 20)
	dir, err := p.fs.OpenDir(store, false)
	if err != nil {
		t.Fatal(err)
	}
	space, err := dir.Space()
	if err != nil {
		t.Fatal(err)
	}
	used := space.Total - space.Free
	for pages := range int64(len(p.newBytes)/memdisk.PageSize + 1) {
		p.fs.SetCapacity(used + pages*memdisk.PageSize)
		if _, err := p.publish(p.fs); !errors.Is(err, disk.ErrNoSpace) {
			t.Errorf("%d pages of room: %v", pages, err)
		}
		list, err := dir.List()
		if err != nil {
			t.Fatal(err)
		}
		for _, i := range list {
			if strings.HasPrefix(i.Name, TempPrefix) || i.Name == Name(p.new) {
				t.Errorf("%d pages of room: %s is left", pages, i.Name)
			}
		}
	}
	p.fs.SetCapacity(1 << 40)
	p.again(p.fs, "room again")
}

// What an earlier try left under the temporary name is in nobody's way, and what has the final
// name already is replaced.
func TestPublishLeftovers(t *testing.T) {
	p := setUp(t, memdisk.Config{}, 20)
	p.put(p.fs, TempPrefix+Name(p.new), []byte("half a checkpoint"))
	p.put(p.fs, Name(p.new), p.newBytes[:100])
	p.again(p.fs, "leftovers")
	dir, err := p.fs.OpenDir(store, false)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := dir.Open(TempPrefix+Name(p.new), false); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("the temporary name is still there: %v", err)
	}
}
