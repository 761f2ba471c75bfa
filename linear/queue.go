package linear

import (
	"fmt"
	"slices"

	"github.com/anishathalye/porcupine"

	"github.com/mtawal/mtawal/mailq"
)

// call is one call, what it was asked and what it answered. Each is about one queue.
type call struct {
	kind  kind
	queue string
	id    mailq.ID // asked for; of enqueue and claim: answered
	ok    bool     // of claim: there was one; of settle and mark: it was this call that ended it
}

type kind uint8

const (
	enqueue kind = iota
	claim
	used    // a claim is settled as delivered
	release // a claim is given back
	mark    // MarkUsed, whoever has a claim
)

func (k kind) String() string {
	return [...]string{"enqueue", "claim", "used", "release", "mark used"}[k]
}

// standing is a message that is not used, in the order of commits.
type standing struct {
	id      mailq.ID
	claimed bool
}

// queueModel is a queue that does one thing after the other: first in, first out.
var queueModel = porcupine.Model{
	Partition: func(all []porcupine.Operation) [][]porcupine.Operation {
		by := map[string][]porcupine.Operation{}
		for _, o := range all {
			q := o.Input.(call).queue
			by[q] = append(by[q], o)
		}
		var parts [][]porcupine.Operation
		for _, p := range by {
			parts = append(parts, p)
		}
		return parts
	},
	Init: func() any { return []standing(nil) },
	Step: func(state, _, output any) (bool, any) {
		list, ok := step(state.([]standing), output.(call))
		return ok, list
	},
	Equal: func(a, b any) bool { return slices.Equal(a.([]standing), b.([]standing)) },
	DescribeOperation: func(_, out any) string {
		return fmt.Sprintf("%v %v: %t", out.(call).kind, out.(call).id, out.(call).ok)
	},
}

// step is what a call does, if the answer may be the one that it got. The list that comes in
// is not changed.
func step(list []standing, c call) ([]standing, bool) {
	at := slices.IndexFunc(list, func(s standing) bool { return s.id == c.id })
	with := func(claimed bool) []standing {
		next := slices.Clone(list)
		next[at].claimed = claimed
		return next
	}
	switch c.kind {
	case enqueue:
		return append(slices.Clip(list), standing{id: c.id}), at < 0
	case claim:
		first := slices.IndexFunc(list, func(s standing) bool { return !s.claimed })
		if !c.ok {
			return list, first < 0
		}
		if first < 0 || at != first {
			return list, false
		}
		return with(true), true
	case release:
		if at < 0 { // somebody marked it used
			return list, !c.ok
		}
		return with(false), c.ok && list[at].claimed
	case used:
		if at < 0 {
			return list, !c.ok
		}
		return slices.Delete(slices.Clone(list), at, at+1), c.ok && list[at].claimed
	default:
		if at < 0 { // nil while whoever was first is under way, then there is no such message
			return list, true
		}
		return slices.Delete(slices.Clone(list), at, at+1), c.ok
	}
}
