package wal

import (
	"bytes"
	"errors"
	"fmt"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/mtawal/mtawal/internal/disk/memdisk"
	"github.com/mtawal/mtawal/segment"
)

// A store that was empty for a minute goes on in a small segment, and gives back all others, the
// spare ones and the dead ones; then it wakes up to its full size.
func TestScenario_CrashAtEveryStepOfShrinking(t *testing.T) {
	t.Parallel()
	const large, small = 128 << 10, segment.SizeMin
	l := longHistory{
		opt: Options{SegmentSize: large, claims: 256, idle: small, fold: large},
		before: func(b *branch) {
			for range 14 {
				b.enqueue(20_000, "a")
			}
			time.Sleep(2 * spaceEvery)
			b.use(b.live()...)
			b.must("compact", b.s.Compact(bgCtx))
			time.Sleep(spareIdle - spaceEvery)
		},
		do: func(b *branch) {
			time.Sleep(8 * spaceEvery)
			isSmall(b, small)
			b.enqueue(90_000, "a")
			b.enqueue(600, "a", "b")
			time.Sleep(2 * spaceEvery)
			for range 5 {
				b.enqueue(20_000, "a")
			}
			b.use(b.live()...)
			time.Sleep(spaceEvery)
		},
		ops:    []string{"Remove seg-", "Remove free-spare-", "Remove free-0", "Remove spare-ckpt", "Create free-new-", "Create free-spare-", "Create spare-ckpt"},
		always: named,
		rested: func(b *branch) {
			time.Sleep(spareIdle + 10*spaceEvery)
			isSmall(b, small)
		},
	}
	l.run(t)
}

// isSmall fails unless an idle store has no more than it needs, tails that were cut apart.
func isSmall(b *branch, segment int64) {
	synctest.Wait()
	list, err := b.s.dir.List()
	b.must("listing", err)
	for _, i := range list {
		if i.Name == "spare-ckpt" || strings.HasPrefix(i.Name, "free-") {
			err = errors.Join(err, fmt.Errorf("%s, %d bytes", i.Name, i.Size))
		}
	}
	if f := b.s.log.Files(); err != nil || f.Segments != 1 || f.Bytes-f.Others != 2*segment {
		b.fail("an idle store has %+v in %+v and keeps %v", f, b.s.Segments(), err)
	}
}

// More segments die at a time than the pool takes, and one of them while somebody reads in it: some are
// kept, the others removed, none of them while it is mapped. What is kept has another life.
func TestScenario_CrashAtEveryStepOfGivingSegmentsBack(t *testing.T) {
	t.Parallel()
	l := longHistory{
		opt: Options{SegmentSize: segment.SizeMin, claims: 256},
		before: func(b *branch) {
			for range 44 {
				b.enqueue(15_000, "a")
			}
			time.Sleep(2 * spaceEvery)
			b.claim() // the first
		},
		do: func(b *branch) {
			reading, read, over := make(chan struct{}), make(chan error), make(chan struct{})
			d := b.held[0].d
			go func() {
				read <- d.Body.View(0, d.Body.Size(), func([]byte) error {
					close(reading)
					<-over
					return nil
				})
			}()
			<-reading
			b.use(b.live()...)
			b.must("compact", b.s.Compact(bgCtx))
			if first := b.s.Segments()[0]; first.State != SegmentRetired {
				b.fail("nobody reads in %+v", first)
			}
			close(over)
			b.must("reading", <-read)
			b.rest()
			for range 28 {
				b.enqueue(15_000, "a")
			}
			time.Sleep(2 * spaceEvery)
			b.use(b.live()[1:]...)
			b.must("compact", b.s.Compact(bgCtx))
		},
		ops:    []string{"Rename seg-", "Remove seg-", "Rename free-0", "Rename free-new-", "Remove free-spare-"},
		always: named,
	}
	l.run(t)
}

