package main

import (
	"errors"
	"fmt"
	"math/rand/v2"
	"strings"
	"time"

	"github.com/mtawal/mtawal/torture/internal/core"
	"github.com/mtawal/mtawal/torture/internal/mail"
)

// cutsPerStore is how often one store is cut off before it is drained and verified.
const cutsPerStore = 20

// cutOff cuts a file system off under full load, again and again: what the next life of
// the store shows is judged and becomes what counts.
func (r *rig) cutOff(run *run, i int) error {
	rng := rand.New(rand.NewPCG(run.Seed, uint64(i)))
	c := &crashed{nil, mail.NewLedger(), rng.Uint64()}
	r.device.Insert(r.blank)
	r.device.Take() // nothing is recorded
	defer r.device.Slow(0, 0)
	for n := range cutsPerStore {
		if run.enough() {
			break
		}
		config := configOf(rng)
		config.NoSync = run.Canary
		config.For = time.Duration(5+rng.IntN(60)) * time.Millisecond
		r.device.Slow(time.Duration(rng.IntN(100))*time.Microsecond, time.Duration(rng.IntN(1000))*time.Microsecond)
		life := fmt.Sprintf("%d.%d", i, n)
		q := &core.Request{Load: true, Dir: r.store(), Seed: c.maker, Life: life, Config: config, Cut: r.mountpoint()}
		if clean, err := r.live(run, rng, c, q, n > 0); err != nil || !clean {
			return err
		}
	}
	r.device.Slow(0, 0)
	q := &core.Request{Dir: r.store(), Seed: c.maker, Life: fmt.Sprintf("%d.end", i), Reopen: true, Keyed: keyed(rng, c), Config: configOf(rng)}
	_, err := r.live(run, rng, c, q, true)
	return err
}

// live runs one life of a store that was cut off before, and judges what it shows.
func (r *rig) live(run *run, rng *rand.Rand, c *crashed, q *core.Request, before bool) (clean bool, err error) {
	var resp *core.Response
	err = r.mounted(rng, func() (err error) {
		resp, err = r.do(q)
		return err
	})
	v := &mail.Verdict{}
	switch {
	case errors.Is(err, errNotMounted):
		v.Refused = []string{err.Error()}
	case err != nil:
		return false, err
	default:
		v = troubles(resp)
		if resp.Seen != nil && resp.Refused == "" {
			j := mail.Judge(c.ledger, resp.Seen)
			j.Silent = append(j.Silent, v.Silent...)
			v = j
		}
	}
	if before || len(v.Findings()) > 0 {
		run.judged(r, nil, q.Life, q.Config, v)
	}
	if len(v.Findings()) > 0 {
		return false, nil
	}
	for _, m := range resp.Marks {
		switch {
		case strings.HasPrefix(m.Text, openedMark):
			c.ledger.Open(resp.Seen, q.Config.DurableStart)
		case m.Text == endedMark:
			c.ledger.EndedAt = m.At
		default:
			if err := c.ledger.Read(m.Text, m.At); err != nil {
				return false, err
			}
		}
	}
	return true, nil
}
