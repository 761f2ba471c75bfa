package drill

import (
	"math/rand/v2"
	"time"
)

// kill is one entry of the schedule.
type kill struct {
	// at is the progress, from 0 to 1, past which the kill is due.
	at float64
	// rush: due while the next core opens its store, right after the kill
	// before, whatever the progress.
	rush bool
	// wait is how long after it is due, as a fraction of the span that applies.
	wait float64
}

// delayMax is how long after its progress a kill waits at most. It takes the
// kills off the moments at which progress is made.
const delayMax = 25 * time.Millisecond

// newSchedule spreads kills over the load, one in each stretch of equal
// progress. One in four rushes.
func newSchedule(seed uint64, kills int) []kill {
	rng := rand.New(rand.NewPCG(seed, 1<<63))
	s := make([]kill, kills)
	for i := range s {
		s[i] = kill{
			at:   0.98 * (float64(i) + rng.Float64()) / float64(kills),
			rush: rng.Float64() < 0.25 && i > 0,
			wait: rng.Float64(),
		}
	}
	return s
}

// executioner decides when the next kill is due.
type executioner struct {
	kills []kill
	armed time.Time     // when the first of them strikes, once that is known
	open  time.Duration // how long the last opening took
}

// strike reports whether it is time, given what is seen of the present core.
func (x *executioner) strike(now time.Time, v view, progress float64) bool {
	if len(x.kills) == 0 {
		return false
	}
	k := x.kills[0]
	if x.armed.IsZero() {
		switch {
		case !v.drained.IsZero(): // late, but all kills are carried out
			x.armed = now
		case k.rush && !v.opening.IsZero():
			// Openings differ, so some strike after it.
			x.armed = v.opening.Add(time.Duration(k.wait * float64(x.open)))
		case !k.rush && v.opened && progress >= k.at:
			x.armed = now.Add(time.Duration(k.wait * float64(delayMax)))
		default:
			return false
		}
	}
	return !now.Before(x.armed)
}

// done takes the kill off the schedule.
func (x *executioner) done() {
	x.kills = x.kills[1:]
	x.armed = time.Time{}
}

// sawOpen notes how long an opening took.
func (x *executioner) sawOpen(d time.Duration) { x.open = d }