// With Scrub the bodies of used mail are written over with zeros when their segment is dead, before it
// has another life or is removed: nothing is lost by that, and whatever a crash kept from being wiped is wiped
// by who opens the store next, so that a power cut brings none of it back.
func TestScenario_CrashAtEveryStepOfScrubbing(t *testing.T) {
	t.Parallel()
	const large, small = 128 << 10, segment.SizeMin
	secret := []byte("what nobody else is to read. ")
	post := func(b *branch, size int) {
		b.post(b.s.NewID(), bytes.Repeat(secret, size/len(secret)), "a")
	}
	told := func(b *branch, fs *memdisk.FS, what, prefix string) {
		for name := range files(t, fs) {
			if strings.HasPrefix(name, "cut-") || !strings.HasPrefix(name, prefix) {
				continue // what was cut is for people
			}
			if have, err := fs.Device(spool + "/" + name); err != nil || bytes.Contains(have, secret) {
				b.fail("%s: a body is in %s (%v)", what, name, err)
			}
		}
	}
	l := longHistory{
		opt: Options{SegmentSize: large, claims: 256, idle: small, Scrub: true},
		before: func(b *branch) {
			for range 20 {
				post(b, 24_000)
			}
			time.Sleep(2 * spaceEvery)
		},
		do: func(b *branch) {
			b.use(b.live()[1:]...) // the first is moved
			b.must("compact", b.s.Compact(bgCtx))
			for range 4 { // in segments that were wiped
				post(b, 24_000)
			}
			b.use(b.live()...)
			b.must("compact", b.s.Compact(bgCtx))
			time.Sleep(spareIdle + 10*spaceEvery) // the last segment too
			told(b, b.fs, "at rest", "")
			least := b.fs.Clone()
			least.PowerCutWith(nothingMore)
			told(b, least, "at rest, power cut", "")
		},
		ops:    []string{"Rename seg-", "WriteDurable free-0", "Remove free-0", "Remove seg-"},
		always: named,
		opened: func(b *branch) {
			c := b.fs.Clone()
			c.PowerCutWith(nothingMore)
			told(b, c, "opened, power cut", "free-")
		},
		rested: func(b *branch) {
			time.Sleep(spareIdle + 10*spaceEvery)
			isSmall(b, small)
			told(b, b.fs, "drained", "")
		},
		left: func(b *branch, fs *memdisk.FS) {
			for what, cut := range map[string]func(int) int{"closed, power cut, least": nothingMore, "closed, power cut, most": allOfIt} {
				c := fs.Clone()
				c.PowerCutWith(cut)
				told(b, c, what, "")
			}
		},
	}
	l.run(t)
}

// The blocks that are held ahead, for checkpoints and for segments, are made, written over, renamed and
// given back: also while others have filled the disk, which is when the store lives on them.
func TestScenario_CrashAtEveryStepOfHoldingBlocks(t *testing.T) {
	t.Parallel()
	l := longHistory{
		opt: Options{SegmentSize: segment.SizeMin, claims: 256, fold: segment.SizeMin},
		before: func(b *branch) {
			for range 30 {
				b.enqueue(600, "a")
			}
			b.must("checkpoint", b.s.Checkpoint(bgCtx))
		},
		do: func(b *branch) {
			time.Sleep(3 * spaceEvery / 2) // all of it is made
			for range 3 {
				b.enqueue(600, "a", "b")
				b.must("checkpoint", b.s.Checkpoint(bgCtx))
			}
			b.send(Message{ID: b.s.NewID(), Envelope: make([]byte, 20_000), Recipients: []Recipient{{Queue: "a"}}}) // for all that is known the next is larger
			time.Sleep(spaceEvery)
			b.must("checkpoint", b.s.Checkpoint(bgCtx))
			othersTake(b)
			for _, id := range b.live()[3:] { // through what stands ready into the spare files
				b.use(id)
			}
			b.rest()
			if err := b.s.Admit(600); !errors.Is(err, ErrFull) {
				b.fail("others have filled the disk, and intake says %v", err)
			}
			b.fs.SetCapacity(1 << 40)
			time.Sleep(2 * spaceEvery)
			b.enqueue(600, "a")
			b.use(b.live()...)
			time.Sleep(spareIdle + 5*spaceEvery)
			isSmall(b, segment.SizeMin)
		},
		ops: []string{"Create spare-ckpt", "Allocate spare-ckpt", "Allocate ckpt-", "Rename spare-ckpt", "Rename ckpt-", "Rename tmp-ckpt-",
			"Create free-spare-", "Sync free-spare-", "Rename free-spare-", "Remove free-spare-", "Truncate ckpt-"},
		full:   true,
		always: named,
	}
	l.run(t)
}

// othersTake has others take all that is left of the disk.
func othersTake(b *branch) {
	space, err := b.s.dir.Space()
	b.must("space", err)
	b.fs.SetCapacity(space.Total - space.Free)
	time.Sleep(spaceEvery)
}
