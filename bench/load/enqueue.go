package load

import (
	"fmt"

	"github.com/mtawal/mtawal/bench/system"
)

// enqueues is durable enqueues and nothing else.
func enqueues(c *Config) (list []Workload) {
	add := func(s size, producers int) {
		w := rate{group: "enqueue", producers: producers, size: s, recipients: 1,
			title: fmt.Sprintf("enqueue %s, %s", s.name, count(producers, "producer")),
			do:    func(sys system.System, m system.Message) error { return sys.Enqueue(m) }}
		// Beside a single producer stands a bare loop, beside many a bare group.
		w.floor = system.FloorGroupBuffered.Name
		w.want = func(s system.Spec) bool { return !s.Floor || s.Group }
		if producers == 1 {
			w.floor = system.FloorDirect.Name
			w.want = func(s system.Spec) bool { return !s.Floor || !s.Group }
		}
		list = append(list, Workload{w.title, w.run})
	}
	switch {
	case c.Quick:
		for _, n := range []int{1, 64} {
			add(size4K, n)
		}
	case c.Full:
		for _, s := range []size{size512, size4K, size64K, size1M, sizeMail} {
			for _, n := range []int{1, 8, 64, 256} {
				add(s, n)
			}
		}
	default:
		for _, n := range []int{1, 8, 64, 256} {
			add(size4K, n)
		}
		for _, s := range []size{size512, size64K, size1M, sizeMail} {
			add(s, 64)
		}
	}
	return list
}
