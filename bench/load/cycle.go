package load

import (
	"context"
	"fmt"

	"github.com/mtawal/mtawal/bench/system"
)

// cycles is what an MTA does with a message: enqueue; for each recipient claim the oldest that there
// is, read it, mark it used. With one recipient two durable steps, with five six.
func cycles(c *Config) (list []Workload) {
	add := func(s size, producers, recipients int) {
		w := rate{group: "cycle", producers: producers, size: s, recipients: recipients, do: cycle, floor: system.FloorGroupBuffered.Name,
			want:  func(s system.Spec) bool { return !s.Floor || s.Group },
			title: fmt.Sprintf("enqueue, claim, used: %s, %s", s.name, count(producers, "producer"))}
		if recipients > 1 {
			w.title += ", " + count(recipients, "recipient")
			w.group = "cycle of several recipients"
		}
		list = append(list, Workload{w.title, w.run})
	}
	if c.Quick {
		add(size4K, 64, 1)
		return list
	}
	for _, n := range []int{1, 8, 64, 256} {
		add(size4K, n, 1)
	}
	add(size4K, 64, 5)
	if c.Full {
		add(sizeMail, 64, 1)
		add(sizeMail, 64, 5)
	}
	return list
}

func cycle(sys system.System, m system.Message) error {
	q, ok := sys.(system.Queue)
	if !ok {
		return bareCycle(sys, m)
	}
	if err := q.Enqueue(m); err != nil {
		return err
	}
	for range m.Recipients {
		j, err := q.Claim(context.Background())
		if err != nil {
			return err
		}
		if err := j.Read(system.Touch); err != nil {
			return err
		}
		if err := j.Used(); err != nil {
			return err
		}
	}
	return nil
}

var mark = make([]byte, 64)

func bareCycle(sys system.System, m system.Message) error {
	if err := sys.Enqueue(m); err != nil {
		return err
	}
	for range m.Recipients {
		if err := sys.Enqueue(system.Message{Body: mark, Recipients: 1}); err != nil {
			return err
		}
	}
	return nil
}
