package drill

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"time"
)

// Config is what a drill is made of.
type Config struct {
	Engine Engine
	// Dir is where the store goes, on a real file system: empty, or to be made.
	Dir string
	// Kills is how often the core is killed, Messages how many messages of the
	// load the store has to acknowledge.
	Kills, Messages      int
	Producers, Consumers int
	// Mail is where real messages are, see OpenMail, or "" for made ones.
	Mail string
	Seed uint64
	// Companions go on beside the load.
	Companions Companion
	// Core makes the command of a core: a process that calls RunCore with an
	// engine of the same name.
	Core func() *exec.Cmd
	// Progress is told how far the drill is, some times a second. It may be nil.
	Progress func(Progress)
	// Stall is how long a core may do nothing visible before that is a finding;
	// 0: 30 s.
	Stall time.Duration
}

// Limits of a drill.
const (
	KillsMax    = 1_000_000
	MessagesMax = 100_000_000
	WorkersMax  = 10_000
)

func (c Config) validate() error {
	for _, v := range []struct {
		name      string
		n, lo, hi int
	}{
		{"kills", c.Kills, 0, KillsMax},
		{"messages", c.Messages, 1, MessagesMax},
		{"producers", c.Producers, 1, WorkersMax},
		{"consumers", c.Consumers, 1, WorkersMax},
	} {
		if v.n < v.lo || v.n > v.hi {
			return fmt.Errorf("%s is %d and must be from %d to %d", v.name, v.n, v.lo, v.hi)
		}
	}
	list, err := os.ReadDir(c.Dir)
	if err != nil && !errors.Is(err, os.ErrNotExist) {
		return fmt.Errorf("look at the store's directory: %w", err)
	}
	if len(list) > 0 {
		return fmt.Errorf("%s is not empty; a drill needs a fresh store", c.Dir)
	}
	return nil
}

// Progress is how far a drill is.
type Progress struct {
	Counts
	State State
	Kills int
	Done  float64 // from 0 to 1
}

// drill is a run under way.
type drill struct {
	Config
	ledger *Ledger
	recv   *receiver
	socket string
	x      executioner
	result *Result

	begin     time.Time
	reopenMax time.Duration
	state     State // of the store, as last heard
}

const (
	pollEvery     = 500 * time.Microsecond
	progressEvery = 100 * time.Millisecond
	// stopWithin bounds the clean end of a core that is told to stop.
	stopWithin = stopTimeout + 10*time.Second
)

// Run carries out a drill. A store that fails is no error but a finding of the
// Result; errors are of the drill itself, and the context's. Whatever happens,
// no core is left behind, and the store's directory stays.
func Run(ctx context.Context, c Config) (*Result, error) {
	if err := c.validate(); err != nil {
		return nil, err
	}
	if c.Stall == 0 {
		c.Stall = 30 * time.Second
	}
	if c.Mail != "" {
		var err error
		if c.Mail, err = filepath.Abs(c.Mail); err != nil {
			return nil, fmt.Errorf("find the mail: %w", err)
		}
		if _, err := OpenMail(c.Mail); err != nil {
			return nil, err
		}
	}
	tmp, err := os.MkdirTemp("", "drill-") // a short path: sockets ask for it
	if err != nil {
		return nil, fmt.Errorf("make room for the socket: %w", err)
	}
	defer os.RemoveAll(tmp)
	d := &drill{Config: c, ledger: NewLedger(), socket: filepath.Join(tmp, "recv"), result: &Result{Store: c.Engine.Name, Seed: c.Seed}}
	d.x.kills = newSchedule(c.Seed, c.Kills)
	if d.recv, err = newReceiver(d.socket, d.ledger, Policy{Seed: c.Seed}); err != nil {
		return nil, err
	}
	defer d.recv.close()

	d.begin = time.Now()
	for n := 1; ; n++ {
		more, err := d.live(ctx, n)
		if err != nil {
			return nil, err
		}
		if !more {
			break
		}
	}
	judged := make(chan struct{})
	go func() {
		d.judge()
		close(judged)
	}()
	select {
	case <-judged:
		return d.result, nil
	case <-ctx.Done():
		return nil, ctx.Err() // it only looks, and nobody waits for what it sees
	}
}

// live runs one core and reports whether there is to be another.
func (d *drill) live(ctx context.Context, n int) (bool, error) {
	counts := d.ledger.Counts()
	lf, err := startLife(n, d.Core(), order{
		Store: d.Engine.Name, Dir: d.Dir, Socket: d.socket, Seed: d.Seed, Life: n,
		First: counts.LastSerial + 1, Count: d.Messages - counts.Accepted,
		Producers: d.Producers, Consumers: d.Consumers, Mail: d.Mail, Companions: d.Companions.String(),
	}, d.ledger)
	if err != nil {
		return false, err
	}
	defer lf.kill()
	more, err := d.supervise(ctx, lf)
	lf.kill()
	d.recv.settle()
	v := lf.view()
	d.state = v.state
	if n > 1 && v.opened {
		d.reopenMax = max(d.reopenMax, v.took)
	}
	if !more && len(d.result.Findings) > 0 {
		d.result.Stderr = lf.stderr.String()
	}
	if !more && err == nil && !v.opened && counts.Accepted == 0 && v.trouble != "" && n == 1 {
		return false, fmt.Errorf("%s: %s", d.Engine.Name, v.trouble) // it never began
	}
	return more, err
}

// supervise watches a core until it is killed (true), or has done everything or
// failed (false).
func (d *drill) supervise(ctx context.Context, lf *life) (bool, error) {
	tick := time.NewTicker(pollEvery)
	defer tick.Stop()
	var (
		shown, moved  = time.Time{}, time.Now()
		last          Progress
		lastOpened    bool
		allAcceptedAt time.Time
	)
	for {
		select {
		case <-ctx.Done():
			return false, ctx.Err()
		case <-lf.gone:
			if ctx.Err() != nil {
				return false, ctx.Err()
			}
			v := lf.view()
			if v.trouble == "" {
				v.trouble = "the core ended on its own"
			}
			d.result.find(fmt.Sprintf("life %d: %s", lf.n, v.trouble))
			return false, nil
		case <-tick.C:
		}
		now, v := time.Now(), lf.view()
		p := d.progress(v)
		if v.opened {
			d.x.sawOpen(v.took)
		}
		if d.x.strike(now, v, p.Done) {
			lf.kill()
			d.x.done()
			d.result.Kills++
			if !lf.view().opened {
				d.result.KillsOpening++
			}
			return true, nil
		}
		if !v.drained.IsZero() && len(d.x.kills) == 0 {
			d.result.Elapsed = v.drained.Sub(d.begin)
			if !lf.stop(stopWithin) {
				why := lf.view().trouble
				if why == "" {
					why = fmt.Sprintf("it did not stop within %v", stopWithin)
					lf.dump()
				}
				d.result.find(fmt.Sprintf("life %d: %s", lf.n, why))
			}
			return false, nil
		}
		if p.Counts != last.Counts || v.opened != lastOpened {
			moved = now
		}
		if allAcceptedAt.IsZero() && p.Accepted == d.Messages {
			allAcceptedAt = now
		}
		drainMax := time.Minute + time.Duration(d.Messages)*2*time.Millisecond
		late := !allAcceptedAt.IsZero() && now.Sub(allAcceptedAt) > drainMax
		if now.Sub(moved) > d.Stall || late {
			why := fmt.Sprintf("nothing moved for %v", d.Stall)
			if late {
				why = fmt.Sprintf("the queues did not drain in %v", drainMax)
			}
			d.result.find(fmt.Sprintf("life %d: %s; waiting: %+v", lf.n, why, v.state))
			d.result.Elapsed = now.Sub(d.begin)
			lf.dump()
			return false, nil
		}
		last, lastOpened = p, v.opened
		if d.Progress != nil && now.Sub(shown) > progressEvery {
			d.Progress(p)
			shown = now
		}
	}
}

// progress counts a message as half done when it is accepted and as done when
// its recipients are settled.
func (d *drill) progress(v view) Progress {
	c := d.ledger.Counts()
	p := Progress{Counts: c, State: v.state, Kills: d.result.Kills}
	accepted := float64(c.Accepted) / float64(d.Messages)
	if c.Recipients > 0 {
		p.Done = accepted * (1 + float64(c.Settled)/float64(c.Recipients)) / 2
	}
	p.Done = min(p.Done, 1)
	return p
}

// judge audits the ledger and the store's directory.
func (d *drill) judge() {
	r := d.result
	r.Audit = d.ledger.Audit()
	r.WorkQueueLength = d.state.WorkQueueLength
	r.ReopenMax = d.reopenMax
	// A kill ends one delivery a worker, and now and then a worker releases one.
	// A store that calls everything in doubt after a kill is far beyond that.
	if most := r.Kills*d.Consumers*recipientsMax + d.ledger.Counts().HandOvers/50; r.Audit.Unfounded > most {
		r.find(fmt.Sprintf("%d recipients that nobody had been given were announced as in doubt, where %d can be explained", r.Audit.Unfounded, most))
	}
	if r.Elapsed == 0 {
		r.Elapsed = time.Since(d.begin)
	}
	v, err := d.Engine.Verify(d.Dir)
	if err != nil {
		v = err.Error()
	}
	r.Verify = v
}
